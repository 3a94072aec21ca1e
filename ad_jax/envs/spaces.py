"""From gymnax spaces to what models and stores need, with every refusal: nothing is allocated before it is checked."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces
from numpy.typing import ArrayLike, DTypeLike

from ad_jax.errors import ConfigError
from ad_jax.types import Box, Discrete, PyTree, Spec

ROWS = 65_536  # of the embedding tables of one observation, over its components
Space = spaces.Box | spaces.Discrete

INSTEAD = (
    "Make the observation float32 (numbers), uint8 [height, width, channels] in 0..255 (a picture), or Discrete with "
    "fewer values"
)


def spec_from(name: str, actions: object, space: object, embedded: bool = True) -> Spec:
    """Return the `Spec` of a family called `name` with these gymnax spaces.

    Args:
        name: of the family, for errors.
        actions: what they are, or their gymnax space.
        space: the gymnax space of the observations.
        embedded: whether models see these observations themselves, and not what `render` makes of them.

    Raises:
        ConfigError: for a space that no model here can embed (says which, and what can be).
    """
    action = actions if isinstance(actions, Discrete | Box) else action_from(name, actions)
    if isinstance(space, spaces.Discrete):
        return Spec(action, (), _counted(name, np.array(space.n), embedded))
    if not isinstance(space, spaces.Box):
        raise ConfigError(f"{name}: observations must be Discrete or Box; got {type(space).__name__}")
    dtype, shape = np.dtype(space.dtype), tuple(space.shape)
    if 0 in shape:
        raise ConfigError(f"{name}: an observation has no components; got shape {shape}. Leave at least one")
    if is_picture(dtype, shape, space.high):
        return Spec(action, shape, None, pixels=True)
    if dtype.kind not in "iub":
        if dtype != np.float32:
            raise ConfigError(f"{name}: observations are float32, uint8 or int32; got {dtype}. Cast them to float32")
        return Spec(action, shape, None)
    if np.any(np.asarray(space.low) != 0):
        raise ConfigError(f"{name}: an integer Box must start at 0; got low = {space.low}. Subtract it, or use float32")
    values = np.broadcast_to(np.asarray(space.high, np.float64), shape).reshape(-1) + 1
    return Spec(action, shape, _counted(name, values, embedded))


def action_from(name: str, space: object) -> Discrete | Box:
    """Return what the actions of a family called `name` are, from their gymnax space.

    Raises:
        ConfigError: for a space that is neither Discrete nor a Box of float32 with finite bounds, low < high.
    """
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n))
    if not isinstance(space, spaces.Box):
        raise ConfigError(
            f"{name}: actions must be Discrete or a Box; got {type(space).__name__}. Put the parts of an action into "
            "one Discrete (every combination a number) or into one Box"
        )
    if np.dtype(space.dtype).kind != "f":
        raise ConfigError(f"{name}: actions in a Box must be float32; got {space.dtype}. Cast it, or use Discrete")
    shape = tuple(map(int, space.shape))

    def each(bound):
        return tuple(np.broadcast_to(np.asarray(bound, np.float64), shape).reshape(-1).tolist())

    try:
        return Box(shape, each(space.low), each(space.high))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def is_picture(dtype: DTypeLike, shape: tuple[int, ...], high: ArrayLike) -> bool:
    """Whether a Box is of pictures: uint8 `[height, width, channels]` up to 255."""
    return np.dtype(dtype) == np.uint8 and len(shape) == 3 and bool(np.all(np.asarray(high) == 255))


def _counted(name: str, values: np.ndarray, embedded: bool) -> tuple[int, ...]:
    """How many values each component takes, whole numbers, if a table of all of them can be meant."""
    rows = float(np.sum(values, dtype=np.float64))
    if not np.all(np.isfinite(values)) or (embedded and rows > ROWS):
        raise ConfigError(
            f"{name}: whole numbers are embedded by a table with a row for each value of each component; these "
            f"{values.size} component(s) with up to {np.max(values):.6g} values need {rows:.6g} rows, at most {ROWS:,} "
            f"are allowed. {INSTEAD}"
        )
    if np.any(values < 1):
        raise ConfigError(f"{name}: every component needs at least one value; got {np.min(values):g}")
    return tuple(int(v) for v in values.reshape(-1))


def uniform_space(stated: object, real: PyTree, name: str) -> Space:
    """Return the space that an adapter states for observations that are `real`ly so: Discrete, or a Box.

    Whole numbers stay whole where the space says so, too; pictures stay uint8; all else is float32 without bounds,
    because those of several environments are wrong.

    Args:
        stated: the environment's own gymnax space, whose bounds are believed, and neither shape nor dtype.
        real: shape and dtype of what `observe` gives.
        name: of the environment, for errors.

    Raises:
        ConfigError: if observations are no single array of numbers, or not of the stated space's shape.
    """
    if not hasattr(real, "dtype") or not isinstance(stated, spaces.Box | spaces.Discrete):
        found = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", real)
        raise ConfigError(
            f"{name}: observations must be one array in a Discrete or Box; got {found} in {type(stated).__name__}. "
            "Flatten them into one array"
        )
    whole = real.dtype.kind in "iub"
    if isinstance(stated, spaces.Discrete):
        if whole and real.shape == ():
            return stated
        raise ConfigError(f"{name}: a Discrete space is of whole numbers of shape (); observations are {real}")
    high = np.asarray(stated.high)
    low = np.asarray(stated.low)
    if real.dtype == np.uint8 and len(real.shape) == 3 and np.all(high == 255):
        return spaces.Box(0, 255, tuple(real.shape), jnp.uint8)
    if not (whole and np.issubdtype(np.dtype(stated.dtype), np.integer)):
        if real.dtype.kind not in "iubf" and not jnp.issubdtype(real.dtype, jnp.floating):
            raise ConfigError(f"{name}: observations must be real numbers; got {real.dtype}")
        return spaces.Box(-np.inf, np.inf, tuple(real.shape), jnp.float32)
    try:
        lowest: Any = np.broadcast_to(low, real.shape)
        highest: Any = np.broadcast_to(high, real.shape)
    except ValueError as error:
        raise ConfigError(
            f"{name}: observations have shape {real.shape}, the bounds of their space {high.shape}. Correct the space"
        ) from error
    return spaces.Box(lowest, highest, tuple(real.shape), jnp.int32)
