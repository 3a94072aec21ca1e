"""One of n Discrete actions: the outputs are logits."""

import dataclasses

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class Categorical:
    """Actions 0..size-1, int32. A logit of -inf masks its action."""

    size: int

    def log_prob(self, outputs: jax.Array, target: jax.Array) -> jax.Array:
        """See `Head`; the mass of an action."""
        return -optax.softmax_cross_entropy_with_integer_labels(outputs, target)

    def sample(self, outputs: jax.Array, keys: jax.Array, temperature: float = 1.0) -> jax.Array:
        """See `Head`; logits are divided by the temperature."""
        return jax.vmap(jax.random.categorical)(keys, outputs / temperature).astype(jnp.int32)

    def mode(self, outputs: jax.Array) -> jax.Array:
        """See `Head`; of equals the first."""
        return jnp.argmax(outputs, axis=-1).astype(jnp.int32)

    def highest(self, outputs: jax.Array) -> jax.Array:
        """See `Head`."""
        return outputs.max(axis=-1)  # which keeps NaN
