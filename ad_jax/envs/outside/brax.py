"""Brax (`brax`), bodies in physics: the task is a factor for each of some numbers of the body or the world.

`vary` names leaves of the library's `System` (`actuator.gear`, `dof.damping`, `link.inertia.mass`, `gravity`) and the
range of each factor; all numbers of a leaf get the same one. Leaves that nothing depends on in the `backend` are
refused. The start, and what the environment draws at it (Reacher's target), is drawn anew in each episode. Actions are
in -1..1, which is what the library clips or scales them to.

The bare environment has no time limit, and no wrapper of the library is used: its auto-reset begins every episode at
one start that is remembered, with the same target. `swimmer` is refused: its step fails with JAX 0.10.

Source: Freeman et al. 2021 (arXiv 2106.13281), github.com/google/brax.
"""

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, Literal

from ad_jax.envs.outside.bodies import BodyTask
from ad_jax.envs.outside.libraries import named
from ad_jax.files import Json


@dataclasses.dataclass(frozen=True)
class Brax(BodyTask):
    """Brax: masses, frictions or gains of a body in a physics engine are the task."""

    library = named("brax")
    model = "sys"
    refused: ClassVar = {"swimmer": "its step fails with jax 0.10, whose clip has no a_min"}
    env_id: str = "reacher"
    steps: int = 50
    vary: Mapping[str, Json] = dataclasses.field(default_factory=lambda: {"actuator.gear": (0.5, 1.5, "signed")})
    backend: Literal["generalized", "positional", "spring", "mjx"] = "generalized"

    def known(self) -> list[str]:
        return sorted(import_module("brax.envs")._envs)

    def make(self) -> Any:
        return import_module("brax.envs").get_environment(self.env_id, backend=self.backend)
