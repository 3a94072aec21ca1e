"""The stages of an experiment without a disk: histories, parameters and rollouts as values, for scripts and notebooks.

    e = load_experiment("dark_room", "demo")
    histories = in_memory.collect(e)
    learned = in_memory.train(e, histories)
    curve = in_memory.evaluate(e, learned)      # curve.returns [N, S, E], on held-out tasks

The numbers are those of a run directory, to the bit. What is not there is what a disk is for: checkpoints to go on
from, a log, results to report.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.errors import AdJaxError, TrainingDivergedError, unknown
from ad_jax.experiment import Components, Experiment, build, name_of
from ad_jax.history import replay, reward_unit
from ad_jax.methods.base import checked
from ad_jax.policies import demonstrator
from ad_jax.policies.base import Mode, Policy
from ad_jax.policies.demonstrator import Prompt
from ad_jax.process import settings
from ad_jax.run import frozen
from ad_jax.sharding import make_mesh, rows_mesh
from ad_jax.stage import collect as collecting
from ad_jax.stage import evaluate as evaluating
from ad_jax.stage import rollout
from ad_jax.stage.episodes import Curve, after_prompt
from ad_jax.stage.feeds import feed_of
from ad_jax.stage.train import fetched, not_finite
from ad_jax.stage.trainer import Trainer
from ad_jax.types import Histories, PyTree

Show = Callable[[int, dict[str, float]], None]


class Learned(NamedTuple):
    """What training gives.

    Attributes:
        params: of the model, on the devices.
        policy: `(mode, temperature) -> Policy` that acts with them.
    """

    params: PyTree
    policy: Callable[[Mode, float], Policy]


@settings.pinned()
def collect(experiment: Experiment, held_out: str = "") -> Histories:
    """Run the source on the training tasks; every step of every lifetime, `[H, T, ...]` in host memory.

    Windows may be longer than what is collected: histories are also made to look at, or to be joined.

    Args:
        experiment: gives source, tasks and how much is collected.
        held_out: the name of one of the split's sets, where the source is to learn those tasks in their place: what
            `evaluate` is compared with, and nothing to train on.

    Raises:
        ConfigError: if the experiment contradicts itself, or for an unknown set (near matches are listed).
        AdJaxError: if an observation, action or reward is not finite or not what the family states.
    """
    e, p = experiment, build(experiment, trains=False)
    tasks = _set(p, held_out) if held_out else p.split.train
    ids, seeds = p.family.task_ids(tasks), e.collect.seeds
    collector = collecting.Collector.of(p.family, p.source, e.collect, rows_mesh(e.mesh))
    total, chunks = len(ids) * seeds, []
    for first in range(0, total, collector.chunk):
        lived, count = collector.run(e.seed, tasks, ids, seeds, first), min(collector.chunk, total - first)
        if where := collecting.beyond(collector, lived, ids, seeds, first, count):
            raise AdJaxError(where)
        chunks.append(collecting.as_histories(lived, tasks, ids, seeds, first, count))
    return join(*chunks)


def join(*histories: Histories) -> Histories:
    """Return histories one after another, `[H, T, ...]`: to train on those of several sources of one family.

    Raises:
        AdJaxError: where their lengths differ, or only some of them hold something (`collect.next_observation`).
    """

    def together(*each):
        return np.concatenate(each)

    said = [str(jax.tree.map(lambda x: (x.dtype.name, x.shape[1:]), h.transition)) for h in histories]
    if len(set(said)) > 1:
        raise AdJaxError(f"join expects histories of one length that hold the same; got {' and '.join(set(said))}")
    return Histories(
        jax.tree.map(together, *(h.transition for h in histories)),
        jax.tree.map(together, *(h.tasks for h in histories)),
        [name for h in histories for name in h.task_ids],
        together(*(h.seed_index for h in histories)),
        together(*(h.actor for h in histories)),
    )


@settings.pinned()
def train(
    experiment: Experiment, histories: Histories | None = None, show: Show = lambda step, metrics: None
) -> Learned:
    """Train the experiment's method to its last update.

    Args:
        experiment: what is trained, and how.
        histories: to learn from; None where the method is fed tasks.
        show: called after each dispatch with the updates done and the mean of each metric.

    Raises:
        ConfigError: if the experiment contradicts itself, its model has nothing to train, or histories are missing.
        TrainingDivergedError: if a loss or a gradient is not finite.
    """
    e, p = experiment, build(experiment)
    config = p.method
    if not p.trained:
        raise AdJaxError(f"model {name_of(e.model)} is not trained. Roll it out with Run(experiment).evaluate()")
    if config.feed == "histories" and histories is None:
        raise AdJaxError(f"method {type(config).__name__} learns from histories; give it those of collect(experiment)")
    mesh = make_mesh(e.mesh)
    teacher = frozen.teacher(config)
    unit = _unit(e, p, histories) if teacher is None else teacher.unit
    setting = p.setting(e, mesh, unit, teacher)
    method = config.make(setting)
    feed = feed_of(config, setting)
    resident: PyTree = feed.tasks
    if config.feed == "histories" and histories is not None:
        prepare = checked(method, config.channels(p.family, p.spec), config.needs)
        resident = replay.load(histories, p.spec, e.replay, mesh, prepare)
    trainer = Trainer(method.learner, feed, config, mesh, e.seed)
    state, run = trainer.init(), trainer.compiled(resident)
    for step in range(0, config.updates, config.updates_per_dispatch):
        count = min(config.updates_per_dispatch, config.updates - step)
        state, metrics = run(state, resident, jnp.int32(count))
        found = fetched(method.learner, metrics, count, step)
        if bad := not_finite(found["loss"], found["grad_norm"], step):
            raise TrainingDivergedError(f"{bad.told}; lower method.learning_rate or method.clip_norm")
        show(step + count, {name: float(x.mean()) for name, x in found.items()})
    return Learned(method.learner.params(state), functools.partial(config.policy, setting.model))


@settings.pinned()
def evaluate(experiment: Experiment, learned: Learned, mode: Mode = "sampled", held_out: str = "") -> Curve:
    """Roll the frozen policy out on held-out tasks, from an empty context or the experiment's prompt.

    Args:
        experiment: gives the held-out tasks, the options of evaluation, the mesh and the seed.
        learned: what `train` returned.
        mode: whether actions are sampled, or those that the head takes where none are.
        held_out: the name of one of the split's sets, or "trained" with `evaluate.trained`; default the first.

    Returns:
        Returns and steps of every episode, `[N, S, E]`: N tasks, S rollouts of each, E episodes.

    Raises:
        AdJaxError: for an unknown set (near matches are listed), or if an observation, action, reward or logit is not
            finite or not what the family states.
    """
    e, p = experiment, build(experiment)
    c, family, mesh = e.evaluate, p.family, rows_mesh(e.mesh)
    tasks, prompt = _set(p, held_out or next(iter(p.evaluated))), None
    if c.prompt is not None:
        prompt = Prompt(demonstrator.noise_for(family, tasks, c.prompt, e.seed), c.prompt_episodes)
    played = c.episodes + (prompt.episodes if prompt else 0)
    at_once = min(played, c.episodes_per_dispatch) * family.episode_length
    evaluator = rollout.make_evaluator(
        learned.policy(mode, c.temperature or 1.0), family, mesh, played, at_once, prompt
    )
    ids = family.task_ids(tasks)
    curve = evaluating.evaluate(evaluator, learned.params, tasks, ids, c.seeds, played, family, mesh, e.seed)
    return after_prompt(curve, prompt)[0] if prompt else curve


def _unit(e: Experiment, p: Components, histories: Histories | None) -> float:
    """Return what rewards are divided by: as asked for, or the size of those that are learned from."""
    asked = p.method.reward_unit_asked(e.replay)
    if asked is not None:
        return float(asked)
    if histories is None:
        return p.method.reward_unit_found(p.family, p.split.train, e.seed)
    return reward_unit.pool([reward_unit.of_chunk(histories.transition.reward)])


def _set(p: Components, name: str) -> PyTree:
    """Return the tasks of an evaluated set; raises ConfigError for an unknown one."""
    if name not in p.evaluated:
        raise unknown("held-out set", name, p.evaluated)
    return p.evaluated[name]
