"""Imported histories through the stages: public files to a report, and opaque tasks, which are only trained on."""

import json
import shutil
from typing import Any

import numpy as np
import pytest
from helpers import LITTLE
from history_helpers import refused
from public_layouts import ad_eps

from ad_jax import History, Run, load_experiment, override, write_histories
from ad_jax.__main__ import main
from ad_jax.errors import ConfigError
from ad_jax.experiment import build
from ad_jax.files import read_json
from ad_jax.formats.importing import import_histories
from ad_jax.history.opaque import Opaque
from ad_jax.types import Discrete, Spec

GOALS = [(r, c) for r in range(0, 9, 2) for c in range(0, 9, 2)]
SMALL = (*LITTLE, "method.updates=4", "method.checkpoint_every=2", "evaluate.seeds=1", "evaluate.episodes=2")
CHANGES = ("tasks.held_out=5", "replay.keep_every=1", *SMALL)


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """Return a collection of 25 goals of AD-epsilon."""
    place = tmp_path_factory.mktemp("public")
    ad_eps(place / "files", GOALS, episodes=6, greedy=2.0)
    import_histories("ad_eps", [place / "files"], place / "h", {})
    return place / "h"


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Return a collection of somebody's log, whose tasks are ids."""
    place = tmp_path_factory.mktemp("log")
    rng, done = np.random.default_rng(0), np.arange(1, 81) % 20 == 0
    shape = (8, 80)
    arrays = {"action": rng.integers(0, 5, shape), "reward": rng.normal(size=shape)}
    arrays |= {"observation": rng.integers(0, 9, (*shape, 2)), "done": np.broadcast_to(done, shape)}
    np.savez(place / "a.npz", **arrays)
    import_histories("npz", [place / "a.npz"], place / "h", {"num_actions": 5, "values": (9, 9)})
    return place / "h"


def test_public_histories_go_from_start_to_report_by_one_command(public, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["run", "dark_room", "--scale", "smoke", "--histories", str(public), "--dir", "run", *CHANGES]
    assert main(command) == 0, capsys.readouterr().err
    assert (tmp_path / "run/report/index.html").is_file()
    results = read_json(tmp_path / "run/results.json")
    told = json.dumps(results)
    assert "goal-0-0" not in told.partition('"sets"')[2]
    assert "25 in the imported histories are trained on, 5 others are held out" in capsys.readouterr().out
    assert main(command) == 0


def test_held_out_tasks_are_none_of_those_that_were_imported(public, tmp_path):
    run = Run(override(load_experiment("dark_room", "smoke"), CHANGES), tmp_path / "run", str(public))
    family, split = run.components.family, run.components.split
    assert sorted(family.task_ids(split.train)) == sorted(f"goal-{r}-{c}" for r, c in GOALS)
    held_out = family.task_ids(split.held_out["held_out"])
    assert len(held_out) == 5 and not {f"goal-{r}-{c}" for r, c in GOALS} & set(held_out)


def test_training_tasks_that_are_evaluated_too_are_those_that_were_imported(public, tmp_path):
    changes = (*CHANGES, "evaluate.trained=2", "method=decision_transformer")
    run = Run(override(load_experiment("dark_room", "smoke"), changes), tmp_path / "run", str(public))
    components: Any = run.components
    ids = components.family.task_ids(components.evaluated["trained"])
    assert len(ids) == 2 and set(ids) <= {f"goal-{r}-{c}" for r, c in GOALS}
    best = components.family.optimal_return(components.split.train)
    assert components.method.acting.target == pytest.approx(np.mean(best))  # what a method takes from training tasks


@pytest.mark.parametrize(
    ("change", "words"),
    [("env.size=10", ("'size': 9", "'size': 10")), ("env=dark_key_to_door", ("dark_room", "dark_key_to_door"))],
)
def test_a_collection_of_another_world_is_refused_before_anything_is_compiled(public, tmp_path, change, words):
    e = override(load_experiment("dark_room", "smoke"), [change, *CHANGES])
    refused(lambda: Run(e, tmp_path / "run", str(public)), "family", *words)
    assert not (tmp_path / "run/checkpoints").exists()


def test_every_task_imported_leaves_none_to_hold_out(tmp_path):
    ad_eps(tmp_path / "files", [(r, c) for r in range(9) for c in range(9)], episodes=2)
    import_histories("ad_eps", [tmp_path / "files"], tmp_path / "h", {})
    e = override(load_experiment("dark_room", "smoke"), CHANGES)
    with pytest.raises(ConfigError, match="all 81 tasks"):
        Run(e, tmp_path / "run", str(tmp_path / "h"))


def opaque(log, *changes):
    named = ("env=opaque", f"env.histories={log}", "replay.segment=20", "model.window=20")
    return override(load_experiment("dark_room", "smoke"), [*named, "replay.keep_every=1", *SMALL, *changes])


def test_opaque_tasks_are_trained_on_and_the_model_is_evaluated_in_a_world_of_their_spec(log, tmp_path, capsys):
    run = Run(opaque(log, "method.evaluate_every=2"), tmp_path / "run")
    run.distill()
    assert run.train_ids == [str(i) for i in range(8)]
    command = ["evaluate", "dark_room", "--scale", "smoke", "--trained", str(tmp_path / "run"), "replay.segment=20"]
    assert main([*command, "--dir", str(tmp_path / "there"), "model.window=20", *SMALL]) == 0, capsys.readouterr().err
    (held_out,) = read_json(tmp_path / "there/results.json")["runs"][0]["sets"]
    assert held_out["tasks"][0]["id"].startswith("goal-")


def test_who_would_evaluate_opaque_tasks_is_told_what_is_missing_at_once(log, tmp_path):
    run = Run(opaque(log), tmp_path / "run")
    for stage in (run.evaluate, run.all):
        with pytest.raises(ConfigError) as error:
            stage()
        told = str(error.value)
        assert "env=" in told and "--trained" in told and "Discrete(n=5)" in told and "distill" in told
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_place_without_histories_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="needs env"):
        build(override(load_experiment("dark_room", "smoke"), ["env=opaque"]))
    with pytest.raises(ConfigError, match="holds no learning histories"):
        build(override(load_experiment("dark_room", "smoke"), ["env=opaque", f"env.histories={tmp_path}"]))


def test_a_collection_that_is_made_again_in_its_place_is_read_again(tmp_path):
    """As in a notebook: the ids are those of what is there now."""
    spec = Spec(Discrete(2), (), (3,))

    def ids(*names):
        shutil.rmtree(tmp_path / "h", ignore_errors=True)
        one, end = np.zeros(8, np.int64), np.arange(1, 9) % 4 == 0
        given = [History(one, one + i, one, truncated=end, task_id=name) for i, name in enumerate(names)]
        write_histories(tmp_path / "h", given, spec)
        family = Opaque(str(tmp_path / "h"))
        return family.task_ids(family.split(0, 1, 1).train)

    assert ids("before") == ["before"]
    assert ids("after", "other") == ["after", "other"]
