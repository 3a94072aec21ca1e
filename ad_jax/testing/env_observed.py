"""Whether the observations that a family returns are those that its `observe` gives."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.envs.base import advance, take
from ad_jax.keys import a_key
from ad_jax.testing.base import require, same, types_of

if TYPE_CHECKING:
    from ad_jax.testing.env import _Sample

OBSERVED = 64  # steps whose observation is compared


def observed(s: "_Sample") -> None:
    """Check that what was returned is `observe` of its state, where there is one that draws nothing."""
    family, task = s.family, take(s.tasks, 0)
    keys = jax.random.split(a_key(2), OBSERVED)
    actions = jnp.asarray(family.action_spec.sample(np.random.default_rng(2), (OBSERVED,)))

    def at(key, observation, state, action):
        one, other = (family.observe(k, state, action, task) for k in jax.random.split(key))
        return {"returned": observation, "observed": one, "again": other}

    def step(carry, x):
        key, action = x
        _, state, outcome = advance(family, key, carry, action, task)
        return state, at(key, outcome.next_observation, outcome.next_state, action)

    def lifetime(key):
        observation, state = family.reset_env(key, task)
        return at(key, observation, state, None), jax.lax.scan(step, state, (keys, actions))[1]

    try:
        started, stepped = jax.tree.map(np.asarray, jax.jit(lifetime)(a_key(3)))
    except NotImplementedError:  # it has no `observe`, which no loop of ours calls
        return
    for which, found in (("reset_env", started), ("step_env", stepped)):
        if not np.array_equal(found["observed"], found["again"]):
            continue  # it draws
        require(
            types_of(found["observed"]) == types_of(found["returned"]) and same(found["observed"], found["returned"]),
            f"observe of the new state to be what {which} returned",
            f"{found['observed'].reshape(-1)[:8]} and {found['returned'].reshape(-1)[:8]}",
            "Return observe(key, new_state, action, params).",
        )
