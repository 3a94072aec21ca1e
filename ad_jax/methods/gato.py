"""Gato: one network for all families, in one vocabulary, with a token that says which family it is in.

In a mixture (`experiment.mixture`) everything is shared but that token: embeddings, trunk and head. Trained on the ends
of histories (`replay.tail`), where the sources are experts, and shown a demonstration before it acts
(`evaluate.prompt`), it is the generalist of the paper; on whole histories it is algorithm distillation in a shared
vocabulary. The loss is the mean negative log-likelihood of the source's action.

Source: Reed et al. 2022 (arXiv 2205.06175). `models.vocabulary` says what is otherwise here.
"""

import dataclasses
from typing import ClassVar

from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.methods.base import Method, Setting
from ad_jax.methods.supervised import Supervised, cross_entropy
from ad_jax.models.base import Model, ModelConfig
from ad_jax.models.heads import check_takes_head
from ad_jax.models.vocabulary import Vocabulary, in_vocabulary
from ad_jax.types import Spec


@dataclasses.dataclass(frozen=True)
class Gato(Supervised):
    """Options of Gato."""

    vocabulary: Vocabulary = Vocabulary()

    title: ClassVar[str] = "Gato"
    mixes: ClassVar[bool] = True

    def validate(self, sampling: ReplayConfig) -> None:
        """Raise ConfigError where a number cannot be meant."""
        super().validate(sampling)
        self.vocabulary.validate()

    def check_model(self, name: str, model_config: object) -> None:
        """Raise ConfigError where a model cannot have another head than its actions'."""
        check_takes_head(self.title, name, model_config)

    def model(self, config: ModelConfig, spec: Spec) -> Model:
        """Return the run's backbone in the vocabulary of all families."""
        return in_vocabulary(config, spec, self.vocabulary)

    def make(self, setting: Setting) -> Method:
        """Make the method for a setting."""
        return Method(self.learner(setting, cross_entropy(setting.model, "action", self.label_smoothing)))
