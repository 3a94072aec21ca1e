"""A context of exactly the last W steps: a queue of them, encoded anew for every action.

A cache of keys and values remembers more than its window: what a layer kept of a step was itself computed from the
steps before it, so L layers reach L windows back. Where the length of the context is the question (Laskin et al. 2022,
arXiv 2210.14215, figure 7, "a queue of the last c transitions"), that must not be. The price is W times the work of a
cached step, which is why this is an option and not the rule.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad_jax.models.base import Model, empty_steps
from ad_jax.types import Spec, Steps


class Queue(NamedTuple):
    """The last steps of every row, oldest first; slots from `seen` on are empty."""

    steps: Steps  # [B, W]
    seen: jax.Array  # [] int32, steps ever seen


def with_queue(apply: Callable[..., jax.Array], init: Callable, window: int, spec: Spec) -> Model:
    """Return the `Model` whose logits depend on the last `window` steps and nothing before them.

    Args:
        apply: of a causal backbone, for segments up to `window`.
        init: of that backbone.
        window: W.
        spec: of what the model sees.
    """

    def init_cache(batch):
        return Queue(empty_steps(spec, batch, window), jnp.int32(0))

    def decode(params, cache, steps):
        last = jnp.minimum(cache.seen, window - 1)

        def put(old, new):
            moved = jnp.where(cache.seen >= window, jnp.roll(old, -1, axis=1), old)
            return jax.lax.dynamic_update_index_in_dim(moved, new, last, 1)

        queue = jax.tree.map(put, cache.steps, steps)
        # What stands in the empty slots comes later than `last`, and a causal model does not look there.
        logits = jax.lax.dynamic_index_in_dim(apply(params, queue), last, 1, keepdims=False)
        return logits, Queue(queue, cache.seen + 1)

    def start(prev_done):
        return max(0, len(prev_done) - window)

    return Model(init, apply, init_cache, decode, start, window, window)
