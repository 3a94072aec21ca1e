"""Actor-critic, each part: its returns, its gradients, what its network sees, and how it acts."""

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from probes import Probes
from source_helpers import KINDS, slow_gae

from ad_jax.envs.base import take
from ad_jax.sources import actor_critic, networks
from ad_jax.types import Discrete, Spec, Transition


def test_gae_equals_its_definition_however_episodes_end():
    ends = np.array(list(itertools.product(KINDS, repeat=5)))  # [243, T, 2]
    rng = np.random.default_rng(0)
    reward, value, next_value = rng.normal(size=(3, len(ends), 5)).astype(np.float32)
    arrays = (reward, value, next_value, ends[..., 0], ends[..., 1])
    got = actor_critic.gae(*(jnp.asarray(x.T) for x in arrays), discount=0.9, trace_decay=0.8)
    expected = np.stack([slow_gae(*row, 0.9, 0.8) for row in zip(*arrays)], axis=1)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_max_grad_norm_is_the_global_norm():
    gradient = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}  # norm 5; no element alone is above 4
    config = actor_critic.ActorCritic(learning_rate=1.0, adam_epsilon=1e6)  # so large an epsilon makes Adam linear

    def change(limit):
        optimizer = actor_critic.optimizer(dataclasses.replace(config, max_grad_norm=limit))
        with jax.numpy_dtype_promotion("standard"):
            updates, _ = optimizer.update(gradient, optimizer.init(gradient))
        return -1e6 * np.concatenate([np.ravel(x) for x in jax.tree.leaves(updates)])

    np.testing.assert_allclose(change(None), [3, 0, 4], rtol=1e-4)
    np.testing.assert_allclose(change(10.0), [3, 0, 4], rtol=1e-4)
    np.testing.assert_allclose(change(1.0), [0.6, 0, 0.8], rtol=1e-4)


gradient = jax.jit(jax.grad(actor_critic.loss), static_argnums=2)


def gradient_of(**options):
    """Return the gradient of the loss on made-up streams, and the parameters it is taken at."""
    spec, rng = Spec(Discrete(3), (), (4,)), np.random.default_rng(0)
    params = networks.init_network(jax.random.key(0), 4, (8,), 3)
    params["policy"]["weight"] *= 100  # away from uniform
    rows = (5, 6)
    stream = Transition(
        jnp.asarray(rng.integers(0, 4, rows), jnp.int32),
        jnp.asarray(rng.integers(0, 3, rows), jnp.int32),
        jnp.asarray(rng.normal(size=rows), jnp.float32),
        jnp.zeros(rows, bool),
        jnp.zeros(rows, bool),
    )
    reached = jnp.asarray(rng.integers(0, 4, rows), jnp.int32)
    config = dataclasses.replace(actor_critic.ActorCritic(entropy_cost=0.0, value_cost=0.0), **options)
    return params, gradient(params, config, spec, stream, reached), spec


def mean_entropy(params, spec):
    log_policy = jax.nn.log_softmax(networks.network(params, networks.features(spec, jnp.arange(4)))[0])
    return float(-jnp.mean(jnp.sum(jnp.exp(log_policy) * log_policy, axis=1)))


def test_entropy_cost_raises_entropy():
    params, without, spec = gradient_of()
    _, with_cost, _ = gradient_of(entropy_cost=1.0)
    step = jax.tree.map(lambda p, a, b: p - 0.1 * (a - b), params, with_cost, without)  # of the entropy term alone
    assert mean_entropy(step, spec) > mean_entropy(params, spec) + 1e-3


def test_value_cost_scales_the_value_gradient_alone():
    _, none, _ = gradient_of()
    _, one, _ = gradient_of(value_cost=1.0)
    _, two, _ = gradient_of(value_cost=2.0)
    assert not np.any(none["value"]["weight"])  # the policy gradient does not reach the value head
    np.testing.assert_allclose(two["value"]["weight"], 2 * one["value"]["weight"], rtol=1e-5)
    np.testing.assert_allclose(two["policy"]["weight"], none["policy"]["weight"], atol=1e-6)


def test_actions_follow_the_policy_and_learning_rate_zero_learns_nothing():
    family = Probes()
    config = actor_critic.ActorCritic(learning_rate=0.0, actors=500, unroll=8, hidden=(4,))
    source, task = config.make(family), take(family.all_tasks(), 0)
    state = jax.jit(source.init)(jax.random.key(0), task)
    state.params["policy"] = {"weight": jnp.zeros((4, 2)), "bias": jnp.log(jnp.array([0.8, 0.2]))}
    after, stream = jax.jit(source.update)(jax.random.key(1), state, task)
    assert abs(float(jnp.mean(stream.action == 0)) - 0.8) < 5 * 0.4 / np.sqrt(4000)
    chex.assert_trees_all_equal(after.params, state.params)


def test_features_are_one_hot_by_component_or_flat():
    observation = jnp.array([[0, 2], [1, 0]], jnp.int32)
    np.testing.assert_array_equal(
        networks.features(Spec(Discrete(2), (2,), (2, 3)), observation), [[1, 0, 0, 0, 1], [0, 1, 1, 0, 0]]
    )
    pixels = jnp.arange(12, dtype=jnp.float32).reshape(2, 3, 2)
    np.testing.assert_array_equal(networks.features(Spec(Discrete(2), (3, 2), None), pixels), pixels.reshape(2, 6))
