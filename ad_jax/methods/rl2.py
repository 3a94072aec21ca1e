"""RL², the baseline without histories: a policy with a memory trained by reinforcement over trials of several episodes.

A trial is one task, played for `trial_episodes` episodes. The LSTM's state, or what the transformer's window holds,
survives the ends of episodes inside a trial and is empty at the start of the next one, for which another training task
is drawn; what is maximized is the discounted return of the whole trial. So the policy is paid for learning the task
inside its state, and frozen it goes through `evaluate` like any other model. Stands in the place of collecting and
distilling. Input: a family, its training tasks and a model with a value head. Output: checkpoints and metrics. Knows
neither sources nor histories.

Source: Duan et al. 2016 (arXiv 1611.02779) and Wang et al. 2016 (arXiv 1611.05763), as the baseline of Laskin et al.
2022 (arXiv 2210.14215). The gradient is that of clipped policy optimization (Schulman et al. 2017, arXiv 1707.06347,
equations 7 and 9) through time, advantages are generalized (Schulman et al. 2016, arXiv 1506.02438, equation 16). With
a transformer and `model.gate=gru` it is GTrXL (Parisotto et al. 2019, arXiv 1910.06764). Differences from these stand
in docs/rl2.md.

Letters: B trials side by side, L steps of each in an update.
"""

import dataclasses
import functools
from typing import ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh

from ad_jax import values
from ad_jax.envs.base import TaskFamily
from ad_jax.errors import ConfigError
from ad_jax.history import reward_unit
from ad_jax.keys import named_key
from ad_jax.methods.base import Feed, Learner, Method, Setting
from ad_jax.methods.minibatches import Learning, begun_again, gradient_steps, rows_on
from ad_jax.methods.optimizer import falling
from ad_jax.methods.played import cannot_be, check_values, episodes, refused
from ad_jax.methods.trials import Config, Trials, Unroll, advantages, begin, loss, roll
from ad_jax.models.base import ActorCritic, ModelConfig
from ad_jax.sharding import batch_devices, optimizer_shardings, param_shardings, replicated
from ad_jax.types import Array, Box, PyTree

ONLY_IN_TRAINING = ("token_mask", "dropout", "attention_dropout", "pixel_dropout", "remat")  # options of models
FACTS = ("loss", "grad_norm", "entropy", "first_return", "last_return")  # of an update


@struct.dataclass
class TrainState:
    """Everything that training carries from one update to the next."""

    params: PyTree
    opt_state: PyTree
    step: Array  # [] int32, updates done
    trials: Trials


@dataclasses.dataclass(frozen=True)
class RL2(Config):
    """Options of RL²."""

    feed: ClassVar[Feed] = "tasks"
    title: ClassVar[str] = "RL²"
    called: ClassVar[str] = "rl2"  # in messages

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

    def make(self, setting: Setting) -> Method:
        """Make the method for a setting."""
        s, config = setting, cast(ModelConfig, setting.model_config)
        return Method(make(config.actor_critic(s.seen_spec), s.family, s.tasks, self, s.mesh, s.unit))


def make(
    network: ActorCritic,
    family: TaskFamily,
    tasks: PyTree,
    config: Config,
    mesh: Mesh,
    unit: float = reward_unit.NONE,
) -> Learner:
    """Make the learner of one network, family and configuration, which is fed the training tasks.

    Args:
        network: the policy and its value, which are trained.
        family: whose tasks the trials are of.
        tasks: on which something that cannot be is named.
        config: how to train.
        mesh: whose batch axes split the trials; the parameters lie on it, too.
        unit: of the rewards that the network sees and that are learned from.

    Raises:
        ConfigError: if a number cannot be meant, or the trials cannot be split over the mesh.
    """
    config.validate()
    config.check_devices(batch_devices(mesh))
    network, optimizer = reward_unit.applied(network, unit), config.make_optimizer()

    def init(seed: jax.Array, tasks: PyTree) -> TrainState:
        params = network.init(named_key(seed, "params"))
        trials = begin(network, family, config, named_key(seed, "rl2-start"), tasks)
        return TrainState(params, optimizer.init(params), jnp.int32(0), spread(trials, config))

    def shardings(shapes: TrainState) -> TrainState:
        placed = param_shardings(shapes.params, mesh, network.partition)
        return TrainState(
            placed,
            optimizer_shardings(optimizer, shapes.params, placed, mesh),
            replicated(mesh),
            rows_on(mesh, shapes.trials),
        )

    def check(metrics: dict[str, PyTree], step: int) -> dict[str, PyTree]:
        check_values(metrics.pop("cannot be"), tasks, family, step)
        return metrics

    return Learner(
        name="rl2",
        feed="tasks",
        init=init,
        update=functools.partial(update, network, family, config, optimizer, mesh, unit),
        params=lambda state: state.params,
        shardings=shardings,
        steps=config.env_steps(family),
        check=check,
        shown={"first_episode": "first_return", "last": "last_return", "entropy": "entropy"},
    )


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


def update(
    network: ActorCritic,
    family: TaskFamily,
    config: Config,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    unit: float,
    state: TrainState,
    tasks: PyTree,
    key: jax.Array,
) -> tuple[TrainState, dict[str, PyTree]]:
    """Return some steps of every trial, the gradient steps on them, and new trials where some are over. The key is
    consumed.

    Returns:
        The state after it, and as float32 scalars: loss, gradient norm and entropy, means over the gradient steps, and
        the mean return of the first and of the last episode of a trial, over the trials that began and ended here;
        beside them what `cannot_be`.
    """
    key_roll, key_begin = jax.random.split(key)
    over = state.trials.age + 1 >= config.trial_episodes // config.unroll
    unroll, trials, ahead = roll(network, family, config, state.params, state.trials, tasks, key_roll)
    ahead = jnp.where(over, 0.0, ahead)
    reward = unroll.reward if unit == reward_unit.NONE else unroll.reward / jnp.float32(unit)
    advantage = advantages(reward * config.reward_scale, unroll.value, ahead, config)
    target = advantage + unroll.value
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    progress = state.step.astype(jnp.float32) / config.updates
    entropy_cost = config.entropy_cost + progress * (config.entropy_cost_end - config.entropy_cost)

    def clipped(params, batch):
        return loss(params, network, family, config, entropy_cost, *batch)

    learned, facts = gradient_steps(
        clipped,
        optimizer,
        Learning(state.params, state.opt_state),
        (state.trials.cache, unroll, advantage, target),
        mesh=mesh,
        minibatches=config.minibatches,
        passes=config.epochs,
    )
    fresh = begin(network, family, config, key_begin, tasks)
    trials = begun_again(over, fresh, trials.replace(age=state.trials.age + 1))
    first, last = episodes(unroll, state.trials.age == 0, over)
    told: dict[str, PyTree] = dict(zip(FACTS, (*map(jnp.mean, facts), first, last)))
    told["cannot be"] = cannot_be(family, unroll, state.trials.task)
    return TrainState(learned.params, learned.opt_state, state.step + 1, trials), told
