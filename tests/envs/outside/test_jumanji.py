"""Jumanji: instances as tasks, and each trap of the library."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outside_helpers import first_task, lived, needs, random_actions

from ad_jax.envs.base import reset, spec_of
from ad_jax.envs.outside.jumanji import Jumanji
from ad_jax.errors import ConfigError
from ad_jax.testing import check_env
from ad_jax.types import Box

pytestmark = needs("jumanji")


@pytest.mark.parametrize("env_id", ["Maze-v0", "Snake-v1"])
def test_families_keep_the_contract(env_id):
    check_env(Jumanji(env_id, steps=20))


def test_the_limit_truncates_where_the_library_gives_discount_0():
    family = Jumanji(steps=7)  # Maze
    task = first_task(family)
    blocked = lived(family, task, np.zeros(15, np.int32))[2]
    assert np.flatnonzero(blocked.truncated).tolist() == [6, 13]
    assert not blocked.terminated.any()
    assert family.inner.time_limit == 8


def test_reaching_the_target_terminates():
    family = Jumanji(steps=400)
    outcome = lived(family, first_task(family), random_actions(family, 4000))[2]
    assert outcome.terminated.any()
    assert np.all((np.asarray(outcome.reward) == 1) == np.asarray(outcome.terminated))


def test_the_instance_stays_and_what_is_drawn_during_it_is_drawn_anew():
    family = Jumanji("Snake-v1", steps=60)
    task = first_task(family)
    starts = [reset(family, jax.random.key(i), task)[0] for i in range(3)]
    assert all(np.array_equal(start, starts[0]) for start in starts)
    actions = random_actions(family, 400)
    fruits = [np.asarray(lived(family, task, actions, seed)[1].inner[0].fruit_position.row) for seed in (0, 1)]
    assert np.any(fruits[0] != fruits[1])


def test_a_step_count_beyond_the_stated_values_is_a_real_number():
    """Snake's step count leaves its own space at the limit; nothing here rests on that space."""
    assert spec_of(Jumanji("Snake-v1", steps=10)).values is None


def test_a_weakly_typed_reward_is_cast():
    family = Jumanji("GraphColoring-v1", steps=25)
    reward = lived(family, first_task(family), random_actions(family, 30))[2].reward
    assert (reward.dtype, reward.weak_type) == (np.float32, False)


def test_actions_of_several_parts_are_one_number():
    family = Jumanji("Minesweeper-v0", steps=20)
    assert family.num_actions == 100
    _, state = reset(family, jax.random.key(0), first_task(family))
    after = family.step_env(jax.random.key(1), state, jnp.int32(37), first_task(family))[1]
    opened = np.argwhere(np.asarray(after.inner[0].board) != np.asarray(state.inner[0].board))
    assert opened.tolist() == [[3, 7]]
    assert isinstance(Jumanji("SearchAndRescue-v0", steps=10).action_spec, Box)
    with pytest.raises(ConfigError, match=r"'Connector-v3' has .* actions; at most 4096 are allowed"):
        Jumanji("Connector-v3")


def test_what_downloads_is_refused():
    with pytest.raises(ConfigError, match=r"env.env_id='Sokoban-v0': it downloads its levels"):
        Jumanji("Sokoban-v0")


def test_a_family_can_be_made_inside_a_program():
    """The library makes arrays when it is constructed, which must not belong to a caller's trace."""
    made = []

    @jax.jit
    def program(x):
        made.append(Jumanji(steps=3))
        return x

    program(jnp.int32(0))
    reset(made[0], jax.random.key(0), made[0].default_params)
