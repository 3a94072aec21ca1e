"""What `results.json` of schema 2 must be like before anything is believed of it. Imports no JAX.

In: parsed JSON, untrusted. Out: nothing, or a `ReportError` that names the field, what was expected and what came. The
structs hold every field that a report reads; a file may hold others.
"""

import json
import math
import re
import reprlib
from collections.abc import Mapping
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct, field
from numpy.typing import DTypeLike

from ad_jax import files
from ad_jax.errors import ReportError
from ad_jax.files import Finite, Json, JsonObject

SCHEMA = 2
MODES = ("sampled", "greedy")
ROLES = ("source", "reference")
Count = Annotated[int, Meta(ge=1, le=2**53)]
ANY = (-math.inf, math.inf, "")  # bounds of a number, and why they are these
Cell = Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=2, max_length=2)]


def check(results: Json, where: str) -> None:
    """Raise `ReportError`, naming the field, unless every run can be reported. `where` begins the message."""
    schema = results.get("schema") if isinstance(results, dict) else None
    if schema != SCHEMA:
        raise ReportError(
            f"{where}: schema: expected {SCHEMA}, received {reprlib.repr(schema)}; evaluate again to renew it"
        )
    files.check(results, Results, where, ReportError)
    try:
        json.dumps(results, allow_nan=False)  # what no report reads
    except ValueError as error:
        raise ReportError(f"{where}: expected finite numbers everywhere: {error}") from error


class Picture(Struct, kw_only=True):  # of another kind than those below: nothing is drawn
    kind: str


class Grid(Picture, kw_only=True):
    size: Annotated[int, Meta(ge=1, le=1000)]  # every cell is drawn
    goal: Cell
    key: Cell | None = None

    def __post_init__(self):
        form = f"{self.size}x{self.size} {self.kind} as {'[row, column]' if self.kind == 'grid' else '[x, y]'}"
        for name, cell in (("goal", self.goal), ("key", self.key)):
            if cell and max(cell) >= self.size:
                raise ValueError(f".{name}: expected a cell of the {form}, received {cell}")


class Pool(Grid, kw_only=True):
    size: Annotated[int, Meta(ge=1, le=2**20)]
    radius: Count


class Arms(Picture, kw_only=True):
    means: Annotated[list[Finite], Meta(min_length=1)] | None


class Task(Struct):
    id: str
    description: str
    optimal: Finite | None
    random: Finite | None
    picture: JsonObject | None
    params: JsonObject = {}  # missing in results of before

    def __post_init__(self):
        low, high = self.random, self.optimal
        if low is not None and high is not None and high < low - 1e-6 * (1 + abs(low)):
            raise ValueError(f".optimal: expected at least 'random', which is {low}; received {high}")
        if self.picture is not None:
            form = {"grid": Grid, "pool": Pool, "arms": Arms}.get(str(self.picture.get("kind")), Picture)
            if problem := files.wrong(self.picture, form):
                raise ValueError(f".picture{problem}")


class Episode(Struct):
    episode: int
    points: Annotated[list[Json], Meta(min_length=1)]  # what a point is depends on the task's picture
    earned: Finite = field(name="return")


class Paths(Struct):
    task: int
    seed: int
    mode: str
    episodes: Annotated[list[Episode], Meta(min_length=1)]

    def check(self, where: str, tasks: list[Task]) -> None:
        if not 0 <= self.task < len(tasks):
            raise ValueError(f"{where}.task: expected the index of one of {len(tasks)} tasks, received {self.task}")
        picture = tasks[self.task].picture or {"kind": ""}
        if picture["kind"] == "arms":
            bound, length = len(picture["means"] or range(10_000)), 1  # of unknown number: as many as can be drawn
        elif picture["kind"] in ("grid", "pool"):
            bound, length = picture["size"], 2
        else:
            return
        point = Annotated[list[Annotated[int, Meta(ge=0, lt=bound)]], Meta(min_length=length, max_length=length)]
        for i, episode in enumerate(self.episodes):
            if problem := files.wrong(episode.points, list[point]):
                raise ValueError(f"{where}.episodes[{i}].points{problem}")


# Every episode of its lifetimes, as `lifetimes.as_data` writes them.
class Source(Struct, rename={"lifetime": "life"}):
    name: str
    actors: Count
    lifetime: Count
    returns: list[list[list[Finite | list[Finite]]]]
    steps: int | list[list[list[list[int]]]]
    role: str = "source"

    def check(self, where: str, tasks: int, longest: int) -> None:
        if self.role not in ROLES:
            raise ValueError(f"{where}.role: expected one of {ROLES}, received {self.role!r}")
        if self.lifetime < longest:
            raise ValueError(
                f"{where}.life: expected at least episode_length = {longest} steps, received {self.lifetime}"
            )
        in_range = (1, longest, " = episode_length")
        if isinstance(self.steps, int):
            shape = {"tasks": tasks, "learners": None, "episodes": None}
            *_, episodes = _array(self.returns, f"{where}.returns", shape).shape
            done = {f"{where}.steps": episodes * _array(self.steps, f"{where}.steps", {}, in_range).sum()}
        else:
            shape = {"tasks": tasks, "learners": None, "actors": self.actors}
            counts = _array(_counts(self.returns), f"{where}.returns, numbers of episodes", shape, (1, math.inf, ""))
            _array(_counts(self.steps), f"{where}.steps, numbers of episodes", dict(zip(shape, counts.shape)))
            done = {}
            for (i, j, k), episodes in np.ndenumerate(counts):
                place = f"{where}.steps[{i}][{j}][{k}]"
                done[place] = _array(self.steps[i][j][k], place, {"episodes": episodes}, in_range).sum()
        for place, steps in done.items():
            if not self.lifetime - longest < steps <= self.lifetime:  # an episode that never ended takes the rest
                raise ValueError(
                    f"{place}: expected episodes of {self.lifetime} steps in all, less at most {longest - 1} of one "
                    f"that did not end, received {steps}"
                )


class TaskSet(Struct):
    name: str
    kind: str
    tasks: Annotated[list[Task], Meta(min_length=1)]
    returns: dict[str, list[list[list[Finite]]]]
    steps: dict[str, int | list[list[list[int]]]]
    source: Source | None
    paths: Paths | None

    def check(self, where: str, longest: int, reward_dtype: DTypeLike) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}", self.name):  # it becomes part of a file's name
            raise ValueError(f"{where}.name: expected letters, digits, '_' and '-', received {self.name!r}")
        if not self.returns or not self.returns.keys() <= set(MODES):
            raise ValueError(f"{where}.returns: expected 'sampled' and/or 'greedy', received {list(self.returns)}")
        earned = {f"{where}.{name}": [getattr(task, name) for task in self.tasks] for name in ("optimal", "random")}
        for place, values in earned.items():
            if known := [value for value in values if value is not None]:
                _array(known, place, {"tasks": None}, _sums(longest, reward_dtype))
        shape: dict[str, int | None] = {"tasks": len(self.tasks), "seeds": None, "episodes": None}
        for mode, values in self.returns.items():
            returns = _array(values, f"{where}.returns.{mode}", shape, _sums(longest, reward_dtype))
            shape["episodes"] = returns.shape[2]  # as many in every mode
            if mode not in self.steps:
                raise ValueError(f"{where}.steps: expected a field {mode!r}, received {list(self.steps)}")
            each = {} if isinstance(self.steps[mode], int) else dict(zip(shape, returns.shape))
            _array(self.steps[mode], f"{where}.steps.{mode}", each, (1, longest, " = episode_length"))
        if self.source:
            self.source.check(f"{where}.source", len(self.tasks), longest)
        if self.paths:
            self.paths.check(f"{where}.paths", self.tasks)


class Stage(Struct):
    seconds: Finite = 0.0
    resumed_from: Finite = 0.0  # updates


class Checkpoint(Struct):
    step: Annotated[float, Meta(ge=0)] | None = None  # updates


class Run(Struct):
    seed: int
    config: JsonObject
    provenance: JsonObject
    stages: dict[str, Stage]
    checkpoint: Checkpoint
    episode_length: Annotated[int, Meta(ge=1, le=2**31)]
    sets: Annotated[list[TaskSet], Meta(min_length=1)]
    reward_dtype: Json = None

    def __post_init__(self):
        for i, one in enumerate(self.sets):
            one.check(f".sets[{i}]", self.episode_length, self.reward_dtype)
        if len({one.name for one in self.sets}) < len(self.sets):
            raise ValueError(f".sets: expected different names, received {', '.join(one.name for one in self.sets)}")


class Results(Struct):
    experiment: str
    runs: Annotated[list[Run], Meta(min_length=1)]


def _sums(longest: int, reward_dtype: DTypeLike) -> tuple[float, float, str]:
    """Bounds of the sum of an episode's rewards, each of which the stated dtype holds exactly."""
    if reward_dtype not in ("bool", "int8", "uint8", "int16", "uint16"):
        return ANY
    low, high = (0, 1) if reward_dtype == "bool" else (np.iinfo(reward_dtype).min, np.iinfo(reward_dtype).max)
    why = f", what {longest} rewards of {reward_dtype} come to"
    return min(0, longest * int(low)), max(0, longest * int(high)), why


def _array(
    values: Json, where: str, shape: Mapping[str, int | None], bounds: tuple[float, float, str] = ANY
) -> np.ndarray:
    """Numbers in nested lists of a shape, by axis, None for any size but 0, and within bounds."""
    try:
        array = np.asarray(values)
    except ValueError:  # ragged
        array = np.empty(0)
    if array.ndim != len(shape) or any(n == 0 or m not in (n, None) for n, m in zip(array.shape, shape.values())):
        form = "".join(f"[{name}]" if size is None else f"[{size} {name}]" for name, size in shape.items())
        raise ValueError(
            f"{where}: expected numbers as {form}, as many in each list; received {reprlib.repr(values)}"
            + (f" of shape {list(array.shape)}" if array.size else "")
        )
    low, high, why = bounds
    if array.min() < low or array.max() > high:
        raise ValueError(f"{where}: expected from {low} to {high}{why}; received {array.min()} to {array.max()}")
    return array


def _counts(values: Json) -> list[list[list[int]]]:
    """Episodes of each stream, [tasks][learners][actors]; 0 where there is no list."""

    def length(stream):
        return len(stream) if isinstance(stream, list) else 0

    return [[[length(stream) for stream in actors] for actors in of_task] for of_task in values]
