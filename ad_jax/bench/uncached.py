"""The reference for cached evaluation: the same rollouts, but every step encodes its whole context anew.

A `Model` whose "cache" holds nothing but the raw last steps, for the same evaluator; so all that differs is the cache.
For backbones whose positions slide (a context of absolute positions moves by whole episodes; this does not follow it).
"""

import jax
import jax.numpy as jnp
from flax import struct

from ad_jax.models.base import Model, empty_steps
from ad_jax.types import PyTree, Spec, Steps


@struct.dataclass
class Held:
    """The last C steps of every rollout, oldest first."""

    steps: Steps  # [B, C, ...]
    count: jax.Array  # [] int32, how many of them are there


def uncached(model: Model, spec: Spec, context: int | None = None) -> Model:
    """`model` with a `decode` that encodes the last `context` steps at every step.

    Args:
        model: whose `apply` encodes the steps.
        spec: of the steps that the model sees.
        context: C; default the window, which is what code without a cache does. Past the window it is then not the same
            function where layers see on through one another; with the steps that `model.context_start` names it is.
    """
    size = context or model.window

    def init_cache(batch: int) -> Held:
        return Held(empty_steps(spec, batch, size), jnp.int32(0))

    def decode(params: PyTree, cache: Held, steps: Steps) -> tuple[jax.Array, Held]:
        full, slot = cache.count >= size, jnp.minimum(cache.count, size - 1)

        def push(held, new):
            moved = jnp.where(full, jnp.roll(held, -1, axis=1), held)
            return jax.lax.dynamic_update_index_in_dim(moved, new.astype(held.dtype), slot, 1)

        held = jax.tree.map(push, cache.steps, steps)
        # Attention is causal, so empty places after the newest step change nothing.
        logits = model.apply(params, held)
        return jax.lax.dynamic_index_in_dim(logits, slot, 1, keepdims=False), Held(held, cache.count + 1)

    return model._replace(init_cache=init_cache, decode=decode)
