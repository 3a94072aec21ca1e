"""The contract of a format: from files to streams of histories that are read one at a time, and back to files.

A format is a frozen dataclass of options. `open` looks at names, shapes and attributes, so it costs little whatever the
files hold; the arrays of a history are read when it is written to the collection, and then forgotten. Where counts or
bounds are not given, `open` also goes once through the arrays that show them, a history or less in memory at a time
(OmniRL always goes through its actions, which say how many rows are steps; Parquet through its column `history`).
"""

import ast
import contextlib
import dataclasses
import hashlib
import importlib
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ad_jax.envs.base import TaskFamily
from ad_jax.errors import AdJaxError, ConfigError, ForeignHistoriesError
from ad_jax.files import Json
from ad_jax.history.foreign import History, Origin
from ad_jax.history.store import HistoryStore
from ad_jax.text import some
from ad_jax.types import Box, Spec

SAID = (".json", ".metadata")  # files beside the data, which may be alike
DATA = (".npz", ".npy", ".h5", ".hdf5", ".hdf", ".parquet", ".pq", ".pkl", ".pickle", ".mat", ".arrow")
EXTRAS = {"h5py": "hdf5", "pyarrow": "parquet", "pyarrow.parquet": "parquet", "minari": "minari"}


@dataclasses.dataclass(frozen=True)
class Stream:
    """A history that can be read.

    Attributes:
        name: where it is, for messages.
        steps: T, how many it has.
        read: gives it.
    """

    name: str
    steps: int
    read: Callable[[], History]


@dataclasses.dataclass(frozen=True)
class Foreign:
    """What files hold, before any history is read.

    Attributes:
        streams: the histories, a learner's actors after each other.
        origin: how they came to be.
        files: every file that is read.
        spec: of observations and actions, for opaque tasks; None where there is a family.
        family: of the tasks.
        episode_length: most steps of an episode; None for the family's, or for the longest of the first history.
        reward_dtype: that holds every reward exactly; None for the family's, or float32.
        actors: of one learner.
        allow_duplicates: whether equal histories are to be expected.
        pieces: those of the files that hold less than a history, so that two may well be alike.
    """

    streams: Sequence[Stream]
    origin: Origin
    files: Sequence[Path]
    spec: Spec | None = None
    family: TaskFamily | None = None
    episode_length: int | None = None
    reward_dtype: str | None = None
    actors: int = 1
    allow_duplicates: bool = False
    pieces: Collection[Path] = ()


@dataclasses.dataclass(frozen=True)
class Format:
    """Options that every format has."""

    steps: int | None = None  # keep the first so many steps of each history; those that are shorter are left out
    allow_duplicates: bool = False  # two histories may be equal in everything; they are mostly a mistake

    beside: ClassVar[Collection[str]] = ()  # files that lie beside those that are read and are not wanted, by name

    def open(self, paths: Sequence[Path]) -> Foreign:
        """Return what the files, or the folders, hold.

        Raises:
            ForeignHistoriesError: if they are not of this format, or cannot be read.
        """
        raise NotImplementedError

    def export(self, store: HistoryStore, out: Path) -> None:
        """Write a collection to `out`, which is not there yet.

        Raises:
            ConfigError: if histories cannot be written in this format.
        """
        raise ConfigError(
            f"{type(self).__name__} is a format that is read alone. Export to npz, hdf5, parquet, xland or minari"
        )


def fitted(streams: Sequence[Stream], steps: int | None, actors: int = 1) -> tuple[list[Stream], int]:
    """Return the streams that have `steps` steps, and how many of them are kept of each.

    Args:
        streams: of any lengths.
        steps: asked for; None for the one length that all of them have.
        actors: of one learner, who are kept or left out together.

    Raises:
        ForeignHistoriesError: for streams of several lengths, or where none is long enough.
    """
    lengths = sorted({stream.steps for stream in streams})
    if not streams:
        raise ForeignHistoriesError("there is no history in these files")
    if steps is None:
        if len(lengths) > 1:
            shortest = min(streams, key=lambda stream: stream.steps)
            raise ForeignHistoriesError(
                f"expected histories of one length; received {len(streams)} of {some(lengths)} steps, the shortest "
                f"{shortest.name}. Say steps=N to keep the first N steps of each and leave out those that are shorter: "
                f"steps={lengths[0]} leaves out none, steps={lengths[len(lengths) // 2]} is in the middle"
            )
        return list(streams), lengths[0]
    groups = [streams[first : first + actors] for first in range(0, len(streams), actors)]
    kept = [stream for group in groups if min(stream.steps for stream in group) >= steps for stream in group]
    if not kept:
        raise ForeignHistoriesError(f"no history has steps={steps}; the longest has {lengths[-1]}. Ask for fewer")
    return kept, steps


def library(name: str) -> Any:
    """Import the library of a format.

    Raises:
        ConfigError: saying how to install it.
    """
    try:
        if name == "minari":  # it imports parts of gymnasium, whose top `ad_jax.envs.undrawn` has put off
            _ = importlib.import_module("gymnasium").make
        return importlib.import_module(name)
    except ImportError as error:
        extra = EXTRAS[name]
        raise ConfigError(f"this format needs {name.partition('.')[0]}: pip install 'ad_jax[{extra}]'") from error


def digests(files: Sequence[Path], pieces: Collection[Path] = (), allow_duplicates: bool = False) -> dict[str, str]:
    """Return sha256 of every file, by its name below the folder that they share.

    Raises:
        ForeignHistoriesError: if one is there twice, or is another's copy, byte for byte, and both are whole histories:
            `pieces` of them, an episode or one array, may be alike, and copies are let through with `allow_duplicates`.
    """
    root = Path(os.path.commonpath([path.absolute().parent for path in files]))
    found: dict[str, str] = {}
    names: dict[str, str] = {}
    for path in files:
        name = path.absolute().relative_to(root).as_posix()
        if name in found:
            raise ForeignHistoriesError(f"{path} is given twice. Leave one out")
        with path.open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
        if path.suffix in SAID or path in pieces or allow_duplicates:
            continue
        if (other := names.setdefault(found[name], name)) != name:
            raise ForeignHistoriesError(
                f"{name} is {other} once more, byte for byte. Leave one out, or say that it is meant "
                "(allow_duplicates=true)"
            )
    return found


def expand(paths: Sequence[Path], pattern: str) -> list[Path]:
    """Return the files that are named, and in folders those that fit `pattern`, in natural order.

    Raises:
        ForeignHistoriesError: if there is none.
    """
    found = []
    for path in paths:
        if not path.exists():
            raise ForeignHistoriesError(f"{path} is not there")
        inside = sorted(path.rglob(pattern), key=natural) if path.is_dir() else [path]
        if not inside:
            raise ForeignHistoriesError(f"{path} holds no {pattern}")
        found += inside
    return found


def passed_over(paths: Sequence[Path], files: Sequence[Path], beside: Collection[str]) -> list[Path]:
    """Return the files of data in folders that are named by `paths`, and are neither read nor known to lie there."""
    read = {path.absolute() for path in files}
    there = (file for path in paths if path.is_dir() for file in path.rglob("*") if file.suffix.lower() in DATA)
    return sorted((file for file in there if file.absolute() not in read and file.name not in beside), key=natural)


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever a file raises that is cut or damaged into one ForeignHistoriesError that names it."""
    try:
        yield
    except AdJaxError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ForeignHistoriesError(f"{what} cannot be read: {error}. Is the file cut? Get it again") from error


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return the name of each folder, with those above it as far as two would else be called the same."""
    depth = 1
    parts = [folder.absolute().parts for folder in folders]
    while len({part[-depth:] for part in parts}) < len(set(parts)):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def natural(name: object) -> list[tuple[int, int | str]]:
    """Return a sorting key by which 2 comes before 10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", str(name)) if part]


def require(what: str, found: Collection[str], expected: Sequence[str], remedy: str = "") -> None:
    """Raise ForeignHistoriesError unless everything that is expected is among what was found."""
    if missing := [name for name in expected if name not in found]:
        raise ForeignHistoriesError(
            f"{what}: expected {', '.join(expected)}; received {some(sorted(found)) or 'nothing'}, without "
            f"{', '.join(missing)}. {remedy or 'Is it of another format? ad-jax histories import --help lists them'}"
        )


def flags(x: np.ndarray, what: str) -> np.ndarray:
    """Return `x`, of any dtype, as bool.

    Raises:
        ForeignHistoriesError: for values other than 0 and 1.
    """
    x = np.asarray(x)
    if x.dtype != bool and (x.dtype.kind not in "iuf" or not np.isin(x, (0, 1)).all()):
        raise ForeignHistoriesError(f"{what}: expected 0 and 1, received {x.dtype} {some(np.unique(x)[:8])}")
    return x.astype(bool)


def options_of(words: Sequence[str]) -> dict[str, Json]:
    """Return `field=value` words by name; `env.size=9` is `{"options": {"size": 9}}`.

    Raises:
        ConfigError: for a word of another form.
    """
    options: dict[str, Json] = {}
    for word in words:
        name, equals, text = word.removeprefix("--").partition("=")
        if not equals:
            raise ConfigError(f"an option reads field=value, e.g. steps=1000; got {word!r}")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
        if name.startswith("env."):
            options.setdefault("options", {})[name.removeprefix("env.")] = value
        else:
            options[name] = value
    return options


def box(shape: tuple[int, ...], low: Json, high: Json) -> Box:
    """Return real actions between bounds that were given, or that the data shows.

    Raises:
        ForeignHistoriesError: for bounds that cannot be, as where a component never differs in the data.
    """
    try:
        return Box(shape, low, high)
    except ConfigError as error:
        told = f"{error}. Bounds that are not given are those of the data: say low= and high="
        raise ForeignHistoriesError(told) from error


def in_order(streams: Sequence[Stream], steps: int) -> Callable[[int], Iterator[History]]:
    """Return what reads the streams from a number on, each cut to `steps`, one ahead of what is asked for."""

    def read(first: int) -> Iterator[History]:
        with ThreadPoolExecutor(1, thread_name_prefix="import") as reader:
            ahead = None
            for number in range(first, len(streams)):
                now = ahead or reader.submit(_read, streams[number], steps)
                ahead = reader.submit(_read, streams[number + 1], steps) if number + 1 < len(streams) else None
                yield now.result()

    return read


def _read(stream: Stream, steps: int) -> History:
    with reading(stream.name):
        history = stream.read()
    return history if len(history.reward) == steps else history.cut(steps)


def family_of(name: str | None, options: Mapping[str, Json]) -> TaskFamily | None:
    """Return the task family that an option `env` names; None for none.

    Raises:
        ConfigError: for an unknown name or option.
    """
    from ad_jax.envs import FAMILIES
    from ad_jax.registry import make

    if name is None:
        if options:
            raise ConfigError(f"options of env are given ({', '.join(options)}), and no env. Say env=NAME")
        return None
    return make("env", name, options, FAMILIES, TaskFamily)
