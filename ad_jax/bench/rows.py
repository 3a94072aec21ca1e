"""One figure of the suite: absolute, and as a share of a limit; tables of figures, and comparison of two results."""

import dataclasses
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from ad_jax.bench.timing import share as share_of
from ad_jax.files import JsonObject, read_json
from ad_jax.text import aligned, percent, si

SCHEMA = 1  # of the results file
COMPARED = ("ours, same rounds",)  # what a share is a share of, and what is no limit of it


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        key: `stage/what/...`, unique in a results file and the same in every run of the same measurement.
        value: the figure in `unit`, from the median round.
        best: the same from the fastest round.
        unit: e.g. `env steps/s`.
        share: how much of `limit` was reached, by the median of the quiet rounds' ratios; 1 is the limit itself. None
            where too few rounds were quiet, or where it came out above 1: disturbed.
        limit: what `share` is a share of, in words or as the key of a row.
        rounds: timed repetitions; 0 for what is counted and not timed.
        facts: further numbers, by name with unit, e.g. `compile_cold_seconds`.
    """

    key: str
    value: float
    best: float
    unit: str
    share: float | None
    limit: str
    rounds: int
    facts: Mapping[str, float] = dataclasses.field(default_factory=dict)


def rate(
    key: str,
    unit: str,
    amount: float,
    seconds: list[float],
    limit: str,
    limit_amount: float,
    limit_seconds: list[float],
    limited_amount: float | None = None,
    **facts: float,
) -> Row:
    """Return a row of something done per second, against a limit timed in the same rounds.

    Args:
        key: of the row, `stage/what/...`.
        unit: of the row, e.g. `env steps/s`.
        amount: what one call does, in units of the row.
        seconds: what one call took in each round.
        limit: what the share is a share of, in words or as the key of a row.
        limit_amount: what one call of the limit does, in the limit's unit.
        limit_seconds: what one call of the limit took in the same rounds.
        limited_amount: what one call does in the limit's unit, where that is another (FLOP instead of positions).
        facts: further numbers.
    """
    counted = amount if limited_amount is None else limited_amount
    share = bounded(share_of(limit_seconds, seconds, limit_seconds, counted / limit_amount), limit)
    value, best = amount / statistics.median(seconds), amount / min(seconds)
    return Row(key, value, best, unit, share, limit, len(seconds), facts)


def bounded(share: float | None, limit: str) -> float | None:
    """Return a share of a limit, None where it is above 1: nothing is faster than its limit, which was disturbed."""
    return None if share is not None and share > 1 and limit not in COMPARED else share


class Results(Struct):
    """What a results file holds, and a comparison of two reads."""

    schema: Annotated[int, Meta(ge=SCHEMA, le=SCHEMA)]
    kind: Annotated[str, Meta(pattern="^bench$")]
    sizes: str
    seconds: float
    load: Annotated[list[float], Meta(min_length=1)]
    provenance: JsonObject
    rows: list[Row]


def load(path: Path) -> JsonObject:
    """Return a results file.

    Raises:
        ConfigError: if it cannot be read or is none of this schema.
    """
    data = read_json(path, Results, remedy="name results of `ad-jax bench`")
    data["rows"] = [Row(**row) for row in data["rows"]]
    return data


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table; reads as plain text too."""
    cells = [("what", "figure", "best", "unit", "share", "of", "beside it")]
    cells += [
        (row.key, si(row.value), si(row.best), row.unit, reached(row), row.limit, listed(row.facts)) for row in rows
    ]
    head, *lines = ["| " + " | ".join(line) + " |" for line in aligned(cells)]
    return "\n".join([head, re.sub("[^|]", "-", head), *lines])


def compare(new: Sequence[Row], old: Sequence[Row]) -> str:
    """Ratios new / old of every row in both, as a Markdown table, and what is in one only."""
    before = {row.key: row for row in old}
    lines = ["| what | new | old | unit | new / old | share new / old |", "|---|---|---|---|---|---|"]
    for row in new:
        if row.key in before:
            was = before[row.key]
            figures = f"{si(row.value)} | {si(was.value)} | {row.unit}"
            lines.append(f"| {row.key} | {figures} | {over(row.value, was.value)} | {over(row.share, was.share)} |")
    keys = {row.key for row in new}
    lines += [f"only in the new results: {row.key}" for row in new if row.key not in before]
    lines += [f"missing from the new results: {row.key}" for row in old if row.key not in keys]
    return "\n".join(lines)


def over(new: float | None, old: float | None) -> str:
    """Return the ratio as text; `-` where there is none."""
    return f"{new / old:.3f}" if old and new is not None else "-"


def reached(row: Row) -> str:
    """Return the share of a row as text."""
    return "disturbed" if row.share is None else percent(row.share)


def listed(facts: Mapping[str, float]) -> str:
    """Facts in one line."""
    return ", ".join(f"{name} {si(value)}" for name, value in facts.items())
