"""ad_jax: in-context reinforcement learning by Algorithm Distillation, in JAX from end to end.

The public names, in the order data flows. Each is imported when it is first used, so `import ad_jax` is instant and
touches no device.
"""

import importlib
from typing import Any

_PUBLIC = {
    "TaskFamily": "ad_jax.envs.base",
    "TaskSplit": "ad_jax.envs.base",
    "Source": "ad_jax.sources.base",
    "Model": "ad_jax.models.base",
    "Experiment": "ad_jax.experiment",
    "Plugin": "ad_jax.experiment",
    "TaskConfig": "ad_jax.experiment",
    "CollectConfig": "ad_jax.experiment",
    "ReplayConfig": "ad_jax.experiment",
    "DistillConfig": "ad_jax.experiment",
    "EvaluateConfig": "ad_jax.experiment",
    "MeshConfig": "ad_jax.experiment",
    "load_experiment": "ad_jax.experiment:load",
    "override": "ad_jax.experiment",
    "Run": "ad_jax.run.pipeline",
    "open_store": "ad_jax.history.store",
    "Agent": "ad_jax.agent",
    "AdJaxError": "ad_jax.errors",
}

__all__ = list(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ad_jax' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted(__all__)
