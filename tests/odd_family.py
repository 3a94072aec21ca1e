"""A family whose odd tasks give a value that cannot be at step 3 of each episode; all others keep their word."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from ad_jax.envs.base import TaskFamily

Kind = Literal[
    "none", "component", "discrete", "wide", "real", "infinite", "reward", "int8", "uint8", "picture", "byte"
]
AT = 3  # step of an episode
SPACES = {
    "discrete": spaces.Discrete(9),
    "wide": spaces.Discrete(201),
    "real": spaces.Box(-1.0, 1.0, (2, 2), jnp.float32),
    "infinite": spaces.Box(-1.0, 1.0, (), jnp.float32),
    "byte": spaces.Box(0, 200, (1,), jnp.uint8),
}
GIVEN = {"discrete": 9, "wide": 300, "infinite": np.inf}
REWARD = {"reward": np.nan, "int8": 200.0, "uint8": 0.5}
TOLD = {  # what an error says of it
    "component": "observation component 1 is 10, outside 0..8",
    "discrete": "observation is 9, outside 0..8",
    "wide": "observation is 300, outside 0..200",
    "byte": "observation component 0 is 300, outside 0..200",
    "real": "observation component (1, 0) is nan, no finite number",
    "infinite": "observation is inf, no finite number",
    "reward": "reward is nan, no finite number",
    "int8": "reward is 200, int8 (reward_dtype) cannot hold it",
    "uint8": "reward is 0.5, uint8 (reward_dtype) cannot hold it",
}


@struct.dataclass
class State(environment.EnvState):
    """The time."""


@struct.dataclass
class Params(environment.EnvParams):
    """The task, which is odd or not."""

    number: jax.Array | None = None  # [] int32


@dataclasses.dataclass(frozen=True)
class Odd(TaskFamily[State, Params]):
    """Episodes of 5 steps, 3 actions; the observation is the time."""

    kind: Kind = "none"

    @property
    def episode_length(self) -> int:
        return 5

    @property
    def reward_dtype(self) -> np.dtype:
        return np.dtype({"int8": np.int8, "uint8": np.uint8}.get(self.kind, np.float32))

    @property
    def default_params(self) -> Params:
        return Params(5, jnp.int32(0))

    def action_space(self, params: Params) -> spaces.Discrete:
        return spaces.Discrete(3)

    def observation_space(self, params: Params):
        return SPACES.get(self.kind, spaces.Box(0, 8, (2,), jnp.int32))

    def reset_env(self, key, params):
        state = State(jnp.int32(0))
        return self.observe(key, state, None, params), state

    def step_env(self, key, state, action, params):
        reward = jnp.where(self.wrong(state, params), REWARD.get(self.kind, 1.0), 1.0).astype(jnp.float32)
        state = State(state.time + 1)
        return self.observe(key, state, action, params), state, reward, jnp.bool_(False), {}

    def observe(self, key, state, action, params):
        space, wrong = self.observation_space(params), self.wrong(state, params)
        if self.kind == "component":
            return jnp.stack([state.time, jnp.where(wrong, 10, 0)])
        if self.kind == "byte":  # a weakly typed whole number, which a cast to uint8 would wrap to 44
            return jnp.where(wrong, 300, 0)[None]
        if self.kind == "real":
            return jnp.zeros((2, 2), jnp.float32).at[1, 0].set(jnp.where(wrong, jnp.nan, 0.0))
        plain = jnp.broadcast_to(state.time, space.shape).astype(space.dtype)
        return (
            jnp.where(wrong, jnp.asarray(GIVEN.get(self.kind, 0), plain.dtype), plain) if self.kind in GIVEN else plain
        )

    def wrong(self, state, params):
        return (params.number % 2 == 1) & (state.time == AT)

    def all_tasks(self) -> Params:
        return Params(jnp.full(40, 5, jnp.int32), jnp.arange(40, dtype=jnp.int32))  # pyright: ignore[reportArgumentType]

    def task_ids(self, tasks) -> list[str]:
        return [f"number {n}" for n in np.asarray(tasks.number)]

    def optimal_action(self, state, task):
        return jnp.int32(0)
