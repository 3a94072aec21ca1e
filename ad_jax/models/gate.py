"""The gate of GTrXL, which takes the place of a residual sum: what a branch says enters as far as the gate lets it.

Source: Parisotto et al. 2019 (arXiv 1910.06764), section 3.2, "gated-recurrent-unit-type gating", and section 3.1 for
the branch, which is normalized before and rectified after. Letters: D width.
"""

import jax
import jax.numpy as jnp
from flax import nnx

BIAS = 2.0  # b_g: at the start the gate lets x through, which is what makes reinforcement learning start (section 4.3)
PARTITION = ((r"block_\d+/gate_\w+/(branch|stream|inside)/kernel", ("embed", None)),)


class Gate(nnx.Module):
    """Join the stream x and a branch y, `[..., D]` each: a GRU whose state is x and whose input is y."""

    def __init__(self, width: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        def linear(outputs):
            return nnx.Linear(width, outputs, use_bias=False, dtype=dtype, rngs=rngs)

        # Side by side what does not wait for another: reset, update and candidate of y; reset and update of x.
        self.branch, self.stream, self.inside = linear(3 * width), linear(2 * width), linear(width)

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Return float32 `[..., D]`."""
        y_reset, y_update, y_candidate = jnp.split(self.branch(y).astype(jnp.float32), 3, axis=-1)
        x_reset, x_update = jnp.split(self.stream(x).astype(jnp.float32), 2, axis=-1)
        reset, update = jax.nn.sigmoid(y_reset + x_reset), jax.nn.sigmoid(y_update + x_update - BIAS)
        candidate = jnp.tanh(y_candidate + self.inside(reset * x).astype(jnp.float32))
        return (1 - update) * x + update * candidate
