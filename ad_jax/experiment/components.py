"""The plug-ins of an experiment, built and checked against each other before anything is compiled."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from ad_jax.envs.base import TaskFamily, TaskSplit
from ad_jax.errors import AdJaxError, ConfigError, is_ours, place_of, told
from ad_jax.experiment import plugins
from ad_jax.experiment.config import Experiment
from ad_jax.history import reward_unit
from ad_jax.history.columns import STORED, check_needs
from ad_jax.history.opaque import Opaque
from ad_jax.keys import a_key
from ad_jax.methods.base import MethodConfig, Setting, Untrained
from ad_jax.methods.teacher import Teacher
from ad_jax.models.base import has_parameters
from ad_jax.policies import demonstrator
from ad_jax.policies.base import Mode, Policy, PolicyConfig, check_sampling
from ad_jax.process import settings
from ad_jax.sources.base import Source
from ad_jax.types import PyTree, Spec

TRAINED = "trained"  # the set of training tasks that are evaluated, too


@dataclasses.dataclass(frozen=True)
class Components:
    """The plug-ins of an experiment, built and checked against each other. Building them compiles nothing."""

    family: TaskFamily
    source_config: Any  # a dataclass, with its options
    source: Source
    model_config: Any  # of the model, with what it needs of the family; or of the scripted policy in its place
    model: Any  # None where there is a scripted policy in its place
    spec: Spec  # of what is stored
    seen_spec: Spec  # of what the model sees
    split: TaskSplit
    reference: Source  # what learns beside the frozen model: the experiment's reference, or its source
    method: MethodConfig  # the experiment's, or `Untrained` where there are no parameters
    seen_again: PyTree  # the training tasks that are evaluated, too; None for none

    @property
    def trained(self) -> bool:
        """Whether there is anything to train."""
        return self.method.feed != "nothing"

    @property
    def evaluated(self) -> Mapping[str, PyTree]:
        """Return the tasks of each set that is evaluated: the held-out ones, and training tasks where asked for."""
        known = {} if self.seen_again is None else {TRAINED: self.seen_again}
        return {**self.split.held_out, **known}

    @property
    def params(self) -> PyTree:
        """Shapes of what is trained: an empty tree for a scripted policy."""
        return {} if self.model is None else jax.eval_shape(lambda: self.model.init(a_key(0)))

    def policy(self, mode: Mode = "sampled", temperature: float = 1.0, unit: float = reward_unit.NONE) -> Policy:
        """Return what acts: the scripted policy, or the method's with the model that counts rewards in `unit`."""
        if self.model is None:
            check_sampling(mode, temperature)
            return self.model_config.make(self.family, mode, temperature)
        return self.method.policy(reward_unit.applied(self.model, unit), mode, temperature)

    def setting(
        self, e: Experiment, mesh: Mesh, unit: float = reward_unit.NONE, teacher: Teacher | None = None
    ) -> Setting:
        """Return what the method is made for on a mesh, with rewards counted in `unit`, and the teacher it names."""
        model = reward_unit.applied(self.model, unit)
        tasks = self.split.train
        seen = self.spec, self.seen_spec
        return Setting(self.family, model, self.model_config, *seen, tasks, e.replay, mesh, unit, teacher)


def build(experiment: Experiment, split: TaskSplit | None = None, trains: bool = True) -> Components:
    """Return the experiment's plug-ins and its task split; everything that can be refused is refused here.

    Args:
        experiment: what they are of.
        split: which tasks are trained on and which held out, where the histories have decided; None for the
            experiment's own.
        trains: whether windows of histories are to be drawn, which then must fit them and the model.

    Raises:
        ConfigError: for an unknown plug-in or option, or options that contradict each other.
    """
    with settings.pinned():
        return _build(experiment, split, trains)


def _build(experiment: Experiment, split: TaskSplit | None, trains: bool) -> Components:
    from ad_jax.envs.base import check_split, seen_spec_of, spec_of
    from ad_jax.envs.stepping import check_types

    e = experiment
    for name, seed in (("seed", e.seed), ("tasks.split_seed", e.tasks.split_seed)):
        if not 0 <= seed < 2**32:
            raise ConfigError(f"{name} must be in [0, 2**32); got {seed}")
    for part in (e.collect, e.evaluate, e.logging, e.reference):
        if part is not None:
            part.validate()
    if e.tasks.used is not None and not 1 <= e.tasks.used <= e.tasks.train:
        raise ConfigError(f"tasks.used must be from 1 to tasks.train={e.tasks.train}; got {e.tasks.used}")
    if e.method.feed == "histories":
        e.replay.validate()
    e.method.validate(e.replay)
    if e.tasks.held_out < 1:
        raise ConfigError(f"the held-out set is empty: tasks.held_out={e.tasks.held_out}; it must be at least 1")
    try:
        family = plugins.changed("env", e.env, {})  # every type is checked, also those from Python
        source_config, model_config = plugins.changed("source", e.source, {}), plugins.changed("model", e.model, {})
        spec, seen_spec = spec_of(family), seen_spec_of(family)
        check_types(family)
        split = split or _own_split(e, family)
        seen_again = _seen_again(e, split)
        if e.evaluate.prompt is not None:
            again = {} if seen_again is None else {TRAINED: seen_again}
            demonstrator.check(family, {**split.held_out, **again})
        check_split(family, split)  # families may have a split of their own
        source = reference = family.source() if isinstance(family, Opaque) else source_config.make(family)
        if e.reference is not None:
            reference = plugins.changed("source", e.reference.source, {}).make(family)
    except AdJaxError:
        raise
    except Exception as error:
        if is_ours(error) and isinstance(error, TypeError | ValueError):
            raise ConfigError(str(error)) from error
        if place_of(error) is None:
            raise
        names = f"{plugins.name_of(e.env)} or {plugins.name_of(e.source)}"
        raise ConfigError(f"{names} failed: {told(error)}") from error
    e.method.check_family(family)
    channels = e.method.channels(family, spec)
    seen = tuple((name, channel.shape) for name, channel in channels.items() if channel.seen)
    seen_spec = dataclasses.replace(seen_spec, extra=seen)
    model, method = None, Untrained()
    if isinstance(model_config, PolicyConfig):
        model_config.make(family)  # refuses what it cannot act in
    else:
        model_config = model_config.bind(family)
        bound = e.method.bind(family, split.train).collected(e.collect.features)
        bound.check_model(plugins.name_of(e.model), model_config)
        model = bound.model(model_config, seen_spec)
        method = bound if has_parameters(model) else method
    components = Components(
        family, source_config, source, model_config, model, spec, seen_spec, split, reference, method, seen_again
    )
    if method.feed == "histories":
        check_needs(method.needs, [name for name in STORED if getattr(e.collect, name)])
        if trains:
            _check_windows(e, components)
    return components


def _own_split(e: Experiment, family: TaskFamily) -> TaskSplit:
    """Return the family's split, of whose training tasks those that the experiment asks for."""
    from ad_jax.envs.base import take

    split = family.split(e.tasks.split_seed, e.tasks.train, e.tasks.held_out)
    return dataclasses.replace(split, train=take(split.train, slice(e.tasks.trained)))


def _seen_again(e: Experiment, split: TaskSplit) -> PyTree:
    """Return the training tasks that are evaluated, too; None for none."""
    from ad_jax.envs.base import num_tasks, take

    if (count := e.evaluate.trained) is None:
        return None
    if count > (there := num_tasks(split.train)):
        raise ConfigError(f"evaluate.trained={count} is more than the {there} tasks that are trained on")
    if TRAINED in split.held_out:
        raise ConfigError(f"evaluate.trained makes a set {TRAINED!r}, which a split of this family has already")
    return take(split.train, slice(count))


def _check_windows(e: Experiment, p: Components) -> None:
    """Raise ConfigError where a window is longer than a history, or than the model can take."""
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
