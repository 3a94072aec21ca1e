"""The uniformly random policy: every action is as likely as any other, whatever was seen."""

import dataclasses

import jax.numpy as jnp

from ad_jax.envs.base import TaskFamily
from ad_jax.policies.base import Mode, Policy, PolicyConfig, choose


@dataclasses.dataclass(frozen=True)
class Random(PolicyConfig):
    """Options of the random policy: none."""

    def make(self, family: TaskFamily, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
        """Make the policy for worlds of a family."""
        return make(self, family, mode, temperature)


def make(config: Random, family: TaskFamily, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
    """The random policy over `family`'s actions. At any temperature it is the same; greedy, it takes the first one."""
    return uniform(family.num_actions, mode, temperature)


def uniform(num_actions: int, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
    """The random policy over so many actions."""

    def act(params, carry, steps, keys):
        return choose(jnp.zeros((len(keys), num_actions), jnp.float32), keys, mode, temperature), carry

    return Policy(lambda batch: (), act)
