"""Models that remember only the episode they are in: what ends with it, ends for them.

Algorithm distillation remembers a lifetime. Its neighbors (Decision Transformer and its kin, behavior cloning) remember
an episode, and begin the next as they began the first: with no previous action and no reward. Segments go on spanning
episodes, so nothing is padded: each token sees the tokens of its own episode.
"""

import jax.numpy as jnp
from jaxtyping import Bool, Int32

from ad_jax.types import Array, Box, Discrete, Steps


def begun_anew(steps: Steps, action: Discrete | Box) -> Steps:
    """Return the steps with the first of every episode as the first of a lifetime is: nothing came before it."""
    first = steps.prev_done
    shape = first.shape + (1,) * (steps.prev_action.ndim - first.ndim)
    none = jnp.asarray(action.none, steps.prev_action.dtype)
    return steps.replace(
        prev_action=jnp.where(first.reshape(shape), none, steps.prev_action),
        prev_reward=jnp.where(first, 0, steps.prev_reward),
        prev_done=jnp.zeros_like(first),
    )


def episodes(prev_done: Bool[Array, "B L"], n: int) -> Int32[Array, "B T"]:
    """Return the number of the episode in its segment that each of the n tokens of each step belongs to."""
    return jnp.repeat(jnp.cumsum(prev_done, axis=1, dtype=jnp.int32), n, axis=1)


def last_boundary(prev_done: Array) -> int:
    """Return the first step of the last episode of `prev_done [t + 1]`, on the host."""
    begun = [step for step, first in enumerate(prev_done) if first]
    return begun[-1] if begun else 0


def age(before: Int32[Array, "*B"], prev_done: Bool[Array, "*B"]) -> Int32[Array, "*B"]:
    """Return the steps of its episode that each row has seen, this one included, after `before`."""
    return jnp.where(prev_done, 1, before + 1)


def age_after(before: Int32[Array, " B"], prev_done: Bool[Array, "B L"]) -> Int32[Array, " B"]:
    """Return what `age` comes to after L steps."""
    length = prev_done.shape[1]
    of_the_last = 1 + jnp.argmax(prev_done[:, ::-1], axis=1).astype(jnp.int32)
    return jnp.where(prev_done.any(axis=1), of_the_last, before + length)


def stretches(
    before: Int32[Array, " B"], begins: Bool[Array, "B L"], window: int, n: int
) -> tuple[Int32[Array, "B T"], Int32[Array, "B S"]]:
    """Return the numbers of the stretches that L new steps belong to, and those of the W - 1 steps before them and of
    themselves, of n tokens each.

    Args:
        before: steps that each row has seen of the stretch that goes on; what is older is -1.
        begins: where another stretch begins.
        window: W, in steps.
        n: tokens of a step.
    """
    ago = jnp.arange(window - 1, 0, -1, dtype=jnp.int32)[None]
    past = jnp.where(ago <= before[:, None], 0, -1)
    new = jnp.cumsum(begins, axis=1, dtype=jnp.int32)
    both = jnp.concatenate([past, new], axis=1)
    return jnp.repeat(new, n, axis=1), jnp.repeat(both, n, axis=1)
