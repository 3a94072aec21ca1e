"""What a report reads: `results.json` of schema 1, validated, merged over training seeds, and as arrays.

In: one file per run (or merged files), untrusted: every field that a report uses is checked before it is used. Out:
plain data of the same schema, and `Set`s of arrays. Imports no JAX.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ad_jax.errors import ReportError
from ad_jax.report_pool import check_alike, role_of
from ad_jax.seal import FIELD, fits, seal
from ad_jax.untrusted import parse

__all__ = ["MODES", "ROLES", "SCHEMA", "ReportError", "Set", "gather", "load", "role_of", "seal", "validate"]

SCHEMA = 1
MODES = ("sampled", "greedy")
ROLES = ("source", "reference")


@dataclasses.dataclass(frozen=True)
class Set:
    """One set of tasks, over all runs, as arrays. R training seeds, N tasks, E in-context episodes."""

    name: str
    kind: str  # of split, in words
    seeds: list[int]  # [R]
    episode_length: int  # environment steps
    tasks: list[list[dict[str, Any]]]  # [R][N]
    returns: dict[str, np.ndarray]  # by mode, the main one first: [R, N, E], rollouts averaged
    rollouts: dict[str, int]  # by mode, S
    optimal: np.ndarray | None  # [R, N]
    random: np.ndarray | None  # [R, N]
    source: np.ndarray | None  # [R, N, E2], its seeds averaged; E2 episodes that every run has
    source_name: str
    source_role: str  # "source" of the histories, or "reference": it made none of them
    source_steps: int  # environment steps per episode of the source, over all actors
    source_seeds: int
    paths: dict[str, Any] | None  # of the first run that has them, its task in `tasks[paths["run"]][paths["task"]]`

    @property
    def source_label(self) -> str:
        """For legends and captions."""
        return f"{self.source_role} ({self.source_name})"

    @property
    def mode(self) -> str:
        """The mode that summaries quote: sampled where there is one."""
        return next(iter(self.returns))

    @property
    def steps(self) -> np.ndarray:
        """`[E]` environment steps the learner has taken by the end of each episode (each counted at full length)."""
        return np.arange(1, self.returns[self.mode].shape[-1] + 1) * self.episode_length


def load(paths: Sequence[Path]) -> dict[str, Any]:
    """Read, validate and merge results of one experiment.

    Args:
        paths: files, or run directories that hold a `results.json`.

    Returns:
        Plain data of schema 1 that holds every run, in order of seed.

    Raises:
        ReportError: an unreadable file, a field that is missing or wrong, a number that is not finite, experiments that
            differ, runs that were not evaluated alike, or a seed that comes twice.
    """
    files = [path / "results.json" if path.is_dir() else path for path in map(Path, paths)]
    if not files:
        raise ReportError("expected at least one results.json, received none")
    loaded = [(file, _read(file)) for file in files]
    first_file, first = loaded[0]
    for file, data in loaded:
        if data["experiment"] != first["experiment"]:
            raise ReportError(
                f"{file}: field 'experiment': expected {first['experiment']!r} as in {first_file}, "
                f"received {data['experiment']!r}; report each experiment by itself"
            )
    runs = [(f"{file}: runs[{i}]", run) for file, data in loaded for i, run in enumerate(data["runs"])]
    check_alike(runs)
    merged = sorted((run for _, run in runs), key=lambda run: run["seed"])
    return {"schema": SCHEMA, "experiment": first["experiment"], "runs": merged}


def gather(results: dict[str, Any]) -> list[Set]:
    """The sets of validated results as arrays, in order."""
    runs = results["runs"]
    sets = []
    for index, head in enumerate(runs[0]["sets"]):
        every = [run["sets"][index] for run in runs]
        modes = sorted(head["returns"], key=lambda mode: mode != "sampled")
        sourced = head["source"]
        paths = next(({**s["paths"], "run": r} for r, s in enumerate(every) if s["paths"]), None)
        sets.append(
            Set(
                head["name"],
                head["kind"],
                [run["seed"] for run in runs],
                runs[0]["episode_length"],
                [s["tasks"] for s in every],
                {mode: np.stack([np.mean(s["returns"][mode], axis=1) for s in every]) for mode in modes},
                {mode: len(head["returns"][mode][0]) for mode in modes},
                _known(every, "optimal"),
                _known(every, "random"),
                _sources(every) if sourced else None,
                sourced["name"] if sourced else "",
                role_of(sourced) if sourced else "source",
                sourced["env_steps_per_episode"] if sourced else 0,
                len(sourced["returns"][0]) if sourced else 0,
                paths,
            )
        )
    return sets


def validate(results: Any, where: str) -> None:
    """Raise `ReportError`, naming the field, unless `results` can be reported. `where` begins the message."""
    if (schema := _field(results, where, "schema")) != SCHEMA:
        raise ReportError(
            f"{where}: field 'schema': expected {SCHEMA}, received {schema!r}; evaluate again to renew it"
        )
    _field(results, where, "experiment", str)
    runs = _field(results, where, "runs", list)
    if not runs:
        raise ReportError(f"{where}: field 'runs': expected at least one run, received none")
    for i, run in enumerate(runs):
        for place, value in _leaves(run, f"{where}: runs[{i}]"):
            if isinstance(value, float) and not math.isfinite(value):
                raise ReportError(f"{place}: expected a finite number, received {value}")
        _validate_run(run, f"{where}: runs[{i}]")
    check_alike([(f"{where}: runs[{i}]", run) for i, run in enumerate(runs)])


def _validate_run(run: Any, where: str) -> None:
    _field(run, where, "seed", int)
    for name in ("config", "provenance", "stages", "checkpoint"):
        _field(run, where, name, dict)
    for name, stage in run["stages"].items():
        if not isinstance(stage, dict) or not isinstance(stage.get("seconds", 0), int | float):
            raise ReportError(f"{where}.stages.{name}: expected an object with 'seconds', received {_short(stage)}")
    if isinstance(step := run["checkpoint"].get("step"), int | float) and step < 0:
        raise ReportError(f"{where}.checkpoint.step: expected updates, 0 or more; received {step}")
    _positive(run, where, "episode_length")
    sets = _field(run, where, "sets", list)
    if not sets:
        raise ReportError(f"{where}.sets: expected at least one set of tasks, received none")
    for i, one in enumerate(sets):
        _validate_set(one, f"{where}.sets[{i}]")
    names = [one["name"] for one in sets]
    if len(set(names)) < len(names):
        raise ReportError(f"{where}.sets: expected different names, received {', '.join(names)}")


def _validate_set(one: Any, where: str) -> None:
    name = _field(one, where, "name", str)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}", name):  # it becomes part of a file's name
        raise ReportError(f"{where}.name: expected letters, digits, '_' and '-', received {name!r}")
    _field(one, where, "kind", str)
    tasks = _field(one, where, "tasks", list)
    if not tasks:
        raise ReportError(f"{where}.tasks: expected at least one task, received none")
    for i, task in enumerate(tasks):
        _validate_task(task, f"{where}.tasks[{i}]")
    returns = _field(one, where, "returns", dict)
    if not returns or not set(returns) <= set(MODES):
        raise ReportError(f"{where}.returns: expected 'sampled' and/or 'greedy', received {_names(returns)}")
    lengths = {mode: _array(values, f"{where}.returns.{mode}", len(tasks)) for mode, values in returns.items()}
    if len(set(lengths.values())) > 1:
        raise ReportError(f"{where}.returns: expected as many episodes in every mode, received {lengths}")
    source = _field(one, where, "source", dict, type(None))
    if source is not None:
        _field(source, f"{where}.source", "name", str)
        if role_of(source) not in ROLES:
            raise ReportError(f"{where}.source: field 'role': expected one of {ROLES}, received {source['role']!r}")
        _positive(source, f"{where}.source", "env_steps_per_episode")
        _array(_field(source, f"{where}.source", "returns", list), f"{where}.source.returns", len(tasks))
    if (paths := _field(one, where, "paths", dict, type(None))) is not None:
        _validate_paths(paths, f"{where}.paths", tasks)


def _validate_task(task: Any, where: str) -> None:
    _field(task, where, "id", str)
    _field(task, where, "description", str)
    for name in ("optimal", "random"):
        _field(task, where, name, int, float, type(None))
    optimal, random = task["optimal"], task["random"]
    if optimal is not None and random is not None and optimal < random - 1e-6 * (1 + abs(random)):
        raise ReportError(f"{where}.optimal: expected at least 'random', which is {random}; received {optimal}")
    picture = _field(task, where, "picture", dict, type(None))
    if picture is None:
        return
    kind = _field(picture, f"{where}.picture", "kind", str)
    if kind in ("grid", "pool"):
        size = _positive(picture, f"{where}.picture", "size", most=1000 if kind == "grid" else 2**20)  # cells are drawn
        for name in ("goal", "key"):
            cell = picture.get(name) if name == "key" else _field(picture, f"{where}.picture", name)
            if cell is not None and not _is_cell(cell, (size, size)):
                raise ReportError(
                    f"{where}.picture.{name}: expected a cell of the {size}x{size} {kind} as "
                    f"{'[row, column]' if kind == 'grid' else '[x, y]'}, received {_short(cell)}"
                )
        if kind == "pool":
            _positive(picture, f"{where}.picture", "radius")
    elif kind == "arms":
        means = _field(picture, f"{where}.picture", "means", list, type(None))
        if means is not None and not (means and all(type(mean) in (int, float) for mean in means)):
            raise ReportError(f"{where}.picture.means: expected numbers, one per arm, received {_short(means)}")


def _validate_paths(paths: dict[str, Any], where: str, tasks: list[dict[str, Any]]) -> None:
    task = _field(paths, where, "task", int)
    if not 0 <= task < len(tasks):
        raise ReportError(f"{where}.task: expected the index of one of {len(tasks)} tasks, received {task}")
    _field(paths, where, "seed", int)
    _field(paths, where, "mode", str)
    picture = tasks[task]["picture"] or {"kind": ""}
    means = picture.get("means")
    # A step of an arms picture is any arm where their number is unknown; more than 10,000 could not be drawn.
    cells = (picture.get("size"),) * 2
    bounds = {"grid": cells, "pool": cells, "arms": (len(means) if means else 10_000,)}.get(picture["kind"])
    episodes = _field(paths, where, "episodes", list)
    if not episodes:
        raise ReportError(f"{where}.episodes: expected at least one episode, received none")
    for i, episode in enumerate(episodes):
        _field(episode, f"{where}.episodes[{i}]", "episode", int)
        _field(episode, f"{where}.episodes[{i}]", "return", int, float)
        points = _field(episode, f"{where}.episodes[{i}]", "points", list)
        bad = [point for point in points if bounds is not None and not _is_cell(point, bounds)]
        if bad or not points:
            raise ReportError(
                f"{where}.episodes[{i}].points: expected a list of {picture['kind'] or 'any'} positions "
                f"inside {bounds}, received {_short(bad[0] if bad else points)}"
            )


def _read(file: Path) -> dict[str, Any]:
    try:
        results = parse(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{file}: expected a readable results.json, received {error!r}") from error
    _check_seal(results, str(file))
    validate(results, str(file))
    return results


def _check_seal(results: Any, where: str) -> None:
    """Refuse a file that is not what was written. Those of schema 1 may have no seal: the first ones had none."""
    if not isinstance(results, dict):
        return
    if FIELD not in results and (results.get("schema") == 1 or results.get("schema") != SCHEMA):
        return  # the latter are refused for that
    if not fits(results):
        found = f"{results[FIELD]!r}" if FIELD in results else "none"
        raise ReportError(
            f"{where}: field {FIELD!r}: expected the checksum of the numbers in the file, received {found}. It was "
            "changed or damaged since it was written; evaluate again to renew it"
        )


def _field(data: Any, where: str, name: str, *kinds: type) -> Any:
    """`data[name]`, or the error that says it is missing or of another type. A bool is not a number."""
    if not isinstance(data, dict) or name not in data:
        received = f"an object with {_names(data)}" if isinstance(data, dict) else _short(data)
        raise ReportError(f"{where}: expected a field {name!r}, received {received}")
    value = data[name]
    if kinds and (isinstance(value, bool) or not isinstance(value, kinds)):
        expected = " or ".join(kind.__name__ for kind in kinds).replace("NoneType", "null")
        raise ReportError(f"{where}.{name}: expected {expected}, received {_short(value)}")
    return value


def _positive(data: Any, where: str, name: str, most: int = 2**53) -> int:
    value = _field(data, where, name, int)
    if not 1 <= value <= most:
        raise ReportError(f"{where}.{name}: expected from 1 to {most}, received {value}")
    return value


def _array(values: Any, where: str, tasks: int) -> int:
    """Check nested lists [tasks][S][E] of numbers; E."""
    try:
        array = np.asarray(values)
    except ValueError:  # ragged
        array = np.empty(0, object)
    if array.dtype.kind not in "iuf" or array.ndim != 3 or 0 in array.shape:
        raise ReportError(
            f"{where}: expected numbers as [tasks][seeds][episodes], all of one length, received {_short(values)}"
        )
    if len(array) != tasks:
        raise ReportError(f"{where}: expected one entry for each of {tasks} tasks, received {len(array)}")
    return array.shape[-1]


def _known(every: list[dict[str, Any]], field: str) -> np.ndarray | None:
    """`[R, N]`, or None unless every task has the field."""
    values = [[task[field] for task in s["tasks"]] for s in every]
    return None if any(value is None for row in values for value in row) else np.array(values, float)


def _sources(every: list[dict[str, Any]]) -> np.ndarray:
    """`[R, N, E2]`, the source's returns with its seeds averaged, over the episodes that every run has."""
    curves = [np.mean(s["source"]["returns"], axis=1) for s in every]
    return np.stack([curve[:, : min(c.shape[1] for c in curves)] for curve in curves])


def _is_cell(cell: Any, bounds: Sequence[int]) -> bool:
    """Whether `cell` is a list of ints with 0 <= cell[i] < bounds[i]."""
    return (
        isinstance(cell, list)
        and len(cell) == len(bounds)
        and all(type(x) is int and 0 <= x < bound for x, bound in zip(cell, bounds))
    )


def _leaves(data: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Every leaf of nested lists and objects with its place."""
    if isinstance(data, dict):
        for name, value in data.items():
            yield from _leaves(value, f"{where}.{name}")
    elif isinstance(data, list):
        # Long lists of numbers are most of a file: their places are spelled out only when one of them is bad.
        if not all(type(value) is int or (type(value) is float and math.isfinite(value)) for value in data):
            for i, value in enumerate(data):
                yield from _leaves(value, f"{where}[{i}]")
    else:
        yield where, data


def _names(data: dict[str, Any]) -> str:
    return ", ".join(map(repr, data)) or "no field"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
