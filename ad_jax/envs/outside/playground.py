"""MuJoCo Playground (`playground`), the DeepMind Control Suite in MJX: the task is a factor of some numbers of a model.

`vary` names leaves of the MuJoCo model (`body_mass`, `dof_damping`, `geom_friction`, `actuator_gear`) and the range of
each factor; all numbers of a leaf get the same one. The start is drawn anew. Of the library's suites only the Control
Suite is here: the robots of the others are downloaded.

The library keeps its limit in a wrapper, which is not used. The JAX implementation of MuJoCo is asked for: the other
one compiles for a minute on a CPU.

Source: Zakka et al. 2025 (arXiv 2502.08844), github.com/google-deepmind/mujoco_playground.
"""

import copy
import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import jax
from gymnax.environments import spaces

from ad_jax.envs.outside.base import Params
from ad_jax.envs.outside.libraries import named
from ad_jax.envs.outside.tasks import LeafTask
from ad_jax.files import Json
from ad_jax.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Playground(LeafTask):
    """MuJoCo Playground: masses, frictions or gains of a model of the Control Suite are the task."""

    library = named("playground")
    env_id: str = "CartpoleSwingup"
    steps: int = 200
    vary: Mapping[str, Json] = dataclasses.field(default_factory=lambda: {"actuator_gear": (0.5, 1.5, "signed")})

    def known(self) -> list[str]:
        return list(import_module("mujoco_playground").dm_control_suite.ALL_ENVS)

    def make(self) -> Any:
        suite = import_module("mujoco_playground").dm_control_suite
        return suite.load(self.env_id, config_overrides={"impl": "jax"})

    def parameters(self) -> PyTree:
        return self.inner.mjx_model

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
        """Return the environment with the task's model."""
        env = copy.copy(self.inner)
        env._mjx_model = self.scaled(task)
        return env
