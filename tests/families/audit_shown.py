"""What a report shows, texts, tables and figures, held against what happened."""

import html
import re
from typing import Any

import numpy as np

from families import audit
from families.audit import SetTruth, close, shows
from families.audit_report import Known, numbers


def check_summary(text: str, runs: list[SetTruth], known: Known) -> None:
    """`held-out return A → B of C over N in-context episodes`, or `(optimal C)` where it is a cost."""
    n = numbers(runs, "sampled")
    found = re.search(r"return (\S+) → (\S+)(?: of (\S+)| \(optimal (\S+)\))? over (\d+) in-context", text)
    shows(found[1], n.first)
    shows(found[2], n.final)
    if known.optimal is not None:
        shows(found[3] or found[4], float(known.optimal.mean()))
        assert (found[3] is not None) == (known.optimal.mean() > 0), "to be -9 of -2 means nothing"
    assert int(found[5]) == len(n.curve)


def check_table(text: str, every: list[list[SetTruth]], names: list[str]) -> None:
    """Check the terminal's table: blocks of sets, a row per run and one for all."""
    blocks = text.split("\n\n")
    assert len(blocks) == len(names)
    for name, block, runs in zip(names, blocks, every, strict=True):
        head, columns, *rows = block.splitlines()
        assert head.startswith(f"{name} ({len(runs[0].rollouts['sampled'])} tasks")
        assert columns.split()[:3] == ["seed", "episode", "1"]
        for i, row in enumerate(rows):
            some = runs if i == len(runs) else runs[i : i + 1]
            cells = re.split(r"  +", row.strip())
            n = numbers(some, "sampled")
            shows(cells[1], n.first)
            shows(cells[2], n.final)
            if "greedy" in some[0].rollouts:
                shows(cells[4], numbers(some, "greedy").final)


def cells_of(page: str) -> list[list[str]]:
    """Return the rows of every table of a page, as text."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.DOTALL)

    def strip(cell):
        return html.unescape(re.sub(r"<[^>]*>", "", cell)).strip()

    return [[strip(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)] for row in rows]


def check_page(page: str, stats: dict[str, Any]) -> None:
    """Check that the page's tables hold the numbers of the (checked) statistics of its sets."""
    rows = cells_of(page)
    for one in stats["sets"].values():
        source = one["source"]
        for level in [] if source is None else source["levels"]:
            row = next(row for row in rows if len(row) == 5 and row[0] == level["level"])
            rows.remove(row)
            shows(row[1], level["return"])
            assert row[2] == ("never" if level["ad_steps"] is None else f"{round(level['ad_steps']):,}")
            reached = f"{level['source_steps']:,}" if level["reached"] else f"not in {level['source_end']:,}"
            assert row[3] == reached
            if level["ratio"] is not None:
                text = row[4].removesuffix("\N{MULTIPLICATION SIGN}").removeprefix("> ")
                bound = level["ratio"] if level["reached"] else min(level["ratio"], float(text) + 1e-9)
                shows(text, bound)


def check_figures(figures: dict[str, Any], runs: list[SetTruth], known: Known) -> None:
    """Check what is drawn: the learner over episodes and over steps, the source over steps."""
    n = numbers(runs, "sampled")
    drawn = {str(line.get_label()): line for line in figures["curve"].axes[0].lines}
    close(list(map(float, drawn["AD, sampled"].get_xdata())), [float(e + 1) for e in range(len(n.curve))])
    close(list(map(float, drawn["AD, sampled"].get_ydata())), n.curve.tolist())
    if runs[0].source is None:
        return
    pieces = min(t.lifetime // known.longest for t in runs)
    source = np.mean(
        [audit.source_by_time(t.source, known.longest, t.lifetime)[..., :pieces].mean((0, 1)) for t in runs], 0
    )
    for line in figures["efficiency"].axes[0].lines:
        label = str(line.get_label())
        if label.startswith("AD"):
            close(list(map(float, line.get_xdata())), n.time.tolist())
        elif "from scratch" in label:
            assert line.get_xdata().tolist() == [(p + 1) * known.longest * known.actors for p in range(pieces)]
            close(list(map(float, line.get_ydata())), source.tolist())
