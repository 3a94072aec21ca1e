"""Actions of a Box, each component by itself in equal bins: the outputs are the logits of every component's bins.

Any shape of distribution of one component, a heap at a bound included; none of how components depend on each other. An
action is known to the width of a bin.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Key

from ad_jax.models.heads.unit import from_unit, log_volume, to_unit
from ad_jax.types import Array, Box


@dataclasses.dataclass(frozen=True)
class Binned:
    """Actions `[*S]` float32 of `box`, in so many bins a component. A logit of -inf masks its bin."""

    box: Box
    bins: int = 32

    @property
    def size(self) -> int:
        """A logit for each bin of each component, the bins of a component side by side."""
        return self.box.size * self.bins

    def log_prob(self, outputs: Float32[Array, "*B size"], target: Float32[Array, "..."]) -> Float32[Array, "*B"]:
        """See `Head`: a density, the same everywhere in a bin."""
        place = (to_unit(self.box, target) + 1) * (self.bins / 2)
        index = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, self.bins - 1)
        logs = jax.nn.log_softmax(self._logits(outputs))
        mass = jnp.take_along_axis(logs, index[..., None], axis=-1)[..., 0].sum(-1)
        return mass - (log_volume(self.box) + self.box.size * np.log(2 / self.bins).item())

    def sample(
        self, outputs: Float32[Array, "B size"], keys: Key[Array, " B"], temperature: float = 1.0
    ) -> Float32[Array, "B *S"]:
        """See `Head`: a bin from logits divided by the temperature, and a place in it, all as likely."""

        def draw(logits, key):
            key_bin, key_place = jax.random.split(key)
            index = jax.random.categorical(key_bin, logits / temperature)
            return index.astype(jnp.float32) + jax.random.uniform(key_place, index.shape, jnp.float32)

        return self._at(jax.vmap(draw)(self._logits(outputs), keys))

    def greedy(self, outputs: Float32[Array, "*B size"]) -> Float32[Array, "..."]:
        """See `Head`: the middle of the bin that holds each component's median.

        Not that of the likeliest bin, which is often one at a bound while the model does not know which way to go: it
        then goes one way by a hair, sees itself go there, and goes on for ever. The median is near the middle until
        more than half says one way, and at a bound where the source's actions heap up there.
        """
        below = jnp.cumsum(jax.nn.softmax(self._logits(outputs)), axis=-1)
        return self._at((below < 0.5).sum(axis=-1).astype(jnp.float32) + 0.5)

    def highest(self, outputs: Float32[Array, "*B size"]) -> Float32[Array, "*B"]:
        """See `Head`; the sum over components, which is finite where each of them is."""
        return self._logits(outputs).max(axis=-1).sum(axis=-1)

    def _logits(self, outputs: Float32[Array, "*B size"]) -> Float32[Array, "*B n bins"]:
        return outputs.reshape(*outputs.shape[:-1], self.box.size, self.bins)

    def _at(self, place: Float32[Array, "*B n"]) -> Float32[Array, "..."]:
        """Return the action that lies at `place`, in bins from the lower bound."""
        return from_unit(self.box, place * (2 / self.bins) - 1)
