"""The table of worlds in docs/worlds.md: what checks each, where an agent learned in context, how long it took.

Used by `tables.py`. Names come from the registry, figures from the `results.json.xz` of experiments on that world.
"""

import statistics
from pathlib import Path
from typing import Any

from ad_jax import envs
from ad_jax.envs.outside import libraries
from ad_jax.experiment import load, name_of
from ad_jax.report import report

FOLDER = Path(__file__).resolve().parent
# Adapters that share a library with another: `minigrid` is of XLand-MiniGrid's package.
BROUGHT_BY = {"craftax_classic": "craftax", "minigrid": "xland"}


def table(folder: str) -> str:
    """Markdown: a row for each experiment on a world, or one that says that there is none."""
    lines = [
        "| world | its contract is checked by | experiment | learns in context: first episode, last tenth (95 %) | "
        "optimum | minutes of a seed |",
        "|---|---|---|---|---|---|",
    ]
    ran: dict[str, list[str]] = {}
    for file in sorted(FOLDER.glob("*/results.json.xz")):
        if (file.parent / "config.py").is_file():
            ran.setdefault(name_of(load(file.parent.name, "cpu").env), []).append(file.parent.name)
    for world in sorted(envs.FAMILIES) + sorted(envs.OUTSIDE):
        checked = "`make test`"
        if world in envs.OUTSIDE:
            library = libraries.named(BROUGHT_BY.get(world, world))
            checked = f"`make test-adapters`, {library.package} {library.tested}"
        found = [_learned(name, folder) for name in ran.get(world, ())] or [("-", "not run", "-", "-")]
        lines += [f"| `{world}` | {checked} | {' | '.join(cells)} |" for cells in found]
    return "\n".join(lines)


def _learned(name: str, folder: str) -> tuple[str, str, str, str]:
    """Return the cells of an experiment that has results: of its first held-out set."""
    results = report.load([FOLDER / name])
    stats = next(iter(report.statistics(results)["sets"].values()))
    last = stats["rows"][-1]["sampled"]
    shown = f"{last['first']:.2f}, {last['final']:.2f} ({last['low']:.2f} to {last['high']:.2f})"
    best = "-" if stats["optimal"] is None else f"{stats['optimal']:.2f}"
    minutes = statistics.median(map(_seconds, results["runs"])) / 60
    return f"[{name}]({folder}/{name})", shown, best, f"{minutes:.0f}"


def _seconds(run: dict[str, Any]) -> float:
    """Return what its stages took, those that this run did itself."""
    return sum(stage.get("seconds") or 0.0 for stage in run["stages"].values())
