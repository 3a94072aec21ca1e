"""Learning histories on disk: Zarr v3 arrays through TensorStore, in a directory or at a `gs://` or `s3://` URL.

In: `Histories` in chunks, from `collect`. Out: the same `Histories`, bit for bit, or a `HistoryError` that names what
is damaged. `HistoryWriter` creates or continues a collection, `open_store` reads one, `verify` checks every byte of
one; `info` describes one. The format itself, and why it is as it is, stands in `ledger.py`.

A chunk counts as collected when its ledger entry exists, and that is written after its arrays are durable. A writer
killed at any instant leaves whole chunks and perhaps array files that no ledger entry names; these are overwritten.
"""

import collections
import hashlib
import json
import os
import reprlib
import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorstore as ts

from ad_jax import values
from ad_jax.errors import HistoryError, differences
from ad_jax.files import JsonObject
from ad_jax.history import ledger as format_
from ad_jax.history import returns as history_returns
from ad_jax.history.access import connect, list_keys, named, place
from ad_jax.history.ledger import TRANSITION, Entry, again, array_key, ledger_key
from ad_jax.history.manifest import MANIFEST, SCHEMA, Manifest
from ad_jax.history.sealed import seal
from ad_jax.text import some
from ad_jax.types import Histories, Transition

__all__ = ["SCHEMA", "HistoryStore", "HistoryWriter", "Manifest", "open_store", "verify"]

PENDING = 2  # chunks in flight while writing: one being compressed and stored, one being handed over
Url = str | os.PathLike


class HistoryWriter:
    """Writes a collection chunk by chunk; `open` makes one. As a context manager it flushes on a clean exit."""

    def __init__(self, store: ts.KvStore, manifest: Manifest, finished: Iterable[int]):
        self.manifest = manifest
        self._store = store
        self._finished = set(finished)
        self._arrays = {field: format_.open_array(store, manifest, field) for field in manifest.fields}
        self._pending = collections.OrderedDict()  # chunk -> (write futures by field, checksums, task ids, returns)

    @classmethod
    def open(cls, url: Url, manifest: Manifest) -> "HistoryWriter":
        """Create a collection, or continue the one that is there.

        Raises:
            HistoryError: if the manifest is not plain JSON or beyond the limits, if a collection with another manifest
                is there (the differing fields are named), if that collection is damaged, or if other files are there.
        """
        with named("the manifest as JSON"):
            sealed = seal(manifest.to_json())
            manifest = Manifest.from_json(json.loads(sealed)["content"])
        store = connect(url)
        # List first: whoever creates a collection writes the manifest before anything else.
        keys = list_keys(store)
        if MANIFEST in keys:
            found = format_.read_manifest(store).to_json()
            if found != manifest.to_json():
                lines = "; ".join(differences(found, manifest.to_json()))
                raise HistoryError(
                    f"{place(store)} holds a collection with another manifest: {lines}. "
                    "Collect in a new directory, or go back to that configuration."
                )
        elif keys:
            raise HistoryError(
                f"{place(store)} is not empty and is no collection of learning histories: no {MANIFEST} among "
                f"{len(keys)} files such as {', '.join(keys[:3])}. Nothing was written; name a new directory."
            )
        _write(store, {MANIFEST: sealed} if MANIFEST not in keys else {})
        lost = [field for field in manifest.fields if array_key(manifest, field) not in keys]
        _write(store, {array_key(manifest, field): format_.array_metadata_bytes(manifest, field) for field in lost})
        entries, problems = format_.scan(store, manifest)
        _raise(store, problems)
        return cls(store, manifest, entries)

    @property
    def finished(self) -> frozenset[int]:
        """The chunks in the ledger."""
        return frozenset(self._finished)

    def write(self, chunk: int, histories: Histories, returns: history_returns.Chunk | None = None) -> None:
        """Start to write one chunk, and return once its arrays are copied. At most two chunks are in flight.

        Args:
            chunk: number of the chunk, neither finished nor being written.
            histories: rows `manifest.rows(chunk)`, with the shapes and dtypes of `manifest.fields`.
            returns: what these histories earned, from `history_returns.of_chunk`; None leaves it unrecorded.

        Raises:
            HistoryError: naming the chunk and field that does not fit, or the earlier chunk that could not be stored.
        """
        self._check_free(chunk)
        first, end = self.manifest.rows(chunk)
        arrays = {name: np.ascontiguousarray(array) for name, array in _arrays(histories).items()}
        _check_arrays(self.manifest, chunk, arrays)
        task_ids = list(histories.task_ids)
        if len(task_ids) != end - first or not all(isinstance(task_id, str) for task_id in task_ids):
            raise HistoryError(
                f"chunk {chunk}: expected {end - first} task ids, all strings; got {reprlib.repr(task_ids)}."
            )
        if returns is not None:
            history_returns.check(returns, self.manifest.source.get("actors"), f"chunk {chunk}: returns")
        while len(self._pending) >= PENDING:
            self._finish()
        if end - first < self.manifest.chunk_histories:
            # TensorStore would read what a killed writer left, to keep its padding; the other chunks are overwritten.
            self._discard(chunk)
        with named(f"writing the arrays of chunk {chunk}"):
            futures = {field: self._arrays[field][first:end].write(array) for field, array in arrays.items()}
            for future in futures.values():
                future.commit.force()  # start now, not when somebody waits
            content = {field: _crc(array) for field, array in arrays.items()}
            for future in futures.values():
                future.copy.result()  # from here on the caller may reuse its arrays
        self._pending[chunk] = (futures, content, task_ids, returns)

    def flush(self) -> None:
        """Wait until every chunk handed over is durable, and enter each into the ledger.

        Raises:
            HistoryError: naming the chunk and field that could not be stored; chunks in the ledger stay finished.
        """
        while self._pending:
            self._finish()

    def _finish(self) -> None:
        """Wait for the oldest chunk in flight, then write its ledger entry."""
        chunk, (futures, content, task_ids, returns) = self._pending.popitem(last=False)
        for field, future in futures.items():
            with named(f"writing {array_key(self.manifest, field, chunk)}"):
                future.result()
        # A listing has no sizes on any kind of store, so `info` would have to download everything: look once, here.
        reads = {field: self._store.read(array_key(self.manifest, field, chunk)) for field in futures}
        stored = {}
        for field, read in reads.items():
            with named(f"reading {array_key(self.manifest, field, chunk)} back"):
                stored[field] = len(read.result().value)
        entry = Entry.of(self.manifest, chunk, task_ids, content, stored, *([] if returns is None else [returns]))
        _write(self._store, {ledger_key(chunk): seal(entry.to_json())})
        self._finished.add(chunk)

    def _discard(self, chunk: int) -> None:
        """Delete a chunk's array files, if there are any."""
        with named(f"deleting the old arrays of chunk {chunk}"):
            for future in [self._store.write(array_key(self.manifest, f, chunk), None) for f in self._arrays]:
                future.result()

    def _check_free(self, chunk: int) -> None:
        if not 0 <= chunk < self.manifest.chunks:
            raise HistoryError(f"chunk {chunk} does not exist: the collection has {self.manifest.chunks} chunks.")
        if chunk in self._finished or chunk in self._pending:
            raise HistoryError(f"chunk {chunk} is already written: skip the chunks in `finished`.")

    def __enter__(self) -> "HistoryWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.flush()


class HistoryStore:
    """A collection opened for reading; `open_store` makes one."""

    def __init__(self, store: ts.KvStore, manifest: Manifest, entries: dict[int, Entry]):
        self.manifest = manifest
        self.url = place(store)
        self.chunks = sorted(entries)  # the finished ones
        self._store = store
        self._entries = entries
        self._arrays = {field: format_.open_array(store, manifest, field) for field in manifest.fields}

    @property
    def task_ids(self) -> list[str]:
        """The task id of every row of the finished chunks, in order, from the ledger: no array is read."""
        return [task_id for chunk in self.chunks for task_id in self._entries[chunk].task_ids]

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of what the finished chunks hold, from the ledger."""
        held = [(chunk, self._entries[chunk].content, self._entries[chunk].task_ids) for chunk in self.chunks]
        return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def returns(self) -> history_returns.Returns | None:
        """What the source earned in the finished chunks, from the ledger; None where an early version wrote one."""
        return returns_in(self._entries)

    def earned(self, chunk: int) -> history_returns.Chunk | None:
        """Return the same of one of them."""
        return self._entries[chunk].returns or None

    def read(self, chunks: Iterable[int] | None = None) -> Histories:
        """Return the histories of some chunks, in the order given, or of all finished ones.

        Returns:
            Histories with the shapes and dtypes of `manifest.fields`, bit for bit as they were written.

        Raises:
            HistoryError: for a chunk that is not finished, or naming the chunk and field that is damaged.
        """
        chunks = self.chunks if chunks is None else list(chunks)
        return self._histories(chunks, self.fields(chunks, self.manifest.fields))

    def _histories(self, chunks: list[int], arrays: dict[str, np.ndarray]) -> Histories:
        """Arrays of all fields of some chunks, as histories."""
        transition = Transition(*(arrays.get(name) for name in TRANSITION))
        tasks = {name: arrays[f"task/{name}"] for name in self.manifest.task_leaves}
        task_ids = [task_id for chunk in chunks for task_id in self._entries[chunk].task_ids]
        return Histories(transition, tasks, task_ids, arrays["seed_index"], arrays["actor"])

    def fields(self, chunks: list[int], names: Iterable[str]) -> dict[str, np.ndarray]:
        """Return some fields of some chunks, by name; nothing else is read. Raises as `read` does."""
        if unknown := [chunk for chunk in chunks if chunk not in self._entries]:
            raise HistoryError(f"chunks {some(unknown)} are not finished; finished are {some(self.chunks)}.")
        arrays = self._allocate(chunks, names)
        for problem in self._load(chunks, arrays):
            raise HistoryError(problem)
        return arrays

    def verify(self, progress: Callable[[int, int], None] | None = None) -> list[str]:
        """Check every byte of the collection as it is now, and every value against the manifest, a chunk at a time.

        Args:
            progress: called with the chunks checked and their number.

        Returns:
            Every problem, each naming file and remedy; empty if all is well. Chunks not yet collected are no problem.
        """
        try:
            manifest = format_.read_manifest(self._store)
        except HistoryError as error:
            return [str(error)]
        if manifest != self.manifest:
            return [f"{MANIFEST} is not the one that was opened: open the collection again."]
        entries, problems = format_.scan(self._store, manifest)
        current = HistoryStore(self._store, manifest, entries)
        for done, chunk in enumerate(current.chunks):
            arrays = current._allocate([chunk], manifest.fields)
            damaged = list(current._load([chunk], arrays))
            problems += damaged or current._beyond(chunk, arrays)
            if progress:
                progress(done + 1, len(current.chunks))
        return list(dict.fromkeys(problems))

    def _beyond(self, chunk: int, arrays: dict[str, np.ndarray]) -> list[str]:
        """Return a line on the first value of a sound chunk that is no number or not of the manifest's spec."""
        first, end = self.manifest.rows(chunk)
        where = values.wrong(self._histories([chunk], arrays), self.manifest.spec, np.arange(first, end))
        remedy = f"Mend whatever made it; then delete {ledger_key(chunk)} and collect only this chunk anew."
        return [f"chunk {chunk}: {where}. {remedy}"] if where else []

    def _allocate(self, chunks: list[int], names: Iterable[str]) -> JsonObject:
        """Uninitialized arrays for some chunks; only as many rows as the ledger vouches for."""
        count = sum(len(self._entries[chunk].task_ids) for chunk in chunks)
        with named(f"allocating {count} histories", "Read fewer chunks at a time."):
            kept = {name: self.manifest.fields[name] for name in names}
            return {name: np.empty((count, *shape), dtype) for name, (shape, dtype) in kept.items()}

    def _load(self, chunks: list[int], arrays: dict[str, np.ndarray]) -> Iterator[str]:
        """Fill `arrays`; every file is requested before the first is awaited. Yields what is damaged."""
        requests, row = [], 0
        for chunk in chunks:
            first, end = self.manifest.rows(chunk)
            for field, array in arrays.items():
                part = array[row : row + end - first]
                # TensorStore copies into our memory, so that a large collection is not held twice.
                future = ts.array(part, copy=False, write=True).write(self._arrays[field][first:end])
                requests.append((chunk, field, part, future))
            row += end - first
        for chunk, field, part, future in requests:
            name = array_key(self.manifest, field, chunk)
            try:
                with named(f"reading {name} (chunk {chunk}, {field})", again(chunk)):
                    future.result()
            except HistoryError as error:
                yield str(error)
                continue
            expected, found = self._entries[chunk].content[field], _crc(part)
            if found != expected:
                yield (
                    f"{name} (chunk {chunk}, {field}) holds other data than was written: "
                    f"expected {expected}, got {found}. {again(chunk)}"
                )


def open_store(url: Url, *, allow_partial: bool = False) -> HistoryStore:
    """Open a collection for reading, after checking its manifest, its metadata, its ledger and its file names.

    Args:
        url: directory, or a `gs://` or `s3://` URL.
        allow_partial: also open a collection that is not finished.

    Raises:
        HistoryError: naming every damaged or missing file, or the chunks that are not collected yet.
    """
    store = connect(url)
    manifest = format_.read_manifest(store)
    entries, problems = format_.scan(store, manifest)
    _raise(store, problems)
    if len(entries) < manifest.chunks and not allow_partial:
        missing = [chunk for chunk in range(manifest.chunks) if chunk not in entries]
        raise HistoryError(
            f"{place(store)} is not finished: chunks {some(missing)} of {manifest.chunks} are not in the ledger. "
            "Run collect again with the same configuration (finished chunks are kept), or allow a partial collection."
        )
    return HistoryStore(store, manifest, entries)


def manifest_at(url: Url) -> Manifest | None:
    """Return the manifest of the collection at a place; None where there is none. Nothing else is looked at.

    Raises:
        HistoryError: if it is damaged.
    """
    store = connect(url)
    return format_.read_manifest(store) if MANIFEST in list_keys(store) else None


def verify(url: Url, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Every problem of a collection, as `HistoryStore.verify`, even of one that is too damaged to open."""
    try:
        store = connect(url)
        return HistoryStore(store, format_.read_manifest(store), {}).verify(progress)
    except HistoryError as error:
        return [str(error)]


def returns_in(entries: dict[int, Entry]) -> history_returns.Returns | None:
    """Return what the source earned in the chunks of these ledger entries."""
    chunks = [entries[chunk] for chunk in sorted(entries)]
    return history_returns.pool([e.returns or None for e in chunks], [e.end - e.first for e in chunks])


def _arrays(histories: Histories) -> JsonObject:
    """Return the arrays of `histories` by field name, as in `Manifest.fields`."""
    known = {name: getattr(histories.transition, name) for name in TRANSITION}
    arrays = {name: array for name, array in known.items() if array is not None}
    arrays |= {f"task/{name}": leaf for name, leaf in histories.tasks.items()}
    return arrays | {"seed_index": histories.seed_index, "actor": histories.actor}


def _check_arrays(manifest: Manifest, chunk: int, arrays: dict[str, np.ndarray]) -> None:
    if arrays.keys() != manifest.fields.keys():
        odd = sorted(arrays.keys() ^ manifest.fields.keys())
        raise HistoryError(f"chunk {chunk}: expected the fields {list(manifest.fields)}; missing or unknown: {odd}.")
    first, end = manifest.rows(chunk)
    for field, (shape, dtype) in manifest.fields.items():
        array = arrays[field]
        if array.shape != (end - first, *shape) or array.dtype != dtype:
            raise HistoryError(
                f"chunk {chunk}, {field}: expected {dtype.name}{[end - first, *shape]}; "
                f"got {array.dtype}{list(array.shape)}."
            )


def _crc(array: np.ndarray) -> str:
    """Checksum of the decoded bytes, row-major and little-endian. Damage, not malice, is what it guards against."""
    return f"crc32:{zlib.crc32(array.data):08x}"


def _write(store: ts.KvStore, files: dict[str, bytes]) -> None:
    """Write small files durably, all at once."""
    futures = {name: store.write(name, value) for name, value in files.items()}
    for name, future in futures.items():
        with named(f"writing {name}"):
            future.result()


def _raise(store: ts.KvStore, problems: list[str]) -> None:
    if problems:
        more = f"\n(and {len(problems) - 10} more)" if len(problems) > 10 else ""
        raise HistoryError(f"{place(store)} is damaged:\n" + "\n".join(problems[:10]) + more)
