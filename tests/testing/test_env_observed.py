"""Families whose `observe` and steps disagree, or that have nothing to store, are named by `check_env`."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from ad_jax.envs.dark_room import DarkRoom
from ad_jax.testing import ContractError, check_env
from ad_jax.testing.env import _Sample
from ad_jax.testing.env_observed import observed


@dataclasses.dataclass(frozen=True)
class LooksBack(DarkRoom):
    """A step shows where it began."""

    def step_env(self, key, state, action, params) -> Any:
        _, after, *rest = super().step_env(key, state, action, params)
        return state.position, after, *rest


@dataclasses.dataclass(frozen=True)
class StartsElsewhere(DarkRoom):
    """A reset shows a corner."""

    def reset_env(self, key, params):
        observation, state = super().reset_env(key, params)
        return jnp.zeros_like(observation), state


@dataclasses.dataclass(frozen=True)
class IsNoisy(DarkRoom):
    """Shows one of two places: what is drawn cannot be compared."""

    def observe(self, key, state, action, params):
        return jnp.where(jax.random.bernoulli(key), state.position, jnp.zeros_like(state.position))


@dataclasses.dataclass(frozen=True)
class HasAnEmptyLeaf(DarkRoom):
    """Nothing can be stored of it."""

    @property
    def default_params(self):
        return dataclasses.replace(super().default_params, goal=jnp.zeros((0,), jnp.int32))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (LooksBack, "observe gives what reset_env and step_env return.*step_env returned"),
        (StartsElsewhere, "observe gives what reset_env and step_env return.*reset_env returned"),
        (HasAnEmptyLeaf, "every leaf has elements"),
    ],
)
def test_what_is_broken_is_named(broken, words):
    with pytest.raises(ContractError, match=words):
        check_env(broken(size=3, steps=4))


def test_what_draws_is_not_compared():
    observed(_Sample(IsNoisy(size=3, steps=4)))
