"""What is run: experiments as data, their files, changes by dotted names, and their plug-ins built and checked.

An experiment file is Python: `def config(scale: str = "cpu") -> Experiment`, with claim and command in its docstring.
Every field can be overridden by a dotted name, `method.updates=2000` or `env.size=17`. Unknown fields, wrong types and
contradictions are refused before anything is compiled.
"""

from ad_jax.experiment.components import Components, build
from ad_jax.experiment.config import (
    CollectConfig,
    EvaluateConfig,
    Experiment,
    LoggingConfig,
    MeshConfig,
    ReferenceConfig,
    ReplayConfig,
    TaskConfig,
    from_data,
)
from ad_jax.experiment.load import call, docstring, find, known, load, scales
from ad_jax.experiment.override import override
from ad_jax.experiment.plugins import Plugin, name_of

__all__ = [
    "CollectConfig",
    "Components",
    "EvaluateConfig",
    "Experiment",
    "LoggingConfig",
    "MeshConfig",
    "Plugin",
    "ReferenceConfig",
    "ReplayConfig",
    "TaskConfig",
    "build",
    "call",
    "docstring",
    "find",
    "from_data",
    "known",
    "load",
    "name_of",
    "override",
    "scales",
]
