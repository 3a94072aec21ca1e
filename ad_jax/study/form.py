"""What a study's `claims.json` must be like before a page is made of it: every field that its words are made of."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from ad_jax.files import Finite

SCHEMA = 1


class Claim(Struct):
    text: str
    paper: str
    statistic: str
    rule: str
    note: str
    value: Finite
    low: Finite | None
    high: Finite | None
    holds: bool
    changed: str = ""  # early studies have none

    def __post_init__(self):
        if None in (self.low, self.high) and (self.holds or self.low != self.high):
            raise ValueError(f".low: expected an interval, or none and a claim that does not hold, received {self.low}")


class Curve(Struct):
    first: Finite
    final: Finite
    low: Finite | None
    high: Finite | None
    area: Finite | None
    episodes_to: dict[str, int | None]


class Row(Struct):
    sampled: Curve | UnsetType = UNSET
    greedy: Curve | UnsetType = UNSET


class Level(Struct):
    ratio: Finite | None
    reached: bool


class Source(Struct):
    same_steps: Finite | None
    levels: list[Level]
    same_steps_by: dict[str, Finite | None] = {}


class Statistics(Struct):
    runs: int
    rows: Annotated[list[Row], Meta(min_length=1)]
    optimal: Finite | None
    random: Finite | None
    source: Source | None


class Arm(Struct):
    statistics: dict[str, Statistics]


class Claims(Struct):
    schema: Annotated[int, Meta(ge=SCHEMA, le=SCHEMA)]
    title: str
    scale: str
    claims: list[Claim]
    arms: dict[str, Arm]
