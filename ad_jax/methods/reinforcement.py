"""What the methods share that reinforce a policy with a value over trials: their options, and what an update does.

Sources: as in `rl2`. Letters: B trials side by side, L steps of each in an update.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from ad_jax import values
from ad_jax.envs.base import TaskFamily
from ad_jax.errors import ConfigError
from ad_jax.history import reward_unit
from ad_jax.keys import named_key
from ad_jax.methods.base import Feed
from ad_jax.methods.minibatches import Learning, begun_again, gradient_steps
from ad_jax.methods.optimizer import falling
from ad_jax.methods.played import cannot_be, episodes, refused
from ad_jax.methods.trials import Config, Trials, Unroll, advantages, begin, loss, roll
from ad_jax.models.base import ActorCritic
from ad_jax.types import Box, PyTree

ONLY_IN_TRAINING = ("token_mask", "dropout", "attention_dropout", "pixel_dropout", "remat")  # options of models


class Parts(NamedTuple):
    """What an update is made of."""

    network: ActorCritic
    family: TaskFamily
    config: Config
    optimizer: optax.GradientTransformation
    unit: float  # of the rewards that are learned from; the network divides those that it sees by itself


@dataclasses.dataclass(frozen=True)
class Reinforcement(Config):
    """Options of every method that trains a policy with a value over trials."""

    feed: ClassVar[Feed] = "tasks"
    called: ClassVar[str]  # in messages

    def check_model(self, name: str, model_config: object) -> None:
        """Raise ConfigError unless the model has a value, and is the same function in training as in acting."""
        if not getattr(model_config, "value_head", None):
            raise ConfigError(
                f"method={self.called} trains a policy with a value: set model=lstm or model=transformer, and "
                f"model.value_head=True, or method=distillation; got model {name} without it"
            )
        check_the_same(self.called, "model", model_config)

    def check_family(self, family: TaskFamily) -> None:
        """Raise ConfigError unless actions are Discrete."""
        if isinstance(action := family.action_spec, Box):
            raise ConfigError(
                f"method={self.called} trains a policy over a number of actions, and those of {family.name} are "
                f"{action}. Use method=distillation"
            )

    def reward_unit_found(self, family: TaskFamily, tasks: PyTree, seed: int) -> float:
        """Return the size of the rewards that random actions meet."""
        return unit_by_chance(family, tasks, self, seed)

    def make_optimizer(self) -> optax.GradientTransformation:
        """Return Adam after clipping by the global norm, on a rate that falls linearly to 0 at the last step."""
        steps = self.updates * self.epochs * self.minibatches
        return falling(self.learning_rate, steps, self.adam_epsilon, self.weight_decay, self.clip_norm)


def check_the_same(method: str, where: str, config: object) -> None:
    """Raise ConfigError where the options `config` of a model make another function in training than in acting."""
    for option in ONLY_IN_TRAINING:
        if value := getattr(config, option, 0):
            raise ConfigError(
                f"method={method} trains the function that acts, where {where}.{option}={value} does nothing: set "
                f"{where}.{option}={type(value)()}"
            )


def spread(trials: Trials, config: Config) -> Trials:
    """Return new trials of parts with their ends spread over the updates, and over the trials of each minibatch."""
    place = jnp.arange(config.trials, dtype=jnp.int32) // config.minibatches
    return trials.replace(age=place.astype(jnp.int32) % (config.trial_episodes // config.unroll))


def unit_by_chance(family: TaskFamily, tasks: PyTree, config: Config, seed: int) -> float:
    """Return the unit of the rewards that random actions meet in as many steps as an update has; 1 where they meet
    none.

    Raises:
        AdJaxError: if the family gives what is not finite or not what it states.
    """

    def play(tasks):
        played, task = by_chance(family, config, seed, tasks)
        return played.reward, cannot_be(family, played, task)

    reward, (first, task) = jax.device_get(jax.jit(play)(tasks))
    if first.place != values.NOTHING:
        raise refused(first, task, tasks, family, "in random play before update 1", "Nothing was trained.")
    return reward_unit.pool([reward_unit.of_chunk(np.asarray(reward))])


def by_chance(family: TaskFamily, config: Config, seed: int, tasks: PyTree) -> tuple[Unroll, jax.Array]:
    """As many steps as an update has, of random actions in new trials, and the row of each trial's task, `[B]`."""

    def segment(params, cache, steps):
        at = steps.prev_action.shape
        return jnp.zeros((*at, family.num_actions), jnp.float32), jnp.zeros(at, jnp.float32), cache

    chance = ActorCritic(lambda key: {}, lambda batch: (), segment)
    key_begin, key_roll = jax.random.split(named_key(seed, "rl2-rewards"))
    trials = begin(chance, family, config, key_begin, tasks)
    return roll(chance, family, config, {}, trials, tasks, key_roll)[0], trials.task


def is_over(config: Config, trials: Trials) -> jax.Array:
    """Say which trials end with this update, `[B]`."""
    return trials.age + 1 >= config.trial_episodes // config.unroll


def improved(
    parts: Parts,
    learning: Learning,
    before: Trials,
    step: jax.Array,
    tasks: PyTree,
    key: jax.Array,
    *,
    mesh: Mesh | None,
    mix: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]] | None = None,
) -> tuple[Learning, Trials, Unroll, tuple[jax.Array, jax.Array, jax.Array, PyTree]]:
    """Take some steps in every trial, and the gradient steps on them. The key is consumed.

    Args:
        parts: what is trained, and how.
        learning: what learns.
        before: the trials.
        step: updates done.
        tasks: the training tasks.
        key: of this update.
        mesh: as in `gradient_steps`.
        mix: as in `gradient_steps`.

    Returns:
        What has learned; the trials after it, new ones where some are over; what was done; the facts of
        `gradient_steps`, of which the third is the entropy.
    """
    (network, family, config, optimizer, unit), (key_roll, key_begin) = parts, jax.random.split(key)
    over = is_over(config, before)
    unroll, trials, ahead = roll(network, family, config, learning.params, before, tasks, key_roll)
    ahead = jnp.where(over, 0.0, ahead)
    reward = unroll.reward if unit == reward_unit.NONE else unroll.reward / jnp.float32(unit)
    advantage = advantages(reward * config.reward_scale, unroll.value, ahead, config)
    target = advantage + unroll.value
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    cost = entropy_cost(config, step)

    def clipped(params, batch):
        return loss(params, network, family, config, cost, *batch)

    learned, facts = gradient_steps(
        clipped,
        optimizer,
        learning,
        (before.cache, unroll, advantage, target),
        mesh=mesh,
        minibatches=config.minibatches,
        passes=config.epochs,
        mix=mix,
    )
    fresh = begin(network, family, config, key_begin, tasks)
    return learned, begun_again(over, fresh, trials.replace(age=before.age + 1)), unroll, facts


def entropy_cost(config: Config, step: jax.Array) -> jax.Array:
    """Return the weight of the entropy after `step` updates, a scalar."""
    progress = step.astype(jnp.float32) / config.updates
    return config.entropy_cost + progress * (config.entropy_cost_end - config.entropy_cost)


def told_of(family: TaskFamily, config: Config, before: Trials, unroll: Unroll) -> dict[str, PyTree]:
    """Return the mean return of the first and of the last episode of the trials that began and ended in an update,
    float32 scalars, and what `cannot_be`.
    """
    first, last = episodes(unroll, before.age == 0, is_over(config, before))
    return {"first_return": first, "last_return": last, "cannot be": cannot_be(family, unroll, before.task)}


def mean_facts(facts: Sequence[jax.Array]) -> dict[str, PyTree]:
    """Return loss, gradient norm and entropy, means over the gradient steps, of the `facts` of these."""
    return dict(zip(("loss", "grad_norm", "entropy"), map(jnp.mean, facts), strict=True))
