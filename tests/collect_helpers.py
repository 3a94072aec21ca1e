"""A tiny collection of Dark Room and its parts, for tests of what is collected."""

import dataclasses

from ad_jax.envs.dark_room import DarkRoom
from ad_jax.experiment import CollectConfig, Experiment, ReplayConfig, TaskConfig, build
from ad_jax.history.store import open_store
from ad_jax.process.metrics import MetricsLog
from ad_jax.run.collection import make_manifest
from ad_jax.sources.q_learning import QLearning
from ad_jax.stage.collect import Collector, Config, collect

SEEDS, SEED = 2, 5
PLAIN = Experiment(
    "plain",
    DarkRoom(size=3, steps=4),
    QLearning(exploration_episodes=3.0),
    seed=SEED,
    tasks=TaskConfig(train=5, held_out=2),
    collect=CollectConfig(seeds=SEEDS, episodes=6, chunk_learners=4),
    replay=ReplayConfig(segment=8),
)
PARTS = build(PLAIN)
TASKS, IDS = PARTS.split.train, PARTS.family.task_ids(PARTS.split.train)
ACTORS = {"actors": 3, "unroll": 3, "hidden": (4,)}  # an unroll that does not divide the episode


def collector_of(mesh, chunk, source=PARTS.source, episodes=6, **options) -> Collector:
    return Collector(PARTS.family, source, episodes, mesh, chunk, **options)


def run(folder, collector, seeds=SEEDS):
    """Collect into `folder/h` and read it back."""
    folder.mkdir(exist_ok=True)
    asked = {"seeds": seeds, "chunk_learners": collector.chunk, "next_observation": collector.next_observation}
    e = dataclasses.replace(PLAIN, collect=dataclasses.replace(PLAIN.collect, **asked))
    manifest = make_manifest(e, dataclasses.replace(PARTS, source=collector.source), {})
    log = MetricsLog(folder, PLAIN.logging)
    result = collect(collector, TASKS, IDS, Config(seeds=seeds), SEED, str(folder / "h"), manifest, log)
    return result, open_store(folder / "h").read()
