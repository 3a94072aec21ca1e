"""A share of the optimum: how much of what can be earned above chance is earned. One definition, for all who ask.

(x - random) / (optimal - random): 0 is what the uniformly random policy earns, 1 what the optimal one does. Unlike the
ratio x / optimal it means the same where rewards are costs, or have a constant added. Imports no JAX.
"""

from typing import Any

import numpy as np

Number = Any  # a number, or an array of them

ROUNDING = 1e-9  # optimal and random nearer than this, relative to their size, are equal


def comparable(random: Number, optimal: Number) -> bool:
    """Whether shares between `random` and `optimal` mean anything: both known and finite, the optimal one better.

    Args:
        random: return of the random policy, a number or an array of them; None where unknown.
        optimal: the same of the optimal policy.
    """
    if random is None or optimal is None:
        return False
    low, high = np.asarray(random, np.float64), np.asarray(optimal, np.float64)
    apart = ROUNDING * np.maximum(np.abs(low), np.abs(high))
    return bool(np.isfinite(low).all() and np.isfinite(high).all() and (high - low > apart).all())


def share(x: Number, random: Number, optimal: Number) -> Number:
    """`x` as a share of the way from `random` to `optimal`; None where that means nothing (see `comparable`).

    Args:
        x: a return, or an array of them; None where unknown.
        random: as in `comparable`, broadcast against `x`.
        optimal: the same.
    """
    return (x - random) / (optimal - random) if x is not None and comparable(random, optimal) else None


def level(part: float, random: Number, optimal: Number) -> Number:
    """Return the return at `part` of the way from `random` to `optimal`: what `share` undoes. None as there."""
    return random + part * (optimal - random) if comparable(random, optimal) else None
