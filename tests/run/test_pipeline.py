"""The whole pipeline through the command line, at smoke scale: run, run again, killed in every stage and resumed.

These start processes from outside the repository. They share one uninterrupted run and one cache of compiled programs.
"""

import dataclasses
import fcntl
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import files, refused, xla_flags

from ad_jax import sources
from ad_jax.__main__ import main
from ad_jax.checkpoint import checkpoint
from ad_jax.errors import AdJaxError, CheckpointError
from ad_jax.experiment import ReferenceConfig, build, load, override
from ad_jax.files import read_json
from ad_jax.history import store
from ad_jax.run import directory
from ad_jax.run.pipeline import Run
from ad_jax.sharding import make_mesh
from ad_jax.sources.actor_critic import ActorCritic
from ad_jax.stage.collect import Collector, learning_curve
from ad_jax.text import significant

SMOKE = ("dark_room", "--scale", "smoke")
INTERRUPTIONS = (  # one after another on one run directory
    ("writing histories", 3, "SIGKILL"),
    ("writing histories", 1, "SIGINT"),
    ("saving the best", 1, "SIGKILL"),
    ("saving a checkpoint", 1, "SIGKILL"),
    ("saving a checkpoint", 1, "SIGINT"),
    ("writing metrics", 1, "SIGTERM"),
    ("evaluating", 1, "SIGKILL"),
    ("evaluating", 2, "SIGINT"),
    ("writing the report", 1, "SIGTERM"),
    ("writing the report", 1, "SIGKILL"),
)
STATUS = {"SIGKILL": -9, "SIGINT": 130, "SIGTERM": 75}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
    """Where the processes run: not the repository."""
    return tmp_path_factory.mktemp("elsewhere")


def process(place: pathlib.Path, *command: str) -> subprocess.CompletedProcess:
    """Run Python on one CPU device, as a user's shell would, though with the quick compiler of all tests."""
    keep = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env = keep | {"XLA_FLAGS": xla_flags(1), "AD_JAX_CACHE": str(place / "cache"), "MPLCONFIGDIR": str(place / "cache")}
    return subprocess.run(
        [sys.executable, *command], cwd=place, env=env, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def whole(place) -> tuple[pathlib.Path, subprocess.CompletedProcess]:
    """Return an uninterrupted run: its directory and the finished process."""
    done = process(place, "-m", "ad_jax", "run", *SMOKE, "--dir", "whole")
    assert done.returncode == 0, done.stderr
    return place / "whole", done


@pytest.fixture(scope="module")
def interrupted(place, whole) -> tuple[pathlib.Path, list[subprocess.CompletedProcess]]:
    """Return a run that was interrupted in every stage, and its processes; the last one ran to the end."""
    driver = str(pathlib.Path(__file__).parents[1] / "interrupting.py")
    command = ("run", *SMOKE, "--dir", "interrupted")
    attempts = [process(place, driver, where, str(count), sig, *command) for where, count, sig in INTERRUPTIONS]
    return place / "interrupted", [*attempts, process(place, "-m", "ad_jax", *command)]


def times(folder: pathlib.Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def records(folder: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_one_command_goes_from_nothing_to_a_report(whole):
    folder, done = whole
    assert "held-out return" in done.stdout
    assert f"report   {folder}/report/index.html" in done.stdout
    assert (folder / "report/index.html").stat().st_size > 1000
    results = json.loads((folder / "results.json").read_text())
    (run,) = results["runs"]
    assert np.shape(run["sets"][0]["returns"]["sampled"]) == (16, 2, 4)
    assert run["config"]["method"]["config"]["updates"] == run["stages"]["distill"]["updates"] == 8
    assert run["stages"]["collect"]["env_steps"] == 65 * 2 * 20 * 20
    assert run["stages"]["evaluate"]["env_steps"] == 2 * 16 * 2 * 4 * 20
    assert {record["stage"] for record in records(folder)} >= {"collect", "distill", "evaluate/held_out/greedy"}


def test_how_far_the_source_came_is_printed_and_in_the_results(whole, tmp_path, capsys):
    """On the terminal, in the run's facts and on its page; also for histories that were collected elsewhere."""
    folder, done = whole
    returns = store.open_store(folder / "histories").returns
    line = f"source at the end: mean return per episode {returns.final:.3g} of {returns.optimal:.3g} possible ("
    assert line in done.stdout, line
    (run,) = json.loads((folder / "results.json").read_text())["runs"]
    facts = {name: significant(value, 3) for name, value in returns.facts().items()}
    assert len(facts) == 4
    assert facts.items() <= run["stages"]["collect"].items()
    assert f"source return {facts['source_return']:.4g}," in (folder / "report/index.html").read_text()
    given = ["collect", *SMOKE, "--dir", str(tmp_path / "given"), "--histories", str(folder / "histories")]
    assert main(given) == 0
    assert line in capsys.readouterr().out
    assert directory.read_json(tmp_path / "given/stages.json") == {"collect": facts}


def test_the_same_command_again_recomputes_nothing(place, whole):
    folder, _ = whole
    kept = ("histories", "checkpoints", "evaluation")
    before, old = [times(folder / name) for name in kept], files(folder)
    again = process(place, "-m", "ad_jax", "run", *SMOKE, "--dir", "whole")
    assert again.returncode == 0, again.stderr
    assert "held-out return" in again.stdout
    assert [times(folder / name) for name in kept] == before
    new = files(folder)
    assert new.keys() == old.keys()
    assert [name for name in new if new[name] != old[name]] == [], "not even the seconds of the stages change"


@pytest.mark.slow
def test_the_signals_came_where_they_were_meant_to(interrupted):
    _, processes = interrupted
    for (where, _, name), done in zip(INTERRUPTIONS, processes, strict=False):
        assert done.returncode == STATUS[name], f"{where}: {done.stderr}"
    assert processes[-1].returncode == 0, processes[-1].stderr


@pytest.mark.slow
def test_a_stop_says_how_to_go_on_and_prints_no_traceback(interrupted):
    _, processes = interrupted
    words = {"SIGINT": "interrupted; run the same command again", "SIGTERM": "stopped by SIGTERM; run the same command"}
    for (_, _, name), done in zip(INTERRUPTIONS, processes, strict=False):
        if name in words:
            assert words[name] in done.stderr
            assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_sigterm_saves_a_checkpoint_where_none_was_due(interrupted):
    _, processes = interrupted
    at = [(where, name) for where, _, name in INTERRUPTIONS].index(("writing metrics", "SIGTERM"))
    assert "going on from update 6" in processes[at + 1].stdout, "4 and 8 were due"


@pytest.mark.slow
def test_interrupted_in_every_stage_the_histories_are_the_same_bytes(whole, interrupted):
    one, other = files(whole[0] / "histories"), files(interrupted[0] / "histories")
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []
    assert store.verify(interrupted[0] / "histories") == []


@pytest.mark.slow
@pytest.mark.parametrize("which", ["last", "best"])
def test_interrupted_in_every_stage_the_checkpoints_are_equal(whole, interrupted, which):
    (step, state, meta), (other_step, other_state, other_meta) = (
        checkpoint.load(folder, which) for folder, _ in (whole, interrupted)
    )
    assert step == other_step
    assert meta == other_meta
    chex.assert_trees_all_equal(state, other_state)


@pytest.mark.slow
def test_interrupted_in_every_stage_the_results_and_metrics_are_equal(whole, interrupted):
    one, other = (json.loads((folder / "results.json").read_text())["runs"][0] for folder, _ in (whole, interrupted))
    for name in ("sets", "config", "checkpoint", "seed", "episode_length"):
        assert one[name] == other[name], name
    for name in ("source_return", "share_of_optimal"):
        assert one["stages"]["collect"][name] == other["stages"]["collect"][name]
    assert records(whole[0]) == records(interrupted[0])
    assert (interrupted[0] / "report/index.html").exists()


@pytest.mark.slow
def test_a_reference_learns_beside_the_frozen_model(copied, capsys):
    """Its curve is that of the algorithm itself on the held-out tasks, and the trained model is used as it is."""
    reference = ReferenceConfig(ActorCritic(actors=2), episodes=5, chunk_learners=3)
    e = dataclasses.replace(load("dark_room", "smoke"), reference=reference)
    Run(e, copied).evaluate()
    (one,) = read_json(copied / "results.json")["runs"][0]["sets"]
    p = build(e)
    (tasks,) = p.split.held_out.values()
    algorithm = sources.make("actor_critic", {"actors": 2}).make(p.family)
    collector = Collector(p.family, algorithm, 5, make_mesh(e.mesh), 1)
    found = learning_curve(collector, tasks, p.family.task_ids(tasks), e.evaluate.source_seeds, e.seed)
    curve = np.reshape(found.returns, (len(one["tasks"]), e.evaluate.source_seeds, 2, -1)).mean(2)
    assert (one["source"]["name"], one["source"]["role"]) == ("actor_critic", "reference")
    assert (one["source"]["actors"], one["source"]["steps"]) == (2, p.family.episode_length)
    np.testing.assert_allclose(one["source"]["returns"], curve, rtol=1e-6)
    assert "learners of actor_critic" in capsys.readouterr().out


def test_a_claim_that_was_killed_while_writing_can_be_repeated(tmp_path):
    experiment = load("dark_room", "smoke")
    dead, alive = (tmp_path / f".config.json.{platform.node()}.{pid}.tmp" for pid in (2**22 + 1, os.getppid()))
    for left in (dead, alive):
        left.write_text('{"name": "dark_')
    directory.claim(tmp_path, experiment)
    directory.claim(tmp_path, experiment)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([alive.name, "config.json"])


def test_a_checkpoint_that_cannot_be_written_is_one_message_and_the_one_before_is_kept(tmp_path, monkeypatch):
    state, meta = {"x": jnp.arange(100)}, {"best": None}
    save(tmp_path, 1, state, meta)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=399))
    with pytest.raises(CheckpointError, match=r"the disk is full: a checkpoint needs 400 bytes, 399 are free. .*kept"):
        save(tmp_path, 2, state, meta)
    monkeypatch.undo()

    def fail(*args, **options):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.save", fail)
    with pytest.raises(
        CheckpointError, match=r"cannot write a checkpoint: the disk is full, RESOURCE_EXHAUSTED.*run the same command"
    ):
        save(tmp_path, 2, state, meta)
    assert checkpoint.load(tmp_path)[0] == 1


def save(folder, step, state, meta):
    with checkpoint.Checkpoints(folder) as checkpoints:
        checkpoints.save(step, state, meta)


# Bad input, on a finished run; in this process.


@pytest.fixture
def copied(whole, tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(whole[0], tmp_path / "run"))


def test_a_second_process_in_the_run_directory_is_refused_and_names_the_first(copied, capsys):
    arguments = [*SMOKE, "--dir", copied]
    with (copied / "lock").open("a+") as file:  # as another process would: a lock belongs to the open file
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write('{"pid": 7, "host": "elsewhere", "since": "today"}')
        file.flush()
        before = files(copied)
        for command in ("run", "collect", "distill", "evaluate"):
            refused(capsys, [command, *arguments], "is in use by process 7 on elsewhere, since today. Wait for it")
        assert files(copied) == before
    assert main(["evaluate", *map(str, arguments)]) == 0


def test_another_experiment_in_the_run_directory_is_named_and_left_alone(copied, capsys):
    before = files(copied)
    for command in ("run", "collect", "distill", "evaluate"):
        arguments = [command, *SMOKE, "distill.learning_rate=0.5", "--dir", copied]
        refused(capsys, arguments, "differs in method.learning_rate (0.002 there, 0.5 here)")
    assert files(copied) == before


def test_a_damaged_file_of_the_run_is_named(copied, capsys):
    for name in ("stages.json", "config.json"):
        whole_text = (copied / name).read_text()
        (copied / name).write_text(whole_text[:-9])
        refused(capsys, ["evaluate", *SMOKE, "--dir", copied], name, "is damaged")
        (copied / name).write_text(whole_text)


def test_histories_of_another_family_are_refused(whole, tmp_path, capsys):
    arguments = ["distill", *SMOKE, "env.reward=once", "--dir", tmp_path / "new", "--histories", whole[0] / "histories"]
    refused(capsys, arguments, "every_step", "once", "Collect them anew", "set env to match")
    assert not (tmp_path / "new/checkpoints").exists()


def test_histories_of_another_source_are_refused_and_of_another_seed_are_used(whole, tmp_path, capsys):
    histories = ["--histories", whole[0] / "histories"]
    arguments = ["distill", *SMOKE, "source.discount=0.8", "--dir", tmp_path / "new", *histories]
    refused(capsys, arguments, "'discount': 0.9", "'discount': 0.8", "set source to match")
    assert main([str(word) for word in ["collect", *SMOKE, "seed=1", "--dir", tmp_path / "seed", *histories]]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_collecting_into_another_collection_is_refused_and_leaves_it_alone(copied, tmp_path, capsys):
    before = files(copied)
    arguments = ["collect", *SMOKE, "source.discount=0.8", "--dir", tmp_path / "new", "--histories"]
    refused(
        capsys, [*arguments, copied / "histories"], "another manifest", "source.config.discount (0.9 there, 0.8 here)"
    )
    assert files(copied) == before


def test_a_checkpoint_of_another_model_is_refused(whole, tmp_path, capsys):
    directory.claim(tmp_path, override(load("dark_room", "smoke"), ["model.width=32"]))
    shutil.copytree(whole[0] / "checkpoints", tmp_path / "checkpoints")
    before = files(tmp_path / "checkpoints")
    arguments = [*SMOKE, "model.width=32", "--dir", tmp_path, "--histories", whole[0] / "histories"]
    refused(capsys, ["distill", *arguments], "another run's", "differs in model.width (16 there, 32 here). ")
    refused(capsys, ["evaluate", *arguments], "another architecture", "block_0.down.kernel", "[32, 16]")
    assert files(tmp_path / "checkpoints") == before


def test_a_held_out_task_that_was_trained_on_is_refused(whole, tmp_path, capsys):
    directory.claim(tmp_path, override(load("dark_room", "smoke"), ["tasks.split_seed=1"]))
    shutil.copytree(whole[0] / "checkpoints", tmp_path / "checkpoints")
    refused(capsys, ["evaluate", *SMOKE, "tasks.split_seed=1", "--dir", tmp_path], "tasks.split_seed (9 there, 1 here)")
    run = Run(override(load("dark_room", "smoke"), ["tasks.split_seed=1"]), tmp_path / "new", trained=whole[0])
    with pytest.raises(AdJaxError, match="held-out tasks were trained on"):
        run.evaluate()


def test_verify_finds_a_damaged_chunk_and_nothing_else(copied, capsys):
    command = ["histories", "verify", str(copied / "histories")]
    assert main(command) == 0
    assert "every byte is as it was written" in capsys.readouterr().out
    for name in ("arrays/reward/c/1/0", "ledger/000003.json"):
        damaged = copied / "histories" / name
        damaged.write_bytes(damaged.read_bytes()[:-1])
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "arrays/reward/c/1/0" in error
    assert "ledger/000003.json" in error
