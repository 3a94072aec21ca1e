"""Policies that are written and not trained, as models without parameters. The random policy is one of them.

They keep the backbone contract, so that evaluation rolls them out on the same held-out tasks as a trained model. What
they know of a life is in their cache; `apply` runs `decode` over the segment, from the start of a life.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ad_jax.models.base import Cache, Model
from ad_jax.types import Spec, Steps

SPAN = 16  # steps that stand for a window where one is asked for: what is known of a life has no end
NEVER = -1e9  # the logit of an action that is not taken; finite, as the contract asks


def scripted(init_cache: Callable[[int], Cache], decode: Callable[[Cache, Steps], tuple[jax.Array, Cache]]) -> Model:
    """A `Model` of a policy `decode: (cache, steps [B]) -> (logits [B, A], cache)`."""

    def apply(params, steps, key=None):
        def step(cache, now):
            logits, cache = decode(cache, now)
            return cache, logits

        time_first = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), steps)
        return jax.lax.scan(step, init_cache(len(steps.prev_action)), time_first)[1].swapaxes(0, 1)

    return Model(
        init=lambda key: {},
        apply=apply,
        init_cache=init_cache,
        decode=lambda params, cache, steps: decode(cache, steps),
        context_start=lambda prev_done: 0,
        window=SPAN,
        max_segment=None,
    )


@dataclasses.dataclass(frozen=True)
class Random:
    """No options."""


def make_random(config: Random, spec: Spec) -> Model:
    """The uniformly random policy: every logit is 0."""
    zeros = lambda batch: jnp.zeros((batch, spec.num_actions), jnp.float32)
    return scripted(lambda batch: (), lambda cache, steps: (zeros(len(steps.prev_action)), cache))
