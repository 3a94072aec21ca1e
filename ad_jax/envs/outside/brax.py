"""Brax (`brax`), bodies in physics: the task is a factor for each of some numbers of the body or the world.

`vary` names leaves of the library's `System` (`actuator.gear`, `dof.damping`, `link.inertia.mass`, `gravity`) and the
range of each factor; all numbers of a leaf get the same one. Leaves that nothing depends on in the `backend` are
refused. The start, and what the environment draws at it (Reacher's target), is drawn anew in each episode. Actions are
in -1..1, which is what the library clips or scales them to.

The bare environment has no time limit, and no wrapper of the library is used: its auto-reset begins every episode at
one start that is remembered, with the same target. `swimmer` is refused: its step fails with JAX 0.10.

Source: Freeman et al. 2021 (arXiv 2106.13281), github.com/google/brax.
"""

import copy
import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, Literal

import jax
from gymnax.environments import spaces

from ad_jax.envs.outside.base import Params
from ad_jax.envs.outside.libraries import named
from ad_jax.envs.outside.tasks import LeafTask
from ad_jax.files import Json
from ad_jax.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Brax(LeafTask):
    """Brax: masses, frictions or gains of a body in a physics engine are the task."""

    library = named("brax")
    refused: ClassVar = {"swimmer": "its step fails with jax 0.10, whose clip has no a_min"}
    env_id: str = "reacher"
    steps: int = 50
    vary: Mapping[str, Json] = dataclasses.field(default_factory=lambda: {"actuator.gear": (0.5, 1.5, "signed")})
    backend: Literal["generalized", "positional", "spring", "mjx"] = "generalized"

    def known(self) -> list[str]:
        return sorted(import_module("brax.envs")._envs)

    def make(self) -> Any:
        return import_module("brax.envs").get_environment(self.env_id, backend=self.backend)

    def parameters(self) -> PyTree:
        return self.inner.sys

    def begin(self, key: jax.Array, task: Params) -> PyTree:
        return self._of(task).reset(key)

    def move(self, key: jax.Array, inner: PyTree, action: jax.Array, task: Params) -> tuple[PyTree, Array, Array]:
        moved = self._of(task).step(inner, action)
        return moved, moved.reward, moved.done > 0

    def look(self, inner: PyTree, task: Params) -> PyTree:
        return inner.obs

    def actions(self) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (self.inner.action_size,))

    def _of(self, task: Params) -> Any:
        """Return the environment with the task's body."""
        env = copy.copy(self.inner)
        env.sys = self.scaled(task)
        return env
