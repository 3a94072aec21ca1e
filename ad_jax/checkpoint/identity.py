"""Whether two experiments, or what two plug-ins do, are one; as plain data, in words where they are not.

In: nested data as `Experiment.to_json` gives it, of this version or an older one, and what `behavior` gives. Out: the
parts that matter, dotted names of what differs with both values, and the first step that went otherwise.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from ad_jax.errors import differences
from ad_jax.files import Json, JsonObject
from ad_jax.methods import modern
from ad_jax.registry import RENAMED

# Not what shapes the trained model: the mesh (the same to rounding), logging, and how the model is evaluated.
NOT_OF_TRAINING = ("mesh", "logging", "evaluate", "reference", "method.acting")
# How work is cut into pieces and kept: no number depends on it.
NO_NUMBER = (
    "mesh",
    "logging",
    "collect.chunk_learners",
    "reference.chunk_learners",
    "method.updates_per_dispatch",
    "method.checkpoint_every",
    "method.keep_checkpoints",
    "evaluate.episodes_per_dispatch",
)

PLUGINS = ("env", "source", "model", "method")  # fields of an experiment

# Relative, and of the largest number beside it: of the same model of device and precision of products, and of others.
SAME, OTHER = (1e-4, 1e-5), (2e-2, 1e-3)


class Difference(NamedTuple):
    """How two behaviors differ."""

    told: str  # in words: what was, what is
    sure: bool  # False where another device, or precision of its products, and its rounding may be why


def of_training(experiment: Mapping[str, Json]) -> JsonObject:
    """Return what of an experiment shapes its trained model.

    A field that is None says nothing, so that those that came later leave what was made before theirs.
    """
    return _said(_without(_current(experiment), NOT_OF_TRAINING))


def _without(data: Mapping[str, Json], apart: Collection[str], where: str = "") -> JsonObject:
    """Return nested data without the fields of these dotted names."""
    left = {name: value for name, value in data.items() if where + name not in apart}
    return {n: _without(x, apart, f"{where}{n}.") if isinstance(x, Mapping) else x for n, x in left.items()}


def changed(there: Json, here: Json, apart: Collection[str] = ()) -> list[str]:
    """Where two experiments differ, as dotted names with both values.

    A field that only one of them has is one that the other's version did not know. An option of a plug-in that only one
    of them sets is a difference where both say the changed options alone (`options`), as earlier versions did; where
    one says all of them (`config`), the other one had the default or did not know it.

    Args:
        there: one experiment as plain data, e.g. a checkpoint's.
        here: the other one, e.g. this run's.
        apart: dotted names that do not count.
    """
    whole = any("config" in plugin for data in (there, here) for plugin in _plugins(data))
    return differences(*_both(_current(there, whole), _current(here, whole), frozenset(apart), ""))


def _parts(experiment: Mapping[str, Json]) -> list[JsonObject]:
    """Return what in an experiment's plain data holds plug-ins: itself, and the reference where there is one."""
    return [part for part in (experiment, experiment.get("reference")) if isinstance(part, dict)]


def _plugins(experiment: Json) -> list[JsonObject]:
    """Return the plain data of an experiment's plug-ins."""
    parts = _parts(experiment) if isinstance(experiment, Mapping) else []
    return [part[kind] for part in parts for kind in PLUGINS if isinstance(part.get(kind), dict)]


def _current(experiment: Json, whole: bool = True) -> Json:
    """Return an experiment's plain data as this version says it, with the options of its plug-ins, if `whole`, beside
    names.

    Those of a method are always whole.
    """
    if not isinstance(experiment, Mapping):
        return canonical(experiment)
    data = canonical(modern(experiment))
    for part in _parts(data):
        part |= {kind: _beside(part[kind], whole or kind == "method") for kind in PLUGINS if kind in part}
    return data


def _beside(plugin: Json, whole: bool) -> Json:
    """Return a plug-in's plain data with its options, if `whole`, beside its name."""
    options = plugin.get("config", plugin.get("options")) if isinstance(plugin, dict) else None
    return {"name": plugin.get("name"), **options} if whole and isinstance(options, dict) else plugin


def canonical(value: Json) -> Json:
    """Nested data in which equal numbers look the same, 1 for 1.0, and so do old and new names of options."""
    if isinstance(value, Mapping):
        return {RENAMED.get(name, name): canonical(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(inner) for inner in value]
    if isinstance(value, str):
        return RENAMED.get(value, value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _said(data: Json) -> Json:
    """Nested data without what is None."""
    if not isinstance(data, dict):
        return data
    return {name: _said(value) for name, value in data.items() if value is not None}


def _both(there: Json, here: Json, apart: frozenset[str], where: str) -> tuple[Json, Json]:
    """Return the two without what is apart, and without the fields that one of them lacks."""
    if not (isinstance(there, dict) and isinstance(here, dict)) or where.endswith("options"):
        return there, here

    def inside(name):
        return f"{where}.{name}" if where else name

    names = [name for name in there if name in here and inside(name) not in apart]
    pairs = {name: _both(there[name], here[name], apart, inside(name)) for name in names}
    return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}


def difference(there: Json, here: Json) -> Difference | None:
    """How `here` behaves otherwise than `there` did; None where it does not, or where nobody can know."""
    if not (isinstance(there, Mapping) and isinstance(here, Mapping)) or there.get("format") != here.get("format"):
        return None
    try:
        return _difference(there, here)
    except (KeyError, TypeError, ValueError, AttributeError):  # written by nobody of ours
        return None


def _difference(there: Mapping[str, Json], here: Mapping[str, Json]) -> Difference | None:
    alike = there["platform"] == here["platform"]
    found = []
    for kind in ("shown", "sums"):
        for name in sorted(there[kind].keys() | here[kind].keys()):
            was, now = (np.array(x[kind].get(name, []), float) for x in (there, here))  # not finite numbers are text
            if was.shape != now.shape:
                found.append(((0, 0, name), f"{name}: there were {was.shape} numbers, now {now.shape}"))
                continue
            for place in np.argwhere(~_close(was, now, *(SAME if alike else OTHER))).tolist():
                told = f"{was[tuple(place)]:g}, is {now[tuple(place)]:g}"
                if kind == "shown":
                    found.append(((1, place[-1], name), f"{name} at step {place[-1]} was {told}"))
                else:
                    found.append(((2, place[0], name), f"the sum of {name} was {told}"))
    return Difference(min(found)[1], alike) if found else None  # the earliest: the others may follow from it


def _close(was: np.ndarray, now: np.ndarray, relative: float, of_largest: float) -> np.ndarray:
    """Element by element. Not finite numbers are close to the same ones."""
    finite = np.abs(np.concatenate([was.ravel(), now.ravel()]))
    largest = finite[np.isfinite(finite)].max(initial=0.0)
    return np.isclose(was, now, relative, of_largest * largest, equal_nan=True)
