"""Source algorithms, by name. To add one: a file with `Config` and `make`, and a line here (or none)."""

from collections.abc import Mapping
from typing import Any

from ad_jax.registry import build, config_class, resolve

SOURCES = {
    "actor_critic": "ad_jax.sources.actor_critic:make",
    "dqn": "ad_jax.sources.dqn:make",
    "noisy_oracle": "ad_jax.sources.noisy_oracle:make",
    "ppo": "ad_jax.sources.ppo:make",
    "q_learning": "ad_jax.sources.q_learning:make",
    "ucb": "ad_jax.sources.ucb:make",
}


def make_config(name: str, options: Mapping[str, Any] | None = None) -> Any:
    """The config of source `name`: the annotation of its `make`'s first argument, built from `options`.

    Raises:
        ConfigError: for an unknown source or option, with near matches.
    """
    return build(f"source {name}", config_class(resolve("source", name, SOURCES)), options or {})


def make(name: str, config: Any, family: Any) -> Any:
    """The `Source` named `name` with `config`, on `family`."""
    return resolve("source", name, SOURCES)(config, family)
