"""A collection of histories and what training takes of it, computed again one step at a time."""

import re
from typing import Any

import numpy as np

from ad_jax.types import Histories
from families.audit import Stream, close, episodes, lived, shows, shows_all
from families.simulators import Simulator


def streams_of(world: Simulator, h: Histories) -> list[Stream]:
    """Return the finished episodes of each history, every step of which must be the simulator's."""
    return episodes(*lived(world, h.transition, h.tasks))


def ending_in(stream: Stream, first: int, last: int) -> list[float]:
    """Return of the episodes whose last step is one of first..last - 1."""
    return [one.total for one in stream if first <= one.first + one.steps - 1 < last]


def borders(lifetime: int) -> list[int]:
    """Where ten parts of a lifetime begin and end; the first ones are a step longer where it does not divide."""
    lengths = [lifetime // 10 + (i < lifetime % 10) for i in range(10)]
    return [sum(lengths[:i]) for i in range(11)]


def check_info(text: str, returns: Any, streams: list[Stream], lifetime: int, actors: int, known: Any) -> None:
    """Check what `ad-jax histories info` says of the source, and the `Returns` behind it.

    Args:
        text: what the command printed.
        returns: the collection's `Returns`.
        streams: finished episodes of each history, H in all; those of a learner's actors follow one another.
        lifetime: steps of each history.
        actors: actors of the source.
        known: optimal and random return of each history, `[H]` each, or None.
    """
    at = borders(lifetime)

    def mean(values):
        return sum(values) / len(values) if values else None

    def pooled(rows, i):
        return mean([x for stream in rows for x in ending_in(stream, at[i], at[i + 1])])

    tenths = [pooled(streams, i) for i in range(10)]
    close(returns.by_tenth, tenths)
    close(returns.final, tenths[-1])
    ends = [len(ending_in(stream, at[9], at[10])) for stream in streams]
    best, chance = (None, None) if known is None else (np.average(x, weights=ends) for x in known)
    close(returns.optimal, best)
    close(returns.random, chance)
    by_actor = [pooled(streams[actor::actors], 9) for actor in range(actors)]
    line = dict(re.findall(r"^  (at the end|best actor|by tenth) +(.*)$", text, re.MULTILINE))
    shows_all(line["by tenth"].split(), tenths)
    how_far = r"(?:of (\S+) possible(?: \((-?\d+) %[^)]*\))?|optimum not known)"
    end = re.match(rf"mean return per episode (\S+) {how_far}", line["at the end"])
    assert end, line["at the end"]
    shows(end[1], tenths[-1])
    if best is not None:
        shows(end[2], best)
        shows(re.search(r"random policy (\S+)", line["at the end"])[1], chance)
    if actors == 1:
        assert returns.best_actor is None
        assert "best actor" not in line
        return
    number = int(np.argmax(np.array(by_actor, float)))
    assert returns.best_actor[0] == number
    close(returns.best_actor[1], by_actor[number])
    told = re.match(r"(\S+?)(?: \(-?\d+ %\))?, actor (\d+) of 0 to (\d+)", line["best actor"])
    shows(told[1], by_actor[number])
    assert (int(told[2]), int(told[3])) == (number, actors - 1)


def check_percent(text: str, returns: Any) -> None:
    """Check the printed share of the optimum: how far the end is on the way from the random policy's return to it."""
    printed = re.search(r"possible \((-?\d+) %", text)
    assert printed, text
    shows(printed[1], 100 * (returns.final - returns.random) / (returns.optimal - returns.random))


def best_rows(streams: list[Stream], task_ids: list[str], lifetime: int, share: float) -> list[int]:
    """Which histories `replay.best` keeps: of each task those whose episodes that end in the last tenth pay most.

    Where none ends there, the last one before counts.
    """
    first = borders(lifetime)[9]
    ends = [np.mean(ending_in(stream, first, lifetime) or [stream[-1].total]) for stream in streams]
    kept = []
    for task in dict.fromkeys(task_ids):
        rows = [row for row, other in enumerate(task_ids) if other == task]
        rows.sort(key=lambda row: -ends[row])  # stable: of equals the first
        kept += rows[: int(np.ceil(share * len(rows) - 1e-9))]
    return sorted(kept)


def kept_steps(stream: Stream, lifetime: int, tail: float, every: int, phase: int, phases: int) -> list[int]:
    """Numbers of the steps that training sees of a history: every k-th of its episodes that end in its tail.

    The part after the last end counts as an episode.
    """
    spans = [(one.first, one.first + one.steps) for one in stream]
    done = spans[-1][1] if spans else 0
    if done < lifetime:
        spans.append((done, lifetime))
    first = int(np.floor((1 - tail) * lifetime + 1e-9))
    wanted = every - 1 - phase * every // phases
    return [t for i, (a, b) in enumerate(spans) if b > first and i % every == wanted for t in range(a, b)]
