"""The losses of a diffuser on windows of histories: its denoiser's, its inverse dynamics', and its arrivals'.

A window is cut into rows of the plan's length, and a row holds the parts of one or more episodes, each of which is a
plan: an entry attends to those of its own, and its place among them is relative, so nothing is padded.

Letters: B windows, L steps, H entries of a row.
"""

import jax
import jax.numpy as jnp
import optax

from ad_jax.methods.supervised import Loss
from ad_jax.models.denoiser import Parts
from ad_jax.models.diffusion import Masked
from ad_jax.types import Array, Batch, PyTree

RETURN = "return_to_go"  # of the episode, of each step


def loss_of(parts: Parts, return_dropout: float) -> Loss:
    """Return `(params, batch [B, L], key) -> []`: the three losses added up; those of actions and arrivals in nats.

    Args:
        parts: the networks.
        return_dropout: share of the plans whose return the denoiser is not told.
    """

    def loss(params: PyTree, batch: Batch, key: jax.Array) -> jax.Array:
        plans, actions, earned, first = rows(parts, batch)
        key_noise, key_drop, key_return, key_goal = jax.random.split(key, 4)
        part = jnp.cumsum(first, axis=1, dtype=jnp.int32) - 1
        index = jnp.arange(first.shape[1], dtype=jnp.int32)[None]
        begin = jax.lax.cummax(jnp.where(first, index, 0), axis=1)
        told = jnp.take_along_axis(earned, begin, axis=1)
        chance = jax.random.uniform(key_return, first.shape, jnp.float32)
        asked = jnp.take_along_axis(chance, part, axis=1) >= return_dropout
        noised = parts.entries.noised(key_noise, plans, part, first)
        together = part[:, :, None] == part[:, None, :]
        found = parts.denoise(params, noised.entries, noised.level, told, asked, together, key_drop)
        outputs = parts.inverse(params, plans[:, :-1], plans[:, 1:])
        acted = -parts.head.log_prob(outputs, actions[:, :-1])
        total = parts.entries.loss(found, noised, plans) + mean(acted, part[:, 1:] == part[:, :-1])
        return total + arrivals(parts, params, plans, part, key_goal)

    return loss


def rows(parts: Parts, batch: Batch) -> tuple[Array, Array, jax.Array, jax.Array]:
    """Return entries, actions, returns to go, and where plans begin, `[rows, H, ...]` each.

    What is left of a window after its last whole row is not used; windows begin anywhere, so other draws use it.
    """
    horizon = parts.horizon
    each = batch.steps.prev_done.shape[1] // horizon

    def cut(x):
        return x[:, : each * horizon].reshape(-1, horizon, *x.shape[2:])

    first = cut(batch.steps.prev_done) | (jnp.arange(horizon, dtype=jnp.int32) == 0)[None]
    return cut(parts.entries.of(batch.steps)), cut(batch.targets["action"]), cut(batch.targets[RETURN]), first


def arrivals(parts: Parts, params: PyTree, plans: Array, part: jax.Array, key: jax.Array) -> jax.Array:
    """Return the cross-entropy of how many steps it took from each entry to a later one of its plan, drawn uniformly.

    Of real entries, half are told in some of their numbers alone, as goals may be.
    """
    key_goal, key_known = jax.random.split(key)
    count = part.shape[1]
    index = jnp.arange(count, dtype=jnp.int32)
    later = (part[:, :, None] == part[:, None, :]) & (index[None, :, None] < index[None, None, :])
    many = later.sum(-1, dtype=jnp.int32)
    chance = jax.random.uniform(key_goal, part.shape, jnp.float32)
    ahead = jnp.minimum(jnp.floor(chance * many.astype(jnp.float32)).astype(jnp.int32), jnp.maximum(many - 1, 0))
    at = jnp.minimum(index[None] + 1 + ahead, count - 1)
    goal = plans[jnp.arange(len(plans), dtype=jnp.int32)[:, None], at]
    if isinstance(parts.entries, Masked):
        known = known_goal = jnp.ones(plans.shape, jnp.bool_)
    else:
        drawn = jax.random.bernoulli(key_known, 0.5, (4, *plans.shape))
        known, known_goal = drawn[0, ..., :1] | drawn[1], drawn[2, ..., :1] | drawn[3]
    logits = parts.arrival(params, plans, known, goal, known_goal)
    return mean(optax.softmax_cross_entropy_with_integer_labels(logits, ahead), many > 0)


def mean(x: jax.Array, where: jax.Array) -> jax.Array:
    """Return the mean of the numbers that count; 0 where none does."""
    return jnp.sum(jnp.where(where, x, 0.0)) / jnp.maximum(where.sum().astype(jnp.float32), 1.0)
