"""Brax: factors of a body's numbers as tasks, and each trap of the library."""

from importlib import import_module

import jax
import numpy as np
import pytest
from outside_helpers import first_task, lived, needs, random_actions

from ad_jax.envs.base import reset, spec_of
from ad_jax.envs.outside.brax import Brax
from ad_jax.envs.stepping import lenient
from ad_jax.errors import ConfigError
from ad_jax.testing import check_env
from ad_jax.types import Box

pytestmark = needs("brax")


@pytest.fixture(scope="module")
def reacher():
    return Brax(steps=6)


@pytest.mark.slow
def test_a_family_keeps_the_contract():
    check_env(Brax("inverted_pendulum", steps=20, vary={"actuator.gear": (0.5, 2.0), "gravity": (0.5, 1.5)}))


def test_targets_are_drawn_anew_in_each_episode(reacher):
    """The library's auto-reset returns to one start that it remembers, with the same target."""
    task = first_task(reacher)
    observation = lived(reacher, task, random_actions(reacher, 13))[0]
    targets = np.asarray(observation)[[0, 6, 12], 4:6]
    assert len({tuple(target.tolist()) for target in targets}) == 3
    np.testing.assert_allclose(np.asarray(observation)[0, 4:6], np.asarray(observation)[5, 4:6], atol=1e-3)


def test_the_limit_is_ours_and_done_is_a_termination(reacher):
    outcome = lived(reacher, first_task(reacher), random_actions(reacher, 13))[2]
    assert np.flatnonzero(outcome.truncated).tolist() == [5, 11]
    assert (outcome.terminated.dtype, outcome.terminated.any()) == (bool, False)
    pole = Brax("inverted_pendulum", steps=100, vary={"gravity": (0.5, 1.5)})
    fallen = lived(pole, first_task(pole), np.ones((30, 1), np.float32))[2]  # pushed to one side
    assert fallen.terminated.any()
    assert not fallen.truncated.any()


def test_typed_keys_are_taken_and_actions_are_in_a_box(reacher):
    assert reacher.action_spec == Box((2,), -1.0, 1.0)
    assert spec_of(reacher).values is None
    reset(reacher, jax.random.key(0), first_task(reacher))


def test_a_factor_acts(reacher):
    """The gear turned round: the same push moves the arm the other way."""
    state = reset(reacher, jax.random.key(0), first_task(reacher))[1]
    pushed = []
    for factor in (1.0, -1.0, 0.0):
        task = first_task(reacher)
        task = task.replace(values={"actuator.gear": np.float32(factor)})
        after = reacher.step_env(jax.random.key(1), state, np.ones(2, np.float32), task)[1]
        pushed.append(np.asarray(after.inner.pipeline_state.qd)[0])
    assert pushed[0] > pushed[2] > pushed[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"env_id": "reecher"}, "unknown environment of brax 'reecher'. Did you mean 'reacher'"),
        ({"vary": {"actuator.gears": (1, 2)}}, "unknown parameter of reacher 'actuator.gears'"),
        ({"vary": {"elasticity": (0.5, 2.0)}}, "'elasticity'. cannot vary in reacher: nothing that an agent sees"),
    ],
)
def test_what_cannot_be_meant_is_named(options, words):
    with pytest.raises(ConfigError, match=words):
        Brax(**options)


def test_swimmer_is_refused_for_a_reason():
    """Where this fails, the library has mended it, and the refusal can go."""
    with pytest.raises(ConfigError, match=r"env.env_id='swimmer': its step fails with jax 0\.10"):
        Brax("swimmer")
    env = import_module("brax.envs").get_environment("swimmer")
    with lenient(), pytest.raises(TypeError, match="unexpected keyword argument 'a_min'"):
        jax.eval_shape(lambda key: env.step(env.reset(key), np.zeros(2, np.float32)), jax.random.key(0))
