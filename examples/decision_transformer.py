"""A method of your own: a Decision Transformer, whose actions are conditioned on the return that is asked for.

    ad-jax check examples.decision_transformer:DecisionTransformer
    ad-jax run dark_room method=examples.decision_transformer:DecisionTransformer

At every step the model sees, beside what algorithm distillation shows it, how much the rest of the episode is to earn:
in training what it did earn, in acting a target, less what was earned so far. Everything else (windows, the loop,
checkpoints, evaluation, the report) is the package's.

Source: Chen et al. 2021 (arXiv 2106.01345). Differences: the context spans episodes, as in algorithm distillation, and
the three parts of a step are one token, as in this package's `transformer`.
"""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.envs.base import TaskFamily
from ad_jax.errors import ConfigError
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.methods.base import Channel, Method, Setting
from ad_jax.methods.supervised import Supervised, cross_entropy
from ad_jax.models.base import Model
from ad_jax.policies.base import Mode, Policy, from_model
from ad_jax.types import Histories, Spec, Steps


class Carry(NamedTuple):
    """What the policy remembers of B lifetimes."""

    inner: Any  # the model's own
    left: jax.Array  # [B] float32, what the rest of the episode is to earn


@dataclasses.dataclass(frozen=True)
class DecisionTransformer(Supervised):
    """See the module."""

    target: float = 17.0  # return that is asked for in every episode
    scale: float = 10.0  # what returns are divided by before the model sees them

    title: ClassVar[str] = "Decision Transformer"

    def validate(self, sampling: ReplayConfig) -> None:
        """Raise ConfigError where a number cannot be meant."""
        super().validate(sampling)
        if not math.isfinite(self.target):
            raise ConfigError(f"method.target is a return, a finite number; got {self.target}")
        if not self.scale > 0:
            raise ConfigError(f"method.scale must be above 0; got {self.scale}")

    def channels(self, family: TaskFamily, spec: Spec) -> dict[str, Channel]:
        """Return the one channel that the model sees beside the usual ones."""
        return {"return_to_go": Channel("float32", seen=True)}

    def make(self, setting: Setting) -> Method:
        """Make the method for a setting."""

        def prepare(histories: Histories) -> dict[str, np.ndarray]:
            t = histories.transition
            return {"return_to_go": returns_to_go(t.reward, t.done) / np.float32(self.scale)}

        loss = cross_entropy(setting.model, label_smoothing=self.label_smoothing)
        return Method(self.learner(setting, loss), prepare)

    def policy(self, model: Model, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
        """Return the policy that asks the model for the target in every episode."""
        inner = from_model(model, mode, temperature)

        def init(batch: int) -> Carry:
            return Carry(inner.init(batch), jnp.full((batch,), self.target, jnp.float32))

        def act(params: Any, carry: Carry, steps: Steps, keys: jax.Array) -> tuple[jax.Array, Carry]:
            left = left_after(carry.left, steps, self.target)
            asked = steps.replace(extra={"return_to_go": left / jnp.float32(self.scale)})
            action, cache = inner.act(params, carry.inner, asked, keys)
            return action, Carry(cache, left)

        return Policy(init, act, lambda carry: inner.highest(carry.inner))


def left_after(left: jax.Array, steps: Steps, target: float) -> jax.Array:
    """Return what is still to be earned, `[B]` float32: less by the reward received, the target after an end."""
    return jnp.where(steps.prev_done, jnp.float32(target), left - steps.prev_reward)


def returns_to_go(reward: np.ndarray, done: np.ndarray) -> np.ndarray:
    """Return what each step and those after it in its episode earn, `[H, T]` float32 of `[H, T]`.

    An episode that the history cuts off has earned what is known of it.
    """
    found = np.zeros(reward.shape, np.float32)
    later = np.zeros(len(reward), np.float32)
    for t in reversed(range(reward.shape[1])):
        later = reward[:, t].astype(np.float32) + np.where(done[:, t], np.float32(0), later)
        found[:, t] = later
    return found
