"""PPO: the probes, and each part against its definition."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probes
from source_helpers import assert_solves_the_probes, slow_gae

from ad_jax.envs.base import take
from ad_jax.errors import ConfigError
from ad_jax.sources import networks, ppo
from ad_jax.types import Discrete, Spec, Transition

SPEC = Spec(Discrete(3), (2,), None)
QUICK = {"actors": 8, "unroll": 8, "epochs": 4, "minibatches": 2, "hidden": (16,)}


@pytest.mark.parametrize("layers", [None, pytest.param("own", marks=pytest.mark.slow)])
def test_ppo_solves_the_probes(layers):
    config = ppo.PPO(learning_rate=0.01, discount=0.5, max_grad_norm=None, value_layers=layers, **QUICK)
    assert_solves_the_probes(config, 150)


def test_policy_and_value_share_their_hidden_layers_or_each_has_its_own():
    x = jnp.ones((3, 4))

    def gradients(shared):
        params = networks.init_network(jax.random.key(0), 4, (5, 6), 2, shared)
        return params, *(jax.grad(lambda p, i=i: networks.network(p, x)[i].sum())(params) for i in (0, 1))

    def moves(gradient):
        return sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(gradient)) > 0

    params, of_policy, of_value = gradients(True)
    assert set(params) == {"convolutions", "hidden", "policy", "value"}
    assert moves(of_policy["hidden"])
    assert moves(of_value["hidden"])
    own, of_policy, of_value = gradients(False)
    assert [moves(of_policy[name]) for name in ("hidden", "value_hidden")] == [True, False]
    assert [moves(of_value[name]) for name in ("hidden", "value_hidden")] == [False, True]
    assert jax.tree.map(jnp.shape, own["value_hidden"]) == jax.tree.map(jnp.shape, own["hidden"])
    assert not np.array_equal(own["value_hidden"][0]["weight"], own["hidden"][0]["weight"])
    np.testing.assert_array_equal(own["hidden"][1]["weight"], params["hidden"][1]["weight"])  # as when they share


def test_a_layer_of_few_outputs_is_the_same_product():
    x, key = jax.random.normal(jax.random.key(0), (9, 7)), jax.random.key(1)
    for outputs in (1, networks.FEW, networks.FEW + 1):
        layer = {"weight": jax.random.normal(key, (7, outputs)), "bias": jnp.arange(outputs, dtype=jnp.float32)}
        expected = np.asarray(x, np.float64) @ np.asarray(layer["weight"], np.float64) + np.arange(outputs)
        np.testing.assert_allclose(networks.linear(layer, x), expected, rtol=1e-5, atol=1e-5)


def unrolled(steps=7, actors=5):
    """Made-up streams with ends of both kinds, and a policy away from uniform."""
    rng = np.random.default_rng(0)
    params = networks.init_network(jax.random.key(0), 2, (8,), 3)
    params["policy"]["weight"] *= 100

    def real(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    ends = rng.integers(0, 4, (steps, actors))
    action = jnp.asarray(rng.integers(0, 3, (steps, actors)), jnp.int32)
    stream = Transition(
        real(steps, actors, 2), action, real(steps, actors), jnp.asarray(ends == 0), jnp.asarray(ends == 1)
    )
    return params, stream, real(steps, actors, 2)


def test_samples_are_those_of_a_plain_loop():
    params, stream, reached = unrolled()
    config = ppo.PPO(discount=0.9, trace_decay=0.8)
    got = jax.tree.map(np.asarray, ppo.samples_of(params, config, SPEC, stream, reached))
    _, ahead = networks.network(params, reached.reshape(-1, 2))
    logits, value = networks.network(params, stream.observation.reshape(-1, 2))
    value, ahead = np.asarray(value).reshape(7, 5), np.asarray(ahead).reshape(7, 5)
    policy = np.asarray(jax.nn.softmax(logits)).reshape(7, 5, 3)
    for actor in range(5):
        ends = (np.asarray(stream.terminated)[:, actor], np.asarray(stream.truncated)[:, actor])
        reward = np.asarray(stream.reward)[:, actor]
        advantage = slow_gae(reward, value[:, actor], ahead[:, actor], *ends, 0.9, 0.8)
        for t in range(7):
            row, action = t * 5 + actor, int(stream.action[t, actor])
            assert got.advantage[row] == pytest.approx(advantage[t], abs=1e-5)
            assert got.target[row] == pytest.approx(advantage[t] + value[t, actor], abs=1e-5)
            assert got.log_prob[row] == pytest.approx(np.log(policy[t, actor, action]), abs=1e-5)
            assert got.action[row] == action
            np.testing.assert_array_equal(got.observation[row], stream.observation[t, actor])


def test_the_loss_is_that_of_equation_9():
    params, stream, reached = unrolled()
    config = ppo.PPO(clip=0.3, entropy_cost=0.7, value_cost=0.4, normalize=False)
    samples = ppo.samples_of(params, config, SPEC, stream, reached)
    params = jax.tree.map(lambda x: 1.3 * x, params)  # the policy has moved on since it acted
    logits, value = (np.asarray(x, np.float64) for x in networks.network(params, samples.observation))
    policy = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    total, clipped = 0.0, 0
    for i in range(35):
        ratio = policy[i, samples.action[i]] / np.exp(float(samples.log_prob[i]))
        advantage = float(samples.advantage[i])
        held = min(max(ratio, 0.7), 1.3)
        clipped += held != ratio
        entropy = -(policy[i] * np.log(policy[i])).sum()
        error = 0.5 * (float(samples.target[i]) - value[i]) ** 2
        total += -min(ratio * advantage, held * advantage) + 0.4 * error - 0.7 * entropy
    assert 5 < clipped < 30
    assert float(ppo.loss(params, config, SPEC, samples)) == pytest.approx(total / 35, rel=1e-4)


def test_normalized_advantages_have_mean_zero_and_deviation_one():
    params, stream, reached = unrolled()
    config = ppo.PPO(value_cost=0.0)
    samples = ppo.samples_of(params, config, SPEC, stream, reached)
    advantage = np.asarray(samples.advantage)
    by_hand = dataclasses.replace(samples, advantage=jnp.asarray((advantage - advantage.mean()) / advantage.std()))
    moved = jax.tree.map(lambda x: 1.3 * x, params)
    plain = dataclasses.replace(config, normalize=False)
    assert float(ppo.loss(moved, config, SPEC, samples)) == pytest.approx(
        float(ppo.loss(moved, plain, SPEC, by_hand)), abs=1e-5
    )
    assert float(ppo.loss(moved, plain, SPEC, samples)) != pytest.approx(
        float(ppo.loss(moved, config, SPEC, samples)), abs=1e-2
    )


def test_a_ratio_outside_the_clip_has_no_gradient_where_it_would_gain():
    params, stream, reached = unrolled()
    config = ppo.PPO(value_cost=0.0, normalize=False, clip=0.2)
    samples = ppo.samples_of(params, config, SPEC, stream, reached)
    for shift, sign, silent in ((0.5, 1, True), (0.5, -1, False), (-0.5, -1, True), (-0.5, 1, False), (0.1, 1, False)):
        moved = dataclasses.replace(
            samples, log_prob=samples.log_prob - shift, advantage=jnp.full(35, sign, jnp.float32)
        )
        slope = jax.grad(lambda p, s=moved: ppo.loss(p, config, SPEC, s))(params)["policy"]["weight"]
        assert (np.abs(slope).max() < 1e-7) == silent, (shift, sign)


def test_the_learning_rate_falls_linearly_to_zero():
    config = ppo.PPO(learning_rate=1.0, decay_updates=2.0, adam_epsilon=1e6, max_grad_norm=None, **QUICK)
    optimizer: Any = ppo.optimizer(config)
    gradient = {"a": jnp.ones(1)}
    state, rates = optimizer.init(gradient), []
    for _ in range(18):  # of 2 updates with 4 epochs of 2 minibatches, and 2 more
        with jax.numpy_dtype_promotion("standard"):
            change, state = optimizer.update(gradient, state)
        rates.append(-1e6 * float(change["a"][0]))
    np.testing.assert_allclose(rates, [*(1 - np.arange(16) / 16), 0, 0], atol=1e-3)


def test_each_epoch_uses_every_sample_once(monkeypatch):
    """With a loss that adds up what it is given, the sums over an epoch are those of all samples."""
    seen = []
    plain = ppo.loss

    def spy(params, config, spec, samples):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), samples.target)
        return plain(params, config, spec, samples)

    monkeypatch.setattr(ppo, "loss", spy)
    family = Probes()
    source = ppo.PPO(**QUICK).make(family)
    task = take(family.all_tasks(), 4)
    state = source.init(jax.random.key(0), task)
    jax.block_until_ready(jax.jit(source.update)(jax.random.key(1), state, task))
    jax.effects_barrier()
    epochs = np.stack(seen).reshape(4, 64)
    for other in epochs[1:]:
        np.testing.assert_array_equal(np.sort(epochs[0]), np.sort(other))
    assert not np.array_equal(epochs[0], epochs[1])


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match=r"source.minibatches=3 must divide source.actors \* source.unroll = 64"):
        ppo.PPO(**{**QUICK, "minibatches": 3}).make(Probes())
    with pytest.raises(ConfigError, match=r"source.epochs must be at least 1; got 0"):
        ppo.PPO(epochs=0).make(Probes())
