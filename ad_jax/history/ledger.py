"""The on-disk format of learning histories: manifest, file names, array metadata, ledger of finished chunks.

In: a `Manifest` that says what a collection holds. Out: the exact bytes of every JSON file, the name and layout of
every array file, and `scan`, which compares a directory with what its manifest and its ledger promise.

    manifest.json                    what the collection is; written first
    arrays/<field>/zarr.json         Zarr v3 metadata, a function of the manifest
    arrays/<field>/c/<chunk>/0...    rows of one chunk, all of T: bytes, zstd, crc32c
    ledger/<chunk>.json              one finished chunk and what it earned; written after its arrays are durable

A missing array file reads as fill values, silently, and a crc32c cannot tell a chunk from its neighbor: the ledger and
its content checksums close both holes. Nothing here depends on clock, host or chance, so equal inputs give equal bytes.
"""

import dataclasses
import json
import re
import reprlib

import tensorstore as ts
from msgspec import UNSET, Struct, UnsetType, to_builtins

from ad_jax.errors import HistoryError
from ad_jax.files import Json, JsonObject, Whole, check
from ad_jax.history import returns as history_returns
from ad_jax.history.access import CONTEXT, list_keys, named, place
from ad_jax.history.manifest import MANIFEST, Manifest
from ad_jax.history.sealed import canonical, unseal
from ad_jax.types import Transition

TRANSITION = tuple(field.name for field in dataclasses.fields(Transition))  # the last three where they were asked for


def ledger_key(chunk: int) -> str:
    """File name of a chunk's ledger entry."""
    return f"ledger/{chunk:06d}.json"


def array_key(manifest: Manifest, field: str, chunk: int | None = None) -> str:
    """File name of one chunk of an array, or of its metadata."""
    if chunk is None:
        return f"arrays/{field}/zarr.json"
    return f"arrays/{field}/c/{chunk}" + "/0" * len(manifest.fields[field][0])


def array_metadata(manifest: Manifest, field: str) -> JsonObject:
    """Return the Zarr v3 metadata of one array: a chunk is `chunk_histories` rows with everything in them."""
    shape, dtype = manifest.fields[field]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [manifest.histories, *shape],
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [manifest.chunk_histories, *shape]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": False if dtype.kind == "b" else 0,
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}} if dtype.itemsize > 1 else {"name": "bytes"},
            {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
            {"name": "crc32c"},
        ],
    }


def array_metadata_bytes(manifest: Manifest, field: str) -> bytes:
    """Return the bytes of an array's `zarr.json`: ours, so that they do not change with the version of TensorStore."""
    return canonical(array_metadata(manifest, field))


def open_array(store: ts.KvStore, manifest: Manifest, field: str) -> ts.TensorStore:
    """One array, `[H, ...]`, with the manifest's metadata; `scan` has compared it with the file's."""
    spec = {
        "driver": "zarr3",
        "metadata": array_metadata(manifest, field),
        "store_data_equal_to_fill_value": True,  # an all-zero chunk is a file too, so that a missing one is damage
        "fill_missing_data_reads": False,
    }
    with named(f"opening arrays/{field}"):
        kvstore = store / f"arrays/{field}/"  # as it is: its JSON would leave out credentials and retries
        return ts.open(spec, kvstore=kvstore, open=True, assume_metadata=True, context=CONTEXT).result()


def read_manifest(store: ts.KvStore) -> Manifest:
    """Return the manifest of the collection.

    Raises:
        HistoryError: if there is none, or it is damaged, of another schema, or absurd.
    """
    with named(f"reading {MANIFEST}"):
        found = store.read(MANIFEST).result()
    if found.state != "value":
        raise HistoryError(f"no learning histories at {place(store)}: it has no {MANIFEST}. Run collect first.")
    remedy = "Restore it from a copy, or collect again in a new directory."
    return Manifest.from_json(unseal(found.value, MANIFEST, remedy))


class Entry(Struct, forbid_unknown_fields=True):
    """What the ledger says of a finished chunk; `returns` is not there in those of early versions."""

    chunk: int
    collection: str  # checksum of its manifest, which keeps an entry from passing in another collection
    first: int  # its rows
    end: int
    task_ids: list[str]
    content: dict[str, str]
    stored_bytes: dict[str, Whole]
    returns: history_returns.Chunk | UnsetType = UNSET

    @classmethod
    def of(cls, manifest: Manifest, chunk: int, *rest: Json) -> "Entry":
        """Return the entry of a chunk; `rest` are the fields from `task_ids` on."""
        return cls(chunk, manifest.checksum, *manifest.rows(chunk), *rest)

    def to_json(self) -> JsonObject:
        """Plain data, for `seal`."""
        return to_builtins(self)


def scan(store: ts.KvStore, manifest: Manifest) -> tuple[dict[int, Entry], list[str]]:
    """Compare the file names, the metadata and the ledger with the manifest; array data is not read.

    Returns:
        The intact ledger entries by chunk, in order, and every problem found, each with its remedy.
    """
    keys = set(list_keys(store))
    entries, problems = {}, []
    metadata = {field: store.read(array_key(manifest, field)) for field in manifest.fields}
    numbers = sorted(int(match[1]) for match in map(re.compile(r"ledger/(\d{6})\.json").fullmatch, keys) if match)
    ledger = {chunk: store.read(ledger_key(chunk)) for chunk in numbers}
    for field, future in metadata.items():
        name = array_key(manifest, field)
        with named(f"reading {name}"):
            found = future.result()
        if found.value != array_metadata_bytes(manifest, field):
            state = "missing" if found.state != "value" else f"damaged: {len(found.value)} bytes that {MANIFEST} denies"
            problems.append(f"{name} is {state}. Delete it and run collect again: no chunk is collected anew.")
    for chunk, future in ledger.items():
        try:
            with named(f"reading {ledger_key(chunk)}"):
                raw = future.result().value
            entry = _read_entry(raw, manifest, chunk)
        except HistoryError as error:
            problems.append(str(error))
            continue
        entries[chunk] = entry
        wanted = (array_key(manifest, field, chunk) for field in manifest.fields)
        problems += [f"{key} is missing. {again(chunk)}" for key in wanted if key not in keys]
    return entries, problems


def _read_entry(raw: bytes, manifest: Manifest, chunk: int) -> Entry:
    name = ledger_key(chunk)
    if chunk >= manifest.chunks:
        raise HistoryError(f"{name} is of no chunk: {MANIFEST} has {manifest.chunks} chunks. Delete it.")
    data = unseal(raw, name, again(chunk))
    try:
        entry = check(data, Entry, name, HistoryError)
        if "returns" in data:
            history_returns.check(entry.returns, manifest.source.get("actors"), f"{name}: returns")
    except HistoryError as error:
        raise HistoryError(f"{error}. {again(chunk)}") from error
    first, end = manifest.rows(chunk)
    if len(entry.task_ids) != end - first:
        raise HistoryError(
            f"{name}: expected task ids of rows {first} to {end}; got {reprlib.repr(entry.task_ids)}. {again(chunk)}"
        )
    for part in (entry.content, entry.stored_bytes):
        if part.keys() != manifest.fields.keys():
            raise HistoryError(
                f"{name}: expected the fields {list(manifest.fields)}; got {reprlib.repr(part)}. {again(chunk)}"
            )
    expected = Entry.of(manifest, chunk, entry.task_ids, entry.content, entry.stored_bytes, entry.returns).to_json()
    if wrong := sorted(field for field in data if data[field] != expected[field]):
        raise HistoryError(f"{name} is not of this chunk of this collection: {wrong} differ. {again(chunk)}")
    return entry


def word(name: object) -> str:
    """Return a name as it is, unless a terminal would obey it or could not print it."""
    return name if isinstance(name, str) and name.isprintable() else json.dumps(name)


def again(chunk: int) -> str:
    """Return the remedy for one damaged chunk."""
    return f"Delete {ledger_key(chunk)} and run collect again: only chunk {chunk} is collected anew."
