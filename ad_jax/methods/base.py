"""What a method is: options that say what it needs, and a `Learner`, which is all that the training loop knows of it.

A method is a frozen dataclass, a subclass of `MethodConfig`, that makes a `Method` of a `Setting`; `methods.supervised`
has the part that all methods with a loss on windows of histories share. Everything about an actual run (checkpoints,
going back, updates left out, stopping, progress) is the loop's, in `ad_jax.stage.train`, and exists once.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Self

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from ad_jax.errors import ConfigError
from ad_jax.history import columns, reward_unit
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.history.replay import Prepare
from ad_jax.methods.teacher import Teacher
from ad_jax.models.base import Model, ModelConfig
from ad_jax.policies.base import Mode, Policy, from_model
from ad_jax.types import Histories, PyTree, Spec

if TYPE_CHECKING:
    from ad_jax.envs.base import TaskFamily

Feed = Literal["histories", "tasks", "nothing"]
Metrics = dict[str, PyTree]  # float32 scalars by name, `loss` and `grad_norm` among them


class Learner(NamedTuple):
    """All that the training loop knows of a method.

    Attributes:
        name: of the random numbers, of the records in metrics.jsonl and of the progress lines.
        feed: what an update learns from: windows drawn from learning histories, the training tasks, or nothing. With a
            teacher in the setting, tasks are a pair: the tasks, and the teacher's parameters.
        init: `(seed, tasks) -> state`. Every random number is keyed by the seed, `[]` uint32 and traced, and a name.
            `tasks` is None unless the learner is fed tasks. The state has the fields `step`, `[]` int32, the number of
            updates done, and `params`, which a checkpoint is evaluated by.
        update: `(state, batch or tasks, key) -> (state, metrics)`: one update, pure; the key is consumed.
        params: `state -> params`, what is evaluated.
        shardings: `shapes of the state -> shardings`, how it lies on the mesh from its birth.
        steps: of experience in one update, for rates.
        check: `(metrics [P] on the host, updates before them) -> metrics`: raises for what cannot be, and takes out
            what is no number to log; None takes them as they are.
        shown: what progress lines show, by label, of the metrics.
        loss: `(params, batch, key) -> [] float32`, where an update is a step down the gradient of that and nothing
            else, so that a mixture can add it to others; None where an update is more.
    """

    name: str
    feed: Feed
    init: Callable[[jax.Array, PyTree], PyTree]
    update: Callable[[PyTree, PyTree, jax.Array], tuple[PyTree, Metrics]]
    params: Callable[[PyTree], PyTree]
    shardings: Callable[[PyTree], PyTree]
    steps: int
    check: Callable[[Metrics, int], Metrics] | None = None
    shown: Mapping[str, str] = {"loss": "loss"}
    loss: Callable[[PyTree, PyTree, jax.Array], jax.Array] | None = None


class Channel(NamedTuple):
    """What a method prepares for every step of a history."""

    dtype: str  # as it is prepared and kept
    shape: tuple[int, ...] = ()  # of one step's
    seen: bool = False  # the model sees it, in `Steps.extra`, as float32; else it is a target of the loss


class Method(NamedTuple):
    """A method made for a setting.

    Attributes:
        learner: what is trained.
        prepare: `histories -> channels` by name, `[H, T, ...]`, as `MethodConfig.channels` says, on the host, once for
            each history; what belongs to a step stands where its observation does. None: there are none.
    """

    learner: Learner
    prepare: Prepare | None = None


def checked(method: Method, channels: Mapping[str, Channel], needs: Collection[str] = ()) -> Prepare | None:
    """Return what prepares the columns of a method: its channels, and what it `needs` that does not lie there anyway.

    It raises ConfigError where a channel is not as stated, or has the name of a field of the step, or histories do not
    hold what is needed.
    """
    prepare = method.prepare
    if taken := sorted(columns.RESERVED & channels.keys()):
        raise ConfigError(f"the method's channel {taken[0]!r} has the name of a field of every step: call it otherwise")
    if prepare is None and not channels and not needs:
        return None

    def look(histories: Histories) -> dict[str, np.ndarray]:
        given = {} if prepare is None else {name: np.asarray(x) for name, x in prepare(histories).items()}
        stated = {name: (channel.dtype, channel.shape) for name, channel in channels.items()}
        found = {name: (str(x.dtype), x.shape[2:]) for name, x in given.items()}
        if found != stated:
            raise ConfigError(f"the method states channels (dtype, shape of a step's) {stated}, and prepares {found}")
        return given | columns.asked_for(histories, needs)

    return look


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a method is made for."""

    family: "TaskFamily"
    model: Model  # counts rewards in `unit`
    model_config: ModelConfig | None  # None where nothing asks for its options
    spec: Spec  # of what is stored
    seen_spec: Spec  # of what the model sees
    tasks: PyTree  # the training tasks [N]
    sampling: ReplayConfig
    mesh: Mesh
    unit: float = reward_unit.NONE  # what rewards are divided by where the model sees them
    teacher: Teacher | None = None  # the frozen model that is learned from, where the method names one


@dataclasses.dataclass(frozen=True)
class MethodConfig:
    """How a model is trained: what the loop reads, and what a run asks. A subclass is a method's plug-in.

    What a trained model is asked for, and how it decides, a subclass holds in a field `acting`, a frozen dataclass of
    its own: it is no part of training, so that one checkpoint can be evaluated in many ways.
    """

    updates: int = 1000
    updates_per_dispatch: int = 50
    checkpoint_every: int = 200  # updates
    keep_checkpoints: int = 2
    evaluate_every: int = 0  # updates between in-context evaluations on training tasks; 0 for none
    evaluate_episodes: int = 30  # episodes of each of them
    skip_updates: int | None = None  # how many may be left out, because their loss or gradient was not finite

    feed: ClassVar[Feed] = "histories"
    title: ClassVar[str] = "the method"  # for people
    # Of each step, what the loss asks for in `Batch.targets` beside the action: "reward", "terminated", "truncated",
    # "next_observation". The last is stored on request (`collect.next_observation`).
    needs: ClassVar[tuple[str, ...]] = ()
    mixes: ClassVar[bool] = False  # trains one trunk on several families: its `Learner.loss` is all there is to it

    def __init_subclass__(cls) -> None:
        """Refuse what nobody would call: `optimizer` is an option, and what makes one has another name."""
        super().__init_subclass__()
        if callable(vars(cls).get("optimizer")):
            raise ConfigError(f"{cls.__name__}.optimizer: a method's optimizer is made by `make_optimizer`. Rename it")

    @property
    def parts(self) -> int:
        """Parts that a batch is split into, one after another."""
        return 1

    def validate(self, sampling: ReplayConfig) -> None:
        """Raise ConfigError where a number cannot be meant."""
        for name in ("updates", "updates_per_dispatch", "checkpoint_every", "keep_checkpoints", "evaluate_episodes"):
            self.at_least(name, 1)
        self.at_least("evaluate_every", 0)
        if self.skip_updates is not None:
            self.at_least("skip_updates", 0)

    def at_least(self, name: str, least: int) -> None:
        """Raise ConfigError if the option `name` is below `least`."""
        if getattr(self, name) < least:
            raise ConfigError(f"method.{name} must be at least {least}; got {getattr(self, name)}")

    def taught_by(self) -> str | None:
        """Return the run directory of the frozen model that the method learns from; None where there is none."""
        return None

    def bind(self, family: "TaskFamily", tasks: PyTree) -> Self:
        """Return the options with what they leave open and only the family and its training tasks `[N]` know.

        Raises:
            ConfigError: if what is asked for cannot be met there.
        """
        return self

    def collected(self, features: int | None) -> Self:
        """Return the options with what they leave open and only the histories know.

        Args:
            features: how many features of the source each step holds; None for none.

        Raises:
            ConfigError: if the method learns from what they do not hold.
        """
        return self

    def channels(self, family: "TaskFamily", spec: Spec) -> dict[str, Channel]:
        """Return what the method prepares of histories, by name; `spec` is of what is stored."""
        return {}

    def check_model(self, name: str, model_config: object) -> None:
        """Raise ConfigError where a model, by its name and its options, cannot be trained so."""

    def check_family(self, family: "TaskFamily") -> None:
        """Raise ConfigError where a task family does not say what the method needs."""

    def check_devices(self, split: int, sampling: ReplayConfig) -> None:
        """Raise ConfigError where a batch cannot be split over so many devices."""
        if self.feed == "histories":
            sampling.validate(split)

    def env_steps(self, family: "TaskFamily") -> int:
        """Return the environment steps that an update takes itself."""
        return 0

    def positions(self, family: "TaskFamily", sampling: ReplayConfig) -> int:
        """Return the steps that the gradients of an update go over."""
        return sampling.batch * sampling.segment

    def columns(self, family: "TaskFamily", spec: Spec) -> dict[str, jax.ShapeDtypeStruct]:
        """Return what lies on the devices of a step of a history, by name; `spec` is of what is stored."""
        channels = self.channels(family, spec).items()
        own = {name: jax.ShapeDtypeStruct(channel.shape, np.dtype(channel.dtype)) for name, channel in channels}
        return columns.shapes(spec, family.reward_dtype, self.needs) | own

    def batch_bytes(self, family: "TaskFamily", spec: Spec, sampling: ReplayConfig) -> int:
        """Return the bytes of what an update learns from, as the model sees it; `spec` is of what is stored."""
        rows = sampling.batch, 1 + sampling.segment
        one = self.columns(family, spec)
        windows = {name: jax.ShapeDtypeStruct((*rows, *x.shape), x.dtype) for name, x in one.items()}
        inputs = [name for name, channel in self.channels(family, spec).items() if channel.seen]
        made = jax.eval_shape(lambda w: columns.batch(w, spec, family.render, inputs, self.needs), windows)
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(made))

    def state_bytes_beside(self, spec: Spec) -> int:
        """Return the bytes that training holds beside the model's parameters, their optimizer and gradients, for other
        networks; `spec` is of what the model sees.
        """
        return 0

    def reward_unit_asked(self, sampling: ReplayConfig) -> float | None:
        """Return what the options say that rewards are divided by; None leaves it to what is found."""
        return sampling.reward_unit

    def reward_unit_found(self, family: "TaskFamily", tasks: PyTree, seed: int) -> float:
        """Return the size of the rewards that a method meets which is fed no histories."""
        return reward_unit.NONE

    def make_optimizer(self) -> optax.GradientTransformation:
        """Return the rule of the gradient steps."""
        return optax.identity()

    def model(self, config: ModelConfig, spec: Spec) -> Model:
        """Return the model that the method trains, made of the options that a run has in `model`.

        Args:
            config: those options, bound to the family.
            spec: of what the model sees, the method's channels included.

        Raises:
            ConfigError: if the options contradict each other, or are none for the method or the spec.
        """
        return config.make(spec)

    def policy(self, model: Model, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
        """Return what acts with the trained parameters, in evaluation and in an `Agent`: the model's own logits."""
        return from_model(model, mode, temperature)

    def make(self, setting: Setting) -> Method:
        """Make the method for a setting.

        Raises:
            ConfigError: if it cannot be.
        """
        raise NotImplementedError(f"{type(self).__name__}.make(setting) -> Method")


@dataclasses.dataclass(frozen=True)
class Untrained(MethodConfig):
    """What becomes of any method where the model has no parameters: nothing is trained."""

    updates: int = 0

    feed: ClassVar[Feed] = "nothing"
