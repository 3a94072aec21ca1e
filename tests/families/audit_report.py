"""Every number of a report, computed again from what happened: of results, statistics and claims.

A report is of R runs. What happened in each is a `SetTruth`; arrays are `[R, N, S, E]` over runs, tasks, rollouts and
episodes, and `[R, N, S]` streams of the source, whose actors are averaged.
"""

import dataclasses
from typing import Any

import numpy as np

from families import audit
from families.audit import SetTruth, close


@dataclasses.dataclass
class Known:
    """What is known of the tasks beside what happened."""

    longest: int  # most steps of an episode
    actors: int
    optimal: np.ndarray | None  # [R, N]
    random: np.ndarray | None


def check_results(one: dict[str, Any], t: SetTruth, actors: int) -> None:
    """One set of `results.json`: its episodes, the prompt's return, and the paths."""
    check_episodes(one, t, actors)
    shown = [x.total for task in t.shown["sampled"] for stream in task for x in stream]
    if shown:
        close(one["prompt"]["return"], float(np.mean(shown)))
    check_paths(one, t)


def check_episodes(one: dict[str, Any], t: SetTruth, actors: int) -> None:
    """Return and length of every episode, of the source too."""
    for mode, streams in t.rollouts.items():
        close(one["returns"][mode], audit.returns(streams))
        same_steps(one["steps"][mode], audit.steps(streams))
    if t.source is not None:
        source = one["source"]
        assert (source["actors"], source["life"]) == (actors, t.lifetime)
        if isinstance(source["steps"], int):  # all episodes have one length, and actors' end together
            same_steps(source["steps"], audit.steps(t.source))
            close(source["returns"], audit.source_by_episode(t.source).tolist())
        else:
            assert source["steps"] == audit.steps(t.source)
            close(source["returns"], audit.returns(t.source))
    else:
        assert one["source"] is None


def same_steps(stored: Any, expected: Any) -> None:
    """Lengths as they are stored: one number where it is that of all."""
    if isinstance(stored, int):
        assert {stored} == set(flat(expected))
    else:
        assert stored == expected


def flat(nested: Any) -> list[Any]:
    """Return the leaves of nested lists."""
    return [x for part in nested for x in flat(part)] if isinstance(nested, list) else [nested]


def check_paths(one: dict[str, Any], t: SetTruth) -> None:
    """Check what is drawn: the way of the first rollout on the hardest task, episode by episode."""
    paths, best = one["paths"], [task["optimal"] for task in one["tasks"]]
    hardest = 0 if None in best else best.index(min(best))
    assert (paths["task"], paths["seed"]) == (hardest, 0)
    stream, trace = t.rollouts[paths["mode"]][hardest][0], t.traces[paths["mode"]][:, hardest, 0]
    wanted = {1, 2, 3, 5, 10, 20, 50, len(stream)}
    numbers = [episode["episode"] for episode in paths["episodes"]]
    assert len(numbers) == len(stream) or numbers == sorted(n for n in wanted if n <= len(stream))
    for episode in paths["episodes"]:
        what = stream[episode["episode"] - 1]
        close(episode["return"], what.total)
        assert episode["points"] == trace[what.first : what.first + what.steps].tolist()


@dataclasses.dataclass
class Numbers:
    """Of one mode and some runs."""

    first: float
    final: float
    by_task: np.ndarray  # [R, N], final
    curve: np.ndarray  # [E]
    time: np.ndarray  # [E], steps taken by the end of each episode, on average


def numbers(runs: list[SetTruth], mode: str) -> Numbers:
    """Return the learner's."""
    earned = np.array([audit.returns(t.rollouts[mode]) for t in runs], float)
    took = np.array([audit.steps(t.rollouts[mode]) for t in runs], float)
    curve, by_task = earned.mean((0, 1, 2)), audit.last_tenth(earned).mean(2)
    time = [float(took[..., : e + 1].sum(-1).mean()) for e in range(took.shape[-1])]
    return Numbers(float(curve[0]), float(by_task.mean()), by_task, curve, np.array(time))


def check_row(row: dict[str, Any], runs: list[SetTruth]) -> None:
    """Check a row of the statistics: each mode's returns, and the interval of the last."""
    for mode in runs[0].rollouts:
        n, told = numbers(runs, mode), row[mode]
        close(told["first"], n.first)
        close(told["final"], n.final)
        check_interval(told, n.by_task)


def check_shares(row: dict[str, Any], runs: list[SetTruth], known: Known) -> None:
    """Check a row of the statistics: how far on the way from the random policy to the optimum, or to the source."""
    best = None if known.optimal is None else float(known.optimal.mean())
    chance = None if known.random is None else float(known.random.mean())
    for mode in runs[0].rollouts:
        n, told = numbers(runs, mode), row[mode]
        if best is not None and chance is not None:
            close(told["area"], float((n.curve.mean() - chance) / (best - chance)))
        else:
            assert told["area"] is None
        expected = {}
        for end, top in (("final", n.final), ("optimal", best)):
            for share in (75, 90):
                if (level := level_of(share / 100, top, chance)) is not None:
                    expected[f"{share} % of the way to {end}"] = audit.first_at(n.curve, level)
        assert told["episodes_to"] == expected
        check_gain(told["share"], runs, mode, chance)


def level_of(share: float, top: float | None, chance: float | None) -> float | None:
    """So far on the way from chance to the top; none where one of them is unknown, or chance is as good."""
    if chance is None or top is None or top - chance <= 1e-9 * max(abs(top), abs(chance)):
        return None
    return chance + share * (top - chance)


def check_interval(told: dict[str, Any], by_task: np.ndarray) -> None:
    """Check the interval of the final return; there is none of a single task of a single run."""
    if by_task.size == 1:
        assert told["low"] is None
        assert told["high"] is None
        return
    low, high, slack = audit.interval(by_task)
    assert abs(told["low"] - low) <= slack, (told["low"], low, slack)
    assert abs(told["high"] - high) <= slack, (told["high"], high, slack)


def check_gain(told: dict[str, float] | None, runs: list[SetTruth], mode: str, chance: float | None) -> None:
    """Check what is gained over chance in all episodes, as a share of what the source gains in its first as many."""
    if chance is None or runs[0].source is None:
        assert told is None
        return
    sources = [audit.source_by_episode(t.source) for t in runs]
    count = len(numbers(runs, mode).curve)
    if min(source.shape[-1] for source in sources) < count:
        assert told is None
        return
    gain = numbers(runs, mode).curve.mean() - chance
    beside = np.mean([source[..., :count].mean() for source in sources]) - chance
    if told is None:  # where the source's gain is not clear of zero
        return
    close(told["mean"], float(gain / beside), 1e-4)
    if len(runs) * len(runs[0].rollouts[mode]) == 1:
        assert (told["low"], told["high"]) == (None, None)
        return
    assert told["low"] <= told["mean"] + 1e-9
    assert told["mean"] <= told["high"] + 1e-9


def check_source(told: dict[str, Any] | None, runs: list[SetTruth], known: Known) -> None:
    """Check data efficiency: steps to a return, the ratio, what the source has at the learner's steps and end."""
    if runs[0].source is None:
        assert told is None
        return
    piece, n = known.longest * known.actors, numbers(runs, "sampled")
    pieces = min(t.lifetime // known.longest for t in runs)
    source = np.mean(
        [audit.source_by_time(t.source, known.longest, t.lifetime)[..., :pieces].mean((0, 1)) for t in runs], 0
    )
    done = int(n.time[-1] / piece + 1e-9)
    close(told["same_steps"], None if done == 0 else float(source[min(done, pieces) - 1]))
    close(told["final"], float(audit.last_tenth(source)))
    assert len(told["levels"]) >= 1
    for level in told["levels"]:
        at = len(n.curve) if "final" in level["level"] else audit.first_at(n.curve, level["return"])
        close(level["ad_steps"], None if at is None else float(n.time[at - 1]))
        reached = audit.first_at(source, level["return"])
        assert level["reached"] == (reached is not None)
        assert level["source_steps"] == (None if reached is None else reached * piece)
        assert level["source_end"] == pieces * piece
        close(level["ratio"], None if at is None else (reached or pieces) * piece / float(n.time[at - 1]))
        if "final" in level["level"]:
            close(level["return"], n.final)


def check_claims(value: Any, runs: list[SetTruth], known: Known) -> None:
    """Statistics that claims are built of; `value(name, *arguments)` gives the number and resampled ones."""
    n, piece = numbers(runs, "sampled"), known.longest * known.actors
    level = (n.first + n.final) / 2 if n.final > n.first else n.final
    at = audit.first_at(n.curve, level)
    assert at is not None
    close(float(value("final")[0]), n.final)
    close(float(value("first")[0]), n.first)
    last = min(4, len(n.curve))
    close(float(value("between", 1, last)[0]), float(n.curve[:last].mean()))
    close(float(value("episodes_to", level)[0]), float(at))
    close(float(value("steps_to", level)[0]), float(n.time[at - 1]))
    if runs[0].source is not None:
        pieces = min(t.lifetime // known.longest for t in runs)
        curves = [audit.source_by_time(t.source, known.longest, t.lifetime)[..., :pieces].mean((0, 1)) for t in runs]
        source = np.mean(curves, axis=0)
        reached = audit.first_at(source, level)
        close(float(value("source_steps_to", level)[0]), float((reached or pieces + 1) * piece))
        close(float(value("source_final")[0]), float(audit.last_tenth(source)))
    if known.optimal is not None:
        close(float(value("regret")[0]), float((known.optimal.mean() - n.curve).sum()), 1e-4)
    low, high, slack = audit.interval(n.by_task)
    drawn = np.quantile(value("final")[1:], [0.025, 0.975])
    assert abs(drawn[0] - low) <= slack
    assert abs(drawn[1] - high) <= slack


def check_normalized(value: Any, source: dict[str, Any] | None, runs: list[SetTruth], known: Known) -> None:
    """Check the same shares, and the level that data efficiency is asked for, where claims and levels use them."""
    n = numbers(runs, "sampled")
    levels = [] if source is None else [level for level in source["levels"] if "75 %" in level["level"]]
    if known.optimal is None or known.random is None:
        assert not levels
        return
    best, chance = float(known.optimal.mean()), float(known.random.mean())
    close(float(value("share")[0]), (n.final - chance) / (best - chance))
    close(float(value("area")[0]), (float(n.curve.mean()) - chance) / (best - chance))
    assert len(levels) == (source is not None)
    for level in levels:
        close(level["return"], level_of(0.75, best, chance))
