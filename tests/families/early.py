"""Way out: a room with one hidden exit, which ends the episode; 5 to 60 steps from the corner.

The agent begins in cell (0, 0) and sees its own cell. The first step onto the exit pays 1 and ends the episode, which
otherwise ends after 60 steps. The exits are the cells at least 5 moves away, so who learns the way needs fewer steps,
and earns no more: what is learned shows in how long episodes last.

    cd tests; ad-jax run families/early.py
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

MOVES = ((1, 0), (-1, 0), (0, 1), (0, -1))  # down, up, right, left


@struct.dataclass
class State(environment.EnvState):
    """Where the agent is."""

    cell: jax.Array  # [2] int32, (row, column)


@struct.dataclass
class Params(environment.EnvParams):
    """The task."""

    exit: Any = None  # [2] int32, (row, column)


@dataclasses.dataclass(frozen=True)
class WayOut(TaskFamily[State, Params]):
    """See the module. `size` cells a side; exits are `nearest` moves away or more."""

    size: int = 7
    nearest: int = 5
    steps: int = 60

    @property
    def episode_length(self) -> int:
        return self.steps

    @property
    def reward_dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    @property
    def default_params(self) -> Params:
        return Params(self.steps, jnp.array([self.size - 1, self.size - 1], jnp.int32))

    def action_space(self, params: Params) -> spaces.Discrete:
        return spaces.Discrete(len(MOVES))

    def observation_space(self, params: Params) -> spaces.Box:
        return spaces.Box(0, self.size - 1, (2,), jnp.int32)

    def all_tasks(self) -> Params:
        cells = np.argwhere(np.add.outer(np.arange(self.size), np.arange(self.size)) >= self.nearest)
        return Params(jnp.full(len(cells), self.steps, jnp.int32), jnp.asarray(cells, jnp.int32))  # pyright: ignore[reportArgumentType]

    def observe(self, key: jax.Array, state: State, action: jax.Array | None, params: Params) -> jax.Array:
        return state.cell

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        state = State(jnp.int32(0), jnp.zeros(2, jnp.int32))
        return self.observe(key, state, None, params), state

    def step_env(
        self, key: jax.Array, state: State, action: jax.Array, params: Params
    ) -> tuple[jax.Array, State, jax.Array, jax.Array, dict[str, Any]]:
        cell = jnp.clip(state.cell + jnp.array(MOVES, jnp.int32)[action], 0, self.size - 1)
        out = jnp.all(cell == params.exit)
        state = State(state.time + 1, cell)
        return self.observe(key, state, action, params), state, out.astype(jnp.float32), out, {}

    def optimal_return(self, tasks: Params) -> np.ndarray:
        exits = np.asarray(tasks.exit)
        return (exits.sum(1) <= self.steps).astype(np.float64)

    def random_return(self, tasks: Params) -> np.ndarray:
        """Exact: the share of random walks that have met the exit."""
        exits, walks = np.asarray(tasks.exit), np.zeros((len(tasks.exit), self.size, self.size))
        walks[:, 0, 0] = 1.0
        found, rows = np.zeros(len(exits)), np.arange(len(exits))
        for _ in range(self.steps):
            down, up = np.roll(walks, 1, 1), np.roll(walks, -1, 1)
            right, left = np.roll(walks, 1, 2), np.roll(walks, -1, 2)
            down[:, 0], up[:, -1], right[:, :, 0], left[:, :, -1] = 0, 0, 0, 0
            down[:, -1] += walks[:, -1]
            up[:, 0] += walks[:, 0]
            right[:, :, -1] += walks[:, :, -1]
            left[:, :, 0] += walks[:, :, 0]
            walks = (down + up + right + left) / 4
            found += walks[rows, exits[:, 0], exits[:, 1]]
            walks[rows, exits[:, 0], exits[:, 1]] = 0.0
        return found

    def optimal_action(self, state: State, task: Params) -> jax.Array:
        rows, columns = task.exit - state.cell
        return jnp.where(rows > 0, 0, jnp.where(rows < 0, 1, jnp.where(columns > 0, 2, 3))).astype(jnp.int32)

    def describe(self, task: Params) -> str:
        return f"exit at row {int(task.exit[0])}, column {int(task.exit[1])}"

    def trace(self, state: State, action: jax.Array) -> jax.Array:
        return state.cell

    def picture(self, task: Params) -> dict[str, Any]:
        return {"kind": "grid", "size": self.size, "goal": np.asarray(task.exit).tolist()}


def config(scale: str = "cpu") -> Experiment:
    """`cpu` learns in about a minute, 0.34 to 0.96 of 1; `tiny` runs every part in seconds and learns nothing."""
    cpu = Experiment(
        name="way_out",
        env=WayOut(),
        source=QLearning(learning_rate=1.0, exploration_episodes=20.0, explore="novel"),
        model=Transformer(layers=2, width=64, heads=2, window=100, token_mask=0.3),
        tasks=TaskConfig(train=26, held_out=8),
        collect=CollectConfig(seeds=24, episodes=40, chunk_learners=208),
        replay=ReplayConfig(keep_every=6, phases=6, segment=100, batch=32),
        method=Distillation(updates=800, learning_rate=6e-3, warmup_updates=50),
        evaluate=EvaluateConfig(episodes=40, seeds=4, source_seeds=8),
    )
    tiny = dataclasses.replace(
        cpu,
        model=Transformer(layers=1, width=16, heads=2, mlp_width=32, window=20),
        tasks=TaskConfig(train=5, held_out=3),
        collect=CollectConfig(seeds=2, episodes=12, chunk_learners=4),
        replay=ReplayConfig(segment=20, batch=8),
        method=Distillation(updates=4, warmup_updates=2, updates_per_dispatch=2, checkpoint_every=4),
        evaluate=EvaluateConfig(episodes=6, seeds=2, episodes_per_dispatch=4, source_seeds=2),
    )
    return {"cpu": cpu, "tiny": tiny}[scale]
