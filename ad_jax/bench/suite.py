"""All stages in order, rows printed as they come, and the results file.

{"kind": "bench", "schema", "sizes", "seconds", "load", "provenance", "rows": [...]}
"""

import argparse
import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from ad_jax.bench import (
    attending,
    collecting,
    distilling,
    end_to_end,
    evaluating,
    limits,
    reinforcing,
    rotating,
    scaling,
)
from ad_jax.bench.rows import SCHEMA, Row, compare, listed, load, table
from ad_jax.bench.sizes import ACCELERATOR, FULL, QUICK, Sizes
from ad_jax.errors import ConfigError
from ad_jax.files import JsonObject, write_json
from ad_jax.process import provenance
from ad_jax.process.metrics import log
from ad_jax.text import percent, si

STAGES = ("limits", "collect", "distill", "rotation", "rl2", "evaluate", "attention", "scaling", "demo")


def chosen(quick: bool) -> tuple[str, Sizes]:
    """Sizes for this machine, with their name."""
    if quick:
        return "quick", QUICK
    return ("full", FULL) if jax.default_backend() == "cpu" else ("accelerator", ACCELERATOR)


def stage_rows(stage: str, sizes: Sizes, quick: bool, demo: Path | None) -> Iterator[Row]:
    """Rows of one stage."""
    if stage == "demo":
        return iter(()) if quick and demo is None else end_to_end.rows(demo, quick)
    modules = {
        "limits": limits,
        "collect": collecting,
        "distill": distilling,
        "rotation": rotating,
        "rl2": reinforcing,
        "evaluate": evaluating,
        "attention": attending,
        "scaling": scaling,
    }
    return modules[stage].rows(sizes)


def run(
    out: Path,
    quick: bool = False,
    only: str | None = None,
    demo: Path | None = None,
    torch: bool = False,
    sizes: Sizes | None = None,
) -> JsonObject:
    """Measure and write `out`; every finished row is kept there, whatever happens after it.

    Args:
        out: the results file.
        quick: small sizes, a few minutes with compiling.
        only: one of `STAGES`.
        demo: a finished run directory of Dark Room; without it, the full suite runs the demo.
        torch: also the same model and step in PyTorch, which must be installed.
        sizes: instead of the machine's own.
    """
    name, default = chosen(quick)
    results: JsonObject = {
        "kind": "bench",
        "schema": SCHEMA,
        "sizes": name,
        "seconds": 0.0,
        "load": list(os.getloadavg()),
        "provenance": provenance.collect(),
        "rows": [],
    }
    started = time.perf_counter()
    for row in measured(only, sizes or default, quick, demo, torch):
        log(f"{row.key:56} {si(row.value):>8} {row.unit:12} {percent(row.share):>8} of {row.limit}")
        log(f"{'':56} {listed(row.facts)}") if row.facts else None
        results["rows"].append(dataclasses.asdict(row))
        results["seconds"] = time.perf_counter() - started
        write_json(out, results, indent=1)
    return results


def measured(only: str | None, sizes: Sizes, quick: bool, demo: Path | None, torch: bool) -> Iterator[Row]:
    """Rows of the stages asked for."""
    reference = None
    if torch:
        from ad_jax.bench import (
            torch_reference as reference,  # first, so that its absence is said before minutes of measuring
        )
    for stage in STAGES if only is None else (only,):
        yield from stage_rows(stage, sizes, quick, demo)
    if reference:
        yield from reference.rows(sizes)


def main(args: argparse.Namespace) -> int:
    """`ad-jax bench`."""
    old = load(args.compare) if args.compare else None  # before minutes of measuring
    if args.show:
        results = load(args.show)
    else:
        if args.only == "demo" and args.quick and args.demo is None:
            raise ConfigError("bench --quick does not run the demo; name a finished run with --demo DIR")
        run(args.out, args.quick, args.only, args.demo, args.torch)
        results = load(args.out)
    print(f"\n{table(results['rows'])}\n\n{origin(results)}")
    if old is not None:
        print(f"\n{compare(results['rows'], old['rows'])}")
    return 0


def origin(results: JsonObject) -> str:
    """Where and how a results file was measured, in one line."""
    p = results["provenance"]
    return (
        f"{results['sizes']} sizes, {results['seconds']:.0f} s, on {p['device']}, {p['processor']}, "
        f"{p['cpu_cores']} cores, jax {p['jax']}, commit {p['commit']}, load {results['load'][0]:.1f} at the start"
    )
