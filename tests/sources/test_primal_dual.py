"""Primal-dual pi learning: the probes, each player's step against its definition, and what its paper says of them."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from source_helpers import assert_solves_the_probes, learn

from ad_jax import envs
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.errors import ConfigError
from ad_jax.sources import actor_critic, networks, primal_dual
from ad_jax.types import Discrete, Spec, Transition

SPEC = Spec(Discrete(3), (), (4,))
TABLES = primal_dual.PrimalDual(discount=0.8, entropy_cost=0.0, hidden=())
gradient_of = jax.jit(jax.grad(primal_dual.loss), static_argnums=2)


@pytest.mark.parametrize("hidden", [(), pytest.param((16,), marks=pytest.mark.slow)])
def test_primal_dual_solves_the_probes(hidden):
    config = primal_dual.PrimalDual(
        learning_rate=0.03,
        value_learning_rate=0.03,
        discount=0.5,
        entropy_cost=0.0,
        actors=8,
        unroll=8,
        epochs=2,
        hidden=hidden,
    )
    assert_solves_the_probes(config, 300)


def tables(seed=0):
    """Make up a policy and values of four states."""
    rng = np.random.default_rng(seed)
    params = networks.init_network(jax.random.key(0), 4, (), 3, shared=False)
    for name in ("policy", "value"):
        params[name]["weight"] = jnp.asarray(rng.normal(size=params[name]["weight"].shape), jnp.float32)
    return params


def unroll():
    """Make up steps with ends of both kinds, and what each led to."""
    rng, rows = np.random.default_rng(1), (6, 5)
    ends = rng.integers(0, 5, rows)
    stream = Transition(
        jnp.asarray(rng.integers(0, 4, rows), jnp.int32),
        jnp.asarray(rng.integers(0, 3, rows), jnp.int32),
        jnp.asarray(rng.normal(size=rows), jnp.float32),
        jnp.asarray(ends == 0),
        jnp.asarray(ends == 1),
    )
    return stream, jnp.asarray(rng.integers(0, 4, rows), jnp.int32)


def gradient(config, params, behaved_by):
    stream, reached = unroll()
    behaved = primal_dual.log_chosen(behaved_by, SPEC, stream)
    return gradient_of(params, config, SPEC, stream, reached, behaved)


@pytest.mark.parametrize("behaved_by", [0, 7], ids=["by itself", "by another policy"])
def test_each_player_takes_the_gradient_of_the_lagrangian_as_plain_sums_have_it(behaved_by):
    """Tables make the gradient a sum over steps, each of which moves both ends of its own."""
    config, params, other = dataclasses.replace(TABLES, penalty=0.7), tables(), tables(behaved_by)
    stream, reached = unroll()
    value = np.asarray(params["value"]["weight"][:, 0], np.float64)
    pi, b = (np.asarray(jax.nn.softmax(p["policy"]["weight"], axis=1), np.float64) for p in (params, other))
    of_value, of_policy, n = np.zeros(4), np.zeros((4, 3)), stream.reward.size
    columns = (stream.observation, stream.action, stream.reward, stream.terminated, reached)
    for s, a, r, ended, after in zip(*(np.asarray(x).reshape(-1) for x in columns), strict=True):
        onward = 0.0 if ended else 0.8
        advantage, ratio = r + onward * value[after] - value[s], pi[s, a] / b[s, a]
        pull = (ratio - 1) + 0.7 * advantage
        of_value[after] += pull * onward / n
        of_value[s] -= pull / n
        of_policy[s] -= ratio * advantage * (np.eye(3)[a] - pi[s]) / n
    found = gradient(config, params, other)
    np.testing.assert_allclose(found["value"]["weight"][:, 0], of_value, atol=1e-5)
    np.testing.assert_allclose(found["policy"]["weight"], of_policy, atol=1e-5)


def test_the_policys_step_is_actor_critics_where_it_acted_itself_and_the_values_is_not():
    """What the paper's abstract says of the two updates."""
    params, (stream, reached) = tables(), unroll()
    found = gradient(TABLES, params, params)
    one_step = actor_critic.ActorCritic(discount=0.8, trace_decay=0.0, entropy_cost=0.0, value_cost=1.0)
    theirs = jax.grad(actor_critic.loss)(params, one_step, SPEC, stream, reached)
    chex.assert_trees_all_close(found["policy"], theirs["policy"], rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(found["value"]["weight"] - theirs["value"]["weight"])).max() > 0.1


@pytest.mark.slow
def test_on_a_cart_pole_it_learns_where_one_step_actor_critic_does_not():
    """What the paper's abstract claims, by three seeds of each at equal steps, sizes and rates."""
    family = envs.make("gymnax", {"env_id": "CartPole-v1", "steps": 100, "scale": [1.0, 1.0, 0.1, 1.0]})
    same: dict[str, Any] = {"actors": 8, "unroll": 32, "hidden": (32, 32), "learning_rate": 1e-3, "discount": 0.98}

    def ended(config):
        """Mean steps of the episodes that each seed's last 30 of 150 updates end."""
        live = jax.vmap(lambda key: learn(config, family, family.default_params, 150, key)[1])
        t = live(jax.random.split(jax.random.key(0), 3))
        done = np.asarray(t.terminated | t.truncated)[:, -30:]
        return done[0].size / done.sum((1, 2, 3))

    ours = ended(primal_dual.PrimalDual(**same))
    theirs = ended(actor_critic.ActorCritic(**same, trace_decay=0.0))
    assert ours.min() > 60 > 30 > theirs.max()


def test_the_entropy_cost_moves_the_policy_alone():
    params = tables()
    without, costly = (gradient(dataclasses.replace(TABLES, entropy_cost=c), params, params) for c in (0.0, 1.0))
    chex.assert_trees_all_equal(without["value"], costly["value"])
    logits, of_entropy = params["policy"]["weight"], costly["policy"]["weight"] - without["policy"]["weight"]
    likeliest = [float(jax.nn.softmax(x, axis=1).max()) for x in (logits, logits - 0.1 * of_entropy)]
    assert likeliest[1] < likeliest[0]


def test_each_player_has_a_rate_and_a_clip_of_its_own():
    config = primal_dual.PrimalDual(learning_rate=1.0, value_learning_rate=10.0, adam_epsilon=1e6)  # Adam is linear
    gradients = {"policy": jnp.array([3.0, 4.0]), "hidden": [], "value": jnp.array([0.3, 0.4]), "convolutions": []}

    def change(limit):
        optimizer = primal_dual.optimizer(dataclasses.replace(config, max_grad_norm=limit))
        with jax.numpy_dtype_promotion("standard"):
            updates: Any = optimizer.update(gradients, optimizer.init(gradients))[0]
        return {name: -1e6 * np.asarray(updates[name]) for name in ("policy", "value")}

    whole, clipped = change(None), change(1.0)
    np.testing.assert_allclose([whole["policy"], whole["value"]], [[3.0, 4.0], [3.0, 4.0]], rtol=1e-4)
    np.testing.assert_allclose([clipped["policy"], clipped["value"]], [[0.6, 0.8], [3.0, 4.0]], rtol=1e-4)


def test_options_that_cannot_be_meant_are_refused():
    refused: list[tuple[dict[str, Any], str]] = [
        ({"penalty": -1.0}, r"source\.penalty must be at least 0 and finite; got -1"),
        ({"penalty": float("nan")}, r"source\.penalty must be at least 0 and finite; got nan"),
        ({"epochs": 0}, r"source\.epochs must be at least 1; got 0"),
    ]
    for options, words in refused:
        with pytest.raises(ConfigError, match=words):
            primal_dual.PrimalDual(**options).make(DarkRoom())
