"""Figures of what was done on tasks: goals and what they earned, ways through a grid or pool, arms that were pulled."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import MaxNLocator

from ad_jax.files import JsonObject
from ad_jax.report.figures import BLUE, STYLE, YELLOW, episode_ticks, one_axes
from ad_jax.text import number


def goals(size: int, cells: np.ndarray, returns: np.ndarray, shares: np.ndarray | None) -> Figure:
    """Return final return by goal, on the grid; a cell without a goal is hatched.

    Args:
        size: cells a side.
        cells: `[N, 2]` int, (row, column), each at most once.
        returns: `[N]`, written in the cell.
        shares: `[N]` share of the way from random to optimal, which colors it; None to color by return.
    """
    colors = returns if shares is None else shares
    top = 1.0 if shares is not None else max(float(returns.max()), float(returns.min()) + 1e-9)
    norm = Normalize(0.0 if shares is not None else float(returns.min()), top)
    with mpl.rc_context(STYLE):
        figure, axes = one_axes(5.0, 4.2)
        axes.add_patch(Rectangle((-0.5, -0.5), size, size, fc="#f7f7f7", ec="#dcdcdc", hatch="////", lw=0, zorder=0))
        image = np.full((size, size), np.nan)
        image[cells[:, 0], cells[:, 1]] = colors
        shown = axes.imshow(np.ma.masked_invalid(image), cmap="viridis", norm=norm, zorder=1)
        for (row, column), value, color in zip(cells, returns, colors):
            dark = norm(np.clip(color, norm.vmin, norm.vmax)) < 0.55
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


def grid_paths(picture: JsonObject, episodes: Sequence[JsonObject]) -> Figure:
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
            panel(axes, picture, episode)
        for axes in panels[len(picked) :]:
            axes.set_axis_off()
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncol=len(labels), handletextpad=0.2)
        return figure


def arm_paths(means: Sequence[float] | None, episodes: Sequence[JsonObject]) -> Figure:
    """Which arm was pulled at each step, best arm on top, colored by the arm's mean.

    Args:
        means: mean reward of each arm; None where unknown (arms in order of number, one color).
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
        figure, axes = one_axes(6.6, float(np.clip(0.9 + 0.22 * arms, 1.7, 5.0)))
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
        colors = ListedColormap([BLUE]) if means is None else "viridis"
        shown = axes.imshow(image, aspect="auto", interpolation="nearest", cmap=colors, vmin=low, vmax=high)
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


def _block_ticks(numbers: Sequence[int], pulls: Sequence[np.ndarray], at: int) -> tuple[list[float], list[str]]:
    """Episode numbers under a block of consecutive episodes that begins at column `at`, in the middle of each."""
    centers = at + np.cumsum([0, *map(len, pulls[:-1])]) + (np.array([len(p) for p in pulls]) - 1) / 2
    ticks = episode_ticks(numbers[0], numbers[-1])
    return [float(centers[tick - numbers[0]]) for tick in ticks], [str(tick) for tick in ticks]


def panel(axes: Axes, picture: JsonObject, episode: JsonObject) -> None:
    """Draw the way of one episode in a panel; `picture` and `episode` as of `grid_paths`."""
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
