"""The figures of a report, drawn from plain arrays: learning curve, goals, data efficiency, paths.

Every function takes numbers that `ad_jax.report` has aggregated and gives a `matplotlib` Figure; `png` renders one to
bytes. Nothing here reads a file, knows the schema, touches global matplotlib state, or parses text as mathematics: a
label is shown as it is, in ASCII, whatever it holds.
"""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from ad_jax.files import JsonObject
from ad_jax.text import si

DPI = 150
TIMES = "\N{MULTIPLICATION SIGN}"
BLUE, GREEN, ORANGE, YELLOW, GRAY = "#0072B2", "#009E73", "#D55E00", "#E69F00", "#666666"  # Okabe & Ito
MODES = {"sampled": (BLUE, "-", 1.8, 0.20), "greedy": (GREEN, (0, (4, 2)), 1.1, 0.10)}  # color, dash, width, band
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "legend.fontsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.8,
    "axes.grid": False,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


class Band(NamedTuple):
    """A curve with its interval: `x`, `mean`, `low`, `high`, each `[K]`."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def png(figure: Figure) -> bytes:
    """Return the figure as PNG bytes, the same for the same figure (no version or date inside)."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        FigureCanvasAgg(figure)
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def plain(text: object, limit: int = 48) -> str:
    """Printable ASCII of at most `limit` characters: a glyph that the font lacks would be a warning or a box."""
    shown = "".join(c if c.isascii() and c.isprintable() else "?" for c in str(text))
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def curve(
    modes: dict[str, Band], optimal: float | None, random: float | None, source: Band | None, label: str = "source"
) -> Figure:
    """Return against in-context episode.

    Args:
        modes: by mode, x in episodes from 1.
        optimal: mean return of an optimal policy, or None where unknown.
        random: the same of the random policy.
        source: the source's own curve on the same axis, already cut to the same environment steps; None for none.
        label: of the source, for the legend.
    """
    with mpl.rc_context(STYLE):
        figure, axes = one_axes(6.6, 3.7)
        for mode, band in modes.items():
            _draw(axes, band, f"AD, {plain(mode)}", *MODES.get(mode, MODES["sampled"]))
        if source is not None:
            _draw(axes, source, f"{plain(label)}, same env steps", ORANGE, "-", 1.4, 0.15)
        _references(axes, optimal, random)
        last = max(float(band.x[-1]) for band in modes.values())
        axes.set_xlim(1.0, max(last, 2.0))
        axes.set_xticks(episode_ticks(1, round(last)))
        axes.set(xlabel="in-context episode", ylabel="return per episode")
        _legend(axes)
        return figure


def efficiency(
    learner: Band,
    source: Band,
    label: str,
    levels: Sequence[JsonObject],
    optimal: float | None,
    random: float | None,
) -> Figure:
    """Return against environment steps (log axis) of the frozen learner and of its source's full lifetime.

    Args:
        learner: x in environment steps.
        source: x in environment steps of all its actors.
        label: of the source, for the legend.
        levels: each `{"return", "ad_steps", "source_end", "source_steps" or None, "text"}`: an arrow from the
            learner's steps to the source's at that return, or to `source_end` where the source never gets there.
        optimal: as in `curve`.
        random: as in `curve`.
    """
    with mpl.rc_context(STYLE):
        figure, axes = one_axes(6.6, 3.7)
        axes.set_xscale("log")
        _draw(axes, learner, "AD, in context, on a new task", *MODES["sampled"])
        _draw(axes, source, f"{plain(label)}, from scratch", ORANGE, "-", 1.4, 0.15)
        _references(axes, optimal, random)
        for level in levels:
            start, end, height = level["ad_steps"], level["source_steps"] or level["source_end"], level["return"]
            style = {"arrowstyle": "->", "color": "black", "lw": 1.0, "shrinkA": 0, "shrinkB": 0}
            if level["source_steps"] is None:
                style["linestyle"] = (0, (3, 2))
            axes.annotate("", (end, height), (start, height), arrowprops=style, zorder=5)
            axes.plot([start], [height], "o", ms=3.5, color="black", zorder=6)
            # Under a long arrow; up and left of a short one, where two rising curves leave room.
            long = abs(np.log10(end / start)) > 0.3
            axes.annotate(
                level["text"],
                (np.sqrt(start * end), height),
                (0, -3) if long else (-8, 6),
                textcoords="offset points",
                ha="center" if long else "right",
                va="top" if long else "bottom",
                fontsize=9,
                weight="bold",
                zorder=7,
                bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8},
            )
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: si(x)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="environment steps on the task (log scale)", ylabel="return per episode")
        _legend(axes)
        return figure


def tasks(early: np.ndarray, late: np.ndarray, label: str, normalized: bool) -> Figure:
    """Return of every task in its first and last episodes, sorted by the last.

    Args:
        early: `[N]`.
        late: `[N]`.
        label: what is on the y axis.
        normalized: whether 0 is the random policy and 1 the optimal one; draws both.
    """
    order = np.argsort(late, kind="stable")
    rank = np.arange(1, len(order) + 1)
    with mpl.rc_context(STYLE):
        figure, axes = one_axes(6.6, 3.4)
        _references(axes, *((1.0, 0.0) if normalized else (None, None)))
        size = float(np.clip(400 / len(order), 6, 30))
        axes.vlines(rank, early[order], late[order], color="#c9c9c9", lw=1.0, zorder=1)
        axes.scatter(
            rank,
            early[order],
            size,
            facecolors="white",
            edgecolors=GRAY,
            linewidths=0.9,
            zorder=2,
            label="first 10 % of episodes",
        )
        axes.scatter(rank, late[order], size, color=BLUE, zorder=3, label="last 10 % of episodes")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set(xlabel="task, sorted by final return", ylabel=label, xlim=(0, len(order) + 1))
        _legend(axes)
        return figure


def episode_ticks(first: int, last: int) -> list[int]:
    """Round numbers in first..last, and `first` itself in place of one close before it: 1, 20, 40, 60, 80, 100."""
    ticks = [int(tick) for tick in MaxNLocator(6, steps=[1, 2, 5, 10], integer=True).tick_values(first, last)]
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1
    return [first, *(tick for tick in ticks if first + step / 2 < tick <= last)]


def one_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of that size in inches, with one axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _draw(
    axes: Axes,
    band: Band,
    label: str,
    color: str,
    dash: str | tuple[float, tuple[float, ...]],
    width: float,
    alpha: float,
) -> None:
    marker = "o" if len(band.x) == 1 else None  # a line of one point is invisible
    axes.fill_between(band.x, band.low, band.high, color=color, alpha=alpha, lw=0, zorder=2)
    axes.plot(band.x, band.mean, color=color, ls=dash, lw=width, label=label, marker=marker, ms=4, zorder=3)
    axes.grid(axis="y")


def _references(axes: Axes, optimal: float | None, random: float | None) -> None:
    """Horizontal lines, labeled in the right margin where they cannot cover data."""
    for value, text, dash in ((optimal, "optimal", (0, (6, 2))), (random, "random", (0, (1, 1.5)))):
        if value is not None:
            axes.axhline(value, color=GRAY, ls=dash, lw=1.0, zorder=1)
            axes.annotate(
                text,
                (1.0, value),
                (4, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                color=GRAY,
                fontsize=8.5,
            )


def _legend(axes: Axes) -> None:
    """Above the axes, left-aligned, so that it hides nothing."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.0), ncol=3, borderaxespad=0.2, handlelength=2.0, columnspacing=1.4
    )
