"""What a report reads: `results.json` of schema 2, validated, merged over training seeds, and as arrays.

In: one file per run (or merged files), untrusted: every field that a report uses is checked before it is used. Out:
plain data of the same schema, and `Set`s of arrays. Imports no JAX.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ad_jax.errors import ReportError
from ad_jax.files import Json, JsonObject, parse
from ad_jax.history import lifetimes
from ad_jax.report.checks import MODES, ROLES, SCHEMA, check
from ad_jax.report.packed import unpack
from ad_jax.report.pool import check_alike, role_of
from ad_jax.report.seal import FIELD, fits, seal

__all__ = ["MODES", "ROLES", "SCHEMA", "ReportError", "Set", "gather", "load", "role_of", "seal", "validate"]


@dataclasses.dataclass(frozen=True)
class Set:
    """One set of tasks, over all runs, as arrays. R training seeds, N tasks, E in-context episodes."""

    name: str
    kind: str  # of split, in words
    seeds: list[int]  # [R]
    episode_length: int  # environment steps
    tasks: list[list[JsonObject]]  # [R][N]
    returns: dict[str, np.ndarray]  # by mode, the main one first: [R, N, E], rollouts averaged
    steps: dict[str, np.ndarray]  # by mode: [R, N, E], environment steps of each episode, rollouts averaged
    rollouts: dict[str, int]  # by mode, S
    optimal: np.ndarray | None  # [R, N]
    random: np.ndarray | None  # [R, N]
    source: np.ndarray | None  # [R, N, P], mean return in each piece of its lifetime, its seeds averaged (`lifetimes`)
    source_episodes: np.ndarray | None  # [R, N, E2], the same by episode, of the E2 that all of its lifetimes have
    source_name: str
    source_role: str  # "source" of the histories, or "reference": it made none of them
    source_steps: int  # environment steps of one piece, over all actors
    source_seeds: int
    paths: JsonObject | None  # of the first run that has them, its task in `tasks[paths["run"]][paths["task"]]`

    @property
    def source_label(self) -> str:
        """For legends and captions."""
        return f"{self.source_role} ({self.source_name})"

    @property
    def mode(self) -> str:
        """The mode that summaries quote: sampled where there is one."""
        return next(iter(self.returns))

    def time(self, mode: str) -> np.ndarray:
        """`[E]` environment steps that the learner has taken by the end of each episode, mean over runs and tasks."""
        return np.cumsum(self.steps[mode].mean((0, 1)))


def load(paths: Sequence[Path]) -> JsonObject:
    """Read, validate and merge results of one experiment.

    Args:
        paths: files, packed ones (`results.json.xz`) too, or directories that hold one.

    Returns:
        Plain data of schema 2 that holds every run, in order of seed.

    Raises:
        ReportError: an unreadable file, a field that is missing or wrong, a number that is not finite, experiments that
            differ, runs that were not evaluated alike, or a seed that comes twice.
    """
    files = [_in(path) if path.is_dir() else path for path in map(Path, paths)]
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


def gather(results: JsonObject) -> list[Set]:
    """Return the sets of validated results as arrays, in order."""
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
                {mode: np.stack([_steps(s, mode) for s in every]) for mode in modes},
                {mode: len(head["returns"][mode][0]) for mode in modes},
                _known(every, "optimal"),
                _known(every, "random"),
                *(_sources(every, runs[0]["episode_length"]) if sourced else (None, None)),
                sourced["name"] if sourced else "",
                role_of(sourced) if sourced else "source",
                sourced["actors"] * runs[0]["episode_length"] if sourced else 0,
                len(sourced["returns"][0]) if sourced else 0,
                paths,
            )
        )
    return sets


def validate(results: Json, where: str) -> None:
    """Raise `ReportError`, naming the field, unless `results` can be reported. `where` begins the message."""
    check(results, where)
    check_alike([(f"{where}: runs[{i}]", run) for i, run in enumerate(results["runs"])])


def _in(folder: Path) -> Path:
    """Return the results of a run directory, or the packed ones of an experiment's folder."""
    packed = folder / "results.json.xz"
    return packed if packed.is_file() and not (folder / "results.json").exists() else folder / "results.json"


def _read(file: Path) -> JsonObject:
    try:
        results = parse(unpack(file).decode())
    except (OSError, ValueError) as error:
        # Not its representation, in which bytes that are no text would stand whole.
        told = f"{type(error).__name__}: {error}"
        raise ReportError(f"{file}: expected a readable results.json, received {told}") from error
    _check_seal(results, str(file))
    validate(results, str(file))
    return results


def _check_seal(results: Json, where: str) -> None:
    """Refuse a file that is not what was written; those of other schemas are refused for that."""
    if isinstance(results, dict) and results.get("schema") == SCHEMA and not fits(results):
        found = f"{results[FIELD]!r}" if FIELD in results else "none"
        raise ReportError(
            f"{where}: field {FIELD!r}: expected the checksum of the numbers in the file, received {found}. It was "
            "changed or damaged since it was written; evaluate again to renew it"
        )


def _known(every: list[JsonObject], field: str) -> np.ndarray | None:
    """`[R, N]`, or None unless every task has the field."""
    values = [[task[field] for task in s["tasks"]] for s in every]
    return None if any(value is None for row in values for value in row) else np.array(values, float)


def _steps(one: JsonObject, mode: str) -> np.ndarray:
    """`[N, E]` environment steps of each episode, rollouts averaged."""
    steps = one["steps"][mode]
    shape = np.shape(one["returns"][mode])
    return np.full((shape[0], shape[2]), float(steps)) if isinstance(steps, int) else np.mean(steps, axis=1)


def _sources(every: list[JsonObject], longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the source's curves over time `[R, N, P]` and by episode `[R, N, E2]`, its seeds averaged."""
    over_time = np.stack([lifetimes.curves(s["source"], longest).mean(1) for s in every])
    by_episode = [lifetimes.by_episode(s["source"]).mean(1) for s in every]
    shortest = min(curve.shape[1] for curve in by_episode)
    return over_time, np.stack([curve[:, :shortest] for curve in by_episode])
