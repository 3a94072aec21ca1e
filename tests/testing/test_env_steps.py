"""Families whose starts, programs or best actions are not as they say are named by `check_env`."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import odd_families
import pytest

from ad_jax.envs import stepping
from ad_jax.envs.base import num_tasks, spec_of
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.envs.point_mass import PointMass
from ad_jax.envs.watermaze import Watermaze
from ad_jax.testing import ContractError, check_env
from ad_jax.testing.base import BrokenError, joined
from ad_jax.testing.env import _Sample
from ad_jax.testing.env_steps import actions_of, one_program, starts
from ad_jax.types import Box


@dataclasses.dataclass(frozen=True)
class SaysItVaries(DarkRoom):
    """Starts in the middle, and says that it does not."""

    @property
    def start_varies(self) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class SaysItStays(DarkRoom):
    """Starts anywhere, and says that it does not."""

    @property
    def start_varies(self) -> bool:
        return False


@dataclasses.dataclass(frozen=True)
class PointsOutside(DarkRoom):
    """Its best action in the goal is one that there is not; the walls hold whoever takes it."""

    def optimal_action(self, state, task):
        here = jnp.all(state.position == task.goal)
        return jnp.where(here, -1, super().optimal_action(state, task))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (SaysItVaries(size=3, steps=4), "starts of a task differ.* received starts that are all the same"),
        (SaysItStays(size=3, steps=4, start="random"), "starts of a task differ.* received starts that differ"),
        (
            PointsOutside(size=3, steps=4),
            r"optimal_action is an action.*expected actions in 0\.\.4;.* from -1",
        ),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_what_is_broken_is_named(broken, words):
    with pytest.raises(ContractError, match=words):
        check_env(broken)


def test_a_program_for_each_step_is_named(monkeypatch):
    """Weak types of a first state, which later ones do not have, are taken away; were they not, it would show."""
    one_program(_Sample(odd_families.Odd()))
    monkeypatch.setattr(stepping, "_strong", lambda family, what, value: jnp.asarray(value))
    with pytest.raises(BrokenError, match=r"1 trace for first and later steps.*2"):
        one_program(_Sample(odd_families.Odd()))


def test_families_say_whether_their_starts_vary():
    for family in (DarkRoom(start="random"), DarkRoom(), PointMass(), PointMass(start=0.0), Watermaze(heading="fixed")):
        assert family.start_varies is not None
        starts(_Sample(family))


def test_a_thousand_random_steps_are_taken_and_the_bounds_of_a_box_among_them():
    for family in (DarkRoom(), PointMass(), Watermaze()):
        sample = _Sample(family)
        assert num_tasks(sample.tasks) * sample.steps >= 1000
    actions, stated = actions_of(_Sample(PointMass())), spec_of(PointMass()).action
    assert isinstance(stated, Box)
    np.testing.assert_array_equal(actions[:2], stated.bounds)


def test_states_of_lifetimes_are_joined_where_an_array_in_them_is_empty():
    """As in a simulator's state of a body without muscles or tendons."""
    assert joined(np.zeros((2, 3, 0))).shape == (6, 0)
    np.testing.assert_array_equal(joined(np.arange(6).reshape(2, 3)), np.arange(6))
