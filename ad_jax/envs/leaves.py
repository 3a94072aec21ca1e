"""A task's parameters as named arrays or plain data, and back: what stores and results hold, to simulate it again."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.core import Tracer

from ad_jax.envs.stepping import as_task, is_key, path_name, stored
from ad_jax.errors import ConfigError
from ad_jax.files import Json, JsonObject
from ad_jax.types import Array, PyTree, Tree

if TYPE_CHECKING:
    from ad_jax.envs.base import TaskFamily


def task_leaves(tasks: PyTree) -> dict[str, np.ndarray]:
    """Return the leaves of batched `EnvParams` by dotted path, as histories hold them, e.g. `{"goal": [N, 2]}`."""
    paths = jax.tree_util.tree_flatten_with_path(tasks)[0]
    return {path_name(path): stored(leaf) for path, leaf in paths}


def tasks_of(family: "TaskFamily", leaves: Mapping[str, PyTree]) -> PyTree:
    """Return batched `EnvParams [N]` of leaves `[N, ...]` by dotted path. Inverse of `task_leaves`.

    Raises:
        ConfigError: if the family's tasks have other leaves.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(family.default_params)
    if (names := {path_name(path) for path, _ in paths}) != set(leaves):
        raise ConfigError(f"tasks of {family.name} have the leaves {sorted(names)}; these have {sorted(leaves)}")
    return jax.tree_util.tree_unflatten(structure, [as_task(leaves[path_name(path)], x) for path, x in paths])


def as_data(tasks: PyTree) -> list[JsonObject]:
    """Return each task's leaves as plain data, `{"goal": [3, 4]}`; what JSON has no number for, as `"inf"`, `"nan"`."""
    leaves = {name: _plain(leaf.tolist()) for name, leaf in task_leaves(tasks).items()}
    return [dict(zip(leaves, each, strict=True)) for each in zip(*leaves.values(), strict=True)]


def from_data(family: "TaskFamily", data: Sequence[Mapping[str, Json]]) -> PyTree:
    """Return batched `EnvParams [N]` of what `as_data` gave.

    Raises:
        ConfigError: if the family's tasks have other leaves.
    """
    template = task_leaves(family.default_params)
    names = {name for task in data for name in task}

    def told(name):
        return np.array([_number(task.get(name)) for task in data], getattr(template.get(name), "dtype", None))

    return tasks_of(family, {name: told(name) for name in names})


def _plain(value: Json) -> Json:
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Json) -> Json:
    if isinstance(value, list):
        return [_number(inner) for inner in value]
    return float(value) if isinstance(value, str) else value


def take(tasks: Tree, index: PyTree) -> Tree:
    """Rows `index` of batched tasks.

    On the host where tasks and index are numbers: JAX would compile programs for each of their shapes.
    """
    traced = any(isinstance(i, Tracer) for i in jax.tree.leaves(index))
    at = np.asarray(index) if isinstance(index, jax.Array) and not traced else index

    def rows(leaf: Array) -> Array:
        here = isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer) and leaf.is_fully_addressable
        return leaf[index] if traced or not here or is_key(leaf) else jax.device_put(np.array(np.asarray(leaf)[at]))

    return jax.tree.map(rows, tasks)


def num_tasks(tasks: PyTree) -> int:
    """N of batched tasks."""
    return len(jax.tree.leaves(tasks)[0])
