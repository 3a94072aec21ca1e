"""Changes to an experiment by dotted names, `method.updates=2000` or `env.size=17`, each checked at once."""

import ast
import dataclasses
from collections.abc import Mapping, Sequence

from ad_jax import methods
from ad_jax.errors import ConfigError, unknown
from ad_jax.experiment import plugins
from ad_jax.experiment.config import Experiment, dataclass_of, from_data, hints_of
from ad_jax.experiment.mixture import SHARED, Member, Mixture
from ad_jax.experiment.plugins import Config
from ad_jax.files import Json
from ad_jax.registry import conform, renamed


def override(experiment: Experiment, changes: Sequence[str]) -> Experiment:
    """Return the experiment with `"dotted.field=value"` changes; values are Python literals, or else strings.

    Options of plug-ins need no `.options`: `env.size=17`, `source.learning_rate=0.1`, `model.layers=6`. The names that
    options of methods had before there was a `method` go on working (`methods.BEFORE`): `distill.updates=2000` is
    `method.updates=2000`, and an option of another method makes that one the method.

    Raises:
        ConfigError: for an unknown field or option (near matches are listed) or a value of the wrong type.
    """
    for change in changes:
        name, equals, text = change.removeprefix("--").partition("=")
        if not equals:
            raise ConfigError(f"an override reads field=value, e.g. method.updates=2000; got {change!r}")
        value = _literal(text)
        changed = _of_before(experiment, name, value)
        experiment = _replace(experiment, name.split("."), value, name) if changed is None else changed
    return _built(experiment)


def override_mixture(mixture: Mixture, changes: Sequence[str]) -> Mixture:
    """Return the mixture with changes: of what its members share as of an experiment, `model.layers=6`, of a member by
    its name, `envs.dark_room.tasks.train=32` or `envs.dark_room.weight=2`, and of what it alone has, `batch=256`.

    Raises:
        ConfigError: as `override`, or for a member that is not there (near matches are listed).
    """
    members, shared, alone = dict(mixture.members), [], {}
    of_members: dict[str, list[str]] = {}
    for change in changes:
        name, _, text = change.removeprefix("--").partition("=")
        head, *rest = name.split(".")
        if head == "envs" and len(rest) > 1:
            if rest[0] not in members:
                raise unknown(f"member of {mixture.name}", rest[0], members)
            of_members.setdefault(rest[0], []).append(f"{'.'.join(rest[1:])}={text}")
        elif head in ("batch", "fit_updates"):
            alone[head] = conform(name, _literal(text), int | None)
        elif head in SHARED or head in methods.BEFORE or change == name:
            shared.append(change)
        else:
            raise unknown("field", name, [*SHARED, "batch", "fit_updates", *(f"envs.{one}.{name}" for one in members)])
    if shared:  # an experiment holds them, and knows their names and types
        first = mixture.member(next(iter(members)))
        held = {field: getattr(mixture, field) for field in SHARED}
        found = override(dataclasses.replace(first, **held), shared)
        alone |= {field: getattr(found, field) for field in SHARED}
    for one, changed in of_members.items():
        members[one] = _changed_member(members[one], changed)
    return dataclasses.replace(mixture, envs=tuple(members.values()), **alone)


def _changed_member(member: Member, changes: Sequence[str]) -> Member:
    """Return a member with changes of its own fields, and of its experiment's."""
    own = {"weight": float, "held_out": bool}
    mine, inside = {}, []
    for change in changes:
        name, _, text = change.partition("=")
        head = name.split(".")[0]
        if head in SHARED:
            raise ConfigError(f"envs.{member.name}.{name}: all members share one {head}. Say {name}={text}")
        if name in own:
            mine[name] = conform(f"envs.{member.name}.{name}", _literal(text), own[name])
        else:
            inside.append(change)
    return dataclasses.replace(member, experiment=override(member.experiment, inside), **mine)


def _literal(text: str) -> Json:
    """Return what a word of the command line says: a Python literal, or else a string."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


@dataclasses.dataclass(frozen=True)
class _Draft:
    """A plug-in to be: built when all changes are known, because one option may suit only with another."""

    of: Config | str  # the plug-in that is changed, or the name of another one
    options: Mapping[str, Json]

    def built(self, kind: str) -> Config:
        """Return the plug-in."""
        if isinstance(self.of, str):
            return plugins.read(kind, self.of, self.options)
        return plugins.changed(kind, self.of, self.options)


def _built(config: Config) -> Config:
    """`config` with plug-ins in the place of drafts."""
    found = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    made = {name: draft.built(name) for name, draft in found.items() if isinstance(draft, _Draft)}
    if isinstance(config, Experiment) and config.reference is not None:
        made["reference"] = _built(config.reference)
    return dataclasses.replace(config, **made)


def _of_before(e: Experiment, name: str, value: Json) -> Experiment | None:
    """Return the experiment changed by a name of before there was a `method`; None where it is none of those."""
    head, *rest = name.split(".")
    if head in methods.BEFORE:
        if not rest:
            raise ConfigError(f"{name}={value}: a method is named by method=..., e.g. method={methods.BEFORE[head]}")
        return dataclasses.replace(e, method=_replace(_before(e.method, head), rest, value, name))
    if name == "replay.labels":
        return dataclasses.replace(e, method=_labeled(e.method, value))
    return None


def _replace(config: Config, path: list[str], value: Json, dotted: str) -> Config:
    """`config` with the field at `path` set to `value`."""
    hints = hints_of(type(config))
    head, rest = renamed(path[0], hints), path[1:]
    if head not in hints:
        raise unknown("field", dotted, _fields(config, dotted[: -len(".".join(path))]))
    inner = getattr(config, head)
    kind = plugins.kind_of(hints[head])
    if kind not in (None, "method"):
        return dataclasses.replace(config, **{head: _draft(inner, rest, value, dotted)})
    if rest:
        nested = dataclass_of(hints[head])
        if inner is None and nested is not None and len(rest) == 1 and _required(nested) <= set(rest):
            return dataclasses.replace(config, **{head: from_data(nested, {rest[0]: value}, dotted.rpartition(".")[0])})
        if not dataclasses.is_dataclass(inner):
            what = "a single value" if inner is not None else "None, which an experiment's file can change"
            raise ConfigError(f"{dotted}: {head} is {what}; it has no field {rest[0]!r}")
        return dataclasses.replace(config, **{head: _replace(inner, rest, value, dotted)})
    if kind == "method":
        return dataclasses.replace(config, method=_instead(config.method, str(value)))
    return dataclasses.replace(config, **{head: conform(dotted, value, hints[head])})


def _draft(inner: Config, path: list[str], value: Json, dotted: str) -> _Draft:
    """Return the plug-in `inner` with an option changed; or another one (`env=bandit`), with its own defaults."""
    draft = inner if isinstance(inner, _Draft) else _Draft(inner, {})
    if path in ([], ["name"]):
        return _Draft(str(value), {})
    if path == ["options"]:
        return _Draft(draft.of, conform(dotted, value, Mapping))
    name, *inside = path[1:] if path[0] == "options" else path
    held = draft.options.get(name, getattr(draft.of, name, None))
    if inside and isinstance(held, Mapping):  # env.vary.length=(0.5, 1.0)
        return _Draft(draft.of, {**draft.options, name: {**held, ".".join(inside): value}})
    return _Draft(draft.of, {**draft.options, ".".join((name, *inside)): value})


def _instead(method: Config, name: str) -> Config:
    """Return the method `name` in the place of `method`, with its own defaults.

    Where both are fed histories, it keeps the options that they share: how long and how fast to train.
    """
    other = plugins.read("method", name)
    shared = {} if not method.feed == other.feed == "histories" else vars(method)
    shared = {name: value for name, value in shared.items() if name != "acting"}  # a dataclass of each its own
    kept = {field.name: shared[field.name] for field in dataclasses.fields(other) if field.name in shared}
    return dataclasses.replace(other, **kept)


def _before(method: Config, field: str) -> Config:
    """Return the method whose options the field `field` held before there was a `method`: this one where it is that.

    `distill` held those of every method that is fed histories.
    """
    name = methods.BEFORE[field]
    kept = plugins.name_of(method) == name or (name == methods.DEFAULT and method.feed == "histories")
    return method if kept else _instead(method, name)


def _labeled(method: Config, labels: Json) -> Config:
    """Return what `replay.labels` said before: distillation of the source's actions, or DPT of optimal ones.

    Raises:
        ConfigError: for other labels, near matches listed, or a method that is neither.
    """
    kinds = {"source": "distillation", "optimal": "dpt"}
    if labels not in kinds:
        raise unknown("value of replay.labels", str(labels), kinds)
    if plugins.name_of(method) not in kinds.values():
        raise ConfigError(f"replay.labels={labels} is of distillation and DPT; got method {plugins.name_of(method)}")
    return _instead(method, kinds[labels])


def _required(cls: type) -> set[str]:
    """Names of a dataclass's fields that have no default."""
    return {f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING}


def _options(held: object) -> tuple[dataclasses.Field, ...]:
    """Return the fields of a plug-in; none of one that is yet to be made."""
    return dataclasses.fields(held) if dataclasses.is_dataclass(held) else ()


def _fields(config: Config, prefix: str) -> list[str]:
    """Dotted names of all fields of an instance, or of a dataclass, for near matches."""
    names = []
    for field, hint in hints_of(config if isinstance(config, type) else type(config)).items():
        names.append(f"{prefix}{field}")
        inner = getattr(config, field, None)
        if plugins.kind_of(hint) not in (None, "method"):
            held = inner.of if isinstance(inner, _Draft) else inner
            names += [f"{prefix}{field}.{option.name}" for option in _options(held)]
            continue
        nested = type(inner) if dataclasses.is_dataclass(inner) else dataclass_of(hint)
        if nested is not None:
            names += _fields(nested, f"{prefix}{field}.")
    if isinstance(config, Experiment):
        for field, name in methods.BEFORE.items():
            names += [field, *_fields(plugins.read("method", name), f"{field}.")]
    return names
