"""What outside libraries' environments have in common as task families: one adapter is a subclass, one file.

An adapter gives the library's bare environment (`make`) and, of its own state, how an episode begins (`begin`), a step
(`move`) and what is seen (`look`). Everything that libraries do differently is made uniform here:

- the library's auto-reset and wrappers are not used; `advance` resets, with our keys;
- the task stays, the start is drawn anew; the observation before a reset is kept;
- an episode is cut after `steps` steps, by our own clock, and that is a truncation; `move` gives terminations alone;
- shapes and dtypes are those of a real reset and step, not of the stated space; rewards are float32, flags bool;
- observations of any structure are one row of numbers, by the rule of `observations.py`.

What a task is, `tasks.py` says: a level that the library makes of a random key, or factors of its own parameters.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from ad_jax.envs.base import TaskFamily, spec_of
from ad_jax.envs.outside.libraries import Library, needed
from ad_jax.envs.outside.observations import row, space_of
from ad_jax.envs.spaces import Space, action_from
from ad_jax.envs.stepping import is_key, lenient
from ad_jax.errors import ConfigError, unknown
from ad_jax.keys import a_key, number_of
from ad_jax.types import Array, PyTree


@struct.dataclass
class State(environment.EnvState):
    """The library's own state, and our clock."""

    inner: Any = None


@struct.dataclass
class Params(environment.EnvParams):
    """The task: what a subclass of `Outside` varies, by name."""

    values: dict[str, Array] = None  # pyright: ignore[reportAssignmentType]


@dataclasses.dataclass(frozen=True)
class Outside(TaskFamily[State, Params]):
    """An outside library's environment as a task family.

    Raises:
        ConfigError: where the library is not installed, or fewer than one step is asked for.
    """

    library: ClassVar[Library]
    refused: ClassVar[Mapping[str, str]] = {}  # environment's id: why no family can be made of it

    env_id: str = ""
    steps: int = 100  # most that an episode can have

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ConfigError(f"env.steps must be at least 1; got {self.steps}")
        spec_of(self)

    # --- What an adapter says ---

    def make(self) -> Any:
        """Return the library's bare environment, whatever `begin` and `move` take it by as `self.inner`."""
        raise NotImplementedError

    def begin(self, key: jax.Array, task: Params) -> PyTree:
        """Return the library's state at an episode's first step. The key is consumed."""
        raise NotImplementedError

    def move(self, key: jax.Array, inner: PyTree, action: jax.Array, task: Params) -> tuple[PyTree, Array, Array]:
        """Return the library's next state, the reward, and whether it ended the episode, the time limit apart."""
        raise NotImplementedError

    def look(self, inner: PyTree, task: Params) -> PyTree:
        """Return what is seen of the library's state, of any structure."""
        raise NotImplementedError

    def actions(self) -> Space:
        """Return the space of actions, of gymnax's kind."""
        raise NotImplementedError

    def values(self) -> PyTree:
        """How many values each component of what is seen takes, as `space_of` is told; None: real numbers."""
        return None

    def known(self) -> list[str]:
        """Names of the library's environments, of which `env_id` is one."""
        return []

    # --- What follows from it ---

    @functools.cached_property
    def inner(self) -> Any:
        """The library's environment."""
        # No array of a caller's trace may stay in it.
        with needed(self.library), jax.ensure_compile_time_eval(), lenient():
            if (known := self.known()) and self.env_id not in known:
                raise unknown(f"environment of {self.library.package}", self.env_id, known)
            if reason := self.refused.get(self.env_id):
                raise ConfigError(f"env.env_id={self.env_id!r}: {reason}")
            return self.make()

    @property
    def episode_length(self) -> int:
        return self.steps

    @property
    def default_params(self) -> Params:
        return Params(cast(int, jnp.int32(self.steps)), self._defaults)

    def action_space(self, params: Params) -> Space:
        return self._actions

    def observation_space(self, params: Params) -> Space:
        return self._space

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        with lenient():
            state = State(jnp.int32(0), self._typed(self.begin(key, params)))
        return self.observe(key, state, None, params), state

    def step_env(
        self, key: jax.Array, state: State, action: jax.Array, params: Params
    ) -> tuple[jax.Array, State, jax.Array, jax.Array, dict[str, PyTree]]:
        with lenient():
            inner, reward, terminated = self.move(key, state.inner, action, params)
            after = State(state.time + 1, self._typed(inner))
            reward, terminated = jnp.asarray(reward, jnp.float32), jnp.asarray(terminated, bool)
        return self.observe(key, after, action, params), after, reward.reshape(()), terminated.reshape(()), {}

    def observe(self, key: jax.Array, state: State, action: jax.Array | None, params: Params) -> jax.Array:
        with lenient():
            return row(self.look(state.inner, params), self._space)

    def describe(self, task: Params) -> str:
        return ", ".join(f"{name} {np.asarray(value).tolist():.6g}" for name, value in task.values.items())

    def sample_tasks(self, key: jax.Array, n: int) -> Params:
        """Draw n tasks. The draws of a value do not depend on which others there are."""
        keys = {name: jax.random.fold_in(key, number_of(name)) for name in self._draws}
        return self._tasks(n, {name: draw(keys[name], n) for name, draw in self._draws.items()})

    @property
    def _draws(self) -> dict[str, Callable[[jax.Array, int], jax.Array]]:
        """Return what draws n of a key, for each value of a task."""
        return {}

    @property
    def _defaults(self) -> dict[str, Array]:
        """Return the values of some task."""
        return {}

    def _tasks(self, n: int, values: Mapping[str, Array]) -> Params:
        return Params(cast(int, jnp.full(n, self.steps, jnp.int32)), dict(values))

    @functools.cached_property
    def _actions(self) -> Space:
        _ = self.inner
        with jax.ensure_compile_time_eval(), lenient():
            return self.actions()

    @functools.cached_property
    def _space(self) -> spaces.Box:
        """Of what is really seen, after a real reset."""
        _ = self.inner
        with lenient():
            seen = jax.eval_shape(lambda key, task: self.look(self.begin(key, task), task), a_key(0), self._example)
        with jax.ensure_compile_time_eval():
            return space_of(self.name, seen, self.values())

    @property
    def _example(self) -> Params:
        with jax.ensure_compile_time_eval():
            return self.default_params

    @functools.cached_property
    def _types(self) -> PyTree:
        """The dtype of each leaf of the library's state, wide enough for its beginning and its steps."""
        stated = action_from(self.name, self._actions)

        def both(key, action, task):
            begun = self.begin(key, task)
            return begun, self.move(key, begun, action, task)[0]

        action = jax.ShapeDtypeStruct(stated.shape, stated.compute_dtype)
        with lenient():
            begun, moved = jax.eval_shape(both, a_key(0), action, self._example)
            if jax.tree.structure(begun) != jax.tree.structure(moved):
                raise ConfigError(
                    f"{self.name}: a step gives a state of another structure, {jax.tree.structure(moved)}; a reset "
                    f"gave {jax.tree.structure(begun)}"
                )
            return jax.tree.map(_wider, begun, moved)

    def _typed(self, inner: PyTree) -> PyTree:
        def cast(x, dtype):
            return x if dtype is None else jax.lax.convert_element_type(x, dtype)

        return jax.tree.map(cast, inner, self._types)


def _wider(a: Array, b: Array) -> Any:
    """Return the dtype that holds both; of random keys None, which is nothing to cast to."""
    if is_key(a):
        return None
    return a.dtype if a.dtype == b.dtype else jnp.promote_types(a.dtype, b.dtype)
