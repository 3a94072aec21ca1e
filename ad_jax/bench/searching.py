"""Decisions per second of planners in their rollouts: Trajectory Transformer and TAP.

The limit is the matmul peak, by `count.beam_flops` and `count.code_beam_flops`: what a decision costs if nothing but
products took time.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ad_jax import envs, models
from ad_jax.bench.count import beam_flops, code_beam_flops
from ad_jax.bench.evaluating import EPISODES, Rolling, Setting
from ad_jax.bench.peak import peak
from ad_jax.bench.rows import Row, rate
from ad_jax.bench.sizes import Case, Sizes
from ad_jax.bench.timing import Work, measure
from ad_jax.envs.base import spec_of
from ad_jax.keys import a_key
from ad_jax.methods.tap import TAP, CodePlanning
from ad_jax.methods.trajectory_transformer import Planning, TrajectoryTransformer
from ad_jax.models.base import Model
from ad_jax.sharding import MeshConfig, make_mesh
from ad_jax.stage.rollout import make_evaluator
from ad_jax.types import PyTree


def rows(sizes: Sizes) -> Iterator[Row]:
    """All rows of the stage."""
    for lifetimes in sizes.plans:
        for name in ("trajectory_transformer", "tap"):
            yield row(name, lifetimes, sizes)


def row(name: str, lifetimes: int, sizes: Sizes) -> Row:
    """Plans of `Sizes.search` in so many lifetimes of Dark Room at once, with a full window."""
    steps = max(1, sizes.search_steps // lifetimes)
    s, method, rolling = planner(name, sizes.acting or sizes.cases[0], sizes.search, lifetimes, steps)
    (beam, horizon), dtype = sizes.search, jnp.dtype(s.config.compute_dtype)
    works = {"plan": Work(rolling, float(lifetimes * steps)), "peak": peak(sizes, dtype)}
    seconds = measure(works, sizes.rounds, sizes.budget)
    flops = decision_flops(method, s.model, s.config, s.params)
    return rate(
        f"search/{name}, {beam} x {horizon} steps/{lifetimes} lifetimes", "decisions/s", works["plan"].amount,
        seconds["plan"], f"limits/peak {dtype}", works["peak"].amount, seconds["peak"],
        works["plan"].amount * flops, flop_per_decision=flops,
    )  # fmt: skip


def planner(name: str, case: Case, search: tuple[int, int], lifetimes: int, steps: int) -> tuple[Setting, Any, Rolling]:
    """Return a setting, the method, bound, and a call that decides `steps` times in each lifetime, its window full.

    Args:
        name: "trajectory_transformer" or "tap".
        case: the backbone.
        search: the width of the beam, and steps of a plan.
        lifetimes: side by side.
        steps: of each in a call.
    """
    family, mesh, (beam, horizon) = envs.make("dark_room", {}), make_mesh(MeshConfig()), search
    config: Any = models.make(case.model, case.options).bind(family)
    method: Any = TrajectoryTransformer(acting=Planning(beam=beam, horizon=horizon))
    if name == "tap":
        method = TAP(acting=CodePlanning(beam=beam, horizon=-(-horizon // TAP.code_steps)))
    method = method.bind(family, family.all_tasks())
    model = method.model(config, spec_of(family))
    s = Setting(model, config, jax.jit(model.init)(a_key(0)), family, mesh)
    evaluator = make_evaluator(method.policy(model), family, mesh, EPISODES, steps)
    return s, method, Rolling(s, evaluator, lifetimes).placed(model.window)


def decision_flops(method: Any, model: Model, config: Any, params: PyTree) -> float:
    """FLOP of one decision of a method that is bound."""
    asked = method.acting
    if isinstance(method, TAP):
        return code_beam_flops(params, config, model.parts.shape, asked.beam, asked.horizon, asked.expand)
    return beam_flops(params, config, model.parts.tokens, asked.beam, asked.horizon, asked.expand)
