"""Every row of the suite beside the same row of an older commit: two live processes, timed in turn, call by call.

In: a commit of this repository. Out: the ratio new / old of every figure, the median over pairs of calls, with its
quartiles, so that it holds on a machine that is not quiet; a table and a results file.

Each commit is measured by its own suite (`worker.py`), at the sizes of this one. What is counted, and the demo, are no
calls that could take turns: each commit's command makes those rows by itself, one after the other.
"""

import contextlib
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ad_jax
from ad_jax.bench import commits
from ad_jax.bench.results import Results
from ad_jax.bench.rows import load, over
from ad_jax.bench.side import Side, environment
from ad_jax.bench.sizes import Sizes
from ad_jax.errors import ConfigError
from ad_jax.files import JsonObject
from ad_jax.process import provenance
from ad_jax.process.metrics import log
from ad_jax.text import si

HEAD = "| what | new | old | unit | new / old | quartiles | pairs |\n|---|---|---|---|---|---|---|"
PAIRS = 9  # most pairs of calls
LEAST = 3  # pairs that are timed whatever they cost
WHOLE = ("scaling", "demo")  # stages that are run by the command

# The fields of `Sizes` of which a stage times one value after the other, and the module that does.
PARTS: Mapping[str, tuple[str, ...]] = {
    "limits": (),
    "collect": ("q_learners", "ucb_learners", "actor_critic_learners"),
    "distill": ("cases",),
    "rotation": (),
    "rl2": ("trials",),
    "evaluate": ("rollouts",),
    "plan": ("plans",),
    "search": ("plans",),
    "attention": ("head_widths", "variants"),
    "torch": ("cases",),
}


@dataclasses.dataclass(frozen=True)
class Pair:
    """One figure of two commits.

    Attributes:
        key: of the row.
        unit: of the figures.
        new: the figure of this code, None where it has no such row.
        old: the figure of the older commit, None where that has no such row.
        ratio: new / old, the median over pairs of calls; of the figures alone where `pairs` is 0.
        low: the lower quartile of the pairs' ratios; `high` the upper one.
        pairs: of calls that were timed in turn.
    """

    key: str
    unit: str
    new: float | None
    old: float | None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int = 0


def narrowed(stage: str, sizes: Sizes) -> Iterator[Sizes]:
    """Sizes with which a stage times one group of calls each, in the order of the suite; no compiling is timed."""
    cases = [dataclasses.replace(case, compiles=False) for case in sizes.cases]
    if stage == "torch":
        cases = [case for case in (cases if sizes.beside is None else sizes.beside) if case.torch]
    first = sizes.acting if stage in ("evaluate", "plan", "search") and sizes.acting else cases[0]
    sizes = dataclasses.replace(sizes, cases=(first,), beside=None)
    fields = PARTS[stage]
    if not fields:
        yield sizes
    nothing: dict[str, Any] = dict.fromkeys(fields, ())
    for field in fields:
        for value in cases if field == "cases" else getattr(sizes, field):
            yield dataclasses.replace(sizes, **{**nothing, field: (value,)})


def timed_rows(new: Side, old: Side, stage: str, sizes: Sizes) -> Iterator[Pair]:
    """Rows of one group of calls, or of several, of both sides."""
    sides = (new, old)
    for side in sides:  # both compile at once
        side.ask(stage, dataclasses.asdict(sizes))
    answers = {side: side.answer() for side in sides}
    seconds: dict[tuple[int, str], list[list[float]]] = {}
    group = 0
    while waiting := [side for side in sides if "works" in answers[side]]:
        for name, taken in in_turn([(side, answers[side]["works"]) for side in waiting], 2 * sizes.budget).items():
            seconds[group, name] = taken
        for side in waiting:
            answers[side] = side.said({"enough": True})
        group += 1
    if "failed" in answers[new]:
        raise ConfigError(
            f"{stage} of this code cannot be measured: expected rows, received {answers[new]['failed']}. "
            f"`ad-jax bench --only {stage}` says more"
        )
    if "failed" in answers[old]:
        log(f"the older commit does not make these rows of {stage}: {answers[old]['failed']}")
    yield from joined(answers[new]["rows"], answers[old].get("rows", []), seconds)


def in_turn(sides: Sequence[tuple[Side, Mapping[str, float]]], budget: float) -> dict[str, list[list[float]]]:
    """Time every call of one or of two sides, round by round; who begins a pair changes from round to round.

    Returns:
        Rates, amount over seconds, of every call that all sides have: `{name: [[of the first side], [of the second]]}`.
    """
    names = list(dict.fromkeys(name for _, works in sides for name in works))
    rates = {name: [[] for _ in sides] for name in names}
    began = time.perf_counter()
    for done in range(PAIRS):
        if done >= LEAST and time.perf_counter() - began > budget:
            break
        for name in names:
            for index in (range(len(sides)), reversed(range(len(sides))))[done % 2]:
                side, works = sides[index]
                if name in works:
                    answer = side.said({"call": name})
                    if "failed" in answer:
                        raise ConfigError(
                            f"expected seconds of {name!r} in {side.tree}, received: {answer['failed']}. Make room in "
                            "memory for two processes, or name fewer stages with --only"
                        )
                    rates[name][index].append(works[name] / answer["seconds"])
    return {name: of for name, of in rates.items() if all(of)}


def joined(
    new: Sequence[JsonObject], old: Sequence[JsonObject], rates: Mapping[tuple[int, str], Any]
) -> Iterator[Pair]:
    """Rows of either side, side by side.

    Args:
        new: rows as the worker sends them, `{"key", "unit", "value", "timed"}`; `timed` may be missing.
        old: the same of the other side.
        rates: of the calls that were timed in turn, by their group and name.
    """
    before = {row["key"]: row for row in old}
    for row in new:
        was = before.pop(row["key"], None)
        if was is None:
            yield Pair(row["key"], row["unit"], row["value"], None)
            continue
        both = row["key"], row["unit"], row["value"], was["value"]
        call = row.get("timed")
        taken = rates.get((call[0], call[1])) if call and call == was.get("timed") else None
        if not taken:
            yield Pair(*both, row["value"] / was["value"] if was["value"] else None)
            continue
        ratios = [a / b for a, b in zip(*taken, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        yield Pair(*both, middle, low, high, len(ratios))
    for row in before.values():
        yield Pair(row["key"], row["unit"], None, row["value"])


def whole_rows(trees: Sequence[Path], stage: str, options: Sequence[str]) -> Iterator[Pair]:
    """Rows that each commit's own command makes, one after the other; `trees` are of the new and of the old one."""
    found: list[list[JsonObject]] = []
    for tree in trees:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "results.json"
            done = subprocess.run(
                [sys.executable, "-P", "-m", "ad_jax", "bench", *options, "--only", stage, "--out", str(out)],
                env=environment(tree), cwd=tree, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode and tree == trees[0]:
                raise ConfigError(
                    f"{stage} of this code cannot be measured: expected rows, received: {done.stderr[-300:].strip()}. "
                    f"`ad-jax bench --only {stage}` says more"
                )
            if done.returncode:
                log(f"the older commit does not make the rows of {stage}: {done.stderr[-300:].strip()}")
            found.append([dataclasses.asdict(row) for row in load(out)["rows"]] if out.exists() else [])
    yield from joined(found[0], found[1], {})


def pairs(trees: Sequence[Path], stages: Sequence[str], sizes: Sizes, options: Sequence[str]) -> Iterator[Pair]:
    """Return every row of some stages, of the code in two folders, the new and the old."""
    with contextlib.ExitStack() as stack:
        cache = provenance.use_compilation_cache()
        new, old = (stack.enter_context(Side(tree, cache)) for tree in trees)
        for stage in (stage for stage in stages if stage not in WHOLE):
            for one in narrowed(stage, sizes):
                yield from timed_rows(new, old, stage, one)
    for stage in (stage for stage in stages if stage in WHOLE):
        yield from whole_rows(trees, stage, options)


def run(commit: str, out: Path, stages: Sequence[str], name: str, sizes: Sizes, options: Sequence[str]) -> None:
    """Measure, print each row as it comes, and write `out`, which holds what is finished whatever happens after it.

    Args:
        commit: of the repository that the current directory lies in.
        out: the results file.
        stages: to measure, in this order.
        name: of the sizes.
        sizes: of every row.
        options: with which `ad-jax bench` takes these sizes.
    """
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # a GPU's memory is for the two processes that measure
    whole = commits.resolve(commit, Path.cwd())
    results = Results(out, "bench against", against=whole, sizes=name)
    print(HEAD, flush=True)
    with commits.laid_out(whole, Path.cwd()) as tree:
        for pair in pairs((Path(ad_jax.__file__).parents[1], tree), stages, sizes, options):
            print(line(pair), flush=True)
            results.add(dataclasses.asdict(pair))
    found = results.data
    print(
        f"\nnew: {found['provenance']['commit'] or ad_jax.__file__}, old: {whole[:12]}; {name} sizes, "
        f"{found['seconds']:.0f} s, load {found['load'][0]:.1f} at the start; a ratio above 1 is more per second, "
        "or more seconds or bytes where the unit says so"
    )


def line(pair: Pair) -> str:
    """Return one pair as a line of the table: "new" and "gone" are rows that one of the commits lacks."""
    word = "new" if pair.old is None else "gone" if pair.new is None else over(pair.ratio, 1.0)
    figures = " | ".join("-" if value is None else si(value) for value in (pair.new, pair.old))
    spread = "-" if pair.low is None or pair.high is None else f"{pair.low:.3f} to {pair.high:.3f}"
    return f"| {pair.key} | {figures} | {pair.unit} | {word} | {spread} | {pair.pairs or '-'} |"
