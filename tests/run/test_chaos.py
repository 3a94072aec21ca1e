"""Any instant: every stage as a real process, killed at random moments, ends with the bytes of an undisturbed run.

The quick form kills each stage once; `make chaos` goes on until a hundred SIGKILLs have hit a stage at work, with
SIGTERM and Ctrl-C among them twice in five. An instant is drawn uniformly, counted from when the stage has started up,
over as much of its undisturbed time that the signals of a run reach from its beginning to its end.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import chex
import pytest
from helpers import files

from ad_jax.checkpoint import checkpoint
from ad_jax.history import store
from ad_jax.process import preemption

STAGES = ("collect", "distill", "evaluate")
SMALL = ("dark_room", "--scale", "smoke", "collect.episodes=400", "distill.updates=40", "evaluate.episodes=40")
SMALL += ("replay.rotation.resident=32", "replay.rotation.parts=4", "replay.rotation.every=5")  # of 130
STATUS = {signal.SIGKILL: -9, signal.SIGTERM: preemption.STATUS, signal.SIGINT: 130}
UP = "run      "  # how the line begins that is printed when a stage has started up


class Shell:
    """Starts the command line in a folder, on one CPU device."""

    def __init__(self, folder: pathlib.Path):
        keep = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PYTHONPATH")}
        self.folder = folder
        self.env = keep | {"AD_JAX_CACHE": str(folder / "cache"), "MPLCONFIGDIR": str(folder / "cache")}

    def start(self, stage: str, run: str) -> subprocess.Popen:
        """Return a stage that has just started up."""
        command = [sys.executable, "-m", "ad_jax", stage, *SMALL, "--dir", run]
        process = subprocess.Popen(
            command, cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(UP), line + process.stdout.read()
        return process

    def finish(self, process: subprocess.Popen) -> str:
        """Return what it prints until its end, which has to be a good one."""
        told, _ = process.communicate(timeout=300)
        assert process.returncode == 0, told
        return told


@pytest.fixture(scope="module")
def shell(tmp_path_factory) -> Iterator[Shell]:
    # What a shell starts in its background ignores Ctrl-C, and so would what is started here.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield Shell(tmp_path_factory.mktemp("chaos"))
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def whole(shell) -> tuple[pathlib.Path, dict[str, float]]:
    """Return an undisturbed run, and the seconds that each of its stages took with a warm cache."""
    seconds = {}
    for run in ("warm", "whole"):
        for stage in STAGES:
            process, started = shell.start(stage, run), time.monotonic()
            shell.finish(process)
            seconds[stage] = time.monotonic() - started
    return shell.folder / "whole", seconds


def disturb(shell: Shell, run: str, stage: str, seconds: float, kills: int, rng: random.Random) -> Counter[int]:
    """Run a stage to its end through `kills` signals; returns how many of each hit it while it was still at work."""
    hits = Counter()
    for _ in range(kills):
        process = shell.start(stage, run)
        number = rng.choice([signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGINT])
        time.sleep(rng.uniform(0, seconds * min(1.0, 2 / kills)))
        process.send_signal(number)
        told, _ = process.communicate(timeout=120)
        # Once its work is done, Python's own handlers are back: the signal's number is the status then.
        assert process.returncode in (0, STATUS[number], -number), told
        if process.returncode != STATUS[number]:
            break  # it was done
        # A library's thread may remark that it was interrupted; no error of ours comes through.
        assert f"{os.sep}ad_jax{os.sep}" not in told.partition("Traceback")[2], told
        hits[number] += 1
    shell.finish(shell.start(stage, run))
    return hits


def check_equal(one: pathlib.Path, other: pathlib.Path) -> None:
    """Histories and evaluations byte for byte, checkpoints bit for bit, and the log line for line."""
    ours, theirs = files(one / "histories"), files(other / "histories")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert store.verify(other / "histories") == []
    (step, state, meta), found = checkpoint.load(one), checkpoint.load(other)
    assert (step, meta) == (found[0], found[2])
    chex.assert_trees_all_equal(state, found[1])
    mine, others = (json.loads((folder / "results.json").read_text())["runs"][0] for folder in (one, other))
    for name in ("sets", "config", "checkpoint", "seed"):
        assert mine[name] == others[name], name
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()


def chaos(shell: Shell, whole: tuple[pathlib.Path, dict[str, float]], run: str, kills: int, seed: int) -> Counter[int]:
    rng = random.Random(seed)
    undisturbed, seconds = whole
    hits = sum((disturb(shell, run, stage, seconds[stage], kills, rng) for stage in STAGES), Counter())
    check_equal(undisturbed, shell.folder / run)
    return hits


@pytest.mark.slow
def test_killed_at_random_instants_the_bytes_are_those_of_an_undisturbed_run(shell, whole):
    assert chaos(shell, whole, "quick", 1, seed=0).total() > 0


@pytest.mark.slow
def test_killed_a_hundred_times(shell, whole):
    hits, seed = Counter(), 0
    while hits[signal.SIGKILL] < 100:
        seed += 1
        hits += chaos(shell, whole, f"slow-{seed}", 5, seed)
        told = ", ".join(f"{signal.Signals(number).name} {times}" for number, times in sorted(hits.items()))
        print(f"\n{seed} runs; signals that came while a stage was at work: {told}; every byte as without them")
    assert hits.keys() == STATUS.keys()
