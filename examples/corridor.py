"""A corridor; one hidden cell pays 1 on every step there. The task is that cell; the agent sees its own position."""

import dataclasses

import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces
from jax import Array, random

from ad_jax.envs.base import TaskFamily, take


@struct.dataclass
class State(environment.EnvState):  # has `time`
    position: Array  # [] int32


@struct.dataclass
class Params(environment.EnvParams):  # a task; has `max_steps_in_episode`
    cell: Array | None = None  # [] int32


@dataclasses.dataclass(frozen=True)
class Corridor(TaskFamily[State, Params]):
    size: int = 9  # the fields are the options: env.size=15
    episode_length: int = 10
    action_space = lambda self, params: spaces.Discrete(3)  # left, stay, right
    observation_space = lambda self, params: spaces.Discrete(self.size)
    default_params = property(lambda self: Params(self.episode_length, jnp.int32(0)))
    all_tasks = lambda self: Params(jnp.full(self.size, self.episode_length), jnp.arange(self.size))
    sample_tasks = lambda self, key, n: take(self.all_tasks(), random.randint(key, (n,), 0, self.size))

    def reset_env(self, key, params):
        return jnp.int32(self.size // 2), State(jnp.int32(0), jnp.int32(self.size // 2))

    def step_env(self, key, state, action, params):
        position = jnp.clip(state.position + action - 1, 0, self.size - 1)
        reward = (position == params.cell).astype(jnp.float32)
        return position, State(state.time + 1, position), reward, jnp.bool_(False), {}
