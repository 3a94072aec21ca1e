"""Options of an experiment on the command line: the forms in which they are written, and their help by tyro.

`--model.layers 6` means `model.layers=6`, which `experiment.override` reads. The help is made of the classes
themselves: names, types, values in this experiment, and the comments beside the fields.
"""

import argparse
import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Iterator, Sequence

from ad_jax.errors import AdJaxError

FLAG = re.compile(r"--((?:name|seed|env|source|model|method)(?=$|=)|[a-z][\w-]*(?:\.[\w-]+)+)(?:=(.*))?", re.DOTALL)
NUMBER = re.compile(r"[-+]?[\d.][\w.+-]*")


def as_overrides(words: Sequence[str]) -> list[str]:
    """Return a command line with `field=value` in the place of `--field value` and `--field=value`.

    Several numbers after a flag are a tuple (`--source.hidden 32 16`); a flag with no value is true.
    """
    found, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        flag = FLAG.fullmatch(word)
        if flag is None:
            found.append(word)
            continue
        name, value = flag[1].replace("-", "_"), flag[2]
        if value is None:
            values = [rest.pop(0)] if rest and _is_value(rest[0]) else []
            while values and NUMBER.fullmatch(values[-1]) and rest and NUMBER.fullmatch(rest[0]):
                values.append(rest.pop(0))
            value = f"({', '.join(values)})" if values[1:] else values[0] if values else "true"
        found.append(f"{name}={value}")
    return found


def _is_value(word: str) -> bool:
    """Whether a word after a flag is its value: a number, no override, or a place that is there, as `lr=3/h`."""
    there = "/" in word and os.path.exists(os.path.expanduser(word))
    return NUMBER.fullmatch(word) is not None or there or not re.match(r"-|[a-z][\w.]*=", word)


class Help(argparse.Action):
    """Print a stage's help and exit; where an experiment is named before it, leave that to `parse`, for its options."""

    def __init__(self, option_strings: Sequence[str], dest: str):
        text = "show this help, after an experiment's name with all of its options, and exit"
        super().__init__(option_strings, dest, nargs=0, help=text)

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: object) -> None:
        if getattr(namespace, "experiment", None) is None:
            parser.print_help()
            parser.exit()
        namespace.help = parser


def show_help(args: argparse.Namespace) -> None:
    """Print the help of a stage with every option of the experiment that is named, and exit."""
    try:
        args.help.print_help()
        show(args.help.prog, args.experiment, args.scale, args.overrides)
        sys.stdout.flush()
    except AdJaxError as error:
        args.help.exit(2, f"ad-jax: {error}\n")
    except BrokenPipeError:  # of `--help | head`: nobody reads on, nor what Python would flush at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    args.help.exit()


def show(command: str, name: str, scale: str, changes: Sequence[str]) -> None:
    """Print every option of an experiment with its type, its value there, and what it means.

    Imports the experiment and its plug-ins, and with them JAX and gymnax: a few seconds.

    Raises:
        ConfigError: if there is no such experiment, or a change is none of it.
    """
    import tyro

    from ad_jax import experiment
    from ad_jax.experiment import plugins
    from ad_jax.experiment.config import hints_of

    e = experiment.load_any(name, scale)
    if isinstance(e, experiment.Mixture):
        first = next(iter(e.members))
        print(
            f"\n{name} is a mixture of {', '.join(e.members)}.\nOf all of them are --model, --method, --seed, --mesh, "
            f"--logging, --batch and --fit_updates; of each the rest, e.g. --envs.{first}.tasks.train 32 or "
            f"--envs.{first}.weight 2. What follows is {first}."
        )
        e = experiment.override_mixture(e, changes).member(first)
    else:
        e = experiment.override(e, changes)
    # Of the classes that are there: what may stand in the place of a plug-in is open.
    hints = {
        field: hint if plugins.kind_of(hint) is None else type(getattr(e, field))
        for field, hint in hints_of(type(e)).items()
    }
    fields = [(field, hint, dataclasses.field(default=getattr(e, field))) for field, hint in hints.items()]
    chosen = " ".join(f"{kind}={plugins.name_of(getattr(e, kind))}" for kind in plugins.KINDS)
    about = f"Options of {name} at scale {scale}, with {chosen}. --model.layers 6 and model.layers=6 mean the same."
    print()
    with contextlib.suppress(SystemExit):  # it is what tyro ends its help with
        tyro.cli(
            dataclasses.make_dataclass("Options", fields, frozen=True),
            args=["--help"],
            prog=f"{command} {name}",
            description=about,
            use_underscores=True,
            config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
        )
    print(*_absent(e), sep="\n")


def _absent(config: object, where: str = "") -> Iterator[str]:
    """Lines about what is None in an experiment and would have options of its own, which tyro does not list."""
    from ad_jax.experiment.config import dataclass_of, hints_of
    from ad_jax.experiment.plugins import kind_of

    for field, hint in hints_of(type(config)).items():
        name, value, nested = f"{where}{field}", getattr(config, field), dataclass_of(hint)
        if value is None and nested is not None:
            yield f"{name} is None here; it has {', '.join(f'--{name}.{option}' for option in hints_of(nested))}"
        elif dataclasses.is_dataclass(value) and kind_of(hint) is None:
            yield from _absent(value, f"{name}.")
