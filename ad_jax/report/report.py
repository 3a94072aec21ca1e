"""Stage 4: `results.json` of one or several runs → statistics, figures and one self-contained HTML page.

In: results of schema 2, one entry in `runs` per training seed. Returns are `[N tasks, S rollouts, E episodes]`,
in reward units per episode; environment steps are those that episodes had, of every actor. Out: `index.html`, which
embeds its images and loads nothing, and the same figures as PNG files. Everything is drawn from the results alone, and
nothing here imports JAX.

What is reported stands in `statistics`, what is drawn in `drawings`.
"""

import json
from pathlib import Path

from ad_jax.files import JsonObject, write_whole
from ad_jax.report import figures, page
from ad_jax.report.bootstrap import bootstrap, final_of
from ad_jax.report.drawings import figures_of
from ad_jax.report.packed import pack
from ad_jax.report.results import SCHEMA, ReportError, gather, load, validate
from ad_jax.report.seal import seal
from ad_jax.report.statistics import share_of_source, statistics
from ad_jax.text import aligned, number

__all__ = ["SCHEMA", "ReportError", "bootstrap", "load", "share_of_source", "statistics", "summary", "table", "write"]


def summary(results: JsonObject) -> str:
    """One line: return of the first episode → final, of the optimum where known, on the first set."""
    first = gather(results)[0]
    values = first.returns[first.mode]
    start, end = values[..., 0].mean(), final_of(values).mean()
    scale = max(abs(start), abs(end), 0 if first.optimal is None else abs(first.optimal.mean()))
    best = None if first.optimal is None else float(first.optimal.mean())
    of = "" if best is None else f" of {number(best, scale)}" if best > 0 else f" (optimal {number(best, scale)})"
    name = first.name.replace("_", "-")
    episodes = f"{values.shape[-1]} in-context episode{'s' if values.shape[-1] > 1 else ''}"
    return f"{name} return {number(start, scale)} → {number(end, scale)}{of} over {episodes}"


def table(results: JsonObject) -> str:
    """Plain text for a terminal: a row per training seed and one for all (seconds are then means), for each set."""
    blocks = []
    for name, stats in statistics(results)["sets"].items():
        size = page.scale(stats)
        mode = next(m for m in ("sampled", "greedy") if m in stats["rows"][-1])
        stages = list(dict.fromkeys(stage for row in stats["rows"] for stage in row["seconds"]))
        shared = stats["rows"][-1][mode]["share"] is not None
        share = [f"share of the {stats['source']['role']}'s gain"] if shared else []
        names = ["seed", "episode 1", "last 10 %", "95 % interval", "greedy", *share]
        lines = [[*names, *(f"{stage} s" for stage in stages)]]
        for row in stats["rows"]:
            main, greedy = row[mode], row.get("greedy")
            lines.append(
                [
                    str(row["seed"]),
                    number(main["first"], size),
                    number(main["final"], size),
                    page.interval(main, size),
                    "-" if greedy is None else number(greedy["final"], size),
                    *([page.share(main)] if shared else []),
                    *("-" if row["seconds"].get(stage) is None else f"{row['seconds'][stage]:.1f}" for stage in stages),
                ]
            )
        rows = "\n".join("  ".join(line) for line in aligned(lines, right=True))
        blocks.append(f"{name} ({stats['tasks']} tasks, {mode})\n{rows}")
    return "\n\n".join(blocks)


def write(results: JsonObject, folder: Path) -> Path:
    """Draw every figure and the page into `folder`; each file appears whole or not at all, the page last.

    Figures are `curve`, `goals`, `efficiency` and `paths`, with the suffix `-<set>` from the second set on; one that
    the results hold no data for is left out, and the page says why.

    Returns:
        The path of `index.html`.

    Raises:
        ReportError: results that `load` would refuse.
    """
    validate(results, "results")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stats, sections = statistics(results), []
    for index, s in enumerate(gather(results)):
        shown = []
        for stem, (figure, caption) in figures_of(s, stats["sets"][s.name]).items():
            image = None if figure is None else figures.png(figure)
            if image is not None:
                write_whole(folder / f"{stem}{f'-{s.name}' if index else ''}.png", image)
            shown.append((stem, image, caption))
        sections.append(page.section(s.name, stats["sets"][s.name], shown))
    write_whole(folder / "index.html", page.render(results, summary(results), sections))
    return folder / "index.html"


def pool(results: JsonObject, path: Path) -> None:
    """Write what `load` gave, several seeds as one file that `load` reads again; packed if its name ends in .xz."""
    write_whole(Path(path), pack(Path(path), json.dumps(seal(results), separators=(",", ":")).encode()))
