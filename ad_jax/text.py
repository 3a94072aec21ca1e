"""How numbers and lists are written, for people and in files. A return may be of any size: digits count."""

import math
from collections.abc import Iterable, Sequence
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


def si(value: float, unit: str = "", digits: int = 3) -> str:
    """`value` to so many digits, in steps of a thousand: 950, 4.16M, 20k; with a unit 12.3 GB."""
    value, steps = float(f"{value:.{digits}g}"), 0  # rounded first: 999,900 is 1M
    while abs(value) >= 1000 and steps < 6:
        value, steps = value / 1000, steps + 1
    return f"{value:g}{' ' * bool(unit)}{('', 'k', 'M', 'G', 'T', 'P', 'E')[steps]}{unit}"


def short(value: float | str) -> str:
    """Return a number for a line that is written often, one decimal from a thousand on: 0.412, 16.3, 49.2k, 6.0M."""
    if isinstance(value, str):
        return value
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.1f}{suffix}"
    return f"{value:.3g}"


def grouped(value: object) -> str:
    """Return a value as it was recorded, for reading: thousands apart, four digits of a fraction, None as "none"."""
    if isinstance(value, float):
        return f"{value:,.4g}" if 1e-3 <= abs(value) < 1e4 else f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:g}"
    return f"{value:,}" if type(value) is int else "none" if value is None else str(value)


def percent(share: float) -> str:
    """0.123 -> 12.3 %."""
    return f"{100 * share:.3g} %"


def some(items: Iterable[object], most: int = 12) -> str:
    """Return the first of a list, which may be long: `0, 1, 2, … (30 in all)`."""
    shown = [str(item) for item in items]
    return ", ".join(shown[:most]) + (f", … ({len(shown)} in all)" if len(shown) > most else "")


def aligned(rows: Sequence[Sequence[str]], right: bool = False) -> list[list[str]]:
    """Return the rows of a table with every cell of a column as wide as its widest, to the left or to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pad = str.rjust if right else str.ljust
    return [[pad(cell, width) for cell, width in zip(row, widths, strict=True)] for row in rows]


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
