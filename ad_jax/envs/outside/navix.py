"""Navix (`navix`), MiniGrid again in JAX: the task is the layout, which the library makes of a level's key.

What is seen is the library's whole map: kind, color and state of each cell, whole numbers up to 15. The library has
them as bytes, in which -1 and -2 are 255 and 254, though its space says 0 to 8; here those two are 15 and 14. Rewards
and ends are the library's, also where they are odd: GoToDoor is solved without the action `done`, and DistShift's lava
neither costs nor ends.

`step` of the library resets by itself and swallows the action after an end; here its `_step` is called. Its own limit,
100 steps for every environment, is put one step behind ours. In environments without chance in their layout
(`Navix-Empty-5x5-v0`) all levels are the same; `ad-jax check` says so.

Source: Pignatelli et al. 2024 (arXiv 2407.19396), github.com/epignatelli/navix.
"""

import dataclasses
from importlib import import_module
from typing import Any

import jax
from gymnax.environments import spaces

from ad_jax.envs.outside.base import Params
from ad_jax.envs.outside.libraries import named
from ad_jax.envs.outside.tasks import KeyTask
from ad_jax.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Navix(KeyTask):
    """MiniGrid in JAX (Navix): a layout of rooms, doors and keys is the task."""

    library = named("navix")
    env_id: str = "Navix-DoorKey-Random-6x6-v0"
    steps: int = 100

    def known(self) -> list[str]:
        return list(import_module("navix").registry())

    def make(self) -> Any:
        return import_module("navix").make(self.env_id, max_steps=self.steps + 1)

    def begin(self, key: jax.Array, task: Params) -> PyTree:
        begun = self.inner.reset(self.level_key(task))
        return begun.replace(state=begun.state.replace(key=key, cache=None))  # the cache is a picture of the map

    def move(self, key: jax.Array, inner: PyTree, action: jax.Array, task: Params) -> tuple[PyTree, Array, Array]:
        inner = inner.replace(state=inner.state.replace(key=key))
        moved = self.inner._step(inner, action)
        return moved, moved.reward, moved.is_termination()

    def look(self, inner: PyTree, task: Params) -> PyTree:
        return inner.observation & 15  # 254 is 14, and 255 is 15; all others are below 14

    def values(self) -> PyTree:
        return 16

    def actions(self) -> spaces.Discrete:
        """All of them: the library's own space never draws the last."""
        return spaces.Discrete(len(self.inner.action_set))
