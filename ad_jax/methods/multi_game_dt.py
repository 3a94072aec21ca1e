"""Multi-Game Decision Transformer: the return to come is not asked for but predicted, and high ones are preferred.

At every step the model says how likely each return of the rest of the episode is, and what its source did where that
return came. Trained on histories of all qualities, it acts like all of their learners; with `method.acting.kappa` above
0 it draws a return from p(R | what came before) exp(kappa (R - low) / (high - low)) and does what goes with it.

    model.memory=episode    the published method: the context is the episode
    model.memory=None       across episodes: the context is the lifetime, as algorithm distillation's

Source: Lee et al. 2022 (arXiv 2205.15241). Differences: a step is one token, so the return meets what came before in
the model's last layer (an output for each action and return) and not in all of them; it is no input of later steps.
"""

import dataclasses
import math
from typing import Any, ClassVar, Self, cast

import jax
import numpy as np

from ad_jax.envs.base import TaskFamily
from ad_jax.errors import ConfigError
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.methods.base import Channel, Method, Setting
from ad_jax.methods.returns_to_come import returns_to_go
from ad_jax.methods.supervised import Supervised
from ad_jax.models.base import Model, ModelConfig
from ad_jax.models.heads import check_takes_head
from ad_jax.models.heads.returns import Returns
from ad_jax.policies.base import Mode, Policy, from_model
from ad_jax.types import Batch, Histories, PyTree, Spec, narrowest

CHANNEL = "place_of_return"


@dataclasses.dataclass(frozen=True)
class Preferred:
    """What a trained model prefers. No part of training: one model can be evaluated at many preferences."""

    kappa: float = 10.0  # of high returns over low ones; 0 acts like the learners of the histories


@dataclasses.dataclass(frozen=True)
class MultiGameDT(Supervised):
    """Options of Multi-Game Decision Transformer."""

    returns: int = 32  # that are told apart, evenly spaced from the lowest to the highest
    return_low: float | None = None  # lowest; None: 0, or what the random policy earns where that is less
    return_high: float | None = None  # highest; None: the best return of the training tasks
    acting: Preferred = Preferred()

    title: ClassVar[str] = "Multi-Game Decision Transformer"
    mixes: ClassVar[bool] = True

    def validate(self, sampling: ReplayConfig) -> None:
        """Raise ConfigError where a number cannot be meant."""
        super().validate(sampling)
        self.at_least("returns", 2)
        if self.label_smoothing:
            raise ConfigError(f"method.label_smoothing must be 0 with returns; got {self.label_smoothing}")
        if not 0 <= self.acting.kappa < math.inf:
            raise ConfigError(f"method.acting.kappa must be at least 0 and finite; got {self.acting.kappa}")
        for name in ("return_low", "return_high"):
            if (bound := getattr(self, name)) is not None and not math.isfinite(bound):
                raise ConfigError(f"method.{name} is a return, a finite number; got {bound}")

    def bind(self, family: TaskFamily, tasks: PyTree) -> Self:
        """Return the options with the lowest and highest return, where they are left open.

        Raises:
            ConfigError: if the highest is left open and the family does not know its best returns, or the lowest is
                not below the highest.
        """
        low, high = self.return_low, self.return_high
        if high is None:
            if (best := family.optimal_return(tasks)) is None:
                raise ConfigError(
                    f"method.return_high is the highest return that is told apart, and {family.name} does not know "
                    "what its best policies earn (optimal_return). Set it, e.g. to the best return of the histories"
                )
            high = float(np.max(best))
        if low is None:
            blind = family.random_return(tasks)
            low = 0.0 if blind is None else min(0.0, float(np.min(blind)))
        if not low < high:
            raise ConfigError(f"method.return_low={low:g} must be below method.return_high={high:g}. Set both")
        return dataclasses.replace(self, return_low=low, return_high=high)

    def channels(self, family: TaskFamily, spec: Spec) -> dict[str, Channel]:
        """Return which of the returns each step's episode still earns, a target of the loss."""
        return {CHANNEL: Channel(str(narrowest(self.returns - 1)))}

    def check_model(self, name: str, model_config: object) -> None:
        """Raise ConfigError where a model cannot have another head than its actions'."""
        check_takes_head(self.title, name, model_config)

    def model(self, config: ModelConfig, spec: Spec) -> Model:
        """Return the run's backbone with outputs for returns and actions."""
        backbone = cast(Any, config)  # `check_model` saw that it takes another head
        return backbone.make(spec, Returns(self.returns, backbone.head(spec)))

    def make(self, setting: Setting) -> Method:
        """Make the method for a setting."""
        bound, model = self.bind(setting.family, setting.tasks), setting.model
        low, high = cast(float, bound.return_low), cast(float, bound.return_high)

        def prepare(histories: Histories) -> dict[str, np.ndarray]:
            t = histories.transition
            return {CHANNEL: places(returns_to_go(t.reward, t.done), low, high, self.returns)}

        def loss(params: PyTree, batch: Batch, key: jax.Array) -> jax.Array:
            outputs, head = model.apply(params, batch.steps, key), cast(Returns, model.head)
            return -head.log_prob_of_both(outputs, batch.targets[CHANNEL], batch.targets["action"]).mean()

        return Method(self.learner(setting, loss), prepare)

    def policy(self, model: Model, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
        """Return the policy that prefers high returns."""
        head = dataclasses.replace(cast(Returns, model.head), kappa=self.acting.kappa)
        return from_model(model._replace(head=head), mode, temperature)


def places(returns: np.ndarray, low: float, high: float, count: int) -> np.ndarray:
    """Return the nearest of `count` evenly spaced returns from low to high, 0..count-1, of float32 `[H, T]`.

    What lies outside goes to the nearer end.
    """
    share = (returns.astype(np.float64) - low) / (high - low)
    return np.rint(np.clip(share, 0, 1) * (count - 1)).astype(narrowest(count - 1))
