"""What `results.json` of schema 2 must be like before anything is believed of it. Imports no JAX.

In: parsed JSON, untrusted. Out: nothing, or a `ReportError` that names the field, what was expected and what came.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ad_jax.errors import ReportError
from ad_jax.report.pool import role_of

SCHEMA = 2
MODES = ("sampled", "greedy")
ROLES = ("source", "reference")


def check(results: Any, where: str) -> None:
    """Raise `ReportError`, naming the field, unless every run can be reported. `where` begins the message."""
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


def _validate_run(run: Any, where: str) -> None:
    _field(run, where, "seed", int)
    for name in ("config", "provenance", "stages", "checkpoint"):
        _field(run, where, name, dict)
    for name, stage in run["stages"].items():
        if not isinstance(stage, dict) or not isinstance(stage.get("seconds", 0), int | float):
            raise ReportError(f"{where}.stages.{name}: expected an object with 'seconds', received {_short(stage)}")
    if isinstance(step := run["checkpoint"].get("step"), int | float) and step < 0:
        raise ReportError(f"{where}.checkpoint.step: expected updates, 0 or more; received {step}")
    longest = _positive(run, where, "episode_length", most=2**31)
    sets = _field(run, where, "sets", list)
    if not sets:
        raise ReportError(f"{where}.sets: expected at least one set of tasks, received none")
    for i, one in enumerate(sets):
        _validate_set(one, f"{where}.sets[{i}]", longest)
        _validate_bounds(one, f"{where}.sets[{i}]", run.get("reward_dtype"), longest)
    names = [one["name"] for one in sets]
    if len(set(names)) < len(names):
        raise ReportError(f"{where}.sets: expected different names, received {', '.join(names)}")


def _validate_set(one: Any, where: str, longest: int) -> None:
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
    shapes = {mode: _array(values, f"{where}.returns.{mode}", len(tasks)) for mode, values in returns.items()}
    lengths = {mode: shape[-1] for mode, shape in shapes.items()}
    if len(set(lengths.values())) > 1:
        raise ReportError(f"{where}.returns: expected as many episodes in every mode, received {lengths}")
    steps = _field(one, where, "steps", dict)
    for mode, shape in shapes.items():
        _field(steps, f"{where}.steps", mode, int, list)
        _validate_steps(steps[mode], f"{where}.steps.{mode}", shape, longest)
    source = _field(one, where, "source", dict, type(None))
    if source is not None:
        _field(source, f"{where}.source", "name", str)
        if role_of(source) not in ROLES:
            raise ReportError(f"{where}.source: field 'role': expected one of {ROLES}, received {source['role']!r}")
        _validate_lives(source, f"{where}.source", len(tasks), longest)
    if (paths := _field(one, where, "paths", dict, type(None))) is not None:
        _validate_paths(paths, f"{where}.paths", tasks)


def _validate_bounds(one: dict[str, Any], where: str, reward_dtype: Any, longest: int) -> None:
    """Returns are sums of at most so many rewards, each of which the stated dtype holds exactly."""
    bounds = {"bool": (0, 1)} | {
        name: (int(np.iinfo(name).min), int(np.iinfo(name).max)) for name in ("int8", "uint8", "int16", "uint16")
    }
    if not isinstance(reward_dtype, str) or reward_dtype not in bounds:
        return  # of unknown size
    low, high = (min(0, longest * bounds[reward_dtype][0]), max(0, longest * bounds[reward_dtype][1]))
    found = {f"returns.{mode}": np.asarray(values) for mode, values in one["returns"].items()}
    for name in ("optimal", "random"):
        found[name] = np.array([task[name] for task in one["tasks"] if task[name] is not None])
    for name, values in found.items():
        if values.size and (values.min() < low or values.max() > high):
            raise ReportError(
                f"{where}.{name}: expected from {low} to {high}, what {longest} rewards of {reward_dtype} come to; "
                f"received {values.min():g} to {values.max():g}"
            )


def _validate_steps(steps: Any, where: str, shape: Sequence[int], longest: int) -> None:
    """Steps of in-context episodes: like their returns, or one number where all have that length."""
    values = np.array(steps) if isinstance(steps, int) else _numbers(steps)
    if values.dtype.kind not in "iu" or values.shape not in ((), tuple(shape)):
        raise ReportError(
            f"{where}: expected a whole number or whole numbers in the shape of the returns, {list(shape)}, received "
            f"{_short(steps)}"
        )
    if values.min() < 1 or values.max() > longest:
        raise ReportError(
            f"{where}: expected from 1 to episode_length = {longest} steps, received {values.min()} to {values.max()}"
        )


def _validate_lives(source: dict[str, Any], where: str, tasks: int, longest: int) -> None:
    """Every episode of the source's lives, as `lifetimes.as_data` writes them."""
    actors, life = _positive(source, where, "actors"), _positive(source, where, "life")
    returns, steps = _field(source, where, "returns", list), _field(source, where, "steps", int, list)
    if life < longest:
        raise ReportError(f"{where}.life: expected at least episode_length = {longest} steps, received {life}")
    if isinstance(steps, int):
        shape = _array(returns, f"{where}.returns", tasks)
        _validate_steps(steps, f"{where}.steps", shape, longest)
        _validate_life(np.full(shape[-1], steps), f"{where}.steps", life, longest)
        return
    counts = {len(of_task) if isinstance(of_task, list) else 0 for of_task in returns}
    if len(returns) != tasks or len(counts) != 1 or 0 in counts:
        raise ReportError(
            f"{where}.returns: expected {tasks} tasks, each with as many learners, received {len(returns)} with "
            f"{sorted(counts)}"
        )
    shape = (tasks, counts.pop(), actors)
    earned, lengths = ([*_streams(x, f"{where}.{n}", shape)] for x, n in ((returns, "returns"), (steps, "steps")))
    for (place, one), (_, length) in zip(earned, lengths, strict=True):
        if one.shape != length.shape or length.dtype.kind not in "iu":
            raise ReportError(f"{place}: expected as many episodes as whole numbers of steps, received {one.shape}")
        _validate_steps(length.tolist(), place.replace(".returns", ".steps"), length.shape, longest)
        _validate_life(length, place.replace(".returns", ".steps"), life, longest)


def _validate_life(steps: np.ndarray, where: str, life: int, longest: int) -> None:
    """The episodes fill a life, but for what an episode that never ended takes."""
    if not life - longest < (done := int(steps.sum())) <= life:
        raise ReportError(
            f"{where}: expected episodes of {life} steps in all, less at most {longest - 1} of one that did not end, "
            f"received {done}"
        )


def _streams(values: Any, where: str, shape: Sequence[int]) -> Iterator[tuple[str, np.ndarray]]:
    """Place and numbers of each list at the bottom of nested lists of `shape`."""
    if not isinstance(values, list) or (shape and len(values) != shape[0]):
        raise ReportError(f"{where}: expected {shape[0] if shape else 'some'} entries, received {_short(values)}")
    if shape:
        for i, value in enumerate(values):
            yield from _streams(value, f"{where}[{i}]", shape[1:])
        return
    array = _numbers(values)
    if array.dtype.kind not in "iuf" or array.ndim != 1 or not array.size:
        raise ReportError(f"{where}: expected a number for every episode, received {_short(values)}")
    yield where, array


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


def _array(values: Any, where: str, tasks: int) -> tuple[int, ...]:
    """Check nested lists [tasks][S][E] of numbers; their shape."""
    array = _numbers(values)
    if array.dtype.kind not in "iuf" or array.ndim != 3 or 0 in array.shape:
        raise ReportError(
            f"{where}: expected numbers as [tasks][seeds][episodes], all of one length, received {_short(values)}"
        )
    if len(array) != tasks:
        raise ReportError(f"{where}: expected one entry for each of {tasks} tasks, received {len(array)}")
    return array.shape


def _numbers(values: Any) -> np.ndarray:
    """An array, of objects where the lists are ragged."""
    try:
        return np.asarray(values)
    except (ValueError, OverflowError):
        return np.empty(0, object)


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
