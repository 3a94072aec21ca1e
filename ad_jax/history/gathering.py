"""Histories of a collection subsampled in host memory, chunk by chunk, as they are to lie on the devices."""

import numpy as np

from ad_jax.history import columns
from ad_jax.history.options import Config
from ad_jax.history.select import Prepare, check_lengths, check_values, final_return, prepared, select, take
from ad_jax.history.subsample import ENDS, Collected, Subsampled, lengths
from ad_jax.types import Histories, Spec

OWN = ("steps", "length", "history", "count", "group")  # fields of a `Replay`: names that no column can have


def gather(
    collected: Collected,
    spec: Spec,
    config: Config,
    prepare: Prepare | None = None,
) -> dict[str, np.ndarray]:
    """Subsample a collection chunk by chunk: the fields of its `Replay` by name, in host memory, each there once.

    Raises:
        ConfigError, HistoryError: as `load`, and where a chunk is damaged.
    """
    length, kept = survey(collected, config)
    of_kept = np.concatenate(length, axis=1)[:, kept].reshape(-1)
    check_lengths(of_kept, config)
    subsampled, first = Subsampled(of_kept, columns.none(spec), config, config.groups), 0
    for chunk, of_chunk in zip(collected.chunks, length, strict=True):
        size = of_chunk.shape[1]
        histories, numbers = collected.read([chunk]), np.arange(first, first + size)
        check_values(histories, spec, numbers)
        place, end = np.searchsorted(kept, (first, first + size))  # of these among those that are kept
        rows, first = kept[place:end], first + size
        if len(rows):
            histories = take(histories, rows - numbers[0])
            subsampled.add(int(place), histories.transition.done, rows, _columns(histories, spec, prepare))
        del histories  # before the next chunk is read
    count, groups = len(of_kept), range(config.groups)
    counts = np.array([len(range(g, count, config.groups)) for g in groups], np.int32)
    return subsampled.arrays | {"count": counts, "group": np.array(groups, np.int32)}


def survey(collected: Collected, config: Config) -> tuple[list[np.ndarray], np.ndarray]:
    """Look through a collection, chunk by chunk, at where episodes end and, with `config.best`, at the rewards.

    Returns:
        Steps that subsampling keeps of the histories of each chunk, `[phases, h]`, and the numbers of the histories
        that are kept, ascending.
    """
    length, earned = [], []
    for chunk in collected.chunks:
        found = collected.fields([chunk], ENDS if config.best is None else (*ENDS, "reward"))
        done = found["terminated"] | found["truncated"]
        length.append(lengths(done, config).reshape(config.phases, -1))
        earned.append(np.zeros(len(done)) if config.best is None else final_return(found["reward"], done))
    return length, select(np.concatenate(earned), collected.task_ids, config)


def rows_of(
    histories: Histories,
    numbers: np.ndarray,
    spec: Spec,
    config: Config,
    prepare: Prepare | None,
) -> dict[str, np.ndarray]:
    """Return what is trained on of `histories`, of which `numbers [H]` are the numbers: fields of `Replay` by name.

    Returns:
        Arrays `[H * phases, 1 + T', ...]`, and `length` and `history` `[H * phases]`.

    Raises:
        ConfigError: for channels that cannot be, see `prepared`.
    """
    done = histories.transition.done
    subsampled = Subsampled(lengths(done, config), columns.none(spec), config, groups=1)
    subsampled.add(0, done, numbers, _columns(histories, spec, prepare))
    return {name: x[0] for name, x in subsampled.arrays.items()}


def _columns(histories: Histories, spec: Spec, prepare: Prepare | None) -> dict[str, np.ndarray]:
    always = columns.of(histories.transition, spec.action.dtype_with_none)
    return always | prepared(histories, prepare, (*OWN, *always))
