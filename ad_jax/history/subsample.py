"""Subsampled versions of learning histories in host memory, each array in the place where the devices take it from.

Keep every k-th episode, in some of the k phases, of the last share of each history (what that means stands in
`replay`). In: histories, a few or a chunk of a collection at a time. Out: the arrays of a `replay.Replay`, each in
memory once. Nothing here is as large as what comes in or goes out, but those two.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ad_jax.history import columns
from ad_jax.types import Histories

ENDS = ("terminated", "truncated")  # the fields that say where episodes end
BLOCK = 32  # histories whose episodes are counted at a time


class Subsampling(Protocol):
    """What `replay.Config` says of it."""

    @property
    def keep_every(self) -> int: ...

    @property
    def phases(self) -> int: ...

    def first_step(self, steps: int) -> int:
        """Return the first step of the tail that is kept of a history of so many."""
        ...


class Collected(Protocol):
    """What histories are gathered from, a chunk at a time: a `HistoryStore`."""

    @property
    def chunks(self) -> Sequence[int]: ...

    @property
    def task_ids(self) -> list[str]: ...

    def fields(self, chunks: list[int], names: Iterable[str], /) -> dict[str, np.ndarray]: ...

    def read(self, chunks: list[int], /) -> Histories: ...


@dataclasses.dataclass
class Whole:
    """Histories in memory, as one chunk."""

    histories: Histories
    chunks: Sequence[int] = (0,)

    @property
    def task_ids(self) -> list[str]:
        return self.histories.task_ids

    def fields(self, _: list[int], names: Iterable[str]) -> dict[str, np.ndarray]:
        return {name: np.asarray(getattr(self.histories.transition, name)) for name in names}

    def read(self, _: list[int]) -> Histories:
        return self.histories


class Subsampled:
    """Room for the subsampled versions of so many histories, which `add` fills.

    Row r of the H * phases, history by history for phase after phase, is `[r % G, r // G]`. A row has a "none" step
    first, then the steps that are kept, and what is arbitrary up to the longest; rows that pad a group are zeros.

    Attributes:
        arrays: each column, `[G, M, 1 + T', ...]`, by name; `length` and `history` `[G, M]`.
    """

    def __init__(self, length: np.ndarray, none: Mapping[str, float], config: Subsampling, groups: int):
        """For histories of which subsampling keeps `length` steps, `[phases * H]`.

        Args:
            length: steps that subsampling keeps of each row, integers.
            none: what a column holds in the step before the first, where that is not 0.
            config: which episodes of a history are kept.
            groups: G, the groups that rows are dealt into.
        """
        self._config, self._groups, self._none = config, groups, none
        self._each, self._count = -(-len(length) // groups), len(length) // config.phases
        self._longest = int(length.max())
        self.arrays: dict[str, np.ndarray] = {}
        self._at(self._room("length", np.int32), np.arange(len(length)), length)

    def add(self, first: int, done: np.ndarray, numbers: np.ndarray, fields: Mapping[str, np.ndarray]) -> None:
        """Subsample some histories, the ones from the `first` on, into their places.

        Args:
            first: number of the first of them among the H histories, from 0 on.
            done: where their episodes end, `[h, T]`.
            numbers: what they are called, `[h]`.
            fields: the columns of their steps by name, `[h, T, ...]`.
        """
        for name, x in fields.items():
            self._room(name, x.dtype, 1 + self._longest, *x.shape[2:])
        for phase in range(self._config.phases):
            rows = phase * self._count + first + np.arange(len(done))
            self._at(self._room("history", np.int32), rows, numbers)
            for name in fields:
                self._at(self.arrays[name][:, :, 0], rows, self._none.get(name, 0))
        for start, masks in _blocks(done, self._config):
            for phase, kept in enumerate(masks):
                for i, row in enumerate(phase * self._count + first + start + np.arange(len(kept))):
                    group, place = row % self._groups, row // self._groups
                    order = _order(kept[i], self._longest)
                    for name, x in fields.items():
                        self.arrays[name][group, place, 1:] = x[start + i][order]

    def _room(self, name: str, dtype: DTypeLike, *shape: int) -> np.ndarray:
        """Return the array `name`, made where it is not there yet."""
        if name not in self.arrays:
            self.arrays[name] = np.zeros((self._groups, self._each, *shape), dtype)  # touched where it is written
        return self.arrays[name]

    def _at(self, array: np.ndarray, rows: np.ndarray, values: ArrayLike) -> None:
        array[rows % self._groups, rows // self._groups] = values


def subsample(
    histories: Histories, config: Subsampling, extra: Mapping[str, np.ndarray] | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Keep every k-th episode of each history, in each of the phases asked for, with `extra` channels `[H, T, ...]`.

    Returns:
        Arrays by name, `[H * phases, T', ...]`, valid up to `length [H * phases]` int32 and arbitrary after it.
    """
    t = histories.transition
    length = lengths(t.done, config)
    room = Subsampled(length, {}, config, groups=1)
    room.add(0, t.done, np.arange(len(length) // config.phases), {**columns.of(t, t.action.dtype), **(extra or {})})
    return {name: x[0, :, 1:] for name, x in room.arrays.items() if name not in ("length", "history")}, length


def lengths(done: np.ndarray, config: Subsampling) -> np.ndarray:
    """Return steps that subsampling keeps of histories whose episodes end at `done [H, T]`: `[phases * H]` int32."""
    counts = [[kept.sum(1) for kept in masks] for _, masks in _blocks(done, config)]  # of each block, by phase
    return np.concatenate([count[phase] for phase in range(config.phases) for count in counts]).astype(np.int32)


def kept_steps(done: np.ndarray, config: Subsampling) -> list[np.ndarray]:
    """Which steps subsampling keeps, `[H, T]` bool, a mask for each phase."""
    episode = np.cumsum(done, axis=1, dtype=np.int32) - done  # [H, T], which episode each step belongs to
    before = done[:, : config.first_step(done.shape[1])].sum(1, keepdims=True)  # episodes that end before the tail
    place = np.where(episode >= before, episode % config.keep_every, -1)  # in its group of k; -1 before the tail
    # Counted from the end of each group of k, so that phase 0 holds the last episode, the one learned best, where a
    # history has a multiple of k.
    offsets = [config.keep_every - 1 - phase * config.keep_every // config.phases for phase in range(config.phases)]
    return [place == offset for offset in offsets]


def deal(x: np.ndarray, groups: int) -> np.ndarray:
    """Rows `[H, ...]` dealt round-robin into `[G, H / G, ...]`; there is a multiple of `groups`."""
    return np.ascontiguousarray(x.reshape(-1, groups, *x.shape[1:]).swapaxes(0, 1))


def _blocks(done: np.ndarray, config: Subsampling) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Yield number of its first history, and `kept_steps`, of one block of histories after another."""
    for start in range(0, len(done), BLOCK):
        yield start, kept_steps(done[start : start + BLOCK], config)


def _order(kept: np.ndarray, longest: int) -> np.ndarray:
    """Return the steps that are kept, `[T]` bool, then others, `longest` in all."""
    inside = np.flatnonzero(kept)
    if len(inside) == longest:
        return inside
    return np.concatenate([inside, np.flatnonzero(~kept)[: longest - len(inside)]])
