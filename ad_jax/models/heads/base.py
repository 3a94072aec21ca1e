"""The head contract: what the numbers that a network gives say of the action to take, as a distribution.

A network computes `size` numbers a step. Only its head knows what they mean: how likely an action is, which is the loss
of learning to act; how one is drawn; which is the likeliest. So a backbone, a method and a policy serve every kind of
action, and another distribution is one file and one line in `heads`.

Letters: n components of an action, `*S` the shape of one: `()` for a Discrete action.
"""

from typing import Protocol

import jax


class Head(Protocol):
    """A distribution over one action. Plain data: heads with equal options are equal, and hash alike."""

    @property
    def size(self) -> int:
        """Numbers of the network's output for one action."""
        ...

    def log_prob(self, outputs: jax.Array, target: jax.Array, /) -> jax.Array:
        """Return the logarithm of the probability of actions, in nats.

        Args:
            outputs: `[..., size]` float32.
            target: `[..., *S]`, int32 for Discrete actions; for those of a Box float32 in the environment's units.

        Returns:
            `[...]` float32: of a mass for Discrete actions, of a density in the environment's units for a Box.
        """
        ...

    def sample(self, outputs: jax.Array, keys: jax.Array, temperature: float = 1.0, /) -> jax.Array:
        """Draw an action for each row, `[B, *S]`, from its own outputs `[B, size]` and its own key, which is consumed.

        A temperature below 1 makes likely actions likelier. Actions of a Box are inside it.
        """
        ...

    def mode(self, outputs: jax.Array, /) -> jax.Array:
        """Return the likeliest action `[..., *S]` for outputs `[..., size]`, or for a Box of those that it names."""
        ...

    def highest(self, outputs: jax.Array, /) -> jax.Array:
        """Return a number for each of the outputs `[..., size]`, finite exactly where there is something to choose.

        It is the largest logit, `[...]` float32: NaN or +inf where a number has no meaning, -inf where all are masked.
        """
        ...
