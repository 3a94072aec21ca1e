"""Contract checks for plug-ins, ours and outside ones: one file per contract.

Each `check_*` runs every check of its contract in order, returns the names of those that passed, and raises a
`ContractError` that names the first that failed, what was expected, what was received, and the remedy.
"""

import inspect
from typing import Any

from ad_jax import envs, methods, models, policies, sources
from ad_jax.envs.base import TaskFamily, seen_spec_of, spec_of
from ad_jax.errors import ConfigError, unknown
from ad_jax.methods.base import MethodConfig
from ad_jax.registry import config_class, resolve
from ad_jax.testing.base import ContractError
from ad_jax.testing.env import check_env
from ad_jax.testing.method import check_method
from ad_jax.testing.model import check_model
from ad_jax.testing.policy import check_policy
from ad_jax.testing.source import check_source

__all__ = ["ContractError", "check_env", "check_method", "check_model", "check_plugin", "check_policy", "check_source"]

MOST_STEPS = 5  # of an episode in the streams that a policy is tried on


def check_plugin(name: str) -> list[str]:
    """Check a plug-in, with its default options, by its registered name or as `"package.module:attribute"`.

    A source is checked on each of two small built-in families that it accepts; a policy, sampled and greedy, on Dark
    Room or where it is none for that on the bandit; a backbone on the spec of one of these; a method on a Dark Room of
    nine cells with a small transformer or LSTM.

    Returns:
        The names of the checks, all passed.

    Raises:
        ContractError: for the first check that fails.
        ConfigError: if the name leads to nothing that can be checked.
    """
    # `dpt` is a method and a backbone of the same paper: the backbone is what goes by the name here.
    registry = methods.METHODS | envs.FAMILIES | sources.SOURCES | models.MODELS | policies.POLICIES
    if name not in registry and ":" not in name:
        raise unknown("plug-in", name, registry)
    plugin: Any = resolve("plug-in", name, registry)
    if inspect.isclass(plugin) and issubclass(plugin, TaskFamily):
        return check_env(plugin())
    if inspect.isclass(plugin) and issubclass(plugin, MethodConfig):
        return check_method(plugin())
    arguments = policies.arguments(plugin)
    if arguments == ["config", "family"]:
        return _check_source(name, plugin)
    if arguments == ["config", "spec"]:
        return _check_model(name, plugin)
    if arguments == policies.ARGUMENTS:
        return _check_policy(name, plugin)
    raise ConfigError(
        f"cannot check {name!r}: expected a TaskFamily, a MethodConfig, make(config: Config, family) of a source, "
        "make(config: Config, spec) of a backbone, or make(config: Config, family, mode, temperature) of a policy; got "
        f"{plugin!r}"
    )


def _check_source(name: str, plugin: Any) -> list[str]:
    passed = []
    for family in (envs.make("bandit"), envs.make("dark_room", {"size": 3, "steps": 4})):
        try:
            plugin(config_class(plugin)(), family)
        except TypeError:  # how a source says that a family does not suit it
            continue
        passed += [f"{check} ({family.name})" for check in check_source(name, family)]
    if not passed:
        raise ConfigError(
            f"source {name!r} accepts neither Bandit nor DarkRoom; call check_source on a family of its own"
        )
    return passed


def _check_model(name: str, plugin: Any) -> list[str]:
    for family in (envs.make("dark_room"), envs.make("bandit")):
        try:
            config = models.for_family(config_class(plugin)(), family)
        except ConfigError:  # how a model says that a family does not suit it
            continue
        spec = spec_of(family)
        return check_model(plugin(config, spec), spec, episode_length=family.episode_length)
    raise ConfigError(f"model {name!r} accepts neither DarkRoom nor Bandit; call check_model on a family of its own")


def _check_policy(name: str, plugin: Any) -> list[str]:
    for family in (envs.make("dark_room"), envs.make("bandit")):
        try:
            made = {mode: plugin(config_class(plugin)(), family, mode, 1.0) for mode in ("sampled", "greedy")}
        except ConfigError:  # how a policy says that a family does not suit it
            continue
        spec, length = seen_spec_of(family), min(family.episode_length, MOST_STEPS)
        return [
            f"{check} ({mode})"
            for mode, policy in made.items()
            for check in check_policy(policy, spec, episode_length=length, greedy=mode == "greedy")
        ]
    raise ConfigError(f"policy {name!r} accepts neither DarkRoom nor Bandit; call check_policy on a family of its own")
