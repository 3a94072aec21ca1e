"""Actor-Learner Distillation: a transformer learns by reinforcement from what a small actor does, the actor from it.

Only the actor acts, so a decision costs what the actor costs, in training, too. The learner never plays: it looks at
each update's steps at once, learns from them by clipped policy optimization as in RL², and then says at every step what
it would do and what it thinks is to come. The actor is pulled to both, by a stated number of gradient steps for each of
the learner's. What is evaluated and saved as the model is the actor; the learner is in the state, so that training
resumes. Input: a family, its training tasks, an actor with a value head (the run's model) and the learner's options.

Source: Parisotto and Salakhutdinov 2021 (arXiv 2104.01655); Espeholt et al. 2018 (arXiv 1802.01561) for advantages of
a policy other than the one that acted. Differences stand in docs/actor_learner.md.

Letters: B trials side by side, L steps of each in an update.
"""

import dataclasses
import functools
from typing import ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ad_jax.envs.base import TaskFamily
from ad_jax.errors import ConfigError
from ad_jax.history import reward_unit
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.keys import a_key, named_key
from ad_jax.methods.base import Learner, Method, Metrics, Setting
from ad_jax.methods.minibatches import Learning, begun_again, gradient_steps, rows_on
from ad_jax.methods.optimizer import falling
from ad_jax.methods.played import check_of, rendered
from ad_jax.methods.reinforcement import Reinforcement, check_the_same, entropy_cost, is_over, spread, told_of
from ad_jax.methods.teacher import Divergence, divergence
from ad_jax.methods.trials import Trials, begin, clipped_loss, log_prob_of, roll
from ad_jax.models.base import ActorCritic, Cache, ModelConfig
from ad_jax.models.transformer import Transformer
from ad_jax.sharding import batch_devices, optimizer_shardings, param_shardings, replicated
from ad_jax.types import Array, PyTree, Spec, Steps


class Caches(NamedTuple):
    """What both remember of the trials: only the actor's moves while it acts."""

    actor: Cache
    learner: Cache


@struct.dataclass
class TrainState:
    """Everything that training carries from one update to the next; `params` are the actor's."""

    params: PyTree
    opt_state: PyTree
    step: Array  # [] int32, updates done
    trials: Trials  # whose cache are `Caches`
    learner: Learning  # what is trained by reinforcement


class Parts(NamedTuple):
    """What an update is made of."""

    actor: ActorCritic
    learner: ActorCritic
    family: TaskFamily
    actor_rule: optax.GradientTransformation
    learner_rule: optax.GradientTransformation


@dataclasses.dataclass(frozen=True)
class ActorLearner(Reinforcement):
    """Options of Actor-Learner Distillation: those of RL² are the learner's, and the actor's are added."""

    learner: Transformer = Transformer(layers=2, gate="gru", value_head=True)  # what learns by reinforcement
    distillations: int = 2  # gradient steps of the actor for each of the learner's
    actor_learning_rate: float = 3e-3  # at the start; falls linearly to 0 at the last update
    divergence: Divergence = "forward"  # KL from learner to actor, or from actor to learner
    actor_value_cost: float = 0.5  # of the squared error to the learner's value, beside the divergence
    learner_pull: float = 0.1  # of the divergence from the actor in the learner's loss

    title: ClassVar[str] = "Actor-Learner Distillation"
    called: ClassVar[str] = "actor_learner"

    def validate(self, sampling: ReplayConfig | None = None) -> None:
        """Raise ConfigError where a number cannot be meant, or the learner cannot be trained so."""
        super().validate(sampling)
        self.at_least("distillations", 1)
        for name in ("actor_value_cost", "learner_pull"):
            self.at_least(name, 0)
        if not self.learner.value_head:
            raise ConfigError(
                "method.learner.value_head must be True, because what learns by reinforcement estimates returns; got "
                f"{self.learner.value_head}"
            )
        check_the_same(self.called, "method.learner", self.learner)
        try:
            self.learner.validate()
        except ConfigError as error:
            raise ConfigError(f"method.learner, whose options are those of a transformer: {error}") from error

    def positions(self, family: TaskFamily, sampling: ReplayConfig | None = None) -> int:
        """Return the steps that the gradients of an update go over, the learner's and the actor's."""
        return (1 + self.distillations) * super().positions(family, sampling)

    def state_bytes_beside(self, spec: Spec) -> int:
        """Return the bytes of the learner: its parameters, their optimizer and gradients."""
        params = jax.eval_shape(self.learner.actor_critic(spec).init, a_key(0))
        held = params, jax.eval_shape(self.learner_optimizer().init, params), params
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(held))

    def learner_optimizer(self) -> optax.GradientTransformation:
        """Return the learner's rule: that of RL²."""
        return super().make_optimizer()

    def make_optimizer(self) -> optax.GradientTransformation:
        """Return the actor's rule: the same, with its own rate and number of steps."""
        steps = self.updates * self.epochs * self.minibatches * self.distillations
        return falling(self.actor_learning_rate, steps, self.adam_epsilon, self.weight_decay, self.clip_norm)

    def make(self, setting: Setting) -> Method:
        """Make the method for a setting."""
        actor = cast(ModelConfig, setting.model_config).actor_critic(setting.seen_spec)
        return Method(learner(self, actor, self.learner.bind(setting.family).actor_critic(setting.seen_spec), setting))


def learner(config: ActorLearner, actor: ActorCritic, learns: ActorCritic, setting: Setting) -> Learner:
    """Make the learner of both networks, which is fed the training tasks.

    Raises:
        ConfigError: if a number cannot be meant, or the trials cannot be split over the mesh.
    """
    config.validate()
    config.check_devices(batch_devices(setting.mesh))
    family, mesh, tasks, unit = setting.family, setting.mesh, setting.tasks, setting.unit
    actor, learns = (reward_unit.applied(network, unit) for network in (actor, learns))
    parts = Parts(actor, learns, family, config.make_optimizer(), config.learner_optimizer())

    def init(seed: jax.Array, tasks: PyTree) -> TrainState:
        params, other = actor.init(named_key(seed, "params")), learns.init(named_key(seed, "learner"))
        trials = spread(begin(acting(parts), family, config, named_key(seed, "ald-start"), tasks), config)
        learning = Learning(other, parts.learner_rule.init(other))
        return TrainState(params, parts.actor_rule.init(params), jnp.int32(0), trials, learning)

    def placed(rule, params, network):
        on = param_shardings(params, mesh, network.partition)
        return on, optimizer_shardings(rule, params, on, mesh)

    def shardings(shapes: TrainState) -> TrainState:
        mine = placed(parts.actor_rule, shapes.params, actor)
        other = placed(parts.learner_rule, shapes.learner.params, learns)
        return TrainState(*mine, replicated(mesh), rows_on(mesh, shapes.trials), Learning(*other))

    return Learner(
        name="ald",
        feed="tasks",
        init=init,
        update=functools.partial(update, parts, config, setting),
        params=lambda state: state.params,
        shardings=shardings,
        steps=config.env_steps(family),
        check=check_of(tasks, family),
        shown={"first_episode": "first_return", "last": "last_return", "entropy": "entropy", "apart": "divergence"},
    )


def acting(parts: Parts) -> ActorCritic:
    """Return the actor on the caches of both; the learner's stands still."""

    def init_cache(batch: int) -> Caches:
        return Caches(parts.actor.init_cache(batch), parts.learner.init_cache(batch))

    def segment(params: PyTree, cache: Caches, steps: Steps) -> tuple[jax.Array, jax.Array, Caches]:
        logits, value, own = parts.actor.segment(params, cache.actor, steps)
        return logits, value, cache._replace(actor=own)

    return ActorCritic(parts.actor.init, init_cache, segment)


def off_policy_advantages(
    reward: jax.Array, value: jax.Array, ahead: jax.Array, ratio: jax.Array, config: ActorLearner
) -> tuple[jax.Array, jax.Array]:
    """Return advantages of each action and what each value is short of, `[B, L]` both, for a policy that did not act.

    Where it is the one that acted both are the advantages of RL². Else a step counts as far as it would have taken it,
    at most once (V-trace, Espeholt et al. 2018, equation 1, with both truncations at 1 and the trace's decay).

    Args:
        reward: `[B, L]`.
        value: `[B, L]`, the policy's own.
        ahead: `[B]`, its value after the last step.
        ratio: `[B, L]`, of its probability of each action to that of who acted.
        config: gives `discount` and `trace_decay`.
    """
    following = jnp.concatenate([value[:, 1:], ahead[:, None]], axis=1)
    error, weight = reward + config.discount * following - value, jnp.minimum(ratio, 1.0)
    decay = config.discount * config.trace_decay

    def back(later, now):
        error, weight = now
        short = weight * (error + decay * later)
        return short, (error + decay * later, short)

    found = jax.lax.scan(back, jnp.zeros_like(ahead), (error.T, weight.T), reverse=True)[1]
    return found[0].T, found[1].T


def update(
    parts: Parts, config: ActorLearner, setting: Setting, state: TrainState, tasks: PyTree, key: jax.Array
) -> tuple[TrainState, Metrics]:
    """Return some steps of every trial by the actor, the learner's gradient steps on them, then the actor's, and new
    trials where some are over. The key is consumed.

    Returns:
        The state after it, and as float32 scalars: the loss of both and the norm of both gradients, means over their
        steps; the entropy of the learner; the divergence of the two at the actor's last steps; the mean return of the
        first and of the last episode of a trial, over the trials that began and ended here; beside them what
        `cannot_be`.
    """
    key_roll, key_begin = jax.random.split(key)
    family, before, plays = parts.family, state.trials, acting(parts)
    over = is_over(config, before)
    unroll, trials, _ = roll(plays, family, config, state.params, before, tasks, key_roll)
    seen, following = rendered(family, unroll.steps), rendered(family, trials.steps)

    # What the learner makes of it, all at once, from its own memory of the trials.
    logits, value, memory = parts.learner.segment(state.learner.params, before.cache.learner, seen)
    ahead = parts.learner.segment(state.learner.params, memory, jax.tree.map(lambda x: x[:, None], following))[1][:, 0]
    trials = trials.replace(cache=trials.cache._replace(learner=memory))
    ratio = jnp.where(unroll.free, jnp.exp(log_prob_of(logits, unroll.action) - unroll.log_prob), 1.0)
    reward = unroll.reward if setting.unit == reward_unit.NONE else unroll.reward / jnp.float32(setting.unit)
    ahead = jnp.where(over, 0.0, ahead)
    advantage, short = off_policy_advantages(reward * config.reward_scale, value, ahead, ratio, config)
    advantage, target = (advantage - advantage.mean()) / (advantage.std() + 1e-8), value + short
    acted = parts.actor.segment(state.params, before.cache.actor, seen)[0]

    cost = entropy_cost(config, state.step)

    def learns(params, batch):
        cache, unroll, advantage, target, acted = batch
        mine, value, _ = parts.learner.segment(params, cache, rendered(family, unroll.steps))
        total, entropy = clipped_loss(mine, value, config, cost, unroll, advantage, target)
        return total + config.learner_pull * divergence("forward", acted, mine).mean(), entropy

    def follows(params, batch):
        cache, steps, told, worth = batch
        mine, value, _ = parts.actor.segment(params, cache, rendered(family, steps))
        apart = divergence(config.divergence, told, mine).mean()
        return apart + config.actor_value_cost * 0.5 * ((worth - value) ** 2).mean(), apart

    steps = functools.partial(gradient_steps, mesh=setting.mesh, minibatches=config.minibatches)
    fed = before.cache.learner, unroll, advantage, target, acted
    learned, (first, norm, entropy, _) = steps(learns, parts.learner_rule, state.learner, fed, passes=config.epochs)
    told, worth, _ = parts.learner.segment(learned.params, before.cache.learner, seen)
    mine, fed = Learning(state.params, state.opt_state), (before.cache.actor, unroll.steps, told, worth)
    passes = config.epochs * config.distillations
    mine, (second, other, apart, _) = steps(follows, parts.actor_rule, mine, fed, passes=passes)

    fresh = begin(plays, family, config, key_begin, tasks)
    after = begun_again(over, fresh, trials.replace(age=before.age + 1))
    metrics = {"loss": first.mean() + second.mean(), "grad_norm": norm.mean() + other.mean()}
    metrics |= {"entropy": entropy.mean(), "divergence": apart[-1].mean()}
    metrics |= told_of(family, config, before, unroll)
    return TrainState(mine.params, mine.opt_state, state.step + 1, after, learned), metrics
