"""RL², the baseline without histories: a recurrent policy trained by reinforcement over trials of several episodes.

A trial is one task, played for `trial_episodes` episodes. The LSTM's state survives the ends of episodes inside a trial
and is empty at the start of the next one, for which another training task is drawn; what is maximised is the discounted
return of the whole trial. So the policy is paid for learning the task inside its state, and frozen it goes through
`evaluate` like any other model. Stands in the place of collecting and distilling. Input: a family, its training tasks
and an LSTM with a value head. Output: checkpoints and metrics. Knows neither sources nor histories.

Source: Duan et al. 2016 (arXiv 1611.02779) and Wang et al. 2016 (arXiv 1611.05763), as the baseline of Laskin et al.
2022 (arXiv 2210.14215). The gradient is that of clipped policy optimisation (Schulman et al. 2017, arXiv 1707.06347,
equations 7 and 9) through time, advantages are generalised (Schulman et al. 2016, arXiv 1506.02438, equation 16).
Differences from these stand in docs/rl2.md.

Letters: B trials side by side, L steps of each in an update.
"""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh

from ad_jax import checkpoint
from ad_jax.checkpoint import Checkpoints
from ad_jax.envs.base import TaskFamily, advance, num_tasks, take
from ad_jax.errors import ConfigError, TrainingDiverged
from ad_jax.keys import named_key
from ad_jax.metrics import MetricsLog, Progress
from ad_jax.models.base import first_steps
from ad_jax.models.lstm import ActorCritic
from ad_jax.sharding import batch_devices, on_batch, optimiser_shardings, param_shardings, replicated
from ad_jax.types import Array, Steps


@dataclasses.dataclass(frozen=True)
class Config:
    """How to train. An update is some steps of every trial and the gradient steps on them."""

    trial_episodes: int = 10  # of full length; where episodes end early, a trial has more of them
    unroll_episodes: int | None = None  # of each trial in an update, divides the trial; None: whole trials
    trials: int = 256  # B, side by side
    updates: int = 300
    epochs: int = 2  # times that an update goes over its steps
    minibatches: int = 4  # gradient steps in an epoch, each on as many trials
    learning_rate: float = 2e-3  # at the start; falls linearly to 0 at the last update
    adam_epsilon: float = 1e-5
    clip_norm: float = 0.5  # global norm of the gradient
    clip: float = 0.2  # how far the ratio of probabilities may move from 1 with a gain
    discount: float = 0.99  # per step; runs on across the ends of episodes
    trace_decay: float = 0.95  # lambda of the generalised advantage
    random_steps: int = 0  # at the start of each episode, of uniform number 0 to this: random actions, not learned from
    weight_decay: float = 0.0  # of matrices and tables, not of biases
    reward_scale: float = 1.0  # of the rewards that are learned from, not of those that the model sees
    entropy_cost: float = 0.01  # at the start
    entropy_cost_end: float = 0.01  # at the last update; linear between them
    value_cost: float = 0.5
    updates_per_dispatch: int = 5
    checkpoint_every: int = 50  # updates
    keep_checkpoints: int = 2

    @property
    def unroll(self) -> int:
        """Episodes of each trial in an update."""
        return self.trial_episodes if self.unroll_episodes is None else self.unroll_episodes

    def validate(self) -> None:
        """Raises ConfigError where a number cannot be meant."""
        for name in ("trial_episodes", "trials", "updates", "epochs", "minibatches", "updates_per_dispatch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"rl2.{name} must be at least 1; got {getattr(self, name)}")
        least = {"checkpoint_every": 1, "keep_checkpoints": 1, "random_steps": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ConfigError(f"rl2.{name} must be at least {value}; got {getattr(self, name)}")
        if self.unroll < 1 or self.trial_episodes % self.unroll:
            raise ConfigError(
                f"rl2.unroll_episodes={self.unroll} must divide rl2.trial_episodes={self.trial_episodes}; "
                "None takes whole trials"
            )
        for name in ("discount", "trace_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"rl2.{name} is in [0, 1]; got {getattr(self, name)}")

    def check_devices(self, devices: int) -> None:
        """Raises ConfigError unless every minibatch has as many trials on each of the mesh's batch devices."""
        if self.trials % (self.minibatches * devices):
            raise ConfigError(
                f"rl2.trials={self.trials} must be a multiple of rl2.minibatches x the devices that split the batch = "
                f"{self.minibatches} x {devices}"
            )


@struct.dataclass
class Trials:
    """B trials under way. Every leaf is `[B, ...]`."""

    age: Array  # [B] int32, updates that the trial has had
    task: Array  # [B] int32, row of the training tasks
    cache: Any  # the network's state
    steps: Steps  # [B], what the network sees next, its observation as yet unrendered
    env_state: Any
    forced: Array  # [B] int32, random actions still to come in this episode


@struct.dataclass
class Unroll:
    """What B trials did in L steps, and what the policy that acted thought of it. Every leaf is `[B, L, ...]`."""

    steps: Steps  # what was seen before each action, unrendered
    action: Array  # int32
    log_prob: Array  # float32, of the action
    value: Array  # float32
    reward: Array  # float32, for the action
    done: Array  # bool, the action ended an episode
    free: Array  # bool, the policy chose the action


@struct.dataclass
class TrainState:
    """Everything that training carries from one update to the next."""

    params: Any
    opt_state: Any
    step: Array  # [] int32, updates done
    trials: Trials


class Trainer:
    """The compiled parts of training for one network, family, configuration and mesh.

    Attributes:
        init: `tasks -> TrainState`, born sharded.
        run: `(state, tasks, count) -> (state, facts)`: `count` updates, at most P = `updates_per_dispatch`; facts are
            those of `update`, `[P]` each; entries past `count` are 0. The state is donated.
        like: shapes and shardings of the state.
        tasks: the training tasks, a copy on every device.
    """

    def __init__(self, network: ActorCritic, family: TaskFamily, tasks: Any, config: Config, mesh: Mesh, seed: int):
        config.validate()
        config.check_devices(batch_devices(mesh))
        self.tasks = jax.device_put(tasks, replicated(mesh))
        optimiser = make_optimiser(config)

        def init(tasks) -> TrainState:
            params = network.init(named_key(seed, "params"))
            trials = begin(network, family, config, named_key(seed, "rl2-start"), tasks)
            # Parts of trials: their ends are spread over the updates, and over the trials of each minibatch.
            place = jnp.arange(config.trials) // config.minibatches
            trials = trials.replace(age=place.astype(jnp.int32) % (config.trial_episodes // config.unroll))
            return TrainState(params, optimiser.init(params), jnp.int32(0), trials)

        shapes, one = jax.eval_shape(init, self.tasks), replicated(mesh)
        self.shardings = TrainState(
            param_shardings(shapes.params, mesh),
            optimiser_shardings(optimiser, shapes.params, mesh),
            one,
            jax.tree.map(lambda _: on_batch(mesh), shapes.trials),
        )
        self.like = jax.tree.map(
            lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, self.shardings
        )
        self.init = jax.jit(init, out_shardings=self.shardings)
        step = functools.partial(update, network, family, config, optimiser, mesh, seed)

        def run(state, tasks, count):
            def body(i, carry):
                state, facts = carry
                state, new = step(state, tasks)
                return state, jax.tree.map(lambda all, value: all.at[i].set(value), facts, new)

            _, shapes = jax.eval_shape(step, state, tasks)
            empty = jax.tree.map(lambda s: jnp.zeros((config.updates_per_dispatch,), s.dtype), shapes)
            # A dynamic count: one program for every length, so where a run was cut cannot change its bits.
            return jax.lax.fori_loop(0, count, body, (state, empty))

        self.run = jax.jit(run, donate_argnums=0, out_shardings=(self.shardings, one))


def make_optimiser(config: Config) -> optax.GradientTransformation:
    """Adam after clipping by the global norm; the learning rate falls linearly to 0 at the last gradient step."""
    rate = optax.linear_schedule(config.learning_rate, 0.0, config.updates * config.epochs * config.minibatches)
    matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    adam = optax.adamw(rate, eps=config.adam_epsilon, weight_decay=config.weight_decay, mask=matrices)
    chain = optax.chain(optax.clip_by_global_norm(config.clip_norm), adam)

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an int32 power, which strict JAX refuses
            return chain.update(updates, state, params)

    return optax.GradientTransformationExtraArgs(chain.init, update)


def begin(network: ActorCritic, family: TaskFamily, config: Config, key: jax.Array, tasks: Any) -> Trials:
    """B new trials of tasks drawn from `tasks [N]`. The key is consumed."""
    key_task, key_reset, key_forced = jax.random.split(key, 3)
    task = jax.random.randint(key_task, (config.trials,), 0, num_tasks(tasks))
    keys = jax.random.split(key_reset, config.trials)
    observation, env_state = jax.vmap(family.reset_env)(keys, take(tasks, task))
    steps = first_steps(observation, family.num_actions)
    forced = jax.random.randint(key_forced, task.shape, 0, config.random_steps + 1)
    return Trials(jnp.zeros_like(task), task, network.init_cache(config.trials), steps, env_state, forced)


def update(
    network: ActorCritic,
    family: TaskFamily,
    config: Config,
    optimiser: optax.GradientTransformation,
    mesh: Mesh,
    seed: int,
    state: TrainState,
    tasks: Any,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Some steps of every trial, the gradient steps on them, and new trials where some are over.

    Returns:
        The state after it, and as float32 scalars: loss, gradient norm and entropy, means over the gradient steps, and
        the mean return of the first and of the last episode of a trial, over the trials that began and ended here.
    """
    # Built from Python numbers inside the jit, so that a resumed run has the same keys.
    key = jax.random.fold_in(named_key(seed, "rl2"), state.step)
    key_roll, key_begin = jax.random.split(key)
    over = state.trials.age + 1 >= config.trial_episodes // config.unroll
    unroll, trials, ahead = roll(network, family, config, state.params, state.trials, tasks, key_roll)
    ahead = jnp.where(over, 0.0, ahead)
    advantage = advantages(unroll.reward * config.reward_scale, unroll.value, ahead, config)
    target = advantage + unroll.value
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    progress = state.step.astype(jnp.float32) / config.updates
    entropy_cost = config.entropy_cost + progress * (config.entropy_cost_end - config.entropy_cost)

    def deal(x):  # [B, ...] -> [minibatches, B / minibatches, ...], of every device's rows as many to each
        return x.reshape(-1, config.minibatches, *x.shape[1:]).swapaxes(0, 1)

    def minibatch(carry, batch):
        params, opt_state = carry
        batch = jax.lax.with_sharding_constraint(batch, on_batch(mesh))
        (value, entropy), grads = jax.value_and_grad(loss, has_aux=True)(
            params, network, family, config, entropy_cost, *batch
        )
        changes, opt_state = optimiser.update(grads, opt_state, params)
        return (optax.apply_updates(params, changes), opt_state), (value, optax.tree.norm(grads), entropy)

    batches = jax.tree.map(deal, (state.trials.cache, unroll, advantage, target))
    epoch = lambda carry, _: jax.lax.scan(minibatch, carry, batches)
    (params, opt_state), facts = jax.lax.scan(epoch, (state.params, state.opt_state), None, config.epochs)
    fresh = begin(network, family, config, key_begin, tasks)
    choose = lambda new, old: jnp.where(over.reshape(-1, *[1] * (old.ndim - 1)), new, old)
    trials = jax.tree.map(choose, fresh, trials.replace(age=state.trials.age + 1))
    first, last = episodes(unroll, state.trials.age == 0, over)
    names = ("loss", "grad_norm", "entropy")
    shown = dict(zip(names, map(jnp.mean, facts))) | {"first_return": first, "last_return": last}
    return TrainState(params, opt_state, state.step + 1, trials), shown


def roll(
    network: ActorCritic, family: TaskFamily, config: Config, params: Any, trials: Trials, tasks: Any, key: jax.Array
) -> tuple[Unroll, Trials, jax.Array]:
    """L steps of every trial, sampled actions: what was done, the trials after it, and their value `[B]` then.

    The key is consumed.
    """
    length, batch = config.unroll * family.episode_length, len(trials.task)
    key_act, key_env, key_forced = jax.random.split(key, 3)
    # All at once, because splitting keys step by step would cost more than acting.
    noise = jax.random.gumbel(key_act, (length, batch, family.num_actions))
    keys = jax.random.split(key_env, (length, batch))
    forced = jax.random.randint(key_forced, (length, batch), 0, config.random_steps + 1)  # of an episode begun here
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
        taken = Unroll(steps, action, log_prob_of(logits, action), value, outcome.reward, outcome.done, free)
        left = jnp.where(outcome.done, forced, jnp.maximum(left - 1, 0))
        return (cache, Steps(observation, action, outcome.reward, outcome.done), env_state, left), taken

    start = (trials.cache, trials.steps, trials.env_state, trials.forced)
    (cache, steps, env_state, left), unroll = jax.lax.scan(step, start, (noise, keys, forced))
    unroll = jax.tree.map(lambda x: x.swapaxes(0, 1), unroll)
    after = trials.replace(cache=cache, steps=steps, env_state=env_state, forced=left)
    return unroll, after, think(cache, steps)[1]


def rendered(family: TaskFamily, steps: Steps) -> Steps:
    """Steps `[...]` as the network sees them."""
    look = family.render
    for _ in steps.prev_action.shape:
        look = jax.vmap(look)
    return steps.replace(observation=look(steps.observation))


def advantages(reward: jax.Array, value: jax.Array, ahead: jax.Array, config: Config) -> jax.Array:
    """Generalised advantages `[B, L]` of rewards and values `[B, L]`; `ahead [B]` is the value after the last step.

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
    params: Any,
    network: ActorCritic,
    family: TaskFamily,
    config: Config,
    entropy_cost: jax.Array,
    cache: Any,
    unroll: Unroll,
    advantage: jax.Array,
    target: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The clipped loss of some trials, a scalar, and their policy's mean entropy in nats.

    Args:
        cache: the network's state before the first step.
        unroll, advantage, target: `[b, L]`, the target that of the value.
    """
    logits, value, _ = network.segment(params, cache, rendered(family, unroll.steps))
    log_policy = jax.nn.log_softmax(logits)
    entropy = -jnp.sum(jnp.exp(log_policy) * log_policy, axis=-1).mean()
    ratio = jnp.exp(log_prob_of(logits, unroll.action) - unroll.log_prob)
    held = jnp.clip(ratio, 1 - config.clip, 1 + config.clip)
    gain = jnp.where(unroll.free, jnp.minimum(ratio * advantage, held * advantage), 0.0).mean()
    value_error = 0.5 * ((target - value) ** 2).mean()
    return -gain + config.value_cost * value_error - entropy_cost * entropy, entropy


def episodes(unroll: Unroll, began: jax.Array, over: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean return of the first episode of the trials that `began [B]` and of the last whole one of those `over [B]`."""
    done = unroll.done.astype(jnp.int32)
    number = jnp.cumsum(done, axis=1) - done  # episodes finished before the step

    def mean(rows, steps):
        total = jnp.sum(jnp.where(rows[:, None] & steps, unroll.reward, 0.0))
        return total / jnp.maximum(rows.sum(), 1).astype(jnp.float32)

    return mean(began, number == 0), mean(over, number == done.sum(axis=1, keepdims=True) - 1)


@dataclasses.dataclass(frozen=True)
class Result:
    """What training reports: seconds of this process without compilation, and where it began and ended."""

    step: int
    resumed_from: int
    params: Any
    seconds: float
    compile_seconds: float
    facts: dict[str, float]  # of the last dispatch
    env_steps: int  # of all updates


def train(
    trainer: Trainer,
    family: TaskFamily,
    config: Config,
    folder: Path,
    meta: dict[str, Any],
    log: MetricsLog,
    progress_seconds: float = 5.0,
) -> Result:
    """Train to `config.updates`, from the latest checkpoint in `folder` if there is one.

    Args:
        meta: plain data saved with every checkpoint; `meta["architecture"]` must equal a found checkpoint's.

    Raises:
        CheckpointError: if the checkpoint there is of another architecture.
        TrainingDiverged: if the loss or the gradient stops being finite; the last good checkpoint stays.
    """
    each = config.trials * config.unroll * family.episode_length
    with Checkpoints(folder, config.keep_checkpoints) as checkpoints:
        state, step, facts = _start(trainer, checkpoints, meta)
        log.forget_after("rl2", step)
        progress = Progress("rl2", config.updates, "updates", step, progress_seconds, each)
        started = time.monotonic()
        run = trainer.run.lower(state, trainer.tasks, jnp.int32(1)).compile()
        compile_seconds = time.monotonic() - started
        progress.note(f"compiled in {compile_seconds:.1f} s" + (f", going on from update {step}" if step else ""))
        started, first = time.monotonic(), step
        while step < config.updates:
            until = config.checkpoint_every - step % config.checkpoint_every
            count = min(config.updates_per_dispatch, until, config.updates - step)
            state, new = run(state, trainer.tasks, jnp.int32(count))
            new = {name: np.asarray(values)[:count] for name, values in new.items()}
            _check_finite(new["loss"], new["grad_norm"], step)
            step += count
            facts = {name: float(values.mean()) for name, values in new.items()}
            # Logged before anything is saved: what a checkpoint has passed must not be missing from the log.
            log.write("rl2", step, facts)
            if step % config.checkpoint_every == 0 or step == config.updates:
                checkpoints.save(step, state, meta | {"facts": facts})
            shown = {"first_episode": facts["first_return"], "last": facts["last_return"]}
            progress.update(step, **shown, entropy=facts["entropy"])
        seconds = time.monotonic() - started
        return Result(step, first, state.params, seconds, compile_seconds, facts, step * each)


def _start(trainer: Trainer, checkpoints: Checkpoints, meta: dict[str, Any]) -> tuple[TrainState, int, dict[str, float]]:
    """State, step and facts: fresh, or of the latest checkpoint."""
    if checkpoints.latest() is None:
        return trainer.init(trainer.tasks), 0, {}
    checkpoint.check_architecture(checkpoints.meta(), meta["architecture"], checkpoints.folder)
    step, state, saved = checkpoints.restore(trainer.like)
    return state, step, saved["facts"]


def _check_finite(loss: np.ndarray, norm: np.ndarray, step: int) -> None:
    bad = np.flatnonzero(~(np.isfinite(loss) & np.isfinite(norm)))
    if len(bad):
        raise TrainingDiverged(
            f"update {step + int(bad[0]) + 1}: loss {loss[bad[0]]}, gradient norm {norm[bad[0]]}. The last "
            "good checkpoint is kept; lower rl2.learning_rate or rl2.clip_norm"
        )
