"""Trials of RL²: how they begin, how a policy acts in them, and the loss of what it did. Pure functions, for `rl2`.

A trial is one task, played for several episodes by a network whose state survives their ends. Sources: as in `rl2`.

Letters: B trials side by side, L steps of each in an update.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ad_jax.envs.base import TaskFamily, advance, num_tasks, reset, take
from ad_jax.errors import ConfigError
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.history.reward_unit import check_unit
from ad_jax.methods.base import MethodConfig
from ad_jax.methods.played import Played, rendered
from ad_jax.models.base import ActorCritic, first_steps, follow
from ad_jax.types import Array, PyTree, Spec, Steps


@dataclasses.dataclass(frozen=True)
class Config(MethodConfig):
    """How to train. An update is some steps of every trial and the gradient steps on them."""

    updates: int = 800
    updates_per_dispatch: int = 5
    checkpoint_every: int = 50  # updates
    trial_episodes: int = 10  # of full length; where episodes end early, a trial has more of them
    unroll_episodes: int | None = None  # of each trial in an update, divides the trial; None: whole trials
    trials: int = 64  # B, side by side
    epochs: int = 2  # times that an update goes over its steps
    minibatches: int = 2  # gradient steps in an epoch, each on as many trials
    learning_rate: float = 3e-3  # at the start; falls linearly to 0 at the last update
    adam_epsilon: float = 1e-5
    clip_norm: float = 0.5  # global norm of the gradient
    clip: float = 0.2  # how far the ratio of probabilities may move from 1 with a gain
    discount: float = 0.97  # per step; runs on across the ends of episodes
    trace_decay: float = 0.95  # lambda of the generalized advantage
    random_steps: int = 0  # at the start of each episode, of uniform number 0 to this: random actions, not learned from
    weight_decay: float = 0.0  # of matrices and tables, not of biases
    # What rewards are divided by; None: the size of those that random actions meet; 1: as they are.
    reward_unit: float | None = None
    reward_scale: float = 1.0  # of the rewards in that unit that are learned from, not of those that the model sees
    entropy_cost: float = 0.03  # at the start
    entropy_cost_end: float = 0.01  # at the last update; linear between them
    value_cost: float = 0.5

    @property
    def unroll(self) -> int:
        """Episodes of each trial in an update."""
        return self.trial_episodes if self.unroll_episodes is None else self.unroll_episodes

    def validate(self, sampling: Any = None) -> None:
        """Raise ConfigError where a number cannot be meant."""
        super().validate(sampling)
        for name in ("trial_episodes", "trials", "epochs", "minibatches"):
            self.at_least(name, 1)
        self.at_least("random_steps", 0)
        if self.unroll < 1 or self.trial_episodes % self.unroll:
            raise ConfigError(
                f"method.unroll_episodes={self.unroll} must divide method.trial_episodes={self.trial_episodes}; "
                "None takes whole trials"
            )
        check_unit("method", self.reward_unit)
        for name in ("discount", "trace_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"method.{name} is in [0, 1]; got {getattr(self, name)}")

    def check_devices(self, split: int, sampling: ReplayConfig | None = None) -> None:
        """Raise ConfigError unless every minibatch has as many trials on each of the mesh's batch devices."""
        if self.trials % (self.minibatches * split):
            raise ConfigError(
                f"method.trials={self.trials} must be a multiple of method.minibatches x the devices that split the "
                f"batch = {self.minibatches} x {split}"
            )

    def env_steps(self, family: TaskFamily) -> int:
        """Return the environment steps of an update."""
        return self.trials * self.unroll * family.episode_length

    def positions(self, family: TaskFamily, sampling: ReplayConfig | None = None) -> int:
        """Return the steps that the gradients of an update go over."""
        return self.epochs * self.env_steps(family)

    def batch_bytes(self, family: TaskFamily, spec: Spec, sampling: ReplayConfig | None = None) -> int:
        """Return the bytes of an update's `Unroll` with its advantages and targets."""
        return self.env_steps(family) * (spec.size * spec.compute_dtype.itemsize + 8 * 4 + 3)

    def reward_unit_asked(self, sampling: ReplayConfig | None = None) -> float | None:
        """Return `reward_unit`."""
        return self.reward_unit


class Trials(struct.PyTreeNode):
    """B trials under way. Every leaf is `[B, ...]`, but for a clock of the cache that all of them share."""

    age: Array  # [B] int32, updates that the trial has had
    task: Array  # [B] int32, row of the training tasks
    cache: PyTree  # the network's state
    steps: Steps  # [B], what the network sees next, its observation as yet unrendered
    env_state: PyTree
    forced: Array  # [B] int32, random actions still to come in this episode


class Unroll(Played):
    """The same with what the policy that acted thought of it."""

    log_prob: Array  # float32, of the action
    value: Array  # float32
    free: Array  # bool, the policy chose the action


def begin(network: ActorCritic, family: TaskFamily, config: Config, key: jax.Array, tasks: PyTree) -> Trials:
    """B new trials of tasks drawn from `tasks [N]`. The key is consumed."""
    key_task, key_reset, key_forced = jax.random.split(key, 3)
    task = jax.random.randint(key_task, (config.trials,), 0, num_tasks(tasks), jnp.int32)
    keys = jax.random.split(key_reset, config.trials)
    observation, env_state = jax.vmap(functools.partial(reset, family))(keys, take(tasks, task))
    steps = first_steps(observation, family.action_spec)
    forced = random_steps(config, key_forced, task.shape)
    return Trials(jnp.zeros_like(task), task, network.init_cache(config.trials), steps, env_state, forced)


def random_steps(config: Config, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """How many random actions open an episode, `shape` int32. The key is consumed."""
    if config.random_steps == 0:
        return jnp.zeros(shape, jnp.int32)
    return jax.random.randint(key, shape, 0, config.random_steps + 1, jnp.int32)


def roll(
    network: ActorCritic,
    family: TaskFamily,
    config: Config,
    params: PyTree,
    trials: Trials,
    tasks: PyTree,
    key: jax.Array,
) -> tuple[Unroll, Trials, jax.Array]:
    """L steps of every trial, sampled actions: what was done, the trials after it, and their value `[B]` then.

    The key is consumed.
    """
    length, batch = config.unroll * family.episode_length, len(trials.task)
    key_act, key_env, key_forced = jax.random.split(key, 3)
    # All at once, because splitting keys step by step would cost more than acting.
    noise = jax.random.gumbel(key_act, (length, batch, family.num_actions), jnp.float32)
    keys = jax.random.split(key_env, (length, batch))
    forced = random_steps(config, key_forced, (length, batch))  # of an episode that the step before ended
    own, go = take(tasks, trials.task), jax.vmap(functools.partial(advance, family))

    def think(cache, steps):
        seen = jax.tree.map(lambda x: x[:, None], rendered(family, steps))
        logits, value, cache = network.segment(params, cache, seen)
        return logits[:, 0], value[:, 0], cache

    def step(carry, random):
        (cache, steps, env_state, left), (noise, keys, forced) = carry, random
        logits, value, cache = think(cache, steps)
        free = left == 0
        action = jnp.argmax(jnp.where(free[:, None], logits, 0.0) + noise, axis=-1).astype(jnp.int32)
        observation, env_state, outcome = go(keys, env_state, action, own)
        did = steps, action, outcome.reward, outcome.done
        taken = Unroll(*did, log_prob=log_prob_of(logits, action), value=value, free=free)
        left = jnp.where(outcome.done, forced, jnp.maximum(left - 1, 0))
        return (cache, follow(observation, action, outcome), env_state, left), taken

    start = (trials.cache, trials.steps, trials.env_state, trials.forced)
    (cache, steps, env_state, left), unroll = jax.lax.scan(step, start, (noise, keys, forced))
    unroll = jax.tree.map(lambda x: x.swapaxes(0, 1), unroll)
    after = trials.replace(cache=cache, steps=steps, env_state=env_state, forced=left)
    return unroll, after, think(cache, steps)[1]


def advantages(reward: jax.Array, value: jax.Array, ahead: jax.Array, config: Config) -> jax.Array:
    """Generalized advantages `[B, L]` of rewards and values `[B, L]`; `ahead [B]` is the value after the last step.

    The end of an episode is a step like any other: a trial goes on after it.
    """
    following = jnp.concatenate([value[:, 1:], ahead[:, None]], axis=1)
    error = reward + config.discount * following - value

    def back(later, error):
        advantage = error + config.discount * config.trace_decay * later
        return advantage, advantage

    return jax.lax.scan(back, jnp.zeros_like(ahead), error.T, reverse=True)[1].T


def log_prob_of(logits: jax.Array, action: jax.Array) -> jax.Array:
    """`[...]` log-probabilities of `action [...]` under `logits [..., A]`."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], axis=-1)[..., 0]


def loss(
    params: PyTree,
    network: ActorCritic,
    family: TaskFamily,
    config: Config,
    entropy_cost: jax.Array,
    cache: PyTree,
    unroll: Unroll,
    advantage: jax.Array,
    target: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return the clipped loss of some trials, a scalar, and their policy's mean entropy in nats.

    Args:
        params: of the network.
        network: the policy and its value.
        family: whose `render` gives what the network sees.
        config: gives `clip` and `value_cost`.
        entropy_cost: `[]` float32, the weight of the entropy in the loss.
        cache: the network's state before the first step.
        unroll: `[b, L]`, what the trials did.
        advantage: `[b, L]` float32, of each action.
        target: `[b, L]` float32, what the value should be.
    """
    logits, value, _ = network.segment(params, cache, rendered(family, unroll.steps))
    return clipped_loss(logits, value, config, entropy_cost, unroll, advantage, target)


def clipped_loss(
    logits: jax.Array,
    value: jax.Array,
    config: Config,
    entropy_cost: jax.Array,
    unroll: Unroll,
    advantage: jax.Array,
    target: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return the same of a policy's logits `[b, L, A]` and values `[b, L]` at the steps of `unroll`."""
    log_policy = jax.nn.log_softmax(logits)
    entropy = -jnp.sum(jnp.exp(log_policy) * log_policy, axis=-1).mean()
    ratio = jnp.exp(log_prob_of(logits, unroll.action) - unroll.log_prob)
    held = jnp.clip(ratio, 1 - config.clip, 1 + config.clip)
    gain = jnp.where(unroll.free, jnp.minimum(ratio * advantage, held * advantage), 0.0).mean()
    value_error = 0.5 * ((target - value) ** 2).mean()
    return -gain + config.value_cost * value_error - entropy_cost * entropy, entropy
