"""A policy from outside the package: it pulls, in turn, the actions from a first one on."""

import dataclasses

import jax.numpy as jnp

from ad_jax.errors import ConfigError
from ad_jax.policies.base import Mode, Policy


@dataclasses.dataclass(frozen=True)
class Config:
    """Where to begin."""

    first: int = 0


def make(config: Config, family, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
    """The policy, for any family that has so many actions."""
    if not 0 <= config.first < family.num_actions:
        raise ConfigError(f"model.first must be below {family.num_actions}; got {config.first}")

    def act(params, time, steps, keys):
        return (config.first + time) % family.num_actions, time + 1

    return Policy(lambda batch: jnp.zeros((batch,), jnp.int32), act)


def of_many_actions(config: Config, family, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
    """A policy that none of the package's families suits."""
    return make(dataclasses.replace(config, first=99), family, mode, temperature)


def made_for_a_family(config: Config, family) -> Policy:
    """Not what a policy's `make` takes."""
    return make(config, family)
