"""ad_jax: in-context reinforcement learning by Algorithm Distillation, in JAX from end to end.

The public names, in the order data flows. Each is imported when it is first used, so `import ad_jax` is instant and
touches no device. Editors and type checkers, which run nothing, read the imports under `TYPE_CHECKING`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ad_jax.agent import Agent
    from ad_jax.envs.base import TaskFamily, TaskSplit
    from ad_jax.errors import AdJaxError
    from ad_jax.experiment import (
        CollectConfig,
        EvaluateConfig,
        Experiment,
        MeshConfig,
        Plugin,
        ReplayConfig,
        TaskConfig,
        override,
    )
    from ad_jax.experiment import load as load_experiment
    from ad_jax.history.store import open_store
    from ad_jax.methods.distillation import Distillation
    from ad_jax.methods.dpt import DPT
    from ad_jax.methods.rl2 import RL2
    from ad_jax.models.base import Model
    from ad_jax.policies.base import Policy
    from ad_jax.run.pipeline import Run
    from ad_jax.sources.base import Source

    __version__: str

__all__ = [  # noqa: RUF022 (in the order data flows)
    "TaskFamily",
    "TaskSplit",
    "Source",
    "Model",
    "Policy",
    "Experiment",
    "Plugin",
    "TaskConfig",
    "CollectConfig",
    "ReplayConfig",
    "Distillation",
    "DPT",
    "RL2",
    "EvaluateConfig",
    "MeshConfig",
    "load_experiment",
    "override",
    "Run",
    "open_store",
    "Agent",
    "AdJaxError",
]

# The same for who runs the code: `module`, or `module:name` where it has another name there.
_PUBLIC = {
    "TaskFamily": "ad_jax.envs.base",
    "TaskSplit": "ad_jax.envs.base",
    "Source": "ad_jax.sources.base",
    "Model": "ad_jax.models.base",
    "Policy": "ad_jax.policies.base",
    "Experiment": "ad_jax.experiment",
    "Plugin": "ad_jax.experiment",
    "TaskConfig": "ad_jax.experiment",
    "CollectConfig": "ad_jax.experiment",
    "ReplayConfig": "ad_jax.experiment",
    "Distillation": "ad_jax.methods.distillation",
    "DPT": "ad_jax.methods.dpt",
    "RL2": "ad_jax.methods.rl2",
    "EvaluateConfig": "ad_jax.experiment",
    "MeshConfig": "ad_jax.experiment",
    "load_experiment": "ad_jax.experiment:load",
    "override": "ad_jax.experiment",
    "Run": "ad_jax.run.pipeline",
    "open_store": "ad_jax.history.store",
    "Agent": "ad_jax.agent",
    "AdJaxError": "ad_jax.errors",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from ad_jax.process.provenance import version

        return version()
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ad_jax' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
