"""Learners that run by themselves, and what estimates of advantage are held against."""

import functools

import jax
import numpy as np

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
