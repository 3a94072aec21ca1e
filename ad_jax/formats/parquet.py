"""Plain arrays in Parquet, with the names of `plain.py`: a row is a step, and the column `history` says of which.

A history's steps follow each other in the order of time, and `history` does not come back to an earlier one. An
observation of several components is a list column, or several columns `observation.0`, `observation.1`, ...; actions
likewise. `task_id`, `seed_index`, `actor` and `task.NAME` are those of a history's first step.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ad_jax.errors import ForeignHistoriesError
from ad_jax.formats import kept
from ad_jax.formats.base import Foreign, expand, library, natural, require
from ad_jax.formats.plain import ABOUT, STEPS, Plain, about_of, columns_of
from ad_jax.history.store import HistoryStore

HISTORY = "history"
STEPS_AT_ONCE = 2**16  # of a row group that is written


@dataclasses.dataclass(frozen=True)
class Parquet(Plain):
    """Plain arrays in Parquet files, a row a step, one's own."""

    def open(self, paths: Sequence[Path]) -> Foreign:
        files = expand(paths, "*.parquet")
        return self.gather([one for path in files for one in _Table(path).histories()], files)

    def export(self, store: HistoryStore, out: Path) -> None:
        """Write one file, a row group a history or more: a chunk is in memory at a time."""
        pa, pq = library("pyarrow"), library("pyarrow.parquet")
        fresh, writer, m = out.with_name(f".{out.name}.tmp"), None, store.manifest
        shapes = {name: list(shape[1:]) for name, (shape, _) in m.fields.items() if name in STEPS}
        shapes |= {name: list(shape) for name, (shape, _) in m.fields.items() if name.startswith("task/")}
        about = json.dumps(about_of(store) | {"shapes": shapes}, sort_keys=True).encode()
        try:
            for chunk in store.chunks:
                held, first = columns_of(store, chunk, m.fields), m.rows(chunk)[0]
                for row in range(len(held["reward"])):
                    columns = {HISTORY: pa.array(np.full(m.steps, first + row))}
                    for name, x in held.items():
                        one = x[row] if name in STEPS else np.repeat(np.asarray(x[row])[None], m.steps, axis=0)
                        columns[name.replace("task/", "task.")] = _arrow(pa, one)
                    table = pa.table(columns).replace_schema_metadata({ABOUT: about})
                    writer = writer or pq.ParquetWriter(fresh, table.schema, compression="zstd")
                    writer.write_table(table, row_group_size=max(STEPS_AT_ONCE, m.steps))
            if writer is not None:
                writer.close()
            fresh.replace(out)
        finally:
            fresh.unlink(missing_ok=True)


class _Table:
    """A Parquet file: where its histories are, and its columns a few row groups at a time."""

    def __init__(self, path: Path):
        self.path = path
        names = self.file.schema_arrow.names
        require(path.name, names, (HISTORY,), "Say in a column `history` which history a step is of")
        found = self.file.schema_arrow.metadata or {}
        self.about = found.get(ABOUT.encode(), b"").decode() or None
        self.shapes = json.loads(self.about).get("shapes", {}) if self.about else {}
        self.sizes = [self.file.metadata.row_group(i).num_rows for i in range(self.file.metadata.num_row_groups)]
        self.ends = np.cumsum([0, *self.sizes])
        self.kinds = self._kinds(names)
        self._held: tuple[int, Any] = (-1, None)

    @property
    def file(self) -> Any:
        """The file, open."""
        if (file := kept.find(self.path)) is not None:
            return file
        try:
            file = library("pyarrow.parquet").ParquetFile(self.path)
        except (OSError, ValueError) as error:
            told = f"{self.path} is no whole Parquet file: {error}. Is it cut? Get it again"
            raise ForeignHistoriesError(told) from error
        return kept.keep(self.path, file, file.close)

    def _kinds(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Return by name which columns make an array, in order."""
        kinds: dict[str, list[str]] = {}
        for name in sorted(names, key=natural):
            head, dot, rest = name.partition(".")
            if name != HISTORY:
                kinds.setdefault(f"task/{rest}" if head == "task" and dot else head, []).append(name)
        return kinds

    def histories(self) -> list["_Rows"]:
        """Return every history's place."""
        if any(self.file.read_row_group(i, [HISTORY]).column(0).null_count for i in range(len(self.sizes))):
            raise ForeignHistoriesError(f"{self.path.name}: {HISTORY} is missing in some rows. Fill or drop them")
        numbers = np.concatenate(
            [self.file.read_row_group(i, [HISTORY]).column(0).to_numpy() for i in range(len(self.sizes))]
            or [np.zeros(0)]
        )
        starts = np.flatnonzero(np.concatenate([[True], numbers[1:] != numbers[:-1]])) if len(numbers) else []
        if len(np.unique(numbers)) != len(starts):
            again = numbers[starts][np.unique(numbers[starts], return_index=True, return_counts=True)[2].argmax()]
            raise ForeignHistoriesError(
                f"{self.path.name}: history {again} comes back after another. Sort the rows by history and time"
            )
        ends = [*starts[1:], len(numbers)]
        return [_Rows(self, int(a), int(b), str(numbers[a])) for a, b in zip(starts, ends, strict=True)]

    def rows(self, name: str, first: int, end: int) -> np.ndarray:
        """Return an array's rows; a row group is in memory at a time."""
        parts = []
        for group in range(len(self.sizes)):
            a, b = max(first, self.ends[group]), min(end, self.ends[group + 1])
            if a < b:
                if self._held[0] != group:
                    self._held = group, self.file.read_row_group(group)
                table = self._held[1].slice(a - self.ends[group], b - a)
                columns = [_numpy(table.column(column), f"{self.path.name}: {column}") for column in self.kinds[name]]
                parts.append(columns[0] if len(columns) == 1 else np.stack(columns, axis=-1))
        whole = np.concatenate(parts)
        return whole.reshape(len(whole), *self.shapes[name]) if name in self.shapes else whole


class _Rows:
    """One history of a table, as named arrays `[T, ...]`."""

    def __init__(self, table: _Table, first: int, end: int, number: str):
        self.table, self.first, self.end = table, first, end
        self.name = f"{table.path.name}, history {number}"
        self._shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}

    def shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Return shape and dtype of every array, as the first step shows them."""
        if not self._shapes:
            for name in self.table.kinds:
                x = self.table.rows(name, self.first, self.first + 1)
                of_step = name in STEPS
                self._shapes[name] = (self.end - self.first, *x.shape[1:]) if of_step else x.shape[1:], x.dtype
        return self._shapes

    def read(self, name: str, row: int | None) -> np.ndarray:
        if name in STEPS:
            return self.table.rows(name, self.first, self.end)
        return self.table.rows(name, self.first, self.first + 1)[0]

    def text(self, name: str) -> str | None:
        return self.table.about if name == ABOUT else None


def _arrow(pa: Any, x: np.ndarray) -> Any:
    """`[T, ...]` as a column: a list of fixed length where a step has several numbers."""
    if x.dtype.kind == "U":
        return pa.array(x.tolist(), pa.string())
    flat = pa.array(np.ascontiguousarray(x).reshape(-1))
    return flat if x.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, math.prod(x.shape[1:]))


def _numpy(column: Any, what: str) -> np.ndarray:
    """Return a column as an array, `[T]` or `[T, n]`."""
    whole = column.combine_chunks()
    kind = str(whole.type)
    if "list" in kind:
        if whole.null_count:
            raise ForeignHistoriesError(f"{what}: {whole.null_count} steps have no value. Fill or drop them")
        inner = np.asarray(whole.flatten().to_numpy(zero_copy_only=False))
        if not len(whole) or len(whole.value_lengths().unique()) > 1:
            raise ForeignHistoriesError(f"{what}: lists of unlike lengths. Every step has as many components")
        return inner.reshape(len(whole), -1)
    if kind in ("string", "large_string"):
        return np.array(whole.to_pylist(), "U")
    if whole.null_count:
        raise ForeignHistoriesError(f"{what}: {whole.null_count} steps have no value. Fill or drop them")
    return np.asarray(whole.to_numpy(zero_copy_only=False))
