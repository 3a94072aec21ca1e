"""Rotation in whole runs: what is told of the waiting, when nothing rotates, and what no device holds."""

import json
import re

import pytest
from helpers import files

from ad_jax.errors import ConfigError
from ad_jax.experiment import Experiment
from ad_jax.run.pipeline import Run


def smoke(tmp_path, name, *changes) -> Run:
    from ad_jax.experiment import load, override

    e: Experiment = override(load("dark_room", "smoke"), changes)
    return Run(e, tmp_path / name, histories=str(tmp_path / "histories"))


@pytest.mark.slow
def test_a_run_reports_the_waiting_and_one_that_fits_does_not_rotate(tmp_path, capsys):
    small = ("replay.rotation.resident=16", "replay.rotation.parts=2", "replay.rotation.every=2")
    run = smoke(tmp_path, "one", *small)
    run.collect()
    run.distill()
    told, facts = capsys.readouterr().out, json.loads((run.folder / "stages.json").read_text())["distill"]
    assert "130 histories take turns, 16 at a time" in told
    assert re.search(r"distill  3 swaps; \d of 8 updates waited for histories \(\d", told)
    assert facts["swaps"] == 3
    assert {"swaps_waited", "waited_seconds", "reading_seconds"} < facts.keys()
    run.distill()  # nothing is left to do, and nothing to say of it
    assert "swaps" not in capsys.readouterr().out
    assert json.loads((run.folder / "stages.json").read_text())["distill"] == facts
    histories = files(tmp_path / "histories")
    run = smoke(tmp_path, "all", "replay.rotation.resident=192")
    run.collect()
    run.distill()
    assert "nothing rotates: replay.rotation.resident holds all 130 histories" in capsys.readouterr().out
    assert "swaps" not in json.loads((run.folder / "stages.json").read_text())["distill"]
    assert files(tmp_path / "histories") == histories


def test_histories_that_no_device_holds_are_refused_with_how_many_fit(tmp_path, monkeypatch):
    run = smoke(tmp_path, "one")
    run.collect()
    device = type(run.mesh.local_devices[0])
    monkeypatch.setattr(device, "memory_stats", lambda _: {"bytes_limit": 3000})
    with pytest.raises(ConfigError, match=r"which has 3 kB. Let them take turns: replay.rotation.resident=(\d+)"):
        run.distill()
