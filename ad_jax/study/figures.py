"""The figure of a study: learning curves of its arms side by side, or a sweep. Knows no files; see `figures`."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ad_jax.report.figures import STYLE, Band, plain

Stroke = str | tuple[float, tuple[float, ...]]
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#888888")  # Okabe & Ito
STROKES = "-", (0, (5, 1.5)), (0, (1, 1))  # of the first arms that have a color, the second, the third


class Drawn(NamedTuple):
    """One arm on one set of tasks."""

    band: Band  # return by in-context episode
    source: Band | None  # of what is compared with, x in the same episodes; only of the arm that shows it
    source_label: str
    optimal: float | None
    random: float | None
    final: tuple[float, float | None, float | None]  # mean, low, high
    x: float | None
    group: str


def curves(panels: Mapping[str, Mapping[str, Drawn]]) -> Figure:
    """Return by in-context episode: a panel for each set of tasks, a curve for each arm."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(6.6, 4.2 * len(panels)), 3.7), layout="constrained")
        for i, (name, arms) in enumerate(panels.items()):
            axes = figure.add_subplot(1, len(panels), i + 1)
            for place, (color, (arm, drawn)) in enumerate(zip(_cycle(len(arms)), arms.items(), strict=True)):
                _band(axes, drawn.band, plain(arm), color, STROKES[place // len(COLORS) % len(STROKES)])
            first = next(iter(arms.values()))
            if first.source is not None:
                axes.plot(first.source.x, first.source.mean, "--", color="#666666", lw=1.2, label=first.source_label)
            _levels(axes, first.optimal, first.random)
            if len(panels) > 1:
                axes.set_title(plain(name.replace("_", "-")))
            axes.set(xlabel="in-context episode, weights frozen", ylabel="return per episode" if i == 0 else "")
            axes.grid(axis="y")
            axes.legend(loc="best", fontsize=7.5)
        return figure


def sweep(arms: Mapping[str, Drawn], axis: str, log: bool) -> Figure:
    """Left, the last tenth's return against `x`, a line for each group; right, the arms' curves."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.6), layout="constrained")
        left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
        groups = dict.fromkeys(drawn.group for drawn in arms.values() if drawn.x is not None)
        for color, group in zip(_cycle(len(groups)), groups):
            points = sorted((d.x, *d.final) for d in arms.values() if d.x is not None and d.group == group)
            x, mean, low, high = np.array(points, float).T
            bars = np.maximum([mean - low, high - mean], 0)
            left.errorbar(x, mean, bars, fmt="o-", color=color, ms=4, lw=1.4, capsize=2.5, label=plain(group or "AD"))
        for style, (name, drawn) in zip(((0, (4, 2)), (0, (1, 1)), "-."), _without_x(arms)):
            left.axhline(drawn.final[0], ls=style, color="#444444", lw=1.1, label=plain(name))
        first = next(iter(arms.values()))
        _levels(left, first.optimal, first.random)
        if log:
            left.set_xscale("log")
            left.xaxis.set_minor_formatter(NullFormatter())
        ticks = sorted({drawn.x for drawn in arms.values() if drawn.x is not None})
        left.set_xticks(ticks)
        left.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        left.set(xlabel=plain(axis, 80), ylabel="return, last tenth of episodes")
        left.grid(axis="y")
        left.legend(fontsize=7.5)
        for (name, drawn), shade in zip(arms.items(), _shades(arms, list(groups))):
            right.plot(drawn.band.x, drawn.band.mean, color=shade, lw=1.3, label=plain(name))
        right.set(xlabel="in-context episode, weights frozen")
        right.grid(axis="y")
        right.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7)
        return figure


def _shades(arms: Mapping[str, Drawn], groups: Sequence[str]) -> list[tuple[float, ...]]:
    """Return a color for each arm: by x from dark to light, in the color of its group where there are several."""
    place = {name: i for i, name in enumerate(sorted(arms, key=lambda name: arms[name].x or 0))}
    shares = {name: place[name] / max(len(arms) - 1, 1) for name in arms}
    if len(groups) < 2:
        return [mpl.colormaps["viridis"](0.9 * shares[name]) for name in arms]
    base = dict(zip(groups, _cycle(len(groups))))

    def toward_white(color, share):
        return tuple(share + (1 - share) * x for x in to_rgb(color))

    return [toward_white(base.get(drawn.group, "#444444"), 0.65 * shares[name]) for name, drawn in arms.items()]


def _without_x(arms: Mapping[str, Drawn]) -> list[tuple[str, Drawn]]:
    return [(name, drawn) for name, drawn in arms.items() if drawn.x is None]


def _cycle(n: int) -> Sequence[str]:
    return [COLORS[i % len(COLORS)] for i in range(n)]


def _band(axes: Axes, band: Band, label: str, color: str, stroke: Stroke = "-") -> None:
    axes.plot(band.x, band.mean, color=color, lw=1.6, ls=stroke, label=label)
    axes.fill_between(band.x, band.low, band.high, color=color, alpha=0.18, lw=0)


def _levels(axes: Axes, optimal: float | None, random: float | None) -> None:
    for value, name in ((optimal, "optimal"), (random, "random")):
        if value is not None:
            axes.axhline(value, color="#999999", lw=0.8, ls=":")
            axes.annotate(name, (1, value), (-2, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
                          ha="right", fontsize=7, color="#777777")  # fmt: skip
