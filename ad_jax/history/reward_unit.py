"""The unit that a trained model's rewards are counted in, so that a world may pay in thousandths or in thousands.

A reward enters a network through one linear map, beside embeddings of size 1: 1000 drowns them and 0.001 is not seen.
So one number is taken from the rewards that are trained on, before training starts, and every reward is divided by it
where a model sees it: in training, in evaluation and in an `Agent` alike. It is saved with every checkpoint.

It is the root of the mean square of the rewards that are not zero. Zeros are left out, because how rare rewards are
says nothing of how large they are. No mean is taken off: what paid nothing stays zero, and costs stay negative. Where
every reward is 0, 1 or -1 the unit is exactly 1, and nothing is divided at all.

In: rewards, a chunk at a time, as sums that a ledger holds. Sums of squares are in float64, rounded once a chunk
whatever the order of its histories and of the chunks, and the unit is rounded to float32: a reward that all have in
common is then exactly 1.
"""

import math
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import jax.numpy as jnp
import numpy as np
from msgspec import Meta, Struct

from ad_jax.errors import ConfigError, HistoryError
from ad_jax.files import JsonObject, Whole

if TYPE_CHECKING:
    from ad_jax.history.store import HistoryStore


BLOCK = 2**20  # rewards that are squared at once
NONE = 1.0  # the unit of rewards as they are
Sums = JsonObject  # plain data: `nonzero`, how many rewards are not 0, and `squares`, the sum of their squares


def check_unit(where: str, unit: float | None) -> None:
    """Raise ConfigError unless the option `where.reward_unit` is None or a unit."""
    if unit is not None and not (math.isfinite(unit) and unit > 0):
        raise ConfigError(
            f"{where}.reward_unit is what rewards are divided by, above 0; got {unit}. 1 leaves them as they are, None "
            "takes the size of the rewards that are trained on"
        )


def of_chunk(reward: np.ndarray) -> Sums:
    """Return the sums of rewards `[H, T]`; `squares` is None where it is not finite."""
    reward = np.asarray(reward)
    nonzero = int(np.count_nonzero(reward))
    if nonzero and reward.dtype.itemsize == 1:  # one byte each: counted, which is exact and much quicker
        small = reward.view(np.uint8) if reward.dtype.kind == "b" else reward
        if small.min() >= -1 and small.max() <= 1:
            squares = float(nonzero)
        else:
            found, count = np.unique(small, return_counts=True)
            squares = float(sum(int(x) ** 2 * int(n) for x, n in zip(found, count, strict=True)))
    else:
        rows = max(1, BLOCK // max(1, reward.shape[1]))
        parts = (np.square(reward[i : i + rows], dtype=np.float64).sum(1) for i in range(0, len(reward), rows))
        squares = _sum(row for part in parts for row in part.tolist())
    return {"nonzero": nonzero, "squares": squares if math.isfinite(squares) else None}


class Form(Struct, forbid_unknown_fields=True):
    """What `of_chunk` gives, as it is read from a ledger."""

    nonzero: Whole
    squares: Annotated[float, Meta(ge=0, le=sys.float_info.max)] | None


def pool(chunks: Iterable[Sums]) -> float:
    """Return the unit of all rewards of some chunks, in any order; 1 where none is anything but 0.

    Raises:
        HistoryError: if the sums are not finite.
    """
    chunks = list(chunks)
    count = sum(chunk["nonzero"] for chunk in chunks)
    squares = _sum(math.inf if chunk["squares"] is None else chunk["squares"] for chunk in chunks)
    if not math.isfinite(squares):
        raise HistoryError("the rewards of these histories are not finite: nothing can be learned from them")
    unit = float(np.float32(math.sqrt(squares / count))) if count else NONE
    return unit if unit >= np.finfo(np.float32).tiny else NONE  # what is smaller is 0 to a compiled program


def of_store(store: "HistoryStore") -> float:
    """Return the unit of a collection, from its ledger; where an early version wrote that, from the rewards themselves.

    Raises:
        HistoryError: naming the chunk that is damaged.
    """

    def recorded(chunk):
        return (store.earned(chunk) or {}).get("rewards")

    def read(chunk):
        return of_chunk(store.fields([chunk], ["reward"])["reward"])

    return pool(recorded(chunk) or read(chunk) for chunk in store.chunks)


def applied(model: Any, unit: float) -> Any:
    """Return a `Model`, or an `ActorCritic`, that is given rewards as they are and sees them divided by `unit`."""
    if unit == NONE:
        return model

    def see(steps):
        return steps.replace(prev_reward=steps.prev_reward / jnp.float32(unit))

    if hasattr(model, "segment"):
        return model._replace(segment=lambda params, cache, steps: model.segment(params, cache, see(steps)))
    unroll, ways = model.unroll, model.branches
    if ways is not None:
        grow = ways.decode
        ways = ways._replace(decode=lambda params, cache, steps: grow(params, cache, see(steps)))
    return model._replace(
        branches=ways,
        apply=lambda params, steps, key=None: model.apply(params, see(steps), key),
        decode=lambda params, cache, steps: model.decode(params, cache, see(steps)),
        unroll=unroll and (lambda params, cache, steps: unroll(params, cache, see(steps))),
    )


def _sum(numbers: Iterable[float]) -> float:
    """Return rounded once, so that order says nothing; infinity where it is no number."""
    numbers = list(numbers)
    return math.fsum(numbers) if all(map(math.isfinite, numbers)) else math.inf
