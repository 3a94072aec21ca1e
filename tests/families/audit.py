"""What a run really did, from its raw steps and the plain simulators alone, to hold everything against that it reports.

Shares no code with the package: episodes are found one step at a time, curves, ratios and intervals are computed here.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from ad_jax.types import Transition
from families.recording import Recording, Rollouts
from families.simulators import Simulator


@dataclasses.dataclass
class Episode:
    """One finished episode."""

    total: float  # return
    steps: int
    first: int  # its first step, counted from 0 in its stream


Stream = list[Episode]


@dataclasses.dataclass
class SetTruth:
    """What happened on one set of tasks in one run."""

    rollouts: dict[str, list[list[Stream]]]  # by mode, [N][S], the episodes that count
    shown: dict[str, list[list[Stream]]]  # by mode, the episodes of a prompt before them
    traces: dict[str, np.ndarray]  # by mode, [T, N, S, k]
    source: list[list[list[Stream]]] | None  # [N][S][actors], every finished episode
    lifetime: int  # steps of each of the source's streams


def walked(world: Simulator, r: Rollouts) -> tuple[np.ndarray, np.ndarray]:
    """Reward and end of every step `[T, B]`; every step must be the simulator's."""

    def at(t):
        return {name: leaf[t] for name, leaf in r.states.items()}

    rewards, ends = [], []
    assert world.begins(at(0), r.tasks).all()
    for t, action in enumerate(r.action):
        after, reward, terminated = world.step(at(t), action, r.tasks)
        over = terminated | (after["time"] >= world.limit)
        rewards.append(reward)
        ends.append(over)
        if t + 1 == len(r.action):
            break
        following = at(t + 1)
        assert world.begins(following, r.tasks)[over].all(), f"step {t + 1} is no start"
        for name, leaf in after.items():
            np.testing.assert_allclose(following[name][~over], leaf[~over], 0, world.tolerance, err_msg=f"{t}: {name}")
    return np.stack(rewards), np.stack(ends)


def lived(world: Simulator, t: Transition, tasks: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the same `[T, H]` of histories `[H, T]`, whose states are read off their observations."""
    rows, steps = t.action.shape
    time, rewards, ends = np.zeros(rows, int), [], []
    for i in range(steps):
        state = world.state_of(t.observation[:, i], time)
        after, reward, terminated = world.step(state, t.action[:, i].astype(int), tasks)
        np.testing.assert_allclose(t.reward[:, i].astype(float), reward, 0, max(world.tolerance, 1e-7))
        np.testing.assert_array_equal(t.terminated[:, i], terminated)
        over = terminated | (after["time"] >= world.limit)
        np.testing.assert_array_equal(t.terminated[:, i] | t.truncated[:, i], over)
        assert not (t.terminated[:, i] & t.truncated[:, i]).any()
        if i + 1 < steps:
            seen, expected = t.observation[:, i + 1].astype(float), world.observe(after)
            np.testing.assert_allclose(seen[~over], expected[~over], 0, 10 * world.tolerance)
        time = np.where(over, 0, time + 1)
        rewards.append(reward)
        ends.append(over)
    return np.stack(rewards), np.stack(ends)


def episodes(reward: np.ndarray, end: np.ndarray) -> list[Stream]:
    """Return the finished episodes of each stream, from `[T, B]`."""
    streams = []
    for b in range(reward.shape[1]):
        stream, total, first = [], 0.0, 0
        for t in range(len(reward)):
            total += float(reward[t, b])
            if end[t, b]:
                stream.append(Episode(total, t + 1 - first, first))
                total, first = 0.0, t + 1
        streams.append(stream)
    return streams


def dealt(streams: list[Any], *shape: int) -> list[Any]:
    """Return a flat list as nested ones."""
    if len(shape) == 1:
        assert len(streams) == shape[0]
        return streams
    each = len(streams) // shape[0]
    return [dealt(streams[i * each : (i + 1) * each], *shape[1:]) for i in range(shape[0])]


def truth(world: Simulator, recording: Recording, e: Any, sets: int, actors: int) -> list[SetTruth]:
    """Return what each set's evaluation did, of a run of experiment `e` that was recorded whole."""
    modes = ["sampled", "greedy"] if e.evaluate.greedy else ["sampled"]
    before = e.evaluate.prompt_episodes if e.evaluate.prompt is not None else 0
    assert len(recording.rollouts) == sets * len(modes)
    every, rollouts, lifetimes = [], iter(recording.rollouts), iter(recording.lifetimes)
    for _ in range(sets):
        found = SetTruth({}, {}, {}, None, 0)
        for mode in modes:
            raw = next(rollouts)
            seeds = e.evaluate.seeds
            streams = episodes(*walked(world, raw))
            last = before + e.evaluate.episodes
            assert min(map(len, streams)) >= last, "every rollout has as many episodes as were asked for"
            shape = (len(streams) // seeds, seeds)
            found.shown[mode] = dealt([stream[:before] for stream in streams], *shape)
            found.rollouts[mode] = dealt([stream[before:last] for stream in streams], *shape)
            found.traces[mode] = raw.trace.reshape(len(raw.trace), *shape, -1)
        if e.evaluate.source_seeds:
            transition, tasks = next(lifetimes)
            streams = episodes(*lived(world, transition, tasks))
            found.source = dealt(
                streams, len(streams) // (e.evaluate.source_seeds * actors), e.evaluate.source_seeds, actors
            )
            found.lifetime = transition.action.shape[1]
        every.append(found)
    return every


# Numbers of nested streams.


def returns(streams: Any) -> Any:
    """Nested lists of returns."""
    return streams.total if isinstance(streams, Episode) else [returns(s) for s in streams]


def steps(streams: Any) -> Any:
    """Nested lists of lengths."""
    return streams.steps if isinstance(streams, Episode) else [steps(s) for s in streams]


def last_tenth(values: np.ndarray) -> Any:
    """Mean of the last tenth along the last axis, at least of one."""
    count = max(1, values.shape[-1] // 10)
    return sum(values[..., -i] for i in range(1, count + 1)) / count


def over_time(streams: list[Stream], longest: int, lifetime: int) -> list[float]:
    """Mean return of the episodes that end in each whole stretch of `longest` steps, those of all streams together."""
    pieces: list[list[float]] = [[] for _ in range(lifetime // longest)]
    for one in (one for stream in streams for one in stream):
        piece = (one.first + one.steps - 1) // longest
        if piece < len(pieces):
            pieces[piece].append(one.total)
    return [sum(piece) / len(piece) for piece in pieces]


def source_by_time(source: Any, longest: int, lifetime: int) -> np.ndarray:
    """`[N, S, pieces]`, the actors of a learner together."""
    return np.array([[over_time(actors, longest, lifetime) for actors in task] for task in source])


def source_by_episode(source: Any) -> np.ndarray:
    """`[N, S, E]`, mean over actors, of the episodes that all streams have."""
    shortest = min(len(stream) for task in source for actors in task for stream in actors)

    def of_lifetime(actors):
        return np.mean([[one.total for one in stream[:shortest]] for stream in actors], axis=0)

    return np.array([[of_lifetime(actors) for actors in task] for task in source])


def first_at(curve: np.ndarray, level: float) -> int | None:
    """Return the first index from 1 at which the curve is at the level."""
    for i, value in enumerate(curve):
        if value >= level - 1e-6 * abs(level):
            return i + 1
    return None


def interval(values: np.ndarray, draws: int = 20_000) -> tuple[float, float, float]:
    """Of `[R, N]`: the 95 % interval of the mean, over runs drawn anew and then tasks in each; and how sure it is.

    The third number is how far another 1000 draws may be from it: five standard errors of a quantile.
    """
    random = np.random.Generator(np.random.MT19937(7))
    runs, tasks = values.shape
    means = np.zeros(draws)
    for _ in range(runs):
        run = random.integers(0, runs, draws)
        chosen = random.integers(0, tasks, (draws, tasks))
        means += values[run[:, None], chosen].mean(1) / runs
    low, high = np.quantile(means, [0.025, 0.975])
    by = 5 * math.sqrt(0.025 * 0.975 / 1000)

    def nearby(q):
        return [np.quantile(means, min(max(q + sign * by, 0.0), 1.0)) for sign in (-1, 1)]

    slack = max(abs(x - at) for q, at in ((0.025, low), (0.975, high)) for x in nearby(q))
    return float(low), float(high), float(slack) + 1e-9 * float(np.abs(values).max())


# Comparing.


def close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Numbers, nested lists of them, or None: the same to the rounding of float32 sums."""
    if expected is None or found is None:
        assert found is expected
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            close(a, b, tolerance)
    else:
        assert abs(found - expected) <= tolerance * abs(expected) + 1e-12, f"{found}, expected {expected}"


def shows(text: str, value: float | None) -> None:
    """Check that a printed number is `value` to the digits it has, and has two of them."""
    if value is None:
        assert text == "-"
        return
    printed = float(text.replace(",", ""))
    mantissa, _, exponent = text.lower().partition("e")
    decimals = len(mantissa.partition(".")[2]) - int(exponent or 0)
    assert abs(printed - value) <= 0.5001 * 10.0**-decimals + 1e-9 * abs(value), f"{text} for {value}"


def shows_all(texts: list[str], values: list[float | None]) -> None:
    """Compare as `shows` does, one by one."""
    assert len(texts) == len(values)
    for text, value in zip(texts, values, strict=True):
        shows(text, value)
