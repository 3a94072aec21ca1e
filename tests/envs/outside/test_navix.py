"""Navix: layouts as tasks, and each trap of the library."""

import jax
import numpy as np
import pytest
from outside_helpers import first_task, lived, needs, random_actions

from ad_jax.envs.base import reset, spec_of
from ad_jax.envs.outside.navix import Navix
from ad_jax.testing import check_env

pytestmark = needs("navix")


def test_a_family_keeps_the_contract():
    check_env(Navix(steps=30))


def test_the_limit_is_ours_and_not_a_hundred_steps():
    family = Navix("Navix-DoorKey-8x8-v0", steps=130)
    outcome = lived(family, first_task(family), np.zeros(300, np.int32))[2]  # turns on the spot
    assert np.flatnonzero(outcome.truncated).tolist() == [129, 259]
    assert not outcome.terminated.any()


def test_every_action_of_the_set_is_one():
    """The library's own space never draws the last."""
    family = Navix()
    assert family.num_actions == len(family.inner.action_set)
    assert random_actions(family, 500).max() == len(family.inner.action_set) - 1


def test_the_first_action_after_an_end_is_taken():
    """The library's `step` swallows it, because it resets then."""
    family = Navix("Navix-Empty-Random-5x5-v0", steps=4)
    _, state, outcome = lived(family, first_task(family), np.zeros(9, np.int32))
    direction = np.asarray(state.inner.state.entities["player"].direction).reshape(-1)
    ends = np.flatnonzero(outcome.truncated)
    assert ends.tolist() == [3, 7]
    start = direction[0]
    assert direction[4] == start
    assert direction[5] != start


@pytest.mark.parametrize("env_id", ["Navix-DoorKey-Random-6x6-v0", "Navix-KeyCorridorS3R2-v0", "Navix-GoToDoor-6x6-v0"])
def test_bytes_above_the_stated_values_are_told_apart(env_id):
    """The space says 0 to 8; there are 10, and -1 and -2 as bytes; nothing between 14 and 253."""
    family = Navix(env_id, steps=20)
    assert set(spec_of(family).values or ()) == {16}
    task = first_task(family)
    raw = np.asarray(lived(family, task, random_actions(family, 200))[1].inner.observation)
    assert raw.max() > 8
    assert not np.any((raw > 13) & (raw < 254))
    observation, state = reset(family, jax.random.key(0), task)
    wanted = np.where(
        np.asarray(state.inner.observation) > 13, np.asarray(state.inner.observation) - 240, state.inner.observation
    )
    np.testing.assert_array_equal(observation, wanted.reshape(-1))


def test_reaching_the_goal_terminates_and_pays():
    family = Navix("Navix-Empty-Random-5x5-v0", steps=50)
    outcome = lived(family, first_task(family), random_actions(family, 1500))[2]
    assert outcome.terminated.any()
    assert np.all(np.asarray(outcome.reward)[np.asarray(outcome.terminated)] == 1)
