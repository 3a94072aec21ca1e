"""Seconds from nothing to the held-out return of Dark Room, the share of each stage, and what compiling takes.

Read from a finished run directory, or from a run in a new one with an empty cache of compiled programs.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ad_jax.bench.rows import Row
from ad_jax.errors import ConfigError

# Every program of the demo, at its sizes, and little else.
SHORT = ("method.updates=60", "method.evaluate_every=30", "evaluate.episodes=12")

# A run in a process of its own, whose seconds of tracing, lowering, and compiling or reading the cache are summed.
COMPILING = """
import sys, jax.monitoring
from ad_jax.__main__ import main
seconds = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, taken, **_: seconds.append(taken) if event.startswith("/jax/core/compile/") else None
)
failed = main(sys.argv[1:])
print(sum(seconds))
sys.exit(failed)
"""


def rows(folder: Path | None, scale: str = "demo", compiling: bool = True) -> Iterator[Row]:
    """One row a stage and one for the whole; without `folder`, runs `scale` of Dark Room, which may take minutes.

    With `compiling` also what that takes, two short runs.
    """
    with tempfile.TemporaryDirectory() as made:
        if compiling:
            yield from compile_rows(Path(made), ("dark_room", "--scale", "demo", *SHORT))
        if folder is not None:
            yield from read(folder)
        else:
            run = Path(made) / "run"
            yield from read(run, run_demo(run, Path(made) / "cache", scale))


def compile_rows(made: Path, arguments: Sequence[str]) -> Iterator[Row]:
    """Seconds that JAX takes to trace, lower and compile all programs of a run: nothing kept, and all kept."""
    cold = None
    for name in ("cold", "warm"):
        command = [sys.executable, "-c", COMPILING, "run", *arguments, "--dir", str(made / name)]
        seconds = float(said(command, made / "programs").splitlines()[-1])
        cold = cold if cold is not None else seconds
        yield Row(f"end to end/compiling, {name}", seconds, seconds, "s", seconds / cold, "compiling, cold", 1, {})


def run_demo(folder: Path, cache: Path, scale: str) -> float:
    """`ad-jax run dark_room --scale SCALE` from nothing; returns wall-clock seconds, starting Python included."""
    started = time.perf_counter()
    said([sys.executable, "-m", "ad_jax", "run", "dark_room", "--scale", scale, "--dir", str(folder)], cache)
    return time.perf_counter() - started


def said(command: list[str], cache: Path) -> str:
    """Return what `command` prints, with its compiled programs kept in `cache`.

    Raises:
        RuntimeError: if it fails, with the end of its error output.
    """
    environment = {**os.environ, "AD_JAX_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return done.stdout


def read(folder: Path, wall: float | None = None) -> Iterator[Row]:
    """Rows of a finished run.

    Args:
        folder: the run directory.
        wall: seconds of the whole command; else the sum over stages, without starting Python and drawing the report.

    Raises:
        ConfigError: if the directory holds no finished run.
    """
    try:
        stages = json.loads((folder / "stages.json").read_text())
        held_out = json.loads((folder / "results.json").read_text())["runs"][0]["sets"][0]["returns"]["sampled"]
        seconds = {name: found["seconds"] + found.get("compile_seconds", 0.0) for name, found in stages.items()}
        compiling = {name: found["compile_seconds"] for name, found in stages.items() if "compile_seconds" in found}
        final = [value for task in held_out for lifetime in task for value in lifetime[-max(1, len(lifetime) // 10) :]]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ConfigError(f"{folder} holds no finished run: {type(error).__name__}: {error}") from error
    total = wall if wall is not None else sum(seconds.values())
    whole = "the whole command" if wall is not None else "the sum of the stages"
    for name, taken in seconds.items():
        facts = {"compile_seconds": compiling[name]} if name in compiling else {}
        yield Row(f"end to end/{name}", taken, taken, "s", taken / total, whole, 1, facts)
    reached = {"held_out_return": sum(final) / len(final), "compile_seconds": sum(compiling.values())}
    yield Row("end to end/whole", total, total, "s", 1.0, whole, 1, reached)
