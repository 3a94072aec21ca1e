"""One of n Discrete actions: the outputs are logits."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float32, Int32, Key

from ad_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Categorical:
    """Actions 0..size-1, int32. A logit of -inf masks its action."""

    size: int

    def log_prob(self, outputs: Float32[Array, "*B size"], target: Int32[Array, "*B"]) -> Float32[Array, "*B"]:
        """See `Head`; the mass of an action."""
        return -optax.softmax_cross_entropy_with_integer_labels(outputs, target)

    def sample(
        self, outputs: Float32[Array, "B size"], keys: Key[Array, " B"], temperature: float = 1.0
    ) -> Int32[Array, " B"]:
        """See `Head`; logits are divided by the temperature."""
        return jax.vmap(jax.random.categorical)(keys, outputs / temperature).astype(jnp.int32)

    def greedy(self, outputs: Float32[Array, "*B size"]) -> Int32[Array, "*B"]:
        """See `Head`; of equals the first."""
        return jnp.argmax(outputs, axis=-1).astype(jnp.int32)

    def highest(self, outputs: Float32[Array, "*B size"]) -> Float32[Array, "*B"]:
        """See `Head`."""
        return outputs.max(axis=-1)  # which keeps NaN
