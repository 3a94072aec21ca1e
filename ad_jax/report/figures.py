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
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from ad_jax.text import number, si

DPI = 150
TIMES = "\N{MULTIPLICATION SIGN}"
BLUE, GREEN, ORANGE, YELLOW, GREY = "#0072B2", "#009E73", "#D55E00", "#E69F00", "#666666"  # Okabe & Ito
MODES = {"sampled": (BLUE, "-", 1.8, 0.20), "greedy": (GREEN, (0, (4, 2)), 1.1, 0.10)}  # colour, dash, width, band
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
    """The figure as PNG bytes, the same for the same figure (no version or date inside)."""
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
        figure, axes = _axes(6.6, 3.7)
        for mode, band in modes.items():
            _draw(axes, band, f"AD, {plain(mode)}", *MODES.get(mode, MODES["sampled"]))
        if source is not None:
            _draw(axes, source, f"{plain(label)}, same env steps", ORANGE, "-", 1.4, 0.15)
        _references(axes, optimal, random)
        last = max(float(band.x[-1]) for band in modes.values())
        axes.set_xlim(1.0, max(last, 2.0))
        axes.set_xticks(_episode_ticks(1, round(last)))
        axes.set(xlabel="in-context episode", ylabel="return per episode")
        _legend(axes)
        return figure


def efficiency(
    learner: Band,
    source: Band,
    label: str,
    levels: Sequence[dict[str, Any]],
    optimal: float | None,
    random: float | None,
) -> Figure:
    """Return against environment steps (log axis) of the frozen learner and of its source's full life.

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
        figure, axes = _axes(6.6, 3.7)
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


def goals(size: int, cells: np.ndarray, returns: np.ndarray, shares: np.ndarray | None) -> Figure:
    """Final return by goal, on the grid; a cell without a goal is hatched.

    Args:
        size: cells a side.
        cells: `[N, 2]` int, (row, column), each at most once.
        returns: `[N]`, written in the cell.
        shares: `[N]` share of the way from random to optimal, which colours it; None to colour by return.
    """
    colours = returns if shares is None else shares
    top = 1.0 if shares is not None else max(float(returns.max()), float(returns.min()) + 1e-9)
    norm = Normalize(0.0 if shares is not None else float(returns.min()), top)
    with mpl.rc_context(STYLE):
        figure, axes = _axes(5.0, 4.2)
        axes.add_patch(Rectangle((-0.5, -0.5), size, size, fc="#f7f7f7", ec="#dcdcdc", hatch="////", lw=0, zorder=0))
        image = np.full((size, size), np.nan)
        image[cells[:, 0], cells[:, 1]] = colours
        shown = axes.imshow(np.ma.masked_invalid(image), cmap="viridis", norm=norm, zorder=1)
        for (row, column), value, colour in zip(cells, returns, colours):
            dark = norm(np.clip(colour, norm.vmin, norm.vmax)) < 0.55
            axes.text(
                column,
                row,
                number(value, np.abs(returns).max()),
                ha="center",
                va="center",
                zorder=3,
                fontsize=min(8.5, 80 / size),
                color="white" if dark else "black",
            )
        for edge in np.arange(size + 1) - 0.5:
            axes.axhline(edge, color="white", lw=0.8, zorder=2)
            axes.axvline(edge, color="white", lw=0.8, zorder=2)
        axes.spines[:].set_visible(False)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(10, integer=True))
        axes.tick_params(length=0)
        axes.set(
            xlabel="column of the goal", ylabel="row of the goal", xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5)
        )
        bar = figure.colorbar(shown, ax=axes, shrink=0.85, pad=0.03)
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.set_label("final return" + ("" if shares is None else ", 0: random policy, 1: optimal policy"))
        return figure


def tasks(early: np.ndarray, late: np.ndarray, label: str, normalised: bool) -> Figure:
    """Return of every task in its first and last episodes, sorted by the last.

    Args:
        early: `[N]`.
        late: `[N]`.
        label: what is on the y axis.
        normalised: whether 0 is the random policy and 1 the optimal one; draws both.
    """
    order = np.argsort(late, kind="stable")
    rank = np.arange(1, len(order) + 1)
    with mpl.rc_context(STYLE):
        figure, axes = _axes(6.6, 3.4)
        _references(axes, *((1.0, 0.0) if normalised else (None, None)))
        size = float(np.clip(400 / len(order), 6, 30))
        axes.vlines(rank, early[order], late[order], color="#c9c9c9", lw=1.0, zorder=1)
        axes.scatter(
            rank,
            early[order],
            size,
            facecolors="white",
            edgecolors=GREY,
            linewidths=0.9,
            zorder=2,
            label="first 10 % of episodes",
        )
        axes.scatter(rank, late[order], size, color=BLUE, zorder=3, label="last 10 % of episodes")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set(xlabel="task, sorted by final return", ylabel=label, xlim=(0, len(order) + 1))
        _legend(axes)
        return figure


def grid_paths(picture: dict[str, Any], episodes: Sequence[dict[str, Any]]) -> Figure:
    """One panel per episode: the agent's way through the grid or pool, from dark to light as time passes.

    Args:
        picture: `{"kind": "grid", "size", "goal"}`, optionally `"key"`, with which the goal is a door, with cells
            (row, column), or
            `{"kind": "pool", "size", "goal", "radius"}`, a disc of that diameter, with places (x, y).
        episodes: each `{"episode", "return", "points": [[row, column], ...]}`; at most 12 are drawn, first and last
            among them.
    """
    picked = [episodes[i] for i in np.unique(np.linspace(0, len(episodes) - 1, 12).round().astype(int))]
    columns = min(6, -(-len(picked) // -(-len(picked) // 6)))
    rows = -(-len(picked) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.35 * columns + 0.2, 1.75 * rows + 0.35), layout="constrained")
        panels = np.atleast_1d(figure.subplots(rows, columns)).ravel()
        for axes, episode in zip(panels, picked):
            _panel(axes, picture, episode)
        for axes in panels[len(picked) :]:
            axes.set_axis_off()
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncol=len(labels), handletextpad=0.2)
        return figure


def arm_paths(means: Sequence[float] | None, episodes: Sequence[dict[str, Any]]) -> Figure:
    """Which arm was pulled at each step, best arm on top, coloured by the arm's mean.

    Args:
        means: mean reward of each arm; None where unknown (arms in order of number, one colour).
        episodes: each `{"episode", "points": [[arm], ...]}`; consecutive ones are joined, a gap separates the others.
    """
    pulls = [np.asarray(episode["points"], int)[:, 0] for episode in episodes]
    arms = len(means) if means is not None else int(max(p.max() for p in pulls)) + 1
    order = np.arange(arms) if means is None else np.argsort(-np.asarray(means), kind="stable")
    row_of = np.argsort(order)
    numbers = [episode["episode"] for episode in episodes]
    starts = [i for i in range(len(numbers)) if i == 0 or numbers[i] != numbers[i - 1] + 1]
    gap = max(1, sum(map(len, pulls)) // 60)
    with mpl.rc_context(STYLE):
        figure, axes = _axes(6.6, float(np.clip(0.9 + 0.22 * arms, 1.7, 5.0)))
        at, ticks, labels, columns = 0, [], [], []
        for start, stop in zip(starts, [*starts[1:], len(numbers)]):
            pulled = np.concatenate(pulls[start:stop])
            image = np.full((arms, len(pulled)), np.nan)
            image[row_of[pulled], np.arange(len(pulled))] = 1.0 if means is None else np.asarray(means)[pulled]
            columns += [image, np.full((arms, gap), np.nan)]
            axes.add_patch(Rectangle((at - 0.5, -0.5), len(pulled), arms, fc="#f3f3f3", lw=0, zorder=0))
            block, at = _block_ticks(numbers[start:stop], pulls[start:stop], at), at + len(pulled) + gap
            ticks, labels = ticks + block[0], labels + block[1]
        image = np.ma.masked_invalid(np.concatenate(columns[:-1], axis=1))
        low, high = (0.0, 1.0) if means is None else (min(means), max(means) + 1e-9)
        colours = ListedColormap([BLUE]) if means is None else "viridis"
        shown = axes.imshow(image, aspect="auto", interpolation="nearest", cmap=colours, vmin=low, vmax=high)
        axes.set_xticks(ticks, labels)
        step = -(-arms // 20)
        axes.set_yticks(np.arange(arms)[::step], [f"arm {arm}" for arm in order[::step]])
        axes.set(xlabel="in-context episode", xlim=(-0.5, image.shape[1] - 0.5), ylim=(arms - 0.5, -0.5))
        axes.spines[:].set_visible(False)
        axes.tick_params(axis="y", length=0)
        if means is not None:
            bar = figure.colorbar(shown, ax=axes, pad=0.02, aspect=12)
            bar.outline.set_visible(False)  # type: ignore[operator]
            bar.set_label("mean of the arm")
        return figure


def _episode_ticks(first: int, last: int) -> list[int]:
    """Round numbers in first..last, and `first` itself in place of one close before it: 1, 20, 40, 60, 80, 100."""
    ticks = [int(tick) for tick in MaxNLocator(6, steps=[1, 2, 5, 10], integer=True).tick_values(first, last)]
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1
    return [first, *(tick for tick in ticks if first + step / 2 < tick <= last)]


def _block_ticks(numbers: Sequence[int], pulls: Sequence[np.ndarray], at: int) -> tuple[list[float], list[str]]:
    """Episode numbers under a block of consecutive episodes that begins at column `at`, in the middle of each."""
    centres = at + np.cumsum([0, *map(len, pulls[:-1])]) + (np.array([len(p) for p in pulls]) - 1) / 2
    ticks = _episode_ticks(numbers[0], numbers[-1])
    return [float(centres[tick - numbers[0]]) for tick in ticks], [str(tick) for tick in ticks]


def _panel(axes: Axes, picture: dict[str, Any], episode: dict[str, Any]) -> None:
    size, points, goal = picture["size"], np.asarray(episode["points"], float), picture["goal"]
    pool = picture["kind"] == "pool"
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(not pool)
    axes.spines[:].set_color("#999999")
    if pool:
        axes.invert_yaxis()
        axes.add_patch(Circle(((size - 1) / 2,) * 2, (size - 1) / 2, fc="#eef4f7", ec="#999999", clip_on=False))
        axes.add_patch(Circle(goal, picture["radius"], fc=YELLOW, alpha=0.35))
    else:
        points, goal = points[:, ::-1], goal[::-1]  # (column, row) = (x, y)
        for edge in np.arange(1, size) - 0.5:
            axes.axhline(edge, color="#ececec", lw=0.5, zorder=0)
            axes.axvline(edge, color="#ececec", lw=0.5, zorder=0)
    mark = max(60 / size, 4.5)
    if len(points) > 1:
        steps = LineCollection(
            list(np.stack([points[:-1], points[1:]], axis=1)),
            cmap="viridis",
            zorder=2,
            array=np.linspace(0.0, 0.9, len(points) - 1),
            lw=2.0,
            capstyle="round",
        )
        steps.set_clim(0.0, 1.0)
        axes.add_collection(steps)
    key = picture.get("key")
    shape, scale, name = ("*", 2.0, "goal") if key is None else ("s", 1.5, "door")
    axes.plot(*goal, shape, ms=scale * mark, color=YELLOW, mec="black", mew=0.6, ls="", label=name, zorder=3)
    if key is not None:
        axes.plot(key[1], key[0], "D", ms=mark, color=YELLOW, mec="black", mew=0.8, ls="", label="key", zorder=3)
    axes.plot(*points[0], "o", ms=mark, color="white", mec="black", mew=0.9, ls="", label="start", zorder=4)
    axes.plot(*points[-1], "o", ms=0.45 * mark, color="black", ls="", label="end", zorder=5)
    axes.set_title(f"episode {episode['episode']}\nreturn {episode['return']:.3g}", pad=3, fontsize=8.5)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of that size in inches, with one axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _draw(axes: Axes, band: Band, label: str, colour: str, dash: Any, width: float, alpha: float) -> None:
    marker = "o" if len(band.x) == 1 else None  # a line of one point is invisible
    axes.fill_between(band.x, band.low, band.high, color=colour, alpha=alpha, lw=0, zorder=2)
    axes.plot(band.x, band.mean, color=colour, ls=dash, lw=width, label=label, marker=marker, ms=4, zorder=3)
    axes.grid(axis="y")


def _references(axes: Axes, optimal: float | None, random: float | None) -> None:
    """Horizontal lines, labelled in the right margin where they cannot cover data."""
    for value, text, dash in ((optimal, "optimal", (0, (6, 2))), (random, "random", (0, (1, 1.5)))):
        if value is not None:
            axes.axhline(value, color=GREY, ls=dash, lw=1.0, zorder=1)
            axes.annotate(
                text,
                (1.0, value),
                (4, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                color=GREY,
                fontsize=8.5,
            )


def _legend(axes: Axes) -> None:
    """Above the axes, left-aligned, so that it hides nothing."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.0), ncol=3, borderaxespad=0.2, handlelength=2.0, columnspacing=1.4
    )
