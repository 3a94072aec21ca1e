"""A policy that plans: a beam search in what a model predicts, of which the first action is taken.

The model predicts a step token by token (`models.step_tokens`), so it can go on from what it predicted. Of W plans,
each is continued by E actions; of the W * E the best W are kept, and the model goes on from each with the observation
that it predicts there. After H steps the first action of the best plan is taken, and the next decision plans anew.

    score "return"    sum over steps k of discount^k r_k, and discount^(k+1) times the return that is to come
    score "log_prob"  sum of log p(token) up to the last action: actions, rewards, ends and next observations

with the rewards r_k and the return that the model expects. Sampled: actions, rewards, ends and observations are drawn
from what the model says. Greedy: actions are the likeliest E (of the present, the likeliest W * E), all else the
likeliest; of actions in a Box, the head's own and draws by a fixed key. A plan whose episode ends stops there and keeps
its score.

Source: Janner et al. 2021 (arXiv 2106.02039), sections 3.2 and 3.3, algorithm 1. Letters: B lifetimes, W plans, E
actions that continue each, H steps, A actions.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from ad_jax.keys import a_key
from ad_jax.models.base import Model
from ad_jax.models.branches import take
from ad_jax.models.heads.beside import Beside
from ad_jax.models.predictor import Predictor
from ad_jax.models.step_tokens import StepTokens
from ad_jax.policies.base import Decided, Mode, Policy, check_sampling
from ad_jax.types import Box, PyTree, Steps, Tree

Score = Literal["return", "log_prob"]
NEVER = -1e30  # the score of what is no plan: finite, so that it can be added to


@dataclasses.dataclass(frozen=True)
class Search:
    """How plans are searched for."""

    beam: int  # W
    horizon: int  # H
    expand: int  # E
    score: Score
    discount: float


class Beams(NamedTuple):
    """W plans of each of B lifetimes."""

    outputs: jax.Array  # [B, W, head.size] float32, the model's before the next action
    total: jax.Array  # [B, W] float32, scored so far; NEVER where there is no plan
    alive: jax.Array  # [B, W] bool, whether the plan's episode goes on
    first: jax.Array  # [B, W, *S], the action that a plan begins with


class Grown(NamedTuple):
    """Plans and what is to be done in each."""

    total: jax.Array  # [B, W, ...] as in `Beams`, and so are the others
    score: jax.Array  # float32, by which plans are kept
    alive: jax.Array
    first: jax.Array
    action: jax.Array
    reward: jax.Array  # int32, which point of its grid it is
    done: jax.Array  # bool


def from_search(model: Model, search: Search, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
    """Return the policy that plans with a model.

    Args:
        model: its head is a `Beside`, its parts a `Predictor`.
        search: how.
        mode: whether what the model predicts is drawn.
        temperature: of sampled actions, above 0.

    Raises:
        AdJaxError: for another mode, or a temperature of 0 or below.
    """
    check_sampling(mode, temperature)
    head: Beside = model.head  # pyright: ignore[reportAssignmentType]  # as was asked for
    plan = functools.partial(best_action, model.parts, head, search, None if mode == "greedy" else temperature)

    def init(batch):
        return Decided(model.init_cache(batch), jnp.zeros((batch,), jnp.float32))

    def act(params, carry, steps, keys):
        outputs, cache = model.decode(params, carry.cache, steps)
        return plan(params, cache, outputs, keys), Decided(cache, head.highest(outputs))

    return Policy(init, act, lambda carry: carry.highest)


def best_action(
    p: Predictor,
    head: Beside,
    search: Search,
    temperature: float | None,
    params: PyTree,
    cache: PyTree,
    outputs: jax.Array,
    keys: jax.Array,
) -> jax.Array:
    """Return the first action `[B, *S]` of the best plan from where a model's `cache` and `outputs [B, size]` stand.

    A temperature of None is greedy; `keys [B]` are consumed.
    """
    batch, ways, tokens = len(outputs), search.beam, p.network(params)
    action = p.tokens.spec.action
    beams = Beams(
        jnp.broadcast_to(outputs[:, None], (batch, ways, outputs.shape[-1])),
        jnp.zeros((batch, ways), jnp.float32),
        jnp.ones((batch, ways), jnp.bool_),
        jnp.zeros((batch, ways, *action.shape), action.compute_dtype),
    )

    def grown(beams, depth):
        keys_now = jax.vmap(jax.random.fold_in, (0, None))(keys, depth)
        key_grow, key_see = jnp.moveaxis(jax.vmap(jax.random.split)(keys_now), 1, 0)
        return _grow(p, tokens, head, search, temperature, beams, depth, key_grow), key_see

    def step(carry, depth):
        beams, plans = carry
        every, key_see = grown(beams, depth)
        parent, kept = keep(every, ways)
        more = take(head.of_more(beams.outputs), parent)
        seen, likely = _observe(p, tokens, temperature, more, kept, key_see)
        reward = p.tokens.reward.at(kept.reward)
        steps = Steps(observation=seen, prev_action=kept.action, prev_reward=reward, prev_done=kept.done)
        outputs, plans = p.branches.decode(params, p.branches.take(plans, parent), steps)
        total = kept.total + jnp.where(kept.alive, likely, 0) if search.score == "log_prob" else kept.total
        return (Beams(outputs, total, kept.alive, kept.first), plans), None

    depths = jnp.arange(search.horizon - 1, dtype=jnp.int32)
    if search.horizon > 1:
        plans = p.branches.start(cache, ways, search.horizon - 1)
        (beams, _), _ = jax.lax.scan(step, (beams, plans), depths)
    last, _ = grown(beams, jnp.int32(search.horizon - 1))
    _, best = keep(last, 1)
    return best.first[:, 0]


def keep(every: Grown, ways: int) -> tuple[jax.Array, Grown]:
    """Return which of the plans the best `ways` of `[B, W, E]` continue, `[B, ways]` int32, and those themselves."""
    return kept_of(every.score, every, ways)


def kept_of(score: jax.Array, every: Tree, ways: int) -> tuple[jax.Array, Tree]:
    """Return of arrays `[B, W, E, ...]` those of the highest `ways` scores `[B, W, E]`, and what w they were of."""
    batch, beams, expand = score.shape
    flat = jax.tree.map(lambda x: x.reshape(batch, beams * expand, *x.shape[3:]), every)
    index = jax.lax.top_k(score.reshape(batch, -1), ways)[1]  # of equals the first
    return index // expand, take(flat, index)


def places(ways: int, expand: int, depth: jax.Array) -> jax.Array:
    """Return which of a plan's choices, the likeliest first, continue it: `[1, W, E]` int32.

    At depth 0 all plans are the same one, and share its W * E likeliest.
    """
    own = jnp.arange(expand, dtype=jnp.int32)[None]
    shared = jnp.arange(ways, dtype=jnp.int32)[:, None] * expand + own
    return jnp.where(depth == 0, shared, jnp.broadcast_to(own, shared.shape))[None]


def _grow(
    p: Predictor,
    tokens: StepTokens,
    head: Beside,
    search: Search,
    temperature: float | None,
    beams: Beams,
    depth: jax.Array,
    keys: jax.Array,
) -> Grown:
    """Continue each plan by E actions: `[B, W, E]`."""
    keys_act, keys_see = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    if temperature is None:
        action, real = likeliest(head, beams.outputs, search.expand, depth)
    else:
        action, real = _drawn(head, beams.outputs, search.expand, keys_act, temperature)
    outputs = beams.outputs[:, :, None]
    more = head.of_more(outputs)
    uniform = _uniform(keys_see, (2, *action.shape[1:3]), temperature)
    of_reward = tokens.reward(more, action)
    index = _chosen(of_reward, None if uniform is None else uniform[0])
    of_end, of_value = tokens.end(more, action, index)
    ends = jax.nn.sigmoid(of_end)
    done = of_end > 0 if uniform is None else uniform[1] < ends

    alive, total = beams.alive[:, :, None], beams.total[:, :, None]
    if search.score == "return":
        share = jnp.float32(search.discount) ** depth.astype(jnp.float32)
        gain = share * p.tokens.reward.mean(of_reward)
        total = total + jnp.where(alive, gain, 0)
        to_come = share * search.discount * jnp.where(done, 0, p.tokens.value.mean(of_value))
        score = total + jnp.where(alive, to_come, 0)
    else:
        repeated = jnp.broadcast_to(outputs, (*action.shape[:3], outputs.shape[-1]))
        score = total + jnp.where(alive, head.log_prob(repeated, action), 0)
        ended = jnp.where(done, jax.nn.log_sigmoid(of_end), jax.nn.log_sigmoid(-of_end))
        total = score + jnp.where(alive, _log_prob(of_reward, index) + ended, 0)
    # What has ended is one plan, not one for each action.
    once = jnp.arange(search.expand, dtype=jnp.int32).reshape(1, 1, -1) == 0
    real = jnp.where(alive, real, once) & (beams.total[:, :, None] > NEVER / 2)
    first = jnp.where(depth == 0, action, jnp.broadcast_to(jnp.expand_dims(beams.first, 2), action.shape))
    going_on = alive & ~done & real
    return Grown(
        jnp.where(real, total, NEVER), jnp.where(real, score, NEVER), going_on, first, action, index, done
    )  # fmt: skip


def likeliest(head: Beside, outputs: jax.Array, expand: int, depth: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return for plans `outputs [B, W, size]` their likeliest E actions `[B, W, E, *S]`, and which are any."""
    batch, ways, _ = outputs.shape
    place = places(ways, expand, depth)
    if isinstance(getattr(head.action, "box", None), Box):
        count = ways * expand
        keys = jax.random.split(jax.random.fold_in(a_key(0), depth), count)
        drawn = jax.vmap(lambda o: head.sample(jnp.repeat(o, expand, axis=0), keys))(outputs)
        drawn = drawn.reshape(batch, ways, expand, *drawn.shape[2:])
        greedy = jnp.expand_dims(head.greedy(outputs), 2)
        first = (place == 0).reshape(1, ways, expand, *(1,) * (drawn.ndim - 3))
        return jnp.where(first, greedy, drawn), jnp.ones((batch, ways, expand), jnp.bool_)
    order = jnp.argsort(-head.of_action(outputs), axis=-1, stable=True).astype(jnp.int32)
    actions = order.shape[-1]
    at = jnp.broadcast_to(jnp.minimum(place, actions - 1), (batch, ways, expand))
    return jnp.take_along_axis(order, at, axis=-1), jnp.broadcast_to(place < actions, at.shape)


def _drawn(
    head: Beside, outputs: jax.Array, expand: int, keys: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Return E actions drawn for each plan, as `likeliest` does."""
    batch, ways, size = outputs.shape
    every = jax.vmap(lambda key: jax.random.split(key, ways * expand))(keys).reshape(-1)
    repeated = jnp.broadcast_to(outputs[:, :, None], (batch, ways, expand, size)).reshape(-1, size)
    action = head.sample(repeated, every, temperature)
    return action.reshape(batch, ways, expand, *action.shape[1:]), jnp.ones((batch, ways, expand), jnp.bool_)


def _observe(
    p: Predictor, tokens: StepTokens, temperature: float | None, more: jax.Array, kept: Grown, keys: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return what each plan sees next, `[B, W, *O]`, and its log-probability `[B, W]`."""
    spec, known, likely = p.tokens.spec, (), jnp.zeros_like(kept.total)
    uniform = _uniform(keys, (spec.size, more.shape[1]), temperature)
    for i in range(spec.size):
        logits = tokens.next(more, kept.action, kept.reward, known)
        index = _chosen(logits, None if uniform is None else uniform[i])
        likely = likely + _log_prob(logits, index)
        known = (*known, index)
    seen = [x if spec.values is not None else p.tokens.observation[i].at(x) for i, x in enumerate(known)]
    return p.tokens.whole(jnp.stack(seen, axis=-1)), likely


def _uniform(keys: jax.Array, shape: tuple[int, ...], temperature: float | None) -> jax.Array | None:
    """Return numbers in [0, 1), `[shape[0], B, *shape[1:]]`, of each row's own key; None where nothing is drawn."""
    if temperature is None:
        return None
    return jnp.moveaxis(jax.vmap(lambda key: jax.random.uniform(key, shape, jnp.float32))(keys), 0, 1)


def _chosen(logits: jax.Array, uniform: jax.Array | None) -> jax.Array:
    """Return the likeliest of the values, or the one at a place in [0, 1) of their distribution: `[...]` int32."""
    if uniform is None:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    below = jnp.cumsum(jax.nn.softmax(logits), axis=-1)
    index = (below <= uniform[..., None] * below[..., -1:]).sum(-1)
    return jnp.minimum(index, logits.shape[-1] - 1).astype(jnp.int32)


def _log_prob(logits: jax.Array, index: jax.Array) -> jax.Array:
    """Return how likely the values `index [...]` are."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), index[..., None], axis=-1)[..., 0]
