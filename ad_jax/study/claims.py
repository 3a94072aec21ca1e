"""Claims as data: a number of some learning curves, its interval, and the rule that decides whether the claim holds.

A claim's number is built of statistics of curves, such as `final("AD") - final("ED")`. Its interval is a 95 % bootstrap
over training seeds, then tasks. Curves of as many seeds and tasks are drawn together, so what their tasks have in
common leaves a difference. A rule asks for the whole interval: a claim "above 0" holds where the interval's low end is
above 0. Rules are written before the runs that they decide. Imports no JAX.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from scipy.stats import rankdata

from ad_jax.errors import ConfigError, unknown
from ad_jax.files import JsonObject
from ad_jax.normalized import comparable
from ad_jax.report.results import Set
from ad_jax.study.statistics import NEEDS, STATISTICS, Curves, curves_of, episodes_to, first_of_source
from ad_jax.text import significant


class Quantity:
    """A number that a claim is about. Quantities subtract and divide."""

    def __sub__(self, other: "Quantity") -> "Pair":
        return Pair(self, "-", other)

    def __truediv__(self, other: "Quantity") -> "Pair":
        return Pair(self, "/", other)

    def value(self, arms: Mapping[str, Sequence[Set]], n: int = 1000) -> np.ndarray:
        """`[1 + n]`: the number, and resampled ones."""
        raise NotImplementedError

    def units(self, arms: Mapping[str, Sequence[Set]]) -> int:
        """Return what is resampled, tasks x training seeds; of several arms the fewest."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Statistic(Quantity):
    """A statistic of one arm, on one of its sets of tasks (by default the first), in one mode.

    Raises:
        ConfigError: for an unknown statistic.
    """

    name: str
    arm: str
    arguments: tuple[float, ...] = ()
    set: str | None = None
    mode: Literal["sampled", "greedy"] = "sampled"

    def __post_init__(self) -> None:
        if self.name not in STATISTICS:
            raise unknown("statistic", self.name, STATISTICS)

    def __str__(self) -> str:
        where = "".join(f", {part}" for part in (self.set, None if self.mode == "sampled" else self.mode) if part)
        return f"{STATISTICS[self.name][1].format(*self.arguments)} [{self.arm}{where}]"

    def value(self, arms: Mapping[str, Sequence[Set]], n: int = 1000) -> np.ndarray:
        one = self._set(arms)
        if self.name.startswith(("source", "score")) and one.source is None:
            raise ConfigError(f"{self}: no source was run beside this arm; set its evaluate.source_seeds above 0")
        curves = curves_of(one, self.mode, n)
        self.check(curves.random, curves.optimal)
        self.check_source(curves)
        return STATISTICS[self.name][0](curves, *self.arguments)

    def never(self, arms: Mapping[str, Sequence[Set]], n: int = 1000) -> np.ndarray:
        """`[1 + n]` bool: the level that a time is asked to is never reached; False of what is no time."""
        if self.name not in ("steps_to", "episodes_to", "source_steps_to"):
            return np.zeros(1 + n, bool)
        curves = curves_of(self._set(arms), self.mode, n)
        curve = curves.source if self.name == "source_steps_to" else curves.learner
        return episodes_to(curve, *self.arguments) > curve.shape[-1]

    def units(self, arms: Mapping[str, Sequence[Set]]) -> int:
        runs, tasks, _ = self._set(arms).returns[self.mode].shape
        return runs * tasks

    def _set(self, arms: Mapping[str, Sequence[Set]]) -> Set:
        if self.arm not in arms:
            raise unknown("arm", self.arm, arms)
        sets = {s.name: s for s in arms[self.arm]}
        name = self.set or next(iter(sets))
        if name not in sets:
            raise unknown(f"set of arm {self.arm}", name, sets)
        return sets[name]

    def check(self, random: np.ndarray | None, optimal: np.ndarray | None) -> None:
        """Look at what these policies earn on the tasks of the set: mean returns, of any number of draws.

        Raises:
            ConfigError: where the number means nothing, because one that it needs is unknown, or they are equal.
        """
        for policy, known in (("random", random), ("optimal", optimal)):
            if policy in NEEDS.get(self.name, ()) and (known is None or np.isnan(known).any()):
                raise ConfigError(
                    f"{self}: the family does not know what its {policy} policy earns. Define {policy}_return there, "
                    "or claim something of `final`, `first` or `between`, which need no other policy"
                )
        if self.name in ("share", "area") and not comparable(random, optimal):
            low, high = (float(np.ravel(x)[0]) for x in (random, optimal) if x is not None)
            raise ConfigError(
                f"{self}: there is no way from a random policy ({low:g}) to the optimum ({high:g}), which has to be "
                "above, whichever tasks are drawn. Claim something of `final` or of `regret`"
            )
        if self.name in ("ratio", "area_ratio") and optimal is not None and not optimal.min() > 0:
            raise ConfigError(
                f"{self}: a ratio to the optimum means nothing where that is {float(np.ravel(optimal)[0]):g}; use "
                "`share` or `area`, which count from a random policy's return"
            )

    def check_source(self, c: Curves) -> None:
        """Raise ConfigError where the source gains nothing that a share could be of."""
        if self.name == "score" and not (first_of_source(c, c.learner.shape[-1]).mean(-1) > c.random).all():
            raise ConfigError(
                f"{self}: the source earns no more than a random policy ({c.random[0]:g}), so a share of its gain "
                "means nothing. Claim something of `final`"
            )


@dataclasses.dataclass(frozen=True)
class Pair(Quantity):
    """A difference or a ratio of two quantities, draw by draw."""

    left: Quantity
    sign: Literal["-", "/"]
    right: Quantity

    def __str__(self) -> str:
        return f"{self.left} {'minus' if self.sign == '-' else 'divided by'} {self.right}"

    def value(self, arms: Mapping[str, Sequence[Set]], n: int = 1000) -> np.ndarray:
        left, right = self.left.value(arms, n), self.right.value(arms, n)
        if self.sign == "-":
            return left - right
        # Time to a level that is never reached is a lower bound; a ratio to it could be anything from 0 on.
        never = self.right.never(arms, n) if isinstance(self.right, Statistic) else np.zeros(1 + n, bool)
        return np.where(never, 0.0, left / right)

    def units(self, arms: Mapping[str, Sequence[Set]]) -> int:
        return min(self.left.units(arms), self.right.units(arms))


@dataclasses.dataclass(frozen=True)
class Rank(Quantity):
    """Spearman's rank correlation of a statistic with a number that each of several arms was given, draw by draw.

    Raises:
        ConfigError: for fewer than three arms, or as many numbers as arms there are not, or equal ones.
    """

    of: tuple[Statistic, ...]
    given: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.of) < 3 or len(set(self.given)) != len(self.of):
            raise ConfigError(
                f"a rank correlation needs at least 3 arms, each with a number of its own; got {len(self.of)} arms "
                f"and {self.given}"
            )

    def __str__(self) -> str:
        arms = ", ".join(f"{one.arm}: {x:g}" for one, x in zip(self.of, self.given, strict=True))
        first = dataclasses.replace(self.of[0], arm="each")
        return f"rank correlation of {first} with what it was given ({arms})"

    def value(self, arms: Mapping[str, Sequence[Set]], n: int = 1000) -> np.ndarray:
        return _ranked(np.stack([one.value(arms, n) for one in self.of]), self.given)

    def units(self, arms: Mapping[str, Sequence[Set]]) -> int:
        return min(one.units(arms) for one in self.of)


def _ranked(found: np.ndarray, given: Sequence[float]) -> np.ndarray:
    """Return Spearman's correlation of each column of `found [K, D]` with `given [K]`; 0 where all are equal."""
    ranks, order = rankdata(found, axis=0), rankdata(given)
    ranks, order = ranks - ranks.mean(0), order - order.mean()
    size = np.sqrt((ranks**2).sum(0) * (order**2).sum())
    return np.divide(order @ ranks, size, out=np.zeros(len(size)), where=size > 0)


def statistics_of(quantity: Quantity) -> list[Statistic]:
    """Return the statistics that a quantity is made of."""
    if isinstance(quantity, Rank):
        return list(quantity.of)
    if isinstance(quantity, Pair):
        return [*statistics_of(quantity.left), *statistics_of(quantity.right)]
    return [quantity] if isinstance(quantity, Statistic) else []


def quantity(
    name: str, arm: str, *arguments: float, set: str | None = None, mode: Literal["sampled", "greedy"] = "sampled"
) -> Statistic:
    """`quantity("steps_to", "AD", 12.7)`: the statistic `name` of `arm`. See `STATISTICS` for names."""
    return Statistic(name, arm, arguments, set, mode)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Where the whole interval has to be."""

    least: float = -math.inf
    most: float = math.inf

    def __str__(self) -> str:
        if math.isinf(self.most):
            return f"at least {self.least:g}"
        return f"at most {self.most:g}" if math.isinf(self.least) else f"from {self.least:g} to {self.most:g}"

    def holds(self, low: float, high: float) -> bool:
        """Whether the interval obeys it."""
        return self.least <= low and high <= self.most


def at_least(value: float) -> Rule:
    """Return the interval's low end is at or above `value`."""
    return Rule(least=value)


def at_most(value: float) -> Rule:
    """Return the interval's high end is at or below `value`."""
    return Rule(most=value)


def near(value: float, within: float) -> Rule:
    """Return the whole interval is within `within` of `value`, on either side: what "near" and "the same" mean."""
    return Rule(value - within, value + within)


@dataclasses.dataclass(frozen=True)
class Claim:
    """One thing that the paper, or this project, says, and how it is decided here."""

    text: str  # what is claimed, one sentence
    paper: str  # what the paper found, with figure
    quantity: Quantity
    rule: Rule
    note: str = ""  # where it does not hold: what was tried, and the measurement that explains it
    changed: str = ""  # what of text or rule was changed after the run, and what stood there before


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A claim with the number that decided it, and its interval: None of one task with one training seed."""

    claim: Claim
    value: float
    low: float | None
    high: float | None

    @property
    def holds(self) -> bool:
        """Whether the claim holds; without an interval nothing is shown."""
        return self.low is not None and self.high is not None and self.claim.rule.holds(self.low, self.high)

    def to_json(self) -> JsonObject:
        """Plain data: the claim in words, its number and interval, and whether it holds."""
        c = self.claim
        words = {"text": c.text, "paper": c.paper, "statistic": str(c.quantity), "rule": str(c.rule)}
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        numbers = {k: None if v is None else significant(v) for k, v in numbers.items()}
        return words | numbers | {"holds": self.holds, "note": c.note, "changed": c.changed}


def decide(claim: Claim, arms: Mapping[str, Sequence[Set]], n: int = 1000) -> Verdict:
    """Return the verdict on `claim` from the sets of every arm, by name."""
    drawn = claim.quantity.value(arms, n)
    if claim.quantity.units(arms) == 1:
        return Verdict(claim, float(drawn[0]), None, None)
    low, high = np.percentile(drawn[1:], [2.5, 97.5])
    return Verdict(claim, float(drawn[0]), float(low), float(high))
