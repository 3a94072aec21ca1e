"""The plug-ins of an experiment as plain data, a name and options: for JSON and the command line alone."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

from ad_jax.envs import FAMILIES, OUTSIDE
from ad_jax.envs.base import TaskFamily
from ad_jax.errors import ConfigError
from ad_jax.files import Json, JsonObject
from ad_jax.methods import METHODS
from ad_jax.methods.base import MethodConfig
from ad_jax.models import MODELS
from ad_jax.models.base import ModelConfig
from ad_jax.policies import POLICIES
from ad_jax.policies.base import PolicyConfig
from ad_jax.registry import build, find, renamed
from ad_jax.registry import name_of as _name_of
from ad_jax.sources import SOURCES
from ad_jax.sources.base import SourceConfig

OPAQUE = {"opaque": "ad_jax.history.opaque:Opaque"}  # no world, but tasks of imported histories: they are trained on
Config = Any  # a frozen dataclass: an experiment, a part of one, or a plug-in


class Kind(NamedTuple):
    """A field of an experiment that holds a plug-in."""

    names: Mapping[str, str]
    bases: tuple[type, ...]  # of its classes


KINDS = {
    "env": Kind(FAMILIES | OUTSIDE | OPAQUE, (TaskFamily,)),
    "source": Kind(SOURCES, (SourceConfig,)),
    "model": Kind(MODELS | POLICIES, (ModelConfig, PolicyConfig)),
    "method": Kind(METHODS, (MethodConfig,)),
}


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A plug-in by its name, as experiments' files said it before plug-ins were classes; an `Experiment` reads it."""

    name: str
    options: Mapping[str, Json] = dataclasses.field(default_factory=dict)


def kind_of(hint: object) -> str | None:
    """Return the kind of plug-in that a field with this type holds; None for other fields."""
    found = {hint, *typing.get_args(hint)}
    return next((kind for kind, (_, bases) in KINDS.items() if found.intersection(bases)), None)


def name_of(plugin: Config) -> str:
    """Return the name by which JSON and the command line know the class of a plug-in."""
    return _name_of(type(plugin), *(kind.names for kind in KINDS.values()))


def read(kind: str, name: str, options: Mapping[str, Json] | None = None) -> Config:
    """Return the plug-in that a name, registered or `"my_package.my_module:MyClass"`, and options say.

    Raises:
        ConfigError: for an unknown name or option (near matches are listed), or a value of the wrong type.
    """
    return _made(kind, name, find(kind, name, KINDS[kind].names, *KINDS[kind].bases), options or {})


def changed(kind: str, plugin: Config, options: Mapping[str, Json]) -> Config:
    """Return a plug-in with changed options; with none, one from Python in which every type is checked.

    Raises:
        ConfigError: for an unknown option (near matches are listed), a value of the wrong type, or another thing.
    """
    bases = KINDS[kind].bases
    if not (isinstance(plugin, bases) and dataclasses.is_dataclass(plugin)):
        expected = " or ".join(base.__name__ for base in bases)
        got = f"{plugin!r} ({type(plugin).__name__})"
        raise ConfigError(f"{kind} expects a {expected} with its options, a frozen dataclass; got {got}")
    held = {field.name: getattr(plugin, field.name) for field in dataclasses.fields(plugin) if field.init}
    options = {renamed(name, held): value for name, value in options.items()}
    return _made(kind, name_of(plugin), type(plugin), held | options)


def said(plugin: Config) -> JsonObject:
    """Return a plug-in as plain data: its name and all of its options."""
    return {"name": name_of(plugin), "config": dataclasses.asdict(plugin)}


def _made(kind: str, name: str, cls: type, options: Mapping[str, Json]) -> Config:
    return build(f"{'policy' if issubclass(cls, PolicyConfig) else kind} {name}", cls, options)
