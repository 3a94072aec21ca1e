"""(observation, previous action, reward and done) -> token embeddings; the only place that knows their order.

Two layouts. `"step"`: one token a step, the sum of all parts. `"triple"`: three tokens a step, previous action,
previous reward (with done), observation; read in sequence that is o, a, r, o, a, r, ... of Laskin et al. 2022
(section 3), with logits taken at the observation. Integer observations have one embedding table per component: x and y
of a grid apart generalise to unseen cells, one table per cell does not. Real observations enter through a linear map.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ad_jax.types import Spec, Steps

Layout = Literal["step", "triple"]


class Tokenizer(nnx.Module):
    """Embeds steps `[..., ]` as tokens `[..., n, D]`, n = `tokens_per_step(layout)`."""

    def __init__(self, spec: Spec, width: int, layout: Layout, scale: float, *, rngs: nnx.Rngs):
        table = lambda rows: nnx.Embed(rows, width, embedding_init=nnx.initializers.normal(scale), rngs=rngs)
        dense = lambda rows: nnx.Linear(
            rows, width, kernel_init=nnx.initializers.normal(scale), use_bias=False, rngs=rngs
        )
        self.spec, self.layout = spec, layout
        self.observation = dense(spec.size) if spec.values is None else table(sum(spec.values))
        self.action = table(spec.num_actions + 1)  # the last row is "none", before the first action
        self.reward = dense(1)
        self.done = table(2)

    def __call__(self, steps: Steps) -> jax.Array:
        """Tokens `[..., n, D]` float32 of steps `[...]`."""
        action = self.action(steps.prev_action)
        reward = self.reward(steps.prev_reward[..., None]) + self.done(steps.prev_done.astype(jnp.int32))
        if self.layout == "step":
            return (self.embed_observation(steps.observation) + action + reward)[..., None, :]
        return jnp.stack([action, reward, self.embed_observation(steps.observation)], axis=-2)

    def embed_observation(self, observation: jax.Array) -> jax.Array:
        """`[..., *O]` -> `[..., D]`."""
        lead = observation.ndim - len(self.spec.shape)
        flat = observation.reshape(*observation.shape[:lead], self.spec.size)
        if self.spec.values is None:
            return self.observation(flat.astype(jnp.float32))
        first_row = np.cumsum((0, *self.spec.values[:-1]), dtype=np.int32)
        rows = flat.astype(jnp.int32) + jnp.asarray(first_row).reshape((1,) * lead + (-1,))
        return self.observation(rows).sum(axis=-2)


def tokens_per_step(layout: Layout) -> int:
    """N."""
    return 1 if layout == "step" else 3
