"""Changes to an experiment by dotted names, `method.updates=2000` or `env.size=17`, each checked at once."""

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ad_jax import methods
from ad_jax.errors import ConfigError, unknown
from ad_jax.experiment.config import Experiment, Plugin, dataclass_of, from_data, hints_of
from ad_jax.registry import conform


def override(experiment: Experiment, changes: Sequence[str]) -> Experiment:
    """Return the experiment with `"dotted.field=value"` changes; values are Python literals, or else strings.

    Options of plug-ins need no `.options`: `env.size=17`, `source.learning_rate=0.1`, `model.layers=6`. The names that
    options of methods had before there was a `method` go on working (`methods.BEFORE`): `distill.updates=2000` is
    `method.updates=2000`, and an option of another method makes that one the method.

    Raises:
        ConfigError: for an unknown field or option (near matches are listed) or a value of the wrong type.
    """
    for change in changes:
        name, equals, text = change.removeprefix("--").partition("=")
        if not equals:
            raise ConfigError(f"an override reads field=value, e.g. method.updates=2000; got {change!r}")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
        changed = _of_before(experiment, name, value)
        experiment = _replace(experiment, name.split("."), value, name) if changed is None else changed
    return experiment


def _of_before(e: Experiment, name: str, value: Any) -> Experiment | None:
    """The experiment changed by a name of before there was a `method`; None where it is none of those."""
    head, *rest = name.split(".")
    if head in methods.BEFORE:
        if not rest:
            raise ConfigError(f"{name}={value}: a method is named by method=..., e.g. method={methods.BEFORE[head]}")
        return dataclasses.replace(e, method=_replace(methods.of_before(e.method, head), rest, value, name))
    if name == "replay.labels":
        return dataclasses.replace(e, method=methods.labelled(e.method, value))
    return None


def _replace(config: Any, path: list[str], value: Any, dotted: str) -> Any:
    """`config` with the field at `path` set to `value`."""
    head, rest = path[0], path[1:]
    if isinstance(config, Plugin):
        if path == ["name"]:
            return Plugin(str(value), config.options)
        if path == ["options"]:
            return Plugin(config.name, conform(dotted, value, Mapping))
        rest = path[1:] if head == "options" else path
        return Plugin(config.name, {**config.options, ".".join(rest): value})
    hints = hints_of(type(config))
    if head not in hints:
        raise unknown("field", dotted, _fields(config, dotted[: -len(".".join(path))]))
    inner = getattr(config, head)
    if rest:
        nested = dataclass_of(hints[head])
        if inner is None and nested is not None and len(rest) == 1 and _required(nested) <= set(rest):
            return dataclasses.replace(config, **{head: from_data(nested, {rest[0]: value}, dotted.rpartition(".")[0])})
        if not dataclasses.is_dataclass(inner):
            what = "a single value" if inner is not None else "None, which an experiment's file can change"
            raise ConfigError(f"{dotted}: {head} is {what}; it has no field {rest[0]!r}")
        return dataclasses.replace(config, **{head: _replace(inner, rest, value, dotted)})
    if isinstance(config, Experiment) and head == "method":
        return dataclasses.replace(config, method=methods.instead(config.method, str(value)))
    if isinstance(inner, Plugin):  # env=bandit: another plug-in, with its own defaults
        return dataclasses.replace(config, **{head: Plugin(str(value))})
    return dataclasses.replace(config, **{head: conform(dotted, value, hints[head])})


def _required(cls: type) -> set[str]:
    """Names of a dataclass's fields that have no default."""
    return {f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING}


def _fields(config: Any, prefix: str) -> list[str]:
    """Dotted names of all fields of an instance, or of a dataclass, for near matches."""
    names = []
    for field, hint in hints_of(config if isinstance(config, type) else type(config)).items():
        names.append(f"{prefix}{field}")
        inner = getattr(config, field, None)
        nested = type(inner) if dataclasses.is_dataclass(inner) else dataclass_of(hint)
        if nested is not None and nested is not Plugin:
            names += _fields(nested, f"{prefix}{field}.")
    if isinstance(config, Experiment):
        for field, name in methods.BEFORE.items():
            names += [field, *_fields(methods.find(name), f"{field}.")]
    return names
