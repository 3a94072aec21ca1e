"""Sequence backbones, by name. To add one: a file with `Config` and `make`, and a line here (or none)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ad_jax.registry import build, config_class, resolve

MODELS = {
    "dpt": "ad_jax.models.dpt:make",
    "lstm": "ad_jax.models.lstm:make",
    "paper": "ad_jax.models.transformer:make_paper",
    "transformer": "ad_jax.models.transformer:make",
}


def make_config(name: str, options: Mapping[str, Any] | None = None) -> Any:
    """The config of model `name`: the annotation of its `make`'s first argument, built from `options`.

    Raises:
        ConfigError: for an unknown model or option, with near matches.
    """
    return build(f"model {name}", config_class(resolve("model", name, MODELS)), options or {})


def for_family(config: Any, family: Any) -> Any:
    """The config with what it leaves open and only the family knows.

    That is `config.for_family(family)` where a config has this method, which may also refuse the family; and for
    others how long an episode can be, where they have `episode_length` and it is None.

    Raises:
        ConfigError: if the model is none for this family.
    """
    if hasattr(config, "for_family"):
        return config.for_family(family)
    if getattr(config, "episode_length", 0) is None:
        return dataclasses.replace(config, episode_length=family.episode_length)
    return config


def make(name: str, config: Any, spec: Any) -> Any:
    """The `Model` named `name` with `config`, for observations and actions of `spec`."""
    return resolve("model", name, MODELS)(config, spec)
