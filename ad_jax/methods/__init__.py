"""How an in-context learner is made, by name. To add a method: a file with a `MethodConfig`, and a line here (or none).

Experiments of before there was a `method` said it in fields of their own; `modern` reads those, and the command line
goes on taking their names (`BEFORE`).
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from ad_jax import registry
from ad_jax.errors import ConfigError, unknown
from ad_jax.registry import resolve

METHODS = {
    "distillation": "ad_jax.methods.distillation:Distillation",
    "dpt": "ad_jax.methods.dpt:DPT",
    "rl2": "ad_jax.methods.rl2:RL2",
}
DEFAULT = "distillation"
BEFORE = {"distill": "distillation", "rl2": "rl2"}  # field of an experiment -> the method whose options it held


def find(name: str) -> type:
    """Return the `MethodConfig` that `name` names: a registered one, or `"my_package.my_module:MyMethod"`.

    Raises:
        ConfigError: if there is none; near matches are listed.
    """
    found = resolve("method", name, METHODS)
    if not (inspect.isclass(found) and dataclasses.is_dataclass(found) and hasattr(found, "feed")):
        raise ConfigError(f"method {name!r} must be a frozen dataclass that is a MethodConfig; got {found!r}")
    return found


def name_of(method: Any) -> str:
    """Return the name by which `find` finds the class of `method`."""
    return registry.name_of(type(method), METHODS)


def instead(method: Any, name: str) -> Any:
    """Return the method `name` in the place of `method`, with its own defaults.

    Where both are fed histories, it keeps the options that they share: how long and how fast to train.
    """
    cls = find(name)
    shared = {} if not method.feed == cls.feed == "histories" else vars(method)
    return cls(**{field.name: shared[field.name] for field in dataclasses.fields(cls) if field.name in shared})


def of_before(method: Any, field: str) -> Any:
    """Return the method whose options the field `field` held before there was a `method`: this one where it is that.

    `distill` held those of every method that is fed histories.
    """
    name = BEFORE[field]
    kept = name_of(method) == name or (name == DEFAULT and method.feed == "histories")
    return method if kept else instead(method, name)


def labeled(method: Any, labels: Any) -> Any:
    """Return what `replay.labels` said before: distillation of the source's actions, or DPT of optimal ones.

    Raises:
        ConfigError: for other labels, near matches listed, or a method that is neither.
    """
    kinds = {"source": "distillation", "optimal": "dpt"}
    if labels not in kinds:
        raise unknown("value of replay.labels", str(labels), kinds)
    if name_of(method) not in kinds.values():
        raise ConfigError(f"replay.labels={labels} is of distillation and DPT; got method {name_of(method)}")
    return instead(method, kinds[labels])


def as_before(method: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changed `options` of a method in the fields that held them before there was a `method`."""
    name = name_of(method)
    field = next((field for field, known in BEFORE.items() if known == name), None)
    if field is None:
        return {"method": {"name": name, "options": dict(options)}}
    return {field: dict(options)} if options or name != DEFAULT else {}


def modern(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """Return an experiment's plain data with `method` as `{"name", "options"}`, whatever version wrote it."""
    data = dict(experiment)
    said = {BEFORE[field]: options for field in BEFORE if (options := data.pop(field, None)) is not None}
    replay = data.get("replay")
    if isinstance(replay, Mapping) and "labels" in replay:
        data["replay"] = {name: value for name, value in replay.items() if name != "labels"}
        if replay["labels"] == "optimal" and list(said) == ["distillation"]:
            said = {"dpt": said["distillation"]}
    if said and "method" not in data:
        name, options = list(said.items())[-1]
        data["method"] = {"name": name, "options": options}
    return data
