"""How episodes of a family begin, and that all of its steps are one program. `s` is the sample of `env.py`."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.envs.base import advance, num_tasks, reset, spec_of, take
from ad_jax.envs.stepping import is_key
from ad_jax.keys import a_key
from ad_jax.testing.base import check_actions, joined, require
from ad_jax.types import Box, PyTree

if TYPE_CHECKING:
    from ad_jax.testing.env import _Sample

STARTS = 64  # of one task, that are compared


def actions_of(s: "_Sample") -> np.ndarray:
    """Return random actions `[steps, *A]`, of a Box the bounds of all components first."""
    stated = s.family.action_spec
    actions = stated.sample(np.random.default_rng(1), (s.steps,))
    if isinstance(stated, Box):
        actions[:2] = stated.bounds[: len(actions)]
    return actions


def starts(s: "_Sample") -> None:
    """Check that starts of one task differ where the family says so, and do not where it says that."""
    said = s.family.start_varies
    if said is None:
        return
    task = take(s.tasks, 0)
    begin = jax.jit(jax.vmap(lambda key: reset(s.family, key, task)))
    observation, state = begin(jax.random.split(a_key(4), STARTS))
    # Random keys, typed or raw, differ whatever the start is.
    leaves = [x for x in jax.tree.leaves(state) if not is_key(x) and x.dtype != jnp.uint32]
    differ = any(np.any(np.asarray(x) != np.asarray(x)[:1]) for x in (observation, *(leaves if said else [])))
    require(
        differ == said,
        f"{STARTS} starts of one task that {'differ' if said else 'look the same'}, as start_varies={said} says",
        "starts that are all the same" if said else "starts that differ",
        "Draw the start in reset_env, from its key." if said else "Draw nothing of it, or correct start_varies.",
    )


def one_program(s: "_Sample") -> None:
    """Check that a step from a reset and a step from a step are traced once: a loop would compile again and again."""
    traced, task, key = [], take(s.tasks, 0), a_key(0)
    action = jnp.asarray(s.family.action_spec.one)

    def step(family, key, state, action, task):
        traced.append(family)
        return advance(family, key, state, action, task)[1]

    stepped = jax.jit(step, static_argnums=0)
    state: PyTree = jax.eval_shape(lambda: reset(s.family, key, task)[1])
    for _ in range(3):
        state = stepped.eval_shape(s.family, key, state, action, task)
    require(
        len(traced) == 1,
        "1 trace for first and later steps",
        f"{len(traced)}",
        "Give the state the same types at every step, and the family one hash.",
    )


def best_actions(s: "_Sample") -> None:
    """Check that what `optimal_action` does, in every state of the lifetimes, is an action."""
    state, steps = s.lifetimes["state"], s.steps
    task = take(s.tasks, np.repeat(np.arange(num_tasks(s.tasks)), steps))
    flat = jax.tree.map(joined, state)
    if jax.eval_shape(jax.vmap(s.family.optimal_action), flat, task) is None:
        return
    best = np.asarray(jax.jit(jax.vmap(s.family.optimal_action))(flat, task))
    check_actions(spec_of(s.family), best, "Correct optimal_action.")
