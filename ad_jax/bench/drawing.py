"""The figure of cost as work grows (`growth.py`), drawn from its results."""

import math
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ad_jax.files import JsonObject
from ad_jax.report.figures import BLUE, GRAY, STYLE, png


def growth(axes: Sequence[JsonObject]) -> bytes:
    """Return a PNG: a panel for each axis, seconds of a call over size, with the limit and both exponents."""
    columns = min(2, len(axes))
    rows = math.ceil(len(axes) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * columns, 3.1 * rows), layout="constrained")
        for index, found in enumerate(axes):
            panel = figure.add_subplot(rows, columns, index + 1)
            for name, color, dash, label in (
                ("seconds", BLUE, "-", "measured"),
                ("limit_seconds", GRAY, "--", found["limit"]),
            ):
                slope = found["exponent" if name == "seconds" else "limit_exponent"]
                told = label if slope is None else f"{label}: exponent {slope:.2f}"
                panel.plot(found["sizes"], found[name], dash, color=color, marker="o", markersize=3, label=told)
            panel.set(xlabel=found["name"], ylabel="seconds", title=found["what"])
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            for ticks in (panel.xaxis, panel.yaxis):  # after the scales, which bring formatters of their own
                ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                ticks.set_minor_formatter(NullFormatter())
            panel.legend()
        return png(figure)
