"""Dark Room in which every reward is so many times as large: the same world in another currency."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from ad_jax.envs.dark_room import DarkRoom


@dataclasses.dataclass(frozen=True)
class ScaledRoom(DarkRoom):
    """`pay` for each step at the goal, and `cost` taken off at every other step."""

    pay: float = 1.0
    cost: float = 0.0

    @property
    def reward_dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def step_env(self, key, state, action, params):
        observation, state, reward, terminated, info = super().step_env(key, state, action, params)
        scaled = jnp.float32(self.pay) * (reward - jnp.float32(self.cost) * (1 - reward))
        return observation, state, scaled, terminated, info

    def optimal_return(self, tasks) -> Any:
        return None

    def random_return(self, tasks) -> Any:
        return None
