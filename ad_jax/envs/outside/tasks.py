"""What a task is, of an outside library's environment.

`KeyTask`: the level that the library makes of a random key (a layout, a world, an instance); the task is the key's
seed. `LeafTask`: factors of numbers in the library's own parameter structure (a mass, a friction, a gain).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.envs import ranges
from ad_jax.envs.gymnax_facts import acting
from ad_jax.envs.outside.base import Outside, Params
from ad_jax.envs.stepping import lenient, path_name
from ad_jax.errors import ConfigError, unknown
from ad_jax.files import Json
from ad_jax.keys import a_key
from ad_jax.types import Array, PyTree

COUNTABLE = 100_000  # levels that fit in a table


@dataclasses.dataclass(frozen=True)
class KeyTask(Outside):
    """The task is a level, which the library makes of a random key: `level_key`. The same level in each episode."""

    levels: int | None = None  # how many there are; None: one for each 32-bit number

    def __post_init__(self) -> None:
        if self.levels is not None and self.levels < 1:
            raise ConfigError(f"env.levels must be at least 1; got {self.levels}")
        super().__post_init__()

    def level_key(self, task: Params) -> jax.Array:
        """Return the key that makes the task's level: `jax.random.key(level)`."""
        return a_key(task.values["level"])

    @property
    def start_varies(self) -> bool | None:
        return False

    @property
    def _defaults(self) -> dict[str, Array]:
        return super()._defaults | {"level": jnp.uint32(0)}

    @property
    def _draws(self) -> dict[str, Callable[[jax.Array, int], jax.Array]]:
        return super()._draws | {"level": self._level}

    def _level(self, key: jax.Array, n: int) -> jax.Array:
        """Draw n levels, each as likely as any other."""
        level = jax.random.bits(key, (n,), jnp.uint32)
        return level if self.levels is None else level % jnp.uint32(self.levels)

    def all_tasks(self) -> Params | None:
        """Every level, where there are not too many and nothing else differs."""
        if self.levels is None or self.levels > COUNTABLE or set(self._defaults) != {"level"}:
            return None
        return self._tasks(self.levels, {"level": jnp.asarray(np.arange(self.levels, dtype=np.uint32))})

    def task_ids(self, tasks: Params) -> list[str]:
        if set(tasks.values) != {"level"}:
            return super().task_ids(tasks)
        return [f"level-{level}" for level in np.asarray(tasks.values["level"])]


@dataclasses.dataclass(frozen=True)
class LeafTask(Outside):
    """The task is a factor for each of some numbers in the library's parameters: `scaled`. The start is drawn anew."""

    vary: Mapping[str, Json] = dataclasses.field(default_factory=dict)  # path of a leaf: range of its factor

    def __post_init__(self) -> None:
        if not self.vary and not isinstance(self, KeyTask):
            raise ConfigError("env.vary is empty: tasks must differ in a parameter")
        found = {name: ranges.real_range(f"env.vary[{name!r}]", given) for name, given in self.vary.items()}
        object.__setattr__(self, "vary", ranges.Ranges(found))
        super().__post_init__()
        for name in self.vary:
            if name not in (single := self.varying()):
                raise unknown(f"parameter of {self.env_id}", name, single)
            if name in self._idle:
                raise ConfigError(
                    f"env.vary[{name!r}] cannot vary in {self.env_id}: nothing that an agent sees, earns or is ended "
                    "by depends on it"
                )

    @property
    def start_varies(self) -> bool | None:
        return True

    def parameters(self) -> PyTree:
        """Return the library's parameter structure, as it is by default."""
        raise NotImplementedError

    def varying(self) -> list[str]:
        """Return the paths of all leaves of real numbers in the parameters."""

        def real(leaf):
            return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)

        return sorted(name for name, leaf in _paths(self.parameters()) if real(leaf))

    def scaled(self, task: Params) -> PyTree:
        """Return the library's parameters with the task's factors."""
        parameters = self.parameters()
        names = [name for name, _ in _paths(parameters)]
        leaves, structure = jax.tree.flatten(parameters)
        factors = task.values
        changed = [
            jnp.asarray(leaf) * factors[name].astype(jnp.result_type(leaf)) if name in factors else leaf
            for name, leaf in zip(names, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, changed)

    @property
    def _defaults(self) -> dict[str, Array]:
        return super()._defaults | {name: jnp.float32(1) for name in self.vary}

    @property
    def _draws(self) -> dict[str, Callable[[jax.Array, int], jax.Array]]:
        def draw(given):
            return lambda key, n: ranges.draw(key, given, n)

        return super()._draws | {name: draw(given) for name, given in self.vary.items()}

    @functools.cached_property
    def _idle(self) -> frozenset[str]:
        """Names on which nothing depends that is seen, earned or ends an episode."""

        def task(values):
            return Params(cast(int, jnp.int32(self.steps)), values)

        def reset(values, key):
            inner = self.begin(key, task(values))
            return self.look(inner, task(values)), inner

        def step(values, key, inner, action):
            inner, *told = self.move(key, inner, action, task(values))
            return (self.look(inner, task(values)), *told), inner

        stated = self.action_spec
        action = jax.ShapeDtypeStruct(stated.shape, stated.compute_dtype)
        try:
            with lenient():
                return acting(reset, step, action, self._defaults).idle
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
            raise ConfigError(
                f"one of env.vary={sorted(self.vary)} cannot vary in {self.env_id}: the library reads it while it "
                "builds its program"
            ) from error


def _paths(tree: PyTree) -> list[tuple[str, Array]]:
    """Return the leaves of a tree with their dotted paths."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    return [(path_name(path), leaf) for path, leaf in found]
