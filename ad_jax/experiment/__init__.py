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
from ad_jax.experiment.load import call, docstring, find, known, load, load_any, load_mixture, scales
from ad_jax.experiment.members import Members, build_members
from ad_jax.experiment.mixture import Member, Mixture
from ad_jax.experiment.override import override, override_mixture
from ad_jax.experiment.plugins import Plugin, name_of

__all__ = [
    "CollectConfig",
    "Components",
    "EvaluateConfig",
    "Experiment",
    "LoggingConfig",
    "Member",
    "Members",
    "MeshConfig",
    "Mixture",
    "Plugin",
    "ReferenceConfig",
    "ReplayConfig",
    "TaskConfig",
    "build",
    "build_members",
    "call",
    "docstring",
    "find",
    "from_data",
    "known",
    "load",
    "load_any",
    "load_mixture",
    "name_of",
    "override",
    "override_mixture",
    "scales",
]
