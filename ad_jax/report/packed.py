"""Results in a small file: a name that ends in `.xz` is packed, any other is plain. Imports no JAX.

Numbers of many rollouts repeat each other: those of this project's experiments take a twentieth.
"""

import lzma
from pathlib import Path

LARGEST = 1 << 30  # bytes that are unpacked: a small file may hold a very long one


def pack(path: Path, content: bytes) -> bytes:
    """Return what to write to `path`. Equal content gives equal bytes."""
    return lzma.compress(content, preset=9) if path.suffix == ".xz" else content


def unpack(path: Path) -> bytes:
    """Return what `pack` was given.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if what is packed is damaged, cut, followed by something else, or longer than `LARGEST`.
    """
    content = path.read_bytes()
    if path.suffix != ".xz":
        return content
    reader = lzma.LZMADecompressor(memlimit=1 << 28)
    try:
        whole = reader.decompress(content, LARGEST)
    except lzma.LZMAError as error:
        raise ValueError(f"packed data is damaged: {error}") from error
    if reader.unused_data or (not reader.eof and len(whole) >= LARGEST):
        raise ValueError(f"expected one packed file of at most {LARGEST:,} bytes")
    if not reader.eof:
        raise ValueError("packed data is cut")
    return whole
