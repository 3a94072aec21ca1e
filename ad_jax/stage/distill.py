"""Stage 2: train a sequence model to predict the source's actions, or optimal ones, from the history so far.

Input: histories on the devices (`replay`) and a backbone (`models`). Output: checkpoints and metrics. Knows neither
environments nor sources; in-context evaluation during training comes in as a callable.

The loss is the mean negative log-likelihood of the action at every step of a window (Laskin et al. 2022, eq. 3). One
dispatch runs many updates on the device; how many does not change the result, because every random number is keyed by
its update.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh

from ad_jax.checkpoint.checkpoint import Checkpoints
from ad_jax.errors import ConfigError
from ad_jax.history import replay as replay_lib
from ad_jax.history.replay import Replay, Residents
from ad_jax.keys import named_key
from ad_jax.models.base import Model
from ad_jax.process import memory, preemption
from ad_jax.process.metrics import MetricsLog, Progress
from ad_jax.sharding import optimiser_shardings, param_shardings, replicated
from ad_jax.stage import training
from ad_jax.types import Array, Batch, Spec


@dataclasses.dataclass(frozen=True)
class Config:
    """How to train. An update is one optimiser step."""

    updates: int = 1000
    optimiser: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 2e-3  # peak, after warm-up; cosine to 0 at the last update
    warmup_updates: int = 100
    weight_decay: float = 0.01  # of matrices and tables, not of norms and biases
    b1: float = 0.9
    b2: float = 0.999
    clip_norm: float = 1.0  # global norm of the gradient
    label_smoothing: float = 0.0
    accumulate: int = 1  # parts that a batch is split into, one after another; saves memory
    updates_per_dispatch: int = 50
    checkpoint_every: int = 200  # updates
    keep_checkpoints: int = 2
    evaluate_every: int = 0  # updates between in-context evaluations on training tasks; 0 for none
    evaluate_episodes: int = 30  # episodes of each of them
    skip_updates: int | None = None  # how many may be left out, because their loss or gradient was not finite

    def validate(self, batch: int, groups: int) -> None:
        """Raises ConfigError where a number cannot be meant."""
        for name in ("updates", "accumulate", "updates_per_dispatch", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ConfigError(f"distill.{name} must be at least 1; got {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"distill.label_smoothing is in [0, 1); got {self.label_smoothing}")
        if self.skip_updates is not None and self.skip_updates < 0:
            raise ConfigError(f"distill.skip_updates is a number of updates; got {self.skip_updates}")
        if self.warmup_updates >= self.updates:
            raise ConfigError(
                f"distill.warmup_updates={self.warmup_updates} must be below distill.updates={self.updates}"
            )
        if (batch // groups) % self.accumulate:
            raise ConfigError(
                f"distill.accumulate={self.accumulate} must divide the rows of a group, "
                f"replay.batch / replay.groups = {batch // groups}"
            )


@struct.dataclass
class TrainState:
    """Everything that training carries from one update to the next."""

    params: Any
    opt_state: Any
    step: Array  # [] int32, updates done; with the seed, the whole state of the batch sampler


class Trainer:
    """The compiled parts of training for one model, configuration and mesh.

    Attributes:
        init: `() -> TrainState`, born sharded.
        update: `(state, replay) -> (state, loss [], grad_norm [])`: one update, not yet compiled.
        run: `(state, replay, count) -> (state, loss [P], grad_norm [P])`: `count` updates, at most
            P = `updates_per_dispatch`; entries past `count` are 0. The state is donated.
        drawn: `(replay, step) -> [B]`, the numbers of the histories that the update after `step` learns from.
        shardings: how the state lies on the mesh.
    """

    def __init__(
        self,
        model: Model,
        spec: Spec,  # of the observations as they are stored
        config: Config,
        sampling: replay_lib.Config,
        mesh: Mesh,
        seed: int,
        render: Callable[[Array], Array] = lambda observation: observation,  # what the model sees of one of them
    ):
        config.validate(sampling.batch, sampling.groups)
        if model.max_segment is not None and sampling.segment > model.max_segment:
            raise ConfigError(
                f"replay.segment={sampling.segment} is longer than this model can take ({model.max_segment} steps)"
            )
        optimiser = make_optimiser(config)

        def init() -> TrainState:
            params = model.init(named_key(seed, "params"))
            return TrainState(params, optimiser.init(params), jnp.int32(0))

        shapes = jax.eval_shape(init)
        self.shardings = TrainState(
            param_shardings(shapes.params, mesh), optimiser_shardings(optimiser, shapes.params, mesh), replicated(mesh)
        )
        self.like = training.like(shapes, self.shardings)
        self.init = jax.jit(init, out_shardings=self.shardings)

        def update(state: TrainState, replay: Replay) -> tuple[TrainState, jax.Array, jax.Array]:
            # Built from Python numbers inside the jit, so that a resumed run has the same keys.
            key_batch, key_model = _keys(seed, state.step)
            batch = replay_lib.sample(replay, key_batch, spec, sampling, mesh, render)
            loss, grads = gradient(model, state.params, batch, key_model, config, sampling.groups)
            changes, opt_state = optimiser.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, changes)
            return TrainState(params, opt_state, state.step + 1), loss, optax.tree.norm(grads)

        def run(state, replay, count):
            def body(i, carry):
                state, losses, norms = carry
                state, loss, norm = update(state, replay)
                return state, losses.at[i].set(loss), norms.at[i].set(norm)

            empty = jnp.zeros((config.updates_per_dispatch,), jnp.float32)
            # A dynamic count: one program for every length, so where a run was cut cannot change its bits.
            return jax.lax.fori_loop(0, count, body, (state, empty, empty))

        self.update = update
        numbers = replicated(mesh)
        self.drawn = lambda replay, step: replay_lib.drawn(replay, _keys(seed, step)[0], sampling, mesh)
        self.run = jax.jit(run, donate_argnums=0, out_shardings=(self.shardings, numbers, numbers))


def _keys(seed: int, step: Any) -> tuple[jax.Array, jax.Array]:
    """Of the update after `step`: for its batch, for its model."""
    batch, model = jax.random.split(jax.random.fold_in(named_key(seed, "distill"), step))
    return batch, model


def make_optimiser(config: Config) -> optax.GradientTransformation:
    """Global-norm clipping, then AdamW or Muon, on a warm-up and cosine schedule."""
    rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, config.warmup_updates, config.updates)
    if config.optimiser == "muon":
        rule = optax.contrib.muon(rate, weight_decay=config.weight_decay, adam_b1=config.b1, adam_b2=config.b2)
    else:
        rule = optax.adamw(rate, config.b1, config.b2, weight_decay=config.weight_decay, mask=training.matrices)
    return training.clipped(rule, config.clip_norm)


def loss_of(model: Model, params: Any, batch: Batch, key: jax.Array | None, label_smoothing: float) -> jax.Array:
    """Mean cross-entropy of the actions to learn over all steps, nats. `[]` float32."""
    logits = model.apply(params, batch.steps, key)
    if label_smoothing == 0:
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.action).mean()
    labels = optax.smooth_labels(jax.nn.one_hot(batch.action, logits.shape[-1]), label_smoothing)
    return optax.softmax_cross_entropy(logits, labels).mean()


def gradient(
    model: Model, params: Any, batch: Batch, key: jax.Array, config: Config, groups: int
) -> tuple[jax.Array, Any]:
    """Loss and gradient of a batch, in `config.accumulate` parts. The key is consumed."""
    value_and_grad = jax.value_and_grad(lambda p, b, k: loss_of(model, p, b, k, config.label_smoothing))
    parts = config.accumulate
    if parts == 1:
        return value_and_grad(params, batch, key)

    # Every part takes rows of every group, so that each device works on each part from its own rows.
    def split(x):
        return x.reshape(groups, parts, -1, *x.shape[1:]).swapaxes(0, 1).reshape(parts, -1, *x.shape[1:])

    def add(total, part):
        index, piece = part
        return jax.tree.map(jnp.add, total, value_and_grad(params, piece, jax.random.fold_in(key, index))), None

    zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(add, zero, (jnp.arange(parts, dtype=jnp.int32), jax.tree.map(split, batch)))
    return jax.tree.map(lambda x: x / parts, total)


@dataclasses.dataclass(frozen=True)
class Result:
    """What training reports: seconds of this process without compilation, and where it began and ended."""

    step: int
    resumed_from: int
    params: Any
    seconds: float
    compile_seconds: float
    loss: float


def distill(
    trainer: Trainer,
    residents: Residents,
    config: Config,
    sampling: replay_lib.Config,
    folder: Path,
    meta: dict[str, Any],
    log: MetricsLog,
    evaluate: Callable[[Any], float] | None = None,
    progress_seconds: float = 5.0,
) -> Result:
    """Train to `config.updates`, from the latest checkpoint in `folder` if there is one.

    Args:
        residents: the histories, all of them or in turns.
        meta: plain data saved with every checkpoint; `meta["architecture"]` must equal a found checkpoint's.
        evaluate: `params -> mean in-context return`, called every `evaluate_every` updates and at the end.

    Raises:
        CheckpointError: if the checkpoint there is of another architecture.
        TrainingDiverged: if the loss or the gradient stops being finite; the last good checkpoint stays.
        Preempted: after SIGTERM and a checkpoint of the dispatch under way.
    """
    with preemption.deferred() as stopped, Checkpoints(folder, config.keep_checkpoints) as checkpoints:
        step, state, history = _begin(trainer, checkpoints, meta, log)
        positions = sampling.batch * sampling.segment
        progress = Progress("distil", config.updates, "updates", step, progress_seconds, positions)
        started = time.monotonic()
        memory.give_back()
        run = trainer.run.lower(state, residents.at(step), jnp.int32(1)).compile()
        memory.give_back()
        compile_seconds = time.monotonic() - started
        progress.note(f"compiled in {compile_seconds:.1f} s" + (f", going on from update {step}" if step else ""))
        started, first, facts, leaving = time.monotonic(), step, {}, False
        while step < config.updates and not leaving:
            periods = (config.checkpoint_every, config.evaluate_every, residents.period)
            count = training.until(step, config, periods, history.skipped)
            if count:
                # The residents are kept nowhere here: going back, they must not be in memory twice.
                state, losses, norms = run(state, residents.at(step), jnp.int32(count))
                loss, norm = np.asarray(losses)[:count], np.asarray(norms)[:count]
                if bad := training.not_finite(loss, norm, step):
                    of = f", of histories {_some(trainer.drawn(residents.at(step), bad.update - 1))}"
                    bad = bad._replace(told=bad.told + of)
                    skipped = training.skip("distill", bad, history.skipped, config.skip_updates)
                    step, state, history = _begin(trainer, checkpoints, meta, log)
                    history.skipped = skipped
                    progress.note(f"{bad.told}: back to update {step}, and on without update {bad.update}")
                    continue
                step, history.loss = step + count, float(loss.mean())
                # Logged before anything is saved: what a checkpoint has passed must not be missing from the log.
                log.write("distill", step, {"loss": history.loss, "grad_norm": norm.mean()})
            else:  # the next one is left out: its batch is never drawn
                state, step = dataclasses.replace(state, step=state.step + 1), step + 1
            if evaluate is not None and _due(step, config.evaluate_every, config.updates):
                facts["return"] = value = float(evaluate(state.params))
                log.write("in_context", step, {"return": value})
                if history.best is None or value > history.best:
                    history.best = value
                    checkpoints.save_best(step, state, meta | {"in_context_return": value})
            leaving = training.leaving(stopped)
            if _due(step, config.checkpoint_every, config.updates) or leaving:
                checkpoints.save(step, state, meta | dataclasses.asdict(history))
            progress.update(step, loss=history.loss, **facts)
        return Result(step, first, state.params, time.monotonic() - started, compile_seconds, history.loss)


@dataclasses.dataclass
class _History:
    """What a checkpoint remembers of the training so far. No clock: a resumed run ends with the same bytes."""

    best: float | None = None  # in-context return
    loss: float = float("nan")  # mean over the last dispatch
    skipped: list[int] = dataclasses.field(default_factory=list)  # updates that are left out, from 1


def _begin(
    trainer: Trainer, checkpoints: Checkpoints, meta: dict[str, Any], log: MetricsLog
) -> tuple[int, TrainState, _History]:
    """The latest checkpoint, or a new state; what was logged past it is forgotten."""
    found = training.latest(checkpoints, trainer.like, meta)
    step, state, saved = found or (0, trainer.init(), {})
    for stage in ("distill", "in_context"):
        log.forget_after(stage, step)
    known = {field.name for field in dataclasses.fields(_History)}
    return step, state, _History(**{name: value for name, value in saved.items() if name in known})


def _some(numbers: np.ndarray) -> str:
    """The first of them, each once."""
    each = sorted(set(numbers.tolist()))
    return ", ".join(map(str, each[:8])) + (f" and {len(each) - 8} more" if len(each) > 8 else "")


def _due(step: int, every: int, end: int) -> bool:
    return bool(every) and (step % every == 0 or step == end)
