"""Cost as work grows: seconds of a call by learners, context, width and rollouts, beside what the limit would take.

In: nothing but a machine. Out: one figure, in which every axis is logarithmic, and a results file with the exponents,
fitted on the upper half of the sizes, where what a call costs by itself no longer counts: 1 is twice the seconds for
twice the size. A size whose call would take too long is left out, with those above it, and the results say so.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ad_jax.bench import collecting, distilling, evaluating
from ad_jax.bench.count import decode_cost
from ad_jax.bench.limits import random_policy, triad
from ad_jax.bench.peak import peak
from ad_jax.bench.results import Results
from ad_jax.bench.sizes import FULL, QUICK, SMALL, Case
from ad_jax.bench.timing import Work, measure
from ad_jax.files import JsonObject, write_whole
from ad_jax.planning.transformer import train_flops
from ad_jax.policies.base import from_model
from ad_jax.process.metrics import log
from ad_jax.stage.rollout import make_evaluator
from ad_jax.text import some

LONGEST = 12.0  # seconds that a call may take, as the one before it lets expect
BUDGET = 200.0  # seconds of an axis, compiling included, after which no size is begun that may go beyond
LIFETIME = 100  # environment steps of a learner in a call
STEPS = 10  # of every rollout in a call
TRIAD = 2**24  # elements
LIMITS = dataclasses.replace(QUICK, cases=())  # how long the peak is measured


class Point(NamedTuple):
    """One size.

    Attributes:
        work: the call.
        limits: what is timed in turn with it.
        floor: from seconds of `limits`, those of their fastest rounds, what the call would take at the limit.
    """

    work: Work
    limits: Mapping[str, Work]
    floor: Callable[[Mapping[str, float]], float]


@dataclasses.dataclass(frozen=True)
class Axis:
    """What grows.

    Attributes:
        name: of the axis; `what` takes the seconds, and `limit` names its limit.
        sizes: in rising order.
        at: makes the call of a size.
        steepest: exponent that is reckoned with before a size is tried.
    """

    name: str
    what: str
    limit: str
    sizes: Sequence[int]
    at: Callable[[int], Point]
    steepest: float = 1.0


def learners(count: int) -> Point:
    """Return Q-learning on Dark Room with `count` learners, kept in memory, against the random policy."""
    s = collecting.setting("q_learning", "dark_room", count, LIFETIME * count)
    work, block = collecting.in_memory(s), s.collector.source.steps_per_update
    random = random_policy(s.family, s.tasks, s.collector.chunk, max(1, s.collector.steps // block), block)
    return Point(work, {"random": random}, lambda seconds: seconds["random"] * work.amount / random.amount)


def context(steps: int) -> Point:
    """Return an update on 8 windows of `steps` steps, against its products at the peak."""
    return trained(Case("", "transformer", {**SMALL, "layers": 2, "window": steps}, 8, steps, 1))


def width(size: int) -> Point:
    """Return an update of a model of width `size` on 8 windows of 64 steps, against its products at the peak."""
    heads = {"width": size, "heads": max(1, size // 32), "mlp_width": 4 * size}
    return trained(Case("", "transformer", {**SMALL, "layers": 2, "window": 64, **heads}, 8, 64, 1))


def trained(case: Case) -> Point:
    """Return an update of `case`."""
    s = distilling.setting(case)
    training = distilling.Training(s, distilling.compiled(s))
    flops = train_flops(s.trainer.abstract_state.params, s.model_config, s.spec, case.batch, case.segment)
    best = peak(LIMITS)
    work = Work(lambda: training(1), float(case.batch * case.segment))
    return Point(work, {"peak": best}, lambda seconds: seconds["peak"] * flops / best.amount)


def rollouts(count: int) -> Point:
    """Return ten steps of `count` rollouts with a full cache of 100 steps, against the roofline of a decoded step."""
    s = evaluating.setting(dataclasses.replace(FULL, acting=Case("", "transformer", SMALL, 1, 100, 1)))
    evaluator = make_evaluator(from_model(s.model), s.family, s.mesh, evaluating.EPISODES, STEPS)
    rolling = evaluating.Rolling(s, evaluator, count).placed(s.model.window)
    flops, read = decode_cost(s.params, s.config, count)
    best, memory = peak(LIMITS), triad(TRIAD, 1)

    def floor(seconds: Mapping[str, float]) -> float:
        return STEPS * max(flops * seconds["peak"] / best.amount, read * seconds["memory"] / memory.amount)

    return Point(Work(rolling, float(STEPS * count)), {"peak": best, "memory": memory}, floor)


def powers(first: int, last: int) -> list[int]:
    """Return the powers of two from 2^first to 2^last."""
    return [2**exponent for exponent in range(first, last + 1)]


AXES = (
    Axis("learners", f"{LIFETIME} steps of Q-learning each", "random policy", powers(6, 16), learners),
    Axis("context", "update on 8 windows, width 64", "its products at the peak", powers(6, 12), context, 2.0),
    Axis("width", "update on 8 windows of 64 steps", "its products at the peak", powers(5, 10), width, 2.0),
    Axis("rollouts", f"{STEPS} steps each, 100 of context", "roofline of a step", powers(0, 12), rollouts),
)


def measured(axis: Axis, longest: float = LONGEST, budget: float = BUDGET) -> JsonObject:
    """Return seconds by size, of the call and of its limit, their exponents, and which sizes are left out."""
    found: JsonObject = {"name": axis.name, "what": axis.what, "limit": axis.limit}
    sizes, seconds, points, why = [], [], [], ""
    best: dict[tuple[str, float], float] = {}
    began, took = time.perf_counter(), 0.0
    for size in axis.sizes:
        times = (size / sizes[-1]) ** axis.steepest if sizes else 0.0
        if sizes and seconds[-1] * times > longest:
            why = f"a call would take over {longest:g} s"
            break
        if sizes and time.perf_counter() - began + took > budget:
            why = f"{budget:g} s are over for this axis"
            break
        started = time.perf_counter()
        point = axis.at(size)
        rounds = measure({"work": point.work, **point.limits}, 5, 1.0)
        sizes.append(size)
        seconds.append(statistics.median(rounds["work"]))
        for name, work in point.limits.items():
            same = (name, work.amount)  # the same call as at the sizes before, unless it grows with the size
            best[same] = min(best.get(same, math.inf), *rounds[name])
        points.append(point)
        took = time.perf_counter() - started
        log(f"{axis.name} {size:>6}: {seconds[-1]:.3g} s")
    # A limit is what the machine can do: the fastest round of all sizes, or a disturbed one would be beaten.
    floors = [p.floor({name: best[name, work.amount] for name, work in p.limits.items()}) for p in points]
    log(f"{axis.name}: {', '.join(f'{f / s:.0%}' for f, s in zip(floors, seconds, strict=True))} of {axis.limit}")
    left_out = [size for size in axis.sizes if size not in sizes]
    if left_out:
        log(f"{axis.name}: left out {some(left_out)}: {why}")
    found |= {"sizes": sizes, "seconds": seconds, "limit_seconds": floors, "left_out": left_out, "why": why}
    return found | {"exponent": exponent(sizes, seconds), "limit_exponent": exponent(sizes, floors)}


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float | None:
    """Return the slope of log seconds over log size on the upper half of the sizes; None for fewer than two of them."""
    half = len(sizes) // 2
    x, y = [[math.log2(value) for value in values[half:]] for values in (sizes, seconds)]
    return round(float(np.polyfit(x, y, 1)[0]), 3) + 0.0 if len(x) > 1 else None  # no -0.0


def run(out: Path, axes: Sequence[Axis] = AXES) -> JsonObject:
    """Measure, print, and write `out` with the figure beside it; every axis that is done is kept."""
    from ad_jax.bench import drawing  # matplotlib, which nothing else of the suite needs

    results = Results(out, "bench scaling", into="axes")
    for axis in axes:
        results.add(measured(axis))
        write_whole(out.with_suffix(".png"), drawing.growth(results.data["axes"]))
    lines = ["| what grows | from | to | exponent | of the limit | left out |", "|---|---|---|---|---|---|"]
    for found in results.data["axes"]:
        slopes = ["-" if found[name] is None else f"{found[name]:.2f}" for name in ("exponent", "limit_exponent")]
        ends = f"{found['sizes'][0]} | {found['sizes'][-1]}"
        lines.append(f"| {found['name']} | {ends} | {' | '.join(slopes)} | {some(found['left_out']) or 'none'} |")
    print("\n".join(["", *lines, f"\n{results.data['seconds']:.0f} s; figure: {out.with_suffix('.png')}"]))
    return results.data
