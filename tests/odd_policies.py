"""A policy from outside the package: it pulls, in turn, the actions from a first one on."""

import dataclasses

import jax.numpy as jnp

from ad_jax.errors import ConfigError
from ad_jax.policies.base import Mode, Policy, PolicyConfig


@dataclasses.dataclass(frozen=True)
class InTurn(PolicyConfig):
    """Where to begin."""

    first: int = 0

    def make(self, family, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
        """Return the policy, for any family that has so many actions."""
        if not 0 <= self.first < family.num_actions:
            raise ConfigError(f"model.first must be below {family.num_actions}; got {self.first}")

        def act(params, time, steps, keys):
            return (self.first + time) % family.num_actions, time + 1

        return Policy(lambda batch: jnp.zeros((batch,), jnp.int32), act)


@dataclasses.dataclass(frozen=True)
class OfManyActions(InTurn):
    """A policy that none of the package's families suits."""

    first: int = 99


def made_for_a_family(config, family) -> Policy:
    """Return a function, which policies were once."""
    return InTurn().make(family)
