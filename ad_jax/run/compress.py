"""A run's trained model distilled into a smaller or faster one: trained, evaluated as the run was, and put beside it.

In: a run directory, and the backbone of the student. Out: the student's own run directory, and a comparison: the last
tenth of the in-context returns of both, what they remember, and decisions per second, timed in turn.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.errors import ConfigError
from ad_jax.experiment import Experiment, override, plugins
from ad_jax.files import read_json
from ad_jax.methods.on_policy_distillation import OnPolicyDistillation
from ad_jax.models.base import empty_steps
from ad_jax.process import settings
from ad_jax.run import directory, frozen
from ad_jax.run.frozen import Frozen
from ad_jax.run.pipeline import Run
from ad_jax.text import si

BATCHES = 1, 81  # lifetimes side by side
STEPS, ROUNDS = 256, 9  # decisions in a call, and calls of each


class Side(NamedTuple):
    """One of the two models."""

    name: str
    parameters: int
    remembered: int  # bytes of one lifetime's context
    final: float  # return of the last tenth of the in-context episodes
    rates: tuple[float, ...]  # decisions per second, by batch


class Comparison(NamedTuple):
    """What compressing gave."""

    folder: Path  # of the student's run
    teacher: Side
    student: Side

    def lines(self) -> list[str]:
        """For people."""
        rows = [("", "parameters", "context", "return", *(f"decisions/s, batch {b}" for b in BATCHES))]
        for side in (self.teacher, self.student):
            rates = (si(rate, "") for rate in side.rates)
            rows.append((side.name, f"{side.parameters:,}", si(side.remembered, "B"), f"{side.final:.3g}", *rates))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        share = f"{self.student.final / self.teacher.final:.0%}" if self.teacher.final > 0 else "no share"
        ratios = (f"{mine / its:.2f}" for mine, its in zip(self.student.rates, self.teacher.rates, strict=True))
        end = f"the student ends at {share} of its teacher, and decides {' and '.join(ratios)} times as fast"
        return [*table, "", end, f"run      {self.folder}"]


def compress(run: Path, to: str, changes: Sequence[str] = (), folder: Path | None = None) -> Comparison:
    """Distill the model of a run into another, or go on where that was stopped.

    Args:
        run: directory of the teacher's run, which was evaluated.
        to: name of the student's backbone.
        changes: of options, `"model.hidden=96"`.
        folder: the student's run directory.

    Raises:
        ConfigError: if there is no run, or the student is refused.
        CheckpointError: if nothing was trained there.
    """
    for name, stage in (("config.json", "run"), ("results.json", "evaluate")):
        if not (run / name).exists():
            raise ConfigError(f"{run} has no {name}: expected a run directory, evaluated: `ad-jax {stage}` makes it")
    experiment = student_of(Experiment.from_json(read_json(run / "config.json")), run, to, changes)
    made = Run(experiment, folder or run / "compressed" / f"{to}-{directory.digest(experiment)}", trains=True)
    made.distill()
    made.evaluate()
    made.report()
    both = {"teacher": run, "student": made.folder}
    models = {name: frozen.load(where) for name, where in both.items()}
    rates = [decisions(models, batch) for batch in BATCHES]
    sides = {name: _side(name, where, models[name], [of[name] for of in rates]) for name, where in both.items()}
    return Comparison(made.folder, sides["teacher"], sides["student"])


def student_of(e: Experiment, run: Path, to: str, changes: Sequence[str] = ()) -> Experiment:
    """Return the experiment of the student: the teacher's, with another model, on-policy distillation, and no source
    beside it.
    """
    method = OnPolicyDistillation(teacher=str(run))
    evaluate = dataclasses.replace(e.evaluate, source_seeds=0)
    student = dataclasses.replace(e, model=plugins.read("model", to), method=method, evaluate=evaluate, reference=None)
    return override(student, changes)


@settings.pinned()
def decisions(models: dict[str, Frozen], batch: int) -> dict[str, float]:
    """Return decisions per second of each model, from calls of each in turn; the first, which compile, do not count."""
    calls = {name: _deciding(model, batch) for name, model in models.items()}
    for call in calls.values():
        call()
    taken = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - started)
    return {name: batch * STEPS / statistics.median(seconds) for name, seconds in taken.items()}


def _deciding(frozen: Frozen, batch: int) -> Callable[[], None]:
    """Return a call of `STEPS` greedy decisions of each of `batch` lifetimes, each fed its own last action."""
    model, spec = frozen.model, frozen.spec
    one = jax.tree.map(lambda x: x[:, 0], empty_steps(spec, batch, 1))

    @jax.jit
    def run(params, cache):
        def step(carry, _):
            cache, action = carry
            outputs, cache = model.decode(params, cache, one.replace(prev_action=action))
            return (cache, jnp.argmax(outputs, axis=-1).astype(action.dtype)), None

        return jax.lax.scan(step, (cache, one.prev_action), None, STEPS)[0][1]

    params, cache = jax.tree.map(jnp.asarray, frozen.params), model.init_cache(batch)
    return lambda: run(params, cache).block_until_ready()


def _side(name: str, folder: Path, frozen: Frozen, rates: Sequence[float]) -> Side:
    of_run = read_json(folder / "results.json")["runs"][0]
    returns = np.asarray(of_run["sets"][0]["returns"]["sampled"], np.float64)  # [N, S, E]
    last = max(1, returns.shape[-1] // 10)
    held = jax.eval_shape(lambda: frozen.model.init_cache(1))
    remembered = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(held))
    count = sum(int(np.size(x)) for x in jax.tree.leaves(frozen.params))
    return Side(name, count, remembered, float(returns[..., -last:].mean()), tuple(rates))
