"""Where the pieces of studies are kept: histories, models and curves, each made once for all arms that share it.

A piece is named by what determines it: the options of an experiment that differ from the defaults, as far as they
matter to it. Several processes can be at work in one place; each takes pieces that no other is at.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from ad_jax import methods
from ad_jax.checkpoint import lineage
from ad_jax.checkpoint.identity import canonical
from ad_jax.envs.base import TaskFamily
from ad_jax.errors import AdJaxError
from ad_jax.experiment import Experiment, build, name_of
from ad_jax.files import Json, JsonObject, read_json, write_json
from ad_jax.models.base import ModelConfig
from ad_jax.policies.base import PolicyConfig
from ad_jax.process import locks
from ad_jax.registry import under_first_names
from ad_jax.run.origins import Origins
from ad_jax.run.pipeline import Run
from ad_jax.sources.base import SourceConfig


def changes(value: object) -> Json:
    """Return a config as plain data, without what is at its default: a new option with a default changes no key."""
    if isinstance(value, Experiment):  # keys of before there was a `method` stay what they were
        return _changed(value, apart=("method",)) | methods.as_before(value.method, _changed(value.method))
    if isinstance(value, TaskFamily | SourceConfig | ModelConfig | PolicyConfig):
        return {"name": name_of(value), "options": _changed(value)}
    return _changed(value)


def _changed(value: object, apart: tuple[str, ...] = ()) -> Json:
    if not dataclasses.is_dataclass(value):
        return canonical(json.loads(json.dumps(value)))
    fields = {field.name: field for field in dataclasses.fields(value)}

    def at_default(name):
        return getattr(value, name) == fields[name].default

    return {name: changes(getattr(value, name)) for name in fields if name not in apart and not at_default(name)}


def key(experiment: Experiment) -> str:
    """Twelve hex digits of everything that the experiment changes."""
    return _digest(changes(experiment))


def _digest(data: Json) -> str:
    return hashlib.sha256(json.dumps(under_first_names(data), sort_keys=True).encode()).hexdigest()[:12]


def collected_by(e: Experiment) -> Experiment:
    """Return what of an experiment decides its histories."""
    return Experiment("histories", e.env, e.source, seed=e.seed, tasks=e.tasks, collect=e.collect)


def trained_by(e: Experiment) -> Experiment:
    """Return what of an experiment decides its trained model."""
    defaults = {"evaluate": type(e.evaluate)(), "reference": None, "logging": type(e.logging)()}
    acting = {field.name: field.default for field in dataclasses.fields(e.method) if field.name == "acting"}
    return dataclasses.replace(e, name="model", method=dataclasses.replace(e.method, **acting), **defaults)


class Workshop:
    """Where the pieces lie, and how each is made."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._families: JsonObject = {}  # how each behaves now, by name and options
        self._before = dict(_named_before(self.folder))

    def curve(self, e: Experiment) -> Path:
        """Return the run directory of an evaluation."""
        return self._place("curves", key(e))

    def model(self, e: Experiment) -> Path:
        """Return the run directory of a trained model."""
        return self._place("models", key(trained_by(e)))

    def histories(self, e: Experiment) -> Path:
        """Where a collection is."""
        return self._place("histories", key(collected_by(e)))

    def _place(self, kind: str, name: str) -> Path:
        return self.folder / kind / self._before.get((kind, name), name)

    def done(self, e: Experiment) -> bool:
        """Whether the evaluation is there, in full."""
        return (self.curve(e) / "results.json").exists()

    def check(self, e: Experiment, behavior: Json) -> None:
        """Raise AdJaxError where the task family was edited since that piece, which behaved so, was made."""
        kind = json.dumps(changes(e.env), sort_keys=True)
        if kind not in self._families:
            self._families[kind] = Origins(e, build(e)).family
        if told := lineage.behaves_otherwise(behavior, {"family": self._families[kind]}, e.to_json(), ("family",)):
            raise AdJaxError(f"{told} from when {self.curve(e)} was made. Use another directory (--dir)")

    def make(self, e: Experiment) -> bool:
        """Collect, train and evaluate what is missing; False where another process is at a piece of it."""
        histories = str(self.histories(e))
        with _lock(self.curve(e)) as mine:
            if not mine or (build(e).trained and not self._train(e, histories)):
                return False
            Run(e, self.curve(e), histories, trained=self.model(e)).evaluate()
        return True

    def _train(self, e: Experiment, histories: str) -> bool:
        """Make the model of `e`; False where another process is at it or at its histories."""
        folder = self.model(e)
        if (folder / "trained.json").exists():
            return True
        with _lock(folder) as mine:
            if not mine:
                return False
            run = Run(trained_by(e), folder, histories)
            with _lock(self.histories(e)) as mine_too:
                if not mine_too:
                    return False
                run.collect()
            run.distill()
            # Opening a run directory anew says what code opened it; this says what code trained.
            write_json(folder / "trained.json", read_json(folder / "environment.json"), indent=1)
        return True


def _named_before(folder: Path) -> Iterator[tuple[tuple[str, str], str]]:
    """Names of pieces whose keys an earlier version made, of options as they were written, by kind and key of today."""
    for file in (*folder.glob("curves/*/config.json"), *folder.glob("models/*/config.json")):
        with contextlib.suppress(AdJaxError, OSError):
            data = read_json(file)
            if "options" in data["env"]:
                e = Experiment.from_json(data)
                yield (file.parents[1].name, key(e)), file.parent.name
                written = {name: canonical(data[name]) for name in ("env", "source")}
                collected = changes(collected_by(e))
                yield ("histories", _digest(collected)), _digest(collected | written)


def _lock(piece: Path) -> AbstractContextManager[bool]:
    """Whether a piece is ours to make, within."""
    return locks.taken(piece.with_suffix(".lock"))
