"""Claims as data: a number of some learning curves, its interval, and the rule that decides whether the claim holds.

A claim's number is built of statistics of curves, such as `final("AD") - final("ED")`. Its interval is a 95 % bootstrap
over training seeds, then tasks. Curves of as many seeds and tasks are drawn together, so what their tasks have in
common leaves a difference. A rule asks for the whole interval: a claim "above 0" holds where the interval's low end is
above 0. Rules are written before the runs that they decide. Imports no JAX.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ad_jax.errors import ConfigError, unknown
from ad_jax.normalized import comparable, share
from ad_jax.report.report import final_of, resampled
from ad_jax.report.results import Set
from ad_jax.text import significant


class Curves(NamedTuple):
    """Mean curves of one arm on one set; the first entry of each is that of all data, the rest are resampled."""

    learner: np.ndarray  # [1 + n, E] return of each in-context episode
    time: np.ndarray  # [1 + n, E] environment steps taken by the end of each
    source: np.ndarray  # [1 + n, P] in each piece of the life of what is compared with; P = 0 where nothing is
    source_episodes: np.ndarray  # [1 + n, E2] of each of its episodes that all of its lives have
    optimal: np.ndarray  # [1 + n], NaN where it is unknown
    random: np.ndarray  # [1 + n]
    source_steps: int  # environment steps of a piece, over its actors


def curves_of(s: Set, mode: str, n: int = 1000) -> Curves:
    """The curves of a set, and `n` resampled ones of all of them together."""
    shape = s.returns[mode].shape[:2]
    known = lambda x: np.full((*shape, 1), np.nan) if x is None else x[..., None]
    source = np.zeros((*shape, 0)) if s.source is None else s.source
    parts = [s.returns[mode], source, known(s.optimal), known(s.random)]
    drawn = _drawn(np.concatenate(parts, axis=-1), n)
    learner, source, optimal, random = np.split(drawn, np.cumsum([p.shape[-1] for p in parts])[:-1], axis=-1)
    episodes = source  # where all have full length, and else:
    if s.source is not None and s.source_episodes is not None and not np.array_equal(s.source, s.source_episodes):
        episodes = _drawn(s.source_episodes, n)
    time = np.cumsum(_drawn(s.steps[mode], n), axis=-1)
    return Curves(learner, time, source, episodes, optimal[:, 0], random[:, 0], s.source_steps)


def _drawn(values: np.ndarray, n: int) -> np.ndarray:
    """The mean `[1 + n, K]` of `[R, N, K]` over runs and tasks, and resampled ones, the same draws at every call."""
    if values.min(initial=np.inf) == values.max(initial=-np.inf):
        return np.full((1 + n, values.shape[-1]), values.flat[0])  # its bits, which a product need not keep
    return np.concatenate([values.mean((0, 1))[None], resampled(values, n)])


def _between(curve: np.ndarray, first: float, last: float) -> np.ndarray:
    """Mean of episodes first..last, counted from 1.

    Raises:
        ConfigError: if there is none of them.
    """
    if not 1 <= first <= min(last, curve.shape[-1]):
        raise ConfigError(
            f"a mean of episodes {first:g} to {last:g} needs some of them; there are {curve.shape[-1]}. Raise "
            "evaluate.episodes, or name episodes that there are"
        )
    return curve[:, int(first) - 1 : int(last)].mean(-1)


def _episodes_to(curve: np.ndarray, level: float | np.ndarray) -> np.ndarray:
    """The first episode, from 1, at `level`; one more than there are where it is never reached, a lower bound."""
    level = np.asarray(level).reshape(-1, 1)
    there = curve >= level - 1e-9 * np.abs(level)
    return np.where(there.any(-1), there.argmax(-1) + 1, curve.shape[-1] + 1)


def _score(c: Curves) -> np.ndarray:
    episodes = c.learner.shape[-1]
    return (c.learner.mean(-1) - c.random) / (_first(c, episodes).mean(-1) - c.random)


def _first(c: Curves, episodes: int) -> np.ndarray:
    """The first `episodes` of what is compared with, `[1 + n, episodes]`.

    Raises:
        ConfigError: if not all of its lives have so many.
    """
    found = c.source_episodes.shape[-1]
    if found < episodes:
        raise ConfigError(
            f"a comparison over {episodes} episodes needs as many of the source; one of its lives has {found}. "
            "Raise collect.episodes (reference.episodes where there is a reference), or lower evaluate.episodes"
        )
    return c.source_episodes[:, :episodes]


def _steps_to(c: Curves, level: float) -> np.ndarray:
    """Steps taken by the end of the first episode at `level`; where none is, those of one more than there are."""
    last = c.time[:, -1:]
    further = last + (last - c.time[:, -2:-1] if c.time.shape[-1] > 1 else last)
    index = _episodes_to(c.learner, level)[:, None] - 1
    return np.take_along_axis(np.concatenate([c.time, further], axis=-1), index, axis=-1)[:, 0]


# What can be asked of one arm's curves: name -> (function, words with {} for its arguments).
STATISTICS: dict[str, tuple[Callable[..., np.ndarray], str]] = {
    "final": (lambda c: final_of(c.learner), "return in the last tenth of episodes"),
    "first": (lambda c: c.learner[:, 0], "return in episode 1"),
    "between": (lambda c, a, b: _between(c.learner, a, b), "mean return of episodes {:g} to {:g}"),
    "share": (
        lambda c: share(final_of(c.learner), c.random, c.optimal),
        "last tenth of episodes, as a share of the way from a random policy to the optimum",
    ),
    "area": (
        lambda c: share(c.learner.mean(-1), c.random, c.optimal),
        "mean of all episodes, as a share of the way from a random policy to the optimum",
    ),
    # As papers state it where rewards are positive; with costs it means nothing and is refused.
    "ratio": (lambda c: final_of(c.learner) / c.optimal, "last tenth of episodes, divided by the optimum"),
    "area_ratio": (lambda c: c.learner.mean(-1) / c.optimal, "mean of all episodes, divided by the optimum"),
    "regret": (
        lambda c: c.learner.shape[-1] * (c.optimal - c.learner.mean(-1)),
        "regret: what the optimal policy earns more, over all episodes",
    ),
    "score": (_score, "(r - random) / (source - random), summed over all episodes"),
    "episodes_to": (lambda c, level: _episodes_to(c.learner, level), "in-context episodes to a return of {:g}"),
    "steps_to": (
        _steps_to,
        "environment steps to a return of {:g}",
    ),
    "source_final": (lambda c: final_of(c.source), "return of the source in the last tenth of its life"),
    "source_between": (
        lambda c, a, b: _between(_first(c, int(b)), a, b),
        "mean return of the source's episodes {:g} to {:g}",
    ),
    "source_steps_to": (
        lambda c, level: _episodes_to(c.source, level) * c.source_steps,
        "environment steps of the source to a return of {:g}",
    ),
    "source_regret": (
        lambda c: c.learner.shape[-1] * (c.optimal - _first(c, c.learner.shape[-1]).mean(-1)),
        "regret of the source over as many episodes",
    ),
    "random": (lambda c: c.random, "return of a random policy"),
    "optimum": (lambda c: c.optimal, "return of the optimal policy"),
}
# What a family has to know for a statistic: returns of these policies.
NEEDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("share", "area"), ("random", "optimal")),
    **dict.fromkeys(("ratio", "area_ratio", "regret", "source_regret", "optimum"), ("optimal",)),
    **dict.fromkeys(("score", "random"), ("random",)),
}


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
        """What is resampled, tasks x training seeds; of several arms the fewest."""
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
        return _episodes_to(curve, *self.arguments) > curve.shape[-1]

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
        """Raises ConfigError where the source gains nothing that a share could be of."""
        if self.name == "score" and not (_first(c, c.learner.shape[-1]).mean(-1) > c.random).all():
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


def statistics_of(quantity: Quantity) -> list[Statistic]:
    """The statistics that a quantity is made of."""
    if isinstance(quantity, Pair):
        return [*statistics_of(quantity.left), *statistics_of(quantity.right)]
    return [quantity] if isinstance(quantity, Statistic) else []


def quantity(name: str, arm: str, *arguments: float, set: str | None = None, mode: Any = "sampled") -> Statistic:
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
    """The interval's low end is at or above `value`."""
    return Rule(least=value)


def at_most(value: float) -> Rule:
    """The interval's high end is at or below `value`."""
    return Rule(most=value)


def near(value: float, within: float) -> Rule:
    """The whole interval is within `within` of `value`, on either side: what "near" and "the same" mean."""
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

    def to_json(self) -> dict[str, Any]:
        """Plain data: the claim in words, its number and interval, and whether it holds."""
        c = self.claim
        words = {"text": c.text, "paper": c.paper, "statistic": str(c.quantity), "rule": str(c.rule)}
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        numbers = {k: None if v is None else significant(v) for k, v in numbers.items()}
        return words | numbers | {"holds": self.holds, "note": c.note, "changed": c.changed}


def decide(claim: Claim, arms: Mapping[str, Sequence[Set]], n: int = 1000) -> Verdict:
    """The verdict on `claim` from the sets of every arm, by name."""
    drawn = claim.quantity.value(arms, n)
    if claim.quantity.units(arms) == 1:
        return Verdict(claim, float(drawn[0]), None, None)
    low, high = np.percentile(drawn[1:], [2.5, 97.5])
    return Verdict(claim, float(drawn[0]), float(low), float(high))
