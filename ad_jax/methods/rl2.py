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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh

from ad_jax import values
from ad_jax.checkpoint.checkpoint import Checkpoints
from ad_jax.envs.base import TaskFamily, spec_of, take
from ad_jax.errors import AdJaxError
from ad_jax.history import reward_unit
from ad_jax.keys import named_key
from ad_jax.methods.trials import Config, Trials, Unroll, advantages, begin, episodes, loss, roll
from ad_jax.models.lstm import ActorCritic
from ad_jax.process import preemption
from ad_jax.process.metrics import MetricsLog, Progress
from ad_jax.sharding import batch_devices, on_batch, optimiser_shardings, param_shardings, put, replicated
from ad_jax.stage import training
from ad_jax.types import Array, Transition

FACTS = ("loss", "grad_norm", "entropy", "first_return", "last_return")  # of an update


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

    def __init__(
        self,
        network: ActorCritic,
        family: TaskFamily,
        tasks: Any,
        config: Config,
        mesh: Mesh,
        seed: int,
        unit: float = reward_unit.NONE,  # of the rewards that the network sees and that are learned from
    ):
        config.validate()
        config.check_devices(batch_devices(mesh))
        self.tasks = put(tasks, replicated(mesh))
        network = reward_unit.applied(network, unit)
        optimiser = make_optimiser(config)

        def init(tasks) -> TrainState:
            params = network.init(named_key(seed, "params"))
            trials = begin(network, family, config, named_key(seed, "rl2-start"), tasks)
            # Parts of trials: their ends are spread over the updates, and over the trials of each minibatch.
            place = jnp.arange(config.trials, dtype=jnp.int32) // config.minibatches
            trials = trials.replace(age=place.astype(jnp.int32) % (config.trial_episodes // config.unroll))
            return TrainState(params, optimiser.init(params), jnp.int32(0), trials)

        shapes, one = jax.eval_shape(init, self.tasks), replicated(mesh)
        self.shardings = TrainState(
            param_shardings(shapes.params, mesh),
            optimiser_shardings(optimiser, shapes.params, mesh),
            one,
            jax.tree.map(lambda _: on_batch(mesh), shapes.trials),
        )
        self.like = training.like(shapes, self.shardings)
        self.init = jax.jit(init, out_shardings=self.shardings)
        step = functools.partial(update, network, family, config, optimiser, mesh, seed, unit)

        def run(state, tasks, count):
            def body(i, carry):
                state, facts = carry
                state, new = step(state, tasks)
                return state, jax.tree.map(lambda all, value: all.at[i].set(value), facts, new)

            empty: dict[str, Any] = dict.fromkeys(FACTS, jnp.zeros((config.updates_per_dispatch,), jnp.float32))
            empty["cannot be"] = (
                values.nothing((config.updates_per_dispatch,)),
                jnp.zeros_like(empty["loss"], jnp.int32),
            )
            # A dynamic count: one program for every length, so where a run was cut cannot change its bits.
            return jax.lax.fori_loop(0, count, body, (state, empty))

        self.run = jax.jit(run, donate_argnums=0, out_shardings=(self.shardings, one))

    @functools.cached_property
    def compiled(self) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
        """`run`, compiled when it is first asked for."""
        return self.run.lower(self.like, self.tasks, jnp.int32(1)).compile()


def unit_by_chance(family: TaskFamily, tasks: Any, config: Config, seed: int) -> float:
    """The unit of the rewards that random actions meet in as many steps as an update has; 1 where they meet none.

    Raises:
        AdJaxError: if the family gives what is not finite or not what it states.
    """

    def play(tasks):
        played, task = by_chance(family, config, seed, tasks)
        return played.reward, cannot_be(family, played, task)

    reward, (first, task) = jax.device_get(jax.jit(play)(tasks))
    if first.place != values.NOTHING:
        raise _refused(first, task, tasks, family, "in random play before update 1", "Nothing was trained.")
    return reward_unit.pool([reward_unit.of_chunk(np.asarray(reward))])


def by_chance(family: TaskFamily, config: Config, seed: int, tasks: Any) -> tuple[Unroll, jax.Array]:
    """As many steps as an update has, of random actions in new trials, and the row of each trial's task, `[B]`."""

    def segment(params, cache, steps):
        at = steps.prev_action.shape
        return jnp.zeros((*at, family.num_actions), jnp.float32), jnp.zeros(at, jnp.float32), cache

    chance = ActorCritic(lambda key: {}, lambda batch: (), segment)
    key_begin, key_roll = jax.random.split(named_key(seed, "rl2-rewards"))
    trials = begin(chance, family, config, key_begin, tasks)
    return roll(chance, family, config, {}, trials, tasks, key_roll)[0], trials.task


def make_optimiser(config: Config) -> optax.GradientTransformation:
    """Adam after clipping by the global norm; the learning rate falls linearly to 0 at the last gradient step."""
    rate = optax.linear_schedule(config.learning_rate, 0.0, config.updates * config.epochs * config.minibatches)
    adam = optax.adamw(rate, eps=config.adam_epsilon, weight_decay=config.weight_decay, mask=training.matrices)
    return training.clipped(adam, config.clip_norm)


def update(
    network: ActorCritic,
    family: TaskFamily,
    config: Config,
    optimiser: optax.GradientTransformation,
    mesh: Mesh,
    seed: int,
    unit: float,
    state: TrainState,
    tasks: Any,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Some steps of every trial, the gradient steps on them, and new trials where some are over.

    Returns:
        The state after it, and as float32 scalars: loss, gradient norm and entropy, means over the gradient steps, and
        the mean return of the first and of the last episode of a trial, over the trials that began and ended here;
        beside them what `cannot_be`.
    """
    # Built from Python numbers inside the jit, so that a resumed run has the same keys.
    key = jax.random.fold_in(named_key(seed, "rl2"), state.step)
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
    told: dict[str, Any] = dict(zip(FACTS, (*map(jnp.mean, facts), first, last)))
    told["cannot be"] = cannot_be(family, unroll, state.trials.task)
    return TrainState(params, opt_state, state.step + 1, trials), told


def cannot_be(family: TaskFamily, unroll: Unroll, task: jax.Array) -> tuple[values.First, jax.Array]:
    """The first value of a trial that cannot be, of the first such trial, scalars, and which of the tasks it is of."""
    played = Transition(unroll.steps.observation, unroll.action, unroll.reward, unroll.done, unroll.done)
    played = jax.tree.map(lambda x: x.swapaxes(0, 1), played)
    none, start = values.nothing(task.shape), jnp.int32(0)
    found = values.look_through(spec_of(family), family.reward_dtype, none, start, played)
    row = jnp.argmax(found.place != values.NOTHING)
    return jax.tree.map(lambda x: x[row], (found, task))


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
        AdJaxError: if the family gives what is not finite or not what it states; the last good checkpoint stays.
        CheckpointError: if the checkpoint there is of another architecture.
        TrainingDiverged: if the loss or the gradient stops being finite; the last good checkpoint stays.
        Preempted: after SIGTERM and a checkpoint of the dispatch under way.
    """
    each = config.trials * config.unroll * family.episode_length
    with preemption.deferred() as stopped, Checkpoints(folder, config.keep_checkpoints) as checkpoints:
        step, state, facts, skipped = _begin(trainer, checkpoints, meta, log)
        progress = Progress("rl2", config.updates, "updates", step, progress_seconds, each)
        started = time.monotonic()
        run = trainer.compiled
        compile_seconds = time.monotonic() - started
        progress.note(f"compiled in {compile_seconds:.1f} s" + (f", going on from update {step}" if step else ""))
        started, first, leaving = time.monotonic(), step, False
        while step < config.updates and not leaving:
            count = training.until(step, config, (config.checkpoint_every,), skipped)
            if count:
                state, new = run(state, trainer.tasks, jnp.int32(count))
                check_values(new.pop("cannot be"), trainer.tasks, family, count, step)
                new = {name: np.asarray(facts)[:count] for name, facts in new.items()}
                if bad := training.not_finite(new["loss"], new["grad_norm"], step):
                    skipped = training.skip("rl2", bad, skipped, config.skip_updates)
                    step, state, facts, _ = _begin(trainer, checkpoints, meta, log)
                    progress.note(f"{bad.told}: back to update {step}, and on without update {bad.update}")
                    continue
                step += count
                facts = {name: float(all_of.mean()) for name, all_of in new.items()}
                # Logged before anything is saved: what a checkpoint has passed must not be missing from the log.
                log.write("rl2", step, facts)
            else:  # the next one is left out: its trials are never played
                state, step = dataclasses.replace(state, step=state.step + 1), step + 1
            leaving = training.leaving(stopped)
            if step % config.checkpoint_every == 0 or step == config.updates or leaving:
                checkpoints.save(step, state, meta | {"facts": facts} | ({"skipped": skipped} if skipped else {}))
            shown = {"first_episode": "first_return", "last": "last_return", "entropy": "entropy"}
            progress.update(step, **{name: facts[fact] for name, fact in shown.items() if facts})
        seconds = time.monotonic() - started
        return Result(step, first, state.params, seconds, compile_seconds, facts, step * each)


def check_values(found: tuple[values.First, Any], tasks: Any, family: TaskFamily, count: int, step: int) -> None:
    """Raises AdJaxError, in words, for what cannot be in the `count` updates after `step`, `[P]` each."""
    first, task = jax.tree.map(lambda x: np.asarray(x)[:count], found)
    bad = np.flatnonzero(first.place != values.NOTHING)
    if len(bad):
        first, task = jax.tree.map(lambda x: x[bad[0]], (first, task))
        where = f"of a trial's part in update {step + bad[0] + 1}"
        raise _refused(first, task, tasks, family, where, "The last good checkpoint is kept.")


def _refused(first: values.First, task: Any, tasks: Any, family: TaskFamily, where: str, kept: str) -> AdJaxError:
    """The error for what cannot be of one trial, whose task is row `task` of `tasks`."""
    what, field = values.told(spec_of(family), family.reward_dtype, first)
    name = family.task_ids(take(tasks, np.array([task])))[0]
    return AdJaxError(
        f"{what}, at step {first.step} {where}, on task {name} of {family.name}. {kept} {values.REMEDY[field]}"
    )


def _begin(
    trainer: Trainer, checkpoints: Checkpoints, meta: dict[str, Any], log: MetricsLog
) -> tuple[int, TrainState, dict[str, float], list[int]]:
    """Step, state, facts and left-out updates of the latest checkpoint or new; the log forgets what came later."""
    found = training.latest(checkpoints, trainer.like, meta)
    step, state, saved = found or (0, trainer.init(trainer.tasks), {"facts": {}})
    log.forget_after("rl2", step)
    return step, state, saved["facts"], saved.get("skipped", [])
