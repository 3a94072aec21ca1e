"""The two caches of a transformer: what is kept of the past, so that a decoded step costs one step.

    ring      the last W steps, overwritten in order: for rotary positions, whose attention slides by one step
    episodes  the last whole episodes: for absolute positions, whose context cannot slide; at an episode boundary where
              the next episode would not fit, the oldest episodes are dropped and the rest encoded anew

Both give exactly what `apply` gives on the context that `context_start` names. Letters as in `transformer.py`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ad_jax.models.attention import ring_attention
from ad_jax.models.base import empty_steps
from ad_jax.models.fused import chosen_attention
from ad_jax.models.memory import age, age_after, last_boundary, stretches
from ad_jax.models.onward import onward_attention
from ad_jax.types import PyTree, Spec, Steps

if TYPE_CHECKING:
    from ad_jax.models.transformer import Transformer

Network = Callable[..., PyTree]  # (params, steps [B, L], position, attend) -> outputs [B, L, ...]


@struct.dataclass
class Ring:
    """The last W steps of every layer."""

    keys: tuple[jax.Array, ...]  # layers of [B, K, W * n, h], rotated
    values: tuple[jax.Array, ...]
    time: jax.Array  # [] int32, steps seen; one stream clock for the whole batch


@struct.dataclass
class AgedRing(Ring):
    """The same where each row sees no further back than its own age: of its episode, or of its lifetime, which began
    when the clock was running.
    """

    age: jax.Array  # [B] int32, steps seen of each row's episode or lifetime


@struct.dataclass
class Episodes:
    """The last whole episodes, up to W steps, and their raw steps to encode them from."""

    keys: tuple[jax.Array, ...]  # layers of [B, K, W * n, h]
    values: tuple[jax.Array, ...]
    steps: Steps  # [B, W]
    count: jax.Array  # [B] int32, steps held


def ring_cache(
    config: "Transformer", n: int, network: Network, turn: Callable, aged: bool = False
) -> tuple[Callable, Callable, Callable, Callable]:
    """`init_cache`, `decode`, `context_start` and `unroll` of a ring of W steps.

    Args:
        config: of the transformer.
        n: tokens of a step.
        network: gives outputs, or a tree of them.
        turn: puts rotary positions on q and k.
        aged: rows may begin anew on their own: each counts the steps of its lifetime.
    """
    window, forgets = config.window, config.memory == "episode"
    aged = aged or forgets

    def init_cache(batch):
        ring = *_empty(config, n, batch), jnp.int32(0)
        return AgedRing(*ring, jnp.zeros((batch,), jnp.int32)) if aged else Ring(*ring)

    def decode(params, cache, steps):
        own = None
        if aged:
            own = age(cache.age, steps.prev_done) if forgets else cache.age + 1
        slot, filled = cache.time % window, jnp.minimum(cache.time + 1, window)
        position = cache.time * n + jnp.arange(n, dtype=jnp.int32)
        keys, values = list(cache.keys), list(cache.values)

        def attend(layer, q, k, v, key):
            at = (0, 0, slot * n, 0)
            keys[layer] = jax.lax.dynamic_update_slice(keys[layer], _by_head(turn(k, position)), at)
            values[layer] = jax.lax.dynamic_update_slice(values[layer], _by_head(v), at)
            return ring_attention(
                turn(q, position),
                keys[layer],
                values[layer],
                slot=slot[None, None],
                filled=filled[None, None],
                age=None if own is None else own[:, None],
            )

        outputs = network(params, jax.tree.map(lambda x: x[:, None], steps), position, attend)
        after = {"keys": tuple(keys), "values": tuple(values), "time": cache.time + 1}
        outputs = jax.tree.map(lambda x: x[:, 0], outputs)
        return outputs, cache.replace(**after) if own is None else cache.replace(**after, age=own)

    def unroll(params, cache, steps):
        batch, length = steps.prev_done.shape
        before = cache.age if aged else jnp.broadcast_to(cache.time, (batch,))
        position = cache.time * n + jnp.arange(length * n, dtype=jnp.int32)
        stretch = stretches(before, steps.prev_done if forgets else jnp.zeros_like(steps.prev_done), window, n)
        keys, values = list(cache.keys), list(cache.values)

        def onward(ring, new):
            """Return the W - 1 steps of a ring in order with the new ones, and the ring of the last W of them."""
            past = jnp.roll(ring, -(cache.time % window) * n, axis=2)[:, :, n:]
            held = jnp.concatenate([past, _by_head(new).astype(ring.dtype)], axis=2)
            return held, jnp.roll(held[:, :, -window * n :], (cache.time + length) % window * n, axis=2)

        def attend(layer, q, k, v, key):
            held_keys, keys[layer] = onward(keys[layer], turn(k, position))
            held_values, values[layer] = onward(values[layer], v)
            return onward_attention(turn(q, position), held_keys, held_values, window=window, n=n, stretch=stretch)

        outputs = network(params, steps, position, attend)
        after = cache.replace(keys=tuple(keys), values=tuple(values), time=cache.time + length)
        if not aged:
            return outputs, after
        return outputs, after.replace(age=age_after(before, steps.prev_done) if forgets else before + length)

    def context_start(prev_done):
        # Each layer sees W - 1 steps back, so what reaches the logits came from at most layers * (W - 1) steps ago.
        begun = last_boundary(prev_done) if forgets else 0
        return max(begun, len(prev_done) - 1 - config.layers * (window - 1))

    return init_cache, decode, context_start, unroll


def episode_cache(config: Any, spec: Spec, n: int, network: Network) -> tuple[Callable, Callable, Callable]:
    """`init_cache`, `decode` and `context_start` of a cache that moves by whole episodes."""
    window, longest = config.window, config.episode_length

    def init_cache(batch):
        return Episodes(*_empty(config, n, batch), empty_steps(spec, batch, window), jnp.zeros((batch,), jnp.int32))

    def decode(params, cache, steps):
        full = steps.prev_done & (cache.count + longest > window)
        cache = jax.lax.cond(full.any(), lambda c: drop_oldest(params, c, full), lambda c: c, cache)
        slot = cache.count[:, None]  # [B, 1]
        here = jnp.arange(window, dtype=jnp.int32)[None] == slot  # [B, W]

        def put(held, new):
            """Row b of `held [B, K, W * n, h]` takes `new [B, n, K, h]` at `slot[b]`."""
            new = jnp.tile(_by_head(new).astype(held.dtype), (1, 1, window, 1))
            return jnp.where(jnp.repeat(here, n, axis=1)[:, None, :, None], new, held)

        def put_step(held, new):  # [B, W, ...], [B, ...]
            return jnp.where(here.reshape(*here.shape, *(1,) * (held.ndim - 2)), new[:, None].astype(held.dtype), held)

        keys, values = list(cache.keys), list(cache.values)

        def attend(layer, q, k, v, key):
            keys[layer], values[layer] = put(keys[layer], k), put(values[layer], v)
            return ring_attention(q, keys[layer], values[layer], slot=slot, filled=slot + 1)

        one = jax.tree.map(lambda x: x[:, None], steps)
        logits = network(params, one, slot * n + jnp.arange(n, dtype=jnp.int32)[None], attend)
        held = jax.tree.map(put_step, cache.steps, steps)
        return logits[:, 0], Episodes(tuple(keys), tuple(values), held, cache.count + 1)

    def drop_oldest(params, cache, full):
        """In the rows that are `full`, keep as many whole episodes as leave room for another; encode them anew."""
        index = jnp.arange(window, dtype=jnp.int32)[None]
        fits = (
            (index < cache.count[:, None]) & cache.steps.prev_done & (cache.count[:, None] - index + longest <= window)
        )
        start = jnp.where(fits.any(1), jnp.argmax(fits, axis=1), cache.count)
        start = jnp.where(full, start, 0)
        moved = jax.tree.map(lambda x: jax.vmap(lambda row, s: jnp.roll(row, -s, axis=0))(x, start), cache.steps)
        keys, values = [], []

        def attend(layer, q, k, v, key):
            for store, new in ((keys, k), (values, v)):
                store.append(_by_head(new))
            return chosen_attention(q, k, v, window=window, n=n, kind=config.attention)

        network(params, moved, jnp.arange(window * n, dtype=jnp.int32), attend)

        def pick(new, old):
            return jnp.where(full.reshape(-1, *(1,) * (old.ndim - 1)), new.astype(old.dtype), old)

        return Episodes(
            jax.tree.map(pick, tuple(keys), cache.keys),
            jax.tree.map(pick, tuple(values), cache.values),
            moved,
            cache.count - start,
        )

    def context_start(prev_done):
        begins, start = [0], 0  # first steps of the episodes so far
        for t, boundary in enumerate(np.asarray(prev_done)):
            if boundary and t > 0:
                if t - start + longest > window:
                    start = next((b for b in begins if b > start and t - b + longest <= window), t)
                begins.append(t)
        return start

    return init_cache, decode, context_start


def _empty(config, n, batch):
    """Keys and values of no steps. Zeros, not NaN: a masked slot still meets a zero weight, and 0 * NaN is NaN."""
    shape = (batch, config.heads, config.window * n, config.width // config.heads)

    def layers():
        return tuple(jnp.zeros(shape, config.compute_dtype) for _ in range(config.layers))

    return layers(), layers()


def _by_head(x):
    """`[B, T, K, h]` as the caches lie, `[B, K, T, h]`: a step then reads each head's past in one piece.

    Steps and tokens share an axis, because a reshape between the update of a ring and its use makes XLA copy the ring.
    """
    return x.swapaxes(1, 2)
