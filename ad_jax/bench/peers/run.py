"""`ad-jax bench --peers [NAMES]`: every line of the table, ours and the peers' in turn; the table, and a results file.

{"kind": "bench peers", "schema", "quick", "seconds", "load", "provenance", "rows": [...]}
"""

import contextlib
import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ad_jax.bench.against import in_turn
from ad_jax.bench.peers.install import HERE, MissingError, installed
from ad_jax.bench.peers.known import PEERS, Work, works
from ad_jax.bench.results import Results
from ad_jax.bench.side import Side
from ad_jax.errors import ConfigError, unknown
from ad_jax.files import JsonObject
from ad_jax.process.metrics import log
from ad_jax.text import aligned, si

BUDGET = 60.0  # seconds after which no further round of a line starts, once the fewest are done
OURS = "ours"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One peer on one line.

    Attributes:
        value: its figure, amount over the median seconds, in the line's unit.
        ratio: ours / theirs, the median over pairs of calls; `low` and `high` its quartiles.
        pairs: of calls.
        first: seconds of its first call, compiling included and importing not.
        facts: what it said of its first call, and its versions.
    """

    value: float
    ratio: float
    low: float
    high: float
    pairs: int
    first: float
    facts: JsonObject


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table: `cells` by peer; a peer that has failed is in `failed`, with why."""

    what: str
    unit: str
    ours: float
    first: float
    facts: JsonObject
    cells: Mapping[str, Cell]
    failed: Mapping[str, str]


class Program(Side):
    """A side's program, alive from entering to leaving; it answers calls as the suite's worker does."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
        super().__init__(Path(command[-2]), Path())
        self.command, self.variables = command, environment

    def start(self) -> None:
        """Start the process.

        Raises:
            MissingError: if it does not come up.
        """
        self.process = subprocess.Popen(
            self.command, env=self.variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
            text=True,
        )  # fmt: skip
        answer = self.answer()
        if "ready" not in answer:
            self.stop()
            raise MissingError(f"does not run: {answer['failed']}")
        self.versions = answer["ready"]

    def first(self) -> tuple[float, JsonObject]:
        """Return the seconds of the first call, and the facts that come with it.

        Raises:
            MissingError: if it fails.
        """
        answer = self.said({"call": "first"})
        if "failed" in answer:
            raise MissingError(f"does not run: {answer['failed']}")
        facts = {name: value for name, value in answer.items() if name != "seconds"}
        return answer["seconds"], {**facts, **self.versions}


def ours(work: Work) -> Program:
    """Return our side of a line; it compiles anew, as the others do."""
    variables = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    return Program([sys.executable, "-P", str(HERE / "ours_worker.py"), json.dumps(work.sizes)], variables)


def theirs(name: str, work: Work) -> Program:
    """Return a peer's side of a line, installed first.

    Raises:
        MissingError: if it cannot be.
    """
    python, checkout = installed(PEERS[name])
    variables = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    variables.pop("PYTHONPATH", None)  # of our libraries
    sizes = {**work.sizes, "peer": name, "checkout": str(checkout)}
    return Program([str(python), str(HERE / "programs" / PEERS[name].worker), json.dumps(sizes)], variables)


def line(
    what: str,
    work: Work,
    peers: Sequence[str],
    mine: Callable[[Work], Program] = ours,
    other: Callable[[str, Work], Program] = theirs,
    budget: float = BUDGET,
) -> Line:
    """Time one line: ours and each peer in turn, both processes alive meanwhile. A peer that fails is left out.

    Raises:
        ConfigError: if our side fails.
    """
    cells: dict[str, Cell] = {}
    failed: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        try:
            side = stack.enter_context(mine(work))
            first, facts = side.first()
        except MissingError as error:
            raise ConfigError(f"our side of {what!r} {error}") from error
        rates: list[float] = []
        for name in peers:
            try:
                with other(name, work) as peer:
                    peer_first, peer_facts = peer.first()
                    both = [(side, {what: work.amount}), (peer, {what: work.amount})]
                    a, b = in_turn(both, budget)[what]
            except (MissingError, ConfigError) as error:
                failed[name] = str(error)
                log(f"{name} is left out of {what!r}: {error}")
                continue
            ratios = [x / y for x, y in zip(a, b, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
            value = statistics.median(b)
            cells[name] = Cell(value, middle, low, high, len(ratios), peer_first, peer_facts)
            rates += a
    return Line(what, work.unit, statistics.median(rates) if rates else 0.0, first, facts, cells, failed)


def chosen(names: Sequence[str]) -> list[str]:
    """Return the peers that are meant, all where none is named.

    Raises:
        ConfigError: for an unknown name, with near matches.
    """
    for name in names:
        if name not in PEERS:
            raise unknown("peer", name, PEERS)
    return [name for name in PEERS if name in names or not names]


def lines(names: Sequence[str], quick: bool) -> Iterator[Line]:
    """Return every line that one of these peers is in."""
    for what, work in works(quick).items():
        peers = [name for name in work.peers if name in names]
        if peers:
            yield line(what, work, peers)


def run(names: Sequence[str], out: Path, quick: bool = False) -> str:
    """Measure, and write `out`, which holds what is finished whatever happens after it; returns the table.

    Args:
        names: of peers; none means all.
        out: the results file.
        quick: calls do less.

    Raises:
        ConfigError: for an unknown name.
    """
    peers = chosen(names)
    results = Results(out, "bench peers", quick=quick)
    done = []
    for found in lines(peers, quick):
        done.append(found)
        results.add(dataclasses.asdict(found))
    return table(done, peers)


def table(rows: Sequence[Line], peers: Sequence[str]) -> str:
    """Return a Markdown table with a column a peer, and why some are absent below it."""
    cells = [("what", "unit", OURS, *(f"{OURS} / {name}" for name in peers))]
    for row in rows:
        cells.append((row.what, row.unit, si(row.ours) if row.cells else "-", *(_cell(row, name) for name in peers)))
        first = (f"{row.first / row.cells[name].first:.2f}" if name in row.cells else "-" for name in peers)
        cells.append((f"{row.what}, first call", "s", f"{row.first:.1f}", *first))
    head, *body = ["| " + " | ".join(part) + " |" for part in aligned(cells)]
    why = {f"{name}: {text}": None for row in rows for name, text in row.failed.items()}
    return "\n".join([head, re.sub("[^|]", "-", head), *body, *(["", *why] if why else [])])


def _cell(row: Line, name: str) -> str:
    if name in row.failed:
        return row.failed[name].partition(":")[0]
    if name not in row.cells:
        return "-"
    cell = row.cells[name]
    return f"{cell.ratio:.2f} ({cell.low:.2f} to {cell.high:.2f}; {si(cell.value)})"
