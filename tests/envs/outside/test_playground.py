"""MuJoCo Playground: factors of a model's numbers as tasks, and each trap of the library."""

import jax
import numpy as np
import pytest
from outside_helpers import first_task, lived, needs, random_actions

from ad_jax.envs.base import reset
from ad_jax.envs.outside.playground import Playground
from ad_jax.envs.stepping import is_key
from ad_jax.errors import ConfigError
from ad_jax.testing import check_env
from ad_jax.types import Box

pytestmark = needs("playground")


@pytest.fixture(scope="module")
def cart():
    return Playground("CartpoleBalance", steps=6)


@pytest.mark.slow
def test_a_family_keeps_the_contract():
    check_env(Playground("CartpoleBalance", steps=12))


def test_the_jax_implementation_is_used(cart):
    """The other one compiles for a minute on a CPU."""
    assert cart.inner.mjx_model.impl.value == "jax"


def test_the_limit_is_ours(cart):
    outcome = lived(cart, first_task(cart), random_actions(cart, 13))[2]
    assert np.flatnonzero(outcome.truncated).tolist() == [5, 11]
    assert not outcome.terminated.any()
    assert cart.action_spec == Box((1,), -1.0, 1.0)


def test_starts_are_drawn_anew_and_a_typed_key_in_the_state_is_fine(cart):
    task = first_task(cart)
    starts = [reset(cart, jax.random.key(i), task) for i in range(2)]
    assert np.any(np.asarray(starts[0][0]) != np.asarray(starts[1][0]))
    assert is_key(starts[0][1].inner.info["rng"])


def test_a_factor_acts(cart):
    state = reset(cart, jax.random.key(0), first_task(cart))[1]
    speed = []
    for factor in (1.0, -1.0):
        task = first_task(cart).replace(values={"actuator_gear": np.float32(factor)})
        after = cart.step_env(jax.random.key(1), state, np.ones(1, np.float32), task)[1]
        speed.append(float(after.inner.data.qvel[0]))
    assert speed[0] > 0 > speed[1]


def test_robots_that_are_downloaded_are_not_among_the_environments():
    with pytest.raises(ConfigError, match="unknown environment of playground 'Go1JoystickFlatTerrain'"):
        Playground("Go1JoystickFlatTerrain")
