"""What a model's outputs say of actions. To add a head: a file with a `Head`, and its name in `Options`."""

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any, Literal

import jax

from ad_jax.errors import ConfigError
from ad_jax.models.heads.base import Head as Head
from ad_jax.models.heads.binned import Binned
from ad_jax.models.heads.categorical import Categorical
from ad_jax.models.heads.mixture import Mixture
from ad_jax.types import Box, Spec

if TYPE_CHECKING:
    from ad_jax.models.base import Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the config of every backbone says of the head. Discrete actions have one, the categorical."""

    action_head: Literal["auto", "binned", "mixture"] = "auto"  # actions in a Box only; auto is binned
    action_bins: int = 32  # binned only: of each component of an action
    action_components: int = 4  # mixture only: its Gaussians

    def head(self, spec: Spec) -> Head:
        """Make the head for actions of `spec`.

        Raises:
            ConfigError: for a head of other actions than the spec's, fewer than 2 bins or no components.
        """
        for name, least in (("action_bins", 2), ("action_components", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"model.{name} must be at least {least}; got {getattr(self, name)}")
        if isinstance(spec.action, Box):
            if self.action_head == "mixture":
                return Mixture(spec.action, self.action_components)
            return Binned(spec.action, self.action_bins)
        if self.action_head != "auto":
            raise ConfigError(
                f"model.action_head={self.action_head} is for actions in a Box; these are {spec.action}. Leave it at "
                "auto"
            )
        return Categorical(spec.action.n)


def check_takes_head(who: str, name: str, model_config: object) -> None:
    """Raise ConfigError unless a backbone, by its name and its options, takes another head than its actions'.

    Args:
        who: the method that gives it one, for people.
        name: of the backbone.
        model_config: its options.
    """
    make: Any = getattr(type(model_config), "make", None)
    if not isinstance(model_config, Options) or "head" not in inspect.signature(make).parameters:
        raise ConfigError(
            f"{who} gives its model a head of its own, which model={name} does not take. Use model=transformer or "
            "model=lstm; a backbone of yours needs make(spec, head=None) and heads.Options"
        )


def of(model: "Model", outputs: jax.Array) -> Head:
    """Return a model's head; one that states none gives a logit for each Discrete action."""
    return Categorical(outputs.shape[-1]) if model.head is None else model.head
