"""Learners that run by themselves, and what estimates of advantage are held against."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import NAMES, Probes

from ad_jax.envs.base import spec_of
from ad_jax.sources import networks
from ad_jax.sources.ucb import UCB

KINDS = ((False, False), (True, False), (False, True))  # goes on, terminated, truncated


def slow_gae(reward, value, next_value, terminated, truncated, discount, trace_decay):
    """Return the definition, forwards: the sum over later errors of the same episode."""
    advantage = np.zeros(len(reward))
    for t in range(len(reward)):
        for k in range(t, len(reward)):
            ahead = 0.0 if terminated[k] else next_value[k]
            advantage[t] += (discount * trace_decay) ** (k - t) * (reward[k] + discount * ahead - value[k])
            if terminated[k] or truncated[k]:
                break
    return advantage


@functools.partial(jax.jit, static_argnums=(1, 3))
def learn(config, family, task, updates, key):
    """Return the final state and all transitions `[updates, steps, actors, ...]` of one learner."""
    source = config.make(family)
    key_init, key_updates = jax.random.split(key)

    def update(state, key):
        return source.update(key, state, task)

    return jax.lax.scan(update, source.init(key_init, task), jax.random.split(key_updates, updates))


def named_by_a_function(config: UCB, family):
    """Make a source as plug-ins were made, and named, before they were classes."""
    return config.make(family)


def assert_solves_the_probes(config, updates: int) -> None:
    """Assert that a source with networks knows values and best actions of every probe after so many updates."""
    family = Probes()
    solve = jax.vmap(lambda task, key: learn(config, family, task, updates, key))
    state, _ = solve(family.all_tasks(), jax.random.split(jax.random.key(0), len(NAMES)))
    x = networks.features(spec_of(family), jnp.arange(2))
    logits, value = jax.vmap(lambda params: networks.network(params, x))(state.params)
    policy = dict(zip(NAMES, np.asarray(jax.nn.softmax(logits))))
    value = dict(zip(NAMES, np.asarray(value)))
    assert value["constant"][0] == pytest.approx(1, abs=0.1)
    assert value["two steps"] == pytest.approx([0.5, 1], abs=0.1)
    assert value["observation"] == pytest.approx([-1, 1], abs=0.1)
    assert value["cut"] == pytest.approx([1, 2], abs=0.1)
    assert value["both"] == pytest.approx([1, 1], abs=0.1)
    assert policy["action"][0, 1] > 0.95
    assert np.diag(policy["both"]).min() > 0.95
