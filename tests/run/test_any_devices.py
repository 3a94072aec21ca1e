"""A run is collected, trained and evaluated on different numbers of devices; only training asks that they fit."""

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest

from ad_jax import Agent
from ad_jax.__main__ import main
from ad_jax.errors import ConfigError
from ad_jax.experiment import load, override
from ad_jax.files import read_json
from ad_jax.policies.random import Random
from ad_jax.run.pipeline import Run

TINY = ("model.layers=1", "distill.updates=2", "distill.warmup_updates=1", "distill.evaluate_every=0")
LITTLE = ("evaluate.greedy=False", "evaluate.source_seeds=1", "evaluate.episodes=2", "collect.episodes=12")
SMALL = ("dark_room", "--scale", "smoke", *TINY, *LITTLE)


@pytest.fixture
def only(monkeypatch):
    """`only(n)`: JAX has the first n of the 8 devices."""
    every = jax.devices()

    def first(count):
        for name in ("devices", "local_devices"):
            monkeypatch.setattr(jax, name, lambda *args, **options: every[:count])

    return first


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
    """Return a run of which all stages were done on all devices."""
    folder = tmp_path_factory.mktemp("devices") / "run"
    Run(override(load("dark_room", "smoke"), [*TINY, *LITTLE]), folder).all()
    return folder


def sets(folder):
    return read_json(folder / "results.json")["runs"][0]["sets"]


@pytest.mark.parametrize("mesh", [(), ("mesh.data=2",), ("mesh.fsdp=2",), ("mesh.tensor=8",)], ids=str)
def test_three_devices_evaluate_what_eight_have_trained(finished, tmp_path, only, mesh):
    copied = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(copied / "evaluation")
    (copied / "results.json").unlink()
    only(3)
    assert main(["evaluate", *SMALL, *mesh, "--dir", str(copied)]) == 0
    assert sets(copied) == sets(finished)


def test_a_finished_run_is_repeated_on_three_devices(finished, tmp_path, only, capsys):
    copied = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(copied / "report")
    before = read_json(copied / "stages.json")
    only(3)
    assert main(["run", *SMALL, "--dir", str(copied)]) == 0
    assert "is trained to the end" in capsys.readouterr().out
    assert (copied / "report/index.html").exists()
    assert read_json(copied / "stages.json") == before
    agent = Agent.load(copied)
    agent.reset()
    assert agent.act(np.zeros((1, 2), np.int32)).shape == (1,)


@pytest.mark.slow
def test_each_stage_takes_its_own_number_of_devices(finished, tmp_path, only, capsys):
    """Collected on 3, trained on 4, evaluated on 5: the histories, and nearly the model, of 8."""

    def command(stage, *more):
        return main([stage, *SMALL, *more, "--dir", str(tmp_path / "run")])

    only(3)
    assert command("collect") == 0
    assert command("distill") == 2
    told = capsys.readouterr().err
    assert "replay.groups=8 cannot be split over 3 devices" in told
    assert "mesh.data=1 mesh.fsdp=1" in told
    assert command("distill", "distill.updates=2", "mesh.data=1", "mesh.fsdp=1") == 0, "what the message says helps"
    only(4)
    assert command("distill") == 0, "the rest of the training"
    only(5)
    assert command("evaluate") == 0
    for one, other in zip(sets(tmp_path / "run"), sets(finished), strict=True):
        assert one["source"] == other["source"]
        assert np.shape(one["returns"]["sampled"]) == np.shape(other["returns"]["sampled"])


def test_in_python_too_only_training_is_refused(finished, tmp_path, only):
    e = override(load("dark_room", "smoke"), [*TINY, *LITTLE])
    only(3)
    run = Run(e, tmp_path / "run")
    for stage in (run.distill, run.all):
        with pytest.raises(ConfigError, match="cannot be split over 3 devices"):
            stage()
    with pytest.raises(ConfigError, match="cannot be split over 3 devices"):
        Run(e, tmp_path / "another", trains=True)
    assert not (tmp_path / "another").exists()
    unlearned = dataclasses.replace(e, model=Random())
    Run(unlearned, tmp_path / "random", trains=True).all()
