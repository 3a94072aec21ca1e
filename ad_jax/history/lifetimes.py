"""Streams of steps cut into episodes, and learning curves over environment steps.

In: rewards and ends of streams that go on after an episode, or the returns and lengths of their episodes. Out: every
finished episode of each stream, and its learning curve with an axis of time. Where episodes end early, the number of an
episode says nothing about time: of two learners of 8,000 steps the slow one may have had 320 episodes and the quick one
80. So a lifetime is cut into pieces of as many steps as the longest possible episode. Each piece holds an end, its
value is the mean return of the episodes that end in it, and where all episodes have full length there is one in each.
Imports no JAX.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from ad_jax.files import Json, JsonObject
from ad_jax.text import plain

Stream = tuple[np.ndarray, np.ndarray]  # returns and steps of the finished episodes of a stream, `[E]` each


@dataclasses.dataclass(frozen=True)
class Episodes:
    """The finished episodes of H streams of `lifetime` steps each, in order."""

    returns: list[np.ndarray]  # [H] of [E_h] float32
    steps: list[np.ndarray]  # [H] of [E_h] int, environment steps
    lifetime: int

    def curve(self, longest: int) -> np.ndarray:
        """`[H, lifetime // longest]` float64, see `over_time`."""
        return np.stack(
            [over_time(r, s, longest, self.lifetime) for r, s in zip(self.returns, self.steps, strict=True)]
        )


def episodes_of(reward: np.ndarray, done: np.ndarray) -> Episodes:
    """Return the episodes of streams `[H, T]`, which start with the stream and after each end; what never ends is left
    out.
    """
    done = np.asarray(done, bool)
    streams, lifetime = done.shape
    number = np.cumsum(done, axis=1) - done  # [H, T], which episode each step belongs to
    most = int(done.sum(1).max(initial=0))
    earned = np.zeros((streams, most + 1), np.float32)
    np.add.at(earned, (np.arange(streams)[:, None], number), reward)
    ends = [np.flatnonzero(row) + 1 for row in done]
    steps = [np.diff(end, prepend=0) for end in ends]
    return Episodes([row[: len(end)] for row, end in zip(earned, ends, strict=True)], steps, lifetime)


def over_time(returns: np.ndarray, steps: np.ndarray, longest: int, lifetime: int) -> np.ndarray:
    """One stream's learning curve, see `of_learner`.

    Args:
        returns: `[E]` of every finished episode, in order.
        steps: `[E]` int, environment steps of each, at most `longest`.
        longest: steps of a piece: most that one episode can have.
        lifetime: steps of the stream.
    """
    return of_learner([(returns, steps)], longest, lifetime)


def of_learner(streams: Sequence[Stream], longest: int, lifetime: int) -> np.ndarray:
    """Return a learner's curve `[lifetime // longest]` float64: the mean return of the episodes ending in each piece of
    its lifetime.

    The episodes of its actors count together: the mean of each actor's mean would give a long episode more weight than
    the short ones that another actor had meanwhile.

    Args:
        streams: (returns `[E]`, steps `[E]`) of each actor, see `over_time`; their pieces are side by side in time.
        longest: steps of a piece, of each stream: most that one episode can have.
        lifetime: steps of each stream. A last part that is no whole piece is left out, as it may hold no end.
    """
    pieces = lifetime // longest
    piece = np.concatenate([(np.cumsum(steps) - 1) // longest for _, steps in streams])
    inside = piece < pieces
    earned = np.concatenate([np.asarray(returns, float) for returns, _ in streams])
    return np.bincount(piece[inside], earned[inside], pieces) / np.bincount(piece[inside], minlength=pieces)


def as_data(by_task: Sequence[Sequence[Sequence[Stream]]], lifetime: int) -> JsonObject:
    """Plain data of every episode, for `results.json`.

    Args:
        by_task: `[N][S][actors]` of (returns `[E]`, steps `[E]`), the finished episodes of each stream.
        lifetime: steps of each stream.

    Returns:
        `{"actors", "life", "returns", "steps"}`, both `[N][S][actors][E]` where lengths differ. Where all episodes have
        one length, `steps` is that, and `returns` `[N][S][E]` the mean over actors, whose episodes end together.
    """

    def column(i: int) -> list[list[list[Json]]]:
        return _mapped(by_task, lambda stream: stream[i])

    facts = {"actors": len(by_task[0][0]), "life": lifetime}
    counts = {len(returns) for of_task in by_task for actors in of_task for returns, _ in actors}
    if len(counts) == 1 and (length := common(column(1))) is not None:
        returns = np.asarray(column(0), np.float32).mean(2)
        return facts | {"returns": plain(returns), "steps": length}
    returns = _mapped(by_task, lambda stream: plain(np.asarray(stream[0], np.float32)))
    return facts | {"returns": returns, "steps": _mapped(by_task, lambda stream: np.asarray(stream[1]).tolist())}


def curves(source: JsonObject, longest: int) -> np.ndarray:
    """`[N, S, lifetime // longest]` float64: learning curves over time of what `as_data` gives, actors together."""
    returns, steps, lifetime = source["returns"], source["steps"], source["life"]
    if steps == longest:
        return np.asarray(returns, float)
    if isinstance(steps, int):
        lengths = np.full(len(returns[0][0]), steps)
        return np.array([[over_time(r, lengths, longest, lifetime) for r in of_task] for of_task in returns])
    return np.array(
        [
            [of_learner(list(zip(*actors, strict=True)), longest, lifetime) for actors in both]
            for both in (zip(*of_task, strict=True) for of_task in zip(returns, steps, strict=True))
        ]
    )


def by_episode(source: JsonObject) -> np.ndarray:
    """`[N, S, E]` float64: return by number of the episode, mean over actors, of the episodes that every stream has."""
    returns = source["returns"]
    if isinstance(source["steps"], int):
        return np.asarray(returns, float)
    shortest = min(len(stream) for of_task in returns for actors in of_task for stream in actors)
    return np.array([[np.mean([r[:shortest] for r in actors], axis=0) for actors in of_task] for of_task in returns])


def common(steps: Json) -> int | None:
    """Return the one length that all episodes of nested lists or of an array have, or None."""
    if isinstance(steps, list) and steps and isinstance(steps[0], list | np.ndarray):
        found = {common(part) for part in steps}
        return found.pop() if len(found) == 1 else None
    values = np.asarray(steps)
    return int(values.flat[0]) if values.size and values.min() == values.max() else None


def _mapped(
    by_task: Sequence[Sequence[Sequence[Stream]]], of_stream: Callable[[Stream], Json]
) -> list[list[list[Json]]]:
    return [[[of_stream(stream) for stream in actors] for actors in of_task] for of_task in by_task]
