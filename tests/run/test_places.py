"""Names of directories: what is written in one can be read there, or it is refused before anything runs."""

import os
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import refused

from ad_jax import files
from ad_jax.__main__ import main
from ad_jax.checkpoint import checkpoint, saved
from ad_jax.errors import CheckpointError, ConfigError
from ad_jax.experiment import load
from ad_jax.history import store
from ad_jax.run.pipeline import Run

SMOKE = ("dark_room", "--scale", "smoke")
LESS = ("evaluate.greedy=False", "evaluate.source_seeds=0", "collect.seeds=1", "tasks.train=4", "tasks.held_out=2")
SMALL = ("bandit_adversarial", "--scale", "smoke", *LESS)
ODD = "sp ace %25 #{a,b} 'q\" $HOME a:b ~ @ | & ü日本 trailing."
LOST = ("hidden=[32,32]", "half[", "st*ar", "que?stion", "back\\slash", "colon:", "x:/y")
META = {"architecture": {}}


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    monkeypatch.setenv("AD_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.mark.slow
def test_an_odd_name_works_everywhere_and_a_tilde_is_the_home_directory(tmp_path):
    run, histories, page = (f"~/{ODD}/{what}" for what in ("run", "histories", "page"))
    whole = tmp_path / "home" / ODD
    assert main(["collect", *SMALL, f"--dir={run}", f"--histories={histories}"]) == 0
    assert store.verify(histories) == []
    assert main(["run", *SMALL, "model=random", f"--dir={run}-random"]) == 0
    assert main(["report", f"{run}-random", f"--out={page}", f"--pool=~/{ODD}/pooled.json"]) == 0
    made = ("run-random/report/index.html", "run/metrics.jsonl", "histories/manifest.json")
    for name in (*made, "page/index.html", "pooled.json"):
        assert (whole / name).is_file(), name
    save(whole / "run/checkpoints", [1, 2])
    assert checkpoint.load(run)[0] == 2
    assert Run(load("dark_room", "smoke"), "~/other", trained=run).trained == whole / "run"
    assert list(pathlib.Path().iterdir()) == []


@pytest.mark.parametrize("name", LOST)
def test_a_run_directory_in_which_checkpoints_would_be_lost_is_refused(name, capsys):
    for command in ("run", "collect"):
        refused(capsys, [command, *SMOKE, f"--dir={name}"], "could not be read again", "another directory (--dir)")
    with pytest.raises(ConfigError, match="could not be read again"):
        checkpoint.Checkpoints(pathlib.Path(name))
    assert list(pathlib.Path().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["run", *SMOKE, "--dir=run", "--histories=back\\slash"], ["histories in", "would go elsewhere"]),
        (["run", *SMOKE, "--dir=run", f"--histories={'x' * 300}"], ["names of at most 255 bytes; got one of 300"]),
        (["histories", "info", "back\\slash"], ["would go elsewhere"]),
    ],
)
def test_histories_that_would_go_elsewhere_are_refused(arguments, parts, capsys):
    refused(capsys, arguments, *parts)
    assert list(pathlib.Path().iterdir()) == []


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("gs://bucket/run", "is a directory on this machine; got gs://bucket/run. Only histories can be elsewhere"),
        ("s3://bucket/run", "is a directory on this machine"),
        ("x" * 256, "names of at most 255 bytes; got one of 256"),
        (os.fsdecode(b"\xff"), "is no text in UTF-8"),
    ],
)
def test_what_is_no_place_on_this_machine_is_refused(path, part, capsys):
    for command in (["run", *SMOKE, "--dir", path], ["report", path], ["report", "x", "--out", path]):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 2
        assert part in capsys.readouterr().err
    with pytest.raises(ConfigError, match=part.replace("(", r"\(")):
        Run(load("dark_room", "smoke"), path)
    assert list(pathlib.Path().iterdir()) == []


def save(folder, steps, keep=2):
    with checkpoint.Checkpoints(folder, keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, {"w": jnp.full((3,), step)}, META)


def steps_in(folder):
    return sorted(int(path.name) for path in (folder / "steps").iterdir())


def test_a_save_that_cannot_be_read_again_is_an_error_and_the_one_before_is_kept(tmp_path, monkeypatch):
    """In the directory that Orbax loses checkpoints in, as if nothing were known of it."""
    folder = tmp_path / "plain"
    save(folder, [1])
    folder = folder.rename(tmp_path / "[32,32]")
    monkeypatch.setattr(files, "check_checkpoints", lambda folder: None)
    with pytest.raises(CheckpointError, match=r"checkpoint .*2 was written, and cannot be read again.*is kept"):
        save(folder, range(2, 9))
    assert steps_in(folder) == [1, 2]
    shutil.rmtree(folder / "steps/2")
    np.testing.assert_array_equal(checkpoint.load(folder)[1]["w"], [1, 1, 1])


@pytest.mark.parametrize("keep", [1, 3])
def test_nothing_is_deleted_before_what_replaces_it_is_read(tmp_path, keep):
    save(tmp_path, range(1, 6), keep)
    assert steps_in(tmp_path) == list(range(6 - keep, 6))
    checkpoints = checkpoint.Checkpoints(tmp_path, keep)
    checkpoints.save(6, {"w": jnp.full((3,), 6)}, META)
    checkpoints.manager.wait_until_finished()
    shutil.rmtree(tmp_path / "steps/6/state")
    with pytest.raises(CheckpointError, match="6 was written, and cannot be read again"):
        checkpoints.__exit__(None)
    shutil.rmtree(tmp_path / "steps/6")
    np.testing.assert_array_equal(checkpoint.load(tmp_path)[1]["w"], [5, 5, 5])


def test_the_best_is_replaced_when_the_new_one_has_been_read(tmp_path, monkeypatch):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save_best(step, {"w": jnp.full((3,), step)}, META)
        assert [path.name for path in (tmp_path / "best").iterdir()] == ["2"]

        def fail(*_):
            raise ValueError("not found")

        monkeypatch.setattr(saved, "_on_first_device", fail)
        with pytest.raises(CheckpointError, match="3 was written, and cannot be read again: not found"):
            checkpoints.save_best(3, {"w": jnp.full((3,), 3)}, META)
        monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == ["2", "3"]
