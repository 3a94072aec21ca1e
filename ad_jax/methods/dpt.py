"""DPT, decision pretraining: a sequence model learns the optimal actions from contexts of what a source did.

Its own network is the backbone `dpt`, to which the order of the context says nothing; any other can be trained so, too.
The family has to know its optimal actions (`optimal_label`).

Source: Lee et al. 2023 (arXiv 2306.14892), algorithm 1.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from ad_jax.envs.base import TaskFamily, has_labels, optimal_labels
from ad_jax.errors import ConfigError
from ad_jax.methods.base import Channel, Method, Setting
from ad_jax.methods.supervised import Supervised, cross_entropy
from ad_jax.types import Box, Histories, Spec


@dataclasses.dataclass(frozen=True)
class DPT(Supervised):
    """Options of DPT."""

    title: ClassVar[str] = "DPT"

    def check_family(self, family: TaskFamily) -> None:
        """Raise ConfigError where the family has no optimal labels, or no Discrete actions."""
        if isinstance(action := family.action_spec, Box):
            raise ConfigError(
                f"method=dpt learns which of a number of actions is optimal, and those of {family.name} are {action}. "
                "Use method=distillation"
            )
        if not has_labels(family):
            raise ConfigError(
                f"method=dpt learns optimal actions, and {family} has no optimal_label, because the observations that "
                "are stored do not decide its optimal actions, or they are not known. Use method=distillation"
            )

    def channels(self, family: TaskFamily, spec: Spec) -> dict[str, Channel]:
        """Return the optimal action of every step."""
        return {"label": Channel(str(spec.action_dtype))}

    def make(self, setting: Setting) -> Method:
        """Make the method for a setting."""

        def prepare(histories: Histories) -> dict[str, np.ndarray]:
            return {"label": optimal_labels(setting.family, histories.transition.observation, histories.tasks)}

        loss = cross_entropy(setting.model, "label", self.label_smoothing)
        return Method(self.learner(setting, loss), prepare)
