"""Decisions per second of a diffuser's plans, by the number of lifetimes and by how plans are made.

Every plan comes true: the next observation is its next entry, so how often the denoiser is called follows from the
options alone, in episodes of Dark Room's 20 steps, each of which begins with a plan from nothing. The work is products,
so the limit is the peak, by `count.denoise_flops`.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from ad_jax import envs, models
from ad_jax.bench.count import denoise_flops
from ad_jax.bench.peak import peak
from ad_jax.bench.rows import Row, rate
from ad_jax.bench.sizes import Case, Sizes
from ad_jax.bench.timing import Work, measure
from ad_jax.envs.base import spec_of
from ad_jax.envs.grid import Grid
from ad_jax.keys import a_key
from ad_jax.methods.diffuser import Asked, Diffuser
from ad_jax.models.base import Model, first_steps
from ad_jax.models.transformer import Transformer
from ad_jax.types import PyTree

STEPS = 20  # passes of a plan from nothing
# By name: options, and passes in an episode of 20 decisions.
WAYS = {
    "from nothing at every step": (Asked(denoising_steps=STEPS, warm_steps=None, replan_every=1), 20 * STEPS),
    "warm at every step": (Asked(denoising_steps=STEPS, warm_steps=5, replan_every=1), STEPS + 19 * 5),
    "warm at every 4th step": (Asked(denoising_steps=STEPS, warm_steps=5, replan_every=4), STEPS + 4 * 5),
}


def rows(sizes: Sizes) -> Iterator[Row]:
    """All rows of the stage."""
    family = room()
    made, of_a_pass = planner(sizes.acting or sizes.cases[0], family)
    for lifetimes in sizes.plans:
        runs = {name: episode(*made, asked, lifetimes) for name, (asked, _) in WAYS.items()}
        works = {name: Work(run, lifetimes * family.steps) for name, run in runs.items()} | {"peak": peak(sizes)}
        seconds = measure(works, sizes.rounds, sizes.budget)
        for name, (_, passes) in WAYS.items():
            yield rate(
                f"plan/diffuser/{lifetimes} lifetimes/{name}", "decisions/s", works[name].amount, seconds[name],
                "limits/peak float32", works["peak"].amount, seconds["peak"], of_a_pass * passes * lifetimes,
                flop_per_pass=of_a_pass, passes_per_decision=passes / family.steps,
            )  # fmt: skip


def room() -> Grid:
    """Return the world."""
    family = envs.make("dark_room", {})
    assert isinstance(family, Grid)
    return family


def planner(case: Case, family: Grid) -> tuple[tuple[Model, PyTree, Grid, Diffuser], float]:
    """Return what `episode` takes first, with a backbone, and the FLOP of a pass for one plan."""
    config = models.make(case.model, case.options)
    assert isinstance(config, Transformer)
    # One entry more than an episode has, so that no plan ends before it.
    method = Diffuser(horizon=family.steps + 1, return_scale=1.0)
    model = method.model(config, spec_of(family))
    params = jax.jit(model.init)(a_key(0))
    return (model, params, family, method), denoise_flops(params, config, family.steps + 1)


def episode(model: Model, params: PyTree, family: Grid, method: Diffuser, asked: Asked, lifetimes: int):
    """Return a call that decides for an episode of `lifetimes` side by side."""
    policy = dataclasses.replace(method, acting=asked).policy(model)
    start = jnp.full((lifetimes, 2), family.size // 2, jnp.int32)
    steps = first_steps(start, family.action_spec)

    @jax.jit
    def play(params, keys):
        def step(carry, t):
            plan = carry.plan
            at = jnp.minimum(plan.at + 1, plan.entries.shape[1] - 1)
            there = plan.entries[jnp.arange(lifetimes, dtype=jnp.int32), at]
            seen = jnp.stack(jnp.divmod(there, family.size), axis=-1).astype(jnp.int32)
            now = steps.replace(observation=jnp.where(t == 0, start, seen))
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
            action, carry = policy.act(params, carry, now, own)
            return carry, action

        return jax.lax.scan(step, policy.init(lifetimes), jnp.arange(family.steps, dtype=jnp.int32))[1]

    keys = jax.random.split(a_key(0), lifetimes)
    return lambda: play(params, keys)
