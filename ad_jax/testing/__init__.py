"""Contract checks for plug-ins, ours and outside ones: one file per contract.

Each `check_*` runs every check of its contract in order, returns the names of those that passed, and raises a
`ContractError` that names the first that failed, what was expected, what was received, and the remedy.
"""

from collections.abc import Callable

from ad_jax import envs, methods, models, policies, sources
from ad_jax.envs.base import TaskFamily, seen_spec_of, spec_of
from ad_jax.errors import ConfigError
from ad_jax.methods.base import MethodConfig
from ad_jax.models.base import ModelConfig
from ad_jax.policies.base import Mode, PolicyConfig
from ad_jax.registry import find
from ad_jax.sources.base import SourceConfig
from ad_jax.testing.base import ContractError
from ad_jax.testing.env import check_env
from ad_jax.testing.method import check_method
from ad_jax.testing.model import check_model
from ad_jax.testing.policy import check_policy
from ad_jax.testing.source import check_source

__all__ = ["ContractError", "check_env", "check_method", "check_model", "check_plugin", "check_policy", "check_source"]

MODES: tuple[Mode, ...] = ("sampled", "greedy")
MOST_STEPS = 5  # of an episode in the streams that a policy is tried on


def check_plugin(name: str) -> list[str]:
    """Check a plug-in, with its default options, by its registered name or as `"package.module:Class"`.

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
    registry = methods.METHODS | envs.FAMILIES | envs.OUTSIDE | sources.SOURCES | models.MODELS | policies.POLICIES
    plugin = find("plug-in", name, registry, *CHECKS)()
    return next(check for base, check in CHECKS.items() if isinstance(plugin, base))(plugin)


def _check_source(plugin: SourceConfig) -> list[str]:
    passed = []
    for family in (envs.make("bandit"), envs.make("dark_room", {"size": 3, "steps": 4})):
        try:
            plugin.make(family)
        except TypeError:  # how a source says that a family does not suit it
            continue
        passed += [f"{check} ({family.name})" for check in check_source(plugin, family)]
    if not passed:
        raise ConfigError(f"{plugin!r} accepts neither Bandit nor DarkRoom; call check_source on a family of its own")
    return passed


def _check_model(plugin: ModelConfig) -> list[str]:
    for family in (envs.make("dark_room"), envs.make("bandit")):
        try:
            config = plugin.bind(family)
        except ConfigError:  # how a model says that a family does not suit it
            continue
        spec = spec_of(family)
        return check_model(config.make(spec), spec, episode_length=family.episode_length)
    raise ConfigError(f"{plugin!r} accepts neither DarkRoom nor Bandit; call check_model on a family of its own")


def _check_policy(plugin: PolicyConfig) -> list[str]:
    for family in (envs.make("dark_room"), envs.make("bandit")):
        try:
            made = {mode: plugin.make(family, mode) for mode in MODES}
        except ConfigError:  # how a policy says that a family does not suit it
            continue
        spec, length = seen_spec_of(family), min(family.episode_length, MOST_STEPS)
        return [
            f"{check} ({mode})"
            for mode, policy in made.items()
            for check in check_policy(policy, spec, episode_length=length, greedy=mode == "greedy")
        ]
    raise ConfigError(f"{plugin!r} accepts neither DarkRoom nor Bandit; call check_policy on a family of its own")


CHECKS: dict[type, Callable[..., list[str]]] = {
    TaskFamily: check_env,
    MethodConfig: check_method,
    SourceConfig: _check_source,
    ModelConfig: _check_model,
    PolicyConfig: _check_policy,
}
