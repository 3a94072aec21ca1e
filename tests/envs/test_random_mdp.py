"""Random worlds: against a solver of NumPy that shares nothing, under other labels, and as what they are said to be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad_jax.envs.base import take
from ad_jax.envs.random_mdp import RandomMDP, reachable
from ad_jax.envs.stepping import advance, reset
from ad_jax.envs.table import State, relabeled, worth
from ad_jax.errors import ConfigError
from ad_jax.testing import check_env

PLAIN = RandomMDP(states=7, actions=3, steps=6)
ROUGH = RandomMDP(
    states=6, actions=3, steps=5, branching=2, slip=0.3, reward="dense", start="random", fewest=3, stay=False
)
ENDS = RandomMDP(states=6, actions=3, steps=5, at_goal="end", fewest=4, start="random")
FAMILIES = pytest.mark.parametrize("family", [PLAIN, ROUGH, ENDS], ids=["plain", "rough", "ends"])


def drawn(family, n=12):
    return jax.device_get(family.sample_tasks(jax.random.key(3), n))


def earned(task, steps, best):
    """Return what is earned from each state by going through every outcome, one after another."""
    states, actions, outcomes = task.successor.shape
    value = np.zeros(states)
    for _ in range(steps):
        after = np.zeros((states, actions))
        for s in range(states):
            for a in range(actions):
                for b in range(outcomes):
                    there = task.successor[s, a, b]
                    later = 0.0 if task.ends[there] else value[there]
                    after[s, a] += float(task.chance[s, a, b]) * (float(task.reward[s, a, b]) + later)
        mixed = (1 - float(task.slip)) * after + float(task.slip) * after.mean(1, keepdims=True)
        value = mixed.max(1) if best else mixed.mean(1)
    return value


@pytest.mark.parametrize("family", [ROUGH, pytest.param(ENDS, marks=pytest.mark.slow)], ids=["rough", "ends"])
def test_the_contract_holds(family):
    assert len(check_env(family)) == 22


@FAMILIES
def test_returns_are_those_of_another_solver(family):
    tasks = drawn(family)
    for best, found in ((True, family.optimal_return(tasks)), (False, family.random_return(tasks))):
        told = [earned(task := take(tasks, i), family.steps, best) @ np.asarray(task.start) for i in range(12)]
        np.testing.assert_allclose(found, told, rtol=2e-5, atol=1e-6)


@FAMILIES
def test_who_follows_the_optimal_actions_earns_the_optimum(family):
    """On the mean of 512 episodes of each of four tasks; a world without chance to the digit."""
    tasks = family.sample_tasks(jax.random.key(3), 4)

    def episode(key, task):
        _, state = reset(family, key, task)

        def step(carry, key):
            state, alive = carry
            outcome = advance(family, key, state, family.optimal_action(state, task), task)[2]
            return (outcome.next_state, alive & ~outcome.done), jnp.where(alive, outcome.reward, 0)

        return jax.lax.scan(step, (state, jnp.bool_(True)), jax.random.split(key, family.steps))[1].sum()

    keys = jax.random.split(jax.random.key(5), (4, 512))
    found = np.asarray(jax.jit(jax.vmap(jax.vmap(episode, (0, None))))(keys, tasks), np.float64)
    slack = 4 * found.std(1) / 512**0.5
    assert (np.abs(found.mean(1) - family.optimal_return(tasks)) <= slack + 1e-5).all()


@FAMILIES
def test_a_world_is_closed_and_its_goal_can_be_reached(family):
    tasks = drawn(family, 64)
    used = tasks.chance.sum((2, 3)) > 0  # [N, S]
    for i in range(64):
        task = take(tasks, i)
        assert used[i][task.successor[used[i]]].all(), "no way out of the labels that are in use"
        np.testing.assert_allclose(task.chance[used[i]].sum(-1), 1, rtol=1e-6)
        assert used[i][task.start > 0].all() and task.start.sum() == pytest.approx(1)
        if family.reward == "goal":
            (goal,) = set(task.successor[used[i]][task.reward[used[i]] > 0].tolist())
            reach = np.asarray(reachable(jnp.asarray(task.successor), jnp.asarray(used[i])))
            assert reach[task.start > 0, goal].all() and task.start[goal] == 0
            assert task.ends.tolist() == [family.at_goal == "end" and s == goal for s in range(family.states)]
    sizes = used.sum(1)
    assert sizes.min() >= (family.fewest or family.states) and sizes.max() == family.states
    assert len(set(sizes.tolist())) == (1 if family.fewest is None else family.states - family.fewest + 1)


def test_chances_are_numbers_whatever_is_drawn(monkeypatch):
    """Of eight million draws one is 0, and an action may have a single outcome."""
    assert (drawn(PLAIN).chance == 1).all()
    monkeypatch.setattr(jax.random, "exponential", lambda key, shape, dtype: jnp.zeros(shape, dtype))
    task = jax.jit(dataclasses.replace(ROUGH, fewest=None)._draw_one)(jax.random.key(0))
    np.testing.assert_allclose(task.chance, 0.5)


def test_a_state_can_be_begun_in_where_steps_can_be_checked():
    """Of drawn outcomes nobody can say which would have come."""
    task = PLAIN.default_params
    state = PLAIN.starts_at(jnp.int32(3), task)
    assert state is not None and int(PLAIN.observe(jax.random.key(0), state, None, task)) == 3
    for family in (ROUGH, dataclasses.replace(PLAIN, slip=0.1), dataclasses.replace(PLAIN, branching=2)):
        assert family.starts_at(jnp.int32(3), family.default_params) is None


def test_where_one_can_stay_one_action_stays_everywhere_and_it_is_not_always_the_same():
    tasks = drawn(PLAIN, 64)
    stays = (tasks.successor[..., 0] == np.arange(7)[None, :, None]).all(1)  # [N, A]
    assert stays.any(1).all()
    assert (stays.argmax(1)[:, None] == range(3)).any(0).all()
    loops = drawn(dataclasses.replace(PLAIN, stay=False), 64)
    assert not (loops.successor[..., 0] == np.arange(7)[None, :, None]).all(1).any()


def test_every_label_is_a_goal_and_a_start_as_often_as_another():
    tasks = drawn(PLAIN, 4096)
    np.testing.assert_allclose(tasks.start.mean(0), 1 / 7, atol=0.03)
    goals = [task[task_reward > 0][0] for task, task_reward in zip(tasks.successor, tasks.reward)]
    np.testing.assert_allclose(np.bincount(goals, minlength=7) / 4096, 1 / 7, atol=0.03)


def test_other_labels_change_nothing_that_can_be_earned():
    tasks = ROUGH.sample_tasks(jax.random.key(1), 8)
    other = jax.vmap(relabeled)(jax.random.split(jax.random.key(2), 8), tasks)
    assert not np.array_equal(other.successor, tasks.successor)
    np.testing.assert_allclose(ROUGH.optimal_return(other), ROUGH.optimal_return(tasks), rtol=1e-6)
    np.testing.assert_allclose(ROUGH.random_return(other), ROUGH.random_return(tasks), rtol=1e-6)


def test_steps_are_drawn_with_the_chances_of_the_table():
    task = take(ROUGH.sample_tasks(jax.random.key(7), 1), 0)
    at = int(np.argmax(task.start))
    state = State(jnp.int32(0), jnp.int32(at))

    def one(key):
        seen, _, reward, _, _ = ROUGH.step_env(key, state, jnp.int32(1), task)
        return seen, reward

    seen, reward = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 20_000))
    table = np.zeros(6)
    for action, share in enumerate(np.full(3, 0.1) + np.eye(3)[1] * 0.7):
        np.add.at(table, np.asarray(task.successor[at, action]), share * np.asarray(task.chance[at, action]))
    np.testing.assert_allclose(np.bincount(seen, minlength=6) / 20_000, table, atol=0.015)
    assert float(reward.mean()) == pytest.approx(float(worth(task, jnp.zeros(6, jnp.float32))[at, 1]), abs=0.01)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"states": 1}, r"env\.states of at least 2; got 1"),
        ({"branching": 0}, r"env\.branching of at least 1"),
        ({"slip": 1.5}, r"env\.slip is a probability"),
        ({"fewest": 17}, r"env\.fewest must be from 2 to env\.states=16; got 17"),
        ({"reward": "dense", "at_goal": "end"}, r'needs env\.reward="goal"'),
    ],
)
def test_what_is_no_world_is_refused(options, told):
    with pytest.raises(ConfigError, match=told):
        RandomMDP(**options)
