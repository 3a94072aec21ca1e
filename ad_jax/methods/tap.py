"""TAP, Trajectory Autoencoding Planner: plans are searched for among codes, of which each stands for several steps.

A vector-quantized autoencoder (`models.segments`) learns which segments of steps there are, from what the backbone
makes of the present, and a prior how likely each follows. In acting a beam search chooses codes (`policies.code_beam`),
by the rewards and the return that they decode to, and the first action of the best plan is decoded last. So a decision
costs the same however many actions there are, and whether they are counted or real.

    model.memory=episode    the published method: plans start from what is seen in the episode
    model.memory=None       across episodes: they start from the lifetime

Source: Jiang et al. 2022 (arXiv 2208.10291). Differences: plans start from a context and not from one state; codes
follow one another in a GRU, which encoder, prior and decoder share, and not in three transformers; all is trained at
once; codes are compared by direction.
"""

import dataclasses
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
from ad_jax.models.predictor import beside
from ad_jax.models.segments import PARTITION, Decoded, Segments, Shape
from ad_jax.policies.base import Mode, Policy
from ad_jax.policies.code_beam import Coded, CodeSearch, from_code_search
from ad_jax.types import Array, Batch, PyTree, Spec

COMMITMENT = 0.25  # of the encoder to the codes, as published


@dataclasses.dataclass(frozen=True)
class CodePlanning:
    """How a trained model plans. No part of training: one model can be evaluated in many ways."""

    beam: int | None = None  # plans that are kept; None: 32, or as many as there are
    horizon: int | None = None  # codes of a plan; None: as many as in training
    expand: int | None = None  # codes that continue a plan; None: 4, or all where there are fewer
    likely: float = 0.05  # probability of a code below which a plan of such codes loses
    penalty: float = 100.0  # what it loses a nat, in the run's unit of rewards; above all returns it is a ban


@dataclasses.dataclass(frozen=True)
class TAP(Predicting):
    """Options of TAP."""

    codes: int = 64  # segments that are told apart
    code_steps: int = 3  # steps that a code stands for
    codes_ahead: int = 4  # codes in a row that are learned from each step on
    acting: CodePlanning = CodePlanning()

    title: ClassVar[str] = "TAP"

    def validate(self, sampling: ReplayConfig) -> None:
        """Raise ConfigError where a number cannot be meant."""
        super().validate(sampling)
        for name, least in (("codes", 2), ("code_steps", 1), ("codes_ahead", 1)):
            self.at_least(name, least)
        if self.code_steps > sampling.segment:
            raise ConfigError(
                f"method.code_steps={self.code_steps} is longer than what is learned from at once, "
                f"replay.segment={sampling.segment}. Lower the one or raise the other"
            )
        check_plans(beam=self.acting.beam, horizon=self.acting.horizon, expand=self.acting.expand)
        if not 0 < self.acting.likely <= 1 or not 0 <= self.acting.penalty < float("inf"):
            raise ConfigError(
                "method.acting.likely must be a probability above 0, and method.acting.penalty at least 0 and finite; "
                f"got {self.acting.likely} and {self.acting.penalty}"
            )

    def bind(self, family: TaskFamily, tasks: PyTree) -> Self:
        """Return the options with the bounds of rewards and returns, and how plans are made, where they are left open.

        Raises:
            ConfigError: for plans that go beyond an episode by a whole code, a beam of more plans than there are, or
                more codes than there are to continue a plan.
        """
        longest, asked = family.episode_length, self.acting
        most = -(-longest // self.code_steps)
        horizon = min(self.codes_ahead, most) if asked.horizon is None else asked.horizon
        if horizon > most:
            raise ConfigError(
                f"method.acting.horizon={horizon} codes of {self.code_steps} steps is beyond the end of an episode of "
                f"{family.name}, {longest} steps at most. Plan less"
            )
        plans = self.codes**horizon
        beam = min(32, plans) if asked.beam is None else asked.beam
        if beam > plans:
            raise ConfigError(
                f"method.acting.beam={beam} is more than the {plans} plans of {horizon} out of {self.codes} codes. "
                "Lower it, or raise method.acting.horizon"
            )
        expand = min(4, self.codes) if asked.expand is None else asked.expand
        if expand > self.codes:
            raise ConfigError(f"method.acting.expand={expand} is more than method.codes={self.codes}. Lower it")
        acting = dataclasses.replace(asked, beam=beam, horizon=horizon, expand=expand)
        return dataclasses.replace(self.bounded(family), acting=acting)

    def model(self, config: ModelConfig, spec: Spec) -> Model:
        """Return the run's backbone with outputs for actions and the start of plans, and the networks of codes."""
        backbone = cast(Any, config)  # `check_model` saw that it takes another head
        head = Beside(backbone.head(spec), self.hidden)
        shape = Shape(self.tokens(spec), head.action, self.code_steps, self.codes)
        made = backbone.make(spec, head)
        model, network = beside(made, "segments", lambda rngs: Segments(shape, rngs=rngs), PARTITION)
        return model._replace(parts=Coded(shape, network))

    def make(self, setting: Setting) -> Method:
        """Make the method for a setting."""
        loss = loss_of(setting.model, setting.unit, self.codes_ahead, self.action_weight)
        return Method(self.learner(setting, loss), self.prepare)

    def policy(self, model: Model, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
        """Return the policy that plans.

        Raises:
            ConfigError: if how is left open: `bind` knows it.
        """
        a = self.acting
        plans = plans_of(beam=a.beam, horizon=a.horizon, expand=a.expand)
        search = CodeSearch(*plans, a.likely, a.penalty, self.discount)
        return from_code_search(model, search, mode, temperature)


def loss_of(model: Model, unit: float, segments: int, action_weight: float) -> Loss:
    """Return `(params, batch, key) -> []` float32: of each step, what its next segments cost to say, in nats.

    Of each segment: how badly it is decoded (the mean cross-entropy of its tokens, actions counted `action_weight`
    times), how far its code is from what was encoded, and how unlikely the prior says the code is. And of each step,
    how unlikely the backbone alone says its action is.

    Args:
        model: of `TAP.model`.
        unit: what rewards are divided by.
        segments: in a row, from each step on.
        action_weight: of actions, beside 1 for each other token.
    """
    head, coded = cast(Beside, model.head), cast(Coded, model.parts)
    shape, tokens = coded.shape, coded.shape.tokens

    def loss(params: PyTree, batch: Batch, key: jax.Array) -> jax.Array:
        outputs, network, targets = model.apply(params, batch.steps, key), coded.network(params), batch.targets
        done = targets["terminated"] | targets["truncated"]
        seen = tokens.components(batch.steps.observation)
        known = {
            "action": targets["action"],
            "reward": targets["reward"] / jnp.float32(unit),
            "after": targets[CHANNEL] / jnp.float32(unit),
            "done": done,
            "next": _later(seen, 1),
        }
        there = _reached(done, segments * shape.length)  # [B, L, steps ahead]
        state, total = head.of_more(outputs), -head.log_prob(outputs, known["action"]).mean()
        for m in range(segments):
            ahead = range(m * shape.length, (m + 1) * shape.length)
            one = {name: jnp.stack([_later(x, k) for k in ahead], axis=2) for name, x in known.items()}
            real = jnp.stack([there[k] for k in ahead], axis=-1)
            led = real & ~one["done"] & jnp.stack([_reachable(done, k + 1) for k in ahead], axis=-1)
            told = network.encode(
                state,
                one["action"],
                one["reward"],
                one["done"],
                one["next"] * led[..., None].astype(one["next"].dtype),
                real,
            )
            code = network.nearest(jax.lax.stop_gradient(told))
            direction = network.directions()[code]
            begun = real[..., 0].astype(jnp.float32)
            far = _square(jax.lax.stop_gradient(told) - direction)
            far += COMMITMENT * _square(told - jax.lax.stop_gradient(direction))
            chosen = optax.softmax_cross_entropy_with_integer_labels(network.prior(state), code)
            state = network.after(state, told + jax.lax.stop_gradient(direction - told))
            badly = _decoding(shape, head, network.decode(state), one, real, led, action_weight)
            total += (begun * (far + chosen)).sum() / begun.size + badly
        return total / (1 + segments)

    return loss


def _decoding(
    shape: Shape,
    head: Beside,
    found: Decoded,
    one: dict[str, jax.Array],
    real: jax.Array,
    led: jax.Array,
    action_weight: float,
) -> jax.Array:
    """Return the mean cross-entropy of the tokens of segments, `[]`; `real` and `led [B, L, l]` say which there are."""
    tokens = shape.tokens
    each = -action_weight * head.action.log_prob(found.action, one["action"])
    each += _cross_entropy(found.reward, tokens.reward.weights(one["reward"]))
    each += optax.sigmoid_binary_cross_entropy(found.end, one["done"].astype(jnp.float32))
    of_next = jnp.zeros_like(each)
    for i, logits in enumerate(found.observation):
        wanted = one["next"][..., i]
        grid = tokens.observation[i] if tokens.observation else None
        of_next += _cross_entropy(
            logits, jax.nn.one_hot(wanted, logits.shape[-1]) if grid is None else grid.weights(wanted)
        )
    last = real[..., -1] & ~one["done"][..., -1]
    of_value = _cross_entropy(found.value, tokens.value.weights(one["after"][..., -1]))
    total = jnp.where(real, each, 0).sum() + jnp.where(led, of_next, 0).sum() + jnp.where(last, of_value, 0).sum()
    return total / real.size / (action_weight + 2 + tokens.spec.size)


def _later(x: Array, steps: int) -> Array:
    """Return what `x [B, L, ...]` is so many steps later; zeros after the window."""
    cut = x[:, steps:]
    return jnp.pad(cut, [(0, 0), (0, x.shape[1] - cut.shape[1]), *[(0, 0)] * (x.ndim - 2)])


def _reachable(done: Array, steps: int) -> Array:
    """Return whether the window holds what is so many steps later, `[B, L]` bool."""
    return jnp.broadcast_to(jnp.arange(done.shape[1], dtype=jnp.int32)[None] + steps < done.shape[1], done.shape)


def _reached(done: Array, steps: int) -> list[Array]:
    """Return whether the step that comes k steps later is in the window and in the same episode, for each k."""
    found, same = [], jnp.ones_like(done)
    for k in range(steps):
        found.append(same & _reachable(done, k))
        same = same & ~_later(done, k)
    return found


def _cross_entropy(logits: jax.Array, weights: jax.Array) -> jax.Array:
    return -(weights * jax.nn.log_softmax(logits)).sum(-1)


def _square(x: jax.Array) -> jax.Array:
    return (x * x).sum(-1)
