"""Acting by denoised plans: the next H observations are drawn as a whole, given what has to be among them.

The first entry is the observation of now, waypoints and a goal stand where they are to be reached, and the rest is
drawn by the denoiser. The action is that of the inverse dynamics from what is seen to the plan's next entry. A plan is
kept in the carry and followed for some steps. The next one starts from it where it still holds, a few levels of noise
up, and from nothing where an episode began, the observation left the plan, or a waypoint was reached before its time.

Source: Janner et al. 2022 (Diffuser, arXiv 2205.09991), algorithm 1 and sections 3.4 and 5.4; Ho and Salimans 2022
(arXiv 2207.12598) for guidance without a classifier.

Letters: B plans, H entries, G goals, of which the last is the goal and those before it are the waypoints.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad_jax.models import heads
from ad_jax.models.base import Model
from ad_jax.models.denoiser import Parts
from ad_jax.models.diffusion import Masked
from ad_jax.policies.base import Mode, Policy, check_sampling, decide
from ad_jax.types import Array, PyTree, Steps

GOALS = "goals"  # extra of the steps, `[B, G, components]` float32, where tasks have goals of their own


class Plan(NamedTuple):
    """Plans that are followed. Every leaf is `[B, ...]`."""

    entries: Array  # [B, H, *S]; after its end, the last entry again
    at: jax.Array  # [B] int32, entry that was seen last
    due: jax.Array  # [B, G] int32, entry at which each goal is; H or more: after this plan; below 0: behind
    end: jax.Array  # [B] int32, the plan's last entry


class Carry(NamedTuple):
    """What the policy remembers of B lifetimes. Every leaf is `[B, ...]`."""

    plan: Plan
    begun: jax.Array  # [B] bool, whether there was a step before
    leg: jax.Array  # [B] int32, goals that were reached in this episode, but for the last, which stays
    left: jax.Array  # [B] float32, what the rest of the episode is to earn
    highest: jax.Array  # [B] float32, of the last action's outputs


@dataclasses.dataclass(frozen=True)
class Planning:
    """How plans are made, whatever they are for."""

    steps: int  # N, passes of the denoiser for a plan from nothing
    warm_steps: int | None  # of N, for a plan from the one before; None: every plan is from nothing
    replan_every: int  # steps that a plan is followed
    temperature: float  # of the plan's entries
    haste: float | None  # quantile of the steps that histories took to a goal; None: goals are spread to the plan's end
    tolerance: float  # of real entries: how near is there
    guidance: float  # w, where a return is asked for

    @property
    def least(self) -> int:
        """The fewest passes of a plan."""
        return self.warm_steps or self.steps


def from_parts(
    model: Model,
    planning: Planning,
    goals: Callable[[Steps], jax.Array] | None,
    count: int,
    target: float | None,
    scale: float,
    mode: Mode = "sampled",
    temperature: float = 1.0,
) -> Policy:
    """Return the policy that plans.

    Args:
        model: of `models.denoiser.make`.
        planning: how.
        goals: `steps [B] -> [B, G, components]` float32 in the order in which they are to be reached, NaN where a
            number may be anything; None where there are none.
        count: G.
        target: return that is asked for of each episode; None: none is.
        scale: what returns are divided by.
        mode: whether an action is sampled, or is the one that the head takes where none is. Plans are drawn either way.
        temperature: of sampled actions.

    Raises:
        AdJaxError: for another mode, or a temperature of 0 or below.
    """
    check_sampling(mode, temperature)
    parts: Parts = model.parts
    entries, horizon, whole = parts.entries, parts.horizon, isinstance(parts.entries, Masked)

    def init(batch: int) -> Carry:
        def zeros(dtype, *shape):  # each its own, so that all can be donated
            return jnp.zeros((batch, *shape), dtype)

        empty = zeros(jnp.int32 if whole else jnp.float32, horizon, *entries.shape)
        plan = Plan(empty, zeros(jnp.int32), zeros(jnp.int32, count), zeros(jnp.int32))
        return Carry(plan, zeros(jnp.bool_), zeros(jnp.int32), zeros(jnp.float32), zeros(jnp.float32))

    def act(params: PyTree, carry: Carry, steps: Steps, keys: jax.Array) -> tuple[jax.Array, Carry]:
        keys_plan, keys_act = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        now, first = entries.of(steps), steps.prev_done | ~carry.begun
        wanted = None if goals is None else entries.known(goals(steps))
        old = carry.plan._replace(at=jnp.minimum(carry.plan.at + 1, horizon - 1))
        leg, reached = _reached(entries, planning, now, wanted, carry.leg, first)
        seen_at = jnp.zeros_like(first) if wanted is None else _at(reached, leg, carry.leg, old)
        there = jnp.zeros_like(first) if wanted is None else reached & (leg == count - 1) & (old.at >= old.end)
        expected = _entry(old.entries, old.at)
        strayed = ~entries.near(now, expected, jnp.ones(now.shape, jnp.bool_), planning.tolerance)
        cold = first | (~there & (strayed | seen_at | (old.at >= old.end)))
        warm = ~cold & ~there & (old.at >= planning.replan_every)
        left = None
        if target is not None:
            left = jnp.where(first, jnp.float32(target), carry.left - steps.prev_reward)
        old = old._replace(at=jnp.minimum(old.at, horizon - 2))  # whoever is there stays, however long
        args = params, old, now, wanted, leg, cold, warm, left, keys_plan
        anew = jax.lax.cond(jnp.any(cold | warm), lambda: replanned(parts, planning, scale, *args), lambda: old)
        outputs = parts.inverse(params, now, _entry(anew.entries, anew.at + 1))
        head = heads.of(model, outputs)
        action = decide(head, outputs, keys_act, mode, temperature)
        left = carry.left if left is None else left
        return action, Carry(anew, jnp.ones_like(first), leg, left, head.highest(outputs))

    return Policy(init, act, lambda carry: carry.highest)


def replanned(
    parts: Parts,
    planning: Planning,
    scale: float,
    params: PyTree,
    old: Plan,
    now: Array,
    wanted: tuple[Array, Array] | None,
    leg: jax.Array,
    cold: jax.Array,
    warm: jax.Array,
    left: jax.Array | None,
    keys: jax.Array,
) -> Plan:
    """Return plans from `now [B, *S]` on: new ones `[B]` from nothing or from the old ones, and else the old ones.

    A pass of the denoiser is one for all rows; there are as many as the row needs that needs most, none where no row
    plans. What a row's plan becomes follows from its own numbers and its own key.
    """
    entries, horizon = parts.entries, parts.horizon
    if planning.warm_steps is None:
        cold, warm = cold | warm, jnp.zeros_like(warm)
    due = old.due if wanted is None else _due(parts, planning, params, old, now, wanted, leg, cold)
    batch, index = len(now), jnp.arange(horizon, dtype=jnp.int32)
    end = jnp.full((batch,), horizon - 1, jnp.int32)
    end = end if wanted is None else jnp.minimum(due[:, -1], end)
    # The old plan, moved up; what lies beyond it is filled with its last entry.
    moved = jnp.where(cold, 0, old.at)[:, None] + index[None]
    plan = _rows(old.entries, jnp.minimum(moved, horizon - 1))
    lost = cold[:, None] | (moved > horizon - 1) | (moved > jnp.where(cold, 0, old.end)[:, None])
    plan = plan.at[:, 0].set(now)
    trail = (1,) * len(entries.shape)
    free = jnp.broadcast_to((index > 0).reshape(1, -1, *trail), plan.shape)
    free &= (index[None] <= end[:, None]).reshape(batch, horizon, *trail)
    if wanted is not None:
        for number in range(due.shape[1]):
            here = (due[:, number, None] == index[None]) & (number >= leg)[:, None]
            here = here.reshape(batch, horizon, *trail) & wanted[1][:, None, number]
            plan = jnp.where(here, wanted[0][:, None, number], plan)
            free &= ~here
    any_free = free.reshape(batch, -1).any(-1)
    passes = jnp.where(cold, planning.steps, jnp.where(warm, planning.warm_steps or 0, 0))
    passes = jnp.where(any_free, passes, 0).astype(jnp.int32)

    def level(left):
        return left.astype(jnp.float32) / planning.steps

    begin = jax.vmap(jax.random.fold_in, (0, None))(keys, 2**31)
    plan = entries.renoised(begin, plan, free, lost, level(passes))
    seen = (index[None] <= end[:, None])[:, None]
    shape = (batch, horizon)

    def denoise(plan, left_over):
        levels = entries.levels(plan, free, level(left_over))
        asked = jnp.zeros(shape, jnp.bool_)
        if left is None:
            return parts.denoise(params, plan, levels, jnp.zeros(shape, jnp.float32), asked, seen)
        told = jnp.broadcast_to((left / jnp.float32(scale))[:, None], shape)

        def twice(x, other):
            return jnp.concatenate([x, other])

        both = parts.denoise(
            params, twice(plan, plan), twice(levels, levels), twice(told, told), twice(~asked, asked), twice(seen, seen)
        )
        if isinstance(entries, Masked):
            both = jax.nn.log_softmax(both)
        given, plain = jnp.split(both, 2)
        return plain + jnp.float32(planning.guidance) * (given - plain)

    def one(_, state):
        plan, remaining = state
        busy = passes >= remaining
        left_over = jnp.where(busy, remaining, 1)
        outputs = denoise(plan, left_over)
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, remaining)
        args = left_over, planning.steps, planning.temperature, planning.least
        found = entries.denoised(own, outputs, plan, free, *args)
        return jnp.where(busy.reshape(batch, 1, *trail), found, plan), remaining - 1

    most = jnp.max(passes, initial=0)
    plan, _ = jax.lax.fori_loop(0, most, one, (plan, most))
    last = _entry(plan, end)[:, None]
    plan = jnp.where((index[None] > end[:, None]).reshape(batch, horizon, *trail), last, plan)
    anew = cold | warm

    def chosen(new, old):
        return jnp.where(anew.reshape(batch, *(1,) * (new.ndim - 1)), new, old)

    return Plan(*map(chosen, Plan(plan, jnp.zeros_like(old.at), due, end), old))


def _reached(entries, planning, now, wanted, leg, first) -> tuple[jax.Array, jax.Array]:
    """Return how many goals but the last are behind, and whether the present one is reached now."""
    leg = jnp.where(first, 0, leg)
    if wanted is None:
        return leg, jnp.zeros_like(first)
    count, at = wanted[0].shape[1], jnp.arange(len(now), dtype=jnp.int32)
    goal, known = wanted[0][at, leg], wanted[1][at, leg]
    reached = entries.near(now, goal, known, planning.tolerance)
    # Where an episode begins is reached by no step.
    further = reached & ~first & (leg < count - 1)
    return jnp.where(further, leg + 1, leg), reached & ~first & ~further


def _at(reached, leg, before, old: Plan) -> jax.Array:
    """Whether a goal was reached, `[B]` bool, before the plan had it."""
    at = jnp.arange(len(leg), dtype=jnp.int32)
    return (reached | (leg > before)) & (old.at < old.due[at, jnp.minimum(before, old.due.shape[1] - 1)])


def _due(parts: Parts, planning: Planning, params, old: Plan, now, wanted, leg, cold) -> jax.Array:
    """Return the entries of a plan from now on at which the goals are, `[B, G]` int32; below 0 for those behind.

    Each goal comes so many steps after the one before as the quickest histories took between such observations: at the
    quantile `haste` of the arrival network's distribution. With none, goals are spread evenly and the last is last.
    """
    count, horizon = wanted[0].shape[1], parts.horizon
    here, known = now, jnp.ones(now.shape, jnp.bool_)
    trail = (1,) * (now.ndim - 1)
    when, due = jnp.zeros((len(now),), jnp.int32), []
    for number in range(count):
        goal, known_goal, ahead = wanted[0][:, number], wanted[1][:, number], number >= leg
        if planning.haste is None:
            many = jnp.maximum(count - leg, 1)
            then = (horizon - 1) * (number + 1 - leg) // many
        else:
            steps = jax.nn.softmax(parts.arrival(params, here, known, goal, known_goal))
            late = (jnp.cumsum(steps, axis=-1) < planning.haste).sum(-1, dtype=jnp.int32)
            then = when + 1 + jnp.minimum(late, horizon - 2)
        when = jnp.where(ahead, then, when)
        due.append(jnp.where(ahead, when, -1))
        reach = ahead.reshape(-1, *trail)
        here, known = jnp.where(reach, goal, here), jnp.where(reach, known_goal, known)
    anew = jnp.stack(due, axis=1)
    return jnp.where(cold[:, None], anew, jnp.where(jnp.stack(due, axis=1) < 0, -1, old.due - old.at[:, None]))


def _entry(plan: Array, at: jax.Array) -> Array:
    """Return entry `at [B]` of each plan, `[B, *S]`."""
    return plan[jnp.arange(len(at), dtype=jnp.int32), at]


def _rows(plan: Array, at: jax.Array) -> Array:
    """Return entries `at [B, H]` of each plan, `[B, H, *S]`."""
    return plan[jnp.arange(len(at), dtype=jnp.int32)[:, None], at]
