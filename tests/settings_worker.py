"""Prints, as JSON, a hash of everything random that small pipelines make: the process of `test_settings.py`."""

import dataclasses
import hashlib
import json
import sys
from typing import Any

import chex
import jax
import numpy as np

from ad_jax import envs, models, sources
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.experiment import Experiment, TaskConfig, build
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.history.replay import load as load_replay
from ad_jax.methods import rl2
from ad_jax.methods.distillation import Distillation
from ad_jax.models import lstm
from ad_jax.policies.base import from_model
from ad_jax.process.settings import pinned
from ad_jax.sharding import MeshConfig, make_mesh
from ad_jax.sources.q_learning import QLearning
from ad_jax.stage import collect, evaluate
from ad_jax.stage.collect import Collector
from ad_jax.stage.feeds import TrainingTasks, Windows
from ad_jax.stage.rollout import make_evaluator
from ad_jax.stage.trainer import Trainer

ROOM: dict[str, Any] = {"size": 5, "steps": 4}
WORLDS = {  # every family with a source, every source with a family
    "bandit, ucb": ("bandit", {"arms": 4}, "ucb", {}, 20),
    "gaussian bandit, ucb": ("bandit", {"arms": 4, "tasks": "uniform", "reward": "gaussian"}, "ucb", {}, 20),
    "dark room, q learning": ("dark_room", ROOM, "q_learning", {}, 6),
    "random starts, noisy oracle": ("dark_room", ROOM | {"start": "random"}, "noisy_oracle", {"persistence": 3.0}, 6),
    "permuted, ppo": ("dark_room_permuted", {"size": 5, "steps": 4}, "ppo", {"actors": 2}, 40),
    "key to door, actor critic": ("dark_key_to_door", {"size": 5, "steps": 8}, "actor_critic", {"actors": 2}, 20),
    "point mass, ppo": ("point_mass", {"steps": 5}, "ppo", {"actors": 2}, 40),
    "random worlds, primal dual": (
        "random_mdp",
        {"states": 6, "steps": 5, "branching": 2, "slip": 0.1},
        "primal_dual",
        {"actors": 2},
        40,
    ),
    "watermaze, noisy oracle": ("watermaze", {"steps": 8}, "noisy_oracle", {}, 2),
    "gymnax, dqn": (
        "gymnax",
        {"env_id": "CartPole-v1", "steps": 10, "vary": {"gravity": [5.0, 15.0], "length": [0.2, 2.0, "signed"]}},
        "dqn",
        {"actors": 2},
        20,
    ),
}
MODELS = ("transformer", "paper", "dpt", "lstm")


def digest(tree: Any) -> str:
    """Of every leaf: dtype, shape and bytes."""
    hashed = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        x = np.asarray(leaf)
        hashed.update(f"{x.dtype}{x.shape}".encode() + x.tobytes())
    return hashed.hexdigest()[:12]


@pinned()
def lived(
    family: str, options: dict[str, Any], source: str, hyper: dict[str, Any], episodes: int, chunks: tuple = (1, 2)
) -> dict[str, str]:
    """Which tasks are held out, and two lifetimes of the source: one at a time, and together, with the same bits."""
    e = Experiment("x", envs.make(family, options), sources.make(source, hyper), tasks=TaskConfig(4, 3))
    p = build(e)
    ids = p.family.task_ids(p.split.train)
    lifetimes = []
    for chunk in chunks:
        collector = Collector(p.family, p.source, episodes, make_mesh(MeshConfig(1, 1, 1)), chunk)
        each = [collector.run(0, p.split.train, ids, 1, first) for first in range(0, 2, chunk)]
        lifetimes.append(jax.tree.map(lambda *xs: np.concatenate(xs)[:2], *each))
    for lifetime in lifetimes[1:]:
        chex.assert_trees_all_equal(lifetimes[0], lifetime)
    held_out = [p.family.task_ids(tasks) for tasks in p.split.held_out.values()]
    return {"tasks": str([ids, held_out]), "histories": digest(lifetimes[0])}


def split(family: str, options: dict[str, Any]) -> str:
    """Return the tasks that a user is given who asks a family himself, outside every stage."""
    made = envs.make(family, options)
    parts = made.split(3, 4, 3)
    return str([made.task_ids(parts.train), made.task_ids(next(iter(parts.held_out.values())))])


@pinned()
def learned(name: str) -> dict[str, str]:
    """Return a model after two updates, and what it does on a held-out task."""
    e = Experiment("x", DarkRoom(**ROOM), QLearning(), models.make(name, SIZES[name]))
    mesh = make_mesh(MeshConfig(1, 1, 1))
    replay = ReplayConfig(segment=8, batch=4, groups=1)
    e = dataclasses.replace(e, replay=replay, collect=collect.Config(2, 8, 8), tasks=TaskConfig(4, 3))
    p = build(e)
    ids = p.family.task_ids(p.split.train)
    lifetime = Collector(p.family, p.source, 8, mesh, 8).run(0, p.split.train, ids, 2, 0)
    histories = collect.as_histories(lifetime, p.split.train, ids, 2, 0, 8)
    config = Distillation(updates=2, warmup_updates=1)
    learner = config.make(p.setting(e, mesh)).learner
    trainer = Trainer(learner, Windows(p.spec, replay, mesh), config, mesh, 0)
    state, metrics = trainer.run(trainer.init(), load_replay(histories, p.spec, replay, mesh), 2)
    tasks = p.split.held_out["held_out"]
    runner = make_evaluator(from_model(p.model), p.family, mesh, 2, 4)
    curve = evaluate.evaluate(runner, state.params, tasks, p.family.task_ids(tasks), 1, 2, p.family, mesh, 0)
    return {"model": digest(state), "losses": digest(metrics["loss"]), "returns": digest(curve.returns)}


@pinned()
def reinforced() -> dict[str, str]:
    """Return an LSTM after an update of RL²."""
    family = envs.make("dark_room", ROOM)
    tasks = family.all_tasks()
    network = lstm.LSTM(width=8, hidden=8, mlp_width=8, value_head=True).actor_critic(build_spec(family))
    config = rl2.RL2(updates=2, trials=4, trial_episodes=4, unroll_episodes=2, random_steps=2, minibatches=2)
    mesh = make_mesh(MeshConfig(1, 1, 1))
    feed = TrainingTasks(tasks, mesh)
    trainer = Trainer(rl2.make(network, family, tasks, config, mesh), feed, config, mesh, 0)
    state, _ = trainer.run(trainer.init(), feed.tasks, 1)
    return {"model": digest(state)}


def build_spec(family: Any) -> Any:
    from ad_jax.envs.base import seen_spec_of

    return seen_spec_of(family)


SIZES: dict[str, dict[str, Any]] = {
    "transformer": {
        "layers": 1,
        "width": 8,
        "heads": 2,
        "mlp_width": 8,
        "window": 8,
        "dropout": 0.1,
        "token_mask": 0.1,
    },
    "paper": {"layers": 1, "width": 8, "heads": 2, "mlp_width": 8, "window": 8},
    "dpt": {"layers": 1, "width": 8, "heads": 2, "mlp_width": 8},
    "lstm": {"width": 8, "hidden": 8, "mlp_width": 8},
}

if __name__ == "__main__":
    for change in sys.argv[1:]:
        switch, _, value = change.partition("=")
        jax.config.update(switch, {"True": True, "False": False}.get(value, value))
    made = {name: lived(*world) for name, world in WORLDS.items()}
    made |= {"split": {name: split(*world[:2]) for name, world in WORLDS.items()}}
    made |= {name: learned(name) for name in MODELS} | {"rl2": reinforced()}
    print(json.dumps(made))
