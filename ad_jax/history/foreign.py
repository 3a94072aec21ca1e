"""What learning histories of somebody else's are: one history as arrays, and what is known of how they came to be.

In: arrays of any dtype that holds the values. Out: the columns of a collection, or a `ForeignHistoriesError` that names
the history, the field and the step. Nothing is wrapped, clipped or rounded but real numbers to float32.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ad_jax.errors import ForeignHistoriesError
from ad_jax.files import JsonObject
from ad_jax.types import Array

IMPORTED = "imported"  # name of the source in the manifest of a collection that was not collected here
FLAGS = ("terminated", "truncated")
PICKLED = (
    "it holds Python objects, which only pickle can read, and pickle runs whatever code the file says. Where you trust "
    "it, load it once with numpy.load(..., allow_pickle=True) and save each history as plain arrays: "
    "numpy.savez(path, observation=..., action=..., reward=..., terminated=..., truncated=...); then import that as npz"
)


@dataclasses.dataclass(frozen=True)
class History:
    """One learning history: every step of one actor of one learner on one task, in order.

    Attributes:
        observation: `[T, *O]` before each action.
        action: `[T]` integers, or `[T, *A]` real numbers.
        reward: `[T]` for each action.
        terminated: `[T]`, where the environment ended an episode; None for nowhere that is known of.
        truncated: `[T]`, where a time limit did, or where an episode ended for a reason that is not known.
        task_id: what the task is called; None where a family names it.
        task: the task's parameters by dotted path, as the family's `EnvParams` has them; empty for an opaque task.
        seed_index: which of the task's learners this is.
        actor: which actor of the learner.
        next_observation: `[T, *O]` what each action led to, before any reset; None where it is not known.
        preferences: `[T, A]` what the learner held of each action; None where it is not known.
        features: `[T, F]` what the last layer of its network saw; None where it is not known.
    """

    observation: Array
    action: Array
    reward: Array
    terminated: Array | None = None
    truncated: Array | None = None
    task_id: str | None = None
    task: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed_index: int = 0
    actor: int = 0
    next_observation: Array | None = None
    preferences: Array | None = None
    features: Array | None = None

    def cut(self, steps: int) -> "History":
        """Return the first `steps` of it."""
        names = ("observation", "action", "reward", *FLAGS, "next_observation", "preferences", "features")
        held = {name: getattr(self, name) for name in names}
        return dataclasses.replace(self, **{name: x[:steps] for name, x in held.items() if x is not None})


@dataclasses.dataclass(frozen=True)
class Origin:
    """How histories came to be, as far as it is known; recorded with the collection.

    Attributes:
        format: the format that they were read from.
        files: sha256 of every file by its name.
        resets: who begins a new episode, and whether in the step that ends one.
        terminal_observation: whether the last observation of an episode, before the reset, is stored.
        termination: whether an end by the environment can be told from a time limit, and how.
        memory: whether the source remembers across episodes.
        labels: what actions besides those that were done are in the files, and what they are.
        notes: what else a reader has to know.
    """

    format: str = "python"
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    resets: str = "not known"
    terminal_observation: bool = False
    termination: str = "as given"
    memory: str = "not known"
    labels: str = "none"
    notes: tuple[str, ...] = ()

    def to_json(self) -> JsonObject:
        """Plain data for a manifest's provenance."""
        data = dataclasses.asdict(self) | {"notes": list(self.notes), "files": dict(self.files)}
        return {"imported": {name: value for name, value in data.items() if name != "files"}, "files": data["files"]}


def column(x: Array, shape: tuple[int, ...], dtype: np.dtype, what: str) -> np.ndarray:
    """Return `x` as a column of a collection.

    Args:
        x: values of one field of one history.
        shape: `[T, ...]` that it must have.
        dtype: that it is stored in. What it cannot hold is refused; real numbers are rounded to float32.
        what: the field and the history, for errors.

    Raises:
        ForeignHistoriesError: for another shape, Python objects, or values that are of another kind or too large.
    """
    x = np.asarray(x)
    if x.dtype == object:
        raise ForeignHistoriesError(f"{what}: {PICKLED}")
    if x.shape != shape:
        raise ForeignHistoriesError(f"{what}: expected the shape {list(shape)}, received {list(x.shape)}")
    if x.dtype == dtype:
        return x
    if x.dtype.kind not in "biuf":
        raise ForeignHistoriesError(f"{what}: expected numbers, received {x.dtype}")
    with np.errstate(invalid="ignore", over="ignore"):
        fitted = x.astype(dtype)
    rounded = dtype.kind == x.dtype.kind == "f" and dtype.itemsize >= 4
    bad = np.zeros(0, bool) if rounded else fitted != x
    if bad.any():
        at = tuple(map(int, np.argwhere(bad)[0]))
        raise ForeignHistoriesError(
            f"{what}: {dtype.name} cannot hold {x[at]}, at step {at[0]}. State the range that it has, or mend the file"
        )
    return fitted


def check_episodes(done: np.ndarray, what: str, longest: int | None) -> None:
    """Raise ForeignHistoriesError where an episode is longer than `longest` steps, or none ever ends; `done [T]`.

    The steps after the last end are an episode, too, whose end is not there.
    """
    ends = np.flatnonzero(done) + 1
    if not len(ends):
        raise ForeignHistoriesError(
            f"{what}: no episode ends in its {len(done)} steps. Say where they end (terminated, truncated), or done"
        )
    steps = np.diff(ends, prepend=0, append=len(done))
    if longest is not None and steps.max() > longest:
        number = int(steps.argmax())
        unfinished = " and no end" if number == len(ends) else ""
        raise ForeignHistoriesError(
            f"{what}: episode {number} has {steps[number]} steps{unfinished}, and an episode has at most {longest}. "
            "Give another episode_length, or mend what says where episodes end"
        )
