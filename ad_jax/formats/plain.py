"""Plain arrays: the schema that npz, HDF5 and Parquet share, for one's own logs.

    observation  [H, T, *O]   before each action          } or [T, ...] for a file, or a group, of one history
    action       [H, T, *A]   whole or real numbers       }
    reward       [H, T]                                    }
    terminated   [H, T]       and truncated [H, T], 0 or 1; or `done` [H, T] where nobody knows which it was
    task_id      [H]          text or whole numbers; without it every history has a task of its own
    task/NAME    [H, ...]     leaves of the task, where env= names its family
    seed_index, actor [H]     where they are known, and so
    next_observation [H, T, *O];  preferences [H, T, A];  features [H, T, F]

`about`, which an export writes, is JSON text: spec, family, episode_length, reward_dtype and actors. Where neither that
nor env= says it, the number of actions and of values is one more than the largest that is there.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ad_jax.errors import ForeignHistoriesError, unknown
from ad_jax.files import Json, JsonObject, parse
from ad_jax.formats.base import Foreign, Format, Stream, box, family_of, flags, reading, require
from ad_jax.history.foreign import PICKLED, History, Origin
from ad_jax.history.store import HistoryStore
from ad_jax.history.write import OPAQUE, UNKNOWN
from ad_jax.types import Box, Discrete, Spec

STEPS = (
    *("observation", "action", "reward", "terminated", "truncated", "done"),
    *("next_observation", "preferences", "features"),
)
WHOLE = ("task_id", "seed_index", "actor")
ABOUT = "about"


class Arrays(Protocol):
    """Named arrays of one file or group."""

    name: str

    def shapes(self) -> Mapping[str, tuple[tuple[int, ...], np.dtype]]:
        """Return shape and dtype of every array; none is read."""
        ...

    def read(self, name: str, row: int | None) -> np.ndarray:
        """Return an array, or one row of it."""
        ...

    def text(self, name: str) -> str | None:
        """Return a text that stands beside the arrays."""
        ...


@dataclasses.dataclass(frozen=True)
class Plain(Format):
    """Options of the formats of plain arrays."""

    env: str | None = None  # the task family, whose dynamics are then checked; its options as env.size=9
    options: Mapping[str, Json] = dataclasses.field(default_factory=dict)  # of env
    actions: tuple[int, ...] | None = None  # what each action of the files is called here
    flip: bool = False  # turn the last axis of observations around, (column, row) into (row, column)
    num_actions: int | None = None  # None: one more than the largest
    values: tuple[int, ...] | None = None  # of each component of whole observations; None: one more than the largest
    low: float | None = None  # bounds of real actions; None: the smallest
    high: float | None = None
    pixels: bool = False  # observations are pictures, uint8 [height, width, channels]
    episode_length: int | None = None  # most steps of an episode; None: the longest of the first history

    def gather(self, blocks: Sequence[Arrays], files: Sequence[Path]) -> Foreign:
        """Return what named arrays hold."""
        about = _about(blocks[0])
        said = blocks[0].text(ABOUT)
        if odd := next((block for block in blocks if block.text(ABOUT) != said), None):
            raise ForeignHistoriesError(
                f"{blocks[0].name} and {odd.name} disagree about what they hold ({ABOUT}), so they are no one "
                "collection. Import each alone"
            )
        family = family_of(self.env, self.options)
        if family is None and about.get("family", {}).get("name", OPAQUE) != OPAQUE:
            family = family_of(about["family"]["name"], about["family"]["options"])
        streams, known = [], True
        for block in blocks:
            shapes = _checked(block)
            known = known and "done" not in shapes
            steps = shapes["reward"][0]
            if len(steps) == 1:
                streams.append(self._stream(block, None, steps[0], len(streams)))
                continue
            streams += [self._stream(block, row, steps[1], len(streams) + row) for row in range(steps[0])]
        spec = None if family is not None else self._spec(blocks, about)
        origin = Origin(
            terminal_observation="next_observation" in blocks[0].shapes(),
            termination="recorded" if known else UNKNOWN,
            notes=() if about or family else ("the spec was read off the data",),
        )
        return Foreign(
            streams,
            origin,
            files,
            spec,
            family,
            self.episode_length or about.get("episode_length"),
            about.get("reward_dtype"),
            about.get("actors", 1),
            bool(about),
        )

    def _stream(self, block: Arrays, row: int | None, steps: int, number: int) -> Stream:
        where = block.name if row is None else f"{block.name}, row {row}"
        return Stream(where, steps, lambda: self._history(block, row, where, number))

    def _history(self, block: Arrays, row: int | None, where: str, number: int) -> History:
        held = {name: block.read(name, row) for name in block.shapes() if name != ABOUT}
        for name in ("terminated", "truncated", "done"):
            if name in held:
                held[name] = flags(held[name], f"{where}: {name}")
        done = held.pop("done", None)
        tasks = {name.removeprefix("task/"): held.pop(name) for name in list(held) if name.startswith("task/")}
        task_id = held.pop("task_id", None)
        if task_id is None and (text := block.text("task_id")) is not None:
            task_id = np.asarray(text)
        whole = {name: int(held.pop(name)) for name in ("seed_index", "actor") if name in held}
        if done is not None:
            if "truncated" in held and "terminated" not in held:
                held["terminated"] = done & ~held["truncated"]
            held["truncated"] = done & ~held.get("terminated", np.zeros_like(done))
        if self.flip:
            held |= {n: self._flipped(held[n], where) for n in ("observation", "next_observation") if n in held}
        if self.actions is not None:
            held["action"] = self._renumbered(held["action"], where)
            if "preferences" in held:
                held["preferences"] = self._columns_renumbered(held["preferences"], where)
        named = None if self.env is not None or tasks else f"{number}"
        return History(**held, task_id=named if task_id is None else _text(task_id), task=tasks, **whole)

    def _renumbered(self, action: np.ndarray, where: str) -> np.ndarray:
        table = np.asarray(self.actions)
        if action.size and (action.min() < 0 or action.max() >= len(table)):
            raise ForeignHistoriesError(
                f"{where}: actions={self.actions} renames {len(table)} of them, and action {action.max()} is among them"
            )
        return table[action]

    def _columns_renumbered(self, preferences: np.ndarray, where: str) -> np.ndarray:
        """Return a column for each action `[T, A]`, where its action is now."""
        if sorted(self.actions or ()) != list(range(preferences.shape[-1])):
            raise ForeignHistoriesError(
                f"{where}: preferences are of {preferences.shape[-1]} actions, and actions={self.actions} does not "
                "give as many another name each"
            )
        moved = np.empty_like(preferences)
        moved[..., list(self.actions or ())] = preferences
        return moved

    @staticmethod
    def _flipped(observation: np.ndarray, where: str) -> np.ndarray:
        if observation.ndim < 2:
            raise ForeignHistoriesError(f"{where}: flip turns components around, and observations are of the shape []")
        return observation[..., ::-1]

    def _spec(self, blocks: Sequence[Arrays], about: JsonObject) -> Spec:
        """Return what is said of observations and actions, or what the data shows."""
        if "spec" in about:
            return Spec.from_json(about["spec"])
        shapes = blocks[0].shapes()
        lead = len(shapes["reward"][0])
        (_, kind), (_, acted) = shapes["observation"], shapes["action"]
        shape, acting = shapes["observation"][0][lead:], shapes["action"][0][lead:]
        if acted.kind == "f" or acting:
            low = self.low if self.low is not None else _extreme(blocks, "action", np.min, lead)
            high = self.high if self.high is not None else _extreme(blocks, "action", np.max, lead)
            action: Discrete | Box = box(acting, _plain(low), _plain(high))
        else:
            action = Discrete(self.num_actions or 1 + self._largest_action(blocks, lead))
        if self.pixels or kind.kind == "f":
            return Spec(action, shape, None, pixels=self.pixels)
        if self.values is not None:
            values = self.values * (math.prod(shape) if len(self.values) == 1 else 1)
        else:
            largest = _extreme(blocks, "observation", np.max, lead)
            largest = self._flipped(largest[None], blocks[0].name)[0] if self.flip else largest
            values = tuple(int(x) + 1 for x in np.ravel(largest))
        return Spec(action, shape, values)

    def _largest_action(self, blocks: Sequence[Arrays], lead: int) -> int:
        """Return the largest number of an action, as it is called here."""
        return max(self.actions) if self.actions else int(_extreme(blocks, "action", np.max, lead))


def about_of(store: HistoryStore) -> JsonObject:
    """Return what an export says beside the arrays."""
    m = store.manifest
    return {
        "spec": m.spec.to_json(),
        "family": m.family,
        "episode_length": m.episode_length,
        "reward_dtype": m.reward_dtype,
        "actors": m.source["actors"],
    }


def _about(block: Arrays) -> JsonObject:
    text = block.text(ABOUT)
    if text is None:
        return {}
    try:
        found = parse(text)
    except ValueError as error:
        raise ForeignHistoriesError(f"{block.name}: {ABOUT} is no JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _checked(block: Arrays) -> Mapping[str, tuple[tuple[int, ...], np.dtype]]:
    """Return the shapes of a block whose names are known and whose arrays go together."""
    shapes = {name: held for name, held in block.shapes().items() if name != ABOUT}
    for name, (_, dtype) in shapes.items():
        if name not in (*STEPS, *WHOLE) and not name.startswith("task/"):
            raise ForeignHistoriesError(f"{block.name}: {unknown('array', name, (*STEPS, *WHOLE))}")
        if dtype.kind == "O":
            raise ForeignHistoriesError(f"{block.name}: {name}: {PICKLED}")
    require(block.name, shapes, ("observation", "action", "reward"))
    if "done" not in shapes and not {"terminated", "truncated"} & shapes.keys():
        raise ForeignHistoriesError(
            f"{block.name}: nothing says where episodes end. Give terminated and truncated, or done where nobody knows "
            "which it was"
        )
    lead = shapes["reward"][0]
    if len(lead) not in (1, 2):
        raise ForeignHistoriesError(f"{block.name}: expected rewards [H, T] or [T], received {list(lead)}")
    for name, (shape, _) in shapes.items():
        expected = lead if name in STEPS else lead[: len(lead) - 1]
        if shape[: len(expected)] != expected:
            raise ForeignHistoriesError(
                f"{block.name}: {name}: expected [{', '.join(map(str, expected))}, ...] as rewards have, received "
                f"{list(shape)}"
            )
    return shapes


def _extreme(blocks: Sequence[Arrays], name: str, of: Callable, lead: int) -> np.ndarray:
    """Return the largest or smallest of each component, over everything; a row is in memory at a time."""
    found = []
    for block in blocks:
        rows = range(block.shapes()[name][0][0]) if lead == 2 else [None]
        with reading(block.name):
            found += [of(block.read(name, row), axis=0) for row in rows]
    return of(np.stack(found), axis=0)


def _plain(x: Json) -> Json:
    return x if isinstance(x, int | float) else tuple(float(y) for y in np.ravel(x))


def _text(x: np.ndarray) -> str:
    x = np.asarray(x)
    value = x.item() if x.ndim == 0 else x.tolist()
    return value.decode() if isinstance(value, bytes) else str(value)


def columns_of(store: HistoryStore, chunk: int, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return arrays of a chunk by their names in the schema, and the ids of its tasks."""
    held = [name for name in names if name != "task_id"]
    first, end = store.manifest.rows(chunk)
    ids = store.task_ids
    text = np.array(ids[first:end], dtype=f"U{max(1, *map(len, ids))}")
    return store.fields([chunk], held) | {"task_id": text}


def about_text(store: HistoryStore) -> str:
    """Return the same as JSON text."""
    return json.dumps(about_of(store), sort_keys=True)
