"""Algorithm distillation: a sequence model learns to predict the source's actions from the history so far.

The loss is the mean negative log-likelihood of the action at every step of a window (Laskin et al. 2022, arXiv
2210.14215, equation 3). With `replay.tail` below 1 only the ends of the histories are learned from: expert
distillation, the baseline ED of the same paper.
"""

import dataclasses
from typing import ClassVar

from ad_jax.methods.base import Method, Setting
from ad_jax.methods.supervised import Supervised, cross_entropy


@dataclasses.dataclass(frozen=True)
class Distillation(Supervised):
    """Options of distillation."""

    title: ClassVar[str] = "distillation"
    mixes: ClassVar[bool] = True

    def make(self, setting: Setting) -> Method:
        """Make the method for a setting."""
        return Method(self.learner(setting, cross_entropy(setting.model, "action", self.label_smoothing)))
