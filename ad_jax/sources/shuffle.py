"""`jax.random.permutation`, number for number, by sorts that a CPU does quickly.

JAX sorts pairs of random bits and values, for which XLA calls a comparison function for every pair that it compares.
Numbers alone it sorts by machine instructions, about six times as fast. So bits and place are packed into one number,
as many bits as leave room for the place; the few whose leading bits are equal are put in order afterwards.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Int32, UInt32

from ad_jax.types import Array

PACKED = 2**13  # numbers, at most, whose place leaves enough bits that few are equal


def permutation(key: jax.Array, n: int) -> Int32[Array, " n"]:
    """Return 0..n-1 in the order that `jax.random.permutation(key, n)` gives. The key is consumed."""
    if n > PACKED:
        return jax.random.permutation(key, n)

    def sort(carry, _):
        key, order = carry
        key, key_bits = jax.random.split(key)
        return (key, order[stable_order(jax.random.bits(key_bits, (n,), jnp.uint32))]), None

    start = key, jnp.arange(n, dtype=jnp.int32)
    return jax.lax.scan(sort, start, length=rounds(n))[0][1]  # a loop: compiled once


def rounds(n: int) -> int:
    """Return how often JAX sorts by new random bits, so that equal bits matter to no order of `n`."""
    return math.ceil(3 * math.log(max(1, n)) / math.log(2**32 - 1))


def stable_order(bits: UInt32[Array, " n"]) -> Int32[Array, " n"]:
    """Return the places of `bits` from the smallest to the largest; equal ones keep their order."""
    n = len(bits)
    room = (n - 1).bit_length()
    packed = bits >> room << room | jnp.arange(n, dtype=jnp.uint32)
    place = jax.lax.sort(packed) & jnp.uint32(2**room - 1)
    none = jnp.zeros(1, bool)

    def falls(pair):
        return pair[0, :-1] > pair[0, 1:]

    def swap(pair):
        first = falls(pair)
        first = jnp.concatenate([first[:1], first[1:] & ~first[:-1], none])  # of two neighbors that change places
        second = jnp.concatenate([none, first[:-1]])
        return jnp.where(first[None], jnp.roll(pair, -1, 1), jnp.where(second[None], jnp.roll(pair, 1, 1), pair))

    pair = jax.lax.while_loop(lambda pair: jnp.any(falls(pair)), swap, jnp.stack([bits[place], place]))
    return pair[1].astype(jnp.int32)
