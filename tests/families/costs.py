"""Errands: every step costs 1, delivering at a hidden address earns 100 and ends the errand.

A town of 5 by 5 crossings. An errand begins at a crossing drawn afresh, never the address itself, and ends with the
step onto the address, or after 25 steps. So returns go from -25, for who never gets there, to 99, for who begins next
door. With `prize=0` nothing is earned anywhere: the best that can be done is to lose little.

    cd tests; ad-jax run families/costs.py
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from ad_jax.envs.base import TaskFamily
from ad_jax.experiment import (
    CollectConfig,
    EvaluateConfig,
    Experiment,
    ReplayConfig,
    TaskConfig,
)
from ad_jax.methods.distillation import Distillation
from ad_jax.models.transformer import Transformer
from ad_jax.sources.q_learning import QLearning

MOVES = ((1, 0), (-1, 0), (0, 1), (0, -1))  # south, north, east, west


@struct.dataclass
class State(environment.EnvState):
    """Where the carrier is."""

    place: jax.Array  # [2] int32, (row, column)


@struct.dataclass
class Params(environment.EnvParams):
    """The task."""

    address: Any = None  # [2] int32, (row, column)


@dataclasses.dataclass(frozen=True)
class Errands(TaskFamily[State, Params]):
    """See the module."""

    size: int = 5
    steps: int = 25
    prize: float = 100.0

    @property
    def episode_length(self) -> int:
        return self.steps

    @property
    def default_params(self) -> Params:
        return Params(self.steps, jnp.zeros(2, jnp.int32))

    def action_space(self, params: Params) -> spaces.Discrete:
        return spaces.Discrete(len(MOVES))

    def observation_space(self, params: Params) -> spaces.Box:
        return spaces.Box(0, self.size - 1, (2,), jnp.int32)

    def all_tasks(self) -> Params:
        number = np.arange(self.size**2)
        crossings = np.stack([number // self.size, number % self.size], axis=1)
        return Params(jnp.full(len(number), self.steps, jnp.int32), jnp.asarray(crossings, jnp.int32))  # pyright: ignore[reportArgumentType]

    def observe(self, key: jax.Array, state: State, action: jax.Array | None, params: Params) -> jax.Array:
        return state.place

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        home = params.address[0] * self.size + params.address[1]
        number = jax.random.randint(key, (), 0, self.size**2 - 1)
        number = number + (number >= home).astype(jnp.int32)  # all crossings but the address
        state = State(jnp.int32(0), jnp.stack([number // self.size, number % self.size]))
        return self.observe(key, state, None, params), state

    def step_env(
        self, key: jax.Array, state: State, action: jax.Array, params: Params
    ) -> tuple[jax.Array, State, jax.Array, jax.Array, dict[str, Any]]:
        place = jnp.clip(state.place + jnp.array(MOVES, jnp.int32)[action], 0, self.size - 1)
        delivered = jnp.all(place == params.address)
        reward = jnp.where(delivered, self.prize - 1.0, -1.0).astype(jnp.float32)
        state = State(state.time + 1, place)
        return self.observe(key, state, action, params), state, reward, delivered, {}

    def _successors(self) -> np.ndarray:
        """Return the number of the crossing that each move leads to, `[crossings, moves]`."""
        number = np.arange(self.size**2)
        row, column = number // self.size, number % self.size

        def go(r, c):
            return np.clip(row + r, 0, self.size - 1) * self.size + np.clip(column + c, 0, self.size - 1)

        return np.stack([go(*move) for move in MOVES], axis=1)

    def _values(self, address: int, best: bool) -> float:
        """By dynamic programming, backwards from the last step; mean over where an errand may begin."""
        after, value = self._successors(), np.zeros(self.size**2)
        for _ in range(self.steps):
            ahead = -1.0 + np.where(after == address, self.prize, value[after])
            value = ahead.max(1) if best else ahead.mean(1)
        return float(np.delete(value, address).mean())

    def _of_tasks(self, tasks: Params, best: bool) -> np.ndarray:
        numbers = np.asarray(tasks.address) @ np.array([self.size, 1])
        return np.array([self._values(int(number), best) for number in numbers], np.float64)

    def optimal_return(self, tasks: Params) -> np.ndarray:
        return self._of_tasks(tasks, best=True)

    def random_return(self, tasks: Params) -> np.ndarray:
        return self._of_tasks(tasks, best=False)

    def optimal_action(self, state: State, task: Params) -> jax.Array:
        rows, columns = task.address - state.place
        return jnp.where(rows > 0, 0, jnp.where(rows < 0, 1, jnp.where(columns > 0, 2, 3))).astype(jnp.int32)

    def describe(self, task: Params) -> str:
        return f"address at row {int(task.address[0])}, column {int(task.address[1])}"

    def trace(self, state: State, action: jax.Array) -> jax.Array:
        return state.place

    def picture(self, task: Params) -> dict[str, Any]:
        return {"kind": "grid", "size": self.size, "goal": np.asarray(task.address).tolist()}


def config(scale: str = "cpu") -> Experiment:
    """`cpu` improves in about a minute, from 17 to 37 of 97: few tasks, and a start that is drawn anew each time.

    `tiny` runs every part in seconds and learns nothing.
    """
    cpu = Experiment(
        name="errands",
        env=Errands(),
        source=QLearning(learning_rate=1.0, discount=0.95, exploration_episodes=12.0),
        model=Transformer(layers=2, width=64, heads=2, window=80, token_mask=0.3),
        tasks=TaskConfig(train=19, held_out=6),
        collect=CollectConfig(seeds=32, episodes=40, chunk_learners=152),
        replay=ReplayConfig(keep_every=4, phases=4, segment=80, batch=32),
        method=Distillation(updates=800, learning_rate=6e-3, warmup_updates=50),
        evaluate=EvaluateConfig(episodes=40, seeds=4, greedy=False, source_seeds=8),
    )
    tiny = dataclasses.replace(
        cpu,
        model=Transformer(layers=1, width=16, heads=2, mlp_width=32, window=20),
        tasks=TaskConfig(train=5, held_out=3),
        collect=CollectConfig(seeds=2, episodes=12, chunk_learners=4),
        replay=ReplayConfig(segment=20, batch=8),
        method=Distillation(updates=4, warmup_updates=2, updates_per_dispatch=2, checkpoint_every=4),
        evaluate=EvaluateConfig(episodes=6, seeds=2, greedy=False, episodes_per_dispatch=4, source_seeds=2),
    )
    return {"cpu": cpu, "tiny": tiny}[scale]
