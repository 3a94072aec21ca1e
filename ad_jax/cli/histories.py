"""`ad-jax histories`: what is in a collection, whether every byte of it is as written, and the way in and out of it."""

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from ad_jax.formats import FORMATS

OPTION = re.compile(r"[a-z][\w.]*=")
WAY_IN = f"""\
Formats: {", ".join(FORMATS)}.
npz, hdf5 and parquet hold plain arrays of your own; the others are layouts of published histories. Options of a format
are given as field=value, for example steps=4000 env=dark_room env.size=9; what is there under such a name is a path.
docs/histories.md has a section on each.
"""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", path: Callable[[str], Path]) -> None:
    """Add the actions to the command. `path` reads a place on this machine."""
    raw = argparse.RawDescriptionHelpFormatter
    for name, text in (("info", "print what is in it"), ("verify", "check every byte")):
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        sub.add_argument("path", help="a directory, gs:// or s3:// URL")

    show = commands.add_parser("show", help="print and draw episodes of a history", description=_SHOW)
    show.add_argument("path", help="a directory, gs:// or s3:// URL")
    show.add_argument("--history", type=int, default=0, metavar="N", help="which one, from 0 on (default %(default)s)")
    show.add_argument("--paths", type=int, default=4, metavar="N", help="episodes to show (default %(default)s)")
    show.add_argument("--out", type=path, metavar="FILE", help="also draw them to this .png or .svg file")

    way_in = commands.add_parser(
        "import",
        help="make a collection of histories that were collected elsewhere",
        description="Make a collection of files of a format. Killed, the same command goes on; input that cannot be is "
        "one error, and nothing of it stays.",
        epilog=WAY_IN,
        formatter_class=raw,
    )
    way_in.add_argument("format", help="npz, hdf5, parquet, xland, ad_eps, ... (see below)")
    way_in.add_argument("paths", nargs="+", metavar="PATH", help="files and folders, and options as field=value")
    way_in.add_argument("--out", required=True, help="where the collection goes: a directory, gs:// or s3:// URL")
    way_in.set_defaults(more=[])  # options that follow --out

    way_out = commands.add_parser(
        "export",
        help="write a collection to files of a format",
        description="Write a collection as npz, hdf5, parquet, xland or minari. Imported again it is equal to the bit.",
    )
    way_out.add_argument("format", help="npz, hdf5, parquet, xland or minari")
    way_out.add_argument("path", help="a directory, gs:// or s3:// URL")
    way_out.add_argument("--out", required=True, type=path, help="the file, or for minari the folder; not there yet")


_SHOW = """Print a history's episodes: their returns and lengths over its time, and the paths of some of them."""


def run(args: argparse.Namespace) -> int:
    """Do what was asked for; returns the exit status."""
    return {"info": _info, "verify": _verify, "show": _show, "import": _import, "export": _export}[args.action](args)


def _info(args: argparse.Namespace) -> int:
    from ad_jax.history import info

    print(info.info(args.path))
    return 0


def _verify(args: argparse.Namespace) -> int:
    from ad_jax.history import store

    problems = store.verify(args.path)
    for problem in problems:
        print(problem, file=sys.stderr)
    print("every byte is as it was written" if not problems else f"{len(problems)} damaged part(s)")
    return 2 if problems else 0


def _show(args: argparse.Namespace) -> int:
    from ad_jax.run import lived

    shown = lived.look(args.path, args.history, args.paths)
    print(*shown.lines(), sep="\n")
    if args.out is not None:
        shown.draw(args.out)
        print(f"drawn    {args.out}")
    return 0


def _import(args: argparse.Namespace) -> int:
    from ad_jax import files
    from ad_jax.errors import ConfigError
    from ad_jax.formats.base import options_of
    from ad_jax.formats.importing import import_histories

    words = [*args.paths, *args.more]
    places = [word for word in words if not OPTION.match(word) or os.path.exists(os.path.expanduser(word))]
    if not places:
        raise ConfigError(
            f"import expects files or folders; got {', '.join(words)}, of which none is there, so all are taken for "
            "options. A place that reads like one is also written ./name=value"
        )
    options = options_of([word for word in words if word not in places])
    store = import_histories(args.format, [files.local(word, "PATH") for word in places], args.out, options)
    print(f"histories {store.url}")
    return 0


def _export(args: argparse.Namespace) -> int:
    from ad_jax.formats.importing import export_histories

    export_histories(args.format, args.path, args.out, {})
    print(f"exported {args.out}")
    return 0
