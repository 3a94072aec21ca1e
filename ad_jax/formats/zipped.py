"""The arrays of an `.npz` file one row at a time: NumPy reads an array as a whole, and a history is one row of it.

`.npy` files, too: of one array, or of records whose fields are arrays. Headers are read by NumPy without pickle; an
array of Python objects is refused before a byte of it is read.
"""

import contextlib
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from ad_jax.errors import ForeignHistoriesError
from ad_jax.formats import kept
from ad_jax.history.foreign import PICKLED

Header = tuple[tuple[int, ...], bool, np.dtype]  # shape, whether columns come first, dtype


class Zipped:
    """An `.npz` file. Rows are read in any order, and quickest in theirs."""

    def __init__(self, path: Path):
        self.path, self.name = path, path.name
        try:
            with zipfile.ZipFile(path) as archive:
                members = [name for name in archive.namelist() if name.endswith(".npy")]
                self.headers = {name.removesuffix(".npy"): _header(archive, name, path) for name in members}
        except (OSError, zipfile.BadZipFile, ValueError) as error:
            if isinstance(error, ForeignHistoriesError):
                raise
            raise ForeignHistoriesError(f"{path} is no whole .npz file: {error}. Is it cut? Get it again") from error

    def shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Return shape and dtype of every array."""
        return {name: (shape, dtype) for name, (shape, _, dtype) in self.headers.items()}

    def check(self, *names: str) -> None:
        """Raise ForeignHistoriesError where one of the arrays holds Python objects."""
        for name in names or self.headers:
            if self.headers[name][2].hasobject:
                raise ForeignHistoriesError(f"{self.name}: {name}: {PICKLED}")

    def read(self, name: str, row: int | None) -> np.ndarray:
        """Return an array, or one row of it."""
        self.check(name)
        shape, columns, dtype = self.headers[name]
        if row is None or columns or not shape:
            with np.load(self.path) as file:
                return file[name] if row is None else file[name][row]
        key = (self.path, name)
        stream, at = kept.find(key) or (None, -1)  # the stream of the array, and the row that comes next
        if stream is None or at > row:
            stream, at = _start(self.path, name), 0
        size = dtype.itemsize * math.prod(shape[1:])
        with contextlib.ExitStack() as failed:  # of a stream that is damaged, nothing stays open
            failed.callback(stream.close)
            failed.callback(kept.drop, key)
            stream.seek(size * (row - at), 1)
            raw = stream.read(size)
            if len(raw) < size:
                raise EOFError(f"{name} ends in row {row} of {shape[0]}")
            failed.pop_all()
        if row + 1 == shape[0]:
            kept.drop(key)
        else:
            kept.advance(key, (stream, row + 1), stream.close)
        return np.frombuffer(raw, dtype).reshape(shape[1:])

    def text(self, name: str) -> str | None:
        """Return a text that is stored as an array of no axes."""
        shape, _, dtype = self.headers.get(name, ((0,), False, np.dtype(bool)))
        return str(self.read(name, None)) if shape == () and dtype.kind == "U" else None


class Records:
    """An `.npy` file of records, one a step: their fields are arrays."""

    def __init__(self, path: Path):
        self.path, self.name = path, path.name
        held = load_npy(path, path.name)
        if not held.dtype.names:
            raise ForeignHistoriesError(
                f"{path.name}: expected records with a field for each array, received {held.dtype} {list(held.shape)}. "
                "Save the arrays by their names: numpy.savez"
            )
        fields = {name: held.dtype[name] for name in held.dtype.names}
        self.headers: dict[str, Header] = {
            name: ((*held.shape, *of.shape), False, of.base) for name, of in fields.items()
        }

    def check(self) -> None:
        """Do nothing: records with Python objects in them were refused when the file was opened."""

    def read(self, name: str, row: int | None) -> np.ndarray:
        """Return an array, or one row of it."""
        held = np.asarray(load_npy(self.path, self.name)[name])
        return held if row is None else held[row]


def load_npy(path: Path, called: str) -> np.ndarray:
    """Return the array of an `.npy` file; nothing of it is read before it is looked at.

    Raises:
        ForeignHistoriesError: if it is cut, or holds Python objects; `called` is its name there.
    """
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        pickled = "pickle" in str(error).lower() or "Python objects" in str(error)
        why = PICKLED if pickled else f"{error}. Is it cut? Get it again"
        raise ForeignHistoriesError(f"{called}: {why}") from error


def joined(pieces: Sequence[Zipped], name: str) -> np.ndarray:
    """Return an array of files that are pieces in time, one after another and flat."""
    return np.concatenate([piece.read(name, None).reshape(-1) for piece in pieces])


def _header(archive: zipfile.ZipFile, member: str, path: Path) -> Header:
    with archive.open(member) as stream:
        return _read_header(stream, f"{path.name}: {member.removesuffix('.npy')}")


def _read_header(stream: IO[bytes], what: str) -> Header:
    version = npy.read_magic(stream)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ForeignHistoriesError(f"{what}: version {version} of .npy, expected 1.0 or 2.0. Save it by numpy.savez")
    return read(stream)


def _start(path: Path, name: str) -> IO[bytes]:
    """Return a stream of an array's bytes, after its header."""
    with zipfile.ZipFile(path) as archive:
        stream = archive.open(f"{name}.npy")  # keeps the file open until it is closed itself
    _read_header(stream, name)
    return stream
