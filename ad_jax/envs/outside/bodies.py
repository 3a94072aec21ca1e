"""Bodies in physics, as Brax and MuJoCo Playground have them: an environment holds the model of its body.

A task's factors are those of the model's numbers; the environment of a task is the library's, with the model scaled.
"""

import copy
import dataclasses
from typing import Any, ClassVar

import jax
from gymnax.environments import spaces

from ad_jax.envs.outside.base import Params
from ad_jax.envs.outside.tasks import LeafTask
from ad_jax.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class BodyTask(LeafTask):
    """The task is a factor for each of some numbers of a body. Actions are in -1..1."""

    model: ClassVar[str]  # the attribute in which the library's environment holds the body's model

    def parameters(self) -> PyTree:
        return getattr(self.inner, self.model)

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
        setattr(env, self.model, self.scaled(task))
        return env
