"""Long runs: the memory of every stage and its open files stay as they are, however long it works.

What is compared is the resident memory after a twentieth of the work, when all is compiled and cached, and at the end;
and the most files that were open in the first tenth with the fewest in the last: writes under way have files open, now
one and now ten, and what leaks is open in every late look. The quick form is a hundredth of the length.
"""

import dataclasses
import gc
import os
import pathlib

import jax
import numpy as np
import pytest
from helpers import GRID, mesh_of, numbered_histories, trainer_of

from ad_jax import envs
from ad_jax.checkpoint import checkpoint
from ad_jax.envs.base import seen_spec_of
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.experiment import CollectConfig, Experiment, TaskConfig, build
from ad_jax.history import replay
from ad_jax.history.store import HistoryWriter, open_store
from ad_jax.methods import rl2
from ad_jax.methods.distillation import Distillation
from ad_jax.models import lstm
from ad_jax.models.transformer import Transformer
from ad_jax.policies.base import from_model
from ad_jax.process import metrics
from ad_jax.run import curves
from ad_jax.run.collection import make_manifest
from ad_jax.run.origins import Origins
from ad_jax.sources.q_learning import QLearning
from ad_jax.stage import evaluate
from ad_jax.stage.collect import Collector, Config, collect
from ad_jax.stage.episodes import tasks_as_data
from ad_jax.stage.feeds import TrainingTasks
from ad_jax.stage.train import train
from ad_jax.stage.trainer import Trainer

pytestmark = pytest.mark.slow
SIZES = [pytest.param(0.01, id="quick"), pytest.param(1.0, id="whole")]
MIB = 1 << 20
SLACK = 24 * MIB  # what allocators keep back; a leak of 300 bytes an update would be more, over 100,000


class Watch:
    """Resident memory and open files, each time that it is called."""

    def __init__(self):
        gc.collect()  # what earlier tests left open is not to close during this one
        self.memory, self.files = [], []

    def __call__(self, *_) -> float:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        self.memory.append(pages * os.sysconf("SC_PAGE_SIZE"))
        self.files.append(len(os.listdir("/proc/self/fd")))
        return 0.0

    def check(self, what: str) -> None:
        early = max(1, len(self.memory) // 20)
        grown = self.memory[-1] - self.memory[early]
        tenth = max(1, len(self.files) // 10)
        most, fewest = max(self.files[:tenth]), min(self.files[-tenth:])
        print(f"\n{what}: {grown / MIB:+.1f} MiB, open files at most {most} at first, at least {fewest} at last")
        assert grown < SLACK
        assert fewest <= most + 2


@pytest.mark.parametrize("size", SIZES)
def test_over_100000_updates(size, tmp_path):
    updates, watch = int(100_000 * size), Watch()
    model = Transformer(layers=1, width=8, heads=1, mlp_width=8, window=6).make(GRID)
    sampling = replay.Config(segment=8, batch=8, groups=8)
    config = Distillation(updates=updates, checkpoint_every=updates // 100, evaluate_every=updates // 50)
    trainer = trainer_of(model, GRID, config, sampling, mesh_of(), seed=1)
    resident = replay.load(numbered_histories(16, 24), GRID, sampling, mesh_of())
    meta = {"architecture": checkpoint.architecture_of(trainer.abstract_state.params)}
    log = metrics.MetricsLog(tmp_path, metrics.Config())
    result = train(trainer, resident, config, tmp_path / "checkpoints", meta, log, watch)
    assert result.step == updates
    assert len(watch.memory) == 50
    watch.check(f"{updates} updates, 100 checkpoints")


@pytest.mark.parametrize("size", SIZES)
def test_over_10000_chunks(size, tmp_path, monkeypatch):
    chunks, watch = int(10_000 * size), Watch()
    e = Experiment(
        "long",
        DarkRoom(size=3, steps=4),
        QLearning(),
        tasks=TaskConfig(train=5, held_out=2),
        collect=CollectConfig(seeds=chunks // 5, episodes=3, chunk_learners=1),
        replay=replay.Config(segment=8),
    )
    p = build(e)
    collector = Collector(p.family, p.source, e.collect.episodes, mesh_of(), 1)
    write = HistoryWriter.write

    def watched(self, chunk, *arguments):
        write(self, chunk, *arguments)
        if chunk % (chunks // 50) == 0:
            watch()

    monkeypatch.setattr(HistoryWriter, "write", watched)
    ids = p.family.task_ids(p.split.train)
    config = Config(seeds=e.collect.seeds, episodes=e.collect.episodes, chunk_learners=1)
    log = metrics.MetricsLog(tmp_path, metrics.Config())
    url = str(tmp_path / "histories")
    collect(
        collector, p.split.train, ids, config, 0, url, make_manifest(dataclasses.replace(e, collect=config), p, {}), log
    )
    assert len(open_store(url).chunks) == chunks
    assert len(watch.memory) == 50
    watch.check(f"{chunks} chunks")


@pytest.mark.parametrize("size", SIZES)
def test_over_100000_episodes_in_context(size, tmp_path, monkeypatch):
    episodes, watch, done = int(100_000 * size), Watch(), []
    e = Experiment(
        "long",
        DarkRoom(size=3, steps=4),
        QLearning(),
        Transformer(layers=1, width=8, heads=1, mlp_width=8, window=6),
        tasks=TaskConfig(train=5, held_out=2),
        evaluate=evaluate.Config(episodes=episodes, seeds=1, episodes_per_dispatch=10),
    )
    p, mesh = build(e), mesh_of()
    show = curves._show

    def shown(bar, *facts):
        done.append(show(bar, *facts))
        if len(done) % (episodes // 500) == 0:
            watch()

    monkeypatch.setattr(curves, "_show", shown)
    work = curves.Curves(e, p, mesh, tmp_path, metrics.MetricsLog(tmp_path, metrics.Config()), Origins(e, p))
    params = p.model.init(jax.random.key(0))
    (tasks,) = p.split.held_out.values()
    data = {"name": "held_out", "tasks": tasks_as_data(p.family, tasks)}
    part, _ = work.part(
        "held_out",
        {"checkpoint": {"step": 0}},
        lambda: work.in_context(data, tasks, from_model(p.model), params, "sampled"),
    )
    assert np.shape(part["returns"]) == (2, 1, episodes)
    assert len(watch.memory) == 50
    watch.check(f"{episodes} episodes in {len(done)} dispatches")


@pytest.mark.parametrize("size", SIZES)
def test_over_10000_updates_of_rl2(size, tmp_path, monkeypatch):
    updates, watch = int(10_000 * size), Watch()
    room = envs.make("dark_room", {"size": 3, "steps": 4})
    model = lstm.LSTM(width=8, hidden=12, mlp_width=8, value_head=True)
    config = rl2.RL2(
        trial_episodes=2, trials=4, updates=updates, epochs=1, updates_per_dispatch=1, checkpoint_every=updates // 25
    )
    network = model.actor_critic(seen_spec_of(room))
    tasks = room.split(0, 5, 2).train
    feed = TrainingTasks(tasks, mesh_of())
    trainer = Trainer(rl2.make(network, room, tasks, config, mesh_of()), feed, config, mesh_of(), seed=1)
    write = metrics.MetricsLog.write

    def watched(self, stage, step, facts):
        write(self, stage, step, facts)
        if step % (updates // 50) == 0:
            watch()

    monkeypatch.setattr(metrics.MetricsLog, "write", watched)
    meta = {"architecture": checkpoint.architecture_of(trainer.abstract_state.params)}
    log = metrics.MetricsLog(tmp_path, metrics.Config())
    assert train(trainer, feed, config, tmp_path / "checkpoints", meta, log).step == updates
    assert len(watch.memory) == 50
    watch.check(f"{updates} updates of RL², 25 checkpoints")
