"""The README's table of an experiment, from its `results.json` and nothing else, as markdown.

    python experiments/readme_table.py dark_room            prints it
    python experiments/readme_table.py dark_room --write    puts it between the markers in README.md

A row is a training seed; of `all`, a set of held-out tasks of an experiment that has results; of `claims`, a study with
its verdicts, from its `claims.json`. `tests/test_readme.py` fails where README.md shows anything else than this prints.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from ad_jax import study
from ad_jax import text as numerals
from ad_jax.report import report
from ad_jax.study import page
from ad_jax.study import text as study_text

FOLDER = Path(__file__).resolve().parent
README = FOLDER.parent / "README.md"


def table(experiment: str) -> str:
    """Markdown of `experiments/<experiment>/results.json`: a block for each set of tasks.

    Raises:
        ReportError: if the file is missing or damaged.
    """
    sets, episodes = read(experiment)
    return "\n\n".join(block(name, stats, episodes[name]) for name, stats in sets.items())


def read(experiment: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Statistics of each set of tasks in an experiment's `results.json`, and its number of in-context episodes."""
    results = report.load([FOLDER / experiment / "results.json"])
    episodes = {s["name"]: len(s["returns"]["sampled"][0][0]) for s in results["runs"][0]["sets"]}
    return report.statistics(results)["sets"], episodes


def markdown(name: str) -> str:
    """What stands between the markers of `name` in README.md."""
    return {"all": summary, "claims": claims}.get(name, lambda: table(name))()


def claims() -> str:
    """Markdown of every study that has been run: how many of its claims hold, and the first of them in numbers."""
    studies = page.load(FOLDER, study.known())
    lines = [
        "| study | claims that hold | its first claim | here (95 % interval), rule | the paper |",
        "|---|---|---|---|---|",
    ]
    for name, one in studies.items():
        held, first = sum(claim["holds"] for claim in one["claims"]), one["claims"][0]
        here = f"{study_text.told(first)}, {study_text.ruled(first)}"
        what = f"[{one['title']}](experiments/{name})"
        lines.append(f"| {what} | {held} of {len(one['claims'])} | {first['text']} | {here} | {first['paper']} |")
    return "\n".join([study_text.counted(studies), "", *lines])


def summary() -> str:
    """Markdown of every experiment with results: a row per set of held-out tasks, over all training seeds."""
    lines = [
        "| experiment | compared with | held-out tasks, training seeds | episodes | first | last 10 %, 95 % interval "
        "| optimum | the other at the same steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for folder in sorted(path.parent for path in FOLDER.glob("*/results.json")):
        if (folder / "config.py").is_file():
            sets, episodes = read(folder.name)
            lines += [row(folder.name, name, stats, episodes[name], len(sets)) for name, stats in sets.items()]
    return "\n".join(lines)


def row(experiment: str, name: str, stats: dict[str, Any], episodes: int, sets: int) -> str:
    """One line of `summary`."""
    last, source = stats["rows"][-1]["sampled"], stats["source"]
    seeds = sum(line["seed"] != "all" for line in stats["rows"])
    cells = (
        f"[{experiment}](experiments/{experiment})" + (f", {name}" if sets > 1 else ""),
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
    """The 95 % interval of the final return, or a dash where there is none."""
    return "-" if one["low"] is None else f"{number(one['low'])} to {number(one['high'])}"


def markers(experiment: str) -> tuple[str, str]:
    """What stands before and after the table in README.md."""
    return f"<!-- results:{experiment} -->\n", "\n<!-- /results -->"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Print an experiment's table for README.md.")
    parser.add_argument("experiment")
    parser.add_argument("--write", action="store_true", help="put it into README.md")
    args = parser.parse_args()
    text, (before, after) = markdown(args.experiment), markers(args.experiment)
    if not args.write:
        print(text)
        return
    pattern = re.compile(f"(?<={re.escape(before)}).*?(?={re.escape(after)})", re.DOTALL)
    fresh, count = pattern.subn(lambda _: text, README.read_text())
    if count != 1:
        raise SystemExit(f"{README} has {count} places for {args.experiment}, expected 1: {before!r} ... {after!r}")
    README.write_text(fresh)


if __name__ == "__main__":
    main()
