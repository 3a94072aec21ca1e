"""Any gymnax environment as a task family: a task is a draw of some of its parameters.

    env_id       a registered gymnax id, or `"my_package.my_env:MyEnv"`, an `Environment` that is made without arguments
    vary         parameter: (low, high), uniform; (low, high, "log"), log-uniform; (low, high, "signed"), its size
                 uniform, its sign + or - with equal chance; whole numbers include both ends and are uniform
    steps        time limit of an episode; None takes the environment's own
    scale        what real observations are divided by: one number for all components, or one for each; None divides
                 by nothing. Models and sources see the result, so components of like size are easier to learn from.

What is not varied keeps gymnax's default. A task holds the varied values alone: parameters that follow from others
(`DERIVED`: gymnax stores a pole's length and its mass times its length apart) are computed from them at each use.

What gymnax leaves to its environments is made uniform here. Shapes and dtypes of observations are those that a reset
gives, not those that the space states: pictures of uint8 stay what they are, other whole numbers in a space of whole
numbers become int32, everything else float32. An observation is `observe` of the state that it goes with, also where
`step_env` gives another one. Rewards are float32; the types of the state are those that `reset_env` and `step_env`
agree on; our own clock counts steps.
Some environments end an episode at their time limit by themselves: `terminated` is therefore what the environment says
under a limit that is out of reach, and everything else what it does under the real one (where the limit changes
nothing, XLA merges the two calls). What an environment draws in `reset_env` differs between episodes, not tasks.

Source: gymnax 1.0 (Lange 2022, github.com/RobertTLange/gymnax).
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment
from jax.typing import DTypeLike

from ad_jax.envs import ranges
from ad_jax.envs.base import TaskFamily, spec_of
from ad_jax.envs.gymnax_facts import DERIVED, REFUSED, Acting, acting, check_step
from ad_jax.envs.spaces import Space, action_from, uniform_space
from ad_jax.envs.stepping import lenient
from ad_jax.errors import ConfigError, unknown
from ad_jax.files import Json
from ad_jax.keys import a_key, number_of
from ad_jax.registry import resolve
from ad_jax.types import Array, PyTree

check_step(environment)  # a fork's step would be misread, without a word

OUT_OF_REACH = 2**30  # steps
COUNTABLE = 100_000  # tasks that fit in a table


@struct.dataclass
class State(environment.EnvState):
    """The environment's own state, and our clock."""

    inner: Any = None


@struct.dataclass
class Params(environment.EnvParams):
    """The task."""

    values: dict[str, Array] = None  # pyright: ignore[reportAssignmentType]  # [] float32 or int32 each


@dataclasses.dataclass(frozen=True)
class Gymnax(TaskFamily[State, Params]):
    """Options of the gymnax adapter."""

    env_id: str = "CartPole-v1"
    vary: Mapping[str, Json] = dataclasses.field(default_factory=lambda: {"length": (0.25, 1.0)})
    steps: int | None = None
    scale: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_environment()
        if not self.vary:
            raise ConfigError(f"env.vary is empty: tasks must differ in a parameter. {self._known()}")
        # Sorted and in tuples, so that families that mean the same are equal.
        vary = {name: self._distribution(name, self.vary[name]) for name in sorted(self.vary)}
        object.__setattr__(self, "vary", vary)
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"env.steps must be at least 1; got {self.steps}")
        if self.scale is not None:
            object.__setattr__(self, "scale", tuple(map(float, self.scale)))
            if getattr(self._space, "dtype", None) != jnp.float32:
                raise ConfigError(f"env.scale is for real observations; those of {self.env_id} are whole numbers")
            size = math.prod(self._space.shape)
            if len(self.scale) not in (1, size) or min(self.scale) <= 0:
                raise ConfigError(f"env.scale expects 1 or {size} positive numbers; got {self.scale}")
        spec_of(self)

    def __hash__(self) -> int:  # the generated one cannot hash `vary`
        return hash(json.dumps(self.options, sort_keys=True))

    @functools.cached_property
    def inner(self) -> environment.Environment:
        """The gymnax environment."""
        with jax.ensure_compile_time_eval(), lenient():  # no array of a caller's trace may stay in it
            if ":" in self.env_id:
                return resolve("gymnax environment", self.env_id, {})()
            if self.env_id not in gymnax.registered_envs:
                raise unknown("gymnax environment", self.env_id, gymnax.registered_envs)
            if self.env_id in REFUSED:  # before one of them downloads its data
                raise ConfigError(f"env.env_id={self.env_id!r}: {REFUSED[self.env_id]}")
            return gymnax.make(self.env_id)[0]

    def inner_params(self, params: Params, limit: int) -> PyTree:
        """Return the gymnax parameters of a task, with the time limit `limit`."""
        default = self.inner.default_params
        kind = type(default.max_steps_in_episode)
        full = default.replace(**params.values, max_steps_in_episode=kind(limit))  # pyright: ignore
        return full.replace(**{name: rule(full) for name, rule in self._derived.items()})

    @property
    def episode_length(self) -> int:
        return int(self.inner.default_params.max_steps_in_episode) if self.steps is None else self.steps

    @property
    def default_params(self) -> Params:
        default = self.inner.default_params
        values = {name: jnp.asarray(getattr(default, name), _kind(default, name)) for name in self.vary}
        return Params(cast(int, jnp.int32(self.episode_length)), values)

    def action_space(self, params: Params) -> Space:
        """One space for all tasks: actions keep the bounds that they have under gymnax's default parameters."""
        return self.inner.action_space(self.inner.default_params)

    def observation_space(self, params: Params) -> Space:
        """One space for all tasks. Real observations have no bounds: those of several gymnax environments are wrong."""
        return self._space

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        with lenient():
            observation, inner = self.inner.reset_env(key, self.inner_params(params, self.episode_length))
        return self._uniform(observation), State(jnp.int32(0), self._typed(inner))

    def step_env(
        self, key: jax.Array, state: State, action: jax.Array, params: Params
    ) -> tuple[jax.Array, State, jax.Array, jax.Array, dict[str, PyTree]]:
        with lenient():

            def under(limit):
                return self.inner.step_env(key, state.inner, action, self.inner_params(params, limit))

            _, inner, reward, *_ = under(self.episode_length)
            terminated = under(OUT_OF_REACH)[3]
        state = State(state.time + 1, self._typed(inner))
        observation = self.observe(key, state, action, params)
        return observation, state, jnp.asarray(reward, jnp.float32), jnp.asarray(terminated, bool), {}

    def is_truncated(self, state: State, params: Params) -> jax.Array:
        """At the time limit, and where the environment has more reasons of its own."""
        late = super().is_truncated(state, params)
        if type(self.inner).is_truncated is environment.Environment.is_truncated:
            return late
        with lenient():
            return late | self.inner.is_truncated(state.inner, self.inner_params(params, OUT_OF_REACH))

    def observe(self, key: jax.Array, state: State, action: jax.Array | None, params: Params) -> jax.Array:
        with lenient():
            params = self.inner_params(params, self.episode_length)
            return self._uniform(self.inner.observe(key, state.inner, action, params))

    def sample_tasks(self, key: jax.Array, n: int) -> Params:
        """Draw n tasks. A parameter's draws do not depend on which others vary."""
        values = {name: self._draw(jax.random.fold_in(key, number_of(name)), name, n) for name in self.vary}
        return self._tasks(n, values)

    def all_tasks(self) -> Params | None:
        """Every task, where only whole numbers vary and not too many combinations."""
        whole = all(_kind(self.inner.default_params, name) == jnp.int32 for name in self.vary)
        count = math.prod(given[1] - given[0] + 1 for given in self.vary.values()) if whole else 0
        if not 0 < count <= COUNTABLE:
            return None
        whole_ranges = [np.arange(low, high + 1, dtype=np.int32) for low, high in self.vary.values()]
        columns = np.meshgrid(*whole_ranges, indexing="ij")
        return self._tasks(count, {name: jnp.asarray(x.reshape(-1)) for name, x in zip(self.vary, columns)})

    def describe(self, task: Params) -> str:
        return ", ".join(f"{name} {np.asarray(value).item():.4g}" for name, value in task.values.items())

    def _tasks(self, n: int, values: dict[str, jax.Array]) -> Params:
        return Params(cast(int, jnp.full(n, self.episode_length, jnp.int32)), values)

    def _draw(self, key: jax.Array, name: str, n: int) -> jax.Array:
        if _kind(self.inner.default_params, name) == jnp.int32:
            low, high = self.vary[name]
            return jax.random.randint(key, (n,), low, high + 1, jnp.int32)
        return ranges.draw(key, self.vary[name], n)

    def _distribution(self, name: str, given: object) -> tuple[Json, ...]:
        """`given` as `(low, high)`, or of a real parameter `(low, high, how)`, checked."""
        default, where = self.inner.default_params, f"env.vary[{name!r}]"
        if name not in vars(default):
            if not self._single:
                raise ConfigError(
                    f"unknown parameter of {self.env_id} {name!r}. Known: none. It has no parameter that is a "
                    "number, so its tasks cannot differ"
                )
            raise unknown(f"parameter of {self.env_id}", name, self._varying)
        if name not in self._single:
            raise ConfigError(
                f"{where} cannot vary: it is no single number, follows from other parameters, or is the time limit "
                f"(one for all tasks, env.steps). {self._known()}"
            )
        if objection := self._acting.objection(name):
            raise ConfigError(f"{where} cannot vary in {self.env_id}: {objection}. {self._known()}")
        if _kind(default, name) != jnp.int32:
            return ranges.real_range(where, given)
        bounds = tuple(given) if isinstance(given, list | tuple) else ()
        if len(bounds) != 2 or not all(ranges.is_number(x, int) for x in bounds) or not bounds[0] < bounds[1]:
            raise ConfigError(f"{where} expects whole numbers [low, high], low < high; got {given!r}")
        return bounds

    @functools.cached_property
    def _derived(self) -> dict[str, Callable[[PyTree], PyTree]]:
        return DERIVED.get(self.inner.name, {})

    @functools.cached_property
    def _single(self) -> list[str]:
        """Parameters that are a number and follow from no other."""

        def single(x):
            return not isinstance(x, bool) and np.ndim(x) == 0 and np.asarray(x).dtype.kind in "if"

        found = [name for name, x in vars(self.inner.default_params).items() if single(x)]
        return [name for name in found if name != "max_steps_in_episode" and name not in self._derived]

    @functools.cached_property
    def _acting(self) -> Acting:
        """What these do."""
        limit, default = self.episode_length, self.inner.default_params

        def params(values):
            return self.inner_params(Params(cast(int, limit), values), limit)

        def reset(values, key):
            with lenient():
                return self.inner.reset_env(key, params(values))

        def step(values, key, state, action):
            with lenient():
                _, state, *seen, _ = self.inner.step_env(key, state, action, params(values))
                return (self.inner.observe(key, state, action, params(values)), *seen), state

        return acting(
            reset,
            step,
            self._action,
            {name: jnp.asarray(getattr(default, name), _kind(default, name)) for name in self._single},
        )

    @property
    def _varying(self) -> list[str]:
        """Parameters that can vary."""
        return [name for name in self._single if self._acting.objection(name) is None]

    def _known(self) -> str:
        return f"Known for {self.env_id}: {', '.join(sorted(self._varying)) or 'none'}."

    def _check_environment(self) -> None:
        """Raise ConfigError, with the reason, for an environment of which no family can be made."""
        if reason := REFUSED.get(self.inner.name):
            raise ConfigError(f"env.env_id={self.env_id!r}: {reason}")
        default, where = self.inner.default_params, f"env.env_id={self.env_id!r}"
        if not hasattr(default, "max_steps_in_episode"):
            raise ConfigError(f"{where}: its parameters need max_steps_in_episode, as gymnax's EnvParams have")
        _ = self._action, self._space  # what is refused of it

    @functools.cached_property
    def _space(self) -> Space:
        """Of what `observe` gives: by its real shape and dtype, and by the bounds that the environment states."""

        def start(key):
            params = self.inner.default_params
            state = self.inner.reset_env(key, params)[1]
            return self.inner.observe(key, state, None, params)

        with lenient():
            try:
                real = jax.eval_shape(start, a_key(0))
            except (NotImplementedError, TypeError) as error:
                raise ConfigError(
                    f"env.env_id={self.env_id!r}: its observe fails ({type(error).__name__}: {error}); give it "
                    "observe(key, state, action, params), or get_obs(state, params=None, key=None)"
                ) from error
        with jax.ensure_compile_time_eval(), lenient():
            return uniform_space(self.inner.observation_space(self.inner.default_params), real, self.env_id)

    def _uniform(self, observation: PyTree) -> jax.Array:
        """Return an observation in the dtype of its space, scaled."""
        x = jnp.asarray(observation, self._space.dtype)
        if self.scale is None:
            return x
        scale = np.asarray(self.scale, np.float32)
        return x / np.broadcast_to(scale if len(scale) == 1 else scale.reshape(x.shape), x.shape)

    @functools.cached_property
    def _types(self) -> PyTree:
        """The dtype of each leaf of the environment's state, wide enough for `reset_env` and `step_env`."""

        def both(key, action):
            params = self.inner_params(self.default_params, self.episode_length)
            state = self.inner.reset_env(key, params)[1]
            return state, self.inner.step_env(key, state, action, params)[1]

        with lenient():
            reset, after = jax.eval_shape(both, a_key(0), self._action)

            def wider(a, b):
                return a.dtype if a.dtype == b.dtype else jnp.promote_types(a.dtype, b.dtype)

            return jax.tree.map(wider, reset, after)

    @functools.cached_property
    def _action(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of an action."""
        with jax.ensure_compile_time_eval(), lenient():
            space = self.inner.action_space(self.inner.default_params)
        stated = action_from(f"env.env_id={self.env_id!r}", space)
        return jax.ShapeDtypeStruct(stated.shape, stated.compute_dtype)

    def _typed(self, inner: PyTree) -> PyTree:
        return jax.tree.map(jax.lax.convert_element_type, inner, self._types)


def _kind(params: PyTree, name: str) -> DTypeLike:
    """Int32 or float32, as the parameter's default."""
    return jnp.int32 if np.asarray(getattr(params, name)).dtype.kind == "i" else jnp.float32
