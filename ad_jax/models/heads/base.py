"""The head contract: what the numbers that a network gives say of the action to take, as a distribution.

A network computes `size` numbers a step. Only its head knows what they mean: how likely an action is, which is the loss
of learning to act; how one is drawn; which one is taken where none is drawn. So a backbone, a method and a policy serve
every kind of action, and another distribution is one file and one line in `heads`.

Letters: n components of an action, `*S` the shape of one: `()` for a Discrete action.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float32, Key, Num

from ad_jax.types import Array


@runtime_checkable
class Head(Protocol):
    """A distribution over one action. Plain data: heads with equal options are equal, and hash alike."""

    @property
    def size(self) -> int:
        """Numbers of the network's output for one action."""
        ...

    def log_prob(self, outputs: Float32[Array, "*B size"], target: Num[Array, "..."], /) -> Float32[Array, "*B"]:
        """Return the logarithm of the probability of actions, in nats.

        Args:
            outputs: what the network gives.
            target: `[*B, *S]`, int32 for Discrete actions; for those of a Box float32 in the environment's units.

        Returns:
            Of a mass for Discrete actions, of a density in the environment's units for a Box.
        """
        ...

    def sample(
        self, outputs: Float32[Array, "B size"], keys: Key[Array, " B"], temperature: float = 1.0, /
    ) -> Num[Array, "B *S"]:
        """Draw an action for each row from its own outputs and its own key, which is consumed.

        A temperature below 1 makes likely actions likelier. Actions of a Box are inside it.
        """
        ...

    def greedy(self, outputs: Float32[Array, "*B size"], /) -> Num[Array, "..."]:
        """Return the action `[*B, *S]` that is taken where none is drawn, for each of the outputs.

        It is the likeliest of Discrete actions, and for a Box what the head says.
        """
        ...

    def highest(self, outputs: Float32[Array, "*B size"], /) -> Float32[Array, "*B"]:
        """Return a number for each of the outputs, finite exactly where there is something to choose.

        It is the largest logit: NaN or +inf where a number has no meaning, -inf where all are masked.
        """
        ...
