"""Sequence backbones, by name. To add one: a file with a `ModelConfig`, and a line here (or none)."""

from collections.abc import Mapping

from ad_jax import registry
from ad_jax.files import Json
from ad_jax.models.base import ModelConfig

MODELS = {
    "dpt": "ad_jax.models.dpt:DPTModel",
    "lstm": "ad_jax.models.lstm:LSTM",
    "paper": "ad_jax.models.transformer:Paper",
    "transformer": "ad_jax.models.transformer:Transformer",
}


def make(name: str, options: Mapping[str, Json] | None = None) -> ModelConfig:
    """Return the backbone `name` with its options; `.bind(family).make(spec)` gives its `Model`.

    Raises:
        ConfigError: for an unknown model or option, with near matches.
    """
    return registry.make("model", name, options, MODELS, ModelConfig)
