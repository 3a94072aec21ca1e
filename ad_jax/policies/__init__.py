"""Policies that are scripted and not trained, by name. To add one: a file with `Config` and `make`, and a line here.

An experiment names one where it would name its model, `model=random`; nothing is then collected or trained.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from ad_jax.errors import ConfigError
from ad_jax.models import MODELS
from ad_jax.policies.base import Mode, Policy, check_sampling
from ad_jax.registry import build, config_class, resolve

POLICIES = {
    "explorer": "ad_jax.policies.explorer:make",
    "random": "ad_jax.policies.random:make",
    "thompson": "ad_jax.policies.thompson:make",
}
ARGUMENTS = ["config", "family", "mode", "temperature"]  # of a policy's `make`


def is_policy(name: str) -> bool:
    """Whether an experiment's `model` names a scripted policy, and no backbone.

    Raises:
        ConfigError: for a name that is neither, with near matches of both; or for a `make` for families that is no
            policy's.
    """
    if name in POLICIES or name in MODELS:
        return name in POLICIES
    plugin = resolve("model", name, MODELS | POLICIES)
    found = arguments(plugin)
    if found[1:2] == ["family"] and found != ARGUMENTS:
        raise ConfigError(f"policy {name!r} must be make({', '.join(ARGUMENTS)}); got make({', '.join(found)})")
    return found == ARGUMENTS


def arguments(plugin: Any) -> list[str]:
    """Names of the arguments of a plug-in's `make`; none where it is no function."""
    return list(inspect.signature(plugin).parameters) if inspect.isfunction(plugin) else []


def make_config(name: str, options: Mapping[str, Any] | None = None) -> Any:
    """The config of policy `name`: the annotation of its `make`'s first argument, built from `options`.

    Raises:
        ConfigError: for an unknown policy or option, with near matches.
    """
    return build(f"policy {name}", config_class(resolve("policy", name, POLICIES)), options or {})


def make(name: str, config: Any, family: Any, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
    """The `Policy` named `name` with `config`, for worlds of `family`.

    Args:
        name: a registered name, or `"package.module:attribute"`.
        config: as `make_config` gives it.
        family: whose tasks it acts on. What it may know of a task is in its observations alone.
        mode: `"sampled"` or `"greedy"` actions, where it knows how good or likely they are.
        temperature: of sampled actions, above 0; below 1 the likelier ones gain.

    Raises:
        ConfigError: if the policy is none for this family.
        AdJaxError: for another mode, or a temperature of 0 or below.
    """
    check_sampling(mode, temperature)
    return resolve("policy", name, POLICIES)(config, family, mode, temperature)
