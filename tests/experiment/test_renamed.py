"""Options and values that were renamed go on being read: in files, on command lines, and in what was made before."""

import dataclasses
import json
import pathlib
from typing import Any

import pytest

from ad_jax import LSTM, PPO, DarkKeyToDoor, Transformer
from ad_jax.checkpoint import identity, lineage
from ad_jax.errors import ConfigError
from ad_jax.experiment import Experiment, build, override
from ad_jax.files import write_json
from ad_jax.history.manifest import Manifest
from ad_jax.history.store import HistoryWriter
from ad_jax.registry import RENAMED, under_first_names
from ad_jax.run import collection, directory
from ad_jax.study.keys import collected_by, key, trained_by

PLAIN = Experiment("plain", DarkKeyToDoor(size=5), PPO(), model=Transformer())
# By old name: what is typed before the change, the change, and the same by the name of today.
CHANGES = {
    "optimiser": ([], "method.optimiser=muon", "method.optimizer=muon"),  # codespell:ignore
    "normalise": ([], "source.normalise=false", "source.normalize=false"),  # codespell:ignore
    "centre": ([], "env.start=centre", "env.start=center"),  # codespell:ignore
    "strict": (["replay.segment=10"], "model.strict=true", "model.exact_context=true"),
    "ordinal": (["model=lstm"], "model.ordinal=true", "model.numeric_observations=true"),
}
# Of `override(PLAIN, changes)` in the version before the names of today: of directories, curves, models, histories.
FOUND_BY = ("15a987b3f6", "24b898e091ca", "10e8844536c9", "de11edf5e549")


@pytest.fixture(params=CHANGES)
def old(request):
    return request.param


def of_today(old: str) -> Experiment:
    before, _, today = CHANGES[old]
    return override(PLAIN, [*before, today])


def as_written(e: Experiment) -> dict[str, Any]:
    return json.loads(json.dumps(under_first_names(e.to_json())))


def test_every_old_name_is_looked_at():
    assert CHANGES.keys() == RENAMED.keys()


def test_an_old_name_means_the_same_on_the_command_line(old):
    before, change, _ = CHANGES[old]
    assert override(PLAIN, [*before, change]) == of_today(old) != override(PLAIN, before)


def test_a_family_made_in_python_holds_the_name_of_today():
    """Or it would be neither: whoever compares it with `"center"` would take it for another start."""
    old: Any = "centre"  # codespell:ignore
    assert DarkKeyToDoor(start=old) == DarkKeyToDoor(start="center") != DarkKeyToDoor(start="corner")


def test_an_old_config_is_the_same_experiment(old, tmp_path, monkeypatch):
    e = of_today(old)
    written = as_written(e)
    assert old in json.dumps(written) and old not in json.dumps(e.to_json())
    assert Experiment.from_json(written) == e
    options = {
        kind: {"name": written[kind]["name"], "options": written[kind]["config"]} for kind in ("env", "source", "model")
    }
    assert Experiment.from_json(written | options) == e
    assert not identity.changed(written, e.to_json())
    assert identity.changed(written, dataclasses.replace(e, seed=1).to_json()) == ["seed (0 there, 1 here)"]
    monkeypatch.chdir(tmp_path)
    write_json(pathlib.Path("runs/plain/named_otherwise/config.json"), written)
    assert directory.default(e) == pathlib.Path("runs/plain/named_otherwise")


def test_an_old_checkpoint_is_of_the_same_run(old):
    e = of_today(old)
    mine = {
        "experiment": e.to_json(),
        "model": {"name": "m", "options": dataclasses.asdict(e.model)},  # pyright: ignore[reportArgumentType]
        "spec": {},
    }
    there = json.loads(json.dumps(under_first_names(mine)))
    lineage.check_own(there, mine, "there")
    lineage.check_trained(there, mine, "there")


def test_an_old_collection_is_continued_as_it_was_written(old, tmp_path):
    e = of_today(old)
    mine = collection.make_manifest(e, build(e), {})
    there = Manifest.from_json(json.loads(json.dumps(under_first_names(mine.to_json()))))
    with HistoryWriter.open(tmp_path, there):
        pass
    continued = collection.continued(mine, there.to_json(), e, str(tmp_path))
    assert continued.to_json() == there.to_json()
    with HistoryWriter.open(tmp_path, continued):
        pass
    assert not collection.differing(there.to_json(), mine)


def test_what_was_made_before_is_found_by_its_old_digest():
    e = override(PLAIN, ["env.start=center", "model.exact_context=true", "method.optimizer=muon"])
    e = override(e, ["source.normalize=false"])
    assert (directory.digest(e), key(e), key(trained_by(e)), key(collected_by(e))) == FOUND_BY


def test_an_old_name_is_none_of_a_plug_in_that_never_had_it():
    with pytest.raises(ConfigError, match="unknown option of model lstm 'strict'"):
        override(PLAIN, ["model=lstm", "model.strict=true"])
    assert not hasattr(LSTM(), "exact_context")
