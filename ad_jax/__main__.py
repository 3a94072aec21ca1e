"""The command line: `ad-jax`, or `python -m ad_jax`. It wires stages and holds no logic.

Nothing heavy is imported before a command runs, so `--help` answers at once. Exit status: 0 done, 2 bad input, 75
stopped by SIGTERM (run it again: schedulers can be told to), 130 interrupted.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ad_jax.cli.parser import parse

if TYPE_CHECKING:
    from ad_jax.experiment import Experiment, Mixture

NEEDED = ("jax", "flax", "gymnax", "matplotlib", "numpy", "optax", "orbax", "tensorstore")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    if "" not in sys.path:
        sys.path.append("")  # the current directory, for plug-ins that lie beside the experiment
    args = parse(arguments)
    from ad_jax import errors
    from ad_jax.errors import AdJaxError
    from ad_jax.process import preemption

    handler: Callable[[argparse.Namespace], int] = {
        "compress": _compress,
        "histories": _histories,
        "info": _info,
        "list": _list,
        "report": _report,
        "check": _check,
        "show": _show,
        "bench": _bench,
        "reproduce": _reproduce,
        "plan": _plan,
    }.get(args.command, _stage)
    undo = preemption.listen()
    try:
        return handler(args)
    except AdJaxError as error:
        return _told(args, error, str(error))
    except OSError as error:
        place = errors.place_of(error)  # of a plug-in that opens files of its own
        where = "" if place is None else f" ({place}; with --traceback you see all of it)"
        return _told(args, error, f"{error}{where}. Finished parts are kept; run the same command again to go on")
    except preemption.Preempted:
        print("\nad-jax: stopped by SIGTERM; run the same command again to go on from here", file=sys.stderr)
        return preemption.STATUS
    except KeyboardInterrupt:
        print("\nad-jax: interrupted; run the same command again to go on from here", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (name := (error.name or "").partition(".")[0]) in NEEDED:
            missing = f"{name} is not installed for {sys.executable}; pip install -e . brings it"
            return _told(args, error, missing)
        if errors.place_of(error) is None:  # nobody's but ours: all of it
            raise
        return _told(args, error, f"{errors.told(error)}. With --traceback you see all of it")
    finally:
        undo()


def _told(args: argparse.Namespace, error: Exception, text: str) -> int:
    """Say what went wrong in one line, after the traceback if that was asked for; returns the exit status."""
    if args.traceback:
        traceback.print_exception(error)
    print(f"ad-jax: {text}", file=sys.stderr)
    return 2


def _experiment(args: argparse.Namespace) -> "Experiment | Mixture":
    from ad_jax import experiment
    from ad_jax.process import provenance

    provenance.use_compilation_cache()
    found = experiment.load_any(args.experiment, args.scale)
    if isinstance(found, experiment.Mixture):
        return experiment.override_mixture(found, args.overrides)
    return experiment.override(found, args.overrides)


def _stage(args: argparse.Namespace) -> int:
    from ad_jax.process import distributed, shutdown

    distributed.start(args.processes)  # before anything else of JAX
    shutdown.listen()
    experiment = _experiment(args)
    from ad_jax.process.metrics import log
    from ad_jax.run.mixture import open_run

    trains = args.command in ("run", "distill")
    run = open_run(experiment, args.dir, args.histories, getattr(args, "trained", None), trains, args.redo)
    log(f"run      {run.folder}")
    {"run": run.all, "collect": run.collect, "distill": run.distill, "evaluate": run.evaluate}[args.command]()
    return 0


def _show(args: argparse.Namespace) -> int:
    import json

    experiment = _experiment(args)
    from ad_jax.experiment import Mixture, build, docstring
    from ad_jax.planning import cost

    print(docstring(args.experiment), json.dumps(experiment.to_json(), indent=2), sep="\n\n")
    if isinstance(experiment, Mixture):
        from ad_jax.planning import mixture

        print("\nWhat it costs: counted, on one device, nothing compiled", *mixture.cost_lines(experiment), sep="\n")
        return 0
    components = build(experiment)
    print(f"\nmodel    {components.model_config}\nmethod   {components.method}\nsource   {components.source_config}")
    head = "" if components.model is None or components.model.head is None else f"\nhead     {components.model.head}"
    print(f"env      {components.family}{head}\n")
    print(
        "What it costs: counted, on one device, nothing compiled", *cost.count(experiment, components).lines(), sep="\n"
    )
    return 0


def _plan(args: argparse.Namespace) -> int:
    # The partitioner warns of what it has to move; the plan counts that.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from ad_jax import sharding
    from ad_jax.planning import accelerators

    mesh, on = sharding.parse_mesh(args.mesh), accelerators.find(args.on)
    sharding.virtual_devices(mesh.data * mesh.fsdp * mesh.tensor)
    from ad_jax import experiment
    from ad_jax.planning import plan

    e = experiment.load_any(args.experiment, args.scale)
    if isinstance(e, experiment.Mixture):
        from ad_jax.planning import mixture

        m = mixture.sized(e, args.size, args.overrides)
        print(*mixture.cost_lines(m), "", sep="\n", flush=True)  # at once: compiling a large one takes minutes
        print(*mixture.planned(m, mesh, args.on, on, args.compare), sep="\n")
        return 0
    e = plan.sized(e, args.size, args.overrides)
    plans = {"as planned": plan.plan(e, mesh)}
    print(*plan.lines(plans["as planned"], args.on, on), sep="\n", flush=True)
    if args.compare:
        plans |= {name: plan.plan(*other) for name, other in plan.alternatives(e, mesh).items()}
        print("", *plan.table(plans, on), sep="\n")
    return 0


def _report(args: argparse.Namespace) -> int:
    from ad_jax.report import mixture, report

    first = args.results[0]
    if any(map(mixture.is_mixture, args.results)):
        members = mixture.load(args.results)
        page = mixture.write(mixture.name_of(first), members, args.out or first / "report")
        print(mixture.table(members), f"report   {page}", sep="\n")
        return 0
    results = report.load(args.results)
    out = args.out or (first if first.is_dir() else first.parent) / "report"
    page = report.write(results, out)
    if args.pool:
        report.pool(results, args.pool)
    print(report.summary(results), report.table(results), f"report   {page}", sep="\n")
    return 0


def _compress(args: argparse.Namespace) -> int:
    from ad_jax.process import provenance
    from ad_jax.run.compress import compress

    provenance.use_compilation_cache()
    print(*compress(args.run, args.to, args.overrides, args.dir).lines(), sep="\n")
    return 0


def _histories(args: argparse.Namespace) -> int:
    from ad_jax.cli import histories

    return histories.run(args)


def _reproduce(args: argparse.Namespace) -> int:
    from ad_jax import study
    from ad_jax.process import provenance
    from ad_jax.study.reproduce import reproduce

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


def _info(args: argparse.Namespace) -> int:
    from ad_jax.cli import listing

    print(*listing.installed(), sep="\n")
    return 0


def _list(args: argparse.Namespace) -> int:
    from ad_jax.cli import listing

    print(*listing.lines(args.kind), sep="\n")
    return 0


def _bench(args: argparse.Namespace) -> int:
    from ad_jax.bench import suite
    from ad_jax.process import provenance

    provenance.use_compilation_cache()
    return suite.main(args)


if __name__ == "__main__":
    sys.exit(main())
