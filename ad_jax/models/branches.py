"""Streams that go on in many ways at once, which is what a planner decodes: W ways from each of B streams.

A way is a stream's past and the steps that were planned after it. `Branches` says how a backbone starts them, decodes a
step of each, and lets ways go on from others (`take`), which is how a beam search keeps its best. What one way gives is
what `decode` gives on its past and its plan, one after another; `ad_jax.testing.check_model` proves it.

A recurrent state is small, so every way has its own (`of_rows`). A window of keys and values is not: there the ways of
a stream read the past that they share, and each holds the keys and values of its plan alone (`of_ring`).

Letters: B streams, W ways, K heads, h head width, n tokens a step, P steps of the past, S steps of a plan.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float, Int32

from ad_jax.models.attention import MASKED
from ad_jax.models.memory import age
from ad_jax.types import Array, PyTree, Steps

if TYPE_CHECKING:
    from ad_jax.models.base import Model
    from ad_jax.models.cache import Ring
    from ad_jax.models.transformer import Transformer


class Branches(NamedTuple):
    """How a backbone's streams go on in many ways.

    Attributes:
        start: `(cache of B streams, W, S) -> ways`: W ways of each, which plan at most S steps.
        decode: `(params, ways, steps [B, W]) -> (outputs [B, W, head.size], ways)`, one step of each.
        take: `(ways, rows [B, W] int32) -> ways`: way i of stream b goes on from what was its way `rows[b, i]`.
    """

    start: Callable[[PyTree, int, int], PyTree]
    decode: Callable[[PyTree, PyTree, Steps], tuple[jax.Array, PyTree]]
    take: Callable[[PyTree, jax.Array], PyTree]


def branches_of(model: "Model") -> Branches:
    """Return a model's own branches; where it has none, those that copy its cache for each way."""
    return of_rows(model.decode) if model.branches is None else model.branches


def take(tree: PyTree, rows: Int32[Array, "B W"]) -> PyTree:
    """Return arrays `[B, W, ...]` with rows of W put in the place of others; scalars are shared and stay."""

    def of(x):
        if not x.ndim:
            return x
        return jax.vmap(lambda own, index: jnp.take(own, index, axis=0, mode="clip"))(x, rows)

    return jax.tree.map(of, tree)


def of_rows(decode: Callable[[PyTree, PyTree, Steps], tuple[jax.Array, PyTree]]) -> Branches:
    """Return the branches of any backbone whose cache leads with the batch: each way has a cache of its own."""

    def start(cache, ways, steps):
        def repeat(x):
            return jnp.broadcast_to(x[:, None], (len(x), ways, *x.shape[1:])) if x.ndim else x

        return jax.tree.map(repeat, cache)

    def step(params, ways, steps):
        batch, width = steps.prev_done.shape

        def flat(tree):
            return jax.tree.map(lambda x: x.reshape(batch * width, *x.shape[2:]) if x.ndim else x, tree)

        outputs, after = decode(params, flat(ways), flat(steps))
        return jax.tree.map(lambda x: x.reshape(batch, width, *x.shape[1:]) if x.ndim else x, (outputs, after))

    return Branches(start, step, take)


@struct.dataclass
class Plans:
    """The ways of a ring's streams."""

    past: "Ring"  # of B streams, read and never written
    keys: tuple[jax.Array, ...]  # layers of [B, W, K, S * n, h], rotated
    values: tuple[jax.Array, ...]
    planned: jax.Array  # [] int32, steps that every way has planned
    age: jax.Array | None  # [B, W] int32, steps seen of each way's episode; None where all that is seen counts


def of_ring(config: "Transformer", n: int, network: Callable[..., jax.Array], turn: Callable) -> Branches:
    """Return the branches of a transformer whose cache is a ring; `network` and `turn` as of `cache.ring_cache`."""
    window = config.window

    def start(cache, ways, steps):
        batch, heads, _, width = cache.keys[0].shape

        def empty():
            return tuple(jnp.zeros((batch, ways, heads, steps * n, width), x.dtype) for x in cache.keys)

        before = getattr(cache, "age", None)
        own = None if before is None else jnp.broadcast_to(before[:, None], (batch, ways))
        return Plans(cache, empty(), empty(), jnp.int32(0), own)

    def decode(params, plans, steps):
        batch, ways = steps.prev_done.shape
        own = None if plans.age is None else age(plans.age, steps.prev_done)
        position = (plans.past.time + plans.planned) * n + jnp.arange(n, dtype=jnp.int32)
        seen = _seen(plans, own, window, n)
        keys, values = list(plans.keys), list(plans.values)

        def by_way(x):
            return x.reshape(batch, ways, *x.shape[1:]).swapaxes(2, 3)

        def attend(layer, q, k, v, key):
            at = (0, 0, 0, plans.planned * n, 0)
            keys[layer] = jax.lax.dynamic_update_slice(keys[layer], by_way(turn(k, position)), at)
            values[layer] = jax.lax.dynamic_update_slice(values[layer], by_way(v), at)
            past = plans.past.keys[layer], plans.past.values[layer]
            out = branch_attention(by_way(turn(q, position)), past, (keys[layer], values[layer]), seen)
            return out.swapaxes(2, 3).reshape(q.shape)

        one = jax.tree.map(lambda x: x.reshape(batch * ways, 1, *x.shape[2:]), steps)
        outputs = network(params, one, position, attend).reshape(batch, ways, -1)
        after = plans.replace(keys=tuple(keys), values=tuple(values), planned=plans.planned + 1, age=own)
        return outputs, after

    def of(plans, rows):
        keys, values, own = take((plans.keys, plans.values, plans.age), rows)
        return plans.replace(keys=keys, values=values, age=own)

    return Branches(start, decode, of)


def _seen(plans: Plans, own: jax.Array | None, window: int, n: int) -> tuple[jax.Array, jax.Array]:
    """Return which tokens the next step of each way sees: of the past `[1 or B, 1 or W, 1, P * n]`, and of its own
    plan, itself included, `[1 or B, 1 or W, n, S * n]`.
    """
    time, planned, longest = plans.past.time, plans.planned, plans.keys[0].shape[3] // n
    slot = jnp.arange(window, dtype=jnp.int32)
    back = (time - 1 - slot) % window + planned + 1  # steps from each slot to the new step
    step = jnp.arange(longest, dtype=jnp.int32)
    ahead = planned - step  # the same of the plan; below 0 what is not planned yet
    past = ((slot < jnp.minimum(time, window)) & (back < window))[None, None]
    plan = ((ahead >= 0) & (ahead < window))[None, None]
    if own is not None:
        past, plan = past & (back[None, None] < own[..., None]), plan & (ahead[None, None] < own[..., None])
    token = jnp.arange(n, dtype=jnp.int32)
    not_later = (ahead[:, None] > 0)[None] | (token[None, None] <= token[:, None, None])  # [n, S, n]
    seen = plan[:, :, None, :, None] & not_later[None, None]
    return jnp.repeat(past, n, axis=2)[:, :, None], seen.reshape(*seen.shape[:3], longest * n)


def branch_attention(
    q: Float[Array, "B W K n h"],
    past: tuple[Float[Array, "B K Pn h"], Float[Array, "B K Pn h"]],
    own: tuple[Float[Array, "B W K Sn h"], Float[Array, "B W K Sn h"]],
    seen: tuple[Bool[Array, "#B #W 1 Pn"], Bool[Array, "#B #W n Sn"]],
) -> Float[Array, "B W K n h"]:
    """Attention of one step of each way to the past of its stream and to its own plan, which holds that step.

    Args:
        q: queries of the step's tokens.
        past: keys and values that the ways of a stream share; slots not yet written hold anything finite.
        own: keys and values of each way's plan, likewise.
        seen: which of them each query sees; at least its own.
    """
    batch, ways, heads, n, width = q.shape
    scaled = q * width**-0.5
    # All ways of a stream side by side: one product of matrices a head, not a product of a vector for each way.
    side = scaled.transpose(0, 2, 1, 3, 4).reshape(batch, heads, ways * n, width)

    def scores(x, keys, to):
        return jnp.einsum(to, x, keys, preferred_element_type=jnp.float32)

    of_past = scores(side, past[0], "bkqh,bksh->bkqs").reshape(batch, heads, ways, n, -1)
    of_past = jnp.where(seen[0][:, None], of_past, MASKED)
    of_own = jnp.where(seen[1][:, :, None], scores(scaled, own[0], "bwknh,bwksh->bwkns"), MASKED)
    most = jnp.maximum(of_past.max(-1).swapaxes(1, 2), of_own.max(-1))[..., None]  # [B, W, K, n, 1]
    past_weights, own_weights = jnp.exp(of_past - most.swapaxes(1, 2)), jnp.exp(of_own - most)
    total = past_weights.sum(-1, keepdims=True).swapaxes(1, 2) + own_weights.sum(-1, keepdims=True)
    folded = past_weights.reshape(batch, heads, ways * n, -1).astype(past[1].dtype)
    from_past = jnp.einsum("bkqs,bksh->bkqh", folded, past[1], preferred_element_type=jnp.float32)
    from_past = from_past.reshape(batch, heads, ways, n, width).swapaxes(1, 2)
    from_own = jnp.einsum(
        "bwkns,bwksh->bwknh", own_weights.astype(own[1].dtype), own[1], preferred_element_type=jnp.float32
    )
    return ((from_past + from_own) / total).astype(q.dtype)
