"""What the outputs of a policy's network mean: a distribution over actions, chosen by what an action is.

Discrete actions have logits. Actions in a `Box` have a Gaussian with a mean for each component and a deviation that
does not depend on the state, in units in which the box is -1..1; what falls outside is moved to the bound. So a bound
has a probability of its own, the Gaussian's mass beyond it, and `log_prob` is that of what was done, not of what was
drawn (Fujita and Maeda 2018, arXiv 1802.07564): the stored action alone says how likely it was.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad_jax.types import Box, Discrete, PyTree

FIRST_DEVIATION = 0.6  # of the Gaussian, before anything is learned; half the width of the box is 1

Params = dict[str, PyTree]


class Distribution(NamedTuple):
    """Over actions `[B, *A]`, given a network's `output [B, outputs]` and its parameters.

    Attributes:
        outputs: how many numbers the network gives.
        init: `() -> parameters` beside the network's.
        noise: `(key, shape) -> [*shape, outputs]`, what `draw` needs. The key is consumed.
        draw: `(params, output, noise) -> action`.
        log_prob: `(params, output, action) -> [B]`; of a Gaussian inside its bounds, a density.
        entropy: `(params, output) -> [B]`; of a Gaussian, as if there were no bounds.
    """

    outputs: int
    init: Callable[[], Params]
    noise: Callable[[jax.Array, tuple[int, ...]], jax.Array]
    draw: Callable[[Params, jax.Array, jax.Array], jax.Array]
    log_prob: Callable[[Params, jax.Array, jax.Array], jax.Array]
    entropy: Callable[[Params, jax.Array], jax.Array]


def distribution(action: Discrete | Box) -> Distribution:
    """Return the distribution that a policy over such actions has."""
    return _categorical(action) if isinstance(action, Discrete) else _gaussian(action)


def _categorical(action: Discrete) -> Distribution:
    # Actions first: over a last axis of a few numbers XLA's reductions on a CPU take eight times as long.
    def log_prob(params, logits, action):
        log_policy = jax.nn.log_softmax(logits.T, axis=0)
        chosen = action[None] == jnp.arange(logits.shape[1], dtype=action.dtype)[:, None]
        return jnp.sum(jnp.where(chosen, log_policy, 0.0), axis=0)

    def entropy(params, logits):
        log_policy = jax.nn.log_softmax(logits.T, axis=0)
        return -jnp.sum(jnp.exp(log_policy) * log_policy, axis=0)

    return Distribution(
        outputs=action.n,
        init=dict,
        noise=lambda key, shape: jax.random.gumbel(key, (*shape, action.n), jnp.float32),
        # A draw from the softmax.
        draw=lambda params, logits, noise: jnp.argmax(logits + noise, axis=1).astype(jnp.int32),
        log_prob=log_prob,
        entropy=entropy,
    )


def _gaussian(action: Box) -> Distribution:
    low, high = (bound.reshape(1, -1) for bound in action.bounds)
    middle, half = (low + high) / 2, (high - low) / 2

    def draw(params, mean, noise):
        drawn = mean + jnp.exp(params["log_deviation"])[None] * noise
        # The bounds themselves, and not what rounding makes of them: `log_prob` knows them by that.
        done = jnp.where(drawn >= 1, high, jnp.where(drawn <= -1, low, jnp.clip(middle + half * drawn, low, high)))
        return done.reshape(-1, *action.shape)

    def log_prob(params, mean, done):
        done, deviation = done.reshape(mean.shape), jnp.exp(params["log_deviation"])[None]
        off = ((done - middle) / half - mean) / deviation
        inside = -0.5 * off**2 - params["log_deviation"][None] - 0.5 * math.log(2 * math.pi)

        def beyond(distance):
            return jax.scipy.special.log_ndtr(distance / deviation)

        each = jnp.where(done >= high, beyond(mean - 1), jnp.where(done <= low, beyond(-1 - mean), inside))
        return each.sum(axis=1)

    def entropy(params, mean):
        each = params["log_deviation"] + 0.5 * math.log(2 * math.pi * math.e)
        return jnp.broadcast_to(each.sum(), mean.shape[:1])

    return Distribution(
        outputs=action.size,
        init=lambda: {"log_deviation": jnp.full(action.size, math.log(FIRST_DEVIATION), jnp.float32)},
        noise=lambda key, shape: jax.random.normal(key, (*shape, action.size), jnp.float32),
        draw=draw,
        log_prob=log_prob,
        entropy=entropy,
    )
