"""A result is kept under all that decides it: another checkpoint, seed, option or plug-in is not taken for it."""

import dataclasses
import json
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import refused

from ad_jax.__main__ import main
from ad_jax.checkpoint import checkpoint
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.errors import CheckpointError, HistoryError, OtherCheckpointError, OtherHistoriesError
from ad_jax.experiment import build, load, override
from ad_jax.files import read_json
from ad_jax.history import store
from ad_jax.run import behavior, collection
from ad_jax.run.pipeline import Run
from ad_jax.sources import q_learning
from ad_jax.text import significant

TINY = (
    *(
        "env.size=3",
        "mesh.data=1",
        "tasks.train=6",
        "tasks.held_out=3",
        "collect.seeds=1",
        "collect.episodes=8",
        "replay.segment=20",
    ),
    *("replay.batch=8", "replay.groups=2", "distill.updates=3", "distill.warmup_updates=1", "distill.evaluate_every=0"),
    *("evaluate.episodes=6", "evaluate.seeds=2", "evaluate.greedy=False", "evaluate.source_seeds=1"),
)


def tiny(*changes):
    return override(load("dark_room", "smoke"), [*TINY, *changes])


def returns(folder):
    return read_json(folder / "results.json")["runs"][0]["sets"][0]["returns"]["sampled"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Finished runs with seeds 0 and 1; the seed is all that differs, and so are the curves."""
    folders = [tmp_path_factory.mktemp("keys") / f"seed{seed}" for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        Run(tiny(f"seed={seed}", "distill.learning_rate=0.05"), folder).all()
    return folders


@pytest.fixture
def copied(trained, tmp_path):
    return shutil.copytree(trained[0], tmp_path / "copied")


LIKE = ("distill.learning_rate=0.05",)  # as they were trained with


def test_the_model_that_is_named_is_the_model_that_is_evaluated(trained, tmp_path):
    e = tiny(*LIKE, "seed=7")
    seen = []
    for folder in (*trained, trained[0]):
        Run(e, tmp_path / "shared", trained=folder).evaluate()
        seen.append(returns(tmp_path / "shared"))
        (run,) = read_json(tmp_path / "shared" / "results.json")["runs"]
        assert run["checkpoint"]["trained_as"] == {"experiment": "dark_room", "seed": trained.index(folder)}
        assert run["stages"]["distill"] == read_json(folder / "stages.json")["distill"]
    assert seen[0] == seen[2] != seen[1]


@pytest.mark.parametrize("command", [pytest.param("evaluate", marks=pytest.mark.slow), "distill"])
def test_a_checkpoint_that_was_copied_from_another_run_is_named(copied, trained, command):
    """Of the same shapes, and of the same step."""
    shutil.rmtree(copied / "checkpoints/steps/3")
    shutil.copytree(trained[1] / "checkpoints/steps/3", copied / "checkpoints/steps/3")
    with pytest.raises(
        OtherCheckpointError, match=r"another run's: it differs in seed \(1 there, 0 here\)\. Delete it"
    ):
        getattr(Run(tiny(*LIKE), copied), command)()
    Run(tiny(*LIKE), copied, redo=True).distill()
    Run(tiny(*LIKE), copied).evaluate()
    assert returns(copied) == returns(trained[0])


def test_after_a_new_training_everything_is_of_the_new_one(copied, trained):
    """The old one is deleted; the new one learns from other histories."""
    old = read_json(copied / "stages.json")["distill"]
    (before,) = read_json(copied / "results.json")["runs"]
    shutil.rmtree(copied / "checkpoints")
    run = Run(tiny(*LIKE), copied, histories=str(trained[1] / "histories"))
    run.distill()
    run.evaluate()
    _, _, meta = checkpoint.load(copied)
    (found,) = read_json(copied / "results.json")["runs"]
    assert found["stages"]["distill"]["loss"] == significant(meta["facts"]["loss"], 3) != old["loss"]
    assert found["checkpoint"]["fingerprint"] != before["checkpoint"]["fingerprint"]
    part = read_json(copied / "evaluation/held_out-sampled.json")
    assert part["key"]["checkpoint"] == found["checkpoint"]
    run.distill()  # finds nothing to do
    assert read_json(copied / "stages.json")["distill"] == found["stages"]["distill"]


def test_a_checkpoint_of_other_histories_is_not_taken_for_one_of_these(copied, trained):
    with pytest.raises(
        OtherCheckpointError, match=r"was trained on other histories than those that are there now.*--redo"
    ):
        Run(tiny(*LIKE), copied, histories=str(trained[1] / "histories")).distill()


def test_a_part_that_was_changed_is_computed_anew(copied, trained, capsys):
    path = copied / "evaluation/held_out-sampled.json"
    content = path.read_bytes()
    at = content.index(b'"returns": [[[') + 14
    for damaged in (content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :], content[:-9]):
        path.write_bytes(damaged)
        Run(tiny(*LIKE), copied).evaluate()
        assert "held_out-sampled.json was changed or damaged" in capsys.readouterr().out
        assert returns(copied) == returns(trained[0])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("model.heads=4", "model.heads (2 there, 4 here)"),
        pytest.param("model.window=9", "model.window (20 there, 9 here)", marks=pytest.mark.slow),
        pytest.param("model.activation=gelu", "model.activation ('relu' there, 'gelu' here)", marks=pytest.mark.slow),
    ],
)
def test_another_model_of_the_same_shapes_is_refused(trained, tmp_path, change, named):
    with pytest.raises(CheckpointError, match=re.escape(named)):
        Run(tiny(*LIKE, change), tmp_path / "new", trained=trained[0]).evaluate()
    Run(tiny(*LIKE, "model.exact_context=True"), tmp_path / "strict", trained=trained[0]).evaluate()


def test_histories_of_another_seed_are_learned_from_where_they_are_named(copied, trained, tmp_path):
    shutil.rmtree(copied / "checkpoints")
    shutil.rmtree(copied / "histories")
    shutil.copytree(trained[1] / "histories", copied / "histories")
    with pytest.raises(
        OtherHistoriesError, match=r"not this run's: they differ in provenance\.seed \(1 there, 0 here\)"
    ):
        Run(tiny(*LIKE), copied).distill()
    Run(tiny(*LIKE), tmp_path / "given", histories=str(trained[1] / "histories")).distill()
    Run(tiny(*LIKE), copied, redo=True).collect()
    held = [store.open_store(folder / "histories").fingerprint for folder in (copied, trained[0])]
    assert held[0] == held[1]


def test_histories_of_another_shape_are_refused_in_a_sentence(trained, tmp_path, monkeypatch):
    """The family was edited since: it shows a number more."""
    e, given = tiny(*LIKE), str(trained[0] / "histories")
    run = Run(e, tmp_path / "new", histories=given)
    spec = dataclasses.replace(run.components.spec, shape=(3,), values=(9, 9, 2))
    run.components = dataclasses.replace(run.components, spec=spec)
    with pytest.raises(HistoryError, match=r"before task family dark_room was changed: they differ in spec\.shape"):
        run.distill()


STEP = DarkRoom.step_env


def ten_times(self, key, state, action, params):
    observation, state, reward, done, info = STEP(self, key, state, action, params)
    return observation, state, reward * 10, done, info


def mirrored(self, key, state, action, params):
    """Another transition."""
    return STEP(self, key, state, jnp.int32(4) - action, params)


def elsewhere(self, key, state, action, params):
    """Another goal than the task says."""
    return STEP(self, key, state, action, params.replace(goal=params.goal[::-1]))


@pytest.mark.slow
def test_an_edited_family_is_named_in_every_stage_and_made_anew_when_asked(copied, monkeypatch, capsys):
    before = returns(copied)
    monkeypatch.setattr(DarkRoom, "step_env", ten_times)
    monkeypatch.setattr(DarkRoom, "optimal_return", lambda self, tasks: None)
    monkeypatch.setattr(DarkRoom, "random_return", lambda self, tasks: None)
    arguments = ["dark_room", "--scale", "smoke", *TINY, *LIKE, "--dir", str(copied)]
    for command, of in (("collect", "histories"), ("distill", "histories"), ("evaluate", "checkpoint")):
        refused(
            capsys, [command, *arguments], "task family dark_room behaves differently (reward at step", of, "--redo"
        )
    assert main(["run", *arguments, "--redo"]) == 0
    told = capsys.readouterr().out
    assert "histories is made anew" in told
    assert "checkpoints is made anew" in told
    now = np.asarray(returns(copied))
    assert now.any()
    assert (now % 10 == 0).all()
    assert now.tolist() != before
    assert main(["run", *arguments]) == 0


@pytest.mark.parametrize("edited", [ten_times, mirrored, elsewhere])
def test_edits_of_a_family_are_seen_and_nothing_else_is(edited, monkeypatch):
    family = DarkRoom()
    before = json.loads(json.dumps(behavior.of_family(family)))
    assert collection.lineage.difference(before, behavior.of_family(DarkRoom())) is None
    monkeypatch.setattr(DarkRoom, "step_env", edited)
    found = collection.lineage.difference(before, behavior.of_family(family))
    assert found is not None
    assert found.sure
    if edited is ten_times:
        assert re.search(r"was 1, is 10$", found.told)


def test_rounding_is_no_edit_and_of_another_device_it_is_only_said():
    here = behavior.of_family(DarkRoom())
    there = json.loads(json.dumps(here))
    there["sums"]["observation"] = [x * (1 + 1e-6) for x in there["sums"]["observation"]]
    assert collection.lineage.difference(there, here) is None
    there["shown"]["observation"][0][5] += 1
    assert collection.lineage.difference(there, here).sure
    there["platform"] = "gpu"
    assert not collection.lineage.difference(there, here).sure
    assert collection.lineage.behaves_otherwise({"family": there}, {"family": here}, {}) is None
    assert collection.lineage.difference(there | {"format": 0}, here) is None, "not to be compared"


def test_an_edited_source_is_named(copied, monkeypatch):
    real = q_learning.QLearning.make

    def edited(config: q_learning.QLearning, family):
        return real(dataclasses.replace(config, learning_rate=config.learning_rate / 2), family)

    monkeypatch.setattr(q_learning.QLearning, "make", edited)
    with pytest.raises(OtherHistoriesError, match=r"source q_learning behaves differently"):
        Run(tiny(*LIKE), copied).collect()


def test_an_edited_model_is_named(copied, tmp_path, monkeypatch):
    from ad_jax.models import transformer

    real = transformer.Transformer.make

    def edited(config: transformer.Transformer, spec):
        return real(dataclasses.replace(config, activation="gelu"), spec)

    monkeypatch.setattr(transformer.Transformer, "make", edited)
    with pytest.raises(OtherCheckpointError, match=r"model transformer behaves differently"):
        Run(tiny(*LIKE), copied).evaluate()
    with pytest.raises(CheckpointError, match=r"model transformer behaves differently.*Train it anew there"):
        Run(tiny(*LIKE), tmp_path / "new", trained=copied).evaluate()


def test_histories_of_before_there_was_anything_to_compare_are_continued(trained):
    """To the same manifest: what they do not say is not added."""
    e = tiny(*LIKE)
    p = build(e)
    mine = collection.make_manifest(e, p, {"family": behavior.of_family(p.family), "source": None})
    old = store.open_store(trained[0] / "histories").manifest.to_json()
    del old["provenance"]["behavior"]
    assert collection.continued(mine, old, e, "there").to_json() == old
