"""Attention over a segment that goes on from a cache: L steps at once that also see the steps before them.

It is what `ring_attention` gives step by step, with a gradient, and as `segment_attention` costs L * W: queries are
cut into blocks, and a block's keys are its own and those of the window before it. Letters as in `attention.py`.
"""

import dataclasses
import itertools
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32

from ad_jax.models.attention import MASKED, Band, banded
from ad_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Onward(Band):
    """Who sees whom where something comes before the first block, too."""

    window: int  # W, in steps
    before: int  # tokens of keys that come before a block's own: the window's at least, whole steps

    @property
    def spans(self) -> tuple[tuple[slice, slice], ...]:
        """As of a `Band`."""
        ends = sorted({round(self.block * i / 3) for i in range(4)})
        skipped = self.before - (self.window - 1) * self.n
        return tuple(
            (slice(first, end), slice(first - first % self.n + skipped, self.before + end))
            for first, end in itertools.pairwise(ends)
        )

    def bias(self, queries: slice, keys: slice) -> np.ndarray:
        """As of a `Band`, `[1, 1, queries, keys]`: every block is alike."""
        query = np.arange(self.block)[queries, None] + self.before
        key = np.arange(self.before + self.block)[None, keys]
        seen = (key <= query) & (key // self.n > query // self.n - self.window)
        return np.where(seen, 0, MASKED).astype(np.float32)[None, None]


def onward_attention(
    q: Float[Array, "B T K h"],
    k: Float[Array, "B K S h"],
    v: Float[Array, "B K S h"],
    *,
    window: int,
    n: int,
    stretch: tuple[Int32[Array, "B T"], Int32[Array, "B S"]],
) -> Float[Array, "B T K h"]:
    """Attention of T = L * n new tokens to themselves and to the W - 1 steps before them.

    Args:
        q: queries of the new tokens.
        k: keys of S = (W - 1) * n + T tokens, in order; those that were never written hold anything finite.
        v: values, as `k`.
        window: W, in steps.
        n: tokens per step.
        stretch: numbers of the stretch, an episode or a lifetime, that each query and each key belongs to: only those
            of one see each other. Numbers of new tokens are 0 and above.
    """
    batch, length, heads, width = q.shape
    block = min(length, window * n)
    blocks = -(-length // block)
    # In more than one block, keys are cut into blocks, too: one more step before the first makes them fit.
    front, back = 0 if blocks == 1 else n, blocks * block - length
    band = Onward(block, n, blocks, window, (window - 1) * n + front)

    def mine(x):  # [B, T, ...] -> [B * blocks, block, ...]
        padded = jnp.pad(x, ((0, 0), (0, back), *((0, 0),) * (x.ndim - 2)))
        return padded.reshape(batch * blocks, block, *x.shape[2:])

    def theirs(x, fill=0):  # [B, K, S, h] -> [B * blocks, K, before + block, h]
        x = jnp.pad(x, ((0, 0), (0, 0), (front, back), (0, 0)), constant_values=fill)
        if blocks > 1:
            cut = x.reshape(*x.shape[:2], blocks + 1, block, x.shape[-1])
            x = jnp.concatenate([cut[:, :, :-1], cut[:, :, 1:]], axis=3).swapaxes(1, 2)
        return x.reshape(batch * blocks, -1, band.before + block, x.shape[-1])

    number, numbers = stretch
    of = mine(number)[:, None, :, None], theirs(numbers[:, None, :, None], -1).swapaxes(2, 3)
    scaled = mine(q * width**-0.5).swapaxes(1, 2)
    out, _ = cast(tuple[jax.Array, jax.Array], banded(band, 0.0, scaled, theirs(k), theirs(v), None, of))
    return out.swapaxes(1, 2).reshape(batch, -1, heads, width)[:, :length]
