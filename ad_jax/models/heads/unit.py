"""Actions of a Box as numbers from -1 to 1 in every component, which is how networks see and give them, and back."""

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.types import Box


def to_unit(box: Box, action: jax.Array) -> jax.Array:
    """Actions `[..., *S]` in the environment's units as `[..., n]` float32 from -1 to 1; what is outside is clipped."""
    flat = action.reshape(*action.shape[: action.ndim - len(box.shape)], box.size)
    middle, half = (_for(flat, x) for x in _middle(box))
    return jnp.clip((flat.astype(jnp.float32) - middle) / half, -1.0, 1.0)


def from_unit(box: Box, unit: jax.Array) -> jax.Array:
    """Undo `to_unit`: `[..., n]` from -1 to 1 as `[..., *S]` float32, never outside the Box by a rounding."""
    middle, half = (_for(unit, x) for x in _middle(box))
    low, high = (_for(unit, x.reshape(-1)) for x in box.bounds)
    return jnp.clip(middle + unit * half, low, high).reshape(*unit.shape[:-1], *box.shape)


def log_volume(box: Box) -> float:
    """Return the logarithm of what a density in [-1, 1] is larger by than the same in the environment's units."""
    return float(np.log(_middle(box)[1]).sum())


def _middle(box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Middle and half width of every component, `[n]` float64: the width of a large Box is no float32."""
    low, high = (x.astype(np.float64).reshape(-1) for x in box.bounds)
    return (low + high) / 2, (high - low) / 2


def _for(x: jax.Array, of_components: np.ndarray) -> jax.Array:
    """Numbers `[n]` beside actions `[..., n]`."""
    return jnp.asarray(of_components, jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))
