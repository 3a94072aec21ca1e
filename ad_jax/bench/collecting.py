"""Environment steps per second with learning: source x number of parallel learners, with and without the disk.

Tabular sources are held against the random policy on the same family at the same width, which records nothing, and
beside it against the random policy recorded as their own lifetimes are; actor-critic, whose work is
products of matrices, against the peak (`peak.py`), and beside it against its own shape of batched products.
"""

import contextlib
import dataclasses
import io
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from ad_jax import envs, sources
from ad_jax.bench.count import actor_critic_flops
from ad_jax.bench.limits import random_policy, random_source
from ad_jax.bench.peak import matmul, peak
from ad_jax.bench.rows import Row, rate
from ad_jax.bench.sizes import Sizes
from ad_jax.bench.timing import Work, measure, paired
from ad_jax.envs.base import TaskFamily, spec_of, take
from ad_jax.envs.leaves import task_leaves
from ad_jax.history import store
from ad_jax.history.manifest import Leaf
from ad_jax.keys import a_key
from ad_jax.process import metrics
from ad_jax.sharding import MeshConfig, make_mesh
from ad_jax.stage import collect
from ad_jax.types import PyTree

TASKS = 64  # tasks that learners are spread over
CHUNKS = 3  # chunks of learners in a call that writes, so that writing and computing overlap as they do in a long run
LONGEST = 400  # episodes in a lifetime, at most
FOLLOWED = "random policy, same width"


class Compiled(collect.Collector):
    """Learners that compile once, however often they are collected from."""

    def compile(self, seed: int, tasks: PyTree, task_ids: Sequence[str], seeds: int) -> float:
        return super().compile(seed, tasks, task_ids, seeds) if self.lifetimes is self.jitted else 0.0


class Setting(NamedTuple):
    """A source on a family, at one width."""

    collector: Compiled
    family: TaskFamily
    config: Any  # of the source
    tasks: PyTree
    ids: list[str]
    env: str
    source: str


def rows(sizes: Sizes) -> Iterator[Row]:
    """All rows of the stage."""
    for count in sizes.q_learners:
        yield from tabular(setting("q_learning", "dark_room", count, sizes.env_steps), sizes)
    for count in sizes.ucb_learners:
        yield from tabular(setting("ucb", "bandit", count, sizes.env_steps), sizes)
    for count in sizes.actor_critic_learners:
        yield neural(setting("actor_critic", "dark_room", count, sizes.env_steps), sizes)


def setting(source: str, env: str, count: int, env_steps: int) -> Setting:
    """`count` learners whose lifetimes make about `env_steps` steps in all."""
    family, config = envs.make(env, {}), sources.make(source)
    made = config.make(family)
    count = max(TASKS, count) if source != "actor_critic" else count
    longest = LONGEST * made.steps_per_update // family.episode_length if source == "ucb" else LONGEST
    episodes = env_steps // (count * made.actors * family.episode_length)
    least = math.ceil(made.steps_per_update / family.episode_length)
    collector = Compiled(family, made, max(least, min(longest, episodes)), make_mesh(MeshConfig()), count)
    table = family.all_tasks()
    tasks = family.sample_tasks(a_key(0), TASKS) if table is None else take(table, jnp.arange(TASKS, dtype=jnp.int32))
    return Setting(collector, family, config, tasks, family.task_ids(tasks), env, source)


def in_memory(s: Setting) -> Work:
    """One chunk of lifetimes, left on the device. Amount: environment steps."""
    seeds = math.ceil(s.collector.chunk / TASKS)
    s.collector.compile(0, s.tasks, s.ids, seeds)
    each = s.collector.steps * s.collector.source.actors
    return Work(lambda: s.collector.run(0, s.tasks, s.ids, seeds, 0), float(each * s.collector.chunk))


def to_disk(s: Setting, folder: Path) -> Work:
    """`CHUNKS` chunks through stage 1 as users run it, each call into a new collection. Amount: environment steps."""
    config = collect.Config(seeds=CHUNKS * s.collector.chunk // TASKS, chunk_learners=s.collector.chunk)
    manifest = manifest_of(s, config.seeds)
    count = [0]

    def call():
        count[0] += 1
        here = folder / str(count[0])
        here.mkdir(parents=True)
        with contextlib.redirect_stdout(io.StringIO()):  # the stage's progress lines
            log = metrics.MetricsLog(here, metrics.Config())
            collect.collect(s.collector, s.tasks, s.ids, config, 0, str(here / "histories"), manifest, log)

    return Work(call, float(TASKS * config.seeds * s.collector.steps * s.collector.source.actors))


def manifest_of(s: Setting, seeds: int) -> store.Manifest:
    """Return the manifest of a collection that holds `seeds` learners a task."""
    source = s.collector.source
    leaves = task_leaves(s.tasks)
    return store.Manifest(
        family={"name": s.env, "options": s.family.options},
        source={"name": s.source, "config": dataclasses.asdict(s.config), "actors": source.actors},
        spec=spec_of(s.family),
        task_leaves={name: Leaf(shape=list(x.shape)[1:], dtype=str(x.dtype)) for name, x in leaves.items()},
        reward_dtype=str(s.family.reward_dtype),
        histories=TASKS * seeds * source.actors,
        steps=s.collector.steps,
        episode_length=s.family.episode_length,
        chunk_histories=s.collector.chunk * source.actors,
        provenance={},
    )


def tabular(s: Setting, sizes: Sizes) -> Iterator[Row]:
    """Learning in memory and to disk, against the random policy."""
    block = s.collector.source.steps_per_update
    lanes, episodes = s.collector.chunk, s.collector.steps // s.family.episode_length
    with tempfile.TemporaryDirectory() as folder:
        recorded = s._replace(
            collector=Compiled(s.family, random_source(s.family, block), episodes, s.collector.mesh, lanes)
        )
        works = {
            "recorded": in_memory(recorded),
            "random": random_policy(s.family, s.tasks, lanes, max(1, s.collector.steps // block), block),
            "memory": in_memory(s),
            "disk": to_disk(s, Path(folder)),
        }
        seconds = measure(works, sizes.rounds, sizes.budget)
    limit = works["random"].amount
    for name in ("memory", "disk"):
        kept = works[name].amount / works["recorded"].amount * paired(seconds["recorded"], seconds[name])
        key = f"collect/{s.source} on {s.env}/{lanes} learners/{name}"
        yield rate(
            key, "env steps/s", works[name].amount, seconds[name], FOLLOWED, limit, seconds["random"],
            share_of_recorded_random_policy=kept, env_steps=works[name].amount,
        )  # fmt: skip


def neural(s: Setting, sizes: Sizes) -> Row:
    """Actor-critic against products of matrices."""
    config, count = s.config, s.collector.chunk
    spec = spec_of(s.family)
    inputs = spec.size if spec.values is None else sum(spec.values)
    flops = actor_critic_flops(inputs, config.hidden, spec.num_actions)
    width = config.hidden[-1]
    works = {
        "learn": in_memory(s),
        "peak": peak(sizes),
        "batched": matmul(config.unroll * config.actors, width, width, batch=count, flops=sizes.small_flops),
    }
    seconds = measure(works, sizes.rounds, sizes.budget)
    steps = works["learn"].amount
    batched = flops * steps / works["batched"].amount * paired(seconds["batched"], seconds["learn"])
    return rate(
        f"collect/{s.source} on {s.env}/{count} learners/memory", "env steps/s", steps, seconds["learn"],
        "limits/peak float32", works["peak"].amount, seconds["peak"], flops * steps,
        flop_per_env_step=flops, share_of_batched_product=batched, env_steps=steps,
    )  # fmt: skip
