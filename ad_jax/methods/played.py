"""What was done in the training tasks by a policy that is being trained: the steps, and what in them cannot be.

Letters: B lifetimes side by side, L steps of each.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ad_jax import values
from ad_jax.envs.base import TaskFamily, spec_of, take
from ad_jax.errors import AdJaxError
from ad_jax.methods.base import Metrics
from ad_jax.types import Array, PyTree, Steps, Transition


class Played(struct.PyTreeNode):
    """What B lifetimes did in L steps. Every leaf is `[B, L, ...]`."""

    steps: Steps  # what was seen before each action, unrendered
    action: Array  # int32
    reward: Array  # float32, for the action
    done: Array  # bool, the action ended an episode


def rendered(family: TaskFamily, steps: Steps) -> Steps:
    """Return steps `[...]` as the network sees them."""
    look = family.render
    for _ in steps.prev_action.shape:
        look = jax.vmap(look)
    return steps.replace(observation=look(steps.observation))


def episodes(played: Played, began: jax.Array, over: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean return of the first episode of the trials that `began [B]` and of the last whole one of those `over [B]`.

    Where episodes end early, the last one that ended may have begun before these steps: such trials are left out.
    """
    done = played.done.astype(jnp.int32)
    over = over & (began | played.steps.prev_done[:, 0] | (done.sum(axis=1) > 1))
    number = jnp.cumsum(done, axis=1) - done  # episodes finished before the step

    def mean(rows, steps):
        total = jnp.sum(jnp.where(rows[:, None] & steps, played.reward, 0.0))
        return total / jnp.maximum(rows.sum(), 1).astype(jnp.float32)

    return mean(began, number == 0), mean(over, number == done.sum(axis=1, keepdims=True) - 1)


def cannot_be(family: TaskFamily, played: Played, task: jax.Array) -> tuple[values.First, jax.Array]:
    """Return the first value of a trial that cannot be, of the first such trial, scalars, and which of the tasks it is
    of.
    """
    t = Transition(played.steps.observation, played.action, played.reward, played.done, played.done)
    t = jax.tree.map(lambda x: x.swapaxes(0, 1), t)
    none, start = values.nothing(task.shape), jnp.int32(0)
    found = values.look_through(spec_of(family), family.reward_dtype, none, start, t)
    row = jnp.argmax(found.place != values.NOTHING)
    return jax.tree.map(lambda x: x[row], (found, task))


def check_values(found: tuple[values.First, PyTree], tasks: PyTree, family: TaskFamily, step: int) -> None:
    """Raise AdJaxError, in words, for what cannot be in the updates after `step`, `[P]` each."""
    first, task = found
    bad = np.flatnonzero(first.place != values.NOTHING)
    if len(bad):
        first, task = jax.tree.map(lambda x: x[bad[0]], (first, task))
        where = f"of a trial's part in update {step + bad[0] + 1}"
        raise refused(first, task, tasks, family, where, "The last good checkpoint is kept.")


def check_of(tasks: PyTree, family: TaskFamily) -> Callable[[Metrics, int], Metrics]:
    """Return the check of a learner that plays `tasks [N]` itself: it takes out and looks at "cannot be"."""

    def check(metrics: Metrics, step: int) -> Metrics:
        check_values(metrics.pop("cannot be"), tasks, family, step)
        return metrics

    return check


def refused(first: values.First, task: PyTree, tasks: PyTree, family: TaskFamily, where: str, kept: str) -> AdJaxError:
    """Return the error for what cannot be of one trial, whose task is row `task` of `tasks`."""
    what, field = values.told(spec_of(family), family.reward_dtype, first)
    name = family.task_ids(take(tasks, np.array([task])))[0]
    return AdJaxError(
        f"{what}, at step {first.step} {where}, on task {name} of {family.name}. {kept} {values.REMEDY[field]}"
    )
