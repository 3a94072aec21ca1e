"""Source algorithms, by name. To add one: a file with a `SourceConfig`, and a line here (or none)."""

from collections.abc import Mapping

from ad_jax import registry
from ad_jax.files import Json
from ad_jax.sources.base import SourceConfig

SOURCES = {
    "actor_critic": "ad_jax.sources.actor_critic:ActorCritic",
    "dqn": "ad_jax.sources.dqn:DQN",
    "noisy_oracle": "ad_jax.sources.noisy_oracle:NoisyOracle",
    "ppo": "ad_jax.sources.ppo:PPO",
    "primal_dual": "ad_jax.sources.primal_dual:PrimalDual",
    "q_learning": "ad_jax.sources.q_learning:QLearning",
    "ucb": "ad_jax.sources.ucb:UCB",
}


def make(name: str, options: Mapping[str, Json] | None = None) -> SourceConfig:
    """Return the source `name` with its options; `.make(family)` gives its `Source`.

    Raises:
        ConfigError: for an unknown source or option, with near matches.
    """
    return registry.make("source", name, options, SOURCES, SourceConfig)
