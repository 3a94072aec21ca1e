"""Advantages and targets of streams in which episodes end and start: time first."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32

from ad_jax.types import Array


def gae(
    reward: Float32[Array, "T *N"],
    value: Float32[Array, "T *N"],
    next_value: Float32[Array, "T *N"],
    terminated: Bool[Array, "T *N"],
    truncated: Bool[Array, "T *N"],
    discount: float | Float[Array, ""],
    trace_decay: float | Float[Array, ""],
) -> Float32[Array, "T *N"]:
    """Generalized advantages (Schulman et al. 2016, arXiv 1506.02438, equation 16).

    Args:
        reward: of each step.
        value: of the observation acted on.
        next_value: of the observation reached, before any reset.
        terminated: nothing is bootstrapped from such a step.
        truncated: the step bootstraps, and no later one counts.
        discount: per step.
        trace_decay: lambda.
    """
    error = reward + discount * jnp.where(terminated, 0.0, next_value) - value
    decay = jnp.where(jnp.logical_or(terminated, truncated), 0.0, discount * trace_decay)

    def back(later, step):
        error, decay = step
        advantage = error + decay * later
        return advantage, advantage

    return jax.lax.scan(back, jnp.zeros_like(error[0]), (error, decay), reverse=True)[1]


def q_lambda(
    reward: Float32[Array, "T *N"],
    ahead: Float32[Array, "T *N"],
    terminated: Bool[Array, "T *N"],
    truncated: Bool[Array, "T *N"],
    discount: float | Float[Array, ""],
    trace_decay: float | Float[Array, ""],
) -> Float32[Array, "T *N"]:
    """Targets of Peng's Q(lambda) (Peng and Williams 1996).

    At each step the reward and, discounted, (1 - lambda) times the value ahead and lambda times the next target; after
    the last step the value ahead alone.

    Args:
        reward: of each step.
        ahead: value of the best action in the observation reached, before any reset.
        terminated: nothing is bootstrapped from such a step.
        truncated: the step bootstraps, and no later one counts.
        discount: per step.
        trace_decay: lambda.
    """
    keep = jnp.where(jnp.logical_or(terminated, truncated), 0.0, trace_decay)

    def back(later, step):
        reward, ahead, terminated, keep = step
        mixed = (1.0 - keep) * ahead + keep * later
        target = reward + discount * jnp.where(terminated, 0.0, mixed)
        return target, target

    return jax.lax.scan(back, ahead[-1], (reward, ahead, terminated, keep), reverse=True)[1]
