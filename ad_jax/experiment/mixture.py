"""A mixture as one frozen dataclass: several experiments, each with its own family, that train one model together.

Every member is an ordinary experiment, with its own environment, source, tasks, collection, replay and evaluation. The
mixture has what they share, model, method, seed, mesh and logging, and puts it in the place of theirs: what a member
is then collected, evaluated and reported by (`Mixture.member`) is an experiment like any other.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

from ad_jax.errors import ConfigError, unknown
from ad_jax.experiment import plugins
from ad_jax.experiment.config import Experiment, from_data, plugin_from
from ad_jax.files import Json, JsonObject
from ad_jax.methods.base import MethodConfig
from ad_jax.methods.distillation import Distillation
from ad_jax.models.base import ModelConfig
from ad_jax.models.transformer import Transformer
from ad_jax.process.metrics import Config as LoggingConfig
from ad_jax.registry import conform
from ad_jax.sharding import MeshConfig

SHARED = ("model", "seed", "method", "mesh", "logging")  # fields of an experiment that the mixture has for all


@dataclasses.dataclass(frozen=True)
class Member:
    """One family of a mixture."""

    experiment: Experiment  # of which the mixture replaces what is shared
    name: str = ""  # default the experiment's
    weight: float = 1.0  # its share of the loss is this over the weights of all that are trained
    held_out: bool = (
        False  # the trunk is not trained on it; then it stays, and the family's own layers are fitted to it
    )


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Everything that determines a run of one model over several families.

    Raises:
        ConfigError: for two members of one name, or a name that is no folder's.
    """

    name: str
    envs: Sequence[Member | Experiment]  # afterwards a tuple of members, each with its name
    model: ModelConfig = Transformer()
    seed: int = 0
    # Windows of an update in all, dealt out by weight in multiples of each member's `replay.groups`. None: each member
    # gives its own `replay.batch`, and weights only say how much its loss counts.
    batch: int | None = None
    method: MethodConfig = Distillation()
    fit_updates: int | None = None  # for the layers of families that are held out; None: as many as the method's
    mesh: MeshConfig = MeshConfig()
    logging: LoggingConfig = LoggingConfig()

    def __post_init__(self) -> None:
        given = [one if isinstance(one, Member) else Member(one) for one in self.envs]
        members = tuple(one if one.name else dataclasses.replace(one, name=one.experiment.name) for one in given)
        names = [one.name for one in members]
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ConfigError(
                    f"a member's name is a folder's and part of parameters' names, of letters, digits, _ and -; got "
                    f"{name!r}. Give it another: Member(experiment, name=...)"
                )
            if names.count(name) > 1:
                raise ConfigError(
                    f"{self.name}: {names.count(name)} members are called {name!r}; their histories and their layers "
                    "are kept by name. Give each its own: Member(experiment, name=...)"
                )
        object.__setattr__(self, "envs", members)

    @property
    def members(self) -> dict[str, Member]:
        """The members by name, in the order in which they were given."""
        return {one.name: one for one in self.envs if isinstance(one, Member)}

    @property
    def trained(self) -> dict[str, Member]:
        """Those that the trunk is trained on."""
        return {name: member for name, member in self.members.items() if not member.held_out}

    @property
    def shares(self) -> dict[str, float]:
        """Each trained member's share of the loss."""
        total = math.fsum(member.weight for member in self.trained.values())
        return {name: member.weight / total for name, member in self.trained.items()}

    def member(self, name: str) -> Experiment:
        """Return the experiment that a member is collected, evaluated and reported by.

        Raises:
            ConfigError: if there is no such member; near matches are listed.
        """
        if name not in self.members:
            raise unknown(f"member of {self.name}", name, self.members)
        member = self.members[name]
        e, method = member.experiment, self.method
        replay = dataclasses.replace(e.replay, batch=self._rows(name))
        if member.held_out and self.fit_updates is not None:
            method = dataclasses.replace(method, updates=self.fit_updates)
        shared = {field: getattr(self, field) for field in SHARED}
        return dataclasses.replace(e, name=name, replay=replay, **shared | {"method": method})

    def _rows(self, name: str) -> int:
        """Windows of a member in an update."""
        replay = self.members[name].experiment.replay
        if self.batch is None or name not in self.trained:
            return replay.batch
        return max(1, round(self.batch * self.shares[name] / replay.groups)) * replay.groups

    def to_json(self) -> JsonObject:
        """Return plain nested data."""
        data: JsonObject = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "envs"
        }
        data |= {kind: plugins.said(getattr(self, kind)) for kind in ("model", "method")}
        data |= {field: dataclasses.asdict(getattr(self, field)) for field in ("mesh", "logging")}
        return data | {"envs": {name: _said(member) for name, member in self.members.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> "Mixture":
        """Read what `to_json` gives.

        Raises:
            ConfigError: naming the field that is unknown, missing or of the wrong type.
        """
        envs = data.get("envs")
        if not isinstance(envs, Mapping):
            raise ConfigError(f"mixture: envs expects members by name; got {type(envs).__name__}")
        read: JsonObject = {"envs": [_read(name, member) for name, member in envs.items()]}
        known = {field.name for field in dataclasses.fields(cls)}
        for field, value in data.items():
            if field not in known:
                raise unknown("field of mixture", field, known)
            if field in ("model", "method"):
                read[field] = plugin_from(field, value, field)
            elif field in ("mesh", "logging"):
                read[field] = from_data({"mesh": MeshConfig, "logging": LoggingConfig}[field], value, field)
            elif field in ("batch", "fit_updates"):
                read[field] = conform(field, value, int | None)
            elif field != "envs":
                read[field] = conform(field, value, {"name": str, "seed": int}[field])
        return cls(**read)


def from_json(data: Mapping[str, Json]) -> Experiment | Mixture:
    """Read the plain data of an experiment or of a mixture, which alone has `envs`; raises as their own `from_json`."""
    mixture = isinstance(data, Mapping) and "envs" in data
    return Mixture.from_json(data) if mixture else Experiment.from_json(data)


def _said(member: Member) -> JsonObject:
    return {"weight": member.weight, "held_out": member.held_out, "experiment": member.experiment.to_json()}


def _read(name: str, data: Json) -> Member:
    if not isinstance(data, Mapping) or data.keys() != {"weight", "held_out", "experiment"}:
        raise ConfigError(f"envs.{name} expects weight, held_out and experiment; got {data!r:.200}")
    weight, held_out = conform(f"envs.{name}.weight", data["weight"], float), data["held_out"]
    return Member(
        Experiment.from_json(data["experiment"]), name, weight, conform(f"envs.{name}.held_out", held_out, bool)
    )
