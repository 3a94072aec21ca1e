"""Single faults of files: what disks, copies and people do to a folder, one at a time, and undone again.

A fault touches one or two files; the others stay as they are, so that ten thousand of them take a minute or so.
"""

import dataclasses
import pathlib
import random
import shutil
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault: its kind, and the files as it leaves them, by name; None is a file that is gone."""

    kind: str
    files: Mapping[str, bytes | None]

    def apply(self, folder: pathlib.Path) -> None:
        for name, raw in self.files.items():
            path = folder / name
            if raw is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(raw)

    def undo(self, folder: pathlib.Path, sound: Mapping[str, bytes]) -> None:
        for name in self.files:
            if name in sound:
                (folder / name).write_bytes(sound[name])
            else:
                (folder / name).unlink()


Files = Mapping[str, bytes]


def flip(rng: random.Random, files: Files, name: str) -> dict[str, bytes | None]:
    """One bit."""
    raw = bytearray(files[name])
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return {name: bytes(raw)}


def cut(rng: random.Random, files: Files, name: str) -> dict[str, bytes | None]:
    """Return the end is missing; all of it, once in a while."""
    return {name: files[name][: rng.randrange(len(files[name]))]}


def delete(rng: random.Random, files: Files, name: str) -> dict[str, bytes | None]:
    """Return the file is gone."""
    return {name: None}


def swap(rng: random.Random, files: Files, name: str) -> dict[str, bytes | None]:
    """Two files of a kind have each other's contents."""
    other = rng.choice(_alike(files, name))
    return {name: files[other], other: files[name]}


def reorder(rng: random.Random, files: Files, name: str) -> dict[str, bytes | None]:
    """Two blocks inside a file have changed places."""
    raw = files[name]
    first, middle, last = sorted(rng.sample(range(len(raw) + 1), 3))
    return {name: raw[:first] + raw[middle:last] + raw[first:middle] + raw[last:]}


def append(rng: random.Random, files: Files, name: str) -> dict[str, bytes | None]:
    """Something comes after the end: noise, or the file again."""
    return {name: files[name] + rng.choice([rng.randbytes(rng.randint(1, 40)), files[name], b"\0", b"\n"])}


def duplicate(rng: random.Random, files: Files, name: str) -> dict[str, bytes | None]:
    """Return a copy lies over another file of a kind, or beside the file under a name that nobody asked for."""
    return {rng.choice([*_alike(files, name), f"{name}.bak", f"copy of {pathlib.PurePath(name).name}"]): files[name]}


def blank(rng: random.Random, files: Files, name: str) -> dict[str, bytes | None]:
    """Return a stretch of zeros, as a crash leaves what was never written out."""
    raw = files[name]
    first, last = sorted(rng.sample(range(len(raw) + 1), 2))
    return {name: raw[:first] + bytes(last - first) + raw[last:]}


KINDS: dict[str, Callable[[random.Random, Files, str], dict[str, bytes | None]]] = {
    kind.__name__: kind for kind in (flip, cut, delete, swap, reorder, append, duplicate, blank)
}


def draw(rng: random.Random, files: Files) -> Fault:
    """Return a fault of any kind to any file, each as likely as another."""
    kind, name = rng.choice(sorted(KINDS)), rng.choice(sorted(files))
    return Fault(kind, KINDS[kind](rng, files, name))


def _alike(files: Files, name: str) -> list[str]:
    """Return the other files with the same ending, or all others."""
    others = [other for other in sorted(files) if other != name]
    return [other for other in others if pathlib.PurePath(other).suffix == pathlib.PurePath(name).suffix] or others


def restore(folder: pathlib.Path, files: Files) -> None:
    """Restore the folder as it was, whatever was done to it."""
    shutil.rmtree(folder)
    Fault("", dict(files)).apply(folder)
