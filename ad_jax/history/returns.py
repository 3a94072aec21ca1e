"""What a collection's source earned: counted chunk by chunk into the ledger, pooled over chunks out of it.

In: the transitions of one chunk, and what their tasks' optimal and random policies earn. Out: `Returns` of the whole
collection, the last tenth of the histories being the source "at the end". A chunk's counts are a function of the chunk
and lie in its ledger entry, so neither interruptions nor the number or order of writers can change what is pooled.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType

from ad_jax import files, normalized
from ad_jax.errors import HistoryError
from ad_jax.files import Finite, Json, JsonObject, Whole
from ad_jax.history import reward_unit
from ad_jax.text import number
from ad_jax.types import Transition

TENTHS = 10  # a history's learning curve is reported in this many parts of its time
Chunk = JsonObject  # plain data for a ledger entry


@dataclasses.dataclass(frozen=True)
class Returns:
    """Mean returns per episode over the histories of a collection; None where unknown, or where no episode ended.

    Attributes:
        by_tenth: of the episodes that end in each tenth of the histories' time.
        final: of the last tenth, over all actors.
        optimal: expected return of the best policy that knows the task, mean over the episodes of the last tenth.
        random: the same of the uniformly random policy.
        actors: streams of one learner.
        best_actor: the actor that is best in the last tenth, and its mean there; None with one actor.
    """

    by_tenth: list[float | None]
    final: float | None
    optimal: float | None
    random: float | None
    actors: int
    best_actor: tuple[int, float] | None

    def share(self, value: float | None) -> float | None:
        """`value` as a share of the way from random to optimal; None where either is unknown, or they are equal."""
        return normalized.share(value, self.random, self.optimal)

    def facts(self) -> dict[str, float]:
        """Return what is known, as numbers by name, for a run's `stages.json`."""
        facts = {
            "source_return": self.final,
            "optimal_return": self.optimal,
            "share_of_optimal": self.share(self.final),
            "random_return": self.random,
        }
        return {name: value for name, value in facts.items() if value is not None}

    def lines(self) -> list[tuple[str, str]]:
        """For reading, what and how much: the end, the best of several actors, the way there."""
        of = "optimum not known" if self.optimal is None else f"of {number(self.optimal)} possible"
        beside = "" if self.random is None else f"; random policy {number(self.random)}"
        told = f"mean return per episode {number(self.final)} {of}{self._percent(self.final)}{beside}"
        lines = [("at the end", told)]
        if self.best_actor is not None:
            actor, value = self.best_actor
            told = f"{number(value)}{self._percent(value)}, actor {actor} of 0 to {self.actors - 1}"
            lines.append(("best actor", told))
        return [*lines, ("by tenth", " ".join(map(number, self.by_tenth)))]

    def _percent(self, value: float | None) -> str:
        share = self.share(value)
        return "" if share is None else f" ({100 * share:.0f} % of the way from random)"


def of_chunk(
    transition: Transition, actors: int, longest: int, optimal: np.ndarray | None, random: np.ndarray | None
) -> Chunk:
    """Return a chunk's sums and counts.

    Args:
        transition: `[H, T, ...]`, rows of one learner's actors side by side, as `collect.as_histories` gives them.
        actors: rows of one learner.
        longest: most steps that one episode can have.
        optimal: expected return of the best policy on the task of each row, `[H]` float64, or None if unknown.
        random: the same of the uniformly random policy.

    Returns:
        `episodes` ended in each tenth and what they `earned` in all; the same of the last tenth by actor; sums of
        `optimal` and `random` over rows, and, as `last_optimal` and `last_random`, over the episodes of the last tenth;
        and the sums of the `rewards` themselves, of `reward_unit`. A sum that is
        not finite is None.
    """
    reward, done = transition.reward, transition.done
    borders = np.cumsum([0, *map(len, np.array_split(np.arange(done.shape[1]), TENTHS))])
    # An episode counts in the tenth that it ends in, with what it earned before. Summing tenths and moving what lies
    # on the wrong side of a border costs a tenth of finding every episode.
    open_at = [_unfinished(reward, done, border, longest) for border in borders]
    parts = list(itertools.pairwise(borders))
    earned = [
        reward[:, first:end].sum(1, dtype=np.float64) + before - after
        for (first, end), before, after in zip(parts, open_at[:-1], open_at[1:], strict=True)
    ]
    ended = [done[:, first:end].sum(1) for first, end in parts]

    def by_actor(x):
        return x.reshape(-1, actors).sum(0)

    return {
        "episodes": [int(x.sum()) for x in ended],
        "earned": [_finite(x.sum()) for x in earned],
        "last_by_actor": {
            "episodes": by_actor(ended[-1]).tolist(),
            "earned": [_finite(x) for x in by_actor(earned[-1])],
        },
        "optimal": None if optimal is None else _finite(optimal.sum()),
        "random": None if random is None else _finite(random.sum()),
        "last_optimal": None if optimal is None else _finite((optimal * ended[-1]).sum()),
        "last_random": None if random is None else _finite((random * ended[-1]).sum()),
        "rewards": reward_unit.of_chunk(reward),
    }


def by_tenth(chunk: Chunk) -> list[float | None]:
    """Mean return of a chunk's episodes in each tenth."""
    return [_mean([x], [n]) for x, n in zip(chunk["earned"], chunk["episodes"], strict=True)]


def pool(chunks: Sequence[Chunk | None], rows: Sequence[int]) -> Returns | None:
    """Return the returns of a collection; None if a chunk has none, as those that early versions wrote, or if there is
    none.

    Args:
        chunks: in order, so that sums round alike.
        rows: histories of each chunk.
    """
    known = [chunk for chunk in chunks if chunk is not None]
    if not known or len(known) < len(chunks):
        return None

    def column(part, k):
        return ([c[part]["earned"][k] for c in known], [c[part]["episodes"][k] for c in known])

    mean = [_mean([c["earned"][k] for c in known], [c["episodes"][k] for c in known]) for k in range(TENTHS)]
    actors = len(known[0]["last_by_actor"]["episodes"])
    last = {k: value for k in range(actors) if (value := _mean(*column("last_by_actor", k))) is not None}
    best = max(last, key=lambda k: last[k]) if actors > 1 and last else None

    def reference(name: str) -> float | None:
        """Over the same episodes as `final`: a task whose episodes are short has more of them."""
        if all(f"last_{name}" in c for c in known) and any(c["episodes"][-1] for c in known):
            return _mean([c[f"last_{name}"] for c in known], [c["episodes"][-1] for c in known])
        return _mean([c[name] for c in known], rows)  # an early version wrote no other

    return Returns(
        mean,
        mean[-1],
        reference("optimal"),
        reference("random"),
        actors,
        None if best is None else (best, last[best]),
    )


class _ByActor(Struct, forbid_unknown_fields=True):
    episodes: list[Whole]
    earned: list[Finite | None]


class _Form(Struct, forbid_unknown_fields=True):
    episodes: Annotated[list[Whole], Meta(min_length=TENTHS, max_length=TENTHS)]
    earned: Annotated[list[Finite | None], Meta(min_length=TENTHS, max_length=TENTHS)]
    last_by_actor: _ByActor
    optimal: Finite | None
    random: Finite | None
    last_optimal: Finite | None = None  # early versions wrote none of what follows
    last_random: Finite | None = None
    rewards: reward_unit.Form | UnsetType = UNSET


def check(chunk: Json, actors: Json, where: str) -> None:
    """Raise HistoryError unless `chunk` is of the form that `of_chunk` gives for so many actors."""
    last = files.check(chunk, _Form, where, HistoryError).last_by_actor
    if [len(last.episodes), len(last.earned)] != [actors] * 2:
        raise HistoryError(f"{where}.last_by_actor: expected a number for each of {actors} actors, received {last}")


def _unfinished(reward: np.ndarray, done: np.ndarray, border: int, longest: int) -> np.ndarray:
    """Return what the episodes that are open at a time have earned so far, `[H]` float64, from rewards and ends `[H,
    T]`.
    """
    window = slice(max(0, border - longest), border)
    ended_since = np.logical_or.accumulate(done[:, window][:, ::-1], axis=1)[:, ::-1]
    return reward[:, window].sum(1, dtype=np.float64, where=~ended_since)


def _mean(sums: Sequence[float | None], counts: Sequence[int]) -> float | None:
    """Of all, from parts; None if a part is unknown or nothing was counted."""
    known = [x for x in sums if x is not None]
    return sum(known) / sum(counts) if len(known) == len(sums) and sum(counts) else None


def _finite(x: float) -> float | None:
    """For JSON, which has no other numbers."""
    return float(x) if math.isfinite(x) else None
