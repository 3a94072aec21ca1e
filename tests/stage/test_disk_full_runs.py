"""A disk that is full while a run works on it: checkpoints, its log, the parts of an evaluation and its results.

A clear error and exit status 2, the checkpoint before it can be read, and with room the same command ends with the
bytes of an undisturbed run. The disks are real ones, of so many files or pages (`small_disks`).
"""

import gc
import json
import pathlib
import threading
from typing import Any

import chex
import pytest
from helpers import GRID, files, mesh_of, numbered_histories, trainer_of
from small_disks import disk, room_for

from ad_jax.__main__ import main
from ad_jax.checkpoint import checkpoint
from ad_jax.errors import AdJaxError
from ad_jax.history import replay
from ad_jax.methods.distillation import Distillation
from ad_jax.models.transformer import Transformer
from ad_jax.process import metrics
from ad_jax.stage import evaluate
from ad_jax.stage.train import train

# Orbax leaves coroutines behind where a write fails. They go in the test that left them, and not in a later one.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning"
)

MODEL = Transformer(layers=1, width=8, heads=1, mlp_width=8, window=6).make(GRID)
SAMPLING = replay.Config(segment=8, batch=8, groups=8)
SMALL = Distillation(updates=6, warmup_updates=2, updates_per_dispatch=3, checkpoint_every=2)


@pytest.fixture(autouse=True)
def _tidy():
    yield
    gc.collect()


class Training:
    """One training, compiled once; each folder gets the same."""

    def __init__(self):
        self.trainer: Any = trainer_of(MODEL, GRID, SMALL, SAMPLING, mesh_of(), seed=1)
        self.resident = replay.load(numbered_histories(16, 24), GRID, SAMPLING, mesh_of())
        self.trainer.compiled = lambda _: self.trainer.run  # else each training would compile anew

    def __call__(self, folder: pathlib.Path) -> None:
        log = metrics.MetricsLog(folder, metrics.Config())
        meta = {"architecture": checkpoint.architecture_of(self.trainer.abstract_state.params)}
        train(self.trainer, self.resident, SMALL, folder / "checkpoints", meta, log)


@pytest.fixture(scope="module")
def training():
    return Training()


@pytest.fixture(scope="module")
def whole(training, tmp_path_factory):
    """Return what an undisturbed training ends with: step, state and metadata of its last checkpoint, and its log."""
    folder = tmp_path_factory.mktemp("whole")
    training(folder)
    return *checkpoint.load(folder), (folder / "metrics.jsonl").read_text()


def fill(training: Training, folder: pathlib.Path, small, whole) -> int | None:
    """Train until the disk is full, look at what is left, make room, go on. The step kept; None where all fits."""
    message, kept = None, 0
    try:
        training(folder)
    except AdJaxError as error:
        message = str(error)
    # The program could not end before they do.
    assert [thread.name for thread in threading.enumerate() if type(thread).__name__ == "_SignalingThread"] == []
    if message is not None:
        assert "No space left" in message or "the disk is full" in message, message
        assert str(folder) in message
        assert "is kept" in message or "What was finished before is kept" in message
        assert "run the same command again" in message
        if any((folder / "checkpoints/steps").glob("[0-9]")):
            kept, state, _ = checkpoint.load(folder)
            assert int(state["step"]) == kept
        small.grow()
        training(folder)
    step, state, meta = checkpoint.load(folder)
    assert (step, meta, (folder / "metrics.jsonl").read_text()) == (whole[0], whole[2], whole[3])
    chex.assert_trees_all_equal(state, whole[1])
    return None if message is None else kept


@pytest.mark.parametrize("first_every", [(8, 26), pytest.param((1, 1), marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["files", pytest.param("pages", marks=pytest.mark.slow)])
def test_training_on_a_disk_that_is_full_at_any_point_loses_one_checkpoint(
    tmp_path, training, whole, kind, first_every
):
    """Room for so many files, folders or pages more in every try, until all fit."""
    kept, n = [], 0
    for n in range(first_every[0], 200, first_every[1]):
        with disk(tmp_path / f"{kind}{n}", **room_for(n, kind)) as small:
            kept.append(fill(training, small.path, small, whole))
        if kept[-1] is None:
            break
    print(f"\n{len(kept) - 1} disks, full before {n} {kind}; the checkpoint kept by then: {sorted(set(kept[:-1]))}")
    assert kept[-1] is None
    assert {0, 2, 4} <= set(kept)


RANDOM = ("evaluate", "dark_room", "--scale", "smoke", "model=random", "evaluate.source_seeds=0")


@pytest.fixture
def evaluated_once(monkeypatch):
    """Rollouts are computed once for all runs: what is looked at here is what is written of them."""
    curves, compute = [], evaluate.evaluate

    def remembered(*arguments):
        if not curves:
            curves.append(compute(*arguments))
        return curves[0]

    monkeypatch.setattr(evaluate, "evaluate", remembered)


def evaluated(folder: pathlib.Path) -> dict[str, object]:
    """Return what an evaluation leaves, without clocks."""
    (run,) = json.loads((folder / "results.json").read_text())["runs"]
    written = {name: json.loads(raw) for name, raw in files(folder / "evaluation").items()}
    return {
        "sets": run["sets"],
        "log": (folder / "metrics.jsonl").read_text(),
        "parts": {name: data | {"seconds": 0, "seal": ""} for name, data in written.items()},
        "files": sorted(files(folder)),
    }


@pytest.mark.usefixtures("evaluated_once")
@pytest.mark.parametrize("kind", ["files", pytest.param("pages", marks=pytest.mark.slow)])
def test_evaluating_on_a_disk_that_is_full_at_any_point_goes_on_with_room(tmp_path, capsys, kind):
    assert main([*RANDOM, "--dir", str(tmp_path / "whole")]) == 0
    whole, named, n = evaluated(tmp_path / "whole"), set(), 0
    for n in range(1, 100):
        capsys.readouterr()
        with disk(tmp_path / f"{kind}{n}", **room_for(n, kind)) as small:
            command = [*RANDOM, "--dir", str(small.path / "run")]
            status, told = main(command), capsys.readouterr().err
            if status:
                assert status == 2
                assert told.startswith("ad-jax: ") and "Traceback" not in told
                assert "No space left" in told and "run the same command again" in told
                assert str(small.path) in told, told
                named |= {pathlib.Path(word.strip("'.:")).name for word in told.split() if "/" in word}
                small.grow()
                assert main(command) == 0
            assert evaluated(small.path / "run") == whole
        if not status:
            break
    print(f"\n{n - 1} disks, full before {n} {kind}; named: {sorted(named)}")
    assert {"config.json", "environment.json", "stages.json", "metrics.jsonl", "results.json"} <= named
