"""Changes to an experiment by dotted names, `distill.updates=2000` or `env.size=17`, each checked at once."""

import ast
import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from ad_jax.errors import ConfigError, unknown
from ad_jax.experiment.config import Experiment, Plugin, dataclass_of, from_data
from ad_jax.registry import conform


def override(experiment: Experiment, changes: Sequence[str]) -> Experiment:
    """The experiment with `"dotted.field=value"` changes; values are Python literals, or else strings.

    Options of plug-ins need no `.options`: `env.size=17`, `source.learning_rate=0.1`, `model.layers=6`.

    Raises:
        ConfigError: for an unknown field or option (near matches are listed) or a value of the wrong type.
    """
    for change in changes:
        name, equals, text = change.removeprefix("--").partition("=")
        if not equals:
            raise ConfigError(f"an override reads field=value, e.g. distill.updates=2000; got {change!r}")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
        experiment = _replace(experiment, name.split("."), value, name)
    return experiment


def _replace(config: Any, path: list[str], value: Any, dotted: str) -> Any:
    """`config` with the field at `path` set to `value`."""
    head, rest = path[0], path[1:]
    hints = typing.get_type_hints(type(config))
    if isinstance(config, Plugin):
        if path == ["name"]:
            return Plugin(str(value), config.options)
        if path == ["options"]:
            return Plugin(config.name, conform(dotted, value, Mapping))
        rest = path[1:] if head == "options" else path
        return Plugin(config.name, {**config.options, ".".join(rest): value})
    if head not in hints:
        raise unknown("field", dotted, _fields(type(config), dotted[: -len(".".join(path))]))
    inner = getattr(config, head)
    if rest:
        nested = dataclass_of(hints[head])
        if inner is None and nested is not None and len(rest) == 1 and _required(nested) <= set(rest):
            return dataclasses.replace(config, **{head: from_data(nested, {rest[0]: value}, dotted.rpartition(".")[0])})
        if not dataclasses.is_dataclass(inner):
            what = "a single value" if inner is not None else "None, which an experiment's file can change"
            raise ConfigError(f"{dotted}: {head} is {what}; it has no field {rest[0]!r}")
        return dataclasses.replace(config, **{head: _replace(inner, rest, value, dotted)})
    if isinstance(inner, Plugin):  # env=bandit: another plug-in, with its own defaults
        return dataclasses.replace(config, **{head: Plugin(str(value))})
    return dataclasses.replace(config, **{head: conform(dotted, value, hints[head])})


def _required(cls: type) -> set[str]:
    """Names of a dataclass's fields that have no default."""
    return {f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING}


def _fields(cls: type, prefix: str) -> list[str]:
    """Dotted names of all fields, for near matches."""
    names = []
    for field, hint in typing.get_type_hints(cls).items():
        names.append(f"{prefix}{field}")
        nested = dataclass_of(hint)
        if nested is not None and nested is not Plugin:
            names += _fields(nested, f"{prefix}{field}.")
    return names
