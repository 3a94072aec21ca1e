"""One reset and one step of a family, with pinned types: our loops call nothing else of it to move.

A family may return Python's numbers, a weakly typed state or whole rewards; here they become arrays of one type, so
that a loop can carry them and nothing is compiled twice. What would be changed by a cast is refused, and named.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import DTypeLike

from ad_jax.envs.spaces import is_picture
from ad_jax.errors import ConfigError, user_code
from ad_jax.keys import a_key, as_data, as_keys
from ad_jax.types import PyTree, Transition

if TYPE_CHECKING:
    from ad_jax.envs.base import TaskFamily

NARROW = {"int64": "int32", "uint64": "uint32", "float64": "float32"}  # also where jax_enable_x64 is set


@contextlib.contextmanager
def lenient() -> Iterator[None]:
    """Run code of other libraries, which is written for JAX's usual promotion rules."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@struct.dataclass
class Outcome:
    """What one environment step gave, before any reset."""

    next_observation: jax.Array  # of the same episode, also when it has just ended
    next_state: PyTree  # likewise; for sources that are given more than the observation
    reward: jax.Array  # [] float32
    terminated: jax.Array  # [] bool
    truncated: jax.Array  # [] bool

    @property
    def done(self) -> jax.Array:
        """[] bool, the episode ended, for either reason."""
        return self.terminated | self.truncated

    def transition(self, observation: jax.Array, action: jax.Array) -> Transition:
        """Return the step from `observation` by `action`, as a source hands it out."""
        ends = self.terminated, self.truncated
        return Transition(observation, action, self.reward, *ends, self.next_observation)


def reset(family: "TaskFamily", key: jax.Array, task: PyTree) -> tuple[jax.Array, PyTree]:
    """Return the first observation and the state of a new episode. The key is consumed.

    Raises:
        ConfigError: for an observation that is not of the stated space's shape and kind, or a state of no arrays.
    """
    given = family.reset_env(key, task)
    if not (isinstance(given, tuple) and len(given) == 2):
        raise _wrong(family, f"reset_env gives {type(given).__name__}; expected (observation, state)")
    observation, state = given
    leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    typed = [_strong(family, f"state{jax.tree_util.keystr(path)} of reset_env", leaf) for path, leaf in leaves]
    return _observation(family, "reset_env", observation), jax.tree.unflatten(structure, typed)


def step(family: "TaskFamily", key: jax.Array, state: PyTree, action: jax.Array, task: PyTree) -> Outcome:
    """One step, without what follows the end of an episode. The key is consumed.

    Raises:
        ConfigError: for what is not of the stated or the state's own types, and no cast brings there unchanged; for an
            action of another shape or kind than is stated.
    """
    stated, found = family.action_spec, jax.eval_shape(jnp.asarray, action)
    if (found.shape, found.dtype.kind == "f") != (stated.shape, stated.compute_dtype.kind == "f"):
        expected = f"expected {stated.compute_dtype}{list(stated.shape)}, as action_space says"
        raise _wrong(family, f"an action of {found.dtype}{list(found.shape)}; {expected}")
    given = family.step_env(key, state, action, task)
    if not (isinstance(given, tuple) and len(given) == 5):
        size = f" of {len(given)}" if isinstance(given, tuple) else ""
        expected = "expected (observation, state, reward, terminated, info)"
        raise _wrong(family, f"step_env gives {type(given).__name__}{size}; {expected}")
    observation, after, reward, terminated, _ = given
    after = _as_before(family, state, after)
    terminated = _cast(family, "terminated", terminated, np.dtype(bool), ())
    cut = _cast(family, "is_truncated", family.is_truncated(after, task), np.dtype(bool), ())
    reward = _cast(family, "the reward", reward, np.dtype(np.float32), ())
    return Outcome(_observation(family, "step_env", observation), after, reward, terminated, cut & ~terminated)


def advance(
    family: "TaskFamily", key: jax.Array, state: PyTree, action: jax.Array, task: PyTree
) -> tuple[jax.Array, PyTree, Outcome]:
    """One environment step, and the start of the next episode where this one ended.

    The task stays; the start is drawn afresh. The key is consumed.

    Returns:
        The observation to act on next, the state to step next, and the step's `Outcome`.
    """
    key_step, key_reset = jax.random.split(key)
    outcome = step(family, key_step, state, action, task)
    fresh = reset(family, key_reset, task)

    def pick(new, old):
        return jnp.where(outcome.done, new, old)

    observation, state = jax.tree.map(pick, fresh, (outcome.next_observation, outcome.next_state))
    return observation, state, outcome


def check_types(family: "TaskFamily") -> None:
    """See that the family's tasks can be stored, and that it can be reset and stepped. Compiles nothing.

    Raises:
        ConfigError: naming what cannot be used; what fails inside the family's own code, with its line.
    """
    with user_code(f"task family {family.name}"):
        task, key = family.default_params, jax.eval_shape(lambda: a_key(0))
        check_task(family, task)
        _, state = jax.eval_shape(lambda key, task: reset(family, key, task), key, task)
        action = jax.ShapeDtypeStruct(family.action_spec.shape, family.action_spec.compute_dtype)
        jax.eval_shape(lambda *args: advance(family, *args), key, state, action, task)


def check_task(family: "TaskFamily", task: PyTree) -> None:
    """Raise ConfigError for a leaf of a task that histories could not hold, or two of one name."""
    names = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(task):
        name, x = path_name(path), _array(family, f"task leaf {path_name(path)}", leaf)
        if not all(part.isidentifier() or part.isdecimal() for part in name.split(".")) or name in names:
            raise _wrong(family, f"task leaf {name!r} has no name of its own that is made of letters and digits")
        names.add(name)
        number = x.dtype == bool or jnp.issubdtype(x.dtype, jnp.integer) or jnp.issubdtype(x.dtype, jnp.floating)
        if not (number or is_key(x)):
            raise _wrong(family, f"task leaf {name} is {x.dtype}; expected real numbers, or a random key")


def path_name(path: tuple[PyTree, ...]) -> str:
    """Return the dotted path of a task's leaf, by which stores name it: `goal`, `goals.0`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def stored(leaf: PyTree) -> np.ndarray:
    """Return a task leaf as histories hold it.

    Floats that NumPy itself does not know, such as bfloat16, as float32; random keys as their data.
    """
    x = np.asarray(as_data(leaf))
    return x.astype(np.float32) if x.dtype.kind == "V" else x


def as_task(leaf: PyTree, default: PyTree) -> jax.Array:
    """Inverse of `stored`, `default` being that leaf of the family's `default_params`."""
    if is_key(template := jnp.asarray(default)):
        return as_keys(jnp.asarray(leaf), template)
    x, dtype = jnp.asarray(leaf), template.dtype
    return x.astype(dtype) if dtype.kind == "V" else x


def narrow(dtype: DTypeLike) -> np.dtype:
    """Return a dtype of at most 32 bits, which is what programs here use, whether or not JAX may use 64."""
    return np.dtype(NARROW.get(np.dtype(dtype).name, dtype))


def is_key(x: PyTree) -> bool:
    """Whether an array, or the shape of one, holds typed random keys."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _observation(family: "TaskFamily", where: str, observation: PyTree) -> jax.Array:
    space = family.observation_space(family.default_params)
    dtype, shape = narrow(space.dtype), tuple(space.shape)
    # Whole numbers keep 32 bits until they have been looked at: 300 in a space of uint8 must not become 44 here.
    if dtype.kind in "iu" and not is_picture(dtype, shape, getattr(space, "high", 0)):
        dtype = np.dtype(np.int32)
    return _cast(family, f"{where}'s observation", observation, dtype, shape)


def _as_before(family: "TaskFamily", before: PyTree, after: PyTree) -> PyTree:
    """Return the state after a step, with the types of the one before it."""
    (old, structure), (new, other) = (jax.tree_util.tree_flatten_with_path(tree) for tree in (before, after))
    if structure != other:
        raise _wrong(family, f"step_env gives a state of another structure, {other}; reset_env gave {structure}")
    cast = []
    for (path, x), (_, y) in zip(old, new, strict=True):
        x, what = jnp.asarray(x), f"state{jax.tree_util.keystr(path)} of step_env"
        cast.append(_cast(family, what, y, x.dtype, x.shape))
    return jax.tree.unflatten(structure, cast)


def _array(family: "TaskFamily", what: str, value: PyTree) -> jax.Array:
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise _wrong(family, f"{what} is {type(value).__name__}; expected an array or a number") from error


def _strong(family: "TaskFamily", what: str, value: PyTree) -> jax.Array:
    """Return an array of a type that does not change with what it is computed with; Python's numbers get 32 bits."""
    x = _array(family, what, value)
    return x if is_key(x) else x.astype(narrow(x.dtype) if getattr(x, "weak_type", False) else x.dtype)


def _cast(family: "TaskFamily", what: str, value: PyTree, dtype: DTypeLike, shape: tuple[int, ...]) -> jax.Array:
    x = _array(family, what, value)
    if x.shape != shape or not _keeps(x, dtype):
        raise _wrong(family, f"{what} is {x.dtype}{list(x.shape)}; expected {dtype}{list(shape)}. Cast it there")
    return x if is_key(x) else x.astype(dtype)


def _keeps(x: PyTree, dtype: DTypeLike) -> bool:
    """Whether a cast to `dtype` keeps every value of x's type, or x is Python's, or 64 bits become 32."""
    if x.dtype == dtype or is_key(x) or jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return x.dtype == dtype
    a, b = (next(i for i, kind in enumerate(KINDS) if jnp.issubdtype(d, kind)) for d in (x.dtype, dtype))
    if a != b or getattr(x, "weak_type", False):
        return a <= b and np.dtype(dtype) != bool
    limits = jnp.iinfo if a == 1 else jnp.finfo
    old, new = limits(narrow(x.dtype)), limits(dtype)
    return bool(new.min <= old.min and new.max >= old.max)


KINDS = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)  # a number of each can be one of the next


def _wrong(family: "TaskFamily", what: str) -> ConfigError:
    return ConfigError(f"task family {family.name}: {what}")
