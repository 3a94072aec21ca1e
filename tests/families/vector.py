"""Courier: fetch a parcel and take it to its shelf, along an aisle, before the battery is empty.

The agent sees three numbers that have nothing to do with one another: what became of the parcel (0 not yet, 1 carried,
2 delivered), at which of 9 places it stands, and how much of 30 units the battery still holds. The task is where the
parcel lies and where its shelf is; neither is seen. The first step onto the parcel pays 1; after that the first step
onto the shelf pays 1 and ends the episode. A step costs one unit of the battery, which at the start holds 20 to 30, so
episodes differ in length also where nothing is delivered; an empty battery ends them.

    cd tests; ad-jax run families/vector.py
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
    ReferenceConfig,
    ReplayConfig,
    TaskConfig,
)
from ad_jax.methods.distillation import Distillation
from ad_jax.models.transformer import Transformer
from ad_jax.sources.noisy_oracle import NoisyOracle
from ad_jax.sources.q_learning import QLearning


@struct.dataclass
class State(environment.EnvState):
    """The courier."""

    parcel: jax.Array  # [] int32: 0 not yet, 1 carried, 2 delivered
    place: jax.Array  # [] int32
    battery: jax.Array  # [] int32


@struct.dataclass
class Params(environment.EnvParams):
    """The task."""

    parcel: Any = None  # [] int32, the place where it lies
    shelf: Any = None  # [] int32, the place where it belongs, another


@dataclasses.dataclass(frozen=True)
class Courier(TaskFamily[State, Params]):
    """See the module. A battery holds `least` to `most` units at the start."""

    places: int = 9
    least: int = 20
    most: int = 30

    @property
    def episode_length(self) -> int:
        return self.most

    @property
    def reward_dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    @property
    def default_params(self) -> Params:
        return Params(self.most, jnp.int32(0), jnp.int32(1))

    def action_space(self, params: Params) -> spaces.Discrete:
        return spaces.Discrete(3)  # back, stay, forth

    def observation_space(self, params: Params) -> spaces.Box:
        high: Any = np.array([2, self.places - 1, self.most])
        return spaces.Box(0, high, (3,), jnp.int32)

    def all_tasks(self) -> Params:
        pairs = [(i, j) for i in range(self.places) for j in range(self.places) if i != j]
        parcel, shelf = jnp.asarray(pairs, jnp.int32).T
        return Params(jnp.full(len(pairs), self.most, jnp.int32), parcel, shelf)  # pyright: ignore[reportArgumentType]

    def observe(self, key: jax.Array, state: State, action: jax.Array | None, params: Params) -> jax.Array:
        return jnp.stack([state.parcel, state.place, state.battery])

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        battery = jax.random.randint(key, (), self.least, self.most + 1)
        state = State(jnp.int32(0), jnp.int32(0), jnp.int32(self.places // 2), battery)
        return self.observe(key, state, None, params), state

    def step_env(
        self, key: jax.Array, state: State, action: jax.Array, params: Params
    ) -> tuple[jax.Array, State, jax.Array, jax.Array, dict[str, Any]]:
        place = jnp.clip(state.place + action - 1, 0, self.places - 1)
        fetched = (state.parcel == 0) & (place == params.parcel)
        delivered = (state.parcel == 1) & (place == params.shelf)
        reward = (fetched | delivered).astype(jnp.float32)
        parcel = state.parcel + (fetched | delivered).astype(jnp.int32)
        state = State(state.time + 1, parcel, place, state.battery - 1)
        terminated = delivered | (state.battery == 0)
        return self.observe(key, state, action, params), state, reward, terminated, {}

    def optimal_return(self, tasks: Params) -> np.ndarray:
        """How likely the battery lasts to the parcel, and to the shelf."""
        parcel, shelf = np.asarray(tasks.parcel), np.asarray(tasks.shelf)
        to_parcel = np.maximum(np.abs(parcel - self.places // 2), 1)  # staying fetches what lies at the start
        batteries = np.arange(self.least, self.most + 1)

        def lasts(steps):
            return (steps[:, None] <= batteries).mean(1)

        return lasts(to_parcel) + lasts(to_parcel + np.abs(shelf - parcel))

    def random_return(self, tasks: Params) -> np.ndarray:
        """By dynamic programming over what is still to do, the place, and the units left."""
        place = np.arange(self.places)
        reached = np.stack([np.clip(place + move, 0, self.places - 1) for move in (-1, 0, 1)])  # [moves, places]

        def of(parcel: int, shelf: int) -> float:
            carried, before, starts = np.zeros(self.places), np.zeros(self.places), []
            for units in range(1, self.most + 1):
                after = np.where(reached == parcel, 1.0 + carried[reached], before[reached]).mean(0)
                carried = np.where(reached == shelf, 1.0, carried[reached]).mean(0)
                before = after
                if units >= self.least:
                    starts.append(before[self.places // 2])
            return float(np.mean(starts))

        return np.array([of(int(i), int(j)) for i, j in zip(tasks.parcel, tasks.shelf, strict=True)], np.float64)

    def optimal_action(self, state: State, task: Params) -> jax.Array:
        target = jnp.where(state.parcel == 0, task.parcel, task.shelf)
        return (1 + jnp.sign(target - state.place)).astype(jnp.int32)

    def describe(self, task: Params) -> str:
        return f"parcel at place {int(task.parcel)}, shelf at place {int(task.shelf)}"


def config(scale: str = "cpu") -> Experiment:
    """`cpu` learns in about a minute, 1.4 to 1.9 of 2; `tiny` runs every part in seconds and learns nothing."""
    cpu = Experiment(
        name="courier",
        env=Courier(),
        source=NoisyOracle(noise_episodes=36.0, persistence=4.0),
        reference=ReferenceConfig(QLearning(exploration_episodes=60.0), episodes=100),
        model=Transformer(layers=2, width=64, heads=2, window=80, token_mask=0.3),
        tasks=TaskConfig(train=60, held_out=12),
        collect=CollectConfig(seeds=12, episodes=40, chunk_learners=240),
        replay=ReplayConfig(segment=80, batch=64),
        method=Distillation(updates=800, learning_rate=6e-3, warmup_updates=50),
        evaluate=EvaluateConfig(episodes=40, seeds=4, greedy=False, source_seeds=4),
    )
    tiny = dataclasses.replace(
        cpu,
        reference=ReferenceConfig(QLearning(exploration_episodes=4.0), episodes=12),
        model=Transformer(layers=1, width=16, heads=2, mlp_width=32, window=20),
        tasks=TaskConfig(train=5, held_out=3),
        collect=CollectConfig(seeds=2, episodes=10, chunk_learners=4),
        replay=ReplayConfig(segment=20, batch=8),
        method=Distillation(updates=4, warmup_updates=2, updates_per_dispatch=2, checkpoint_every=4),
        evaluate=EvaluateConfig(episodes=6, seeds=2, greedy=False, episodes_per_dispatch=4, source_seeds=2),
    )
    return {"cpu": cpu, "tiny": tiny}[scale]
