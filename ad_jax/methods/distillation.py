"""Algorithm distillation: a sequence model learns to predict the source's actions from the history so far.

The loss is the mean negative log-likelihood of the action at every step of a window (Laskin et al. 2022, arXiv
2210.14215, equation 3). With `replay.tail` below 1 only the ends of the histories are learned from: expert
distillation, the baseline ED of the same paper. With `replay.labels="optimal"` the targets are optimal actions.
"""

import dataclasses

import jax
import optax
from jax.sharding import Mesh

from ad_jax.errors import ConfigError
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.methods.base import Learner, Loss, supervised
from ad_jax.methods.optimizer import Rule, warmed_up
from ad_jax.models.base import Model


@dataclasses.dataclass(frozen=True)
class Config:
    """How to train. An update is one optimiser step."""

    updates: int = 1000
    optimiser: Rule = "adamw"
    learning_rate: float = 2e-3  # peak, after warm-up; cosine to 0 at the last update
    warmup_updates: int = 100
    weight_decay: float = 0.01  # of matrices and tables, not of norms and biases
    b1: float = 0.9
    b2: float = 0.999
    clip_norm: float = 1.0  # global norm of the gradient
    label_smoothing: float = 0.0
    accumulate: int = 1  # parts that a batch is split into, one after another; saves memory
    updates_per_dispatch: int = 50
    checkpoint_every: int = 200  # updates
    keep_checkpoints: int = 2
    evaluate_every: int = 0  # updates between in-context evaluations on training tasks; 0 for none
    evaluate_episodes: int = 30  # episodes of each of them
    skip_updates: int | None = None  # how many may be left out, because their loss or gradient was not finite

    def validate(self, batch: int, groups: int) -> None:
        """Raises ConfigError where a number cannot be meant."""
        for name in ("updates", "accumulate", "updates_per_dispatch", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ConfigError(f"distill.{name} must be at least 1; got {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"distill.label_smoothing is in [0, 1); got {self.label_smoothing}")
        if self.skip_updates is not None and self.skip_updates < 0:
            raise ConfigError(f"distill.skip_updates is a number of updates; got {self.skip_updates}")
        if self.warmup_updates >= self.updates:
            raise ConfigError(
                f"distill.warmup_updates={self.warmup_updates} must be below distill.updates={self.updates}"
            )
        if (batch // groups) % self.accumulate:
            raise ConfigError(
                f"distill.accumulate={self.accumulate} must divide the rows of a group, "
                f"replay.batch / replay.groups = {batch // groups}"
            )

    def optimizer(self) -> optax.GradientTransformation:
        """Return AdamW or Muon, on a warm-up and cosine schedule, after global-norm clipping."""
        return warmed_up(
            self.optimiser,
            self.learning_rate,
            self.warmup_updates,
            self.updates,
            b1=self.b1,
            b2=self.b2,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
        )


def make(config: Config, model: Model, sampling: ReplayConfig, mesh: Mesh) -> Learner:
    """Make the learner of `config` on batches of `sampling`.

    Raises:
        ConfigError: if an option cannot be, or a window is longer than the model can take.
    """
    config.validate(sampling.batch, sampling.groups)
    if model.max_segment is not None and sampling.segment > model.max_segment:
        raise ConfigError(
            f"replay.segment={sampling.segment} is longer than this model can take ({model.max_segment} steps)"
        )
    return supervised(
        cross_entropy(model, config.label_smoothing),
        model.init,
        config.optimizer(),
        mesh,
        steps=sampling.batch * sampling.segment,
        accumulate=config.accumulate,
        groups=sampling.groups,
    )


def cross_entropy(model: Model, label_smoothing: float = 0.0) -> Loss:
    """Return `(params, batch, key) -> []` float32: the mean cross-entropy of the targets over all steps, in nats."""

    def loss(params, batch, key):
        logits = model.apply(params, batch.steps, key)
        if label_smoothing == 0:
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch.action).mean()
        labels = optax.smooth_labels(jax.nn.one_hot(batch.action, logits.shape[-1]), label_smoothing)
        return optax.softmax_cross_entropy(logits, labels).mean()

    return loss
