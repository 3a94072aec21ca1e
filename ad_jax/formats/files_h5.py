"""HDF5 files, opened when something of them is read, a few at a time; what is cut or damaged is named."""

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ad_jax.errors import ForeignHistoriesError
from ad_jax.formats import kept
from ad_jax.formats.base import library
from ad_jax.history.foreign import PICKLED

Group = Any  # of h5py, which is imported when it is needed


def opened(path: Path) -> Group:
    """Return an HDF5 file, open for reading.

    Raises:
        ForeignHistoriesError: if it is cut, or no HDF5 file.
        ConfigError: if h5py is not installed.
    """
    if (file := kept.find(path)) is not None:
        return file
    try:
        file = library("h5py").File(path, "r")
    except OSError as error:
        why = "it is cut: get it again" if "truncated" in str(error) else "get it again, or name another format"
        raise ForeignHistoriesError(f"{path} is no whole HDF5 file ({error}); {why}") from error
    return kept.keep(path, file, file.close)


@contextmanager
def written(out: Path) -> Iterator[Group]:
    """Yield a new file that is at `out` when all of it is written, and else nowhere."""
    fresh = out.with_name(f".{out.name}.tmp")
    try:
        with library("h5py").File(fresh, "w") as file:
            yield file
        fresh.replace(out)
    finally:
        fresh.unlink(missing_ok=True)


def row(array: Group, number: int) -> np.ndarray:
    """Return one row of a dataset.

    Where its chunks are of one row each and packed by gzip alone, they are unpacked here: h5py would keep all other
    threads waiting meanwhile, and an import has something else to do.
    """
    chunk, shape = array.chunks, array.shape
    plain = array.compression == "gzip" and not (array.shuffle or array.fletcher32 or array.scaleoffset)
    if not plain or len(shape) < 2 or chunk[0] != 1 or chunk[2:] != shape[2:]:
        return array[number]
    out = np.empty(shape[1:], array.dtype)
    size, rest = array.dtype.itemsize * math.prod(chunk), (0,) * (len(shape) - 2)
    for first in range(0, shape[1], chunk[1]):
        try:
            mask, raw = array.id.read_direct_chunk((number, first, *rest))
            unpacked = raw if mask else zlib.decompress(raw, bufsize=size)
        except (OSError, ValueError, RuntimeError):
            return array[number]  # a chunk that was never written reads as zeros; of one that is cut, h5py tells
        except zlib.error as error:
            raise OSError(f"{array.name}: steps from {first} on are damaged: {error}") from error
        part = out[first : first + chunk[1]]
        part[...] = np.frombuffer(unpacked, array.dtype).reshape(chunk[1:])[: len(part)]
    return out


class Arrays:
    """The arrays of a file or of one of its groups, by name; those of a group inside, as `task/goal`."""

    def __init__(self, path: Path, group: str = "/"):
        self.path, self.group = path, group
        self.name = path.name if group == "/" else f"{path.name}[{group}]"
        self._shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        root = opened(path)[group]
        for name, item in root.items():
            inside = item.items() if name == "task" and not hasattr(item, "dtype") else ()
            for full, array in [(name, item), *((f"{name}/{leaf}", array) for leaf, array in inside)]:
                if hasattr(array, "dtype"):
                    self._shapes[full] = array.shape, np.dtype("S1") if _is_text(array) else array.dtype

    def shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Return shape and dtype of every array."""
        return self._shapes

    def read(self, name: str, row: int | None) -> np.ndarray:
        """Return an array, or one row of it."""
        array = opened(self.path)[self.group][name]
        if array.dtype == object and not _is_text(array):
            raise ForeignHistoriesError(f"{self.name}: {name}: {PICKLED}")
        return np.asarray(array[()] if row is None else array[row])

    def text(self, name: str) -> str | None:
        """Return a text that is an attribute of the group."""
        found = opened(self.path)[self.group].attrs.get(name)
        if isinstance(found, bytes):
            return found.decode()
        return None if found is None else str(found)


def _is_text(array: Group) -> bool:
    return library("h5py").check_string_dtype(array.dtype) is not None
