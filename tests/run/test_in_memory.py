"""Without a disk, the same stages give the same bits; and the smallest whole example runs."""

import dataclasses
import importlib.util
import json
import pathlib
import types
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from helpers import LITTLE, mesh_of

from ad_jax import Agent, open_store
from ad_jax.envs import leaves
from ad_jax.errors import AdJaxError, ConfigError
from ad_jax.experiment import Experiment, build, load, override
from ad_jax.files import read_json
from ad_jax.run import in_memory
from ad_jax.run.pipeline import Run
from ad_jax.stage.collect import Collector, learning_curve

SMALL = (*LITTLE, "mesh.data=8", "tasks.used=8", "collect.chunk_learners=6", "evaluate.temperature=0.5")
EXPERIMENT = override(load("dark_room", "smoke"), SMALL)


@struct.dataclass
class Cell:
    """Parameters of three kinds."""

    goal: jax.Array
    limit: jax.Array
    open: jax.Array


def flat(returns):
    """Every number of nested lists."""
    return [x for inner in returns for x in flat(inner)] if isinstance(returns, list) else [returns]


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory) -> pathlib.Path:
    run = Run(EXPERIMENT, tmp_path_factory.mktemp("run") / "one")
    run.collect()
    run.distill()
    run.evaluate()
    return run.folder


@pytest.fixture(scope="module")
def histories():
    return in_memory.collect(EXPERIMENT)


@pytest.fixture(scope="module")
def learned(histories):
    shown = []
    learned = in_memory.train(EXPERIMENT, histories, lambda step, metrics: shown.append((step, metrics["loss"])))
    assert [step for step, _ in shown] == [2, 4, 6, 8]
    assert np.isfinite([loss for _, loss in shown]).all()
    return learned


def test_histories_are_those_of_a_run_directory(on_disk, histories):
    saved = open_store(on_disk / "histories").read()
    assert saved.task_ids == histories.task_ids
    mine, there = ((h.transition, h.tasks, h.seed_index, h.actor) for h in (histories, saved))
    chex.assert_trees_all_equal(mine, there)
    chex.assert_trees_all_equal_dtypes(mine, there)


def test_windows_that_only_training_draws_are_none_of_collectings_business():
    """Histories are also made to be looked at."""
    long = override(EXPERIMENT, ["replay.segment=100000", "collect.episodes=2", "collect.seeds=1", "tasks.used=1"])
    found = in_memory.collect(long)
    assert found.transition.reward.shape[0] == 1
    with pytest.raises(ConfigError, match=r"replay\.segment=100000 .* longer than a history"):
        in_memory.train(long, found)


def test_parameters_are_those_of_a_run_directory(on_disk, learned):
    chex.assert_trees_all_equal(learned.params, Agent.load(on_disk).params)


def test_returns_are_those_of_a_run_directory(on_disk, learned):
    (one,) = read_json(on_disk / "results.json")["runs"][0]["sets"]
    curve = in_memory.evaluate(EXPERIMENT, learned)
    np.testing.assert_array_equal(curve.returns, np.array(one["returns"]["sampled"], np.float32))
    assert curve.returns.shape == (16, 2, 4)


def test_what_cannot_be_is_refused_before_anything_is_compiled(learned):
    with pytest.raises(AdJaxError, match="learns from histories; give it those of collect"):
        in_memory.train(EXPERIMENT)
    with pytest.raises(ConfigError, match="unknown held-out set 'held_ot'"):
        in_memory.evaluate(EXPERIMENT, learned, held_out="held_ot")
    with pytest.raises(ConfigError, match="unknown held-out set 'held_ot'"):
        in_memory.collect(EXPERIMENT, held_out="held_ot")


def test_histories_of_several_sources_are_joined(histories):
    both = in_memory.join(histories, histories)
    assert both.task_ids == 2 * histories.task_ids
    chex.assert_trees_all_equal(
        jax.tree.map(lambda x: x[len(histories.actor) :], both.transition), histories.transition
    )
    shorter = jax.tree.map(lambda x: x[:, 1:], histories.transition)
    with pytest.raises(AdJaxError, match="join expects histories of one length"):
        in_memory.join(histories, dataclasses.replace(histories, transition=shorter))


def test_training_tasks_are_evaluated_where_asked_for(learned):
    known = override(EXPERIMENT, ["evaluate.trained=2"])
    assert len(in_memory.evaluate(known, learned, held_out="trained").returns) == 2


def test_the_smallest_example_runs(monkeypatch, capsys):
    path = pathlib.Path(__file__).parents[2] / "examples" / "minimal.py"
    assert len(path.read_text().splitlines()) <= 120
    spec = importlib.util.spec_from_file_location("minimal", path)
    assert spec is not None and spec.loader is not None
    minimal = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(minimal)
    for name, value in {
        "LEARNERS": 1,
        "LIFETIME": 16,
        "EPISODES": 20,
        "UPDATES": 100,
        "BATCH": 8,
        "WINDOW": 20,
        "STRIDE": 2,
        "PHASES": 1,
        "LAYERS": 1,
    }.items():
        monkeypatch.setattr(minimal, name, value)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        returns = minimal.main()
    assert returns.shape == (20,)
    assert "in-context episode  20" in capsys.readouterr().out


def test_a_result_says_enough_to_simulate_its_tasks_again(on_disk, tmp_path):
    """From `results.json` alone: the same tasks, and the source learning on them as it did."""
    made = override(EXPERIMENT, ["evaluate.source_seeds=2", "model=random"])
    Run(made, tmp_path / "run").evaluate()
    (run,) = read_json(tmp_path / "run/results.json")["runs"]
    (one,), said = run["sets"], Experiment.from_json(run["config"])
    family = said.env
    tasks = leaves.from_data(family, [task["params"] for task in one["tasks"]])
    chex.assert_trees_all_equal(tasks, next(iter(build(made).split.held_out.values())))
    assert family.task_ids(tasks) == [task["id"] for task in one["tasks"]]
    source = said.source.make(family)
    c, ids = said.evaluate, [task["id"] for task in one["tasks"]]
    collector = Collector(family, source, said.collect.episodes, mesh_of(), len(ids) * c.source_seeds)
    again = learning_curve(collector, tasks, ids, c.source_seeds, said.seed)
    assert np.concatenate(again.returns).sum() == pytest.approx(np.sum(flat(one["source"]["returns"])), abs=1e-3)
    lived = in_memory.collect(override(made, ["collect.seeds=2"]), held_out="held_out")
    assert lived.task_ids == [name for name in ids for _ in range(2)]
    np.testing.assert_array_equal(lived.transition.reward.sum(-1), [returns.sum() for returns in again.returns])


def test_parameters_that_json_has_no_number_for_come_back():
    tasks = Cell(
        jnp.array([[1, 2], [3, 4]], jnp.int32), jnp.array([np.inf, 0.1], jnp.float32), jnp.array([True, False])
    )
    family: Any = types.SimpleNamespace(name="cell", default_params=jax.tree.map(lambda x: x[0], tasks))
    data = json.loads(json.dumps(leaves.as_data(tasks), allow_nan=False))
    again = leaves.from_data(family, data)
    chex.assert_trees_all_equal(again, tasks)
    chex.assert_trees_all_equal_dtypes(again, tasks)
    with pytest.raises(ConfigError, match="have the leaves"):
        leaves.from_data(family, [{"goal": [1, 2]}])
