"""What a policy's outputs mean: categories, or a Gaussian whose mass beyond a bound is at the bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad_jax import sources
from ad_jax.envs.base import spec_of
from ad_jax.envs.point_mass import PointMass
from ad_jax.errors import ConfigError
from ad_jax.sources.actions import distribution
from ad_jax.sources.actor_critic import ActorCritic
from ad_jax.sources.ppo import PPO
from ad_jax.testing import check_source
from ad_jax.types import Box, Discrete
from ad_jax.values import no_action

BOX = Box((2,), (-1.0, 0.1), (3.0, 0.7))
SMALL = {"actors": 2, "unroll": 10, "hidden": (8,)}


def test_a_gaussian_is_drawn_into_its_box_and_bounds_are_met_exactly():
    gaussian, key = distribution(BOX), jax.random.key(0)
    params = {"log_deviation": jnp.log(jnp.array([0.3, 2.0], jnp.float32))}
    noise = gaussian.noise(key, (4000,))
    action = np.asarray(gaussian.draw(params, jnp.zeros((4000, 2), jnp.float32), noise))
    low, high = BOX.bounds
    assert action.shape == (4000, 2) and action.dtype == np.float32
    assert (action >= low).all() and (action <= high).all()
    inside = action[:, 0]
    assert abs(inside.mean() - 1.0) < 0.05 and abs(inside.std() - 0.3 * 2) < 0.05  # half the width is 2
    assert abs((action[:, 1] == high[1]).mean() - 0.3085) < 0.03  # P(z > 1/2)


def test_the_probability_of_what_was_done_adds_up_to_one():
    """Inside by the trapezium rule over densities (of the box as -1..1), at the bounds by their own mass."""
    one = distribution(Box((1,), -2.0, 6.0))
    for mean, deviation in ((0.0, 0.6), (0.9, 0.5), (-3.0, 1.0), (0.3, 5.0)):
        params = {"log_deviation": jnp.log(jnp.full(1, deviation, jnp.float32))}
        place = np.linspace(-1, 1, 4001).astype(np.float32)
        action = np.clip(2 + 4 * place, -2, 6)
        found = np.exp(one.log_prob(params, jnp.full((4001, 1), mean, jnp.float32), jnp.asarray(action)[:, None]))
        bounds, density = found[[0, -1]], found[1:-1]
        total = bounds.sum() + density.sum() * (place[1] - place[0])
        assert total == pytest.approx(1.0, abs=3e-3), (mean, deviation)


def test_components_are_independent_and_gradients_are_finite_far_out():
    gaussian = distribution(BOX)
    params = {"log_deviation": jnp.full(2, -3.0, jnp.float32)}
    done = jnp.asarray(np.array([[-1.0, 0.7], [3.0, 0.1], [1.0, 0.4]], np.float32))
    mean = jnp.array([[5.0, -5.0], [-5.0, 5.0], [9.0, -9.0]], jnp.float32)
    both = gaussian.log_prob(params, mean, done)
    apart = [
        distribution(Box((1,), BOX.bounds[0][i], BOX.bounds[1][i])).log_prob(
            {"log_deviation": params["log_deviation"][i : i + 1]}, mean[:, i : i + 1], done[:, i : i + 1]
        )
        for i in range(2)
    ]
    np.testing.assert_allclose(both, sum(np.asarray(x) for x in apart), rtol=1e-5)
    slope = jax.grad(lambda p, m: gaussian.log_prob(p, m, done).sum(), (0, 1))(params, mean)
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(slope))


def test_categories_are_those_of_the_softmax():
    three = distribution(Discrete(3))
    logits = jnp.array([[0.0, 1.0, 2.0]] * 2, jnp.float32)
    found = np.exp(three.log_prob({}, logits, jnp.array([0, 2])))
    softmax = np.exp(np.arange(3)) / np.exp(np.arange(3)).sum()
    np.testing.assert_allclose(found, softmax[[0, 2]], rtol=1e-6)
    np.testing.assert_allclose(three.entropy({}, logits), [-(softmax * np.log(softmax)).sum()] * 2, rtol=1e-6)


@pytest.mark.parametrize(
    "config", [PPO(epochs=2, minibatches=2, **SMALL), pytest.param(ActorCritic(**SMALL), marks=pytest.mark.slow)]
)
def test_sources_of_real_actions_keep_the_contract(config):
    assert len(check_source(config, PointMass(steps=8))) == 5


@pytest.mark.parametrize("name", ["q_learning", "dqn", "ucb", "noisy_oracle"])
def test_sources_that_choose_among_actions_say_so_when_they_are_made(name):
    with pytest.raises(ConfigError, match=rf"source={name}: expected Discrete actions, received Box.*source=ppo"):
        sources.make(name, {}).make(PointMass())


def test_ppo_learns_to_reach_a_goal_that_it_is_not_shown():
    """Of four tasks, a seed each, side by side."""
    family = PointMass(steps=16, light=1.0, heavy=1.0, slippery=2.0, rough=2.0)
    source = PPO(actors=8, unroll=16, epochs=8, minibatches=2, hidden=(16,), learning_rate=5e-3, discount=0.9).make(
        family
    )
    tasks = family.sample_tasks(jax.random.key(0), 4)

    def lifetime(key, task):
        key_init, key = jax.random.split(key)

        def step(state, key):
            return source.update(key, state, task)

        return jax.lax.scan(step, source.init(key_init, task), jax.random.split(key, 60))[1]

    lived = jax.jit(jax.vmap(lifetime))(jax.random.split(jax.random.key(1), 4), tasks)
    earned = np.asarray(lived.reward).mean(axis=(2, 3))  # [tasks, updates], a step
    assert (earned[:, -10:].mean(1) > 2 * earned[:, :5].mean(1)).all(), earned[:, ::10]
    assert not np.asarray(no_action(spec_of(family).action, lived.action)).any()
