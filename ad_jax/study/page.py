"""Claims with verdicts: the files of a study, and one page over all of them.

A study's folder holds `claims.json` (schema 1: claims in words with number, interval, rule and verdict; every arm with
its configuration, seeds, code version, statistics and subsampled curves), `claims.png`, and `README.md` to read them
in. The page is made of those files alone, as HTML that loads nothing (`claims.html`) and as Markdown (`claims.md`).
Imports no JAX.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ad_jax.errors import AdJaxError
from ad_jax.files import Json, JsonObject, read_json, write_whole
from ad_jax.report import drawings, figures, report
from ad_jax.report.figures import Band
from ad_jax.report.page import fill
from ad_jax.report.results import Set
from ad_jax.study import figures as study_figures
from ad_jax.study import text as study_text
from ad_jax.study.figures import Drawn
from ad_jax.study.form import Claims
from ad_jax.text import significant

POINTS = 50  # most points of a curve that is written down


def write_study(
    folder: Path,
    data: JsonObject,
    kind: str,
    sets: Mapping[str, Sequence[Set]],
    axis: str = "",
    log: bool = True,
    drawn_sets: Sequence[str] = (),
    hidden: Sequence[str] = (),
) -> None:
    """Write a study's `claims.png`, then its `claims.json`; each appears whole or not at all.

    Args:
        folder: of the study.
        data: of schema 1, but for the curves.
        kind: `"curves"` or `"sweep"`.
        sets: of each arm.
        axis: of a sweep: what x is.
        log: of a sweep: whether x is logarithmic.
        drawn_sets: which sets have a panel; default the first. Curves of arms with groups have one for each group, of
            the first set of each arm.
        hidden: arms that no panel shows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for arm, every in sets.items():
        data["arms"][arm]["curves"] = {s.name: _subsampled(s) for s in every}
    shown = {arm: every for arm, every in sets.items() if arm not in hidden}
    names = list(drawn_sets) or [next(iter(sets.values()))[0].name]
    panels = {
        name: {arm: _drawn(s, data["arms"][arm]) for arm, every in shown.items() for s in every if s.name == name}
        for name in names
    }
    if kind == "curves" and (groups := dict.fromkeys(data["arms"][arm]["group"] for arm in shown)).keys() != {""}:
        panels = {  # of each group, whatever its sets are called
            group: {
                arm: _drawn(of[0], one) for arm, of in shown.items() if (one := data["arms"][arm])["group"] == group
            }
            for group in groups
        }
    figure = study_figures.curves(panels) if kind == "curves" else study_figures.sweep(panels[names[0]], axis, log)
    write_whole(folder / "claims.png", figures.png(figure))
    write_whole(folder / "claims.json", json.dumps(data, separators=(",", ":")).encode())


def load(out: Path, order: Sequence[str]) -> dict[str, JsonObject]:
    """Return the studies that `out` holds, by name, in `order`.

    Raises:
        AdJaxError: for a damaged file.
    """
    paths = {name: out / name / "claims.json" for name in order}
    remedy = "delete it and run the study again"
    return {name: read_json(path, Claims, AdJaxError, remedy) for name, path in paths.items() if path.exists()}


def write(out: Path, order: Sequence[str]) -> Path:
    """Draw the page of all studies in `out`; returns it."""
    studies = load(out, order)
    for path, text in study_text.pages(studies).items():
        write_whole(out / path, text.encode("utf-8", "replace"))
    page = fill(
        "claims.html",
        width="1080px",
        counted=study_text.counted(studies),
        preface=study_text.preface(),
        studies=[_shown(study, (out / name / "claims.png").read_bytes()) for name, study in studies.items()],
    )
    write_whole(out / "claims.html", page)
    return out / "claims.html"


def _shown(study: Mapping[str, Json], image: bytes) -> JsonObject:
    """Return what the page says of one study."""
    return {
        "title": study["title"],
        "image": base64.b64encode(image).decode(),
        "claims": [{**c, "told": study_text.told(c), "ruled": study_text.ruled(c)} for c in study["claims"]],
        "columns": study_text.columns(study),
        "curves": study_text.curve_rows(study),
    }


def _subsampled(s: Set) -> JsonObject:
    """Return the curves of a set, at no more than `POINTS` episodes, as plain data."""
    episodes = s.returns[s.mode].shape[-1]
    at = np.unique(np.geomspace(1, episodes, min(POINTS, episodes)).round().astype(int)) - 1
    data: JsonObject = {"episodes": (at + 1).tolist()}
    for mode, values in s.returns.items():
        curve = report.bootstrap(values[..., at])
        data[mode] = {name: [_number(x) for x in y] for name, y in zip(("mean", "low", "high"), curve)}
    return data


def _number(x: float) -> float | None:
    return None if np.isnan(x) else significant(float(x), 4)


def _drawn(s: Set, arm: Mapping[str, Json]) -> Drawn:
    values = s.returns[s.mode]
    episodes = np.arange(1, values.shape[-1] + 1)
    row = arm["statistics"][s.name]["rows"][-1][s.mode]
    source = None
    if s.source is not None:
        x = np.arange(1, s.source.shape[-1] + 1) * s.source_steps
        inside = x <= s.time(s.mode)[-1]
        if inside.any():
            mean = s.source.mean((0, 1))[inside]
            source = Band(drawings.as_episodes(s, x[inside]), mean, mean, mean)

    def known(y):
        return None if y is None else float(y.mean())

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
