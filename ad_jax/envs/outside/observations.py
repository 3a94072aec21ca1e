"""Observations of any structure as one array, by one rule.

1. One array of uint8 `[height, width, channels]` of which the adapter does not say how many values it takes is a
   picture, and stays as it is.
2. Everything else is made one row: the leaves in the tree's order (dictionaries by name, tuples and named tuples by
   place), each flattened row-major. Masks of what may be done are leaves like any other.
3. Where every leaf is of whole numbers and it is known how many values each takes (2 of a bool; of others the adapter
   says it, because what libraries state is often wrong), the row is int32, and models embed it, if their table is not
   larger than `spaces.ROWS`. Otherwise the row is float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces

from ad_jax.envs.spaces import ROWS
from ad_jax.errors import ConfigError
from ad_jax.types import Array, PyTree


def space_of(name: str, seen: PyTree, values: PyTree = None) -> spaces.Box:
    """Return the space of the row, or of the picture.

    Args:
        name: of the family, for errors.
        seen: shape and dtype of each leaf of a real observation.
        values: how many values a leaf's components take, a tree of the same structure, whose leaves broadcast; None
            where that is not known, and in place of a leaf of bools.

    Raises:
        ConfigError: for an observation without numbers, or with numbers that are not real.
    """
    leaves = jax.tree.leaves(seen)
    for leaf in leaves:
        if not any(jnp.issubdtype(leaf.dtype, kind) for kind in (jnp.bool_, jnp.integer, jnp.floating)):
            raise ConfigError(f"{name}: observations must be real numbers; got {leaf.dtype}{list(leaf.shape)}")
    size = sum(leaf.size for leaf in leaves)
    if size == 0:
        raise ConfigError(f"{name}: an observation has no components; got {jax.tree.structure(seen)}")
    if values is None and len(leaves) == 1 and leaves[0].dtype == np.uint8 and len(leaves[0].shape) == 3:
        return spaces.Box(0, 255, tuple(leaves[0].shape), jnp.uint8)
    counts = _counts(seen, values)
    if counts is None or counts.sum() > ROWS:
        return spaces.Box(-np.inf, np.inf, (size,), jnp.float32)
    high: Array = counts - 1
    return spaces.Box(0, high, (size,), jnp.int32)


def row(seen: PyTree, space: spaces.Box) -> jax.Array:
    """Return an observation as its space says: one row `[n]`, or the picture."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(seen)]
    if space.dtype == jnp.uint8:
        return leaves[0]
    return jnp.concatenate([leaf.astype(space.dtype).reshape(-1) for leaf in leaves])


def _counts(seen: PyTree, values: PyTree) -> np.ndarray | None:
    """Return how many values each component of the row takes, `[n]` int32; None where one may be any number."""
    told = [None] * len(jax.tree.leaves(seen))
    if values is not None:
        told = jax.tree.leaves(values, is_leaf=lambda x: x is None)
    found = []
    for leaf, count in zip(jax.tree.leaves(seen), told, strict=True):
        if leaf.dtype == bool:
            count = 2
        if count is None or not (leaf.dtype == bool or jnp.issubdtype(leaf.dtype, jnp.integer)):
            return None
        found.append(np.broadcast_to(np.asarray(count, np.int32), leaf.shape).reshape(-1))
    return np.concatenate(found)
