"""How numbers are written: for people, and in files. A return may be of any size, so digits count and not decimals."""

import math
from typing import Any

import numpy as np


def number(value: float | None, scale: float | None = None) -> str:
    """`value` with as many decimals as numbers of size `scale` (default: its own) deserve: 0.812, 1.81, 16.1, 250.

    Sizes below 0.01 have three digits too: 0.00412, 4.12e-06. What is unknown is a dash.
    """
    if value is None:
        return "-"
    size = abs(value if scale is None else scale)
    if 0 < size < 1e-4:
        text = f"{value:.2e}" if abs(value) >= size / 1000 else "0.000"
    else:
        small = 3 if size == 0 or size >= 0.01 else 2 - math.floor(math.log10(size))
        text = f"{value:.{small if size < 1 else 2 if size < 10 else 1 if size < 100 else 0}f}"
    return text.lstrip("-") if float(text) == 0 else text  # no "-0.0"


def significant(value: float, decimals: int = 5) -> float:
    """`value` rounded to so many decimals, or to six digits where those are more; a whole number stays itself."""
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, max(decimals, 5 - math.floor(math.log10(abs(value)))))


def plain(values: np.ndarray) -> list[Any]:
    """Nested lists of an array for JSON: whole numbers as ints, others with the digits that tell a float32 apart."""
    if np.array_equal(values, np.round(values)) and np.abs(values).max(initial=0) < 2**53:
        return values.astype(int).tolist()
    return np.asarray(values, np.float32).astype("U32").astype(float).tolist()
