"""Claims with verdicts: the files of a study, and one page over all of them.

A study's folder holds `claims.json` (schema 1: claims in words with number, interval, rule and verdict; every arm with
its configuration, seeds, code version, statistics and thinned curves) and `claims.png`. The page is made of those files
alone, as HTML that loads nothing (`claims.html`) and as Markdown (`claims.md`). Imports no JAX.
"""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ad_jax import figures, report, study_figures
from ad_jax.errors import AdJaxError
from ad_jax.figures import Band, number
from ad_jax.report_input import Set
from ad_jax.report_page import CSS, POLICY, ratio
from ad_jax.study_figures import Drawn

SCHEMA = 1
POINTS = 50  # most points of a curve that is written down


def write_study(
    folder: Path,
    data: dict[str, Any],
    kind: str,
    sets: Mapping[str, Sequence[Set]],
    axis: str = "",
    log: bool = True,
    drawn_sets: Sequence[str] = (),
) -> None:
    """Write a study's `claims.png`, then its `claims.json`; each appears whole or not at all.

    Args:
        folder: of the study.
        data: of schema 1, but for the curves.
        kind: `"curves"` or `"sweep"`.
        sets: of each arm.
        axis: of a sweep: what x is.
        log: of a sweep: whether x is logarithmic.
        drawn_sets: which sets have a panel; default the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for arm, every in sets.items():
        data["arms"][arm]["curves"] = {s.name: _thinned(s) for s in every}
    names = list(drawn_sets) or [next(iter(sets.values()))[0].name]
    panels = {
        name: {arm: _drawn(s, data["arms"][arm]) for arm, every in sets.items() for s in every if s.name == name}
        for name in names
    }
    figure = study_figures.curves(panels) if kind == "curves" else study_figures.sweep(panels[names[0]], axis, log)
    report.write_whole(folder / "claims.png", figures.png(figure))
    report.write_whole(folder / "claims.json", json.dumps(data, separators=(",", ":")).encode())


def sentence(claim: Mapping[str, Any]) -> str:
    """A claim with its number: what decided it, in one line."""
    size = max(abs(claim["value"]), abs(claim["high"]))
    low, high = number(claim["low"], size), number(claim["high"], size)
    value = number(claim["value"], size)
    sign = lambda text, x: f"-{text}" if x < 0 and not text.startswith("-") and float(text) != 0 else text
    told = f"{sign(value, claim['value'])} ({sign(low, claim['low'])} to {sign(high, claim['high'])})"
    return f"{claim['text']}: {told}, {claim['rule']}"


def load(out: Path, order: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The studies that `out` holds, by name, in `order`.

    Raises:
        AdJaxError: for a damaged file.
    """
    found = {}
    for name in order:
        path = out / name / "claims.json"
        if not path.exists():
            continue
        try:
            data = json.loads(path.read_text())
            if data["schema"] != SCHEMA:
                raise ValueError(f"schema {data['schema']}, expected {SCHEMA}")
            found[name] = data
        except (ValueError, KeyError, TypeError) as error:
            raise AdJaxError(f"{path} is damaged ({error}); delete it and run the study again") from error
    return found


def write(out: Path, order: Sequence[str]) -> Path:
    """Draw the page of all studies in `out`; returns it."""
    studies = load(out, order)
    report.write_whole(out / "claims.md", markdown(studies).encode())
    report.write_whole(out / "claims.html", _page(studies, out).encode())
    return out / "claims.html"


def markdown(studies: Mapping[str, Mapping[str, Any]]) -> str:
    """Every claim in tables, a section for each study."""
    parts = ["# Claims and verdicts", "", counted(studies), "", _preface()]
    for name, study in studies.items():
        parts += ["", f"## {study['title']}", "", f"[{name}]({name}/config.py), `ad-jax reproduce {name}`, "
                  f"scale {study['scale']}.", "", *table(study)]  # fmt: skip
        parts += [
            f"\n*{c['text']}* does not hold: {c['note']}" for c in study["claims"] if c["note"] and not c["holds"]
        ]
        parts += ["", f"![{study['title']}]({name}/claims.png)"]
    return "\n".join(parts) + "\n"


def counted(studies: Mapping[str, Mapping[str, Any]]) -> str:
    """How many claims hold."""
    claims = [claim for study in studies.values() for claim in study["claims"]]
    return f"{sum(c['holds'] for c in claims)} of {len(claims)} claims hold, in {len(studies)} studies."


def table(study: Mapping[str, Any]) -> list[str]:
    """A study's claims as rows of a Markdown table."""
    rows = ["| claim | the paper | here (95 % interval) | rule | verdict |", "|---|---|---|---|---|"]
    for claim in study["claims"]:
        told = sentence(claim)[len(claim["text"]) + 2 :].removesuffix(f", {claim['rule']}")
        verdict = "holds" if claim["holds"] else "**does not hold**"
        rows.append(
            f"| {claim['text']} | {claim['paper']} | {told}: {claim['statistic']} | {claim['rule']} | {verdict} |"
        )
    return rows


def _preface() -> str:
    return (
        "Every number is of tasks never trained on, with frozen weights, and of sampled actions where nothing else is "
        "said. Intervals are bootstraps over training seeds, then tasks; a rule asks for the whole interval and "
        "stands in the study's config.py."
    )


def _page(studies: Mapping[str, Mapping[str, Any]], out: Path) -> str:
    """The HTML; every string enters through `html.escape`."""
    e = html.escape
    body = [f"<h1>Claims and verdicts</h1><p class=summary>{e(counted(studies))}</p><p class=note>{e(_preface())}</p>"]
    for name, study in studies.items():
        image = base64.b64encode((out / name / "claims.png").read_bytes()).decode()
        rows = []
        for claim in study["claims"]:
            colour, verdict = ("#00734f", "holds") if claim["holds"] else ("#b03000", "does not hold")
            told = sentence(claim)[len(claim["text"]) + 2 :].removesuffix(f", {claim['rule']}")
            note = f"<p class=note>{e(claim['note'])}</p>" if claim["note"] and not claim["holds"] else ""
            rows.append(
                f"<tr><td class=text><b>{e(claim['text'])}</b><br>{e(claim['statistic'])}{note}</td>"
                f"<td class=text>{e(claim['paper'])}</td><td>{e(told)}</td><td>{e(claim['rule'])}</td>"
                f'<td style="color:{colour}"><b>{verdict}</b></td></tr>'
            )
        head = "<tr><th>claim</th><th class=text>the paper</th><th>here</th><th>rule</th><th>verdict</th></tr>"
        body.append(
            f"<h2>{e(study['title'])}</h2><figure><img alt='' src='data:image/png;base64,{image}'></figure>"
            f"<div class=scroll><table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>{_arms(study)}"
        )
    title = f'<meta charset=utf-8><meta http-equiv=Content-Security-Policy content="{POLICY}"><title>Claims</title>'
    wide = CSS.replace("860px", "1080px")
    return f"<!doctype html><html lang=en><head>{title}<style>{wide}</style></head><body>{''.join(body)}</body></html>"


def _arms(study: Mapping[str, Any]) -> str:
    """What every curve of the study is, in numbers."""
    rows = []
    for name, arm in study["arms"].items():
        for set_name, stats in arm["statistics"].items():
            modes = [mode for mode in ("sampled", "greedy") if mode in stats["rows"][-1]]
            rows += [[name, set_name, mode, *_numbers(stats, mode)] for mode in modes]
    names = (
        "arm",
        "tasks",
        "actions",
        "seeds",
        "episode 1",
        "last 10 %",
        "95 % interval",
        "area / optimal",
        "episodes to 90 % of final",
        "the source after as many steps",
        "its steps for the same return / AD's",
    )
    cells = lambda tag, row: "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{cells('th', names)}</tr></thead><tbody>{body}</tbody></table>"
    return f"<details><summary>every curve</summary><div class=scroll>{table}</div></details>"


def _numbers(stats: Mapping[str, Any], mode: str) -> list[str]:
    """One curve: what `report.statistics` says of it."""
    one, source = stats["rows"][-1][mode], stats["source"]
    size = max(abs(one["final"]), abs(stats["optimal"] or 0))
    or_none = lambda value, text: "-" if value is None else text(value)
    told = lambda value: or_none(value, lambda x: number(x, size))
    levels = source["levels"] if source and mode == "sampled" else []
    return [
        str(stats["runs"]),
        number(one["first"], size),
        number(one["final"], size),
        f"{number(one['low'], size)} to {number(one['high'], size)}",
        or_none(one["area"], lambda x: f"{x:.3f}"),
        or_none(one["episodes_to"].get("90 % of final"), str),
        told(source["same_steps"] if source else None),
        ratio(levels[0]) if levels else "-",
    ]


def _thinned(s: Set) -> dict[str, Any]:
    """The curves of a set, at no more than `POINTS` episodes, as plain data."""
    episodes = s.returns[s.mode].shape[-1]
    at = np.unique(np.geomspace(1, episodes, min(POINTS, episodes)).round().astype(int)) - 1
    data: dict[str, Any] = {"episodes": (at + 1).tolist()}
    for mode, values in s.returns.items():
        curve = report.bootstrap(values[..., at])
        data[mode] = {name: np.round(y, 4).tolist() for name, y in zip(("mean", "low", "high"), curve)}
    return data


def _drawn(s: Set, arm: Mapping[str, Any]) -> Drawn:
    values = s.returns[s.mode]
    episodes = np.arange(1, values.shape[-1] + 1)
    row = arm["statistics"][s.name]["rows"][-1][s.mode]
    source = None
    if s.source is not None:
        x = np.arange(1, s.source.shape[-1] + 1) * s.source_steps / s.episode_length
        inside = x <= episodes[-1]
        if inside.any():
            mean = s.source.mean((0, 1))[inside]
            source = Band(x[inside], mean, mean, mean)
    known = lambda y: None if y is None else float(y.mean())
    return Drawn(
        Band(episodes, *report.bootstrap(values)),
        source,
        s.source_label,
        known(s.optimal),
        known(s.random),
        (row["final"], row["low"], row["high"]),
        arm["x"],
        arm["group"],
    )
