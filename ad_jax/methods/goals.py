"""Goals that a trained model is given: checked against a family's world, and brought to a policy.

A goal is an observation, or where a family has `coordinates`, those; a number that may be anything is None in options
and NaN in arrays. `goal="task"` is that of each task, as its family's `destinations` name it: evaluation tells the
policy at each step, beside what is seen (`Policy.tell`).
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.envs.base import TaskFamily, spec_of
from ad_jax.errors import ConfigError
from ad_jax.models.diffusion import Entries, Masked
from ad_jax.policies.denoised import GOALS
from ad_jax.types import Array, PyTree, Steps

COORDINATES = "coordinates"  # extra of the steps

Told = Callable[[TaskFamily, PyTree, Array], dict[str, Array]]


def coordinates_shape(family: TaskFamily) -> tuple[int, ...] | None:
    """Return the shape of the family's coordinates; None where it has none. Nothing is computed."""
    spec = spec_of(family)
    found = jax.eval_shape(family.coordinates, jax.ShapeDtypeStruct(spec.shape, spec.compute_dtype))
    return None if found is None else found.shape


def number_of_goals(family: TaskFamily) -> int:
    """Return how many observations a task of a family is to reach.

    Raises:
        ConfigError: if the family does not say.
    """
    found = jax.eval_shape(family.destinations, family.default_params)
    if found is None:
        raise ConfigError(
            f"method.acting.goal=task: {family.name} does not say what is to be reached in a task (destinations). Name "
            "an observation instead, e.g. method.acting.goal=3,4"
        )
    return found.shape[0]


def check_goal(name: str, goal: Sequence[float | None], family: TaskFamily) -> None:
    """Raise ConfigError where a goal, the option `name`, is no observation of the family's world."""
    spec, coordinates = spec_of(family), coordinates_shape(family)
    count = spec.size if coordinates is None else int(np.prod(coordinates))
    what = "observation" if coordinates is None else "place in the coordinates"
    if len(goal) != count:
        raise ConfigError(f"{name} is an {what} of {family.name}, {count} numbers; got {len(goal)}: {tuple(goal)}")
    if all(x is None for x in goal):
        raise ConfigError(f"{name}={tuple(goal)} names nothing to reach: give at least one number")
    if coordinates is None and spec.values is not None:
        check_whole(name, goal, spec.values)
        return
    low, high = np.full(count, -1.0), np.full(count, 1.0)
    if coordinates is None:
        space = family.observation_space(family.default_params)
        low, high = (np.broadcast_to(np.asarray(x, float), spec.shape).reshape(-1) for x in (space.low, space.high))
    for i, x in enumerate(goal):
        if x is not None and not low[i] <= x <= high[i]:
            raise ConfigError(
                f"{name}={tuple(goal)} is outside of {family.name}: number {i} is from {low[i]:g} to {high[i]:g}, or "
                f"None, anything; got {x:g}"
            )


def check_whole(name: str, goal: Sequence[float | None], values: Sequence[int]) -> None:
    """Raise ConfigError where a goal is none of the observations that take so many `values` each."""
    most = [n - 1 for n in values]
    if len(goal) != len(values):
        raise ConfigError(f"{name} is an observation, {len(values)} numbers; got {len(goal)}: {tuple(goal)}")
    for x, n in zip(goal, values, strict=True):
        if x is None or x != int(x) or not 0 <= x < n:
            raise ConfigError(
                f"{name}={tuple(goal)} is outside of the world, whose observations are whole numbers from 0 to {most}"
            )


def goals_of(
    goal: str | Sequence[float | None] | None,
    waypoints: Sequence[Sequence[float | None]],
    legs: int | None,
    entries: Entries,
) -> tuple[Callable[[Steps], jax.Array] | None, int]:
    """Return `steps [B] -> goals [B, G, n]` float32 for `policies.denoised`, and G; None and 0 where there are none.

    Raises:
        ConfigError: for a goal that no entry of a plan can be.
    """
    if goal is None:
        return None, 0
    if isinstance(goal, str):
        return lambda steps: steps.extra[GOALS], legs or 1
    for name, one in (*(("waypoints", x) for x in waypoints), ("goal", goal)):
        if isinstance(entries, Masked):
            check_whole(f"method.acting.{name}", one, entries.values)
        elif len(one) != entries.n:
            raise ConfigError(f"method.acting.{name} has {entries.n} numbers; got {len(one)}: {tuple(one)}")
    every = np.array([[np.nan if x is None else x for x in one] for one in (*waypoints, goal)], np.float32)

    def same(steps: Steps) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(every)[None], (*steps.prev_done.shape, *every.shape))

    return same, len(every)


def told(goals: bool, coordinates: bool) -> Told:
    """Return the `Policy.tell` of what is asked for: the goals of the task, the coordinates of what is seen."""
    return functools.partial(_tell, goals, coordinates)


def _tell(goals: bool, coordinates: bool, family: TaskFamily, task: PyTree, observation: Array) -> dict[str, Array]:
    found = {}
    if goals:
        there = jnp.asarray(family.destinations(task)).astype(jnp.float32)
        found[GOALS] = there.reshape(len(there), -1)
    if coordinates:
        found[COORDINATES] = family.coordinates(observation)
    return found
