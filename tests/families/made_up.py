"""Made-up runs: episodes of any length, and rewards of any size and sign, without an environment.

What "happened" is drawn first, as `SetTruth`s; `results_of` then writes it down as the pipeline would.
"""

import dataclasses
from typing import Any

import numpy as np

from families import audit
from families.audit import Episode, SetTruth, Stream
from families.audit_report import Known


@dataclasses.dataclass(frozen=True)
class Shape:
    """How much of everything."""

    runs: int = 1
    tasks: int = 3
    rollouts: int = 2
    episodes: int = 12
    longest: int = 20
    actors: int = 1
    seeds: int = 2  # of the source
    lifetime: int = 200  # steps of a stream of the source
    source: bool = True
    greedy: bool = True
    known: bool = True
    size: float = 1.0  # of returns
    shift: float = 0.0  # of returns, in sizes
    shortest: int = 1  # of episodes


def stream(rng: np.random.Generator, s: Shape, count: int | None) -> Stream:
    """So many episodes, or as many as fit a lifetime, longer and better ones later."""
    found, at = [], 0
    while count is None or len(found) < count:
        steps = int(rng.integers(s.shortest, s.longest + 1))
        if count is None and at + steps > s.lifetime:
            return found
        skill = at / s.lifetime + len(found) / s.episodes
        total = np.float32(s.size * (s.shift + skill + rng.normal() / 3))
        found.append(Episode(float(total), steps, at))
        at += steps
    return found


def happened(rng: np.random.Generator, s: Shape) -> list[SetTruth]:
    """One set of tasks in each run."""
    runs = []
    for _ in range(s.runs):
        modes = ("sampled", "greedy") if s.greedy else ("sampled",)
        rolled = {m: [[stream(rng, s, s.episodes) for _ in range(s.rollouts)] for _ in range(s.tasks)] for m in modes}

        def of_lifetime():
            return [stream(rng, s, None) for _ in range(s.actors)]

        lifetimes = [[of_lifetime() for _ in range(s.seeds)] for _ in range(s.tasks)] if s.source else None
        runs.append(SetTruth(rolled, {m: [[[]]] for m in modes}, {}, lifetimes, s.lifetime))
    return runs


def known_of(rng: np.random.Generator, s: Shape) -> Known:
    """Return an optimum and a random policy for each task, the optimum above."""
    if not s.known:
        return Known(s.longest, s.actors, None, None)
    chance = s.size * (s.shift + rng.uniform(0, 0.4, (1, s.tasks)))
    best = chance + s.size * rng.uniform(1.0, 3.0, (1, s.tasks))
    return Known(s.longest, s.actors, np.repeat(best, s.runs, 0), np.repeat(chance, s.runs, 0))


def results_of(runs: list[SetTruth], known: Known, s: Shape) -> dict[str, Any]:
    """Plain data of schema 2, not sealed."""

    def at(values, i):
        return None if values is None else float(values[0, i])

    picture = {"kind": "arms", "means": None}
    tasks = [
        {
            "id": f"t{i}",
            "description": f"task {i}",
            "optimal": at(known.optimal, i),
            "random": at(known.random, i),
            "picture": picture,
        }
        for i in range(s.tasks)
    ]
    every = []
    for seed, t in enumerate(runs):
        one: dict[str, Any] = {"name": "held_out", "kind": "by seed", "tasks": tasks, "source": None, "paths": None}
        one["returns"] = {mode: audit.returns(streams) for mode, streams in t.rollouts.items()}
        one["steps"] = {mode: audit.steps(streams) for mode, streams in t.rollouts.items()}
        if t.source is not None:
            one["source"] = {"name": "learner", "role": "source", "actors": s.actors, "life": t.lifetime}
            one["source"] |= stored(t.source)
        rest = {"config": {"seed": seed}, "provenance": {}, "stages": {"evaluate": {"seconds": 1.5}}}
        rest |= {"episode_length": s.longest, "checkpoint": {"step": 1, "which": "last"}}
        every.append({"seed": seed, **rest, "sets": [one]})
    return {"schema": 2, "experiment": "made_up", "runs": every}


def stored(lifetimes: Any) -> dict[str, Any]:
    """Return and steps of every episode; of one length, the one number and the mean over actors."""
    lengths = {x.steps for task in lifetimes for lifetime in task for actor in lifetime for x in actor}
    if len(lengths) > 1:
        return {"returns": audit.returns(lifetimes), "steps": audit.steps(lifetimes)}
    return {"returns": audit.source_by_episode(lifetimes).tolist(), "steps": lengths.pop()}
