"""The on-disk format of learning histories: manifest, file names, array metadata, ledger of finished chunks.

In: a `Manifest` that says what a collection holds. Out: the exact bytes of every JSON file, the name and layout of
every array file, and `scan`, which compares a directory with what its manifest and its ledger promise.

    manifest.json                    what the collection is; written first
    arrays/<field>/zarr.json         Zarr v3 metadata, a function of the manifest
    arrays/<field>/c/<chunk>/0...    rows of one chunk, all of T: bytes, zstd, crc32c
    ledger/<chunk>.json              one finished chunk and what it earned; written after its arrays are durable

A missing array file reads as fill values, silently, and a crc32c cannot tell a chunk from its neighbour: the ledger and
its content checksums close both holes. Nothing here depends on clock, host or chance, so equal inputs give equal bytes.
"""

import dataclasses
import functools
import hashlib
import json
import math
import re
import reprlib
from typing import Any

import numpy as np
import tensorstore as ts

from ad_jax.errors import HistoryError
from ad_jax.history import returns as history_returns
from ad_jax.history.access import CONTEXT, list_keys, named, place
from ad_jax.types import Spec

SCHEMA = 1
MANIFEST = "manifest.json"
TRANSITION = ("observation", "action", "reward", "terminated", "truncated")

# A damaged or hostile manifest must end in an error, not in an allocation. One Zarr chunk is decoded as a whole.
MAX_CHUNK_BYTES = 2**32
MAX_CHUNKS = 10**6  # six digits in a ledger name
MAX_SIZE = 2**40
MAX_RANK = 24
DTYPES = {"bool", "float16", "float32", "float64"} | {f"{s}int{b}" for s in ("", "u") for b in (8, 16, 32, 64)}
LEAF_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")  # never a path separator; a number is a place in a tuple


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a collection of learning histories is: plain data, written once, never changed.

    Attributes:
        family: `{"name": ..., "options": {...}}` of the task family.
        source: `{"name": ..., "config": {...}, "actors": int}` of the source algorithm.
        spec: observations and actions; it also sets their dtypes.
        task_leaves: for each leaf of the task `{"shape": [...], "dtype": "int32"}`; the shape is without H.
        reward_dtype: dtype of rewards as stored.
        histories: H.
        steps: T.
        episode_length: time limit of one episode, in steps.
        chunk_histories: histories in one chunk; the last chunk may hold fewer.
        provenance: seed, versions, split and the like: any JSON.
    """

    family: dict[str, Any]
    source: dict[str, Any]
    spec: Spec
    task_leaves: dict[str, Any]
    reward_dtype: str
    histories: int
    steps: int
    episode_length: int
    chunk_histories: int
    provenance: dict[str, Any]

    @property
    def chunks(self) -> int:
        """Number of chunks of the finished collection."""
        return -(-self.histories // self.chunk_histories)

    def rows(self, chunk: int) -> tuple[int, int]:
        """First row and end row of a chunk."""
        first = chunk * self.chunk_histories
        return first, min(first + self.chunk_histories, self.histories)

    @functools.cached_property
    def fields(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape without H, and dtype, of every array, by its path under `arrays/`."""
        steps, flag, index = (self.steps,), np.dtype(bool), np.dtype(np.int32)
        fields = {
            "observation": (steps + self.spec.shape, self.spec.observation_dtype),
            "action": (steps, self.spec.action_dtype),
            "reward": (steps, np.dtype(self.reward_dtype)),
            "terminated": (steps, flag),
            "truncated": (steps, flag),
        }
        for name, leaf in sorted(self.task_leaves.items()):
            fields[f"task/{name}"] = (tuple(leaf["shape"]), np.dtype(leaf["dtype"]))
        return fields | {"seed_index": ((), index), "actor": ((), index)}

    @functools.cached_property
    def checksum(self) -> str:
        """Checksum of the manifest, which every ledger entry repeats."""
        return checksum(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the schema version."""
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return data | {"spec": self.spec.to_json(), "schema": SCHEMA}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Manifest":
        """Inverse of `to_json`.

        Raises:
            HistoryError: for another schema version, a missing or unknown field, or a size beyond the limits.
        """
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != SCHEMA:
            raise HistoryError(
                f"{MANIFEST}: schema version {reprlib.repr(schema)}; this version of ad_jax reads {SCHEMA}. "
                "Read the collection with the version that wrote it, or collect again in a new directory."
            )
        names = {field.name for field in dataclasses.fields(cls)}
        if data.keys() - {"schema"} != names:
            raise HistoryError(f"{MANIFEST}: expected the fields {sorted(names)}; got {reprlib.repr(sorted(data))}.")
        try:
            values: dict[str, Any] = {name: data[name] for name in names}
            manifest = cls(**dict(values, spec=Spec.from_json(data["spec"])))
            _check(manifest)
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise HistoryError(f"{MANIFEST}: a field is not of the expected form: {error!r}.") from error
        return manifest


def _check(manifest: Manifest) -> None:
    """Raise a HistoryError unless every size is a sane number and every name is a name."""

    def integer(name: str, value: Any, largest: int) -> None:
        if type(value) is not int or not 1 <= value <= largest:
            raise HistoryError(f"{MANIFEST}: {name} must be an integer in 1..{largest}; got {reprlib.repr(value)}.")

    for name in ("histories", "steps", "episode_length", "chunk_histories"):
        integer(name, getattr(manifest, name), MAX_SIZE)
    spec = manifest.spec
    integer("spec.num_actions", spec.num_actions, 2**31 - 1)
    shapes = {"spec.shape": spec.shape}
    for name, leaf in manifest.task_leaves.items():
        if not isinstance(name, str) or not LEAF_NAME.fullmatch(name):
            raise HistoryError(f"{MANIFEST}: {reprlib.repr(name)} is no name of a task leaf; expected an identifier.")
        shapes[f"task_leaves.{name}.shape"] = leaf["shape"]
    for name, shape in shapes.items():
        for size in shape:
            integer(name, size, MAX_SIZE)
        if len(shape) > MAX_RANK:
            raise HistoryError(f"{MANIFEST}: {name} has {len(shape)} dimensions; at most {MAX_RANK} are stored.")
    for value in spec.values or ():
        integer("spec.values", value, 2**32)
    if spec.pixels is not False and (spec.pixels is not True or spec.values is not None or len(spec.shape) != 3):
        raise HistoryError(f"{MANIFEST}: spec.pixels goes with a shape of 3 dimensions and no values; got {spec}.")
    if spec.values is not None and len(spec.values) != spec.size:
        raise HistoryError(f"{MANIFEST}: spec.values has {len(spec.values)} entries; spec.shape has {spec.size}.")
    for dtype in [manifest.reward_dtype, *(leaf["dtype"] for leaf in manifest.task_leaves.values())]:
        if dtype not in DTYPES:
            raise HistoryError(
                f"{MANIFEST}: dtype {reprlib.repr(dtype)} is not stored; use one of {', '.join(sorted(DTYPES))}."
            )
    for part in ("family", "source", "provenance"):
        if not isinstance(getattr(manifest, part), dict):
            raise HistoryError(f"{MANIFEST}: {part} must be a mapping; got {reprlib.repr(getattr(manifest, part))}.")
    integer("number of chunks (histories / chunk_histories)", manifest.chunks, MAX_CHUNKS)
    for field, (shape, dtype) in manifest.fields.items():
        size = manifest.chunk_histories * dtype.itemsize * math.prod(shape)
        integer(f"bytes of one chunk of {field} (lower collect.chunk_learners)", size, MAX_CHUNK_BYTES)


def _text(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"


def checksum(content: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON text of `content`."""
    return "sha256:" + hashlib.sha256(_text(content)).hexdigest()


def seal(content: dict[str, Any]) -> bytes:
    """The bytes of a JSON file that carries its own checksum."""
    return _text({"checksum": checksum(content), "content": content})


def unseal(raw: bytes, name: str, remedy: str) -> dict[str, Any]:
    """Inverse of `seal`.

    Raises:
        HistoryError: naming the file and `remedy`, unless `raw` is to the byte what `seal` wrote.
    """
    try:
        data = json.loads(raw)
        content, found = data["content"], data["checksum"]
        expected = checksum(content)
        intact = isinstance(content, dict) and raw == seal(content)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise HistoryError(
            f"{name} is damaged: {len(raw)} bytes that are not its JSON ({error!r}). {remedy}"
        ) from error
    if not intact:
        raise HistoryError(
            f"{name} is damaged: its checksum says {reprlib.repr(found)}, its text has {expected}. {remedy}"
        )
    return content


def ledger_key(chunk: int) -> str:
    """File name of a chunk's ledger entry."""
    return f"ledger/{chunk:06d}.json"


def array_key(manifest: Manifest, field: str, chunk: int | None = None) -> str:
    """File name of one chunk of an array, or of its metadata."""
    if chunk is None:
        return f"arrays/{field}/zarr.json"
    return f"arrays/{field}/c/{chunk}" + "/0" * len(manifest.fields[field][0])


def array_metadata(manifest: Manifest, field: str) -> dict[str, Any]:
    """The Zarr v3 metadata of one array: a chunk is `chunk_histories` rows with everything in them."""
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
    """The bytes of an array's `zarr.json`: ours, so that they do not change with the version of TensorStore."""
    return _text(array_metadata(manifest, field))


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
    """The manifest of the collection.

    Raises:
        HistoryError: if there is none, or it is damaged, of another schema, or absurd.
    """
    with named(f"reading {MANIFEST}"):
        found = store.read(MANIFEST).result()
    if found.state != "value":
        raise HistoryError(f"no learning histories at {place(store)}: it has no {MANIFEST}. Run collect first.")
    remedy = "Restore it from a copy, or collect again in a new directory."
    return Manifest.from_json(unseal(found.value, MANIFEST, remedy))


def make_entry(
    manifest: Manifest,
    chunk: int,
    task_ids: list[str],
    content: dict[str, str],
    stored: dict[str, int],
    returns: history_returns.Chunk | None,
) -> dict:
    """The ledger entry of a finished chunk: plain data for `seal`. Without `returns`, that of early versions."""
    first, end = manifest.rows(chunk)
    earned = {} if returns is None else {"returns": returns}
    # The collection's checksum keeps an entry from passing in a collection that it was not written for.
    return {
        "chunk": chunk,
        "collection": manifest.checksum,
        "first": first,
        "end": end,
        "task_ids": task_ids,
        "content": content,
        "stored_bytes": stored,
        **earned,
    }


def scan(store: ts.KvStore, manifest: Manifest) -> tuple[dict[int, dict[str, Any]], list[str]]:
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
        for field in manifest.fields:
            if array_key(manifest, field, chunk) not in keys:
                problems.append(f"{array_key(manifest, field, chunk)} is missing. {again(chunk)}")
    return entries, problems


def _read_entry(raw: bytes, manifest: Manifest, chunk: int) -> dict[str, Any]:
    name = ledger_key(chunk)
    if chunk >= manifest.chunks:
        raise HistoryError(f"{name} is of no chunk: {MANIFEST} has {manifest.chunks} chunks. Delete it.")
    entry = unseal(raw, name, again(chunk))
    parts: list[Any] = [entry.get(part) for part in ("task_ids", "content", "stored_bytes")]
    ids, content, stored = parts
    first, end = manifest.rows(chunk)
    if not isinstance(ids, list) or len(ids) != end - first or not all(isinstance(i, str) for i in ids):
        raise HistoryError(
            f"{name}: expected task ids of rows {first} to {end}; got {reprlib.repr(ids)}. {again(chunk)}"
        )
    for part in (content, stored):
        if not isinstance(part, dict) or part.keys() != manifest.fields.keys():
            raise HistoryError(
                f"{name}: expected the fields {list(manifest.fields)}; got {reprlib.repr(part)}. {again(chunk)}"
            )
    if not all(type(size) is int and 0 <= size < 2**63 for size in stored.values()):
        raise HistoryError(f"{name}: stored_bytes must be sizes; got {reprlib.repr(stored)}. {again(chunk)}")
    if "returns" in entry and not history_returns.fits(entry["returns"], manifest.source.get("actors")):
        raise HistoryError(f"{name}: returns of another form: {reprlib.repr(entry['returns'])}. {again(chunk)}")
    expected = make_entry(manifest, chunk, ids, content, stored, entry.get("returns"))
    if entry != expected:
        wrong = [key for key in entry.keys() | expected.keys() if entry.get(key) != expected.get(key)]
        raise HistoryError(f"{name} is not of this chunk of this collection: {sorted(wrong)} differ. {again(chunk)}")
    return entry


def word(name: Any) -> str:
    """A name as it is, unless a terminal would obey it or could not print it."""
    return name if isinstance(name, str) and name.isprintable() else json.dumps(name)


def again(chunk: int) -> str:
    """The remedy for one damaged chunk."""
    return f"Delete {ledger_key(chunk)} and run collect again: only chunk {chunk} is collected anew."
