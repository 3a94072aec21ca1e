"""Every number of a report: by training seed and for all, against the optimum, a random policy and the source.

*Final* is the mean of the last 10 % of episodes (at least one). Rollouts are averaged inside a task; intervals are 95 %
percentile bootstraps over training seeds, then tasks. Data efficiency (Laskin et al. 2022, figure 4) divides the
environment steps a source needs by those the frozen learner needs for the same return; the source's curve is one over
time (`lifetimes`), in pieces of as many steps as the longest possible episode. The share of the source's gain (figure
3) compares what both earn above a random policy in as many episodes. Imports no JAX.
"""

import numpy as np

from ad_jax import normalized
from ad_jax.files import JsonObject
from ad_jax.report.bootstrap import bootstrap, final_of, resampled
from ad_jax.report.results import Set, gather


def share_of_source(s: Set, mode: str, runs: slice = slice(None)) -> dict[str, float | None] | None:
    """Return what the learner gains over a random policy, as a share of what its source gains: `{"mean", "low",
    "high"}`.

    The interval is None of one task in one run.

    (r - r_random) / (r_source - r_random), the normalized score of Laskin et al. 2022, figure 3. Each r is a sum over
    the E in-context episodes, for the source over its first E, averaged over tasks and runs before dividing; runs and
    tasks are resampled for all three together.

    Returns:
        None where the return of the random policy or of the source is unknown, where the source has fewer than E
        episodes, or where its gain is not clear of zero, as a share of it then means nothing.
    """
    values, episodes = s.returns[mode][runs], s.returns[mode].shape[-1]
    if s.random is None or s.source_episodes is None or s.source_episodes.shape[-1] < episodes:
        return None
    chance = episodes * s.random[runs]
    gains = np.stack([x.sum(-1) - chance for x in (values, s.source_episodes[runs, :, :episodes])], axis=-1)
    drawn = resampled(gains)
    if drawn[:, 1].min() <= 0:
        return None
    learner, source = gains.mean((0, 1))
    low, high = map(float, np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5]))
    low, high = (low, high) if gains.shape[0] * gains.shape[1] > 1 else (None, None)
    return {"mean": float(learner / source), "low": low, "high": high}


def statistics(results: JsonObject) -> JsonObject:
    """Every number of the page, as plain data.

    Returns:
        `{"experiment", "sets": {name: {"kind", "tasks", "optimal", "random", "rows", "source"}}}`. A row is
        `{"seed": int or "all", "seconds": {stage: float}, mode: {...}}`; a mode holds `first`, `final`, `low` and
        `high` (95 % interval of `final`; None of one task in one run), `area` (mean return as a share of the way from
        random to optimal; None where that means nothing, see `normalized`), `episodes_to` (from 1, by "75 % of the way
        to final" and so on, ways that begin at the random policy's return; None where never reached, absent where there
        is no way), and `share`, what `share_of_source` gives. `source` is None or
        `{"name", "role", "piece", "same_steps", "same_steps_by", "final", "levels"}`: `piece` is the steps of all
        actors in which its curve has one value, `same_steps_by` is by mode. A level is
        `{"level", "return", "ad_steps", "source_steps", "source_end", "ratio", "reached"}`.
    """
    stats: JsonObject = {"experiment": results["experiment"], "sets": {}}
    seconds = [{name: stage.get("seconds") for name, stage in run["stages"].items()} for run in results["runs"]]
    names = list(dict.fromkeys(name for run in seconds for name in run))
    for s in gather(results):
        rows = [{"seed": seed, "seconds": seconds[r], **_row(s, slice(r, r + 1))} for r, seed in enumerate(s.seeds)]
        mean = {n: float(np.mean([t[n] for t in seconds])) for n in names if all(t.get(n) is not None for t in seconds)}
        rows.append({"seed": "all", "seconds": mean, **_row(s, slice(None))})
        stats["sets"][s.name] = {
            "kind": s.kind,
            "tasks": len(s.tasks[0]),
            "runs": len(s.seeds),
            "optimal": None if s.optimal is None else float(s.optimal.mean()),
            "random": None if s.random is None else float(s.random.mean()),
            "rows": rows,
            "source": _against_source(s),
        }
    return stats


def _known(x: float) -> float | None:
    return None if np.isnan(x) else float(x)


def _whole(x: float) -> int | float:
    """Return a mean number of steps, an int where it is whole."""
    return int(x) if x == int(x) else float(x)


def _reached(curve: np.ndarray, level: float) -> int | None:
    """Return the first index from 1 at which the mean curve `[E]` is at `level`, to rounding."""
    there = curve >= level - 1e-9 * abs(level)
    return int(np.argmax(there)) + 1 if there.any() else None


def _row(s: Set, runs: slice) -> JsonObject:
    """By mode, the numbers of these runs."""
    row = {}

    def mean(x):
        return None if x is None else float(x[runs].mean())

    optimal, random = mean(s.optimal), mean(s.random)
    for mode, every in s.returns.items():
        values = every[runs]
        curve, (final, low, high) = values.mean((0, 1)), bootstrap(final_of(values)[..., None])
        ends = {"final": float(final[0]), "optimal": optimal}
        levels = {
            f"{part} % of the way to {name}": level
            for name, end in ends.items()
            for part in (75, 90)
            if (level := normalized.level(part / 100, random, end)) is not None
        }
        row[mode] = {
            "first": float(curve[0]),
            "final": float(final[0]),
            "low": _known(low[0]),
            "high": _known(high[0]),
            "area": normalized.share(float(curve.mean()), random, optimal),
            "episodes_to": {name: _reached(curve, level) for name, level in levels.items()},
            "share": share_of_source(s, mode, runs),
        }
    return row


def _against_source(s: Set) -> JsonObject | None:
    """Return data efficiency. Wherever noise must favor one side it favors the source, so a ratio is a cautious one.

    At the learner's final return all the steps it took are counted, though it may have got there earlier, against the
    first episode of the source whose mean is as high.
    """
    if s.source is None:
        return None
    learner, source, taken = s.returns[s.mode].mean((0, 1)), s.source.mean((0, 1)), s.time(s.mode)
    final = float(final_of(learner))
    wanted: list[tuple[str, float, int | None]] = [("AD's final return", final, len(learner))]

    def mean(x):
        return None if x is None else float(x.mean())

    level = normalized.level(0.75, mean(s.random), mean(s.optimal))
    if level is not None:
        wanted.append(("75 % of the way to the optimum", level, _reached(learner, level)))
    levels = []
    for name, level, episodes in wanted:
        ad_steps = None if episodes is None else _whole(taken[episodes - 1])
        reached, end = _reached(source, level), len(source) * s.source_steps
        steps = None if reached is None else reached * s.source_steps
        levels.append(
            {
                "level": name,
                "return": level,
                "ad_steps": ad_steps,
                "source_steps": steps,
                "source_end": end,
                "ratio": None if ad_steps is None else (steps or end) / ad_steps,
                "reached": reached is not None,
            }
        )

    def same(mode: str) -> float | None:
        done = int(s.time(mode)[-1] / s.source_steps + 1e-9)  # pieces of its lifetime, in the steps the learner takes
        return float(source[min(done, len(source)) - 1]) if done else None

    return {
        "name": s.source_name,
        "role": s.source_role,
        "piece": s.source_steps,
        "same_steps": same(s.mode),
        "same_steps_by": {mode: same(mode) for mode in s.returns},
        "final": float(final_of(source)),
        "levels": levels,
    }
