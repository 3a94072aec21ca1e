"""Which histories are learned from, and what is looked at before that: values, lengths, a method's channels."""

from collections.abc import Callable, Collection, Sequence

import jax
import numpy as np

from ad_jax import values
from ad_jax.errors import ConfigError, HistoryError
from ad_jax.history.options import Config
from ad_jax.types import Histories, Spec

Prepare = Callable[[Histories], dict[str, np.ndarray]]  # histories [H, T] -> channels of a method, each [H, T, ...]


def prepared(histories: Histories, prepare: Prepare | None, taken: Collection[str]) -> dict[str, np.ndarray]:
    """Return the channels that `prepare` makes of `histories`, `[H, T, ...]` by name; none where it is None.

    Args:
        histories: the learning histories, `[H, T]`.
        prepare: makes channels of the histories; None makes none.
        taken: names that channels cannot have.

    Raises:
        ConfigError: for a channel that has another's name, or is not of every step of every history.
    """
    channels = {} if prepare is None else {name: np.asarray(x) for name, x in prepare(histories).items()}
    expected = histories.transition.reward.shape
    for name, x in channels.items():
        if name in taken:
            raise ConfigError(f"a method prepares a channel {name!r}, which histories have already: call it otherwise")
        if x.shape[:2] != expected:
            raise ConfigError(
                f"the channel {name!r} that a method prepares must be of every step, [H, T, ...] = {expected}; got "
                f"{x.shape}"
            )
    return channels


def check_values(histories: Histories, spec: Spec, numbers: np.ndarray | None = None) -> None:
    """Raise HistoryError, which names the history by `numbers [H]`, for what is no number or not of `spec`."""
    if where := values.wrong(histories, spec, numbers):
        raise HistoryError(f"{where}: nothing can be learned from it. Collect these histories anew")


def check_lengths(length: np.ndarray, config: Config) -> None:
    """Raise ConfigError where subsampled histories of so many steps `[H]` are too short for a window, or too few."""
    shortest = int(length.min())
    if shortest < config.segment:
        raise ConfigError(
            f"replay.segment={config.segment} steps is longer than a history: after keeping every "
            f"{config.keep_every}th episode of the last {config.tail:.0%} the shortest has {shortest}. Lower "
            "replay.segment or replay.keep_every, raise replay.tail, or collect longer histories"
        )
    if len(length) < config.groups:
        raise ConfigError(f"{len(length)} histories cannot fill replay.groups={config.groups}; lower replay.groups")


def final_return(reward: np.ndarray, done: np.ndarray) -> np.ndarray:
    """Mean return of the episodes that end in the last tenth of histories: `[H]` float64 of `[H, T]`.

    Where none ends there, of the last one that ended; where none ever did, of what was earned until then.
    """
    border = reward.shape[1] - max(1, reward.shape[1] // 10)

    def of_history(reward: np.ndarray, done: np.ndarray) -> float:
        ends = np.flatnonzero(done) + 1
        if not len(ends):
            return reward.sum(dtype=np.float64)
        late = max(int((ends > border).sum()), 1)
        began = ends[-late - 1] if late < len(ends) else 0
        return reward[began : ends[-1]].sum(dtype=np.float64) / late

    return np.array([of_history(*rows) for rows in zip(np.asarray(reward), np.asarray(done), strict=True)])


def select(earned: np.ndarray, task_ids: Sequence[str], config: Config) -> np.ndarray:
    """Return the numbers of each task's histories that earn most at their end, as many as `config.best` keeps;
    ascending.
    """
    if config.best is None:
        return np.arange(len(earned))
    rows_of: dict[str, list[int]] = {}
    for row, task in enumerate(task_ids):
        rows_of.setdefault(task, []).append(row)

    def best_of(rows):
        return sorted(rows, key=lambda row: -earned[row])[: config.kept_of(len(rows))]

    return np.array(sorted(row for rows in rows_of.values() for row in best_of(rows)))


def take(histories: Histories, rows: np.ndarray) -> Histories:
    """Return some of the histories, in the order given."""
    if len(rows) == len(histories.task_ids) and (rows == np.arange(len(rows))).all():
        return histories  # nothing is copied
    h, at = histories, lambda tree: jax.tree.map(lambda x: np.asarray(x)[rows], tree)
    ids = [h.task_ids[row] for row in rows]
    return Histories(at(h.transition), at(h.tasks), ids, at(h.seed_index), at(h.actor))
