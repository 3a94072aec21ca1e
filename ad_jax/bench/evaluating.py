"""Environment steps per second of in-context rollouts, by their number and their place in the stream.

The limit is a roofline: the seconds that the step's products take at the measured peak, or that reading its cache takes
at the measured bandwidth, whichever is more. A cache that fits the processor's own can beat the second one.

A place in the stream is set, not walked to: one window is run, so that the ring is full, and then its counter is
replaced. The step's program and the ring's size are the same wherever the counter stands.
"""

import copy
import dataclasses
import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ad_jax import envs, models
from ad_jax.bench.count import decode_cost
from ad_jax.bench.limits import triad
from ad_jax.bench.peak import peak
from ad_jax.bench.rows import Row, bounded
from ad_jax.bench.sizes import Sizes
from ad_jax.bench.timing import Work, measure, paired, share
from ad_jax.bench.uncached import uncached
from ad_jax.envs.base import TaskFamily, spec_of, take
from ad_jax.keys import a_key
from ad_jax.models.base import Model
from ad_jax.policies.base import from_model
from ad_jax.sharding import MeshConfig, make_mesh
from ad_jax.stage.rollout import Evaluator, make_evaluator
from ad_jax.types import PyTree

ROOFLINE = "roofline of a cached step"
EPISODES = 4  # whose returns are kept; what comes after counts in the last column


class Setting(NamedTuple):
    """A model with parameters on a family; the model is that of `Sizes.acting`."""

    model: Model
    config: Any  # of the backbone
    params: PyTree
    family: TaskFamily
    mesh: Mesh


def setting(sizes: Sizes) -> Setting:
    """Return the model that acts, freshly initialized."""
    case, family = sizes.acting or sizes.cases[0], envs.make("dark_room", {})
    config = models.make(case.model, case.options).bind(family)
    model = config.make(spec_of(family))
    return Setting(model, config, jax.jit(model.init)(a_key(0)), family, make_mesh(MeshConfig()))


class Rolling:
    """Rollouts that go on from call to call, their place in the stream put back before each."""

    def __init__(self, s: Setting, evaluator: Evaluator, rollouts: int):
        self.evaluator, self.params = evaluator, s.params
        table = s.family.all_tasks()
        self.tasks = take(table, np.arange(rollouts) % len(jax.tree.leaves(table)[0]))
        self.keys = jax.random.split(a_key(0), rollouts)
        self.rollouts = evaluator.start(self.keys, self.tasks)
        self.at: int | None = None

    def placed(self, at: int) -> "Rolling":
        """Return the same rollouts, apart, at step `at` of their streams."""
        twin = copy.copy(self)
        twin.rollouts, twin.at = jax.tree.map(jnp.copy, self.rollouts), at
        return twin

    def __call__(self) -> jax.Array:
        """`steps_per_run` steps of every rollout."""
        if self.at is not None:
            carry = self.rollouts.carry
            cache = carry.cache.replace(time=jnp.full_like(carry.cache.time, self.at))
            self.rollouts = dataclasses.replace(self.rollouts, carry=carry._replace(cache=cache))
        self.rollouts, trace = self.evaluator.run(self.params, self.rollouts, self.keys, self.tasks)
        return trace


def rows(sizes: Sizes) -> Iterator[Row]:
    """All rows of the stage."""
    s = setting(sizes)
    for rollouts in sizes.rollouts:
        yield from at_width(s, rollouts, sizes)


def at_width(s: Setting, rollouts: int, sizes: Sizes) -> Iterator[Row]:
    """One width: cached at every place, and the uncached reference, all in turn."""
    window, spec = s.model.window, spec_of(s.family)
    steps = max(1, min(window // 2, sizes.rollout_steps // rollouts))
    few = max(1, min(steps, 400 // rollouts))  # an uncached step costs about a window of cached ones

    def make(model, steps):
        return make_evaluator(from_model(model), s.family, s.mesh, EPISODES, steps)

    cached, anew = make(s.model, steps), make(uncached(s.model, spec), few)
    flops, read = decode_cost(s.params, s.config, rollouts)
    dtype = jnp.dtype(s.config.compute_dtype)
    full = Rolling(s, cached, rollouts)
    for _ in range(-(-window // steps)):  # the ring fills up
        full()
    works = {f"{w:g}W": Work(full.placed(int(w * window)), rollouts * steps) for w in sizes.positions}
    works["uncached"] = Work(Rolling(s, anew, rollouts), rollouts * few)
    works["peak"] = peak(sizes, dtype)
    works["memory"] = triad(sizes.triad, 1)
    seconds = measure(works, sizes.rounds, sizes.budget)
    one_window = works["1W"].amount, seconds["1W"]
    for name in [*works][: len(sizes.positions) + 1]:
        amount, took = works[name].amount, seconds[name]
        floors = [
            amount / rollouts * max(flops * peak / works["peak"].amount, read * memory / works["memory"].amount)
            for peak, memory in zip(seconds["peak"], seconds["memory"], strict=True)
        ]
        each = 1e6 * statistics.median(took) * rollouts / amount
        slower = paired(took, one_window[1]) * one_window[0] / amount
        yield Row(
            f"evaluate/{rollouts} rollouts/{'' if name == 'uncached' else 'at '}{name}",
            amount / statistics.median(took), amount / min(took), "env steps/s",
            bounded(share(floors, took, seconds["peak"]), ROOFLINE), ROOFLINE, len(took),
            {"cost_over_cached_at_1W": slower, "microseconds_per_step": each},
        )  # fmt: skip
