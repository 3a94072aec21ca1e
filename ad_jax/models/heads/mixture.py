"""Actions of a Box from a mixture of Gaussians that are cut off at its bounds: the outputs are weights, means, widths.

A component is a Gaussian of its own mean and width in each dimension, restricted to the Box and normalized there. So a
joint action has several peaks of any width, and components of it depend on each other through the choice of a peak. A
Gaussian pushed through tanh would have no density at the bounds, where many a source acts; one that is clipped has none
beside its heaps. Means are inside the Box: between a mean and both bounds a Gaussian's mass is a sum and no difference,
which no width, however small or large, brings to zero.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf, logsumexp
from jaxtyping import Float32, Key

from ad_jax.models.heads.unit import from_unit, log_volume, to_unit
from ad_jax.types import Array, Box

NARROWEST = 0.01  # width, of half the Box: what a heap of equal actions, as at a bound, is taken for


class Gaussians(NamedTuple):
    """The components, in a Box from -1 to 1."""

    logits: Float32[Array, "*B K"]
    mean: Float32[Array, "*B K n"]  # from -1 to 1
    width: Float32[Array, "*B K n"]  # the standard deviation before it is cut off


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Actions `[*S]` float32 of `box` from so many components, K."""

    box: Box
    components: int = 4

    @property
    def size(self) -> int:
        """The weights' logits, then the means, then the widths."""
        return self.components * (1 + 2 * self.box.size)

    def log_prob(self, outputs: Float32[Array, "*B size"], target: Float32[Array, "..."]) -> Float32[Array, "*B"]:
        """See `Head`: a density."""
        return self._density(self._gaussians(outputs), to_unit(self.box, target)) - log_volume(self.box)

    def sample(
        self, outputs: Float32[Array, "B size"], keys: Key[Array, " B"], temperature: float = 1.0
    ) -> Float32[Array, "B *S"]:
        """See `Head`: each component is raised to the power of 1 / temperature, and so are their weights."""

        def draw(g, key):
            key_which, key_place = jax.random.split(key)
            which = jax.random.categorical(key_which, g.logits / temperature)
            mean, width = g.mean[which], g.width[which] * np.sqrt(temperature).item()
            low, high = (-1 - mean) / width, (1 - mean) / width
            standard = jax.random.truncated_normal(key_place, low, high, mean.shape, jnp.float32)
            return jnp.clip(mean + width * standard, -1.0, 1.0)

        return from_unit(self.box, jax.vmap(draw)(self._gaussians(outputs), keys))

    def greedy(self, outputs: Float32[Array, "*B size"]) -> Float32[Array, "..."]:
        """See `Head`: the mean of the component of largest weight, which is where a low temperature draws.

        Of all means the one of highest density would be that of a narrow component, however rare.
        """
        g = self._gaussians(outputs)
        best = jnp.argmax(g.logits, axis=-1)
        return from_unit(self.box, jnp.take_along_axis(g.mean, best[..., None, None], axis=-2)[..., 0, :])

    def highest(self, outputs: Float32[Array, "*B size"]) -> Float32[Array, "*B"]:
        """See `Head`: NaN, too, where a mean or a width is no finite number."""
        logits, places = jnp.split(outputs, [self.components], axis=-1)
        return jnp.where(jnp.isfinite(places).all(axis=-1), logits.max(axis=-1), jnp.nan)

    def _gaussians(self, outputs: Float32[Array, "*B size"]) -> Gaussians:
        """Return the components that outputs stand for."""
        n = self.box.size
        split = [self.components, self.components * (1 + n)]
        logits, mean, width = jnp.split(outputs, split, axis=-1)

        def of_each(x):
            return x.reshape(*outputs.shape[:-1], self.components, n)

        return Gaussians(logits, jnp.tanh(of_each(mean)), NARROWEST + jax.nn.softplus(of_each(width)))

    def _density(self, g: Gaussians, unit: Float32[Array, "*B n"]) -> Float32[Array, "*B"]:
        """Return the logarithm of the density at `unit`."""
        scaled = (unit[..., None, :] - g.mean) / g.width
        root = np.sqrt(0.5).item()
        inside = erf((1 - g.mean) / g.width * root) + erf((1 + g.mean) / g.width * root)  # twice the mass in the Box
        each = -0.5 * scaled**2 - jnp.log(g.width * inside) + np.log(2 / np.sqrt(2 * np.pi)).item()
        return logsumexp(jax.nn.log_softmax(g.logits) + each.sum(-1), axis=-1)
