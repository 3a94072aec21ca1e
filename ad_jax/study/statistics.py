"""Numbers of learning curves that a claim can be about, by name, each with the words that say what it is.

In: a set of tasks of some results. Out: its mean curves, and resampled ones, a 95 % bootstrap over training seeds, then
tasks. Curves of as many seeds and tasks are drawn together, so what their tasks have in common leaves a difference.
Imports no JAX.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ad_jax.errors import ConfigError
from ad_jax.normalized import share
from ad_jax.report.bootstrap import final_of, resampled
from ad_jax.report.results import Set


class Curves(NamedTuple):
    """Mean curves of one arm on one set; the first entry of each is that of all data, the rest are resampled."""

    learner: np.ndarray  # [1 + n, E] return of each in-context episode
    time: np.ndarray  # [1 + n, E] environment steps taken by the end of each
    source: np.ndarray  # [1 + n, P] in each piece of the lifetime of what is compared with; P = 0 where nothing is
    source_episodes: np.ndarray  # [1 + n, E2] of each of its episodes that all of its lifetimes have
    optimal: np.ndarray  # [1 + n], NaN where it is unknown
    random: np.ndarray  # [1 + n]
    source_steps: int  # environment steps of a piece, over its actors
    best: np.ndarray  # [1 + n] of the episodes of a lifetime, its return averaged over rollouts


def curves_of(s: Set, mode: str, n: int = 1000) -> Curves:
    """Return the curves of a set, and `n` resampled ones of all of them together."""
    shape = s.returns[mode].shape[:2]

    def known(x):
        return np.full((*shape, 1), np.nan) if x is None else x[..., None]

    source = np.zeros((*shape, 0)) if s.source is None else s.source
    best = s.returns[mode].max(-1, keepdims=True)
    parts = [s.returns[mode], source, known(s.optimal), known(s.random), best]
    drawn = _drawn(np.concatenate(parts, axis=-1), n)
    learner, source, optimal, random, best = np.split(drawn, np.cumsum([p.shape[-1] for p in parts])[:-1], axis=-1)
    episodes = source  # where all have full length, and else:
    if s.source is not None and s.source_episodes is not None and not np.array_equal(s.source, s.source_episodes):
        episodes = _drawn(s.source_episodes, n)
    time = np.cumsum(_drawn(s.steps[mode], n), axis=-1)
    return Curves(learner, time, source, episodes, optimal[:, 0], random[:, 0], s.source_steps, best[:, 0])


def _drawn(values: np.ndarray, n: int) -> np.ndarray:
    """Return the mean `[1 + n, K]` of `[R, N, K]` over runs and tasks, and resampled ones, the same draws at every
    call.
    """
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


def episodes_to(curve: np.ndarray, level: float | np.ndarray) -> np.ndarray:
    """Return the first episode, from 1, at `level`; one more than there are where it is never reached."""
    level = np.asarray(level).reshape(-1, 1)
    there = curve >= level - 1e-9 * np.abs(level)
    return np.where(there.any(-1), there.argmax(-1) + 1, curve.shape[-1] + 1)


def _score(c: Curves) -> np.ndarray:
    episodes = c.learner.shape[-1]
    return (c.learner.mean(-1) - c.random) / (first_of_source(c, episodes).mean(-1) - c.random)


def first_of_source(c: Curves, episodes: int) -> np.ndarray:
    """Return the first `episodes` of what is compared with, `[1 + n, episodes]`.

    Raises:
        ConfigError: if not all of its lifetimes have so many.
    """
    found = c.source_episodes.shape[-1]
    if found < episodes:
        raise ConfigError(
            f"a comparison over {episodes} episodes needs as many of the source; one of its lifetimes has {found}. "
            "Raise collect.episodes (reference.episodes where there is a reference), or lower evaluate.episodes"
        )
    return c.source_episodes[:, :episodes]


def _steps_to(c: Curves, level: float) -> np.ndarray:
    """Return the steps to the end of the first episode at `level`; where none is, those of one more than there are."""
    last = c.time[:, -1:]
    further = last + (last - c.time[:, -2:-1] if c.time.shape[-1] > 1 else last)
    index = episodes_to(c.learner, level)[:, None] - 1
    return np.take_along_axis(np.concatenate([c.time, further], axis=-1), index, axis=-1)[:, 0]


# What can be asked of one arm's curves: name -> (function, words with {} for its arguments).
STATISTICS: dict[str, tuple[Callable[..., np.ndarray], str]] = {
    "final": (lambda c: final_of(c.learner), "return in the last tenth of episodes"),
    "first": (lambda c: c.learner[:, 0], "return in episode 1"),
    # What is chosen after the fact: it flatters, and stands here to show by how much.
    "best": (lambda c: c.best, "return of the best episode of each lifetime"),
    "mean": (lambda c: c.learner.mean(-1), "mean return of all episodes"),
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
    "episodes_to": (lambda c, level: episodes_to(c.learner, level), "in-context episodes to a return of {:g}"),
    "steps_to": (
        _steps_to,
        "environment steps to a return of {:g}",
    ),
    "source_final": (lambda c: final_of(c.source), "return of the source in the last tenth of its lifetime"),
    "source_between": (
        lambda c, a, b: _between(first_of_source(c, int(b)), a, b),
        "mean return of the source's episodes {:g} to {:g}",
    ),
    "source_steps_to": (
        lambda c, level: episodes_to(c.source, level) * c.source_steps,
        "environment steps of the source to a return of {:g}",
    ),
    "source_regret": (
        lambda c: c.learner.shape[-1] * (c.optimal - first_of_source(c, c.learner.shape[-1]).mean(-1)),
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
