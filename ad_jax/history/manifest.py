"""What a collection of learning histories is: its manifest, and what is believed of one that lies on a disk."""

import functools
import math
import reprlib
from typing import TYPE_CHECKING, Annotated, TypedDict

import numpy as np
from msgspec import Meta, Struct, structs
from numpy.typing import DTypeLike

from ad_jax.errors import HistoryError
from ad_jax.files import Json, JsonObject, check, wrong
from ad_jax.history.sealed import checksum
from ad_jax.types import Box, Discrete, Spec

SCHEMA = 2  # of collections whose actions are a Box; those of Discrete actions are written as before, as schema 1
READ = (1, SCHEMA)
MANIFEST = "manifest.json"

# A damaged or hostile manifest must end in an error, not in an allocation. One Zarr chunk is decoded as a whole.
MAX_CHUNK_BYTES = 2**32
MAX_CHUNKS = 10**6  # six digits in a ledger name
DTYPES = {"bool", "float16", "float32", "float64"} | {f"{s}int{b}" for s in ("", "u") for b in (8, 16, 32, 64)}
Dtype = Annotated[str, Meta(pattern=rf"^({'|'.join(sorted(DTYPES))})\Z")]
Size = Annotated[int, Meta(ge=1, le=2**40)]
Shape = Annotated[list[Size], Meta(max_length=24)]
LeafName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*\Z")
]  # no path; a number is a place in a tuple


if TYPE_CHECKING:
    ReadSpec = Spec
else:  # is checked apart, by `_Spec`: msgspec takes no union of two dataclasses
    ReadSpec = Json


class Leaf(TypedDict):
    """One leaf of the tasks, its shape without H."""

    shape: Shape
    dtype: Dtype


class _Box(Struct):
    shape: Shape
    low: list[float]
    high: list[float]

    def __post_init__(self):
        Box(tuple(self.shape), tuple(self.low), tuple(self.high))


class _Spec(Struct):
    shape: Shape
    values: list[Annotated[int, Meta(ge=1, le=2**32)]] | None
    pixels: bool = False
    num_actions: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    action: _Box | None = None

    def __post_init__(self):
        if (self.num_actions is None) == (self.action is None):
            found = "neither" if self.action is None else "both"
            raise ValueError(f": expected `num_actions` (Discrete actions) or `action` (a Box), received {found}")
        if self.pixels and (self.values is not None or len(self.shape) != 3):
            raise ValueError(f".pixels: expected a shape of 3 dimensions and no values with it, received {self.shape}")
        if self.values is not None and len(self.values) != math.prod(self.shape):
            raise ValueError(f".values: expected {math.prod(self.shape)} as in 'shape', received {len(self.values)}")


def step_fields(
    spec: Spec, reward_dtype: DTypeLike, next_observation: bool, preferences: bool = False, features: int = 0
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return shape and dtype of everything that is stored of one step, by name."""
    fields = {
        "observation": (spec.shape, spec.observation_dtype),
        "action": (spec.action.shape, spec.action_dtype),
        "reward": ((), np.dtype(reward_dtype)),
        "terminated": ((), np.dtype(bool)),
        "truncated": ((), np.dtype(bool)),
    }
    fields |= {"next_observation": fields["observation"]} if next_observation else {}
    fields |= {"preferences": ((spec.num_actions,), np.dtype(np.float32))} if preferences else {}
    return fields | ({"features": ((features,), np.dtype(np.float32))} if features else {})


class Manifest(Struct, frozen=True, kw_only=True, dict=True, forbid_unknown_fields=True):
    """What a collection of learning histories is: plain data, written once, never changed.

    Attributes:
        family: `{"name": ..., "options": {...}}` of the task family.
        source: `{"name": ..., "config": {...}, "actors": int}` of the source algorithm.
        spec: observations and actions; it also sets their dtypes.
        task_leaves: shape and dtype of each leaf of the tasks, by dotted path.
        reward_dtype: dtype of rewards as stored.
        histories: H.
        steps: T.
        episode_length: time limit of one episode, in steps.
        chunk_histories: histories in one chunk; the last chunk may hold fewer.
        provenance: seed, versions, split and the like: any JSON.
        next_observation: whether what each action led to is stored, too.
        preferences: whether what the source held of each action is.
        features: how many numbers of each step are stored, too, that the last layer of the source's network saw.
    """

    family: JsonObject
    source: JsonObject
    spec: ReadSpec
    task_leaves: dict[LeafName, Leaf]
    reward_dtype: Dtype
    histories: Size
    steps: Size
    episode_length: Size
    chunk_histories: Size
    provenance: JsonObject
    next_observation: bool = False
    preferences: bool = False
    features: Annotated[int, Meta(ge=0, le=2**20)] = 0

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
        of_step = step_fields(self.spec, self.reward_dtype, self.next_observation, self.preferences, self.features)
        fields: dict[str, tuple[tuple[int, ...], np.dtype]] = {
            name: ((self.steps, *shape), dtype) for name, (shape, dtype) in of_step.items()
        }
        for name, leaf in sorted(self.task_leaves.items()):
            fields[f"task/{name}"] = (tuple(leaf["shape"]), np.dtype(leaf["dtype"]))
        return fields | dict.fromkeys(("seed_index", "actor"), ((), np.dtype(np.int32)))

    @functools.cached_property
    def checksum(self) -> str:
        """Checksum of the manifest, which every ledger entry repeats."""
        return checksum(self.to_json())

    def to_json(self) -> JsonObject:
        """Plain data, with the schema version; what came later is there only where it holds, so bytes are kept."""
        schema = 1 if isinstance(self.spec.action, Discrete) else SCHEMA
        data = structs.asdict(self) | {"spec": self.spec.to_json(), "schema": schema}
        later = ("next_observation", "preferences", "features")
        return {name: value for name, value in data.items() if name not in later or value}

    @classmethod
    def from_json(cls, data: Json) -> "Manifest":
        """Inverse of `to_json`.

        Raises:
            HistoryError: for another schema version, a missing or unknown field, or a size beyond the limits.
        """
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema not in READ or isinstance(schema, bool):
            raise HistoryError(
                f"{MANIFEST}: schema version {reprlib.repr(schema)}; this version of ad_jax reads {SCHEMA} and 1. "
                "Read the collection with the version that wrote it, or collect again in a new directory."
            )
        rest = {name: value for name, value in data.items() if name != "schema"}
        if "spec" in rest:
            if problem := wrong(rest["spec"], _Spec):
                raise HistoryError(f"{MANIFEST}: spec{problem}")
            rest["spec"] = Spec.from_json(rest["spec"])
        manifest = check(rest, cls, MANIFEST, HistoryError)
        sizes = {"number of chunks (histories / chunk_histories)": (manifest.chunks, MAX_CHUNKS)}
        for field, (shape, dtype) in manifest.fields.items():
            size = manifest.chunk_histories * dtype.itemsize * math.prod(shape)
            sizes[f"bytes of one chunk of {field} (lower collect.chunk_learners)"] = size, MAX_CHUNK_BYTES
        for name, (size, most) in sizes.items():
            if not 1 <= size <= most:
                raise HistoryError(f"{MANIFEST}: {name}: expected 1 to {most}, received {size}.")
        return manifest
