"""The members of a mixture, built and checked against each other before anything is compiled."""

import dataclasses
import math
from collections.abc import Mapping

from ad_jax.errors import ConfigError
from ad_jax.experiment import plugins
from ad_jax.experiment.components import Components, build
from ad_jax.experiment.config import Experiment
from ad_jax.experiment.mixture import Mixture
from ad_jax.methods import METHODS
from ad_jax.methods.base import MethodConfig
from ad_jax.models.together import Together


@dataclasses.dataclass(frozen=True)
class Members:
    """The members of a mixture by name, each with its experiment and its parts."""

    experiments: Mapping[str, Experiment]
    components: Mapping[str, Components]
    together: Together  # the models of those that are trained


def build_members(mixture: Mixture) -> Members:
    """Return the parts of every member; everything that can be refused is refused here.

    Raises:
        ConfigError: for no member that is trained, a weight that is not above 0, a method or a model that cannot mix,
            whatever `build` refuses of a member, by its name, or members that cannot share a trunk.
    """
    m = mixture
    if not m.trained:
        raise ConfigError(f"{m.name}: at least one member must be trained; got {_listed(m.members) or 'none'}")
    for name, member in m.members.items():
        if not (math.isfinite(member.weight) and member.weight > 0):
            raise ConfigError(
                f"envs.{name}.weight must be above 0 and finite; got {member.weight}. Leave the member out, or hold it "
                "out: held_out=True"
            )
    for field in ("batch", "fit_updates"):
        if (value := getattr(m, field)) is not None and value < 1:
            raise ConfigError(f"{field} must be at least 1; got {value}")
    check_mixes(m.method)
    experiments = {name: m.member(name) for name in m.members}
    components = {name: _built(name, e) for name, e in experiments.items()}
    for name, p in components.items():
        if not p.trained:
            raise ConfigError(f"envs.{name}: model {plugins.name_of(m.model)} has nothing to train")
    together = Together({name: components[name].model for name in m.trained})
    for name in m.members.keys() - m.trained.keys():  # its layers must fit the same trunk
        Together({**together.members, name: components[name].model})
    return Members(experiments, components, together)


def check_mixes(method: MethodConfig) -> None:
    """Raise ConfigError for a method that cannot train one trunk on several families."""
    if not method.mixes:
        can = [name for name in METHODS if type(plugins.read("method", name)).mixes]
        raise ConfigError(
            f"method {plugins.name_of(method)} cannot train one model over several families: its update is more than a "
            f"step down one loss of the model's own. Those that can: {', '.join(can)}"
        )


def _built(name: str, e: Experiment) -> Components:
    """Return a member's parts; what is refused is refused by the member's name."""
    try:
        return build(e)
    except ConfigError as error:
        raise ConfigError(f"envs.{name}: {error}") from error


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(f"{name} (held out)" for name in names)
