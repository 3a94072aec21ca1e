"""Problems with known answers, as the tasks of one family: what a learner gets wrong shows in which it fails.

After rejax's probe environments (`tests/environments.py`). Two observations, two actions, at most two steps.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from ad_jax.envs.base import TaskFamily, take
from ad_jax.types import Array

NEVER = 9
TABLE = {  # name: (start: 0, 1 or -1 for either; next observation; reward [observation][action]; terminates after)
    "constant": (0, 0, ((1, 1), (0, 0)), 1),  # value 1
    "two steps": (0, 1, ((0, 0), (1, 1)), 2),  # values: discount, 1
    "action": (0, 0, ((0, 1), (0, 0)), 1),  # the best action is 1
    "observation": (-1, 0, ((-1, -1), (1, 1)), 1),  # values: -1, 1
    "both": (-1, 0, ((1, 0), (0, 1)), 1),  # the best action is the observation
    "cut": (0, 1, ((0, 0), (1, 1)), NEVER),  # values: twice those of "two steps" at discount 1/2, as it goes on
}
NAMES = tuple(TABLE)


@struct.dataclass
class State(environment.EnvState):
    """The observation."""

    seen: jax.Array  # [] int32


@struct.dataclass
class Params(environment.EnvParams):
    """One row of `TABLE`."""

    start: Array = None  # [] int32
    then: Array = None  # [] int32
    reward: Array = None  # [2, 2] float32
    length: Array = None  # [] int32


@dataclasses.dataclass(frozen=True)
class Probes(TaskFamily[State, Params]):
    """See the module."""

    @property
    def episode_length(self) -> int:
        return 2

    @property
    def reward_dtype(self) -> np.dtype:
        return np.dtype(np.int8)

    @property
    def default_params(self) -> Params:
        return take(self.all_tasks(), 0)

    def action_space(self, params: Params) -> spaces.Discrete:
        return spaces.Discrete(2)

    def observation_space(self, params: Params) -> spaces.Discrete:
        return spaces.Discrete(2)

    def reset_env(self, key, params):
        either = jax.random.bernoulli(key).astype(jnp.int32)
        state = State(jnp.int32(0), jnp.where(params.start < 0, either, params.start))
        return state.seen, state

    def step_env(self, key, state, action, params):
        reward = params.reward[state.seen, action]
        state = State(state.time + 1, params.then)
        return state.seen, state, reward, state.time >= params.length, {}

    def all_tasks(self) -> Params:
        start, then, reward, length = (np.array(column) for column in zip(*TABLE.values()))
        ints = [jnp.asarray(x, jnp.int32) for x in (start, then, length)]
        limit = jnp.full(len(TABLE), 2, jnp.int32)
        return Params(limit, ints[0], ints[1], jnp.asarray(reward, jnp.float32), ints[2])  # pyright: ignore[reportArgumentType]

    def sample_tasks(self, key: jax.Array, n: int) -> Params:
        return take(self.all_tasks(), jax.random.randint(key, (n,), 0, len(TABLE)))
