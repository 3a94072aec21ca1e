"""A number for the bits of a tree of arrays, the same wherever its arrays lie and however they are split.

In: arrays, of this process alone or sharded over several. Out: 32 bits for each leaf, by its path: a sum over its
elements, modulo 2^32, of a hash of the element and its place. So a part can be computed where it lies and added up, no
program is compiled, and whatever was read back from a checkpoint can be compared with what was saved. A random change
goes unseen with a probability of 2^-32. Host work: about four passes over the bytes.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

BLOCK = 1 << 20  # elements hashed at once


def fingerprint(tree: Any) -> dict[str, int]:
    """Path of each leaf -> its number. All processes over which an array is split have to call it."""
    leaves = {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    mine = np.array([sum(hash_of(*part) for part in _parts(leaf)) % 2**32 for leaf in leaves.values()], np.uint32)
    shared = [isinstance(leaf, jax.Array) and not leaf.is_fully_addressable for leaf in leaves.values()]
    if any(shared):  # each process has counted its own parts
        mine = np.where(shared, multihost_utils.process_allgather(mine).sum(0, dtype=np.uint32), mine)
    return dict(zip(leaves, mine.tolist()))


def path_of(path: Any) -> str:
    """A leaf's path as text, the same for attribute, key and index: what was a tuple may come back as a list."""
    return "/".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)


def hash_of(values: np.ndarray, place: np.ndarray) -> int:
    """Sum of the elements' hashes modulo 2^32.

    Args:
        values: any shape, of at most 4 bytes an element.
        place: row-major index of each element in the whole array, modulo 2^32, uint32, of the same shape.
    """
    bits = np.ascontiguousarray(values).reshape(-1)
    words = bits.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[bits.itemsize])
    place, total = place.reshape(-1), 0
    for start in range(0, len(words), BLOCK):
        part = slice(start, start + BLOCK)
        total += int(_mix(words[part].astype(np.uint32) ^ _mix(place[part] + np.uint32(1))).sum(dtype=np.uint64))
    return total % 2**32


def _parts(leaf: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The parts of a leaf that this process answers for, each with the places of its elements."""
    if not isinstance(leaf, jax.Array):
        leaf = np.asarray(leaf)
        yield leaf, _places(leaf.shape, tuple(slice(0, size) for size in leaf.shape))
        return
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:  # each part once, however many devices have a copy
            yield np.asarray(shard.data), _places(leaf.shape, shard.index)


def _places(shape: tuple[int, ...], index: tuple[slice, ...]) -> np.ndarray:
    place, stride = np.zeros((), np.uint32), 1
    for size, part in reversed(list(zip(shape, index))):
        along = (np.arange(size, dtype=np.uint64)[part] * stride).astype(np.uint32)
        place, stride = along.reshape(-1, *[1] * place.ndim) + place, stride * size
    return place


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of MurmurHash3, on uint32."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
