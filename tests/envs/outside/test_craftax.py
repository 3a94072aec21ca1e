"""Craftax and Craftax-Classic: worlds as tasks, and each trap of the library."""

import dataclasses

import jax
import numpy as np
import pytest
from outside_helpers import first_task, lived, needs

from ad_jax.envs.base import reset, spec_of
from ad_jax.envs.outside.craftax import Craftax, CraftaxClassic
from ad_jax.errors import ConfigError
from ad_jax.testing import check_env

pytestmark = needs("craftax")


@pytest.mark.slow  # a world is made in every step
def test_a_family_keeps_the_contract():
    check_env(CraftaxClassic(steps=12))


def test_sizes_are_those_of_a_real_reset():
    for family, size, actions in ((Craftax(), 8268, 43), (CraftaxClassic(), 1345, 17)):
        assert (spec_of(family).shape, family.num_actions) == ((size,), actions)


def test_the_limit_truncates_and_death_terminates():
    """The library says done at both, with discount 0."""
    family = CraftaxClassic(steps=6)
    task = first_task(family)
    observation, state, outcome = lived(family, task, np.zeros(13, np.int32))
    assert np.flatnonzero(outcome.truncated).tolist() == [5, 11]
    assert not outcome.terminated.any()
    worlds = np.asarray(state.inner.map)
    np.testing.assert_array_equal(worlds[0], worlds[6])  # the world is the task
    np.testing.assert_array_equal(observation[0], observation[6])
    _, begun = reset(family, jax.random.key(0), task)
    dead = dataclasses.replace(begun, inner=begun.inner.replace(player_health=jax.numpy.int32(0)))
    assert family.step_env(jax.random.key(1), dead, jax.numpy.int32(0), task)[3]


def test_worlds_differ_and_parameters_can_vary_beside_them():
    family = CraftaxClassic(steps=6)
    tasks = family.sample_tasks(jax.random.key(0), 2)
    maps = [reset(family, jax.random.key(0), jax.tree.map(lambda x, i=i: x[i], tasks))[1].inner.map for i in range(2)]
    assert np.any(np.asarray(maps[0]) != np.asarray(maps[1]))
    assert set(CraftaxClassic(steps=6, vary={"spawn_cow_chance": (0.5, 2.0)}).default_params.values) == {
        "level",
        "spawn_cow_chance",
    }
    with pytest.raises(ConfigError, match="unknown parameter of Craftax-Classic-Symbolic-v1 'spawn_cow'"):
        CraftaxClassic(vary={"spawn_cow": (0.5, 2.0)})
