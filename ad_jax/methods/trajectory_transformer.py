"""Trajectory Transformer: one model of everything that happens, token by token, and plans that are searched for in it.

The model predicts actions, as algorithm distillation's does, and from each action the reward, the end of the episode,
the return that is still to come, and the next observation. In acting a beam search goes on from the present in what the
model predicts, and the first action of the best plan is taken. With `method.acting.score=log_prob`,
`method.acting.beam=1` and greedy actions that is behavior cloning.

    model.memory=episode    the published method: the context is the episode
    model.memory=None       across episodes: the context is the lifetime, so plans are made in a model of the world that
                            is learned in context

Source: Janner et al. 2021 (arXiv 2106.02039). Differences: the backbone reads a step as one, and the tokens of a step
follow one another in small networks on its outputs (`models.step_tokens`), so that a planned step costs one step of the
backbone and not one for each token; the return to come is predicted and never read, as in the published code, whose
attention hides it; the end of an episode is a token.
"""

import dataclasses
import math
from typing import Any, ClassVar, Self, cast

import jax
import jax.numpy as jnp
import optax

from ad_jax.envs.base import TaskFamily
from ad_jax.errors import ConfigError
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.methods.base import Method, Setting
from ad_jax.methods.predicting import CHANNEL, Predicting, check_plans, plans_of
from ad_jax.methods.supervised import Loss
from ad_jax.models.base import Model, ModelConfig
from ad_jax.models.heads.beside import Beside
from ad_jax.models.predictor import Predictor, with_tokens
from ad_jax.policies.base import Mode, Policy
from ad_jax.policies.beam import Score, Search, from_search
from ad_jax.types import Batch, Discrete, PyTree, Spec


@dataclasses.dataclass(frozen=True)
class Planning:
    """How a trained model plans. No part of training: one model can be evaluated in many ways."""

    beam: int | None = None  # plans that are kept; None: 32, or as many as there are
    horizon: int | None = None  # steps that are planned; None: 10, or an episode where that is shorter
    expand: int | None = None  # actions that continue a plan; None: 2
    score: Score = "return"  # by which plans are kept: rewards and the return to come, or how likely they are


@dataclasses.dataclass(frozen=True)
class TrajectoryTransformer(Predicting):
    """Options of Trajectory Transformer."""

    acting: Planning = Planning()

    title: ClassVar[str] = "Trajectory Transformer"

    def validate(self, sampling: ReplayConfig) -> None:
        """Raise ConfigError where a number cannot be meant."""
        super().validate(sampling)
        check_plans(beam=self.acting.beam, horizon=self.acting.horizon, expand=self.acting.expand)

    def bind(self, family: TaskFamily, tasks: PyTree) -> Self:
        """Return the options with the bounds of rewards and returns, and how plans are made, where they are left open.

        Raises:
            ConfigError: for plans longer than an episode, a beam of more plans than there are, or more actions than
                there are to continue a plan.
        """
        longest, action, asked = family.episode_length, family.action_spec, self.acting
        horizon = min(10, longest) if asked.horizon is None else asked.horizon
        if horizon > longest:
            raise ConfigError(
                f"method.acting.horizon={horizon} is beyond the end of an episode of {family.name}, {longest} steps at "
                "most. Plan less"
            )
        actions = action.n if isinstance(action, Discrete) else None
        plans = math.inf if actions is None else actions**horizon
        expand = min(2, actions or 2) if asked.expand is None else asked.expand
        if actions is not None and expand > actions:
            raise ConfigError(
                f"method.acting.expand={expand} is more than the {actions} actions of {family.name}. Lower it"
            )
        beam = int(min(32, plans)) if asked.beam is None else asked.beam
        if beam > plans:
            raise ConfigError(
                f"method.acting.beam={beam} is more than the {plans} plans of {horizon} steps with {actions} actions. "
                "Lower it, or raise method.acting.horizon"
            )
        return dataclasses.replace(self.bounded(family), acting=Planning(beam, horizon, expand, asked.score))

    def check_model(self, name: str, model_config: object) -> None:
        """Raise ConfigError where a model cannot have another head than its actions', or forgets while it plans."""
        super().check_model(name, model_config)
        window, horizon = getattr(model_config, "window", None), self.acting.horizon or 1
        if window is not None and horizon > window:
            raise ConfigError(
                f"method.acting.horizon={horizon} is longer than model.window={window}: a plan would forget where it "
                "began. Lower the one or raise the other"
            )

    def model(self, config: ModelConfig, spec: Spec) -> Model:
        """Return the run's backbone with outputs for actions and for the tokens after them."""
        backbone, tokens = cast(Any, config), self.tokens(spec)  # `check_model` saw that it takes another head
        return with_tokens(backbone.make(spec, Beside(backbone.head(spec), tokens.size)), tokens)

    def make(self, setting: Setting) -> Method:
        """Make the method for a setting."""
        loss = loss_of(setting.model, setting.unit, self.action_weight)
        return Method(self.learner(setting, loss), self.prepare)

    def policy(self, model: Model, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
        """Return the policy that plans.

        Raises:
            ConfigError: if how is left open: `bind` knows it.
        """
        a = self.acting
        plans = plans_of(beam=a.beam, horizon=a.horizon, expand=a.expand)
        return from_search(model, Search(*plans, a.score, self.discount), mode, temperature)


def loss_of(model: Model, unit: float, action_weight: float) -> Loss:
    """Return `(params, batch, key) -> []` float32: the mean cross-entropy of a step's tokens, in nats.

    Args:
        model: of `with_tokens`.
        unit: what rewards are divided by.
        action_weight: of actions, beside 1 for each other token.
    """
    head, p = cast(Beside, model.head), cast(Predictor, model.parts)

    def loss(params: PyTree, batch: Batch, key: jax.Array) -> jax.Array:
        outputs, network, targets = model.apply(params, batch.steps, key), p.network(params), batch.targets
        action, more = targets["action"], head.of_more(outputs)
        reward, after = targets["reward"] / jnp.float32(unit), targets[CHANNEL] / jnp.float32(unit)
        done = targets["terminated"] | targets["truncated"]
        of_end, of_after = network.end(more, action, reward)
        total = -action_weight * head.log_prob(outputs, action)
        total += _cross_entropy(network.reward(more, action), p.tokens.reward.weights(reward))
        total += optax.sigmoid_binary_cross_entropy(of_end, done.astype(jnp.float32))
        total += jnp.where(done, 0, _cross_entropy(of_after, p.tokens.value.weights(after)))
        seen = p.tokens.components(batch.steps.observation)[:, 1:]  # what each step but the last led to
        before = more[:, :-1], action[:, :-1], reward[:, :-1]
        nexts, known = jnp.zeros_like(total[:, 1:]), ()
        for i in range(p.tokens.spec.size):
            logits, found = network.next(*before, known), seen[..., i]
            grid = p.tokens.observation[i] if p.tokens.observation else None
            wanted = jax.nn.one_hot(found, logits.shape[-1]) if grid is None else grid.weights(found)
            nexts, known = nexts + _cross_entropy(logits, wanted), (*known, found)
        nexts = jnp.where(done[:, :-1], 0, nexts)  # an episode that has ended leads nowhere
        return (total.mean() + nexts.sum() / total.size) / (action_weight + 3 + p.tokens.spec.size)

    return loss


def _cross_entropy(logits: jax.Array, weights: jax.Array) -> jax.Array:
    return -(weights * jax.nn.log_softmax(logits)).sum(-1)
