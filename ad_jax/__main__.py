"""The command line: `ad-jax`, or `python -m ad_jax`. It wires stages and holds no logic.

Nothing heavy is imported before a command runs, so `--help` answers at once. Exit status: 0 done, 2 bad input, 75
stopped by SIGTERM (run it again: schedulers can be told to), 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FLOW = """\
The four stages, each of which goes on where it was stopped:

  collect    source learners, thousands side by side, write their learning histories to disk
  distill    a causal transformer learns to predict the histories' actions
  evaluate   frozen, it learns held-out tasks in its context
  report     one page with curves, tables and pictures

  ad-jax run dark_room                       all four; prints where the report is
  ad-jax run dark_room distill.updates=2000  with a field overridden
"""

OVERRIDES = """\
Every field of the experiment can be overridden: field=value, with dotted names, for example
  seed=1  distill.updates=2000  env.size=17  source.learning_rate=0.1  model.layers=6  mesh.fsdp=2
Options of a plug-in follow its name: env.*, source.*, model.*. `ad-jax show EXPERIMENT` prints every field.
"""

NEEDED = ("jax", "flax", "gymnax", "matplotlib", "numpy", "optax", "orbax", "tensorstore")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        "ad-jax",
        description="In-context reinforcement learning by Algorithm Distillation.\n\n" + FLOW,
        formatter_class=raw,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def stage(name: str, text: str) -> None:
        sub = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=OVERRIDES, formatter_class=raw
        )
        sub.add_argument("experiment", help="an experiment's name (e.g. dark_room), its folder, or its file")
        sub.add_argument("overrides", nargs="*", metavar="field=value", help="overridden fields")
        sub.add_argument("--scale", default="cpu", help="the experiment's size: cpu (default) or another it defines")
        sub.add_argument("--dir", type=Path, help="run directory (default runs/<experiment>/<hash of the config>)")
        sub.add_argument(
            "--histories", help="where the histories are: a directory, gs:// or s3:// (default DIR/histories)"
        )
        if name != "show":
            sub.add_argument(
                "--processes",
                metavar="WHERE",
                help="one of several processes: auto (SLURM, Open MPI, Kubernetes, TPU), or HOST:PORT,RANK/COUNT",
            )

    stage("run", "all four stages: collect, distill, evaluate, report")
    stage("collect", "stage 1: run the source algorithm on the training tasks and keep every learning history")
    stage("distill", "stage 2: train the transformer on the histories")
    stage("evaluate", "stage 3: let the frozen transformer learn the held-out tasks in its context")
    stage("show", "print the experiment's claim, every field and what it costs, and check it, without running anything")

    ahead = commands.add_parser(
        "plan",
        help="compile a training update for a mesh of any size, and print what each device would need",
        description="Compile one training update for as many virtual CPU devices as the mesh has, without allocating, "
        "and print each device's memory, FLOP and collectives, and an estimated time. How to read it: docs/plan.md.",
        epilog=OVERRIDES,
        formatter_class=raw,
    )
    ahead.add_argument("experiment", help="an experiment's name (e.g. dark_room), its folder, or its file")
    ahead.add_argument("overrides", nargs="*", metavar="field=value", help="overridden fields")
    ahead.add_argument("--scale", default="cpu", help="the experiment's size: cpu (default) or another it defines")
    ahead.add_argument("--mesh", default="data=1", metavar="AXES", help="e.g. data=32,fsdp=8,tensor=4 (default data=1)")
    ahead.add_argument("--size", metavar="SIZE", help="make the model this large: 100m, 1b or 8b parameters")
    ahead.add_argument("--on", default="h100-sxm", metavar="NAME", help="accelerator (default %(default)s)")
    ahead.add_argument(
        "--compare", action="store_true", help="also plan with each of remat, accumulation and sharded state changed"
    )

    page = commands.add_parser(
        "report",
        help="stage 4: page and figures from results.json, of one run or several seeds",
        description="Draw one page from one or several results.json (runs of one experiment with "
        "different seeds are pooled).",
    )
    page.add_argument("results", nargs="+", type=Path, help="results.json files or run directories")
    page.add_argument("--out", type=Path, help="where the page goes (default: report/ beside the first results)")
    page.add_argument("--pool", type=Path, metavar="FILE", help="also write the pooled results there, as results.json")

    store = commands.add_parser(
        "histories", help="look at a collection of learning histories, or check every byte of it"
    )
    actions = store.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (("info", "print what is in it"), ("verify", "check every byte")):
        sub = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        sub.add_argument("path", help="a directory, gs:// or s3:// URL")

    bench = commands.add_parser(
        "bench",
        help="measure throughput: every stage, and the limits of this machine beside it",
        description="Measure every stage as an absolute figure and as a share of a limit that is measured in the same "
        "run. Minutes on two CPU cores; experiments/speed/README.md says how to read it.",
    )
    bench.add_argument("--quick", action="store_true", help="small sizes, under a minute")
    stages = ("limits", "collect", "distill", "rotation", "rl2", "evaluate", "attention", "scaling", "demo")
    bench.add_argument("--only", choices=stages, help="one stage")
    bench.add_argument(
        "--out", type=Path, default=Path("runs/bench/results.json"), help="results (default %(default)s)"
    )
    bench.add_argument("--show", type=Path, metavar="RESULTS", help="measure nothing, print the table of this file")
    bench.add_argument("--compare", type=Path, metavar="OLD", help="also print ratios against these results")
    bench.add_argument("--demo", type=Path, metavar="DIR", help="a finished run of dark_room; else the demo is run")
    bench.add_argument(
        "--torch", action="store_true", help="also the same model in PyTorch (pip install 'ad_jax[torch]')"
    )

    again = commands.add_parser(
        "reproduce",
        help="run every study of the paper's claims, and draw one page with verdicts",
        description="Make what is missing of every study: histories, models (each trained once), evaluations; decide "
        "its claims; draw one page. Killed, the same command goes on. A second process on the same directory shares "
        "the work.",
    )
    again.add_argument("studies", nargs="*", help="names of studies (default: all, in the paper's order)")
    again.add_argument("--scale", default="cpu", help="size of every study: cpu (default) or another it defines")
    again.add_argument("--dir", type=Path, help="where pieces are kept (default runs/reproduce/SCALE)")
    again.add_argument("--out", type=Path, help="where claims, figures and page go (default DIR/page)")

    check = commands.add_parser("check", help="run the public contract checks on a task family or source of your own")
    check.add_argument("plugin", help="a registered name, or my_pkg.my_env:MyEnv")
    return top


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The parsed command line. Overrides may also follow an option, which argparse alone does not understand."""
    top = parser()
    args, rest = top.parse_known_args(arguments)
    if rest and (not hasattr(args, "overrides") or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = parse(arguments)
    from ad_jax import stopping
    from ad_jax.errors import AdJaxError

    handler: Callable[[Any], int] = {
        "histories": _histories,
        "report": _report,
        "check": _check,
        "show": _show,
        "bench": _bench,
        "reproduce": _reproduce,
        "plan": _plan,
    }.get(args.command, _stage)
    undo = stopping.listen()
    try:
        if "" not in sys.path:
            sys.path.append("")  # the current directory, for plug-ins that lie beside the experiment
        return handler(args)
    except AdJaxError as error:
        print(f"ad-jax: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        print(
            f"ad-jax: {error.name} is not installed for {sys.executable}; pip install -e . brings it", file=sys.stderr
        )
        return 2
    except OSError as error:
        print(
            f"ad-jax: {error}. Finished parts are kept; run the same command again to go on",
            file=sys.stderr,
        )
        return 2
    except stopping.Preempted:
        print("\nad-jax: stopped by SIGTERM; run the same command again to go on from here", file=sys.stderr)
        return stopping.STATUS
    except KeyboardInterrupt:
        print("\nad-jax: interrupted; run the same command again to go on from here", file=sys.stderr)
        return 130
    finally:
        undo()


def _experiment(args: argparse.Namespace) -> Any:
    from ad_jax import experiment, provenance

    provenance.use_compilation_cache()
    return experiment.override(experiment.load(args.experiment, args.scale), args.overrides)


def _stage(args: argparse.Namespace) -> int:
    from ad_jax import farewell, processes

    processes.start(args.processes)  # before anything else of JAX
    farewell.listen()
    experiment = _experiment(args)
    from ad_jax.metrics import say
    from ad_jax.pipeline import Run

    run = Run(experiment, args.dir, args.histories, trains=args.command in ("run", "distill"))
    say(f"run      {run.folder}")
    {"run": run.all, "collect": run.collect, "distill": run.distill, "evaluate": run.evaluate}[args.command]()
    return 0


def _show(args: argparse.Namespace) -> int:
    import json

    experiment = _experiment(args)
    from ad_jax import cost
    from ad_jax.experiment import build, docstring

    parts = build(experiment)
    print(docstring(args.experiment), json.dumps(experiment.to_json(), indent=2), sep="\n\n")
    print(f"\nmodel    {parts.model_config}\nsource   {parts.source_config}\nenv      {parts.family}\n")
    print("What it costs: counted, on one device, nothing compiled", *cost.count(experiment, parts).lines(), sep="\n")
    return 0


def _plan(args: argparse.Namespace) -> int:
    # The partitioner warns of what it has to move; the plan counts that.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from ad_jax import accelerators, sharding

    mesh, on = sharding.parse_mesh(args.mesh), accelerators.find(args.on)
    sharding.virtual_devices(mesh.data * mesh.fsdp * mesh.tensor)
    from ad_jax import experiment, plan

    e = plan.sized(experiment.load(args.experiment, args.scale), args.size, args.overrides)
    plans = {"as planned": plan.plan(e, mesh)}
    print(*plan.lines(plans["as planned"], args.on, on), sep="\n", flush=True)
    if args.compare:
        plans |= {name: plan.plan(*other) for name, other in plan.alternatives(e, mesh).items()}
        print("", *plan.table(plans, on), sep="\n")
    return 0


def _report(args: argparse.Namespace) -> int:
    from ad_jax import report

    results = report.load(args.results)
    first = args.results[0]
    out = args.out or (first if first.is_dir() else first.parent) / "report"
    page = report.write(results, out)
    if args.pool:
        report.pool(results, args.pool)
    print(report.summary(results), report.table(results), f"report   {page}", sep="\n")
    return 0


def _histories(args: argparse.Namespace) -> int:
    from ad_jax import history_info, history_store

    if args.action == "info":
        print(history_info.info(args.path))
        return 0
    problems = history_store.verify(args.path)
    for problem in problems:
        print(problem, file=sys.stderr)
    print("every byte is as it was written" if not problems else f"{len(problems)} damaged part(s)")
    return 2 if problems else 0


def _reproduce(args: argparse.Namespace) -> int:
    from ad_jax import provenance, study
    from ad_jax.reproduce import reproduce

    provenance.use_compilation_cache()
    folder = args.dir or Path("runs/reproduce") / args.scale
    studies = [study.load(name, args.scale) for name in args.studies or study.known()]
    page = reproduce(studies, folder, args.out or folder / "page", args.scale, study.known())
    print(f"\npage     {page}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from ad_jax import testing

    for name in testing.check_plugin(args.plugin):
        print(f"ok  {name}")
    return 0


def _bench(args: argparse.Namespace) -> int:
    from ad_jax import provenance
    from ad_jax.bench import suite

    provenance.use_compilation_cache()
    return suite.main(args)


if __name__ == "__main__":
    sys.exit(main())
