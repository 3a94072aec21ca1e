"""Stage 2: the one training loop. A learner goes from its latest checkpoint to its last update, whatever the method.

Input: a `Learner` (`methods`) and what it is fed: histories on the devices, all or in turns, or the training tasks.
Output: checkpoints and metrics. Knows no method, no environment and no source; in-context evaluation during training
comes in as a callable.

One dispatch runs many updates on the device; how many does not change the result, because every random number is keyed
by its update.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.checkpoint import lineage
from ad_jax.checkpoint.checkpoint import Checkpoints
from ad_jax.errors import TrainingDivergedError
from ad_jax.files import JsonObject
from ad_jax.history.replay import Residents
from ad_jax.methods.base import Learner
from ad_jax.process import distributed, memory, preemption
from ad_jax.process.metrics import MetricsLog, Progress
from ad_jax.stage.trainer import Schedule, Trainer
from ad_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Result:
    """What training reports: seconds of this process without compilation, and where it began and ended."""

    step: int
    resumed_from: int
    params: PyTree
    seconds: float
    compile_seconds: float
    facts: dict[str, float]  # means over the last dispatch


@dataclasses.dataclass
class Past:
    """What a checkpoint remembers of the training so far. No clock: a resumed run ends with the same bytes."""

    best: float | None = None  # in-context return
    facts: dict[str, float] = dataclasses.field(default_factory=dict)  # means over the last dispatch
    skipped: list[int] = dataclasses.field(default_factory=list)  # updates that are left out, from 1

    @classmethod
    def of(cls, saved: JsonObject) -> "Past":
        """Read the metadata of a checkpoint, of this version or an earlier one."""
        facts = {"loss": saved["loss"]} if "loss" in saved else {}  # an earlier version said no more
        return cls(saved.get("best"), saved.get("facts", facts), saved.get("skipped", []))


def train(
    trainer: Trainer,
    residents: Residents,
    schedule: Schedule,
    folder: Path,
    meta: JsonObject,
    log: MetricsLog,
    evaluate: Callable[[PyTree], float] | None = None,
    progress_seconds: float = 5.0,
) -> Result:
    """Train to `schedule.updates`, from the latest checkpoint in `folder` if there is one.

    Args:
        trainer: the compiled parts of training.
        residents: what lies on the devices to learn from.
        schedule: how many updates there are, and after how many to dispatch, save and evaluate.
        folder: where checkpoints are saved.
        meta: plain data saved with every checkpoint; `meta["architecture"]` must equal a found checkpoint's.
        log: takes the metrics of each dispatch and the in-context returns.
        evaluate: `params -> mean in-context return`, called every `schedule.evaluate_every` updates and at the end.
        progress_seconds: at most one progress line in so many seconds.

    Raises:
        AdJaxError: if the learner refuses what an update met; the last good checkpoint stays.
        CheckpointError: if the checkpoint there is of another architecture.
        TrainingDivergedError: if the loss or the gradient stops being finite; the last good checkpoint stays.
        Preempted: after SIGTERM and a checkpoint of the dispatch under way.
    """
    learner, evaluate_every = trainer.learner, 0 if evaluate is None else getattr(schedule, "evaluate_every", 0)
    periods = (schedule.checkpoint_every, evaluate_every, residents.period)
    # Processes that share CPUs can block each other where two programs with collectives are under way.
    ahead = distributed.count() == 1 or jax.default_backend() != "cpu"
    with preemption.deferred() as stopped, Checkpoints(folder, schedule.keep_checkpoints) as checkpoints:
        step, state, past = _begin(trainer, checkpoints, meta, log)
        progress = Progress(learner.name, schedule.updates, "updates", step, progress_seconds, learner.steps)
        started = time.monotonic()
        memory.give_back()
        run = trainer.compiled(residents.at(step))
        memory.give_back()
        compile_seconds = time.monotonic() - started
        progress.note(f"compiled in {compile_seconds:.1f} s" + (f", going on from update {step}" if step else ""))
        started, first, returned, leaving, sent = time.monotonic(), step, {}, False, None
        while step < schedule.updates and not leaving:
            unread, sent = [sent] if sent else [], None
            if count := until(step, schedule, periods, past.skipped):
                # The residents are kept nowhere here: going back, they must not be in memory twice.
                state, metrics = run(state, residents.at(step), jnp.int32(count))
                sent, step = Sent(step, count, metrics), step + count
            else:  # the next one is left out: its batch is never drawn
                state, step = dataclasses.replace(state, step=state.step + 1), step + 1
            leaving = told_to_leave(stopped)
            evaluating = evaluate if _due(step, evaluate_every, schedule.updates) else None
            saving = leaving or _due(step, schedule.checkpoint_every, schedule.updates)
            # The device has its next dispatch before the host waits for the last one's losses. Where a state is to be
            # looked at, its own losses come first.
            if sent and (evaluating or saving or not ahead):
                unread, sent = [*unread, sent], None
            if bad := _read(learner, unread, past, log):
                of = trainer.feed.told(residents.at(bad.update - 1), trainer.key(bad.update - 1))
                bad = bad._replace(told=bad.told + of)
                skipped, sent = skip(bad, past.skipped, schedule.skip_updates), None
                step, state, past = _begin(trainer, checkpoints, meta, log)
                past.skipped = skipped
                progress.note(f"{bad.told}: back to update {step}, and on without update {bad.update}")
                continue
            if evaluating:
                returned["return"] = value = float(evaluating(learner.params(state)))
                log.write("in_context", step, {"return": value})
                if past.best is None or value > past.best:
                    past.best = value
                    checkpoints.save_best(step, state, meta | {"in_context_return": value})
            if saving:
                checkpoints.save(step, state, meta | dataclasses.asdict(past))
            if (known := sent.first if sent else step) > first:
                shown = {label: past.facts[name] for label, name in learner.shown.items() if name in past.facts}
                progress.update(known, **shown, **returned)
        seconds = time.monotonic() - started
        return Result(step, first, learner.params(state), seconds, compile_seconds, past.facts)


def _begin(trainer: Trainer, checkpoints: Checkpoints, meta: JsonObject, log: MetricsLog) -> tuple[int, PyTree, Past]:
    """Return step, state and past of the latest checkpoint, or new ones; the log forgets what came later.

    Raises:
        CheckpointError: if it is of another architecture than `meta["architecture"]` or of another run, or all are
            damaged.
    """

    def accept(found: JsonObject) -> None:
        lineage.check_architecture(found, meta["architecture"], checkpoints.folder)
        lineage.check_own(found, meta, checkpoints.folder)

    there = checkpoints.latest() is not None
    step, state, saved = checkpoints.restore(trainer.abstract_state, accept) if there else (0, trainer.init(), {})
    for stage in (trainer.learner.name, "in_context"):
        log.forget_after(stage, step)
    return step, state, Past.of(saved)


def told_to_leave(stopped: Callable[[], bool]) -> bool:
    """Say whether a process of this run was told to stop; `preemption.deferred` then stops all of them."""
    if not any(distributed.everywhere(stopped)):
        return False
    preemption.stop()
    return True


class Bad(NamedTuple):
    """An update, counted from 1, whose loss or gradient is not finite, in words."""

    update: int
    told: str


class Sent(NamedTuple):
    """A dispatch that was sent: the updates done before it, how many it does, and their metrics on the device."""

    first: int
    updates: int
    metrics: dict[str, PyTree]


def _read(learner: Learner, unread: Sequence[Sent], past: Past, log: MetricsLog) -> Bad | None:
    """Wait for dispatches and write down what they came to; return the first update that is not finite, if any.

    Written before anything is saved: what a checkpoint has passed must not be missing from the log.
    """
    for first, count, metrics in unread:
        found = fetched(learner, metrics, count, first)
        if bad := not_finite(found["loss"], found["grad_norm"], first):
            return bad
        past.facts = {name: float(x.mean()) for name, x in found.items()}
        log.write(learner.name, first + count, past.facts)
    return None


def fetched(learner: Learner, metrics: dict[str, PyTree], count: int, step: int) -> dict[str, np.ndarray]:
    """Return the metrics of the `count` updates after `step` on the host, `[count]` each, as the learner logs them."""
    found = jax.tree.map(lambda x: np.asarray(x)[:count], metrics)
    return found if learner.check is None else learner.check(found, step)


def not_finite(loss: np.ndarray, norm: np.ndarray, step: int) -> Bad | None:
    """Return the first of the updates after `step` whose loss or gradient norm `[P]` is not finite; None if all are."""
    bad = np.flatnonzero(~(np.isfinite(loss) & np.isfinite(norm)))
    if not len(bad):
        return None
    update = step + int(bad[0]) + 1
    return Bad(update, f"update {update}: loss {loss[bad[0]]}, gradient norm {norm[bad[0]]}")


def skip(bad: Bad, skipped: Sequence[int], at_most: int | None) -> list[int]:
    """Return what is to be left out from now on: `skipped`, and the bad update.

    Raises:
        TrainingDivergedError: if that is more than `at_most`; None is 0.
    """
    if len(skipped) >= (at_most or 0):
        remedy = "lower method.learning_rate or method.clip_norm; or set method.skip_updates, to leave it out"
        raise TrainingDivergedError(f"{bad.told}. The last good checkpoint is kept; {remedy}")
    return [*skipped, bad.update]


def until(step: int, schedule: Schedule, periods: Sequence[int], skipped: Sequence[int]) -> int:
    """Return the updates in one dispatch until the host has something to do: 0 where the next one is left out.

    Args:
        step: updates done.
        schedule: gives `updates` and `updates_per_dispatch`, which bound a dispatch.
        periods: every so many updates there is something; 0 is never.
        skipped: updates that are left out, counted from 1.
    """
    ahead = [update - step - 1 for update in skipped if update > step]
    return min(schedule.updates_per_dispatch, schedule.updates - step, *ahead, *(p - step % p for p in periods if p))


def _due(step: int, every: int, end: int) -> bool:
    return bool(every) and (step % every == 0 or step == end)
