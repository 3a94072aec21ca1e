"""Array containers and specs that cross a module boundary, and the repository's alphabet of dimensions.

    N tasks     S seeds      H histories   T steps of a history   E episodes
    B batch     L segment    W window      D width                A actions     K heads

Units: a *step* is one environment step; an *episode* ends when the environment terminates or truncates; a
*learning history* is every step of one actor of one source learner on one task, in order.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, TypeVar

import jax
import numpy as np
from flax import struct

from ad_jax.errors import ConfigError
from ad_jax.files import JsonObject

Array = Any  # a `jax.Array` in a program, a NumPy array on the host
Tree = TypeVar("Tree")  # the same kind of tree in and out
PyTree = Any  # a tree of arrays, or of what stands for them: parameters, tasks, states, shapes, shardings


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Actions 0..n-1. Their shape is `()`, and they are int32 in programs."""

    n: int

    shape = ()
    size = 1
    compute_dtype = np.dtype(np.int32)

    @property
    def dtype(self) -> np.dtype:
        """The narrowest dtype that holds an action."""
        return narrowest(self.n - 1)

    @property
    def none(self) -> int:
        """The previous action of the first step of a lifetime: n, which is no action."""
        return self.n

    @property
    def dtype_with_none(self) -> np.dtype:
        """The narrowest dtype that holds an action or "none"."""
        return narrowest(self.n)

    @property
    def one(self) -> np.ndarray:
        """Some action, where none is meant."""
        return np.zeros((), np.int32)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Actions `shape` drawn uniformly, int32."""
        return rng.integers(0, self.n, shape).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Box:
    """Actions of float32 `[*shape]` between finite bounds, each component with its own, in the environment's units.

    A bound for all components may be given as one number. Afterwards `low` and `high` are tuples of a float32 for each
    component, in row-major order; `bounds` gives them as arrays.

    Raises:
        ConfigError: for an action of no components, bounds that are not finite or not one for each component, or a low
            bound that is not below its high one.
    """

    shape: tuple[int, ...]
    low: tuple[float, ...] | float
    high: tuple[float, ...] | float

    dtype = dtype_with_none = compute_dtype = np.dtype(np.float32)
    none = 0.0  # every component of the previous action of the first step of a lifetime

    def __post_init__(self) -> None:
        """Check the bounds, and make equal boxes equal however they were given."""
        for name in ("low", "high"):
            object.__setattr__(self, name, self._each(name, getattr(self, name)))
        if self.size < 1:
            raise ConfigError(f"actions in a Box: expected at least 1 component, received shape {self.shape}")
        for i, (low, high) in enumerate(zip(*self._bounds, strict=True)):
            if not low < high:
                raise ConfigError(
                    f"actions in a Box: expected low < high, received {low:g} and {high:g} for component {i}. Leave "
                    "out a component that cannot differ"
                )

    @property
    def size(self) -> int:
        """Number of components of one action."""
        return math.prod(self.shape)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """`low` and `high`, float32 `[*shape]` each."""
        low, high = (np.asarray(x, np.float32).reshape(self.shape) for x in self._bounds)
        return low, high

    @property
    def one(self) -> np.ndarray:
        """Some action, where none is meant."""
        return self.bounds[0]

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Actions `[*shape, *self.shape]` drawn uniformly, float32."""
        low, high = self.bounds
        return np.clip(rng.uniform(low, high, (*shape, *self.shape)).astype(np.float32), low, high)

    @property
    def _bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.low, self.high  # pyright: ignore[reportReturnType]  # tuples since `__post_init__`

    def _each(self, name: str, given: Array) -> tuple[float, ...]:
        """Return a bound for each component."""
        numbers = [given] * self.size if np.ndim(given) == 0 else list(given)
        with np.errstate(over="ignore"):
            found = tuple(float(np.float32(x)) for x in numbers)
        if len(found) != self.size:
            raise ConfigError(
                f"actions in a Box: expected 1 or {self.size} numbers for {name}, received {len(found)}. Flatten them, "
                "row-major"
            )
        if not all(map(math.isfinite, found)):
            raise ConfigError(
                f"actions in a Box: expected finite bounds, received {name}={numbers}. State what the environment "
                "takes; an unbounded action can be squashed inside step_env, by tanh for example"
            )
        return found


class Transition(struct.PyTreeNode):
    """What one actor saw, did and received. Leading axes are the caller's (`[T, actors]` from a source)."""

    observation: Array  # [..., *O] before the action
    action: Array  # [...] int32, or [..., *action.shape] float32 where actions are a Box; environment units
    reward: Array  # [...] float32, for this action
    terminated: Array  # [...] bool, the environment ended the episode with this step
    truncated: Array  # [...] bool, the time limit did
    # [..., *O] what the action led to, before any reset; None where it was not asked for (`collect.next_observation`)
    next_observation: Array | None = None
    # [..., A] float32, what the source held of each action when it acted, values or logits; `collect.preferences`
    preferences: Array | None = None
    # [..., F] float32, what the last layer of the source's network saw when it acted; `collect.features`
    features: Array | None = None

    @property
    def done(self) -> Array:
        """[...] bool, the episode ended, for either reason."""
        return self.terminated | self.truncated


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """The input of a sequence model: at each step the current observation and what led to it.

    The first step of a lifetime has `prev_action == num_actions` ("none"), zero reward and `prev_done` False. At an
    episode boundary the observation is the new episode's first, and the previous triple is the old one's last.
    Actions in a `Box` are float32 in the environment's units, as they were stored, and zeros at the first step of a
    lifetime; a model rescales them by the bounds of its `Spec.action`.
    `extra` holds what a method adds to that, of the current step; the model's `Spec.extra` declares it.
    """

    observation: Array  # [B, L, *O] (decode: [B, *O])
    prev_action: Array  # [B, L] int32 in 0..A, where A means "none"; of a Box [B, L, *action.shape] float32
    prev_reward: Array  # [B, L] float32
    prev_done: Array  # [B, L] bool
    extra: dict[str, Array] = dataclasses.field(default_factory=dict)  # each [B, L, *shape] float32

    def replace(self, **changes: PyTree) -> "Steps":
        """Return the steps with other fields."""
        return dataclasses.replace(self, **changes)

    def tree_flatten_with_keys(self) -> tuple[list[tuple[PyTree, PyTree]], tuple[str, ...]]:
        """Flatten for JAX: without `extra` where it is empty, so that checkpoints of before there was one fit."""
        names = tuple(name for name, value in vars(self).items() if name != "extra" or value)
        return [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names], names

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], fields: Iterable[PyTree]) -> "Steps":
        """Rebuild for JAX."""
        return cls(**dict(zip(names, fields, strict=True)))


class Batch(struct.PyTreeNode):
    """Training windows: inputs, and targets by name. `action` is what the source did; a method may add others."""

    steps: Steps  # [B, L]
    targets: dict[str, Array]  # each [B, L, ...]; whole numbers are int32, real ones float32


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a model and a store need to know of a task family; plain data, saved with both.

    Attributes:
        action: what an action is: `Discrete(n)`, or a `Box` of real numbers.
        shape: shape O of one observation; `()` for a single number.
        values: for integer observations, how many values each component takes (flattened, row-major);
            None for real observations and for pixels.
        pixels: a picture, uint8 `[height, width, channels]`.
        extra: name and shape of every channel that a method adds to a model's steps, `Steps.extra`; real numbers.
    """

    action: Discrete | Box
    shape: tuple[int, ...]
    values: tuple[int, ...] | None
    pixels: bool = False
    extra: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def size(self) -> int:
        """Number of components of one observation."""
        return math.prod(self.shape)

    @property
    def observation_dtype(self) -> np.dtype:
        """The narrowest dtype that holds an observation."""
        if self.values is not None:
            return narrowest(max(self.values) - 1)
        return np.dtype(np.uint8 if self.pixels else np.float32)

    @property
    def compute_dtype(self) -> np.dtype:
        """The dtype of an observation inside a program: int32, float32, or uint8 for pixels."""
        return np.dtype(np.int32) if self.values is not None else self.observation_dtype

    @property
    def num_actions(self) -> int:
        """A.

        Raises:
            ConfigError: where actions are a `Box`.
        """
        return discrete(self.action).n

    @property
    def action_dtype(self) -> np.dtype:
        """The narrowest dtype that holds an action; float32 of a `Box`."""
        return self.action.dtype

    def to_json(self) -> JsonObject:
        """Plain data. What is new stands there only where it holds: manifests of schema 1 keep their bytes."""
        data: JsonObject = {"shape": list(self.shape), "values": None if self.values is None else list(self.values)}
        if isinstance(self.action, Discrete):
            data = {"num_actions": self.action.n} | data
        else:
            data["action"] = {name: list(value) for name, value in dataclasses.asdict(self.action).items()}
        data |= {"extra": {name: list(shape) for name, shape in self.extra}} if self.extra else {}
        return data | {"pixels": True} if self.pixels else data

    @classmethod
    def from_json(cls, data: JsonObject) -> "Spec":
        """Inverse of `to_json`."""
        values = data["values"]
        values = None if values is None else tuple(values)
        extra = tuple((name, tuple(shape)) for name, shape in data.get("extra", {}).items())
        box = {name: tuple(value) for name, value in data.get("action", {}).items()}
        action = Box(**box) if box else Discrete(data["num_actions"])
        return cls(action, tuple(data["shape"]), values, data.get("pixels", False), extra)


def discrete(action: Discrete | Box, who: str = "num_actions") -> Discrete:
    """Give back `action`, for `who` can do no others.

    Raises:
        ConfigError: where it is a `Box`.
    """
    if isinstance(action, Discrete):
        return action
    raise ConfigError(f"{who}: expected Discrete actions, received {action}. {CONTINUOUS}")


CONTINUOUS = (
    "Of real-valued actions source=ppo learns, method=distillation distills them; or give the task family "
    "a Discrete action space"
)


def narrowest(largest: int) -> np.dtype:
    """Return the narrowest unsigned dtype that holds 0..largest."""
    return np.min_scalar_type(largest)


@dataclasses.dataclass
class Histories:
    """Learning histories in host memory, as a store holds them. Every array is NumPy."""

    transition: Transition  # [H, T, ...] in the narrowest dtypes that hold them
    tasks: dict[str, np.ndarray]  # every leaf of the family's `EnvParams`, by field name: [H, ...]
    task_ids: list[str]  # [H]
    seed_index: np.ndarray  # [H] int32, which of the task's learners
    actor: np.ndarray  # [H] int32, which actor of the learner

    def not_finite(self, numbers: np.ndarray | None = None) -> str | None:
        """Where the first NaN or infinity is, in words; None where there is none. Whole numbers cost nothing.

        Args:
            numbers: what the histories are called there, `[H]`; default 0..H-1.
        """
        for field in ("reward", "observation", "action", "next_observation", "preferences", "features"):
            values = np.asarray(getattr(self.transition, field))
            if not np.issubdtype(values.dtype, np.floating):
                continue
            # A program computes in float32, to which a larger number is infinity.
            finite = np.isfinite(values) if values.dtype.itemsize < 8 else np.abs(values) <= np.finfo(np.float32).max
            if finite.all():  # by far quicker than along axes, of which the last may be short
                continue
            bad = ~finite.all(axis=tuple(range(2, values.ndim)))
            row, step = map(int, np.argwhere(bad)[0])
            return f"{field} {values[row, step]}, no finite number, at step {step} of {self.name(row, numbers)}"
        return None

    def name(self, row: int, numbers: np.ndarray | None = None) -> str:
        """Which history a row is, in words; `numbers` as of `not_finite`."""
        number = row if numbers is None else int(numbers[row])
        who = f"task {self.task_ids[row]}, seed {self.seed_index[row]}, actor {self.actor[row]}"
        return f"history {number} ({who})"
