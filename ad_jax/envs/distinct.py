"""A task stands in a table once and on one side of a split: what "unseen" rests on, found by content and by id.

In: batched tasks and their ids. Copies are tasks whose leaves are equal to the bit, whatever their ids say; ids that
different tasks share are refused as well, because what was trained on is remembered by id.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.errors import ConfigError
from ad_jax.keys import as_data
from ad_jax.types import Array, PyTree, Tree

SHOWN = 4  # places, and groups of them, that a message names
AGAIN = 8  # draws beyond the first, to fill the places of tasks that came twice


def check_table(name: str, ids: Sequence[str], table: PyTree) -> None:
    """Look at all rows of a family's `all_tasks`.

    Args:
        name: of the family.
        ids: of the rows.
        table: `all_tasks()`.

    Raises:
        ConfigError: naming the rows that hold the same task, or different ones with one id.
    """
    copies, shared = _repeated(ids, table)

    def rows(group):
        return f"rows {_listed(map(str, group))}"

    if copies:
        raise ConfigError(
            f"{name}: all_tasks gives each task once; the same one stands in {_listed(map(rows, copies), ' and in ')}. "
            "Leave the repeated rows out, or, where they are meant to differ, let a leaf of the task say in what"
        )
    for group in shared[:1]:
        raise ConfigError(
            f"{name}: task_ids names every task differently; it gives {ids[group[0]]!r} to the different tasks in "
            f"{rows(group)} of all_tasks. Make the id from every leaf that differs between tasks"
        )


def check_sets(
    name: str, train: tuple[Sequence[str], PyTree], held_out: Mapping[str, tuple[Sequence[str], PyTree]]
) -> None:
    """Look at a split: the training tasks, and each held-out set beside them. Held-out sets may share tasks.

    Args:
        name: of the family.
        train: ids of the training tasks, and the tasks.
        held_out: the same of every evaluation set.

    Raises:
        ConfigError: naming tasks that stand in a set twice or on both sides, or different ones with one id.
    """
    for label, (ids, tasks) in held_out.items():
        sides = as_data(train[1]), as_data(tasks)
        both = jax.tree.map(lambda a, b: np.concatenate([np.asarray(a), np.asarray(b)]), *sides)
        names, first = [*train[0], *ids], len(train[0])

        def place(i, label=label, first=first):
            return f"task {i} of the training set" if i < first else f"task {i - first} of the set {label}"

        copies, shared = _repeated(names, both)
        for group in copies[:1]:
            raise ConfigError(
                f"{name}: the split holds the same task twice, {_listed(map(place, group), ' and ')} "
                f"({names[group[0]]!r}), so its result would not be one of new tasks, or count one task double. Draw "
                "training and held-out tasks together, each once: list them in all_tasks, or use another "
                "tasks.split_seed"
            )
        for group in shared[:1]:
            raise ConfigError(
                f"{name}: task_ids names every task differently; it gives {names[group[0]]!r} to different tasks, "
                f"{_listed(map(place, group), ' and ')}. Make the id from every leaf that differs between tasks"
            )


def drawn(name: str, draw: Callable[[int], Tree], wanted: int) -> Tree:
    """Different tasks that a family draws, leading axis `[wanted]`, in the order in which they first came.

    Args:
        name: of the family.
        draw: `wanted` tasks; of the number of the draw, from 0 on.
        wanted: how many different tasks to return.

    Raises:
        ConfigError: if there are not that many different ones in `1 + AGAIN` draws.
    """
    tasks, first = draw(0), []
    for again in range(1, AGAIN + 2):
        every = len(jax.tree.leaves(tasks)[0])
        first = [group[0] for group in _groups(_contents(tasks, every))]
        if len(first) >= wanted:
            return tasks if len(first) == every else _rows(tasks, first[:wanted])
        if again <= AGAIN:
            tasks = jax.tree.map(_joined, tasks, draw(again))
    raise ConfigError(
        f"{name}: sample_tasks gives {len(first)} different tasks in {1 + AGAIN} draws of {wanted} each; a split of "
        f"{wanted} was asked for. Ask for fewer (tasks.train, tasks.held_out), or let more about the tasks differ"
    )


def _rows(tasks: Tree, numbers: list[int]) -> Tree:
    """Return these rows of batched tasks."""
    return jax.tree.map(lambda x: x[np.array(numbers)], tasks)


def _joined(a: Array, b: Array) -> Array:
    """Rows of both."""
    return (jnp if isinstance(a, jax.Array) else np).concatenate([a, b])


def _repeated(ids: Sequence[str], tasks: PyTree) -> tuple[list[list[int]], list[list[int]]]:
    """Rows whose tasks are equal, in groups; and rows of different tasks that share an id."""
    contents = _contents(tasks, len(ids))
    copies = [group for group in _groups(contents) if len(group) > 1]
    first = {content: i for i, content in reversed([*enumerate(contents)])}
    once = sorted(first.values())
    shared = [[once[i] for i in group] for group in _groups([ids[i] for i in once]) if len(group) > 1]
    return copies, shared


def _contents(tasks: PyTree, count: int) -> list[bytes]:
    """Return the bytes of all leaves of each task."""
    arrays = [np.ascontiguousarray(np.asarray(leaf)) for leaf in jax.tree.leaves(as_data(tasks))]
    leaves = [array.reshape(count, -1) for array in arrays if array.size]
    rows = np.concatenate([leaf.view(np.uint8).reshape(count, -1) for leaf in leaves], axis=1)
    return [row.tobytes() for row in rows]


def _groups(values: Sequence[Hashable]) -> list[list[int]]:
    """Return indices of equal values, in order of first appearance."""
    found: dict[Hashable, list[int]] = {}
    for i, value in enumerate(values):
        found.setdefault(value, []).append(i)
    return list(found.values())


def _listed(parts: Iterable[str], between: str = ", ") -> str:
    """Return the first few of them, and how many there are beyond."""
    every = list(parts)
    more = f"{between}{len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return between.join(every[:SHOWN]) + more
