"""The page of a report: it loads nothing, works offline, and treats every string as data.

In: statistics as `ad_jax.report.statistics` gives them, PNG bytes, captions. Out: bytes of the page. The files of
`templates/` say how it looks; they escape every string that they are given.
"""

import base64
import functools
import math
from collections.abc import Sequence
from pathlib import Path

import jinja2

from ad_jax.files import Json, JsonObject
from ad_jax.report.figures import TIMES
from ad_jax.text import grouped, number, si

RATES = ("env_steps", "updates", "positions")  # counts of a stage that are worth dividing by its seconds
TITLES = {
    "curve": "Learning in context",
    "efficiency": "Data efficiency against learning from scratch",
    "goals": "Final return by task",
    "paths": "What the agent does",
}


@functools.cache
def _templates() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def fill(template: str, **values: object) -> bytes:
    """Return the page that a file of `templates/` makes of `values`, UTF-8."""
    return _templates().get_template(template).render(**values).encode("utf-8", "replace")  # JSON has lone surrogates


def ratio(level: JsonObject) -> str:
    """Return the data-efficiency ratio of a level in words: "7.0×", "> 20×", or "-" where the learner does not get
    there.
    """
    if level["ratio"] is None:
        return "-"
    value = level["ratio"]
    decimals = 2 if value < 1 else 1 if value < 10 else 0
    if not level["reached"]:  # a bound is rounded down
        value = math.floor(value * 10**decimals) / 10**decimals
    text = f"{value:.{decimals}f}"
    return f"{'' if level['reached'] else '> '}{text}{TIMES}"


def scale(stats: JsonObject) -> float:
    """Return the size of a set's returns, which decides the decimals of all of them: a column does not mix 9.95 and
    10.1.
    """
    everything = stats["rows"][-1]
    returns = [
        everything[mode][name] for mode in ("sampled", "greedy") if mode in everything for name in ("first", "final")
    ]
    return max(map(abs, [*returns, stats["optimal"] or 0.0]))


def interval(one: JsonObject, size: float) -> str:
    """Return the 95 % interval of the final return, such as `15.8 to 16.4`, with the decimals that returns of `size`
    have.

    A dash where there is none.
    """
    if one["low"] is None:
        return "-"
    return f"{number(one['low'], size)} to {number(one['high'], size)}"


def share(one: JsonObject) -> str:
    """Return the share of the source's gain with its interval, such as `0.97 (0.95 to 0.99)`, or "-" where it is
    unknown.
    """
    known = one["share"]
    if known is None:
        return "-"
    return f"{known['mean']:.3f}" + ("" if known["low"] is None else f" ({known['low']:.3f} to {known['high']:.3f})")


def section(name: str, stats: JsonObject, shown: Sequence[tuple[str, bytes | None, str]]) -> JsonObject:
    """Return what the page says of one set.

    Args:
        name: of the set.
        stats: its part of the statistics.
        shown: (stem, PNG or None, caption) in order; the tables follow the first.
    """
    everything = stats["rows"][-1]
    modes = [mode for mode in ("sampled", "greedy") if mode in everything]
    source, size = stats["source"], scale(stats)
    return {
        "title": f"{name.replace('_', '-')}: {stats['tasks']} tasks, split {stats['kind']}",
        "figures": [_figure(*one) for one in shown],
        "modes": modes,
        "returns": [_returns(row, modes, size) for row in stats["rows"]],
        "returns_note": _returns_note(stats, modes, size),
        "ways": _ways(everything, modes, source),
        "role": source and source["role"],
        "levels": [_level(level, size) for level in source["levels"]] if source else [],
        "levels_note": _levels_note(source, size) if source else "",
    }


def _checkpoint(which: JsonObject) -> str:
    """Which one was evaluated, and of whose training where that is another run's."""
    told, trained = f"{which.get('which', '?')}, step {which.get('step', '?')}", which.get("trained_as")
    if not isinstance(trained, dict):
        return told
    return f"{told}, trained as {trained.get('experiment', '?')} with seed {trained.get('seed', '?')}"


def render(results: JsonObject, summary: str, sections: Sequence[JsonObject]) -> bytes:
    """Return the whole page, UTF-8."""
    runs = results["runs"]
    checkpoints = sorted({_checkpoint(run["checkpoint"]) for run in runs})
    seeds = ", ".join(str(run["seed"]) for run in runs)
    return fill(
        "report.html",
        width="860px",
        experiment=results["experiment"],
        summary=summary,
        note=f"Training seed{'s' * (len(runs) > 1)} {seeds}. Checkpoint: {'; '.join(checkpoints)}.",
        sets=sections,
        stages=_stages(runs),
        config=_merged([run["config"] for run in runs]),
        provenance=_merged([run["provenance"] for run in runs]),
        several=len(runs) > 1,
    )


def _figure(stem: str, image: bytes | None, caption: str) -> JsonObject:
    figure = {"title": TITLES[stem], "caption": caption, "image": None}
    if image is None:
        return figure
    # A PNG states its width in bytes 16 to 20, and figures have about 1.25 of its pixels to one of CSS.
    width = round(int.from_bytes(image[16:20], "big") / 1.25)
    return figure | {"image": base64.b64encode(image).decode(), "width": width}


def _returns(row: JsonObject, modes: Sequence[str], size: float) -> list[str]:
    """Return of one training seed, three columns for each mode."""
    columns = [
        [number(row[mode]["first"], size), number(row[mode]["final"], size), interval(row[mode], size)]
        for mode in modes
    ]
    return [str(row["seed"]), *(cell for column in columns for cell in column)]


def _returns_note(stats: JsonObject, modes: Sequence[str], size: float) -> str:
    """Return what the optimum and the random policy earn, and what the columns are."""
    known = [f"{name} policy {number(stats[name], size)}" for name in ("optimal", "random") if stats[name] is not None]
    told = f"For comparison, mean return: {', '.join(known)}. " if known else ""
    note = "Last 10 %: mean return of the last tenth of the episodes, with its bootstrap interval."
    if any(row[mode]["low"] is None for row in stats["rows"] for mode in modes):
        note += " One task with one training seed has none: nothing is known of what varies."
    return told + note


def _ways(everything: JsonObject, modes: Sequence[str], source: JsonObject | None) -> list[list[str]]:
    """How fast: episodes to a share of the way to final or optimal, by mode."""
    levels = dict.fromkeys(level for mode in modes for level in everything[mode]["episodes_to"])

    def told(mode, level):
        return everything[mode]["episodes_to"].get(level, "-") or "never"

    rows = [[level, *(str(told(mode, level)) for mode in modes)] for level in levels]
    if everything[modes[0]]["area"] is not None:
        name = "mean of all episodes, as a share of the way to optimal"
        rows.append([name, *(f"{everything[mode]['area']:.3f}" for mode in modes)])
    if source and everything[modes[0]]["share"] is not None:
        against = f"gain over the random policy / the {source['role']}'s"
        rows.append([against, *(share(everything[mode]) for mode in modes)])
    return rows


def _level(level: JsonObject, size: float) -> list[str]:
    """Environment steps to a return, AD's and the source's."""
    ad = "never" if level["ad_steps"] is None else f"{round(level['ad_steps']):,}"
    steps = f"{level['source_steps']:,}" if level["reached"] else f"not in {level['source_end']:,}"
    return [level["level"], number(level["return"], size), ad, steps, ratio(level)]


def _levels_note(source: JsonObject, size: float) -> str:
    early = f"not known, its curve has its first value after {source['piece']:,}"
    same = early if source["same_steps"] is None else number(source["same_steps"], size)
    return (
        f"{source['role'].capitalize()}: {source['name']}. Its return after as many environment steps as AD takes: "
        f"{same}; at the end of its lifetime: {number(source['final'], size)}. At AD's final return all of AD's steps "
        f"are counted, and the {source['role']}'s up to the first {source['piece']:,} in which its episodes' mean is "
        "as high, which favors that."
    )


def _stages(runs: Sequence[JsonObject]) -> list[list[str]]:
    """Seconds and throughput of every stage of every run, and whatever else the stage recorded."""
    rows = []
    for name in dict.fromkeys(name for run in runs for name in run["stages"]):
        for run in (run for run in runs if name in run["stages"]):
            stage = run["stages"][name]
            seconds = stage.get("seconds")
            rates = [
                f"{si((stage[key] - (stage.get('resumed_from', 0) if key == 'updates' else 0)) / seconds)} "
                f"{key.replace('_', ' ')}/s"
                for key in RATES
                if seconds and isinstance(stage.get(key), int | float)
            ]
            rest = [f"{key.replace('_', ' ')} {grouped(value)}" for key, value in stage.items() if key != "seconds"]
            took = "-" if seconds is None else f"{seconds:,.1f}"
            rows.append([name, str(run["seed"]), took, ", ".join(rates) or "-", ", ".join(rest)])
    return rows


def _merged(values: Sequence[Json]) -> Json:
    """One tree for all runs: a leaf that differs becomes the list of its values, in order."""
    if all(isinstance(value, dict) for value in values):
        names = dict.fromkeys(name for value in values for name in value)
        return {name: _merged([value.get(name) for value in values]) for name in names}
    return values[0] if all(value == values[0] for value in values) else " | ".join(map(_leaf, values))


def _leaf(value: Json) -> str:
    return "none" if value is None else str(value)
