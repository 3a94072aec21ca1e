"""MuJoCo Playground (`playground`), the DeepMind Control Suite in MJX: the task is a factor of some numbers of a model.

`vary` names leaves of the MuJoCo model (`body_mass`, `dof_damping`, `geom_friction`, `actuator_gear`) and the range of
each factor; all numbers of a leaf get the same one. The start is drawn anew. Of the library's suites only the Control
Suite is here: the robots of the others are downloaded.

The library keeps its limit in a wrapper, which is not used. The JAX implementation of MuJoCo is asked for: the other
one compiles for a minute on a CPU.

Source: Zakka et al. 2025 (arXiv 2502.08844), github.com/google-deepmind/mujoco_playground.
"""

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ad_jax.envs.outside.bodies import BodyTask
from ad_jax.envs.outside.libraries import named
from ad_jax.files import Json


@dataclasses.dataclass(frozen=True)
class Playground(BodyTask):
    """MuJoCo Playground: masses, frictions or gains of a model of the Control Suite are the task."""

    library = named("playground")
    model = "_mjx_model"
    env_id: str = "CartpoleSwingup"
    steps: int = 200
    vary: Mapping[str, Json] = dataclasses.field(default_factory=lambda: {"actuator_gear": (0.5, 1.5, "signed")})

    def known(self) -> list[str]:
        return list(import_module("mujoco_playground").dm_control_suite.ALL_ENVS)

    def make(self) -> Any:
        suite = import_module("mujoco_playground").dm_control_suite
        return suite.load(self.env_id, config_overrides={"impl": "jax"})
