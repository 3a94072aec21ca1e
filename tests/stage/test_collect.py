"""Collecting: chunks, devices and interruptions do not change a history, and vmapped learners are a plain loop."""

import json
from types import SimpleNamespace
from typing import Any

import chex
import jax
import numpy as np
import pytest
from collect_helpers import ACTORS, IDS, PARTS, SEED, SEEDS, TASKS, collector_of, run
from helpers import mesh_of

from ad_jax import sources
from ad_jax.envs.base import take
from ad_jax.errors import ConfigError
from ad_jax.history import lifetimes
from ad_jax.history.store import HistoryWriter
from ad_jax.keys import a_key, named_key
from ad_jax.stage import blocks as learner_blocks
from ad_jax.stage.collect import Collector, Config, as_histories, learning_curve
from ad_jax.types import Transition


def assert_equal(one, other):
    """Check that the histories are the same, whatever wrote them."""

    def data(h):
        return (h.transition, h.tasks, h.seed_index, h.actor)

    chex.assert_trees_all_equal(data(one), data(other))
    assert one.task_ids == other.task_ids


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """Chunks of 4 on one device: the last of three is smaller."""
    return run(tmp_path_factory.mktemp("collect"), collector_of(mesh_of(), 4))


@pytest.fixture(scope="module")
def actor_critic():
    return sources.make("actor_critic", ACTORS).make(PARTS.family)


@pytest.fixture(scope="module")
def collected_by_actors(actor_critic, tmp_path_factory):
    """Learners with three actors each, on two devices."""
    collector = collector_of(mesh_of(2), 4, actor_critic)
    return collector, run(tmp_path_factory.mktemp("actors"), collector)[1]


@pytest.mark.parametrize(("devices", "chunk"), [(1, 3), (1, 64), (8, 3)])
def test_chunks_and_devices_do_not_change_a_history(collected, tmp_path, devices, chunk):
    collector = collector_of(mesh_of(devices), chunk)
    assert (collector.chunk, collector.padded) == (chunk, -(-chunk // devices) * devices)
    assert_equal(run(tmp_path, collector)[1], collected[1])


def state_bytes():
    """Bytes of one learner of `PARTS`."""
    state = jax.eval_shape(PARTS.source.init, a_key(0), PARTS.family.default_params)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


@pytest.mark.parametrize(("devices", "least", "blocks"), [(1, 3, 3), (2, 2, 2)])
def test_blocks_of_learners_that_fit_in_the_cache_do_not_change_a_history(
    collected, tmp_path, monkeypatch, devices, least, blocks
):
    """Ten learners a chunk, which the blocks do not divide: two more pad it."""
    monkeypatch.setattr(learner_blocks, "LEAST", least)
    monkeypatch.setattr(learner_blocks, "CACHE", least * state_bytes())
    monkeypatch.setattr(learner_blocks, "SHARED", 1)
    collector = collector_of(mesh_of(devices), 10)
    assert (collector.blocks, collector.padded) == (blocks, 12)
    assert_equal(run(tmp_path, collector)[1], collected[1])


def test_learners_are_split_by_the_size_of_their_state_and_on_a_cpu_alone(monkeypatch):
    def blocks(learners, mesh=None):
        return learner_blocks.blocks_of(PARTS.source, PARTS.family, learners, mesh or mesh_of())

    fit, shared = learner_blocks.CACHE // state_bytes(), learner_blocks.SHARED // state_bytes()
    assert fit > learner_blocks.LEAST
    assert [blocks(n) for n in (1, fit, 2 * fit, shared)] == [1, 1, 1, 1]
    assert [blocks(n) for n in (shared + 1, 65 * fit)] == [(shared + 1) // fit, 65]
    monkeypatch.setattr(learner_blocks, "LEAST", fit + 1)
    assert blocks(65 * fit) == 1
    monkeypatch.undo()
    gpu = SimpleNamespace(devices=np.array([SimpleNamespace(platform="gpu")]))
    assert blocks(65 * fit, gpu) == 1


@pytest.mark.parametrize(
    "reached",
    [pytest.param(False, id="plain"), pytest.param(True, id="with next observations", marks=pytest.mark.slow)],
)
def test_a_collection_goes_on_with_another_number_of_devices_to_the_same_bytes(tmp_path, monkeypatch, reached):
    def collector(devices):
        return collector_of(mesh_of(devices), 3, next_observation=reached)

    def files(folder):
        return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    run(tmp_path / "one", collector(1))
    write, written = HistoryWriter.write, []

    def some(self, chunk, *arguments):
        if written:
            raise KeyboardInterrupt
        written.append(chunk)
        write(self, chunk, *arguments)
        self.flush()

    monkeypatch.setattr(HistoryWriter, "write", some)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "two", collector(8))
    monkeypatch.undo()
    _, found = run(tmp_path / "two", collector(2))
    assert (found.transition.next_observation is not None) == reached
    assert files(tmp_path / "two" / "h") == files(tmp_path / "one" / "h")


def test_a_history_is_what_a_plain_loop_over_the_source_gives(collected):
    """Learner 7 is seed index 1 of task 3."""
    task, index = 3, 1
    one, source = take(TASKS, task), PARTS.source
    key = named_key(SEED, "collect", IDS[task], index)
    state = source.init(jax.random.fold_in(key, 2**31), one)
    update, parts = jax.jit(source.update), []
    for number in range(6):
        state, transition = update(jax.random.fold_in(key, number), state, one)
        parts.append(jax.device_get(transition.replace(next_observation=None, preferences=None)))
    loop = jax.tree.map(lambda *x: np.concatenate(x)[:, 0], *parts)
    row = task * SEEDS + index
    found = jax.tree.map(lambda x: x[row], collected[1].transition)
    chex.assert_trees_all_equal(found, loop)
    assert (collected[1].task_ids[row], collected[1].seed_index[row]) == (IDS[task], index)
    assert found.action.std() > 0


def test_learners_of_one_task_differ_and_so_do_experiments_seeds(collected):
    action = collected[1].transition.action
    assert len({row.tobytes() for row in action}) == len(action) == len(IDS) * SEEDS
    other = collector_of(mesh_of(), 10).run(SEED + 1, TASKS, IDS, SEEDS, 0)
    assert np.any(np.asarray(other.transition.action)[:, 0] != action)


def test_histories_come_out_in_the_narrowest_dtypes_with_their_tasks(collected):
    h = collected[1]
    dtypes = [x.dtype.name for x in jax.tree.leaves(h.transition)]
    assert dtypes == ["uint8", "uint8", PARTS.family.reward_dtype.name, "bool", "bool"]
    assert h.transition.observation.shape == (10, 24, 2)
    np.testing.assert_array_equal(h.tasks["goal"], np.repeat(np.asarray(TASKS.goal), SEEDS, axis=0))
    assert h.seed_index.tolist() == [0, 1] * 5
    assert h.actor.tolist() == [0] * 10
    assert h.transition.truncated[:, 3::4].all()
    assert h.transition.truncated.sum() == 10 * 6


def test_actors_of_a_learner_are_neighboring_rows(collected_by_actors):
    collector, h = collected_by_actors
    assert collector.steps == 24, "six episodes of four steps, in unrolls of three"
    assert h.actor.tolist() == [0, 1, 2] * 10
    assert h.seed_index.tolist() == [0, 0, 0, 1, 1, 1] * 5
    assert h.task_ids == [name for name in IDS for _ in range(SEEDS * 3)]
    lifetime = collector.run(SEED, TASKS, IDS, SEEDS, 4)
    for learner, actor in ((4, 0), (5, 2), (7, 1)):
        np.testing.assert_array_equal(
            h.transition.action[learner * 3 + actor], lifetime.transition.action[learner - 4, actor]
        )
    assert len({row.tobytes() for row in h.transition.action}) > 20, "actors act differently"


def test_as_histories_drops_the_padding_of_the_last_chunk():
    lifetime = collector_of(mesh_of(), 4).run(SEED, TASKS, IDS, SEEDS, 8)
    h = as_histories(lifetime, TASKS, IDS, SEEDS, first=8, count=2)
    assert h.task_ids == [IDS[4], IDS[4]]
    assert len(h.transition.action) == len(h.tasks["goal"]) == 2


def test_interrupted_collection_resumes_with_the_missing_chunks_only(collected, tmp_path, monkeypatch):
    collector, written, original = collector_of(mesh_of(), 4), [], HistoryWriter.write

    def write(writer, chunk, *rest):
        if chunk == 2:
            raise KeyboardInterrupt  # chunk 1 is on its way and logged, but not in the ledger
        written.append(chunk)
        original(writer, chunk, *rest)
        if chunk == 0:
            writer.flush()

    monkeypatch.setattr(HistoryWriter, "write", write)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, collector)
    assert written == [0, 1]
    monkeypatch.setattr(HistoryWriter, "write", lambda w, c, *rest: (written.append(c), original(w, c, *rest))[1])
    result, histories = run(tmp_path, collector)
    assert written == [0, 1, 1, 2]
    assert result.env_steps == 6 * 24, "of the six learners that were missing"
    assert_equal(histories, collected[1])
    chunks = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert chunks == [0, 1, 2]


def test_a_finished_collection_computes_nothing(tmp_path, monkeypatch, capsys):
    collector = collector_of(mesh_of(), 4)
    _, first = run(tmp_path, collector)
    monkeypatch.setattr(Collector, "run", None)
    monkeypatch.setattr(Collector, "compile", None)
    result, again = run(tmp_path, collector)
    assert result.env_steps == 0
    assert "10 of 10 learners are on disk already" in capsys.readouterr().out
    assert_equal(first, again)


def test_learners_are_compiled_once_for_all_chunks():
    collector = collector_of(mesh_of(), 4)
    for first in (0, 4, 8):
        collector.run(SEED, TASKS, IDS, SEEDS, first)
    assert collector.jitted._cache_size() == 1  # pyright: ignore[reportAttributeAccessIssue]


def test_the_learning_curve_is_the_returns_of_the_same_histories(collected):
    found = learning_curve(collector_of(mesh_of(2), 3), TASKS, IDS, SEEDS, SEED)
    same_episodes(found, episodes_of(collected[1].transition))
    assert np.shape(found.returns) == (10, 6)
    assert found.returns[0].dtype == np.float32
    assert np.max(found.returns) > 0


def test_the_learning_curve_is_the_mean_over_actors(collected_by_actors):
    collector, h = collected_by_actors
    shown = []
    found = learning_curve(collector, TASKS, IDS, SEEDS, SEED, lambda done, curve: shown.append((done, curve)))
    same_episodes(found, episodes_of(h.transition))
    np.testing.assert_allclose(
        np.concatenate([curve for _, curve in shown]), np.reshape(found.returns, (10, 3, 6)).mean(1), rtol=1e-6
    )
    assert shown[-1][0] == 10


def episodes_of(t: Transition) -> lifetimes.Episodes:
    return lifetimes.episodes_of(t.reward, t.done)


def same_episodes(one: lifetimes.Episodes, other: lifetimes.Episodes) -> None:
    assert one.lifetime == other.lifetime
    for found, expected in ((one.returns, other.returns), (one.steps, other.steps)):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_configs_that_cannot_be_meant_are_refused():
    changes: Any = {"seeds": 0}, {"episodes": -1}, {"chunk_learners": 0}
    for change in changes:
        with pytest.raises(ConfigError, match=f"collect.{next(iter(change))} must be at least 1; got"):
            Config(**change).validate()
