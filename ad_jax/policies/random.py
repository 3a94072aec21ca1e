"""The uniformly random policy: every action is as likely as any other, whatever was seen."""

import dataclasses

import jax
import jax.numpy as jnp

from ad_jax.envs.base import TaskFamily
from ad_jax.models.heads.unit import from_unit
from ad_jax.policies.base import Mode, Policy, PolicyConfig, choose
from ad_jax.types import Box, Discrete


@dataclasses.dataclass(frozen=True)
class Random(PolicyConfig):
    """Options of the random policy: none."""

    def make(self, family: TaskFamily, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
        """Return the random policy over `family`'s actions. At any temperature it is the same.

        Greedy, it takes the first of Discrete actions, and the middle of a Box.
        """
        action = family.action_spec
        return uniform(action.n, mode, temperature) if isinstance(action, Discrete) else uniform_in(action, mode)


def uniform(num_actions: int, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
    """Return the random policy over so many actions."""

    def act(params, carry, steps, keys):
        return choose(jnp.zeros((len(keys), num_actions), jnp.float32), keys, mode, temperature), carry

    return Policy(lambda batch: (), act)


def uniform_in(box: Box, mode: Mode = "sampled") -> Policy:
    """Return the random policy over a Box."""

    def act(params, carry, steps, keys):
        if mode == "greedy":
            return from_unit(box, jnp.zeros((len(keys), box.size), jnp.float32)), carry
        return jax.vmap(lambda key: by_chance(box, key))(keys), carry

    return Policy(lambda batch: (), act)


def by_chance(action: Discrete | Box, key: jax.Array) -> jax.Array:
    """Draw one action, all as likely: `[]` int32, or of a Box `[*S]` float32. The key is consumed."""
    if isinstance(action, Discrete):
        return jax.random.randint(key, (), 0, action.n, jnp.int32)
    return from_unit(action, jax.random.uniform(key, (action.size,), jnp.float32, -1.0, 1.0))
