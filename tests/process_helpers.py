"""Several processes on this machine, for `test_processes.py`: started, waited for, and their runs compared."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import chex
from helpers import files, xla_flags

from ad_jax.checkpoint import checkpoint
from ad_jax.history import store
from ad_jax.process import distributed

WORKER = str(pathlib.Path(__file__).with_name("process_worker.py"))
MAIN = ("-m", "ad_jax")
RUN = ("dark_room", "--scale", "smoke")
# Little to compile; evaluated is the best checkpoint, so that a copied one can be evaluated by other processes.
SMALL = (
    "model.layers=1",
    "distill.evaluate_episodes=2",
    "evaluate.greedy=False",
    "evaluate.source_seeds=1",
    "evaluate.checkpoint=best",
)
SECONDS = 600  # after which a process is killed: a hang; on a quiet machine none takes 30


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def launch(place: pathlib.Path, commands: list[tuple[str, ...]], devices: int = 1) -> list[subprocess.Popen]:
    """Start Python once for each command, on CPU devices of its own."""
    keep = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and "SLURM" not in name}
    root = str(pathlib.Path(distributed.__file__).parents[2])  # the package under test, wherever it is
    env = keep | {"XLA_FLAGS": xla_flags(devices), "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
    env |= {"AD_JAX_CACHE": str(place / "cache"), "MPLCONFIGDIR": str(place / "cache")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen([sys.executable, *command], cwd=place, env=env, **pipes) for command in commands]


def finish(started: list[subprocess.Popen], seconds: float = SECONDS) -> list[subprocess.CompletedProcess]:
    """Wait for all of them, and kill whoever is left: a hang is a failure, not a hang of the tests."""
    end = time.monotonic() + seconds
    try:
        outputs = [process.communicate(timeout=max(end - time.monotonic(), 0.1)) for process in started]
    finally:
        for process in started:
            process.kill()
    return [subprocess.CompletedProcess(p.args, p.returncode, *out) for p, out in zip(started, outputs, strict=True)]


def options(count: int) -> list[str]:
    """Return `--processes` for each of `count` processes."""
    port = free_port()
    return [f"127.0.0.1:{port},{rank}/{count}" for rank in range(count)]


def run(place, count: int, *command: str, devices: int = 1) -> list[subprocess.CompletedProcess]:
    """Return the same command in `count` processes, all of which succeed."""
    ranks = [("--processes", option) for option in options(count)] if count > 1 else [()]
    done = finish(launch(place, [(*MAIN, *command, *rank) for rank in ranks], devices))
    for process in done:
        assert process.returncode == 0, process.stderr
    return done


def assert_same_histories(folder: pathlib.Path, other: pathlib.Path) -> None:
    here, there = files(folder / "histories"), files(other / "histories")
    assert here.keys() == there.keys()
    assert [name for name in here if here[name] != there[name]] == []
    assert store.open_store(folder / "histories").manifest.chunks == 5


def results(folder: pathlib.Path) -> dict:
    (one,) = json.loads((folder / "results.json").read_text())["runs"]
    return one


def metrics(folder: pathlib.Path, *stages: str) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["stage"] in stages]


def assert_equal_parameters(folder: pathlib.Path, other: pathlib.Path, atol: float) -> None:
    """Check that the whole training states of the last checkpoints are equal."""
    (step, state, meta), (other_step, other_state, other_meta) = map(checkpoint.load, (folder, other))
    assert step == other_step == 8
    assert meta["architecture"] == other_meta["architecture"]
    chex.assert_trees_all_close(state, other_state, rtol=0, atol=atol)


def copied(source: pathlib.Path, name: str) -> pathlib.Path:
    """Return a copy that was stopped after update 4, and whose rollouts are still to be done."""
    folder = pathlib.Path(shutil.copytree(source, source.parent / name))
    shutil.rmtree(folder / "checkpoints/steps/8")
    (folder / "evaluation/held_out-sampled.json").unlink()
    return folder


def assert_equal_evaluation(folder, other):
    """Of the best checkpoint: of the same step, with the same parameters to rounding, or it is a copy."""
    (step, state, meta), (other_step, other_state, other_meta) = (checkpoint.load(x, "best") for x in (folder, other))
    assert (step, meta["in_context_return"]) == (other_step, other_meta["in_context_return"])
    chex.assert_trees_all_close(state, other_state, rtol=0, atol=1e-6)
    assert results(folder)["sets"] == results(other)["sets"]
