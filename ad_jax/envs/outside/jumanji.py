"""Jumanji (`jumanji`), puzzles, packing and routing: the task is the instance that a generator makes of a level's key.

The instance, its start included, is the same in each episode; what is drawn during one (the next fruit of Snake) is
drawn anew. An observation is the row of all its parts, the mask of what may be done among them; what an action that may
not be done does is the environment's affair. Actions that have several parts are one number, every combination of the
parts in row-major order, up to `MOST` of them. Rewards of several agents are summed.

At the library's own limits some environments give discount 0 (Maze, Snake) and others 1 (Connector). Here its limit is
put one step behind ours, so what it ends is a termination.

Source: Bonnet et al. 2024 (arXiv 2306.09884), github.com/instadeepai/jumanji.
"""

import dataclasses
from importlib import import_module
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces

from ad_jax.envs.outside.base import Params
from ad_jax.envs.outside.libraries import named
from ad_jax.envs.outside.tasks import KeyTask
from ad_jax.envs.spaces import Space
from ad_jax.errors import ConfigError
from ad_jax.types import Array, PyTree

MOST = 4096  # actions, of combinations of parts


@dataclasses.dataclass(frozen=True)
class Jumanji(KeyTask):
    """Jumanji: an instance of a puzzle, a packing or a routing problem is the task."""

    library = named("jumanji")
    refused: ClassVar = {"Sokoban-v0": "it downloads its levels"}
    env_id: str = "Maze-v0"
    steps: int = 100

    def known(self) -> list[str]:
        return sorted(import_module("jumanji").registered_environments())

    def make(self) -> Any:
        env = import_module("jumanji").make(self.env_id)
        if hasattr(env, "time_limit"):
            env.time_limit = self.steps + 1
        return env

    def begin(self, key: jax.Array, task: Params) -> PyTree:
        state, timestep = self.inner.reset(self.level_key(task))
        return dataclasses.replace(state, key=key), timestep.observation

    def move(self, key: jax.Array, inner: PyTree, action: jax.Array, task: Params) -> tuple[PyTree, Array, Array]:
        stated = self.inner.action_spec
        if sizes := _sizes(stated):
            action = jnp.stack(jnp.unravel_index(action, sizes)).reshape(stated.shape).astype(stated.dtype)
        state, timestep = self.inner.step(dataclasses.replace(inner[0], key=key), action)
        return (state, timestep.observation), jnp.sum(timestep.reward), timestep.last()

    def look(self, inner: PyTree, task: Params) -> PyTree:
        return inner[1]

    def actions(self) -> Space:
        stated = self.inner.action_spec
        if hasattr(stated, "num_values"):
            count = np.prod(_sizes(stated) or (stated.num_values,), dtype=np.float64)
            if count > MOST:
                raise ConfigError(f"env.env_id={self.env_id!r} has {count:.6g} actions; at most {MOST} are allowed")
            return spaces.Discrete(int(count))
        return spaces.Box(stated.minimum, stated.maximum, tuple(stated.shape))


def _sizes(stated: Any) -> tuple[int, ...]:
    """How many values each part of an action takes; nothing where it has no parts."""
    return tuple(int(n) for n in np.asarray(stated.num_values).reshape(-1)) if stated.shape else ()
