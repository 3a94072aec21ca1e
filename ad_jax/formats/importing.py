"""From files of a format to a collection, and back: what the command line's import and export do."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from ad_jax.errors import ConfigError
from ad_jax.files import Json
from ad_jax.formats import FORMATS, kept
from ad_jax.formats.base import Format, digests, fitted, in_order, passed_over
from ad_jax.history.store import HistoryStore, Url, open_store
from ad_jax.history.write import write_histories
from ad_jax.process.metrics import log
from ad_jax.registry import make
from ad_jax.text import some


def format_of(name: str, options: Mapping[str, Json]) -> Format:
    """Return a format by its name, with its options.

    Raises:
        ConfigError: for an unknown format or option; near matches are listed.
    """
    return make("format", name, options, FORMATS, Format)


def import_histories(
    name: str, paths: Sequence[Path], out: Url, options: Mapping[str, Json], progress_seconds: float = 5.0
) -> HistoryStore:
    """Write what files hold as a collection, or go on with one that was begun from the same files.

    Args:
        name: of the format.
        paths: files and folders.
        out: directory, or a `gs://` or `s3://` URL.
        options: of the format.
        progress_seconds: at most one progress line in so many seconds.

    Raises:
        ConfigError: for an unknown format or option, or a library that is not installed.
        ForeignHistoriesError: naming what cannot be, and why; nothing of the collection stays.
        HistoryError: if `out` holds something else or cannot be written; finished chunks are kept.
    """
    try:
        return _imported(name, paths, out, format_of(name, options), progress_seconds)
    finally:
        kept.close()


def _imported(name: str, paths: Sequence[Path], out: Url, chosen: Format, progress_seconds: float) -> HistoryStore:
    found = chosen.open(paths)
    if over := passed_over(paths, found.files, chosen.beside):
        log(f"import   not read, for they are no part of {name}: {some(list(map(str, over)))}")
    kept, steps = fitted(found.streams, chosen.steps, found.actors)
    if left := len(found.streams) - len(kept):
        log(f"import   {left} of {len(found.streams)} histories have fewer than {steps} steps and are left out")
    log(f"import   {len(kept)} histories of {steps} steps from {len(found.files)} files of {name}")
    twice = found.allow_duplicates or chosen.allow_duplicates
    files = digests(found.files, set(found.pieces), twice)
    return write_histories(
        out,
        in_order(kept, steps),
        found.spec,
        family=found.family,
        count=len(kept),
        episode_length=found.episode_length,
        reward_dtype=found.reward_dtype,
        actors=found.actors,
        origin=dataclasses.replace(found.origin, format=name, files=files),
        allow_duplicates=twice,
        progress_seconds=progress_seconds,
    )


def export_histories(name: str, url: Url, out: Path, options: Mapping[str, Json]) -> None:
    """Write a finished collection to a file or folder of a format.

    Raises:
        ConfigError: for a format that is read alone, or where `out` is there already.
        HistoryError: if the collection is damaged or unfinished.
    """
    chosen = format_of(name, options)
    if out.exists():
        raise ConfigError(f"{out} is there already; nothing was written. Name another place")
    store = open_store(url)
    out.parent.mkdir(parents=True, exist_ok=True)
    chosen.export(store, out)
