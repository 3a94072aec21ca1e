"""Distributions of the real numbers that differ between tasks: `(low, high)`, or with how they are drawn.

(low, high)             uniform
(low, high, "log")      log-uniform
(low, high, "signed")   the size uniform, the sign + or - with equal chance
"""

import math
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from ad_jax.errors import ConfigError
from ad_jax.files import Json

HOW = ("log", "signed")  # ways to draw a real number other than uniformly
Range = tuple[Json, ...]  # (low, high), or (low, high, one of HOW)


class Ranges(dict[str, Range]):
    """Ranges by name: a dict that can be hashed, so that a family that holds one can."""

    def __init__(self, given: Mapping[str, Range] | Iterable[tuple[str, Range]]):
        super().__init__(sorted(dict(given).items()))

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(tuple(self.items()))


def is_number(x: object, kind: type = float) -> bool:
    """Whether `x` is a finite number, a whole one if `kind` is int."""
    allowed = int if kind is int else int | float
    return isinstance(x, allowed) and not isinstance(x, bool) and math.isfinite(x)


def real_range(where: str, given: object) -> Range:
    """Return a range of real numbers, checked.

    Raises:
        ConfigError: naming `where`, for anything but `[low, high]` or `[low, high, how]` with low < high.
    """
    parts: Range = tuple(given) if isinstance(given, list | tuple) else ()
    bounds, rest = parts[:2], parts[2:]
    numbers = len(bounds) == 2 and all(map(is_number, bounds))
    if not numbers or rest not in [(), *((how,) for how in HOW)] or not bounds[0] < bounds[1]:
        more = "".join(f' or [low, high, "{how}"]' for how in HOW)
        raise ConfigError(f"{where} expects numbers [low, high]{more}, low < high; got {given!r}")
    if rest and bounds[0] <= 0:
        raise ConfigError(f'{where}: "{rest[0]}" needs a low bound above 0; got {given!r}')
    return (float(bounds[0]), float(bounds[1]), *rest)


def draw(key: jax.Array, given: Range, n: int) -> jax.Array:
    """Draw n real numbers of a range, `[n]` float32. The key is consumed."""
    low, high, *how = given
    if how == ["log"]:
        drawn = jnp.exp(jax.random.uniform(key, (n,), jnp.float32, minval=math.log(low), maxval=math.log(high)))
        return jnp.clip(drawn, low, high)  # rounding must not leave the range
    if how == ["signed"]:
        drawn = jax.random.uniform(key, (n,), jnp.float32, minval=-1.0)  # the sign, and where between low and high
        return jnp.copysign(jnp.clip(low + (high - low) * jnp.abs(drawn), low, high), drawn)
    return jax.random.uniform(key, (n,), jnp.float32, minval=low, maxval=high)
