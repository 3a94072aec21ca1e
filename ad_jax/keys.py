"""One seed, one tree of keys: every random number is named by its purpose and by ids, never by call order.

A key depends on (seed, purpose, ids) alone. So a learner's history does not depend on which chunk or device ran it,
a batch depends on its step alone, and a resumed run draws what the uninterrupted one would have drawn.
"""

import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

IMPLEMENTATION = "threefry2x32"  # named with every key, so that jax_default_prng_impl changes no number


def a_key(seed: int | jax.Array) -> jax.Array:
    """A typed key, shape `()`, of the implementation that is ours."""
    return jax.random.key(seed, impl=IMPLEMENTATION)


def named_key(seed: int, purpose: str, *ids: int | str) -> jax.Array:
    """Key for `purpose` and `ids`; strings enter by their CRC-32.

    Args:
        seed: the experiment's seed, 0 <= seed < 2**32.
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
    names = np.array([number_of(task_ids[int(i)]) for i in row // seeds], np.uint32)
    fold = lambda task, index: jax.random.fold_in(jax.random.fold_in(named_key(seed, purpose), task), index)
    return jax.vmap(fold)(names, np.asarray(row % seeds, np.uint32))


def number_of(part: int | str) -> int:
    """A name as a 32-bit number, the same in every process and Python version."""
    return zlib.crc32(part.encode()) if isinstance(part, str) else int(part) % 2**32


def halves(word: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two independent float32 in [0, 1) from the 32 bits of each random `word`, for half the random numbers."""
    half = lambda x: x.astype(jnp.float32) * 2**-16
    return half(word >> 16), half(word & 0xFFFF)
