"""Opaque tasks: those of imported histories that are ids and nothing else, as a task family that cannot be simulated.

    ad-jax distill dark_room env=opaque env.histories=runs/xland     # trains on what is there
    ad-jax evaluate dark_room env=my_package.my_env:MyEnv --trained RUN    # in a world with the same spec

What is stored says what observations and actions are, so models can be built and trained. What an action does, it does
not say: `simulated` is False, and who would evaluate is told so before anything is compiled.
"""

import dataclasses
import functools
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from ad_jax import files
from ad_jax.envs.base import TaskFamily, TaskSplit
from ad_jax.errors import ConfigError, HistoryError
from ad_jax.files import JsonObject
from ad_jax.history.manifest import Manifest
from ad_jax.history.store import manifest_at, open_store
from ad_jax.sources.base import Source
from ad_jax.types import Array, Discrete, Transition


@struct.dataclass
class State(environment.EnvState):
    """Nothing but the time, which nobody needs."""


@struct.dataclass
class Params(environment.EnvParams):
    """The task: its number among those of the collection."""

    number: Array = None  # [] int32


def _place(url: str) -> str:
    """Return one name for a place, however it was written."""
    return url.rstrip("/") if "://" in url else str(files.local(url).resolve())


@dataclasses.dataclass(frozen=True)
class Opaque(TaskFamily[State, Params]):
    """The tasks of a collection, of which nothing is known but their ids. They are trained on, and not simulated."""

    simulated: ClassVar[bool] = False

    histories: str = ""  # where the collection is: a directory, gs:// or s3:// URL

    # Kept by the family and not by the place: an import that is made again there is another collection.
    @functools.cached_property
    def manifest(self) -> Manifest:
        """The manifest of the collection.

        Raises:
            ConfigError: where there is none.
        """
        if not self.histories:
            raise ConfigError("env=opaque needs env.histories=DIR, the collection whose tasks these are")
        where = f"env.histories={self.histories}"
        try:
            found = manifest_at(self.histories)
        except HistoryError as error:
            raise ConfigError(f"{where}: {error}") from error
        if found is None:
            raise ConfigError(f"{where} holds no learning histories. ad-jax histories import makes some")
        return found

    def collection(self, asked: str | None = None) -> str:
        """Return where the histories are that these tasks are of.

        Raises:
            ConfigError: if others are asked for: what they are of has other ids, or none.
        """
        if asked is not None and _place(asked) != _place(self.histories):
            raise ConfigError(
                f"--histories {asked}: opaque tasks are those of env.histories={self.histories}, and are learned from "
                "there alone. Leave --histories out, or name that collection in both"
            )
        return self.histories

    @functools.cached_property
    def _ids(self) -> list[str]:
        """The ids of all tasks, each once."""
        _ = self.manifest  # which says what is missing
        return list(dict.fromkeys(open_store(self.histories).task_ids))

    @property
    def episode_length(self) -> int:
        return self.manifest.episode_length

    @property
    def reward_dtype(self) -> np.dtype:
        return np.dtype(self.manifest.reward_dtype)

    @property
    def default_params(self) -> Params:
        return Params(self.episode_length, jnp.int32(0))

    def action_space(self, params: Params) -> spaces.Discrete | spaces.Box:
        action = self.manifest.spec.action
        if isinstance(action, Discrete):
            return spaces.Discrete(action.n)
        low, high = cast(Any, action.bounds)
        return spaces.Box(low, high, action.shape, jnp.float32)

    def observation_space(self, params: Params) -> spaces.Discrete | spaces.Box:
        spec = self.manifest.spec
        if spec.pixels:
            return spaces.Box(0, 255, spec.shape, jnp.uint8)
        if spec.values is None:
            return spaces.Box(-np.inf, np.inf, spec.shape, jnp.float32)
        if spec.shape == ():
            return spaces.Discrete(spec.values[0])
        return spaces.Box(0, cast(Any, np.reshape(np.array(spec.values) - 1, spec.shape)), spec.shape, jnp.int32)

    # Shapes alone are asked of these three: nothing of what they give is ever trained on or reported.
    def observe(self, key: jax.Array, state: State, action: jax.Array | None, params: Params) -> jax.Array:
        return jnp.zeros(self.manifest.spec.shape, self.manifest.spec.compute_dtype)

    def reset_env(self, key: jax.Array, params: Params) -> tuple[jax.Array, State]:
        state = State(jnp.int32(0))
        return self.observe(key, state, None, params), state

    def step_env(
        self, key: jax.Array, state: State, action: jax.Array, params: Params
    ) -> tuple[jax.Array, State, jax.Array, jax.Array, JsonObject]:
        state = State(state.time + 1)
        return self.observe(key, state, action, params), state, jnp.float32(0), jnp.bool_(False), {}

    def task_ids(self, tasks: Params) -> list[str]:
        return [self._ids[int(number)] for number in np.asarray(tasks.number)]

    def split(self, seed: int, train: int, held_out: int) -> TaskSplit:
        """Return all tasks of the collection, to train on; none is held out, because none can be evaluated."""
        count = len(self._ids)
        limit = cast(int, jnp.full(count, self.episode_length, jnp.int32))
        return TaskSplit(Params(limit, jnp.arange(count, dtype=jnp.int32)), {}, "none: these tasks are ids")

    def source(self) -> Source:
        """Return what stands in the place of a source: these histories were collected elsewhere."""
        m, actors = self.manifest, self.manifest.source["actors"]

        def update(key: jax.Array, state: jax.Array, task: Params) -> tuple[jax.Array, Transition]:
            lead = (m.episode_length, actors)
            observation = jnp.zeros((*lead, *m.spec.shape), m.spec.compute_dtype)
            action = jnp.broadcast_to(jnp.asarray(m.spec.action.one), (*lead, *m.spec.action.shape))
            none = jnp.zeros(lead, bool)
            return state, Transition(observation, action, jnp.zeros(lead, jnp.float32), none, none)

        return Source(lambda key, task: jnp.int32(0), update, m.episode_length, actors)
