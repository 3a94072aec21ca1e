"""The tables of results in README.md and docs, from `results.json.xz`, `claims.json` and `experiments/speed` alone.

    python experiments/tables.py all            prints one, as Markdown
    python experiments/tables.py --write        puts every one between its markers

A table stands between `<!-- results:NAME -->` and `<!-- /results -->`, on any page. NAME is an experiment (a row is a
training seed), `all` (a row is a set of held-out tasks of an experiment that has results), `claims` (a row is a study
with its verdicts), `counted` (how many claims hold), `worlds` or `speed`. `tests/test_readme.py` fails where a page
shows other numbers.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ad_jax import study
from ad_jax import text as numerals
from ad_jax.report import report
from ad_jax.study import page
from ad_jax.study import text as study_text

FOLDER = Path(__file__).resolve().parent
sys.path.append(str(FOLDER))  # this file may be loaded from anywhere
import table_of_worlds  # noqa: E402

ROOT = FOLDER.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PLACE = re.compile(r"(?<=<!-- results:)(\w+)( -->\n)(.*?)(?=<!-- /results -->)", re.DOTALL)

# What is measured on 2 CPU cores, and on an H200, by key in experiments/speed; None where one has no such row.
SPEED = {
    "tabular Q-learning on Dark Room, learning included, kept in memory": (
        "collect/q_learning on dark_room/256 learners/memory",
        "collect/q_learning on dark_room/8192 learners/memory",
    ),
    "the same, written to disk": (
        "collect/q_learning on dark_room/256 learners/disk",
        "collect/q_learning on dark_room/8192 learners/disk",
    ),
    "actor-critic, MLP 3x128, 100 actors a learner": (
        "collect/actor_critic on dark_room/1 learners/memory",
        "collect/actor_critic on dark_room/256 learners/memory",
    ),
    "training: 4 layers, width 64, 4 heads, 100 steps of context, batch 64": (
        "distill/small/64x100",
        "distill/small/64x100",
    ),
    "the same with attention dropout 0.5": (
        "distill/small, attention dropout 0.5/64x100",
        "distill/small, attention dropout 0.5/64x100",
    ),
    "training, 25M parameters": ("distill/25M/16x100", "distill/25M/64x100"),
    "the same in bfloat16": (None, "distill/25M bfloat16/64x100"),
    "in-context evaluation, full window of 100 steps": ("evaluate/81 rollouts/at 1W", "evaluate/16384 rollouts/at 1W"),
    "the same, 100 windows into the stream": ("evaluate/81 rollouts/at 100W", None),
    "the same without a cache": ("evaluate/81 rollouts/uncached", "evaluate/16384 rollouts/uncached"),
    "Dark Room from nothing, compiling included": ("end to end/whole", "end to end/whole"),
}


def table(experiment: str) -> str:
    """Markdown of `experiments/<experiment>/results.json.xz`: a block for each set of tasks.

    Raises:
        ReportError: if the file is missing or damaged.
    """
    sets, episodes = read(experiment)
    return "\n\n".join(block(name, stats, episodes[name]) for name, stats in sets.items())


def read(experiment: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Statistics of each set of tasks in an experiment's `results.json.xz`, and its number of in-context episodes."""
    results = report.load([FOLDER / experiment])
    episodes = {s["name"]: len(s["returns"]["sampled"][0][0]) for s in results["runs"][0]["sets"]}
    return report.statistics(results)["sets"], episodes


def markdown(name: str, folder: str = "experiments") -> str:
    """Return the table of that name; `folder` is where experiments lie, as seen from the page."""
    known: dict[str, Callable[[], str]] = {
        "all": lambda: summary(folder),
        "claims": lambda: claims(folder),
        "counted": counted,
        "speed": speed,
        "worlds": lambda: table_of_worlds.table(folder),
    }
    return known.get(name, lambda: table(name))()


def counted() -> str:
    """How many claims hold, in a sentence."""
    return study_text.counted(page.load(FOLDER, study.known()))


def claims(folder: str) -> str:
    """Markdown of every study that has been run: how many of its claims hold, and the first of them in numbers."""
    lines = [
        "| study | claims that hold | its first claim | here (95 % interval), rule | the paper |",
        "|---|---|---|---|---|",
    ]
    for name, one in page.load(FOLDER, study.known()).items():
        held, first = sum(claim["holds"] for claim in one["claims"]), one["claims"][0]
        here = f"{study_text.told(first)}, {study_text.ruled(first)}"
        what = f"[{one['title']}]({folder}/{name})"
        lines.append(f"| {what} | {held} of {len(one['claims'])} | {first['text']} | {here} | {first['paper']} |")
    return "\n".join(lines)


def speed() -> str:
    """Markdown of the throughput measured on 2 CPU cores and on an H200: figure and share of a limit."""
    cpu, gpu = ({row["key"]: row for row in _measured(name)} for name in ("results", "h200"))
    lines = [
        "| what | 2 CPU cores | share of a limit | times PyTorch | H200 | share of a limit |",
        "|---|---|---|---|---|---|",
    ]
    for what, (ours, theirs) in SPEED.items():
        row, torch = cpu.get(ours or ""), cpu.get((ours or "").replace("distill/", "torch/"))
        beside = f"{torch['facts']['ours_over_torch']:.2f}" if torch and torch is not row else "-"
        lines.append(f"| {what} | {_figure(row)} | {beside} | {_figure(gpu.get(theirs or ''))} |")
    return "\n".join(lines)


def _measured(name: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / "speed" / f"{name}.json").read_text())["rows"]


def _figure(row: dict[str, Any] | None) -> str:
    """Figure, and share of what limits it: of a whole that is all of itself there is none."""
    if row is None:
        return "- | -"
    limit = row["limit"].replace(", same width", " of the same width")
    limit = re.sub(r"^limits/peak .*", "peak", re.sub(r"^limits/matmul .*", "matmul peak", limit))
    if row["share"] is None:
        share = "disturbed"
    else:
        share = "-" if row["share"] == 1 else f"{numerals.percent(row['share'])} of the {limit}"
    return f"{numerals.si(row['value'])} {row['unit']} | {share}"


def summary(folder: str) -> str:
    """Markdown of every experiment with results: a row per set of held-out tasks, over all training seeds."""
    lines = [
        "| experiment | compared with | held-out tasks, training seeds | episodes | first | last 10 %, 95 % interval "
        "| optimum | the other at the same steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted(path.parent.name for path in FOLDER.glob("*/results.json.xz")):
        if (FOLDER / name / "config.py").is_file():
            sets, episodes = read(name)
            for of, stats in sets.items():
                what = f"[{name}]({folder}/{name})" + (f", {of}" if len(sets) > 1 else "")
                lines.append(row(what, stats, episodes[of]))
    return "\n".join(lines)


def row(what: str, stats: dict[str, Any], episodes: int) -> str:
    """One line of `summary`."""
    last, source = stats["rows"][-1]["sampled"], stats["source"]
    seeds = sum(line["seed"] != "all" for line in stats["rows"])
    cells = (
        what,
        "-" if source is None else f"{source['role']} `{source['name']}`",
        f"{stats['tasks']}, {seeds}",
        str(episodes),
        number(last["first"]),
        f"{number(last['final'])} ({interval(last)})",
        number(stats["optimal"]),
        "-" if source is None else number(source["same_steps"]),
    )
    return f"| {' | '.join(cells)} |"


def block(name: str, stats: dict[str, Any], episodes: int) -> str:
    """Markdown of one set of tasks: a row per training seed, one for all, and what the numbers are."""
    last = f"last {max(1, episodes // 10)} of {episodes}"
    lines = [f"| training seed | episode 1 | {last} | 95 % interval | {last}, greedy |", "|---|---|---|---|---|"]
    for row in stats["rows"]:
        sampled, greedy = row["sampled"], row.get("greedy", {}).get("final")
        cells = (row["seed"], number(sampled["first"]), number(sampled["final"]), interval(sampled), number(greedy))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    text = (
        f"Mean return per episode on set `{name}`: {stats['tasks']} tasks; optimal policy {number(stats['optimal'])}, "
        f"random policy {number(stats['random'])}. Intervals are bootstraps over tasks; in the last row over training "
        "seeds, then tasks."
    )
    return "\n".join(lines) + "\n\n" + text + against_source(stats["source"], episodes)


def against_source(source: dict[str, Any] | None, episodes: int) -> str:
    """One sentence on the source algorithm, learning the same tasks from scratch."""
    if source is None:
        return ""
    level = source["levels"][0]
    steps = level["source_steps"] if level["reached"] else level["source_end"]
    taken = f"{round(level['ad_steps']):,}"
    verb = "reaches" if level["reached"] else "does not reach"
    at = {name: number(source[name]) for name in ("same_steps", "final")}
    return (
        f" The {source['role']}, `{source['name']}`, learning the same tasks from scratch, is at {at['same_steps']} "
        f"after the {taken} environment steps of {episodes} episodes, {verb} {number(level['return'])} "
        f"in {steps:,}, and is at {at['final']} at its end; the steps in the training histories are not counted."
    )


def number(value: float | None) -> str:
    """Two decimals, or of what would be lost in them three digits; a dash where it is unknown."""
    return numerals.number(value) if value is None or 0 < abs(value) < 0.005 else f"{value:.2f}"


def interval(one: dict[str, Any]) -> str:
    """Return the 95 % interval of the final return, or a dash where there is none."""
    return "-" if one["low"] is None else f"{number(one['low'])} to {number(one['high'])}"


def written(file: Path) -> str:
    """Return the text of a page with every table as it is now."""
    folder = os.path.relpath(FOLDER, file.parent)
    return PLACE.sub(lambda found: f"{found[1]}{found[2]}{markdown(found[1], folder)}\n", file.read_text())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Print a table of results, or write all of them into their pages.")
    parser.add_argument("name", nargs="?", help="an experiment, all, claims, counted, worlds or speed")
    parser.add_argument("--write", action="store_true", help="put every table into its page")
    args = parser.parse_args()
    if bool(args.name) == args.write:
        parser.error("expected either a name, or --write")
    if args.name:
        print(markdown(args.name))
        return
    for file in PAGES:
        if (text := written(file)) != file.read_text():
            file.write_text(text)
            print(file.relative_to(ROOT))


if __name__ == "__main__":
    main()
