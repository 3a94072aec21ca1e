"""What a run takes for its own, on plain data: versions, tuples, fields that are None, and what the errors advise."""

import dataclasses
import json
import types
from typing import Any

import pytest

from ad_jax.checkpoint import lineage
from ad_jax.errors import AdJaxError, CheckpointError, OtherCheckpointError, OtherHistoriesError
from ad_jax.experiment import ReferenceConfig, build, load, override
from ad_jax.process import distributed
from ad_jax.run import collection
from ad_jax.run.curves import Curves
from ad_jax.run.pipeline import Run
from ad_jax.sources.actor_critic import ActorCritic

LIKE = {"format": 1, "platform": "cpu", "shown": {}, "sums": {"reward": [1.0]}}
EDITED = LIKE | {"sums": {"reward": [10.0]}}


def as_read(manifest):
    return json.loads(json.dumps(manifest.to_json()))


@pytest.fixture(scope="module")
def gymnax():
    """Return an experiment whose family and source have tuples among their options, and its manifest."""
    e = load("gymnax_cartpole", "smoke")
    return e, collection.make_manifest(e, build(e), {"family": LIKE, "source": LIKE})


def test_a_collection_that_was_read_back_is_still_this_runs(gymnax):
    e, mine = gymnax
    found = as_read(mine)
    assert found != mine.to_json(), "tuples are lists"
    assert collection.differing(found, collection.continued(mine, found, e, "there")) == []
    found["provenance"]["seed"] = 9
    (odd,) = collection.differing(found, collection.continued(mine, found, e, "there"))
    assert odd.startswith("provenance.seed (9 there")


def test_a_collection_of_another_version_of_the_package_is_continued(gymnax):
    """To its own manifest, as the writer compares it."""
    e, mine = gymnax
    found = as_read(mine)
    found["provenance"]["ad_jax"] = "0.0.1"
    assert as_read(collection.continued(mine, found, e, "there")) == found
    del found["provenance"]["ad_jax"]
    assert as_read(collection.continued(mine, found, e, "there")) == found


@pytest.mark.parametrize(("given", "advice"), [(False, "--redo"), (True, "Name another collection, or leave --hist")])
def test_histories_that_were_named_are_never_said_to_be_made_anew(gymnax, given, advice):
    e, mine = gymnax
    found = as_read(mine)
    found["provenance"]["behavior"]["source"] = EDITED
    with pytest.raises(OtherHistoriesError, match=advice) as caught:
        collection.continued(mine, found, e, "there", given)
    assert ("--redo" in str(caught.value)) is not given


@pytest.mark.parametrize("change", ["replay.best=0.5", "tasks.used=3", "method.skip_updates=3", "replay.reward_unit=2"])
def test_a_field_that_only_one_of_two_trainings_sets_is_a_difference(change):
    plain = load("dark_room", "smoke").to_json()
    other = override(load("dark_room", "smoke"), [change]).to_json()
    named = change.partition("=")[0]
    for there, here in ((other, plain), (plain, other)):
        with pytest.raises(OtherCheckpointError, match=rf"{named} \(.*: ad-jax distill \.\.\. --redo"):
            lineage.check_own({"experiment": there}, {"experiment": here}, "there")
    older = json.loads(json.dumps(plain))
    part, name = named.split(".")
    del (older[part].get("config") or older[part])[name]  # a version that did not know it
    lineage.check_own({"experiment": older}, {"experiment": other}, "there")
    apart = override(load("dark_room", "smoke"), ["evaluate.seeds=7", "logging.progress_seconds=9"]).to_json()
    lineage.check_own({"experiment": plain}, {"experiment": apart}, "there")


def test_a_model_may_be_evaluated_with_another_attention_than_it_was_trained_with():
    """And what a version without the option trained goes on as it is, whatever attention is asked for now."""
    plain, fused, older = ({"model": {"name": "transformer", "options": o}, "spec": {}, "experiment": {}} for o in (
        {"layers": 4, "attention": None}, {"layers": 4, "attention": "fused"}, {"layers": 4}
    ))  # fmt: skip
    lineage.check_trained(plain, fused, "there")
    lineage.check_own(older, fused, "there")
    with pytest.raises(OtherCheckpointError, match="attention"):
        lineage.check_own(plain, fused, "there")
    with pytest.raises(CheckpointError, match=r"layers \(4 there, 5 here\)"):
        lineage.check_trained(plain, {**fused, "model": {"name": "transformer", "options": {"layers": 5}}}, "there")


def test_a_checkpoint_is_trained_anew_by_the_stage_that_trains():
    plain = load("dark_room", "smoke").to_json()
    data = {"experiment": plain, "model": {"name": "transformer", "options": {}}, "spec": {}}
    found, mine = (data | {"behavior": {"model": model}} for model in (EDITED, LIKE))
    for check in (lineage.check_own, lineage.check_trained):
        with pytest.raises(CheckpointError, match=r"behaves differently.*: ad-jax distill \.\.\. --redo"):
            check(found, mine, "there")
    with pytest.raises(OtherCheckpointError, match=r"other histories.*: ad-jax distill \.\.\. --redo"):
        lineage.check_own(data | {"histories": "a"}, data | {"histories": "b"}, "there")


def test_the_reference_is_named_where_it_behaves_differently(tmp_path, capsys):
    reference = ReferenceConfig(ActorCritic(actors=3), 5)
    e = dataclasses.replace(load("dark_room", "smoke"), reference=reference)
    computed = []
    for behaves in (LIKE, EDITED):
        unread: Any = None
        origins: Any = types.SimpleNamespace(family=LIKE, source=LIKE, reference=behaves)
        curves = Curves(e, unread, unread, tmp_path, unread, origins)
        curves.part("held_out-source", {"tasks": []}, lambda: computed.append(1))
    assert len(computed) == 2
    assert "source actor_critic behaves differently" in capsys.readouterr().out


def test_processes_that_were_started_differently_hear_of_it_before_anything_else(tmp_path, monkeypatch):
    class AskedError(AdJaxError):
        pass

    def asked(what, value):
        raise AskedError(json.dumps(value))

    monkeypatch.setattr(distributed, "check_equal", asked)
    monkeypatch.setattr(distributed, "on_first", lambda call: pytest.fail("another collective came first"))
    e = load("dark_room", "smoke")
    changes: Any = {"redo": True}, {"trained": "other"}, {"histories": f"{tmp_path}/run/histories"}
    told = []
    for options in ({}, *changes):
        with pytest.raises(AskedError) as caught:
            Run(e, tmp_path / "run", **options)
        told.append(str(caught.value))
    assert len(set(told)) == len(told)
    assert not (tmp_path / "run").exists()
