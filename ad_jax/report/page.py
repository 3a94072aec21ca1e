"""The HTML of a report: one page that loads nothing, works offline, and treats every string as data.

In: statistics as `ad_jax.report.statistics` gives them, PNG bytes, captions. Out: bytes of the page. Text enters the
page through `html.escape` alone.
"""

import base64
import html
import math
from collections.abc import Sequence
from typing import Any

from ad_jax.report.figures import TIMES, count, number

RATES = ("env_steps", "updates", "positions")  # counts of a stage that are worth dividing by its seconds
TITLES = {
    "curve": "Learning in context",
    "efficiency": "Data efficiency against learning from scratch",
    "goals": "Final return by task",
    "paths": "What the agent does",
}
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # even a string that slipped through is inert
CSS = """
:root { color-scheme: light }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #1d2733;
  background: #fff; max-width: 860px; margin: 0 auto; padding: 2.5rem 1.5rem 4rem }
h1 { font-size: 1.05rem; font-weight: 600; color: #5b6775; margin: 0; overflow-wrap: anywhere }
.summary { font-size: 1.75rem; line-height: 1.25; font-weight: 650; margin: .35rem 0 1.2rem; letter-spacing: -.01em;
  text-wrap: balance }
h2 { font-size: 1.3rem; margin: 2.8rem 0 .4rem; padding-top: 1rem; border-top: 1px solid #e3e7eb }
h3 { font-size: 1.05rem; margin: 2.2rem 0 .5rem }
figure { margin: 0 0 .5rem }
img { display: block; max-width: 100%; margin: 0 auto }
figcaption, .note { font-size: .86rem; line-height: 1.45; color: #5b6775; margin: .5rem 0 0 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; margin: .4rem 0; width: 100% }
th, td { padding: .32rem .7rem; text-align: right; border-bottom: 1px solid #e9ecef; white-space: nowrap }
th { font-weight: 600; color: #44505c } thead tr:last-child th { border-bottom: 1.5px solid #8b96a1 }
th:first-child, td:first-child, .text { text-align: left }
th.group { text-align: center; border-bottom: 1px solid #c9d0d6 }
td.text { max-width: 18rem; white-space: normal; overflow-wrap: anywhere; color: #5b6775 }
tr.all td { font-weight: 650; background: #f5f7f9 }
details { margin: .3rem 0; font-size: .88rem } details details { margin-left: 1.2rem }
summary { cursor: pointer; font-weight: 600; padding: .15rem 0 }
dl { display: grid; grid-template-columns: minmax(9rem, max-content) 1fr; gap: .12rem 1.2rem;
  margin: .2rem 0 .4rem 1.2rem } dt { color: #5b6775 } dd { margin: 0; overflow-wrap: anywhere }
dt, dd { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .82rem }
"""


def ratio(level: dict[str, Any]) -> str:
    """The data-efficiency ratio of a level in words: "7.0×", "> 20×", or "-" where the learner does not get there."""
    if level["ratio"] is None:
        return "-"
    value = level["ratio"]
    decimals = 2 if value < 1 else 1 if value < 10 else 0
    if not level["reached"]:  # a bound is rounded down
        value = math.floor(value * 10**decimals) / 10**decimals
    text = f"{value:.{decimals}f}"
    return f"{'' if level['reached'] else '> '}{text}{TIMES}"


def scale(stats: dict[str, Any]) -> float:
    """The size of a set's returns, which decides the decimals of all of them: a column does not mix 9.95 and 10.1."""
    everything = stats["rows"][-1]
    returns = [
        everything[mode][name] for mode in ("sampled", "greedy") if mode in everything for name in ("first", "final")
    ]
    return max(map(abs, [*returns, stats["optimal"] or 0.0]))


def interval(one: dict[str, Any], size: float) -> str:
    """The 95 % interval of the final return, such as `15.8 to 16.4`, with the decimals that returns of `size` have.

    A dash where there is none.
    """
    if one["low"] is None:
        return "-"
    return f"{number(one['low'], size)} to {number(one['high'], size)}"


def share(one: dict[str, Any]) -> str:
    """The share of the source's gain with its interval, such as `0.97 (0.95 to 0.99)`, or "-" where it is unknown."""
    known = one["share"]
    if known is None:
        return "-"
    return f"{known['mean']:.3f}" + ("" if known["low"] is None else f" ({known['low']:.3f} to {known['high']:.3f})")


def section(name: str, stats: dict[str, Any], shown: Sequence[tuple[str, bytes | None, str]]) -> str:
    """The part of the page about one set.

    Args:
        name: of the set.
        stats: its part of the statistics.
        shown: (stem, PNG or None, caption) in order; the tables follow the first.
    """
    figures = [_figure(*one) for one in shown]
    title = f"{name.replace('_', '-')}: {stats['tasks']} tasks, split {stats['kind']}"
    return "\n".join([f"<h2>{_e(title)}</h2>", figures[0], _returns(stats), _levels(stats), *figures[1:]])


def _checkpoint(which: dict[str, Any]) -> str:
    """Which one was evaluated, and of whose training where that is another run's."""
    told, trained = f"{which.get('which', '?')}, step {which.get('step', '?')}", which.get("trained_as")
    if not isinstance(trained, dict):
        return told
    return f"{told}, trained as {trained.get('experiment', '?')} with seed {trained.get('seed', '?')}"


def render(results: dict[str, Any], summary: str, sections: Sequence[str]) -> bytes:
    """The whole page, UTF-8."""
    runs = results["runs"]
    checkpoints = sorted({_checkpoint(run["checkpoint"]) for run in runs})
    seeds = ", ".join(str(run["seed"]) for run in runs)
    note = f"Training seed{'s' * (len(runs) > 1)} {seeds}. Checkpoint: {'; '.join(checkpoints)}."
    body = [
        f"<h1>Algorithm Distillation · {_e(results['experiment'])}</h1>",
        f"<p class=summary>{_e(summary)}</p>",
        f"<p class=note>{_e(note)}</p>",
        *sections,
        "<h2>Stages</h2>",
        _stages(runs),
        "<h2>Configuration</h2>",
        _tree(_merged([run["config"] for run in runs])),
        "<h2>Provenance</h2>",
        _tree(_merged([run["provenance"] for run in runs])),
        *(["<p class=note>Where runs differ, values are given in order of seed.</p>"] if len(runs) > 1 else []),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{_e(results['experiment'])}: {_e(summary)}</title>\n<style>{CSS}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )
    return page.encode("utf-8", "replace")  # a lone surrogate is legal JSON


def _e(text: object) -> str:
    return html.escape(str(text))


def _figure(stem: str, image: bytes | None, caption: str) -> str:
    heading = f"<h3>{TITLES[stem]}</h3>"
    if image is None:
        return f"{heading}<p class=note>{_e(caption)}</p>"
    data = base64.b64encode(image).decode()
    picture = f'<img alt="{_e(TITLES[stem])}" width="{_width(image)}" src="data:image/png;base64,{data}">'
    return f"{heading}<figure>{picture}<figcaption>{_e(caption)}</figcaption></figure>"


def _width(image: bytes) -> int:
    """Width in CSS pixels: a PNG states its pixels in bytes 16 to 20, and figures have about 1.25 of them to one."""
    return round(int.from_bytes(image[16:20], "big") / 1.25)


def _returns(stats: dict[str, Any]) -> str:
    """Return by training seed, a group of columns for each mode; then what the optimum and the random policy earn."""
    modes = [mode for mode in ("sampled", "greedy") if mode in stats["rows"][-1]]
    groups = "".join(f'<th colspan="3" class="group">{mode}</th>' for mode in modes)
    names = "<th>episode 1</th><th>last 10 %</th><th>95 % interval</th>" * len(modes)
    rows, size = [], scale(stats)
    for row in stats["rows"]:
        cells = [_e(row["seed"])]
        for one in (row[mode] for mode in modes):
            cells += [number(one["first"], size), number(one["final"], size), interval(one, size)]
        rows.append((cells, "all" if row["seed"] == "all" else ""))
    head = f"<tr><th></th>{groups}</tr><tr><th>training seed</th>{names}</tr>"
    known = [f"{name} policy {number(stats[name], size)}" for name in ("optimal", "random") if stats[name] is not None]
    told = f"For comparison, mean return: {', '.join(known)}. " if known else ""
    note = "Last 10 %: mean return of the last tenth of the episodes, with its bootstrap interval."
    if any(row[mode]["low"] is None for row in stats["rows"] for mode in modes):
        note += " One task with one training seed has none: nothing is known of what varies."
    return f"<h3>Return</h3>{_table(head, rows)}<p class=note>{_e(told + note)}</p>"


def _levels(stats: dict[str, Any]) -> str:
    """How fast: episodes to a share of the way to final or optimal, then environment steps against the source."""
    everything = stats["rows"][-1]
    modes = [mode for mode in ("sampled", "greedy") if mode in everything]
    levels = dict.fromkeys(level for mode in modes for level in everything[mode]["episodes_to"])
    told = lambda mode, level: everything[mode]["episodes_to"].get(level, "-") or "never"
    rows = [([_e(level), *(str(told(mode, level)) for mode in modes)], "") for level in levels]
    if everything[modes[0]]["area"] is not None:
        name = "mean of all episodes, as a share of the way to optimal"
        rows.append(([name, *(f"{everything[mode]['area']:.3f}" for mode in modes)], ""))
    if everything[modes[0]]["share"] is not None:
        against = f"gain over the random policy / the {stats['source']['role']}'s"
        rows.append(([against, *(share(everything[mode]) for mode in modes)], ""))
    head = f"<tr><th>in-context episodes to</th>{''.join(f'<th>{mode}</th>' for mode in modes)}</tr>"
    note = "A way begins at the random policy's return; where that is unknown, or not below its end, it means nothing."
    text = f"<h3>Speed</h3>{_table(head, rows) if rows else ''}<p class=note>{note}</p>"
    source = stats["source"]
    if source is None:
        return text
    head = "<tr><th>environment steps to</th><th>return</th><th>AD</th>"
    head += f"<th>{source['role']}</th><th>ratio</th></tr>"
    rows, size = [], scale(stats)
    for level in source["levels"]:
        ad = "never" if level["ad_steps"] is None else f"{round(level['ad_steps']):,}"
        steps = f"{level['source_steps']:,}" if level["reached"] else f"not in {level['source_end']:,}"
        rows.append(([_e(level["level"]), number(level["return"], size), ad, steps, ratio(level)], ""))
    early = f"not known, its curve has its first value after {source['piece']:,}"
    same = early if source["same_steps"] is None else number(source["same_steps"], size)
    note = (
        f"{source['role'].capitalize()}: {source['name']}. Its return after as many environment steps as AD takes: "
        f"{same}; at the end of its life: {number(source['final'], size)}. At AD's final return all of AD's steps are "
        f"counted, and the {source['role']}'s up to the first {source['piece']:,} in which its episodes' mean is as "
        "high, which favours that."
    )
    return f"{text}{_table(head, rows)}<p class=note>{_e(note)}</p>"


def _stages(runs: Sequence[dict[str, Any]]) -> str:
    """Seconds and throughput of every stage of every run, and whatever else the stage recorded."""
    rows = []
    for name in dict.fromkeys(name for run in runs for name in run["stages"]):
        for run in (run for run in runs if name in run["stages"]):
            stage = run["stages"][name]
            seconds = stage.get("seconds")
            rates = [
                f"{count((stage[key] - (stage.get('resumed_from', 0) if key == 'updates' else 0)) / seconds)} "
                f"{key.replace('_', ' ')}/s"
                for key in RATES
                if seconds and isinstance(stage.get(key), int | float)
            ]
            rest = [f"{key.replace('_', ' ')} {_scalar(value)}" for key, value in stage.items() if key != "seconds"]
            took = "-" if seconds is None else f"{seconds:,.1f}"
            cells = (name, run["seed"], took, ", ".join(rates) or "-", ", ".join(rest))
            rows.append(([_e(cell) for cell in cells], ""))
    head = "<tr><th>stage</th><th>seed</th><th>seconds</th><th>throughput</th><th class=text>recorded</th></tr>"
    return _table(head, rows, text=4)


def _table(head: str, rows: Sequence[tuple[Sequence[str], str]], text: int = -1) -> str:
    """`head` and cells are HTML already; column `text` is wrapped."""
    lines = []
    for cells, kind in rows:
        tds = "".join(f"<td{' class=text' if i == text else ''}>{cell}</td>" for i, cell in enumerate(cells))
        lines.append(f"<tr{f' class={kind}' if kind else ''}>{tds}</tr>")
    return f"<div class=scroll><table><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table></div>"


def _merged(values: Sequence[Any]) -> Any:
    """One tree for all runs: a leaf that differs becomes the list of its values, in order."""
    if all(isinstance(value, dict) for value in values):
        names = dict.fromkeys(name for value in values for name in value)
        return {name: _merged([value.get(name) for value in values]) for name in names}
    return values[0] if all(value == values[0] for value in values) else " | ".join(map(_leaf, values))


def _tree(data: dict[str, Any]) -> str:
    """Nested data: leaves as a list of terms, objects as collapsible parts."""
    leaves = {name: value for name, value in data.items() if not isinstance(value, dict)}
    terms = "".join(f"<dt>{_e(name)}</dt><dd>{_e(_leaf(value))}</dd>" for name, value in leaves.items())
    parts = [
        f"<details open><summary>{_e(name)}</summary>{_tree(value)}</details>"
        for name, value in data.items()
        if isinstance(value, dict)
    ]
    return (f"<dl>{terms}</dl>" if terms else "") + "".join(parts)


def _leaf(value: Any) -> str:
    return "none" if value is None else str(value)


def _scalar(value: Any) -> str:
    """For reading: thousands separated, four digits of a fraction."""
    if isinstance(value, float):
        return f"{value:,.4g}" if 1e-3 <= abs(value) < 1e4 else f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:g}"
    return f"{value:,}" if type(value) is int else _leaf(value)
