"""Claims with verdicts in words: sentences, tables, and the Markdown of one study or of all. Imports no JAX."""

from collections.abc import Mapping

from ad_jax import normalized
from ad_jax.files import Json
from ad_jax.report.page import interval, ratio
from ad_jax.text import number

WAY, RATIO = "90 % of the way to final", "90 % of final"  # the second of studies from before there was the first
# What is said of every curve, beside its arm, tasks and actions.
COLUMNS = (
    "arm",
    "tasks",
    "actions",
    "seeds",
    "episode 1",
    "last 10 %",
    "95 % interval",
    "all, share of the way from random to optimal",
    f"episodes to {WAY}",
    "the source after as many steps",
    "its steps for the same return / AD's",
)


def pages(studies: Mapping[str, Mapping[str, Json]]) -> dict[str, str]:
    """Markdown by path: `claims.md` with the claims of all studies, and each one's own page, `NAME/README.md`."""
    parts = ["# Claims and verdicts", "", counted(studies), "", preface()]
    for name, study in studies.items():
        parts += ["", f"## {study['title']}", "", *_section(name, study, f"{name}/")]
    own = {f"{name}/README.md": _own_page(name, study) for name, study in studies.items()}
    return {"claims.md": "\n".join(parts) + "\n"} | own


def _own_page(name: str, study: Mapping[str, Json]) -> str:
    """Return what was claimed, run and found: the claims of a study, and every curve behind them."""
    rule = "|" + "---|" * len(COLUMNS)

    def row(cells):
        return f"| {' | '.join(cells)} |"

    curves = ["## Every curve", "", row(columns(study)), rule, *map(row, curve_rows(study))]
    return "\n".join([f"# {study['title']}", "", preface(), "", *_section(name, study, ""), "", *curves]) + "\n"


def _section(name: str, study: Mapping[str, Json], folder: str) -> list[str]:
    """Claims, notes on those that do not hold, and the figure; `folder` is where links begin."""
    lines = [f"[{name}]({folder}config.py), `ad-jax reproduce {name}`, scale {study['scale']}.", "", *table(study)]
    lines += [f"\n*{c['text']}* does not hold: {c['note']}" for c in study["claims"] if c["note"] and not c["holds"]]
    return [*lines, "", f"![{study['title']}]({folder}claims.png)"]


def sentence(claim: Mapping[str, Json]) -> str:
    """Return a claim with its number: what decided it, in one line."""
    return f"{claim['text']}: {told(claim)}, {ruled(claim)}"


def ruled(claim: Mapping[str, Json]) -> str:
    """Return the rule of a claim, and what of the claim was changed after the run."""
    changed = claim.get("changed", "")  # early studies have none
    return f"{claim['rule']} ({changed})" if changed else claim["rule"]


def told(claim: Mapping[str, Json]) -> str:
    """Return the number of a claim, with its interval."""
    size = max(abs(claim[name] or 0) for name in ("value", "low", "high"))
    value = number(claim["value"], size)
    if claim["low"] is None:
        return f"{value} (no interval: one task and one training seed)"
    low, high = number(claim["low"], size), number(claim["high"], size)

    def sign(text, x):
        return f"-{text}" if x < 0 and not text.startswith("-") and float(text) != 0 else text

    return f"{sign(value, claim['value'])} ({sign(low, claim['low'])} to {sign(high, claim['high'])})"


def counted(studies: Mapping[str, Mapping[str, Json]]) -> str:
    """How many claims hold."""
    claims = [claim for study in studies.values() for claim in study["claims"]]
    return f"{sum(c['holds'] for c in claims)} of {len(claims)} claims hold, in {len(studies)} studies."


def table(study: Mapping[str, Json]) -> list[str]:
    """Return a study's claims as rows of a Markdown table."""
    rows = ["| claim | the paper | here (95 % interval) | rule | verdict |", "|---|---|---|---|---|"]
    for claim in study["claims"]:
        verdict, here = "holds" if claim["holds"] else "**does not hold**", f"{told(claim)}: {claim['statistic']}"
        rows.append(f"| {claim['text']} | {claim['paper']} | {here} | {ruled(claim)} | {verdict} |")
    return rows


def preface() -> str:
    return (
        "Every number is of tasks never trained on, with frozen weights, and of sampled actions where nothing else is "
        "said. Intervals are bootstraps over training seeds, then tasks; a rule asks for the whole interval and "
        "stands in the study's config.py."
    )


def columns(study: Mapping[str, Json]) -> list[str]:
    """Return the heads of `curve_rows`."""
    every = [stats["rows"][-1] for arm in study["arms"].values() for stats in arm["statistics"].values()]
    old = any(RATIO in row[mode]["episodes_to"] for row in every for mode in row if mode in ("sampled", "greedy"))
    return [name.replace(WAY, RATIO) if old else name for name in COLUMNS]


def curve_rows(study: Mapping[str, Json]) -> list[list[str]]:
    """Every curve of a study under `COLUMNS`."""
    rows = []
    for name, arm in study["arms"].items():
        for set_name, stats in arm["statistics"].items():
            modes = [mode for mode in ("sampled", "greedy") if mode in stats["rows"][-1]]
            rows += [[name, set_name, mode, *_numbers(stats, mode)] for mode in modes]
    return rows


def _area(one: Mapping[str, Json], stats: Mapping[str, Json]) -> float | None:
    """Mean of all episodes between random and optimal; studies from before `WAY` hold it divided by the optimum."""
    if RATIO not in one["episodes_to"] or one["area"] is None:
        return one["area"]
    return normalized.share(one["area"] * stats["optimal"], stats["random"], stats["optimal"])


def _numbers(stats: Mapping[str, Json], mode: str) -> list[str]:
    """One curve: what `report.statistics` says of it."""
    one, source = stats["rows"][-1][mode], stats["source"]
    size = max(abs(one["final"]), abs(stats["optimal"] or 0))

    def or_none(value, text):
        return "-" if value is None else text(value)

    def told(value):
        return or_none(value, lambda x: number(x, size))

    levels = source["levels"] if source and mode == "sampled" else []
    return [
        str(stats["runs"]),
        number(one["first"], size),
        number(one["final"], size),
        interval(one, size),
        or_none(_area(one, stats), lambda x: f"{x:.3f}"),
        or_none(one["episodes_to"].get(WAY, one["episodes_to"].get(RATIO)), str),
        told(source.get("same_steps_by", {}).get(mode, source["same_steps"]) if source else None),
        ratio(levels[0]) if levels else "-",
    ]
