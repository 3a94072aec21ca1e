"""Whether histories could have happened in a task family: every step taken again by the family's own `step_env`.

In: histories of somebody else's, and the family that they are said to be of. Out: nothing, or an error that names the
first step that is otherwise, and, for the dark grids, what would make it right: axes or actions in another order, or
key and door in each other's place. Only families whose state can be set from an episode's first observation
(`TaskFamily.starts_at`) are looked at.
"""

import functools
import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.envs.base import TaskFamily, spec_of
from ad_jax.envs.grid import MOVES, NAMES, Grid
from ad_jax.envs.leaves import tasks_of
from ad_jax.errors import ForeignHistoriesError
from ad_jax.keys import a_key
from ad_jax.types import Array, Histories, PyTree

FINE, START, OBSERVATION, REWARD, END = range(5)  # what of a step is otherwise; the first of them counts
ENOUGH = 20_000  # steps that are looked at to find out why
SHOWN_RESETS = 8  # starts that are drawn to see whether all are alike


def check(family: TaskFamily, histories: Histories, numbers: np.ndarray, ends_known: bool) -> None:
    """Raise ForeignHistoriesError where a step of `histories [H, T]` is none that `family` could have given.

    Args:
        family: the task family.
        histories: as they would be stored.
        numbers: what the histories are called, `[H]`.
        ends_known: whether `terminated` is known; else every end stands as truncated.
    """
    replay = _replayer(family, ends_known)
    if replay is None:
        return
    t = histories.transition
    given = t.observation, t.action, t.reward, t.terminated, t.done
    kind, step = map(np.asarray, replay(tasks_of(family, histories.tasks), *map(np.asarray, given)))
    if not kind.any():
        return
    row = int(kind.argmax())
    told = _told(family, histories, row, int(kind[row]), int(step[row]))
    raise ForeignHistoriesError(
        f"{told}, at step {int(step[row])} of {histories.name(row, numbers)}. {_reason(family, histories)}"
    )


@functools.lru_cache(maxsize=16)
def _replayer(family: TaskFamily, ends_known: bool) -> Callable[..., tuple[Array, Array]] | None:
    """Return what takes every step again: what is first otherwise in each history, and where; None if it cannot."""
    spec, key = spec_of(family), a_key(0)
    task = family.default_params
    seen = jax.ShapeDtypeStruct(spec.shape, spec.compute_dtype)
    if jax.eval_shape(family.starts_at, seen, task) is None:
        return None

    def of_history(task: PyTree, observation: Array, action: Array, reward: Array, terminated: Array, done: Array):
        starts = jax.vmap(lambda key: family.reset_env(key, task)[0])(jax.random.split(key, SHOWN_RESETS))
        alike = jnp.all(starts == starts[:1])

        def step(carry, x):
            (state, fresh), (observed, action, reward, terminated, done) = carry, x
            begun = family.starts_at(observed, task)
            state = jax.tree.map(lambda new, old: jnp.where(fresh, new, old), begun, state)
            there = family.observe(key, state, None, task)
            _, after, earned, ended, _ = family.step_env(key, state, action, task)
            wrong = jnp.stack(
                [
                    fresh & alike & jnp.any(observed != starts[0]),
                    jnp.any(there != observed),
                    earned != reward,
                    (ended != terminated) if ends_known else ended & ~done,
                ]
            )
            return (after, done), jnp.where(wrong.any(), 1 + jnp.argmax(wrong).astype(jnp.int32), FINE)

        state = family.starts_at(observation[0].astype(spec.compute_dtype), task)
        steps = (
            observation.astype(spec.compute_dtype),
            action.astype(spec.action.compute_dtype),
            reward.astype(jnp.float32),
            terminated,
            done,
        )
        found = jax.lax.scan(step, (state, jnp.bool_(True)), steps)[1]
        at = jnp.argmax(found != FINE)
        return found[at], at

    return jax.jit(jax.vmap(of_history))


def _told(family: TaskFamily, histories: Histories, row: int, kind: int, step: int) -> str:
    """Say what is otherwise at a step of a row."""
    t = histories.transition
    there = np.asarray(t.observation[row])
    if kind == START:
        return f"an episode begins at {_cell(there[step])}, where none of {family.name} begins"
    if kind == OBSERVATION:
        before = f"action {t.action[row, step - 1]} from {_cell(there[step - 1])}"
        return f"{before} leads to {_cell(there[step])}, where it leads elsewhere in {family.name}"
    acted = f"action {t.action[row, step]} from {_cell(there[step])}"
    if kind == REWARD:
        return f"{acted} earns {t.reward[row, step]:g}, where it earns something else in {family.name}"
    ended = "ends" if t.terminated[row, step] else "does not end"
    return f"{acted} {ended} the episode, and the contrary is so in {family.name}"


def _cell(observation: np.ndarray) -> str:
    return "(" + ", ".join(f"{x:g}" for x in np.ravel(observation)[:8]) + ")"


def _reason(family: TaskFamily, histories: Histories) -> str:
    """Return what would make it right, if something simple does."""
    plain = f"Give the family's options as they were (start, reward, steps): these are {family.options}"
    if not isinstance(family, Grid) or "moves" in histories.tasks:  # where each task has an order of its own
        return plain
    scored = sorted(
        ((otherwise, changes, said) for changes, said, otherwise in _readings(histories, family.size)),
        key=lambda found: found[:2],
    )
    (best, changes, said), same = scored[0], next(found[0] for found in scored if not found[1])
    return f"{said}, it seems" if changes and best < 0.5 * same else plain


def _readings(histories: Histories, size: int) -> Iterator[tuple[float, str, float]]:
    """Yield ways to read histories of a dark grid: how many changes, in words, and the share of steps against it."""
    t = histories.transition
    done = np.asarray(t.done)[:, :-1]
    rows, steps = np.nonzero(~done)
    pick = np.random.default_rng(0).permutation(len(rows))[:ENOUGH]
    rows, steps = rows[pick], steps[pick]
    before, after = (np.asarray(t.observation)[rows, steps + later].astype(int) for later in (0, 1))
    action, paid = np.asarray(t.action)[rows, steps].astype(int), np.asarray(t.reward)[rows, steps] > 0
    cells = {name: np.asarray(leaf).astype(int) for name, leaf in histories.tasks.items() if leaf.shape[1:] == (2,)}
    first = _first_paid(t)[rows, steps]
    for flipped in (False, True):
        here, there = (x[:, ::-1] if flipped else x for x in (before, after))
        for order in itertools.permutations(range(len(MOVES))):
            move = np.array(MOVES)[np.array(order)][action]
            moved = (np.clip(here + move, 0, size - 1) != there).any(1).mean()
            renumbered = order != tuple(range(len(MOVES)))
            for turned in (False, True):
                for swapped in (False, True)[: 1 + ("door" in cells)]:
                    against = _against(cells, rows, there, paid, first, turned, swapped)
                    parts = [
                        *(["observations are (column, row), where they are (row, column) here"] * flipped),
                        *([_numbered(order)] * renumbered),
                        *(["the cells of the task are (column, row), where they are (row, column) here"] * turned),
                        *(["key and door are in each other's place"] * swapped),
                    ]
                    yield flipped + renumbered + 1.1 * turned + swapped, _sentence(parts), moved + against


def _against(cells, rows, there, paid, first, turned, swapped) -> float:
    """Return the share of paid steps that lead to no cell that pays."""
    if not paid.any():
        return 0.0
    at = {name: cell[rows][paid][:, ::-1] if turned else cell[rows][paid] for name, cell in cells.items()}
    reached = there[paid]
    if "door" not in at:
        return float((reached != at["goal"]).any(1).mean())
    key, door = (at["door"], at["key"]) if swapped else (at["key"], at["door"])
    expected = np.where(first[paid][:, None], key, door)
    return float((reached != expected).any(1).mean())


def _first_paid(t) -> np.ndarray:
    """Whether a step is the first of its episode that pays, `[H, T]`."""
    done, paid = np.asarray(t.done), np.asarray(t.reward) > 0
    before = np.cumsum(paid, axis=1) - paid
    starts = np.concatenate([np.ones_like(done[:, :1]), done[:, :-1]], axis=1)
    since = np.maximum.accumulate(np.where(starts, before, 0), axis=1)
    return paid & (before == since)


def _numbered(order: tuple[int, ...]) -> str:
    names = ", ".join(NAMES[move] for move in order)
    return f"the actions 0 to {len(order) - 1} are {names} there, and {', '.join(NAMES)} here (actions={order})"


def _sentence(parts: list[str]) -> str:
    text = "; and ".join(parts)
    return text[:1].upper() + text[1:]
