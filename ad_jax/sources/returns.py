"""Advantages and targets of streams in which episodes end and start: `[T, ...]`, time first."""

import jax
import jax.numpy as jnp


def gae(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    discount: float | jax.Array,
    trace_decay: float | jax.Array,
) -> jax.Array:
    """Generalized advantages `[T, ...]` float32 (Schulman et al. 2016, arXiv 1506.02438, equation 16).

    Args:
        reward: `[T, ...]` float32.
        value: `[T, ...]` float32, of the observation acted on.
        next_value: `[T, ...]` float32, of the observation reached, before any reset.
        terminated: `[T, ...]` bool; nothing is bootstrapped from such a step.
        truncated: `[T, ...]` bool; the step bootstraps, and no later one counts.
        discount: per step.
        trace_decay: lambda.
    """
    error = reward + discount * jnp.where(terminated, 0.0, next_value) - value
    decay = jnp.where(terminated | truncated, 0.0, discount * trace_decay)

    def back(later, step):
        error, decay = step
        advantage = error + decay * later
        return advantage, advantage

    return jax.lax.scan(back, jnp.zeros_like(error[0]), (error, decay), reverse=True)[1]


def q_lambda(
    reward: jax.Array,
    ahead: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    discount: float | jax.Array,
    trace_decay: float | jax.Array,
) -> jax.Array:
    """Targets of Peng's Q(lambda), `[T, ...]` float32 (Peng and Williams 1996).

    At each step the reward and, discounted, (1 - lambda) times the value ahead and lambda times the next target; after
    the last step the value ahead alone.

    Args:
        reward: `[T, ...]` float32.
        ahead: `[T, ...]` float32, value of the best action in the observation reached, before any reset.
        terminated: `[T, ...]` bool; nothing is bootstrapped from such a step.
        truncated: `[T, ...]` bool; the step bootstraps, and no later one counts.
        discount: per step.
        trace_decay: lambda.
    """
    keep = jnp.where(terminated | truncated, 0.0, trace_decay)

    def back(later, step):
        reward, ahead, terminated, keep = step
        mixed = (1.0 - keep) * ahead + keep * later
        target = reward + discount * jnp.where(terminated, 0.0, mixed)
        return target, target

    return jax.lax.scan(back, ahead[-1], (reward, ahead, terminated, keep), reverse=True)[1]
