"""Claims with verdicts: the files of a study, and one page over all of them.

A study's folder holds `claims.json` (schema 1: claims in words with number, interval, rule and verdict; every arm with
its configuration, seeds, code version, statistics and thinned curves), `claims.png`, and `README.md` to read them in.
The page is made of those files alone, as HTML that loads nothing (`claims.html`) and as Markdown (`claims.md`). Imports
no JAX.
"""

import base64
import html
import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ad_jax.errors import AdJaxError
from ad_jax.files import parse, write_whole
from ad_jax.report import figures, report
from ad_jax.report.figures import Band
from ad_jax.report.page import CSS, POLICY
from ad_jax.report.results import Set
from ad_jax.study import figures as study_figures
from ad_jax.study import text as study_text
from ad_jax.study.figures import Drawn
from ad_jax.text import significant

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
    write_whole(folder / "claims.png", figures.png(figure))
    write_whole(folder / "claims.json", json.dumps(data, separators=(",", ":")).encode())


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
            data = parse(path.read_text("utf-8"))
            if data["schema"] != SCHEMA:
                raise ValueError(f"schema {data['schema']}, expected {SCHEMA}")
            _check(data)
            study_text.pages({name: data})  # whatever else is missing is met here, before a page is written
            _arms(data)
            found[name] = data
        except (OSError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
            raise AdJaxError(f"{path} is damaged ({error}); delete it and run the study again") from error
    return found


def _check(study: Mapping[str, Any]) -> None:
    """Raises ValueError unless a study's claims are words and finite numbers."""
    for claim in study["claims"]:
        words = [
            study["title"],
            study["scale"],
            *(claim[name] for name in ("text", "paper", "statistic", "rule", "note")),
            claim.get("changed", ""),  # early studies have none
        ]
        numbers = [claim[name] for name in ("value", "low", "high")]
        if not all(isinstance(word, str) for word in words) or not isinstance(claim["holds"], bool):
            raise ValueError(f"a claim in other words: {reprlib.repr(claim)}")
        if claim["low"] is None and claim["high"] is None and not claim["holds"]:
            numbers = [claim["value"]]  # of one task and one training seed, which have no interval
        if not all(type(x) in (int, float) and math.isfinite(x) for x in numbers):
            raise ValueError(f"a claim with other numbers: {numbers}")


def write(out: Path, order: Sequence[str]) -> Path:
    """Draw the page of all studies in `out`; returns it."""
    studies = load(out, order)
    for path, text in study_text.pages(studies).items():
        write_whole(out / path, text.encode())
    write_whole(out / "claims.html", _page(studies, out).encode())
    return out / "claims.html"


def _page(studies: Mapping[str, Mapping[str, Any]], out: Path) -> str:
    """The HTML; every string enters through `html.escape`."""
    e = html.escape
    counted, preface = e(study_text.counted(studies)), e(study_text.preface())
    body = [f"<h1>Claims and verdicts</h1><p class=summary>{counted}</p><p class=note>{preface}</p>"]
    for name, study in studies.items():
        image = base64.b64encode((out / name / "claims.png").read_bytes()).decode()
        rows = []
        for claim in study["claims"]:
            told, ruled = study_text.told(claim), study_text.ruled(claim)
            colour, verdict = ("#00734f", "holds") if claim["holds"] else ("#b03000", "does not hold")
            note = f"<p class=note>{e(claim['note'])}</p>" if claim["note"] and not claim["holds"] else ""
            rows.append(
                f"<tr><td class=text><b>{e(claim['text'])}</b><br>{e(claim['statistic'])}{note}</td>"
                f"<td class=text>{e(claim['paper'])}</td><td>{e(told)}</td><td class=text>{e(ruled)}</td>"
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
    cells = lambda tag, row: "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in study_text.curve_rows(study))
    table = f"<table><thead><tr>{cells('th', study_text.columns(study))}</tr></thead><tbody>{body}</tbody></table>"
    return f"<details><summary>every curve</summary><div class=scroll>{table}</div></details>"


def _thinned(s: Set) -> dict[str, Any]:
    """The curves of a set, at no more than `POINTS` episodes, as plain data."""
    episodes = s.returns[s.mode].shape[-1]
    at = np.unique(np.geomspace(1, episodes, min(POINTS, episodes)).round().astype(int)) - 1
    data: dict[str, Any] = {"episodes": (at + 1).tolist()}
    for mode, values in s.returns.items():
        curve = report.bootstrap(values[..., at])
        data[mode] = {name: [_number(x) for x in y] for name, y in zip(("mean", "low", "high"), curve)}
    return data


def _number(x: float) -> float | None:
    return None if np.isnan(x) else significant(float(x), 4)


def _drawn(s: Set, arm: Mapping[str, Any]) -> Drawn:
    values = s.returns[s.mode]
    episodes = np.arange(1, values.shape[-1] + 1)
    row = arm["statistics"][s.name]["rows"][-1][s.mode]
    source = None
    if s.source is not None:
        x = np.arange(1, s.source.shape[-1] + 1) * s.source_steps
        inside = x <= s.time(s.mode)[-1]
        if inside.any():
            mean = s.source.mean((0, 1))[inside]
            source = Band(report.as_episodes(s, x[inside]), mean, mean, mean)
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
