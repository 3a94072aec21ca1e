"""A number for the bits of a tree of arrays, the same wherever its arrays lie and however they are split.

In: arrays, of this process alone or sharded over several. Out: 32 bits for each leaf, by its path: a sum over its
elements, modulo 2^32, of a hash of the element and its place. So a part can be computed where it lies and added up, no
program is compiled, and whatever was read back from a checkpoint can be compared with what was saved. A random change
goes unseen with a probability of 2^-32. Host work: about four passes over the bytes.
"""

import functools
import math

import jax
import numpy as np
from jax.experimental import multihost_utils

from ad_jax.keys import mixed
from ad_jax.types import PyTree

BLOCK = 1 << 20  # elements hashed at once
UNLIKE = -1  # the number of no leaf
# The same for attribute, key and index: what was a tuple may come back as a list.
path_of = functools.partial(jax.tree_util.keystr, simple=True, separator="/")


def fingerprint(tree: PyTree, every_copy: bool = False) -> dict[str, int]:
    """Path of each leaf -> its number. All processes over which an array is split have to call it.

    Args:
        tree: any tree of arrays, each of this process alone or split over several.
        every_copy: look at what each process has of every part, and not only at the first copy; a leaf whose copies are
            not all alike gets the number `UNLIKE`.
    """
    leaves = {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    mine = np.array([_numbers(leaf, every_copy) for leaf in leaves.values()], np.uint32).reshape(-1, 2)
    shared = [isinstance(leaf, jax.Array) and not leaf.is_fully_addressable for leaf in leaves.values()]
    if any(shared):  # each process has counted its own parts
        everybody = multihost_utils.process_allgather(mine).sum(0, dtype=np.uint32)
        mine = np.where(np.array(shared)[:, None], everybody, mine)
    copies = np.array([_copies(leaf) for leaf in leaves.values()], np.uint32)
    alike = (mine[:, 0] * copies == mine[:, 1]).tolist()
    first = mine[:, 0].tolist()
    return {path: n if same or not every_copy else UNLIKE for path, n, same in zip(leaves, first, alike, strict=True)}


def without_elements(state: PyTree) -> str | None:
    """Return what cannot be saved, in words: an array without elements, on which Orbax fails, and then hangs. Else
    None.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if 0 in leaf.shape:
            return (
                f"{path_of(path)} of the training state has no elements (shape {tuple(leaf.shape)}), and cannot be "
                "saved. Leave it out of the model's parameters, or give it an element"
            )
    return None


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
        total += int(mixed(words[part].astype(np.uint32) ^ mixed(place[part] + np.uint32(1))).sum(dtype=np.uint64))
    return total % 2**32


def _numbers(leaf: PyTree, every_copy: bool) -> tuple[int, int]:
    """Return what this process counts of a leaf: its parts that are first copies, and all of its parts where that is
    asked.
    """
    if not isinstance(leaf, jax.Array):
        leaf = np.asarray(leaf)
        whole = hash_of(leaf, _places(leaf.shape, tuple(slice(0, size) for size in leaf.shape)))
        return whole, whole
    first, every, known = 0, 0, {}
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0 or every_copy:  # each part once in all processes, or once in each
            part = str(shard.index)
            if part not in known:
                known[part] = hash_of(np.asarray(shard.data), _places(leaf.shape, shard.index))
            first, every = first + known[part] * (shard.replica_id == 0), every + known[part]
    return first % 2**32, every % 2**32


def _copies(leaf: PyTree) -> int:
    """On how many devices each part of a leaf lies."""
    if not isinstance(leaf, jax.Array):
        return 1
    part = leaf.sharding.shard_shape(leaf.shape)
    return len(leaf.sharding.device_set) * math.prod(part) // max(math.prod(leaf.shape), 1)


def _places(shape: tuple[int, ...], index: tuple[slice, ...]) -> np.ndarray:
    place, stride = np.zeros((), np.uint32), 1
    for size, part in reversed(list(zip(shape, index))):
        along = (np.arange(size, dtype=np.uint64)[part] * stride).astype(np.uint32)
        place, stride = along.reshape(-1, *[1] * place.ndim) + place, stride * size
    return place
