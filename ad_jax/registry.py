"""Plug-ins by name: `"dark_room"` from a registry, or `"my_pkg.my_env:MyEnv"` from anywhere that imports.

A plug-in is a class of options, a frozen dataclass. In Python one writes `DarkRoom(size=9)`; names are for JSON and the
command line. A registry maps a name to `"module:Class"`, so that naming a plug-in imports nothing until it is used.
Options are checked against the class before anything is built, and those that were renamed are read by both names.
"""

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from ad_jax.errors import ConfigError, told, unknown
from ad_jax.files import Json

# Options of plug-ins, and values of them, by the names that earlier versions gave them, in files and on command lines.
RENAMED = {
    "optimiser": "optimizer",  # codespell:ignore
    "normalise": "normalize",  # codespell:ignore
    "centre": "center",  # codespell:ignore
    "strict": "exact_context",
    "ordinal": "numeric_observations",
}


def resolve(kind: str, name: str, registry: Mapping[str, str]) -> Any:
    """Return the object that `name` names: a registered name, or `"package.module:attribute"`.

    Raises:
        ConfigError: if there is no such plug-in; near matches are listed.
    """
    if name not in registry and ":" not in name:
        raise unknown(kind, name, registry)
    module, _, attribute = registry.get(name, name).partition(":")
    try:
        found = importlib.import_module(module)
        if hasattr(found, attribute):
            return getattr(found, attribute)
    except Exception as error:  # whatever a user's module does when it is imported
        raise ConfigError(f"cannot load {kind} {name!r}: {told(error)}. Expected 'package.module:attribute'") from error
    near = unknown(f"class of {module}", attribute, (n for n, of in vars(found).items() if isinstance(of, type)))
    raise ConfigError(f"cannot load {kind} {name!r}: {near} Expected 'package.module:attribute'")


def build(kind: str, cls: type, options: Mapping[str, Json]) -> Any:
    """`cls(**options)` for a dataclass, after checking every name and type.

    Raises:
        ConfigError: for an unknown option (near matches are listed) or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    options = {renamed(name, names): value for name, value in options.items()}
    for name in options:
        if name not in names:
            raise unknown(f"option of {kind}", name, names)
    return cls(**{name: conform(f"{kind}.{name}", value, hints[name]) for name, value in options.items()})


def renamed(name: str, known: Collection[str]) -> str:
    """Return what an option, or a value of one, is called today where only that is `known`; else the name itself."""
    today = RENAMED.get(name, name)
    return today if name not in known and today in known else name


def under_first_names(data: Json) -> Json:
    """Return plain nested data with the first name of everything in `RENAMED`: digests of it stay what they were."""
    first = {today: name for name, today in RENAMED.items()}
    if isinstance(data, Mapping):
        return {first.get(name, name): under_first_names(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [under_first_names(value) for value in data]
    return first.get(data, data) if isinstance(data, str) else data


def find(kind: str, name: str, registry: Mapping[str, str], *bases: type) -> type:
    """Return the class that `name` names: a dataclass that is one of `bases`.

    `"module:make"`, as plug-ins were named when they were functions, is the class that its `config` is annotated with.

    Raises:
        ConfigError: if there is none; near matches are listed.
    """
    found = resolve(kind, name, registry)
    if inspect.isfunction(found):
        found = found.__annotations__.get("config", found)
    if not (inspect.isclass(found) and dataclasses.is_dataclass(found) and issubclass(found, bases)):
        raise ConfigError(
            f"{kind} {name!r} must be a frozen dataclass that is a {' or '.join(base.__name__ for base in bases)}; got "
            f"{found!r}. {bases[0].__module__} states what that is"
        )
    return found


def make(kind: str, name: str, options: Mapping[str, Json] | None, registry: Mapping[str, str], *bases: type) -> Any:
    """Return the plug-in that `name` and `options` say: `build` of what is found by `find`; raises as they do."""
    return build(f"{kind} {name}", find(kind, name, registry, *bases), options or {})


def name_of(cls: type, *registries: Mapping[str, str]) -> str:
    """Return the name by which `find` finds a class: its own in a registry, or `"module:Class"`."""
    where = f"{cls.__module__}:{cls.__qualname__}"
    return next((name for names in registries for name, known in names.items() if known == where), where)


def conform(where: str, value: object, hint: Any) -> Any:
    """`value` as the annotated type `hint`: ints pass as floats, lists as tuples; anything else must match.

    Raises:
        ConfigError: naming `where`, the expected type and the value received.
    """
    choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    value = renamed(value, choices) if isinstance(value, str) else value
    if choices and isinstance(value, str) and value not in choices:
        raise unknown(f"value of {where}", value, map(str, choices))
    value = float(value) if isinstance(value, float) else value  # NumPy's are such, too
    if hint is Any or (isinstance(hint, type) and isinstance(value, hint) and not isinstance(value, bool)):
        return value
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        name = str(hint) if typing.get_args(hint) else getattr(hint, "__name__", hint)
        raise ConfigError(f"{where} expects {name}; got {value!r} ({type(value).__name__})") from error
