"""Watermaze's optimal policy: what it earns, from anywhere, against the fewest steps, and under noise."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import mesh_of
from pools import TINY, poses

from ad_jax import sources
from ad_jax.envs.base import advance
from ad_jax.envs.raycast import RADIUS
from ad_jax.envs.watermaze import State, Watermaze
from ad_jax.stage.collect import Collector
from ad_jax.testing import check_source


def optimal_lifetime(family, key, state, task, steps):
    """Poses `[steps, 3]` acted in, actions and rewards `[steps]` of `optimal_action` from `state` on."""

    def step(carry, key):
        action = family.optimal_action(carry, task)
        _, state, outcome = advance(family, key, carry, action, task)
        return state, (carry.pose, action, outcome.reward)

    return jax.lax.scan(step, state, jax.random.split(key, steps))[1]


@pytest.mark.parametrize(
    "family",
    [
        Watermaze(),
        Watermaze(turn=45.0, stride=0.15, steps=18),
        Watermaze(stride=0.05),
        Watermaze(heading="fixed", reward="terminate"),
        Watermaze(way="facing"),
        Watermaze(way="facing", turn=45.0, stride=0.15, steps=18),
        Watermaze(way="facing", turn=10.0, stride=0.05, steps=60),
    ],
    ids=repr,
)
def test_optimal_actions_earn_the_stated_optimum_from_any_heading(family):
    tasks = family.sample_tasks(jax.random.key(0), 500)

    def lifetime(key, task):
        key_reset, key_lifetime = jax.random.split(key)
        state = family.reset_env(key_reset, task)[1]
        return optimal_lifetime(family, key_lifetime, state, task, 2 * family.steps)[2]

    rewards = np.asarray(jax.jit(jax.vmap(lifetime))(jax.random.split(jax.random.key(1), 500), tasks))
    best = family.optimal_return(tasks)[:, None]
    if family.reward == "once":
        np.testing.assert_array_equal(rewards.reshape(500, 2, -1).sum(2), np.tile(best, 2))
    else:
        assert np.all(rewards[:, : family.steps].sum(1) >= best)
    assert dataclasses.replace(family, steps=5).optimal_return(tasks) is None


def test_the_platform_is_reached_from_any_pose_and_then_kept():
    family, count = Watermaze(), 2000
    tasks, at = family.sample_tasks(jax.random.key(2), count), poses(count, seed=3)
    at[:, :2] -= RADIUS
    time: Any = jnp.zeros(count, jnp.int32)
    start = State(time, jnp.asarray(at), jnp.zeros(count, bool))
    live = jax.vmap(lambda key, state, task: optimal_lifetime(family, key, state, task, 50))
    pose, action, reward = map(np.asarray, jax.jit(live)(jax.random.split(jax.random.key(4), count), start, tasks))
    assert np.all(reward.sum(1) == 1)
    away = np.hypot(*np.moveaxis(pose[:, :, :2] - np.asarray(tasks.platform)[:, None], -1, 0))
    there = away <= round(0.15 * RADIUS)
    assert np.all(np.diff(there.astype(int), axis=1) >= 0)
    assert np.all(action[there] == 4)
    assert np.all(np.diff(away, axis=1)[~there[:, 1:]] < 0)
    assert np.mean(there[:, 0]) > 0.01


def fewest_steps(family, move, pose, platform, most: int) -> int:
    """Of all ways from `pose` to the platform, the shortest: `most` if none is shorter. Breadth first, exact.

    `move`: poses `[n, 3]` and actions `[8]` to poses `[n, 8, 3]`.
    """
    radius, reach = round(family.platform * RADIUS), family.stride * RADIUS + 2
    front = pose[None]
    for steps in range(1, most):
        padded = np.resize(front, (max(64, 1 << (len(front) - 1).bit_length()), 3))  # few shapes to compile
        front = np.unique(np.asarray(move(padded, np.arange(8))).reshape(-1, 3), axis=0)
        away = np.hypot(*(front[:, :2] - platform).T.astype(float))
        if away.min() <= radius:
            return steps
        front = front[away - radius <= (most - 1 - steps) * reach]  # the others come too late
        if not len(front):
            break
    return most


def test_the_way_to_the_platform_is_nearly_the_shortest():
    family = Watermaze()
    tasks, keys = family.sample_tasks(jax.random.key(5), 100), jax.random.split(jax.random.key(6), 100)
    start = jax.vmap(family.reset_env)(keys, tasks)[1]
    live = jax.vmap(lambda key, state, task: optimal_lifetime(family, key, state, task, 15))
    reward = np.asarray(jax.jit(live)(keys, start, tasks)[2])
    taken = reward.argmax(1) + 1
    move = jax.jit(jax.vmap(jax.vmap(family._moved, (None, 0)), (0, None)))
    rows = zip(np.asarray(start.pose), np.asarray(tasks.platform), taken.tolist())
    fewest = np.array([fewest_steps(family, move, *row) for row in rows])
    assert np.all(reward.sum(1) == 1)
    assert taken.mean() < 1.05 * fewest.mean()
    assert np.all(taken - fewest <= 2)
    assert np.mean(taken == fewest) > 0.75


def test_a_noisy_oracle_shows_the_way_to_the_platform():
    config = sources.make("noisy_oracle", {"noise_episodes": 8.0})
    assert len(check_source(config, dataclasses.replace(TINY, heading="fixed"))) == 5
    source = config.make(Watermaze())
    learners = Collector(Watermaze(), source, 20, mesh_of(), 64)
    lifetimes = learners.lifetimes(
        jax.random.split(jax.random.key(0), 64), Watermaze().sample_tasks(jax.random.key(1), 64)
    )[0]
    returns = np.asarray(lifetimes.reward).reshape(64, 20, 50).sum(2)
    assert np.all(returns[:, 8:] == 1)
    assert 0.1 < returns[:, 0].mean() < 0.6
