"""Seconds from nothing to the held-out return of Dark Room, and the share of each stage.

Read from a finished run directory, or from a run in a new one with an empty cache of compiled programs.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ad_jax.bench.rows import Row
from ad_jax.errors import ConfigError


def rows(folder: Path | None) -> Iterator[Row]:
    """One row a stage and one for the whole; without `folder`, runs the demo, which takes minutes."""
    if folder is not None:
        yield from read(folder)
        return
    with tempfile.TemporaryDirectory() as made:
        run = Path(made) / "run"
        yield from read(run, run_demo(run, Path(made) / "cache"))


def run_demo(folder: Path, cache: Path) -> float:
    """`ad-jax run dark_room` from nothing; returns wall-clock seconds, starting Python included."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "ad_jax", "run", "dark_room", "--dir", str(folder)]
    done = subprocess.run(
        command, env={**os.environ, "AD_JAX_CACHE": str(cache)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the demo failed: {done.stderr[-2000:]}")
    return time.perf_counter() - started


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
        final = [value for task in held_out for life in task for value in life[-max(1, len(life) // 10) :]]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ConfigError(f"{folder} holds no finished run: {type(error).__name__}: {error}") from error
    total = wall if wall is not None else sum(seconds.values())
    whole = "the whole command" if wall is not None else "the sum of the stages"
    for name, taken in seconds.items():
        facts = {"compile_seconds": compiling[name]} if name in compiling else {}
        yield Row(f"end to end/{name}", taken, taken, "s", taken / total, whole, 1, facts)
    reached = {"held_out_return": sum(final) / len(final), "compile_seconds": sum(compiling.values())}
    yield Row("end to end/whole", total, total, "s", 1.0, whole, 1, reached)
