"""The returns that a task family states, held against simulated ones. `s` is the sample of `env.py`."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.envs.base import TaskFamily, num_tasks, reset, take
from ad_jax.envs.stepping import step as step_once
from ad_jax.keys import a_key
from ad_jax.testing.base import TOLERANCE, require, types_of
from ad_jax.types import Discrete, PyTree

if TYPE_CHECKING:
    from ad_jax.testing.env import _Sample

STANDARD_ERRORS = 5  # how far a Monte-Carlo mean may lie from the stated one
FEW = 256  # episodes of each task, where no number is stated


def episode_return(family: TaskFamily, keys: jax.Array, actions: jax.Array, task: PyTree) -> jax.Array:
    """Return the return of one episode from keys `[T + 1]`, without `advance`.

    `actions [T, *A]` are what is done; where one is negative, or in a Box NaN, the optimal action is.
    """

    def step(carry, x):
        state, over, total = carry
        action, key = x
        best = family.optimal_action(state, task)
        if best is not None:
            action = jnp.where(jnp.isnan(action) if action.dtype == jnp.float32 else action < 0, best, action)
        outcome = step_once(family, key, state, action, task)
        total = total + jnp.where(over, 0.0, outcome.reward)
        return (outcome.next_state, over | outcome.done, total), None

    start = (reset(family, keys[0], task)[1], jnp.bool_(False), jnp.float32(0))
    return jax.lax.scan(step, start, (actions, keys[1:]))[0][2]


def random_returns(s: "_Sample") -> None:
    best, chance = s.family.optimal_return(s.tasks), s.family.random_return(s.tasks)
    wanted = (np.dtype(np.float64), (num_tasks(s.tasks),))
    for name, value in (("optimal_return", best), ("random_return", chance)):
        if value is not None:
            require((value.dtype, value.shape) == wanted, f"{name} {wanted}", (value.dtype, value.shape), "")
    if chance is None:
        return
    if best is not None:
        require(np.all(chance <= best + TOLERANCE), "random_return <= optimal_return", f"{chance} and {best}", "")
    shape = s.episodes
    actions = s.family.action_spec.sample(np.random.default_rng(2), shape)
    _compare(s, actions, "random_return", chance, chance if best is None else best)


def optimal_actions(s: "_Sample") -> None:
    """Check that `optimal_action` earns `optimal_return`; where that is unknown, no less than chance."""
    best, state = s.family.optimal_return(s.tasks), take(s.lifetimes["state"], (0, 0))
    action = jax.eval_shape(s.family.optimal_action, state, take(s.tasks, 0))
    if action is None:
        return
    stated = s.family.action_spec
    wanted = types_of(jax.ShapeDtypeStruct(stated.shape, stated.compute_dtype))
    require(types_of(action) == wanted, str(wanted), types_of(action), "Cast it.")

    def asked(shape):
        return np.full((*shape, *stated.shape), -1 if isinstance(stated, Discrete) else np.nan, stated.compute_dtype)

    if best is not None:
        _compare(s, asked(s.episodes), "optimal_return", best, best)
        return
    shape = (s.episodes[0], FEW, s.episodes[2])
    by_chance = stated.sample(np.random.default_rng(2), shape)
    earned, chance = _returns(s, asked(shape)), _returns(s, by_chance)
    error = np.sqrt((earned.var(axis=1) + chance.var(axis=1)).sum() / earned.shape[1])
    means = earned.mean(axis=1), chance.mean(axis=1)
    require(
        (means[0] - means[1]).sum() >= -STANDARD_ERRORS * error,
        f"at least what random actions earn, {means[1]}",
        means[0],
        "Correct optimal_action, or return None.",
    )


def _returns(s: "_Sample", actions: np.ndarray) -> np.ndarray:
    """Of episodes of `actions [n, E, T, *A]` on the first n tasks: `[n, E]` float64."""
    n, episodes, steps = actions.shape[:3]
    keys = jax.random.split(a_key(2), (n, episodes, steps + 1))
    return np.asarray(s.play(keys, actions, take(s.tasks, slice(n))), np.float64)


def _compare(s: "_Sample", actions: np.ndarray, name: str, stated: np.ndarray, best: np.ndarray) -> None:
    """Hold what the family states of its first tasks against the mean return of episodes of `actions [n, E, T]`."""
    n, episodes = actions.shape[:2]
    got = _returns(s, actions)
    # The second term allows for a reward so rare that no episode of the sample saw it.
    largest = max(np.abs(got).max(), np.abs(best).max())
    error = np.sqrt(got.var(axis=1) / episodes + (largest / episodes) ** 2)
    difference = got.mean(axis=1) - stated[:n]
    off = max(np.max(np.abs(difference) / error), abs(difference.sum()) / np.sqrt((error**2).sum()))  # each, and all
    require(
        off <= STANDARD_ERRORS,
        f"{name} within {STANDARD_ERRORS} standard errors of {got.mean(axis=1)}",
        f"{stated[:n]}, {off:.1f} off",
        f"Correct {name}, or return None.",
    )
