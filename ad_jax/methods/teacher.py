"""A frozen model that another one learns from: what it is, and whether it can teach.

It comes from a run directory, which a method names (`MethodConfig.taught_by`); the stage that trains reads it.
"""

from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import jax.numpy as jnp

from ad_jax.errors import ConfigError
from ad_jax.models.base import Model
from ad_jax.types import Box, PyTree, Spec

if TYPE_CHECKING:
    from ad_jax.methods.base import Setting


Divergence = Literal["forward", "reverse"]


class Teacher(NamedTuple):
    """A trained model.

    Attributes:
        name: where it is, for errors.
        model: it is given rewards as they are.
        params: its parameters, in host memory.
        spec: of what it sees and does.
        unit: what it divides rewards by.
        task_ids: of the tasks that it was trained on.
    """

    name: str
    model: Model
    params: PyTree
    spec: Spec
    unit: float
    task_ids: frozenset[str]


def of(setting: "Setting", method: str) -> Teacher:
    """Return the setting's teacher.

    Args:
        setting: of the student.
        method: its name, for errors.

    Raises:
        ConfigError: if there is none, if it sees or does other things than the student, if actions are no Discrete
            space, or if it was trained on other tasks: the student's held-out tasks might be among them.
    """
    teacher, seen = setting.teacher, setting.seen_spec
    if teacher is None:
        raise ConfigError(f"method={method} learns from a trained model: set method.teacher to its run directory")
    if isinstance(seen.action, Box):
        raise ConfigError(
            f"method={method} learns how likely each of a number of actions is, and those of {setting.family.name} are "
            f"{seen.action}. Use method=distillation"
        )
    if teacher.spec.extra:
        names = ", ".join(name for name, _ in teacher.spec.extra)
        raise ConfigError(f"the teacher in {teacher.name} acts on {names}, which its own method gives it. Use another")
    if (teacher.spec.action, teacher.spec.shape, teacher.spec.values, teacher.spec.pixels) != (
        seen.action,
        seen.shape,
        seen.values,
        seen.pixels,
    ):
        raise ConfigError(
            f"the teacher in {teacher.name} is of other worlds than {setting.family.name}: it sees and does "
            f"{teacher.spec}, here it would be {seen}. Name one that was trained on this family"
        )
    mine = frozenset(setting.family.task_ids(setting.tasks))
    if mine != teacher.task_ids:
        raise ConfigError(
            f"the teacher in {teacher.name} was trained on other tasks: {len(teacher.task_ids - mine)} of its "
            f"{len(teacher.task_ids)} are not among the {len(mine)} training tasks here, so held-out tasks might have "
            "been seen. Use its tasks.train, tasks.used and tasks.split_seed"
        )
    return teacher


def divergence(kind: Divergence, told: jax.Array, logits: jax.Array) -> jax.Array:
    """Return the KL divergence of teacher `told [..., A]` and student `logits [..., A]`, `[...]` float32, in nats."""
    theirs, mine = jax.nn.log_softmax(told), jax.nn.log_softmax(logits)
    if kind == "reverse":
        theirs, mine = mine, theirs
    # An action that is masked, at -inf, weighs nothing: 0 * inf would be NaN.
    return jnp.sum(jnp.where(jnp.isfinite(theirs), jnp.exp(theirs) * (theirs - mine), 0.0), axis=-1)
