"""An experiment as one frozen dataclass: what is collected, how a model is trained, and how it is evaluated."""

import dataclasses
import reprlib
import typing
from collections.abc import Mapping

from ad_jax import methods
from ad_jax.envs.base import TaskFamily
from ad_jax.errors import ConfigError, unknown
from ad_jax.experiment import plugins
from ad_jax.experiment.plugins import KINDS, Config, Plugin
from ad_jax.files import Json, JsonObject
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.methods.base import MethodConfig
from ad_jax.methods.distillation import Distillation
from ad_jax.models.base import ModelConfig
from ad_jax.models.transformer import Transformer
from ad_jax.policies.base import PolicyConfig
from ad_jax.process.metrics import Config as LoggingConfig
from ad_jax.registry import conform, renamed
from ad_jax.sharding import MeshConfig
from ad_jax.sources.base import SourceConfig
from ad_jax.stage.collect import Config as CollectConfig
from ad_jax.stage.evaluate import Config as EvaluateConfig


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """Which tasks are trained on and which are held out."""

    train: int = 65
    held_out: int = 16
    used: int | None = None  # train on only so many of them; the held-out tasks stay the same
    split_seed: int = 0  # apart from the experiment's seed, so that training seeds share their held-out tasks

    @property
    def trained(self) -> int:
        """How many tasks are trained on."""
        return self.train if self.used is None else self.used


@dataclasses.dataclass(frozen=True)
class ReferenceConfig:
    """A learning algorithm to compare with on the held-out tasks, where the source of the histories does not learn."""

    source: SourceConfig
    episodes: int  # of full length, of each of its actors
    chunk_learners: int = 8  # learners at once: bounds memory

    def __post_init__(self) -> None:
        _read_named(self)

    def validate(self) -> None:
        """Raise ConfigError where a number cannot be meant."""
        for name in ("episodes", "chunk_learners"):
            if getattr(self, name) < 1:
                raise ConfigError(f"reference.{name} must be at least 1; got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that determines a run. Equal experiments have equal results."""

    name: str
    env: TaskFamily
    source: SourceConfig
    model: ModelConfig | PolicyConfig = Transformer()
    seed: int = 0
    tasks: TaskConfig = TaskConfig()
    collect: CollectConfig = CollectConfig()
    replay: ReplayConfig = ReplayConfig()
    method: MethodConfig = Distillation()
    evaluate: EvaluateConfig = EvaluateConfig()
    reference: ReferenceConfig | None = None  # None: the source itself
    mesh: MeshConfig = MeshConfig()
    logging: LoggingConfig = LoggingConfig()

    def __post_init__(self) -> None:
        _read_named(self)

    def to_json(self) -> JsonObject:
        """Return plain nested data; a plug-in as its name and all of its options."""
        data = dataclasses.asdict(self) | {kind: plugins.said(getattr(self, kind)) for kind in KINDS}
        if self.reference is not None:
            data["reference"]["source"] = plugins.said(self.reference.source)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Json]) -> "Experiment":
        """Read what `to_json` gives, of this version or an earlier one.

        Raises:
            ConfigError: naming the field that is unknown, missing or of the wrong type.
        """
        return from_data(cls, methods.modern(data) if isinstance(data, Mapping) else data, "")


def plugin_from(kind: str, data: Json, where: str) -> Config:
    """Read a plug-in from its name and its options.

    Raises:
        ConfigError: naming what is unknown or of the wrong type.
    """
    if isinstance(data, Mapping) and "config" in data:
        data = {name: value for name, value in data.items() if name != "config"} | {"options": data["config"]}
    plugin = from_data(Plugin, data, where)
    return plugins.read(kind, plugin.name, plugin.options)


def _read_named(config: Config) -> None:
    """Put plug-ins in the place of their names, which files of before say."""
    for field in dataclasses.fields(config):
        plugin = getattr(config, field.name)
        if isinstance(plugin, Plugin):
            object.__setattr__(config, field.name, plugins.read(field.name, plugin.name, plugin.options))


def from_data(cls: type, data: Mapping[str, Json], where: str) -> Config:
    """Return a nested dataclass from plain nested data, every name and type checked."""
    hints = hints_of(cls)
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or cls.__name__.lower()} expects fields with values; got {reprlib.repr(data)}")
    values = {}
    for given, value in data.items():
        name = renamed(given, hints) if isinstance(given, str) else given
        if name not in hints:
            raise unknown(f"field of {where or cls.__name__.lower()}", name, hints)
        dotted = f"{where}.{name}" if where else name
        kind, nested = plugins.kind_of(hints[name]), dataclass_of(hints[name])
        if kind is not None:
            values[name] = plugin_from(kind, value, dotted)
        elif nested is None or value is None:
            values[name] = conform(dotted, value, hints[name])
        else:
            values[name] = from_data(nested, value, dotted)
    try:
        return cls(**values)
    except TypeError as error:  # a field that has no default is not there
        raise ConfigError(f"{where or cls.__name__.lower()}: {error}") from error


def hints_of(cls: type) -> JsonObject:
    """Return the annotated type of every field of a dataclass."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def dataclass_of(hint: object) -> type | None:
    """Return the dataclass of a field that is one, or may be None instead."""
    parts = (hint, *typing.get_args(hint))
    return next((part for part in parts if isinstance(part, type) and dataclasses.is_dataclass(part)), None)
