"""All stages in order, rows printed as they come, and the results file.

{"kind": "bench", "schema", "sizes", "seconds", "load", "provenance", "rows": [...]}
"""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from ad_jax.bench import (
    against,
    attending,
    collecting,
    diffusing,
    distilling,
    end_to_end,
    evaluating,
    growth,
    limits,
    reinforcing,
    rotating,
    scaling,
    searching,
)
from ad_jax.bench.peers import run as peers
from ad_jax.bench.results import Results
from ad_jax.bench.rows import Row, compare, listed, load, reached, table
from ad_jax.bench.sizes import ACCELERATOR, BRIEF, FULL, QUICK, TRIAL, Sizes
from ad_jax.errors import ConfigError
from ad_jax.files import JsonObject
from ad_jax.process.metrics import log
from ad_jax.text import si

STAGES = (
    "limits",
    "collect",
    "distill",
    "rotation",
    "rl2",
    "evaluate",
    "plan",
    "search",
    "attention",
    "scaling",
    "demo",
)


def chosen(quick: bool, brief: bool = False) -> tuple[str, Sizes]:
    """Sizes for this machine, with their name."""
    if quick:
        return "quick", QUICK
    cpu = jax.default_backend() == "cpu"
    if brief:
        return ("trial", TRIAL) if cpu else ("brief", BRIEF)
    return ("full", FULL) if cpu else ("accelerator", ACCELERATOR)


def stage_rows(stage: str, sizes: Sizes, demo: Path | None) -> Iterator[Row]:
    """Rows of one stage."""
    if stage == "demo":
        if demo is None and sizes.demo is None:
            return iter(())
        return end_to_end.rows(demo, sizes.demo or "", sizes.compiling)
    modules = {
        "limits": limits,
        "collect": collecting,
        "distill": distilling,
        "rotation": rotating,
        "rl2": reinforcing,
        "evaluate": evaluating,
        "plan": diffusing,
        "search": searching,
        "attention": attending,
        "scaling": scaling,
    }
    return modules[stage].rows(sizes)


def run(
    out: Path,
    quick: bool = False,
    only: Sequence[str] = STAGES,
    demo: Path | None = None,
    torch: bool = False,
    sizes: Sizes | None = None,
    brief: bool = False,
) -> JsonObject:
    """Measure and write `out`; every finished row is kept there, whatever happens after it.

    Args:
        out: the results file.
        quick: small sizes, a few minutes with compiling.
        only: some of `STAGES` and "torch", in the order in which they are measured.
        demo: a finished run directory of Dark Room; without it, the full suite runs the demo.
        torch: also the same model and step in PyTorch, which must be installed.
        sizes: instead of the machine's own.
        brief: what is asked first of an accelerator, in minutes; on a CPU the same rows at sizes that say nothing.
    """
    name, default = chosen(quick, brief)
    results = Results(out, "bench", sizes=name)
    for row in measured(only, sizes or default, demo, torch):
        log(f"{row.key:56} {si(row.value):>8} {row.unit:12} {reached(row):>9} of {row.limit}")
        log(f"{'':56} {listed(row.facts)}") if row.facts else None
        results.add(dataclasses.asdict(row))
    return results.data


def measured(only: Sequence[str], sizes: Sizes, demo: Path | None, torch: bool) -> Iterator[Row]:
    """Rows of the stages asked for."""
    stages, reference = (*only, *(("torch",) if torch else ())), None
    if "torch" in stages:
        from ad_jax.bench import (
            torch_reference as reference,  # first, so that its absence is said before minutes of measuring
        )
    for stage in stages:
        yield from reference.rows(sizes) if reference and stage == "torch" else stage_rows(stage, sizes, demo)


def main(args: argparse.Namespace) -> int:
    """`ad-jax bench`."""
    if args.scaling:
        return main_scaling(args)
    if args.peers is not None:
        return main_peers(args)
    if args.against:
        return main_against(args)
    old = load(args.compare) if args.compare else None  # before minutes of measuring
    if args.show:
        results = load(args.show)
    else:
        if args.only == ["demo"] and args.quick and args.demo is None:
            raise ConfigError("bench --quick does not run the demo; name a finished run with --demo DIR")
        out = args.out or Path("runs/bench/results.json")
        run(out, args.quick, args.only or STAGES, args.demo, args.torch, brief=args.brief)
        results = load(out)
    print(f"\n{table(results['rows'])}\n\n{origin(results)}")
    if old is not None:
        print(f"\n{compare(results['rows'], old['rows'])}")
    return 0


def main_scaling(args: argparse.Namespace) -> int:
    """`ad-jax bench --scaling`.

    Raises:
        ConfigError: with options that mean other results.
    """
    for option in ("quick", "brief", "only", "show", "compare", "against", "peers", "demo", "torch"):
        if getattr(args, option) or (option == "peers" and args.peers is not None):
            raise ConfigError(f"bench --scaling measures growing sizes of its own; got --{option}, too. Leave one out")
    growth.run(args.out or Path("runs/bench/scaling.json"))
    return 0


def main_against(args: argparse.Namespace) -> int:
    """`ad-jax bench --against COMMIT`.

    Raises:
        ConfigError: with options that mean other results than those of two commits.
    """
    for option in ("show", "compare", "demo"):
        if getattr(args, option):
            raise ConfigError(f"bench --against measures two commits; got --{option}, too. Leave one of them out")
    name, sizes = chosen(args.quick, args.brief)
    stages = [*(args.only or [stage for stage in STAGES if sizes.demo or stage != "demo"])]
    options = [*(["--quick"] if args.quick else []), *(["--brief"] if args.brief else [])]
    out = args.out or Path("runs/bench/against.json")
    against.run(args.against, out, [*stages, *(["torch"] if args.torch else [])], name, sizes, options)
    return 0


def main_peers(args: argparse.Namespace) -> int:
    """`ad-jax bench --peers [NAME ...]`.

    Raises:
        ConfigError: with options that mean other results, or for an unknown name.
    """
    for option in ("show", "compare", "against", "demo", "only", "torch", "brief"):
        if getattr(args, option):
            raise ConfigError(f"bench --peers measures others beside ours; got --{option}, too. Leave one of them out")
    print(f"\n{peers.run(args.peers, args.out or Path('runs/bench/peers.json'), args.quick)}")
    return 0


def origin(results: JsonObject) -> str:
    """Where and how a results file was measured, in one line."""
    p = results["provenance"]
    return (
        f"{results['sizes']} sizes, {results['seconds']:.0f} s, on {p['device']}, {p['processor']}, "
        f"{p['cpu_cores']} cores, jax {p['jax']}, commit {p['commit']}, load {results['load'][0]:.1f} at the start"
    )
