"""Families as users write them: Python's numbers, NumPy's, weak types, keys in the state; and some that go too far."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from ad_jax.envs.base import TaskFamily


@struct.dataclass
class State(environment.EnvState):
    """A place, and a key of its own, as xminigrid and navix have it."""

    place: Any
    key: jax.Array  # [] a typed random key
    parts: tuple = ()


@struct.dataclass
class Params(environment.EnvParams):
    """Which action pays, in a tuple, and how much."""

    good: tuple = ()  # ([] int32, {"too": [] int32})
    pay: Any = 0.5  # [] bfloat16


@dataclasses.dataclass(frozen=True)
class Odd(TaskFamily):
    """Four steps; the good action pays. Nothing has the type that a loop would have chosen."""

    @property
    def episode_length(self) -> int:
        return 4

    @property
    def default_params(self) -> Params:
        return Params(4, (jnp.int32(0), {"too": jnp.int32(1)}), jnp.bfloat16(0.5))

    def action_space(self, params) -> spaces.Discrete:
        return spaces.Discrete(3)

    def observation_space(self, params) -> spaces.Discrete:
        return spaces.Discrete(5)

    def reset_env(self, key, params) -> Any:
        return 0, State(0, 0, key)

    def step_env(self, key, state, action, params) -> Any:
        own, _ = jax.random.split(state.key)
        pays = (action == params.good[0]) | (action == params.good[1]["too"])
        return state.time + 1, State(state.time + 1, state.place + 1, own), self.reward(pays, params), False, {}

    def reward(self, pays, params):
        return pays.astype(jnp.int32)

    def optimal_label(self, observation, task):
        return jnp.where(task.pay > 0.3, task.good[0], task.good[1]["too"])

    def optimal_action(self, state, task):
        return self.optimal_label(state.time, task)

    def sample_tasks(self, key, n):
        good = jax.random.randint(key, (n,), 0, 3, jnp.int32)
        pay = jax.random.uniform(jax.random.fold_in(key, 1), (n,), jnp.float32).astype(jnp.bfloat16)
        return Params(jnp.full(n, 4, jnp.int32), (good, {"too": (good + 1) % 3}), pay)  # pyright: ignore[reportArgumentType]


@dataclasses.dataclass(frozen=True)
class NumPyNumbers(Odd):
    """As `Odd`, with NumPy's numbers."""

    def reset_env(self, key, params) -> Any:
        return np.int64(0), State(np.int32(0), np.float32(0), key)  # pyright: ignore[reportArgumentType]

    def step_env(self, key, state, action, params) -> Any:
        _, state, reward, *_ = super().step_env(key, state, action, params)
        return state.time.astype(jnp.int32), state, reward, np.False_, {}


@dataclasses.dataclass(frozen=True)
class NarrowsItsState(Odd):
    """A whole number becomes a fraction."""

    def step_env(self, key, state, action, params) -> Any:
        observation, after, *rest = super().step_env(key, state, action, params)
        return observation, after.replace(place=jnp.float32(0.5)), *rest


@dataclasses.dataclass(frozen=True)
class ForgetsInfo(Odd):
    """As in older interfaces."""

    def step_env(self, key, state, action, params) -> Any:
        return super().step_env(key, state, action, params)[:4]


@dataclasses.dataclass(frozen=True)
class SaysOneForTrue(Odd):
    """Terminated is a number."""

    def step_env(self, key, state, action, params) -> Any:
        observation, state, reward, *_ = super().step_env(key, state, action, params)
        return observation, state, reward, jnp.float32(0), {}


@dataclasses.dataclass(frozen=True)
class PaysInARow(Odd):
    """The reward has an axis."""

    def reward(self, pays, params):
        return pays.astype(jnp.float32)[None]


@dataclasses.dataclass(frozen=True)
class SeesFractions(Odd):
    """A whole number is stated."""

    def step_env(self, key, state, action, params) -> Any:
        return jnp.float32(1.5), *super().step_env(key, state, action, params)[1:]


@dataclasses.dataclass(frozen=True)
class GrowsItsState(Odd):
    """Another structure after a step."""

    def step_env(self, key, state, action, params) -> Any:
        observation, after, *rest = super().step_env(key, state, action, params)
        return observation, after.replace(parts=(after.time,)), *rest


@dataclasses.dataclass(frozen=True)
class KeyInATask(Odd):
    """What a task pays is drawn of its own random key."""

    @property
    def default_params(self) -> Params:
        return dataclasses.replace(super().default_params, pay=jax.random.key(0))

    def sample_tasks(self, key, n):
        return dataclasses.replace(super().sample_tasks(key, n), pay=jax.random.split(key, n))

    def reward(self, pays, params):
        return pays.astype(jnp.float32) * jax.random.uniform(params.pay, (), jnp.float32)

    def optimal_label(self, observation, task) -> Any:
        return None

    def optimal_action(self, state, task) -> Any:
        return None


@dataclasses.dataclass(frozen=True)
class WordInATask(Odd):
    """What cannot be stored."""

    @property
    def default_params(self) -> Params:
        return dataclasses.replace(super().default_params, pay="much")


@dataclasses.dataclass(frozen=True)
class Misspelled(Odd):
    """A NameError in the user's own code."""

    def step_env(self, key, state, action, params) -> Any:
        return super().step_env(key, state, acton, params)  # pyright: ignore[reportUndefinedVariable]
