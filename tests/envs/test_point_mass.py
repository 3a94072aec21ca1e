"""The point mass: its dynamics written out, what is hidden, and which options cannot be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad_jax.envs.base import advance, reset, spec_of, take
from ad_jax.envs.point_mass import FORCE, STEP, SUBSTEPS, PointMass
from ad_jax.errors import ConfigError
from ad_jax.testing import check_env
from ad_jax.types import Box

FAMILY = PointMass()


def played(family, task, actions):
    """Observations and rewards of one episode of `actions [T, 2]`."""

    def step(carry, action):
        _, state, outcome = advance(family, jax.random.key(0), carry, action, task)
        return state, (outcome.next_observation, outcome.reward, outcome.truncated)

    observation, state = reset(family, jax.random.key(3), task)
    return observation, jax.tree.map(np.asarray, jax.jit(lambda s, a: jax.lax.scan(step, s, a)[1])(state, actions))


def test_the_body_moves_as_written_out():
    task = take(FAMILY.sample_tasks(jax.random.key(1), 3), 2)
    actions = np.random.default_rng(0).uniform(-1, 1, (FAMILY.steps, 2)).astype(np.float32)
    actions[10:, 0] = 1.0  # into the wall
    start, (seen, reward, cut) = played(FAMILY, task, actions)
    place, speed = np.asarray(start[:2], float), np.zeros(2)
    mass, friction, goal = float(task.mass), float(task.friction), np.asarray(task.goal, float)
    for t, action in enumerate(actions):
        for _ in range(SUBSTEPS):
            speed = speed + STEP / SUBSTEPS * (FORCE * action - friction * speed) / mass
            place = place + STEP / SUBSTEPS * speed
            speed = np.where(np.abs(place) > 1, 0, speed)
            place = np.clip(place, -1, 1)
        np.testing.assert_allclose(seen[t], [*place, *speed / 2], atol=1e-4)
        assert reward[t] == pytest.approx(np.exp(-np.linalg.norm(place - goal) / FAMILY.width), abs=1e-4)
    assert seen[-1, 0] == 1.0 and seen[-1, 2] == 0.0
    assert cut.tolist() == [False] * (FAMILY.steps - 1) + [True]


def test_goal_mass_and_friction_are_hidden_and_matter():
    tasks = FAMILY.sample_tasks(jax.random.key(1), 2)
    one, two = take(tasks, 0), take(tasks, 1)
    actions = np.ones((4, 2), np.float32)
    start, (seen, reward, _) = played(FAMILY, one, actions)
    for name in ("goal", "mass", "friction"):
        other = dataclasses.replace(one, **{name: getattr(two, name)})
        began, (moved, earned, _) = played(FAMILY, other, actions)
        np.testing.assert_array_equal(began, start)
        assert np.array_equal(moved, seen) == (name == "goal")
        assert not np.array_equal(earned, reward)


def test_tasks_lie_in_their_ranges():
    tasks = FAMILY.sample_tasks(jax.random.key(0), 500)
    distance = np.linalg.norm(tasks.goal, axis=1)
    assert distance.min() >= 0.4 and distance.max() <= 0.9 and np.median(distance) > 0.65  # uniform over the area
    for x, low, high in ((tasks.mass, 0.5, 2.0), (tasks.friction, 1.0, 4.0)):
        assert low <= x.min() and x.max() <= high
        assert np.median(x) == pytest.approx((low * high) ** 0.5, rel=0.1)
    assert spec_of(FAMILY).action == Box((2,), -1.0, 1.0)


def test_near_pays_within_the_width_alone_and_keeps_the_contract():
    family = PointMass(steps=6, reward="near", start=0.1)
    check_env(family)
    task = dataclasses.replace(family.default_params, goal=jnp.array([0.5, 0.0], jnp.float32))
    _, (seen, reward, _) = played(family, task, np.tile(np.array([1.0, 0.0], np.float32), (6, 1)))
    away = np.linalg.norm(seen[:, :2] - np.array([0.5, 0.0]), axis=1)
    np.testing.assert_array_equal(reward, (away <= family.width).astype(np.float32))
    assert 0 < reward.sum() < 6


@pytest.mark.parametrize("start", [0.0, 0.1, 1.0])
def test_episodes_start_at_rest_anywhere_in_their_square(start):
    family = PointMass(start=start)
    began, _ = jax.vmap(lambda key: reset(family, key, family.default_params))(jax.random.split(jax.random.key(0), 500))
    place, speed = np.split(np.asarray(began), 2, axis=1)
    assert not speed.any() and np.abs(place).max() <= start
    np.testing.assert_allclose(
        np.quantile(place, [0.1, 0.5, 0.9], axis=0),
        start * np.array([[-0.8], [0], [0.8]]) * np.ones(2),
        atol=0.1 * start,
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "env.steps must be at least 1"),
        ({"width": 0.0}, "env.width must be above 0"),
        ({"start": 1.5}, "env.start is from 0, the center, to 1, the whole table; got 1.5"),
        ({"light": 3.0}, "0 < env.light <= env.heavy <= 10; got 3.0 and 2.0"),
        ({"nearest": 0.0}, "0 < env.nearest <= env.farthest <= 1"),
        ({"farthest": 1.5}, "0 < env.nearest <= env.farthest <= 1"),
        ({"reward": "dense"}, "reward"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        PointMass(**options)
