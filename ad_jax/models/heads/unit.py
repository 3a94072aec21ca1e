"""Actions of a Box as numbers from -1 to 1 in every component, which is how networks see and give them, and back."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Float64

from ad_jax.types import Array, Box


def to_unit(box: Box, action: Float[Array, "..."]) -> Float32[Array, "*B n"]:
    """Actions `[*B, *S]` in the environment's units as numbers from -1 to 1; what is outside is clipped."""
    flat = action.reshape(*action.shape[: action.ndim - len(box.shape)], box.size)
    middle, half = (_for(flat, x) for x in _middle(box))
    return jnp.clip((flat.astype(jnp.float32) - middle) / half, -1.0, 1.0)


def from_unit(box: Box, unit: Float32[Array, "*B n"]) -> Float32[Array, "..."]:
    """Undo `to_unit`: numbers from -1 to 1 as actions `[*B, *S]`, never outside the Box by a rounding."""
    middle, half = (_for(unit, x) for x in _middle(box))
    low, high = (_for(unit, x.reshape(-1)) for x in box.bounds)
    return jnp.clip(middle + unit * half, low, high).reshape(*unit.shape[:-1], *box.shape)


def log_volume(box: Box) -> float:
    """Return the logarithm of what a density in [-1, 1] is larger by than the same in the environment's units."""
    return float(np.log(_middle(box)[1]).sum())


def _middle(box: Box) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Middle and half width of every component: the width of a large Box is no float32."""
    low, high = (x.astype(np.float64).reshape(-1) for x in box.bounds)
    return (low + high) / 2, (high - low) / 2


def _for(x: Float[Array, "*B n"], of_components: Float[np.ndarray, " n"]) -> Float32[Array, "*_ n"]:
    """Numbers of the components beside actions."""
    return jnp.asarray(of_components, jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))
