"""The arrays of an `.npz` file one row at a time: NumPy reads an array as a whole, and a history is one row of it.

Headers are read by NumPy without pickle; an array of Python objects is refused before a byte of it is read.
"""

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
        stream.seek(size * (row - at), 1)
        raw = stream.read(size)
        if len(raw) < size:
            raise EOFError(f"{name} ends in row {row} of {shape[0]}")
        if row + 1 == shape[0]:
            kept.drop(key)
        else:
            kept.advance(key, (stream, row + 1), stream.close)
        return np.frombuffer(raw, dtype).reshape(shape[1:])

    def text(self, name: str) -> str | None:
        """Return a text that is stored as an array of no axes."""
        shape, _, dtype = self.headers.get(name, ((0,), False, np.dtype(bool)))
        return str(self.read(name, None)) if shape == () and dtype.kind == "U" else None


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
