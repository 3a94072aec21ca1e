"""What the command line understands: every command, its arguments and its help. Imports nothing heavy."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ad_jax import files
from ad_jax.cli import histories
from ad_jax.cli.options import Help, as_overrides, show_help
from ad_jax.errors import ConfigError
from ad_jax.files import JsonObject

KINDS = ("experiments", "families", "outside", "sources", "models", "methods", "policies")

FLOW = """\
The four stages, each of which goes on where it was stopped:

  collect    source learners, thousands side by side, write their learning histories to disk
  distill    a model is trained by the experiment's method, in most of them on the histories
  evaluate   frozen, it learns held-out tasks in its context
  report     one page with curves, tables and pictures

  ad-jax run dark_room                       all four; prints where the report is
  ad-jax run dark_room method.updates=2000   with a field overridden
"""

OVERRIDES = """\
Every field of the experiment can be overridden, as field=value or --field value, with dotted names, for example
  seed=1  --method.updates 2000  env.size=17  source.learning_rate=0.1  --model.layers 6  mesh.fsdp=2
Another plug-in is named by env=, source=, model= or method=, and its options follow. With --help after an experiment's
name, every option of it is listed; `ad-jax show EXPERIMENT` prints every value.
"""


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        "ad-jax",
        description="In-context reinforcement learning by Algorithm Distillation.\n\n" + FLOW,
        formatter_class=raw,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def stage(name: str, text: str) -> None:
        sub = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=OVERRIDES,
            formatter_class=raw,
            add_help=False,
        )
        sub.add_argument("-h", "--help", action=Help)
        sub.add_argument("experiment", help="an experiment's name (e.g. dark_room), its folder, or its file")
        sub.add_argument("overrides", nargs="*", metavar="field=value", help="overridden fields")
        sub.add_argument("--scale", default="cpu", help="the experiment's size: cpu (default) or another it defines")
        sub.add_argument("--dir", type=_path, help="run directory (default runs/<experiment>/<hash of the config>)")
        sub.add_argument(
            "--histories", help="where the histories are: a directory, gs:// or s3:// (default DIR/histories)"
        )
        if name == "evaluate":
            sub.add_argument(
                "--trained", type=_path, metavar="RUN", help="the run directory whose trained model is evaluated here"
            )
        if name != "show":
            sub.add_argument(
                "--redo",
                action="store_true",
                help="delete and make anew what is in the run directory and was made by a family, source or model that "
                "has been edited since, or by another run; without it, that is refused",
            )
            sub.add_argument(
                "--processes",
                metavar="WHERE",
                help="one of several processes: auto (SLURM, Open MPI, Kubernetes, TPU), or HOST:PORT,RANK/COUNT",
            )

    stage("run", "all four stages: collect, distill, evaluate, report")
    stage("collect", "stage 1: run the source algorithm on the training tasks and keep every learning history")
    stage("distill", "stage 2: train the model by the experiment's method")
    stage("evaluate", "stage 3: let the frozen transformer learn the held-out tasks in its context")
    stage("show", "print the experiment's claim, every field and what it costs, and check it, without running anything")

    ahead = commands.add_parser(
        "plan",
        help="compile a training update for a mesh of any size, and print what each device would need",
        description="Compile one training update for as many virtual CPU devices as the mesh has, without allocating, "
        "and print each device's memory, FLOP and collectives, and an estimated time. How to read it: docs/plan.md.",
        epilog=OVERRIDES,
        formatter_class=raw,
        add_help=False,
    )
    ahead.add_argument("-h", "--help", action=Help)
    ahead.add_argument("experiment", help="an experiment's name (e.g. dark_room), its folder, or its file")
    ahead.add_argument("overrides", nargs="*", metavar="field=value", help="overridden fields")
    ahead.add_argument("--scale", default="cpu", help="the experiment's size: cpu (default) or another it defines")
    ahead.add_argument("--mesh", default="data=1", metavar="AXES", help="e.g. data=32,fsdp=8,tensor=4 (default data=1)")
    ahead.add_argument("--size", metavar="SIZE", help="make the model this large: 100m, 1b or 8b parameters")
    ahead.add_argument("--on", default="h100-sxm", metavar="NAME", help="accelerator (default %(default)s)")
    ahead.add_argument(
        "--compare", action="store_true", help="also plan with each of remat, accumulation and sharded state changed"
    )

    small = commands.add_parser(
        "compress",
        help="distill a run's trained model into a smaller or faster one, on what that one does itself",
        description="On-policy distillation: the student plays the run's training tasks, and the trained model, its "
        "teacher, says at every step what it would have done. Then the student is evaluated as the run was, and its "
        "return and its decisions per second stand beside the teacher's.",
        epilog="Options of the student and of the training can be overridden: model.hidden=96 method.updates=500",
    )
    small.add_argument("run", type=_path, help="a run directory whose model is trained")
    small.add_argument("overrides", nargs="*", metavar="field=value", help="overridden fields")
    small.add_argument("--to", default="lstm", metavar="MODEL", help="the student's backbone (default %(default)s)")
    small.add_argument("--dir", type=_path, help="the student's run directory (default RUN/compressed/MODEL-<hash>)")

    commands.add_parser(
        "info",
        help="print versions, and which other libraries' environments are installed",
        description="Print the versions of this package and of what it stands on, and which of the libraries whose "
        "environments it adapts are installed, in which version, or how to have them.",
    )

    page = commands.add_parser(
        "report",
        help="stage 4: page and figures from results.json, of one run or several seeds",
        description="Draw one page from one or several results.json (runs of one experiment with "
        "different seeds are pooled).",
    )
    page.add_argument("results", nargs="+", type=_path, help="results.json files or run directories")
    page.add_argument("--out", type=_path, help="where the page goes (default: report/ beside the first results)")
    page.add_argument(
        "--pool", type=_path, metavar="FILE", help="also write the pooled results there; packed if it ends in .xz"
    )

    store = commands.add_parser(
        "histories", help="look at a collection of learning histories, check every byte of it, import and export some"
    )
    actions = store.add_subparsers(dest="action", required=True, metavar="ACTION")
    histories.add(actions, _path)

    bench = commands.add_parser(
        "bench",
        help="measure throughput: every stage, and the limits of this machine beside it",
        description="Measure every stage as an absolute figure and as a share of a limit that is measured in the same "
        "run. Minutes on two CPU cores; experiments/speed/README.md says how to read it.",
    )
    size = bench.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small sizes, a few minutes")
    size.add_argument(
        "--brief",
        action="store_true",
        help="what is asked first of a GPU or TPU, in minutes; on a CPU the same rows at sizes that say nothing",
    )
    stages = (
        *("limits", "collect", "distill", "rotation", "rl2", "evaluate", "plan", "search", "attention", "scaling"),
        *("demo", "torch"),
    )
    bench.add_argument("--only", choices=stages, nargs="+", metavar="STAGE", help=f"in this order: {', '.join(stages)}")
    bench.add_argument(
        "--out",
        type=_path,
        help="results (default runs/bench/results.json; against.json, peers.json, scaling.json with those options)",
    )
    bench.add_argument("--show", type=_path, metavar="RESULTS", help="measure nothing, print the table of this file")
    bench.add_argument("--compare", type=_path, metavar="OLD", help="also print ratios against these results")
    bench.add_argument(
        "--against",
        metavar="COMMIT",
        help="time every row in turn with the same row of an older commit of this repository, and print ratios",
    )
    bench.add_argument(
        "--scaling",
        action="store_true",
        help="cost as learners, context, width and rollouts grow: one figure with the limits, and exponents",
    )
    bench.add_argument(
        "--peers",
        nargs="*",
        metavar="NAME",
        help="the same work by others, timed in turn with ours: rejax, torch, torch_compile, trajectory_transformer, "
        "diffuser, ad_eps (default all); each is installed into an environment of its own",
    )
    bench.add_argument("--demo", type=_path, metavar="DIR", help="a finished run of dark_room; else the demo is run")
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
    again.add_argument("--dir", type=_path, help="where pieces are kept (default runs/reproduce/SCALE)")
    again.add_argument("--out", type=_path, help="where claims, figures and page go (default DIR/page)")

    names = commands.add_parser(
        "list",
        help="list the experiments, task families, sources, backbones, methods and policies, one line each",
        description="List what can be named: experiments with their scales, and plug-ins (env=, source=, model=, "
        "method=).",
    )
    names.add_argument("kind", nargs="?", choices=KINDS, help="only these (default: all)")

    check = commands.add_parser(
        "check", help="prove a task family, source, backbone, method or policy of your own by its contract"
    )
    check.add_argument("plugin", help="a registered name, or my_pkg.my_env:MyEnv")
    top.add_argument("--version", action=_Version)
    told: JsonObject = {"action": "store_true", "help": "when something fails, also print where, in full"}
    for command in commands.choices.values():
        command.add_argument("--traceback", **told)
    for command in actions.choices.values():  # given before it, the flag must not be lost
        command.add_argument("--traceback", default=argparse.SUPPRESS, **told)
    return top


class _Version(argparse.Action):
    """Print the version, which takes time to find out, and exit."""

    def __init__(self, option_strings: Sequence[str], dest: str):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="print the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from ad_jax.process import provenance

        print(f"ad_jax {provenance.version()}")
        parser.exit()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line. Overrides may also follow an option, which argparse alone does not understand."""
    top = parser()
    args, rest = top.parse_known_args(as_overrides(sys.argv[1:] if arguments is None else arguments))
    further = next((name for name in ("overrides", "more") if hasattr(args, name)), None)
    if rest and (further is None or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest and further is not None:
        setattr(args, further, [*getattr(args, further), *rest])
    if getattr(args, "help", None) is not None:
        show_help(args)
    return args


def _path(text: str) -> Path:
    """Return a place on this machine, `~` expanded: shells leave it as it is in `--dir=~/runs`."""
    try:
        return files.local(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
