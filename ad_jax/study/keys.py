"""Names of the pieces of studies: digests of the options that determine them, as far as they matter to each.

A piece is named by the options that differ from the defaults: a new option with a default renames none.
"""

import dataclasses
import hashlib
import json

from ad_jax import methods
from ad_jax.checkpoint.identity import canonical
from ad_jax.envs.base import TaskFamily
from ad_jax.experiment import Experiment, Mixture, name_of
from ad_jax.files import Json
from ad_jax.models.base import ModelConfig
from ad_jax.policies.base import PolicyConfig
from ad_jax.registry import under_first_names
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
    return digest(changes(experiment))


def digest(data: Json) -> str:
    return hashlib.sha256(json.dumps(under_first_names(data), sort_keys=True).encode()).hexdigest()[:12]


def collected_by(e: Experiment) -> Experiment:
    """Return what of an experiment decides its histories."""
    return Experiment("histories", e.env, e.source, seed=e.seed, tasks=e.tasks, collect=e.collect)


def trained_by(e: Experiment) -> Experiment:
    """Return what of an experiment decides its trained model."""
    defaults = {"evaluate": type(e.evaluate)(), "reference": None, "logging": type(e.logging)()}
    acting = {field.name: field.default for field in dataclasses.fields(e.method) if field.name == "acting"}
    return dataclasses.replace(e, name="model", method=dataclasses.replace(e.method, **acting), **defaults)


def mixed_key(mixture: Mixture) -> str:
    """Return the digest of what decides the model of a mixture."""
    members = {
        name: {"weight": member.weight, "held_out": member.held_out, "as": changes(trained_by(mixture.member(name)))}
        for name, member in mixture.members.items()
    }
    return digest({"mixture": members})


def taught_from(e: Experiment, place: str) -> Experiment:
    """Return an experiment whose method's teacher is the model in `place`."""
    named: Json = {"teacher": place}
    return dataclasses.replace(e, method=dataclasses.replace(e.method, **named))
