"""Craftax and Craftax-Classic (`craftax`), open worlds with many achievements: the task is the world.

The world is made of a level's key and is the same in each episode, the start in its middle included; mobs are drawn
anew. `vary` adds factors of the library's real parameters, such as `spawn_cow_chance`. What is seen is the library's
symbolic view, real numbers: 8268 of Craftax and 1345 of Classic; actions are 43 and 17.

The library says `done` at death and at its own limit alike, with discount 0 at both. Its limit is put behind ours, so
what it ends is a termination.

To know: a world is made in every step, as `advance` resets in every step; on a CPU that is most of the time.

Source: Matthews et al. 2024 (arXiv 2402.16801), github.com/MichaelTMatthews/Craftax.
"""

import dataclasses
from importlib import import_module
from typing import Any

import jax
from gymnax.environments import spaces

from ad_jax.envs.outside.base import Params
from ad_jax.envs.outside.libraries import named
from ad_jax.envs.outside.tasks import KeyTask, LeafTask
from ad_jax.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Craftax(KeyTask, LeafTask):
    """Craftax: an open world to explore, survive and build in is the task."""

    library = named("craftax")
    env_id: str = "Craftax-Symbolic-v1"
    steps: int = 1000

    def known(self) -> list[str]:
        return ["Craftax-Symbolic-v1", "Craftax-Classic-Symbolic-v1"]

    def make(self) -> Any:
        return import_module("craftax.craftax_env").make_craftax_env_from_name(self.env_id, auto_reset=False)

    def parameters(self) -> PyTree:
        return self.inner.default_params.replace(max_timesteps=self.steps + 1)

    def begin(self, key: jax.Array, task: Params) -> PyTree:
        begun = self.inner.reset_env(self.level_key(task), self.scaled(task))[1]
        return begun.replace(state_rng=key)

    def move(self, key: jax.Array, inner: PyTree, action: jax.Array, task: Params) -> tuple[PyTree, Array, Array]:
        _, moved, reward, done, _ = self.inner.step_env(key, inner, action, self.scaled(task))
        return moved, reward, done

    def look(self, inner: PyTree, task: Params) -> PyTree:
        return self.inner.get_obs(inner)

    def actions(self) -> spaces.Discrete:
        return spaces.Discrete(self.inner.num_actions)


@dataclasses.dataclass(frozen=True)
class CraftaxClassic(Craftax):
    """Craftax-Classic, Crafter in JAX: a smaller open world is the task."""

    env_id: str = "Craftax-Classic-Symbolic-v1"
