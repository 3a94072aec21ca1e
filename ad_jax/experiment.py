"""An experiment as one frozen dataclass: what is collected, distilled and evaluated. Loading, overriding, checking.

An experiment file is Python: `def config(scale: str = "cpu") -> Experiment`, with claim and command in its docstring.
Every field can be overridden by a dotted name, `distill.updates=2000` or `env.size=17`. Unknown fields, wrong types and
contradictions are refused before anything is compiled.
"""

import ast
import dataclasses
import importlib.util
import inspect
import os
import reprlib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ad_jax import envs, models, prompts, settings, sources
from ad_jax.collect import Config as CollectConfig
from ad_jax.distill import Config as DistillConfig
from ad_jax.errors import AdJaxError, ConfigError, is_ours, place_of, told, unknown
from ad_jax.evaluate import Config as EvaluateConfig
from ad_jax.metrics import Config as LoggingConfig
from ad_jax.models.base import has_parameters
from ad_jax.models.lstm import Config as Lstm
from ad_jax.plugins import conform
from ad_jax.replay import Config as ReplayConfig
from ad_jax.rl2 import Config as Rl2Config
from ad_jax.sharding import MeshConfig


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A plug-in by name with its options. The name is registered, or `"my_pkg.my_module:MyThing"`."""

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


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

    source: Plugin
    episodes: int  # of full length, of each of its actors
    chunk_learners: int = 8  # learners at once: bounds memory

    def validate(self) -> None:
        """Raises ConfigError where a number cannot be meant."""
        for name in ("episodes", "chunk_learners"):
            if getattr(self, name) < 1:
                raise ConfigError(f"reference.{name} must be at least 1; got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that determines a run. Equal experiments have equal results."""

    name: str
    env: Plugin
    source: Plugin
    model: Plugin = Plugin("transformer")
    seed: int = 0
    tasks: TaskConfig = TaskConfig()
    collect: CollectConfig = CollectConfig()
    replay: ReplayConfig = ReplayConfig()
    distill: DistillConfig = DistillConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    reference: ReferenceConfig | None = None  # None: the source itself
    rl2: Rl2Config | None = None  # trains the model by RL² in the place of collecting and distilling
    mesh: MeshConfig = MeshConfig()
    logging: LoggingConfig = LoggingConfig()

    def to_json(self) -> dict[str, Any]:
        """Plain nested data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Experiment":
        """Inverse of `to_json`."""
        return from_data(cls, data, "")


def from_data(cls: type, data: Mapping[str, Any], where: str) -> Any:
    """A nested dataclass from plain nested data, every name and type checked."""
    hints = typing.get_type_hints(cls)
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or cls.__name__.lower()} expects fields with values; got {reprlib.repr(data)}")
    values = {}
    for name, value in data.items():
        if name not in hints:
            raise unknown(f"field of {where or cls.__name__.lower()}", name, hints)
        dotted = f"{where}.{name}" if where else name
        nested = _dataclass_of(hints[name])
        if nested is None or value is None:
            values[name] = conform(dotted, value, hints[name])
        else:
            values[name] = from_data(nested, value, dotted)
    try:
        return cls(**values)
    except TypeError as error:  # a field that has no default is not there
        raise ConfigError(f"{where or cls.__name__.lower()}: {error}") from error


def _dataclass_of(hint: Any) -> type | None:
    """The dataclass of a field that is one, or may be None instead."""
    parts = (hint, *typing.get_args(hint))
    return next((part for part in parts if isinstance(part, type) and dataclasses.is_dataclass(part)), None)


def load(name_or_path: str, scale: str = "cpu") -> Experiment:
    """The experiment of a file, a folder with `config.py`, or a name such as `dark_room`.

    Raises:
        ConfigError: if there is none (near matches are listed), or it has no `config(scale)`.
    """
    path = find(name_or_path)
    experiment = call(path, "config", scale)
    if not isinstance(experiment, Experiment):
        raise ConfigError(f"{path}: config() must return an Experiment; got {type(experiment).__name__}")
    return experiment


def call(path: Path, function: str, scale: str) -> Any:
    """What a function of an experiment's file gives for a scale.

    Raises:
        ConfigError: if the file has no such function or no such scale, or cannot be loaded.
    """
    spec = importlib.util.spec_from_file_location(f"ad_jax_experiment_{path.parent.name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, function, None)):
            kind = {"config": "Experiment", "study": "Study"}[function]
            raise ConfigError(f'{path} has no function `{function}(scale="cpu") -> {kind}`')
        return getattr(module, function)(scale=scale)
    except AdJaxError:
        raise
    except Exception as error:
        if isinstance(error, KeyError) and error.args == (scale,) and scales(path):
            raise ConfigError(f"{path}: {unknown('scale', scale, scales(path))}") from error
        raise ConfigError(f"{path} cannot be loaded: {told(error)}. With --traceback you see all of it") from error


def scales(path: Path) -> list[str]:
    """The scales that an experiment's file states: the words by which it looks up `{"cpu": ..., ...}[scale]`."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):
        return []
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict) and ast.unparse(node.slice) == "scale":
            found += [str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)]
    return list(dict.fromkeys(found))


def find(name_or_path: str) -> Path:
    """The file that an experiment's name or path means."""
    path = Path(os.path.expanduser(name_or_path))
    if path.suffix == ".py" or path.is_dir():
        path = path / "config.py" if path.is_dir() else path
        if not path.is_file():
            raise ConfigError(f"no experiment file {path}")
        return path.absolute()
    for folder in _folders():
        if (folder / name_or_path / "config.py").is_file():
            return folder / name_or_path / "config.py"
    raise unknown("experiment", name_or_path, known())


def known() -> list[str]:
    """Names of the experiments that come with the package or lie in ./experiments."""
    return sorted({p.parent.name for folder in _folders() if folder.is_dir() for p in folder.glob("*/config.py")})


def _folders() -> list[Path]:
    package = Path(__file__).parent
    return [Path("experiments").absolute(), package / "_experiments", package.parent / "experiments"]


def override(experiment: Experiment, changes: Sequence[str]) -> Experiment:
    """The experiment with `"dotted.field=value"` changes; values are Python literals, or else strings.

    Options of plug-ins need no `.options`: `env.size=17`, `source.learning_rate=0.1`, `model.layers=6`.

    Raises:
        ConfigError: for an unknown field or option (near matches are listed) or a value of the wrong type.
    """
    for change in changes:
        name, equals, text = change.removeprefix("--").partition("=")
        if not equals:
            raise ConfigError(f"an override reads field=value, e.g. distill.updates=2000; got {change!r}")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
        experiment = _replace(experiment, name.split("."), value, name)
    return experiment


def _replace(config: Any, path: list[str], value: Any, dotted: str) -> Any:
    """`config` with the field at `path` set to `value`."""
    head, rest = path[0], path[1:]
    hints = typing.get_type_hints(type(config))
    if isinstance(config, Plugin):
        if path == ["name"]:
            return Plugin(str(value), config.options)
        if path == ["options"]:
            return Plugin(config.name, conform(dotted, value, Mapping))
        rest = path[1:] if head == "options" else path
        return Plugin(config.name, {**config.options, ".".join(rest): value})
    if head not in hints:
        raise unknown("field", dotted, _fields(type(config), dotted[: -len(".".join(path))]))
    inner = getattr(config, head)
    if rest:
        nested = _dataclass_of(hints[head])
        if inner is None and nested is not None and len(rest) == 1 and _required(nested) <= set(rest):
            return dataclasses.replace(config, **{head: from_data(nested, {rest[0]: value}, dotted.rpartition(".")[0])})
        if not dataclasses.is_dataclass(inner):
            what = "a single value" if inner is not None else "None, which an experiment's file can change"
            raise ConfigError(f"{dotted}: {head} is {what}; it has no field {rest[0]!r}")
        return dataclasses.replace(config, **{head: _replace(inner, rest, value, dotted)})
    if isinstance(inner, Plugin):  # env=bandit: another plug-in, with its own defaults
        return dataclasses.replace(config, **{head: Plugin(str(value))})
    return dataclasses.replace(config, **{head: conform(dotted, value, hints[head])})


def _required(cls: type) -> set[str]:
    """Names of a dataclass's fields that have no default."""
    return {f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING}


def _fields(cls: type, prefix: str) -> list[str]:
    """Dotted names of all fields, for near matches."""
    names = []
    for field, hint in typing.get_type_hints(cls).items():
        names.append(f"{prefix}{field}")
        nested = _dataclass_of(hint)
        if nested is not None and nested is not Plugin:
            names += _fields(nested, f"{prefix}{field}.")
    return names


@dataclasses.dataclass(frozen=True)
class Parts:
    """The plug-ins of an experiment, built and checked against each other. Building them compiles nothing."""

    family: Any
    source_config: Any
    source: Any
    model_config: Any
    model: Any
    spec: Any  # of what is stored
    seen_spec: Any  # of what the model sees
    split: Any
    reference: Any  # what learns beside the frozen model: the experiment's reference, or its source

    @property
    def trained(self) -> bool:
        """Whether histories are collected and distilled: not for a model without parameters."""
        return has_parameters(self.model)


def build(experiment: Experiment) -> Parts:
    """The experiment's plug-ins and its task split; everything that can be refused is refused here.

    Raises:
        ConfigError: for an unknown plug-in or option, or options that contradict each other.
    """
    with settings.pinned():
        return _build(experiment)


def _build(experiment: Experiment) -> Parts:
    from ad_jax.envs.base import check_split, has_labels, seen_spec_of, spec_of, take
    from ad_jax.envs.stepping import check_types

    e = experiment
    for name, seed in (("seed", e.seed), ("tasks.split_seed", e.tasks.split_seed)):
        if not 0 <= seed < 2**32:
            raise ConfigError(f"{name} must be in [0, 2**32); got {seed}")
    for part in (e.collect, e.evaluate, e.logging, e.reference, e.rl2):
        if part is not None:
            part.validate()
    if e.tasks.used is not None and not 1 <= e.tasks.used <= e.tasks.train:
        raise ConfigError(f"tasks.used must be from 1 to tasks.train={e.tasks.train}; got {e.tasks.used}")
    if e.rl2 is None:
        e.replay.validate()
        e.distill.validate(e.replay.batch, e.replay.groups)
    if e.tasks.held_out < 1:
        raise ConfigError(f"the held-out set is empty: tasks.held_out={e.tasks.held_out}; it must be at least 1")
    try:
        family = envs.make(e.env.name, e.env.options)
        spec, seen_spec = spec_of(family), seen_spec_of(family)
        check_types(family)
        split = family.split(e.tasks.split_seed, e.tasks.train, e.tasks.held_out)
        if e.evaluate.prompt is not None:
            prompts.check(family, split.held_out)
        split = dataclasses.replace(split, train=take(split.train, slice(e.tasks.trained)))
        check_split(family, split)  # families may have a split of their own
        source_config = sources.make_config(e.source.name, e.source.options)
        source = sources.make(e.source.name, source_config, family)
        reference = source
        if e.reference is not None:
            plugin = e.reference.source
            reference = sources.make(plugin.name, sources.make_config(plugin.name, plugin.options), family)
    except AdJaxError:
        raise
    except Exception as error:
        if is_ours(error) and isinstance(error, TypeError | ValueError):
            raise ConfigError(str(error)) from error
        if place_of(error) is None:
            raise
        raise ConfigError(f"{e.env.name} or {e.source.name} failed: {told(error)}") from error
    if e.replay.labels == "optimal" and not has_labels(family):
        raise ConfigError(
            f'replay.labels="optimal": {family} has no optimal_label, because the observations that are stored do not '
            'decide its optimal actions, or they are not known. Use replay.labels="source"'
        )
    model_config = models.for_family(models.make_config(e.model.name, e.model.options), family)
    model = models.make(e.model.name, model_config, seen_spec)
    parts = Parts(family, source_config, source, model_config, model, spec, seen_spec, split, reference)
    if parts.trained:
        _check_fit(e, parts)
    return parts


def _check_fit(e: Experiment, p: Parts) -> None:
    """Raises ConfigError where the model cannot be trained as is asked for: by RL², or on windows of histories."""
    if e.rl2 is not None:
        if not (isinstance(p.model_config, Lstm) and p.model_config.value_head):
            raise ConfigError(
                "rl2 trains an LSTM with a value: set model=lstm and model.value_head=True, or rl2=None to distil; "
                f"got model {e.model.name}{' without value_head' if isinstance(p.model_config, Lstm) else ''}"
            )
        return
    longest = p.family.episode_length
    episodes = e.collect.episodes - e.replay.first_step(e.collect.episodes * longest) // longest
    kept = episodes // e.replay.keep_every * longest
    if kept < e.replay.segment:
        raise ConfigError(
            f"replay.segment={e.replay.segment} steps is longer than a history: {episodes} of {e.collect.episodes} "
            f"episodes of full length, {longest} steps, every {e.replay.keep_every}th kept, make {kept}. "
            "Lower replay.segment or replay.keep_every, or raise collect.episodes"
        )
    longest = p.model.max_segment
    if longest is not None and e.replay.segment > longest:
        raise ConfigError(f"replay.segment={e.replay.segment} is longer than this model's window, {longest}")


def docstring(name_or_path: str) -> str:
    """The claim of an experiment file, without running it."""
    return inspect.cleandoc(ast.get_docstring(ast.parse(find(name_or_path).read_text())) or "")
