"""Pgx: opponents and boards as tasks, and each trap of the library."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outside_helpers import first_task, lived, needs, random_actions

from ad_jax.envs.base import reset, spec_of
from ad_jax.envs.outside.pgx import Pgx
from ad_jax.errors import ConfigError
from ad_jax.testing import check_env

pytestmark = needs("pgx")


@pytest.fixture(scope="module")
def game():
    return Pgx(steps=9)


@pytest.mark.parametrize("options", [{"steps": 9}, {"env_id": "kuhn_poker", "steps": 5, "task": "board"}], ids=str)
def test_families_keep_the_contract(options):
    check_env(Pgx(**options))


def test_the_game_and_the_mask_of_what_may_be_done_are_seen(game):
    assert spec_of(game).values == (2,) * (18 + 9)
    task = first_task(game)
    observation, state = reset(game, jax.random.key(0), task)
    np.testing.assert_array_equal(observation[18:], state.inner.legal_action_mask)
    assert int(state.inner.current_player) == 0


def played(game, task, seeds=20):
    """Random lifetimes: actions, states and outcomes."""
    found = []
    for seed in range(seeds):
        actions = random_actions(game, 40, seed)
        found.append((actions, *lived(game, task, actions, seed)[1:]))
    return found


def test_the_agent_is_paid_what_it_earns_also_by_the_others_moves(game):
    """Rewards are by player, and the one whose turn it is may be another; -1 comes from the opponent's move, too."""
    task, won, lost_to_opponent = first_task(game), 0, 0
    for actions, state, outcome in played(game, task):
        legal = np.asarray(state.inner.legal_action_mask)[np.arange(len(actions)), actions]
        reward, ended = np.asarray(outcome.reward), np.asarray(outcome.terminated)
        assert np.all(reward[~legal] == -1)  # what may not be done loses
        assert np.all(ended[~legal])
        won += int(np.sum(reward == 1))
        lost_to_opponent += int(np.sum((reward == -1) & legal))
        assert np.all(reward[~ended] == 0)
    assert won > 0
    assert lost_to_opponent > 0


def test_an_opponent_does_always_what_it_likes_best(game):
    """The same board, the same answer, whatever the key; another opponent, another answer."""
    tasks = game.sample_tasks(jax.random.key(0), 6)
    state = game.inner.init(jax.random.key(0)).replace(current_player=jnp.int32(1))
    answers = []
    for i in range(6):
        task = jax.tree.map(lambda x, i=i: x[i], tasks)
        acted = [np.asarray(game._others(jax.random.key(k), state, task)[0].legal_action_mask) for k in range(3)]
        assert all(np.array_equal(a, acted[0]) for a in acted)
        answers.append(int(np.flatnonzero(~acted[0])[0]))
    assert len(set(answers)) > 1


def test_a_board_is_a_task_where_it_is_dealt():
    family = Pgx("kuhn_poker", steps=5, task="board")
    tasks = family.sample_tasks(jax.random.key(0), 12)
    cards = [
        [
            np.asarray(reset(family, jax.random.key(k), jax.tree.map(lambda x, i=i: x[i], tasks))[1].inner._cards)
            for k in range(2)
        ]
        for i in range(12)
    ]
    assert all(np.array_equal(a, b) for a, b in cards)
    assert len({tuple(a.tolist()) for a, _ in cards}) > 1


def test_a_game_that_is_over_ends_the_episode_and_everything_may_be_done_then(game):
    for _, _, outcome in played(game, first_task(game), 3):
        last = np.asarray(outcome.next_observation)[np.asarray(outcome.terminated)]
        assert np.all(last[:, 18:] == 1)
    with pytest.raises(ConfigError, match=r"2048 is a game of one player; set env.task=board"):
        Pgx("2048")
