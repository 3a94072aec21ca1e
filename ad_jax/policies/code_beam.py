"""A policy that plans in codes of segments: a beam search, in which no action is chosen before the plan is.

W plans; each is continued by E codes, of which each stands for L steps; of the W * E the best W are kept; after H codes
the first action of the best plan is decoded, and the next decision plans anew. With the rewards r_k that the model
expects in the steps of the codes, and the return V that it expects after them, a plan of m codes scores

    sum over k of discount^k r_k + discount^(m L) V + penalty min(0, log p(z_1..z_m) - m log likely)

so that codes that hardly ever follow from here are no way to a high return. Sampled: codes are drawn from how likely
they are, and the action from its distribution; greedy: the likeliest E (of the present, the likeliest W * E), and the
action that the head takes. A plan whose episode ends stops there and keeps its score.

Source: Jiang et al. 2022 (arXiv 2208.10291), section 3.3, equation 4, algorithm 1. Letters as in `beam` and
`models.segments`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad_jax.models.base import Model
from ad_jax.models.branches import take
from ad_jax.models.heads.beside import Beside
from ad_jax.models.segments import Segments, Shape
from ad_jax.policies.base import Decided, Mode, Policy, check_sampling, decide
from ad_jax.policies.beam import NEVER, kept_of, places
from ad_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class CodeSearch:
    """How plans are searched for."""

    beam: int  # W
    horizon: int  # H, in codes
    expand: int  # E
    likely: float
    penalty: float
    discount: float


class Coded(NamedTuple):
    """What a model plans with, beside its outputs: `params -> Segments`, and their shape."""

    shape: Shape
    network: Callable[[PyTree], Segments]


class Plans(NamedTuple):
    """W plans of each of B lifetimes; or W * E, before the best are kept."""

    state: jax.Array  # [B, W, D], what is known after their codes
    total: jax.Array  # [B, W] float32, what they have earned so far
    excess: jax.Array  # [B, W] float32, sum over their codes of log p - log likely
    alive: jax.Array  # [B, W] bool, whether the episode goes on
    first: jax.Array  # [B, W] int32, their first code
    score: jax.Array  # [B, W] float32; NEVER where there is no plan


def from_code_search(model: Model, search: CodeSearch, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
    """Return the policy that plans with a model.

    Args:
        model: its head is a `Beside`, its parts a `Coded`.
        search: how.
        mode: whether codes and actions are drawn.
        temperature: of sampled actions, above 0.

    Raises:
        AdJaxError: for another mode, or a temperature of 0 or below.
    """
    check_sampling(mode, temperature)
    head: Beside = model.head  # pyright: ignore[reportAssignmentType]  # as was asked for
    coded: Coded = model.parts
    plan = functools.partial(best_code, coded, search, mode)

    def init(batch):
        return Decided(model.init_cache(batch), jnp.zeros((batch,), jnp.float32))

    def act(params, carry, steps, keys):
        outputs, cache = model.decode(params, carry.cache, steps)
        network, state = coded.network(params), head.of_more(outputs)
        key_plan, key_act = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        after = network.after(state, network.directions()[plan(network, state, key_plan)])
        action = decide(head.action, network.actions(after)[:, 0], key_act, mode, temperature)
        return action, Decided(cache, head.highest(outputs))

    return Policy(init, act, lambda carry: carry.highest)


def best_code(
    coded: Coded, search: CodeSearch, mode: Mode, network: Segments, state: jax.Array, keys: jax.Array
) -> jax.Array:
    """Return the first code `[B]` of the best plan from the present, `state [B, D]`. The keys `[B]` are consumed."""
    batch, ways = len(state), search.beam

    def each(value, dtype):
        return jnp.full((batch, ways), value, dtype)

    plans = Plans(
        jnp.broadcast_to(state[:, None], (batch, ways, state.shape[-1])),
        each(0, jnp.float32),
        each(0, jnp.float32),
        each(True, jnp.bool_),
        each(0, jnp.int32),
        each(0, jnp.float32),
    )

    def step(plans, depth):
        every = _grow(coded, search, mode, network, plans, depth, jax.vmap(jax.random.fold_in, (0, None))(keys, depth))
        return kept_of(every.score, every, ways)[1], None

    plans, _ = jax.lax.scan(step, plans, jnp.arange(search.horizon, dtype=jnp.int32))
    return take(plans.first, jnp.argmax(plans.score, axis=-1).astype(jnp.int32)[:, None])[:, 0]


def _grow(
    coded: Coded,
    search: CodeSearch,
    mode: Mode,
    network: Segments,
    plans: Plans,
    depth: jax.Array,
    keys: jax.Array,
) -> Plans:
    """Continue each plan by E codes: `[B, W, E]`."""
    shape, expand, length = coded.shape, search.expand, coded.shape.length
    likely = jax.nn.log_softmax(network.prior(plans.state))  # [B, W, C]
    batch, ways, codes = likely.shape
    if mode == "greedy":
        order, place = jnp.argsort(-likely, axis=-1, stable=True).astype(jnp.int32), places(ways, expand, depth)
        at = jnp.broadcast_to(jnp.minimum(place, codes - 1), (batch, ways, expand))
        code, real = jnp.take_along_axis(order, at, axis=-1), jnp.broadcast_to(place < codes, at.shape)
    else:
        draw = jax.vmap(lambda key, logits: jax.random.categorical(key, logits[:, None], shape=(ways, expand)))
        code, real = draw(keys, likely).astype(jnp.int32), jnp.ones((batch, ways, expand), jnp.bool_)

    state = network.after(plans.state[:, :, None], network.directions()[code])
    of_reward, of_end, of_value = network.earned(state)
    going = jnp.cumprod((of_end <= 0).astype(jnp.float32), axis=-1)  # after each step of the segment
    before = jnp.concatenate([jnp.ones_like(going[..., :1]), going[..., :-1]], axis=-1)
    discount = jnp.float32(search.discount)
    here = discount ** (depth * length).astype(jnp.float32)
    steps = discount ** jnp.arange(length, dtype=jnp.float32)
    earned = here * ((before * shape.tokens.reward.mean(of_reward)) @ steps)
    to_come = here * discount**length * going[..., -1] * shape.tokens.value.mean(of_value)

    def of(x):
        return x[:, :, None]

    alive, chosen = of(plans.alive), jnp.take_along_axis(likely, code, axis=-1)
    total = of(plans.total) + jnp.where(alive, earned, 0)
    excess = of(plans.excess) + jnp.where(alive, chosen - math.log(search.likely), 0)
    score = total + jnp.where(alive, to_come, 0) + search.penalty * jnp.minimum(excess, 0)
    # What has ended is one plan, not one for each code.
    real = jnp.where(alive, real, jnp.arange(expand, dtype=jnp.int32).reshape(1, 1, -1) == 0)
    real &= of(plans.score) > NEVER / 2
    first = jnp.where(depth == 0, code, jnp.broadcast_to(of(plans.first), code.shape))
    return Plans(state, total, excess, alive & (going[..., -1] > 0) & real, first, jnp.where(real, score, NEVER))
