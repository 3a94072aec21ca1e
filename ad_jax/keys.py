"""One seed, one tree of keys: every random number is named by its purpose and by ids, never by call order.

A key depends on (seed, purpose, ids) alone. So a learner's history does not depend on which chunk or device ran it,
a batch depends on its step alone, and a resumed run draws what the uninterrupted one would have drawn.
"""

import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.types import PyTree

IMPLEMENTATION = "threefry2x32"  # named with every key, so that jax_default_prng_impl changes no number


def a_key(seed: int | np.integer | jax.Array) -> jax.Array:
    """Return a typed key, shape `()`, of the implementation that is ours."""
    return jax.random.key(seed, impl=IMPLEMENTATION)


def named_key(seed: int | np.integer | jax.Array, purpose: str, *ids: int | str) -> jax.Array:
    """Key for `purpose` and `ids`; strings enter by their CRC-32.

    Args:
        seed: the experiment's seed, 0 <= seed < 2**32; in a compiled program a `[]` uint32.
        purpose: name of the stream, e.g. `"collect"`.
        ids: what distinguishes keys of one purpose: a task id, a seed index, a step.

    Returns:
        A typed key, shape `()`.
    """
    key = a_key(seed)
    for part in (purpose, *ids):
        key = jax.random.fold_in(key, number_of(part))
    return key


def task_keys(seed: int, purpose: str, task_ids: Sequence[str], row: np.ndarray, seeds: int) -> jax.Array:
    """Keys `[rows]` for rows of tasks x seeds in task-major order: row r is seed `r % seeds` of task `r // seeds`."""
    tasks, of_row = np.unique(row // seeds, return_inverse=True)
    names = np.array([number_of(task_ids[int(i)]) for i in tasks], np.uint32)[of_row]

    def fold(task, index):
        return jax.random.fold_in(jax.random.fold_in(named_key(seed, purpose), task), index)

    return jax.vmap(fold)(names, np.asarray(row % seeds, np.uint32))


def number_of(part: int | str) -> int:
    """Return a name as a 32-bit number, the same in every process and Python version."""
    return zlib.crc32(part.encode()) if isinstance(part, str) else int(part) % 2**32


def mixed(x: PyTree) -> PyTree:
    """Each uint32 of a NumPy or JAX array as another: the finalizer of MurmurHash3, in which every bit moves all."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def halves(word: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two independent float32 in [0, 1) from the 32 bits of each random `word`, for half the random numbers."""

    def half(x):
        return x.astype(jnp.float32) * 2**-16

    return half(word >> 16), half(word & 0xFFFF)


def as_data(tree: PyTree) -> PyTree:
    """Arrays, or shapes with shardings, with the data of random keys in their place: what a file can hold."""

    def data_of(x: PyTree) -> PyTree:
        if not _is_key(x):
            return x
        if isinstance(x, jax.Array):
            return jax.random.key_data(x)
        data = jax.eval_shape(jax.random.key_data, x)
        return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=x.sharding)

    return jax.tree.map(data_of, tree)


def as_keys(tree: PyTree, like: PyTree) -> PyTree:
    """Inverse of `as_data`; the keys are of the kind that `like` has there."""

    def kind(like):
        return jax.random.key_impl(jnp.zeros((), like.dtype))

    def wrap(x, like):
        return jax.random.wrap_key_data(x, impl=kind(like)) if _is_key(like) else x

    return jax.tree.map(wrap, tree, like)


def _is_key(x: PyTree) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
