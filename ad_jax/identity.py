"""Whether two experiments, as plain data, are one: what decides a number, and where they differ.

In: nested data as `Experiment.to_json` gives it, of this version or an older one. Out: the parts that matter, and
dotted names of what differs with both values.
"""

from collections.abc import Collection, Mapping
from typing import Any

from ad_jax.errors import differences

# Not what shapes the trained model: the mesh (the same to rounding), logging, and how the model is evaluated.
NOT_OF_TRAINING = ("mesh", "logging", "evaluate", "reference")
# How work is cut into pieces and kept: no number depends on it.
NO_NUMBER = (
    "mesh",
    "logging",
    "collect.chunk_learners",
    "reference.chunk_learners",
    "distill.updates_per_dispatch",
    "distill.checkpoint_every",
    "distill.keep_checkpoints",
    "evaluate.episodes_per_dispatch",
)


def of_training(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """What of an experiment shapes its trained model.

    A field that is None says nothing, so that those that came later leave what was made before theirs.
    """
    return _said({name: value for name, value in canonical(experiment).items() if name not in NOT_OF_TRAINING})


def changed(there: Any, here: Any, apart: Collection[str] = ()) -> list[str]:
    """Where two experiments differ, as dotted names with both values.

    A field that only one of them has is one that the other's version did not know; an option of a plug-in that only one
    of them sets is a difference.

    Args:
        apart: dotted names that do not count.
    """
    return differences(*_both(canonical(there), canonical(here), frozenset(apart), ""))


def canonical(value: Any) -> Any:
    """Nested data in which equal numbers look the same: 1 for 1.0."""
    if isinstance(value, Mapping):
        return {name: canonical(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _said(data: Any) -> Any:
    """Nested data without what is None."""
    if not isinstance(data, dict):
        return data
    return {name: _said(value) for name, value in data.items() if value is not None}


def _both(there: Any, here: Any, apart: frozenset[str], where: str) -> tuple[Any, Any]:
    """The two without what is apart, and without the fields that one of them lacks."""
    if not (isinstance(there, dict) and isinstance(here, dict)) or where.endswith("options"):
        return there, here
    inside = lambda name: f"{where}.{name}" if where else name
    names = [name for name in there if name in here and inside(name) not in apart]
    pairs = {name: _both(there[name], here[name], apart, inside(name)) for name in names}
    return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}
