"""Decision Transformer: the source's actions, conditioned on the return that the rest of the episode is to earn.

At every step the model sees, beside what algorithm distillation shows it, its return to go: in training what the rest
of the episode did earn, in acting a target less what was earned so far, which starts anew with every episode.

    model.memory=episode    the published method: the context is the episode
    model.memory=None       across episodes: the context is the lifetime, as algorithm distillation's

Source: Chen et al. 2021 (arXiv 2106.01345), algorithm 1. Differences: the parts of a step are one token in the default
layout of this package's `transformer` (`model.layout=triple` has three), and positions are relative.
"""

import dataclasses
import math
from typing import ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.envs.base import TaskFamily
from ad_jax.errors import ConfigError
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.methods.base import Channel, Method, Setting
from ad_jax.methods.returns_to_come import check_target, returns_to_go
from ad_jax.methods.supervised import Supervised, cross_entropy
from ad_jax.models.base import Model
from ad_jax.policies.base import Mode, Policy, from_model
from ad_jax.types import Histories, PyTree, Spec, Steps

CHANNEL = "return_to_go"


class Carry(NamedTuple):
    """What the policy remembers of B lifetimes."""

    inner: PyTree  # the model's own
    left: jax.Array  # [B] float32, what the rest of the episode is to earn


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a trained model is asked for. No part of training: one model can be evaluated at many targets."""

    target: float | None = None  # return of every episode; None: what the best policies earn on the training tasks


@dataclasses.dataclass(frozen=True)
class DecisionTransformer(Supervised):
    """Options of Decision Transformer."""

    return_scale: float | None = None  # what returns to go are divided by; None: the best return of the training tasks
    acting: Asked = Asked()

    title: ClassVar[str] = "Decision Transformer"
    mixes: ClassVar[bool] = True

    def validate(self, sampling: ReplayConfig) -> None:
        """Raise ConfigError where a number cannot be meant."""
        super().validate(sampling)
        if self.acting.target is not None and not math.isfinite(self.acting.target):
            raise ConfigError(f"method.acting.target is a return, a finite number; got {self.acting.target}")
        if self.return_scale is not None and not 0 < self.return_scale < math.inf:
            raise ConfigError(f"method.return_scale must be above 0 and finite; got {self.return_scale}")

    def bind(self, family: TaskFamily, tasks: PyTree) -> Self:
        """Return the options with target and scale, where they are left open, from the best policies' returns.

        Raises:
            ConfigError: for a target that no training task can earn, or where there is none and the family does not
                know its best returns.
        """
        best = family.optimal_return(tasks)
        target, scale = self.acting.target, self.return_scale
        if best is None:
            if target is None:
                raise ConfigError(
                    f"method.acting.target is the return that is asked for, and {family.name} does not know what its "
                    "best policies earn (optimal_return). Set it, e.g. to the best return of the histories"
                )
        elif target is None:
            target = float(np.mean(best))
        else:
            check_target(target, best, family)
        if scale is None:
            largest = abs(target) if best is None else float(np.max(np.abs(best)))
            scale = largest or 1.0
        return dataclasses.replace(self, return_scale=scale, acting=Asked(target))

    def channels(self, family: TaskFamily, spec: Spec) -> dict[str, Channel]:
        """Return the return to go, which the model sees."""
        return {CHANNEL: Channel("float32", seen=True)}

    def make(self, setting: Setting) -> Method:
        """Make the method for a setting."""
        bound = self.bind(setting.family, setting.tasks)

        def prepare(histories: Histories) -> dict[str, np.ndarray]:
            t = histories.transition
            return {CHANNEL: returns_to_go(t.reward, t.done) / np.float32(bound.return_scale)}

        loss = cross_entropy(setting.model, label_smoothing=self.label_smoothing)
        return Method(self.learner(setting, loss), prepare)

    def policy(self, model: Model, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
        """Return the policy that asks the model for the target in every episode.

        Raises:
            ConfigError: if the target is left open: `bind` knows it.
        """
        inner, target, scale = from_model(model, mode, temperature), self.acting.target, self.return_scale
        if target is None or scale is None:
            raise ConfigError("a policy needs method.acting.target and method.return_scale; set both, or bind(family)")

        def init(batch: int) -> Carry:
            return Carry(inner.init(batch), jnp.full((batch,), target, jnp.float32))

        def act(params: PyTree, carry: Carry, steps: Steps, keys: jax.Array) -> tuple[jax.Array, Carry]:
            left = left_after(carry.left, steps, target)
            asked = steps.replace(extra=steps.extra | {CHANNEL: left / jnp.float32(scale)})
            action, cache = inner.act(params, carry.inner, asked, keys)
            return action, Carry(cache, left)

        return Policy(init, act, lambda carry: inner.highest(carry.inner))


def left_after(left: jax.Array, steps: Steps, target: float | jax.Array) -> jax.Array:
    """Return what is still to be earned, `[B]` float32: less by the reward received, the target after an end."""
    return jnp.where(steps.prev_done, jnp.asarray(target, jnp.float32), left - steps.prev_reward)
