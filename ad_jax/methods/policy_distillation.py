"""Policy distillation: one network learns what many trained teachers, one for each task, hold of every action.

The teachers are the sources themselves, and what they held stands beside their histories (`collect.preferences=true`).
The student is told its task, by the numbers that are its parameters, and matches softmax(preferences / temperature) at
every step of the teachers' last play. It is what algorithm distillation is not: of the policies that learning ended
with, and not of learning.

    loss = KL(softmax(q / temperature) || student) + features * |W h + b - h_teacher|^2

The second part is Actor-Mimic's regression of features, with `method.features` as its weight: from what its own last
layer sees, h, the student also predicts by one linear layer for all tasks what each teacher's saw, which stands beside
the histories of a source that has a network (`collect.features`).

Sources: Rusu et al. 2015 (arXiv 1511.06295), equation 3, with sharpened values; Parisotto, Ba and Salakhutdinov 2015
(Actor-Mimic, arXiv 1511.06342), both objectives. Differences: steps are those of the histories (set `replay.tail` for
the teachers' last ones) and not of new games; the student has no part of its own for each task, but is told which it
is. In a mixture of families (`docs/mixtures.md`) each has first and last layers of its own, as the papers' games have.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.envs.leaves import task_leaves
from ad_jax.envs.stepping import is_key, path_name
from ad_jax.errors import ConfigError
from ad_jax.history.columns import PREFERENCES
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.methods.base import Channel, Method, Setting
from ad_jax.methods.supervised import Supervised
from ad_jax.models.base import Model, ModelConfig
from ad_jax.models.heads import check_takes_head
from ad_jax.models.heads.beside import Beside
from ad_jax.policies.base import Mode, Policy, from_model
from ad_jax.types import Array, Batch, Box, Histories, PyTree, Spec

if TYPE_CHECKING:
    from ad_jax.envs.base import TaskFamily

CHANNEL = "task"
FEATURES = "features_of_teacher"


@dataclasses.dataclass(frozen=True)
class PolicyDistillation(Supervised):
    """Options of policy distillation."""

    temperature: float = 0.1  # what preferences are divided by, in their own unit; small: the best action alone
    task_scale: tuple[float, ...] | None = None  # largest of each of a task's numbers; None: of the training tasks'

    features: float | None = None  # weight of the regression of the teachers' features; None: there is none
    feature_width: int | None = None  # how many they are; None: as many as `collect.features` says

    title: ClassVar[str] = "policy distillation"
    needs: ClassVar[tuple[str, ...]] = (PREFERENCES,)
    mixes: ClassVar[bool] = True

    def validate(self, sampling: ReplayConfig) -> None:
        """Raise ConfigError where a number cannot be meant."""
        super().validate(sampling)
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"method.temperature must be above 0 and finite; got {self.temperature}")
        if self.label_smoothing:
            raise ConfigError(
                f"method.label_smoothing must be 0, since targets are distributions; got {self.label_smoothing}. "
                "Raise method.temperature"
            )
        if self.features is not None and not 0 < self.features < math.inf:
            raise ConfigError(
                f"method.features is a weight above 0 and finite; got {self.features}. Leave it out for no regression"
            )
        if self.feature_width is not None and self.features is None:
            raise ConfigError(
                f"method.feature_width={self.feature_width} is of features that are regressed, and method.features is "
                "None. Set that to a weight, or leave both out"
            )

    def check_family(self, family: "TaskFamily") -> None:
        """Raise ConfigError where actions cannot be counted, or a task's parameters are no numbers."""
        super().check_family(family)
        if isinstance(action := family.action_spec, Box):
            raise ConfigError(f"method=policy_distillation matches a share for each action; those here are {action}")
        numbers(family.default_params)

    def bind(self, family: "TaskFamily", tasks: PyTree) -> Self:
        """Return the options with the largest of each of a task's numbers, where they leave it open."""
        if self.task_scale is not None:
            return self
        largest = np.abs(flat(task_leaves(tasks))).max(axis=0)
        return dataclasses.replace(self, task_scale=tuple(float(x) or 1.0 for x in largest))

    def collected(self, features: int | None) -> Self:
        """Return the options with how many features the teachers have, where they leave it open.

        Raises:
            ConfigError: if features are to be regressed, and the histories hold none or another number of them.
        """
        if self.features is None:
            return self
        if features is None:
            raise ConfigError(
                f"method.features={self.features:g} regresses what the last layer of the source's network saw, which "
                "is stored on request: set collect.features to how many numbers that is, and collect in a new directory"
            )
        if self.feature_width not in (None, features):
            raise ConfigError(
                f"method.feature_width={self.feature_width} must be collect.features={features}. Leave it out"
            )
        return dataclasses.replace(self, feature_width=features)

    def channels(self, family: "TaskFamily", spec: Spec) -> dict[str, Channel]:
        """Return the numbers of a history's task, which the model sees, and the teacher's features, if regressed."""
        told = {CHANNEL: Channel("float32", (numbers(family.default_params).size,), seen=True)}
        return told if self.feature_width is None else told | {FEATURES: Channel("float32", (self.feature_width,))}

    def check_model(self, name: str, model_config: object) -> None:
        """Raise ConfigError where features are to be regressed by a model that has no other head than its actions'."""
        if self.features is not None:
            check_takes_head(self.title, name, model_config)

    def model(self, config: ModelConfig, spec: Spec) -> Model:
        """Return the run's backbone, with outputs for the teachers' features where they are regressed.

        Raises:
            ConfigError: if it is left open how many there are: `collected` knows it.
        """
        if self.features is None:
            return super().model(config, spec)
        if self.feature_width is None:
            raise ConfigError("a model needs method.feature_width; set it to how many features a teacher has")
        backbone = cast(Any, config)  # `check_model` saw that it takes another head
        return backbone.make(spec, Beside(backbone.head(spec), self.feature_width))

    def make(self, setting: Setting) -> Method:
        """Make the method for a setting."""
        bound, model, temperature = self.bind(setting.family, setting.tasks), setting.model, self.temperature
        scale = np.asarray(bound.task_scale, np.float32)

        def prepare(histories: Histories) -> dict[str, np.ndarray]:
            steps = histories.transition.reward.shape[1]
            told = flat(histories.tasks).astype(np.float32) / scale
            channels = {CHANNEL: np.repeat(told[:, None], steps, axis=1)}
            return channels if self.features is None else channels | {FEATURES: features_of(histories)}

        def divergence(outputs: jax.Array, batch: Batch) -> jax.Array:
            logits = jax.nn.log_softmax(outputs)
            taught = jax.nn.log_softmax(batch.targets[PREFERENCES] / temperature)
            return (jnp.exp(taught) * (taught - logits)).sum(-1).mean()

        def loss(params: PyTree, batch: Batch, key: jax.Array) -> jax.Array:
            outputs = model.apply(params, batch.steps, key)
            if self.features is None:
                return divergence(outputs, batch)
            head = cast(Beside, model.head)
            off = head.of_more(outputs) - batch.targets[FEATURES]
            return divergence(head.of_action(outputs), batch) + self.features * (off**2).sum(-1).mean()

        return Method(self.learner(setting, loss), prepare)

    def policy(self, model: Model, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
        """Return the policy that is told its task.

        Raises:
            ConfigError: if the scale of a task's numbers is left open: `bind` knows it.
        """
        if self.task_scale is None:
            raise ConfigError("a policy needs method.task_scale; set it, or bind(family, tasks)")
        scale = self.task_scale

        def tell(family: "TaskFamily", task: PyTree, observation: Array) -> dict[str, Array]:
            return {CHANNEL: numbers(task) / jnp.asarray(scale, jnp.float32)}

        return from_model(model, mode, temperature)._replace(tell=tell)


def features_of(histories: Histories) -> np.ndarray:
    """Return what the teachers' last layers saw, `[H, T, F]` float32.

    Raises:
        ConfigError: if the histories do not hold it.
    """
    if (held := histories.transition.features) is None:
        raise ConfigError(
            "method.features regresses what the last layer of the source's network saw, and these histories do not "
            "hold it. Collect others with collect.features, or leave the option out"
        )
    return np.asarray(held)


def numbers(task: PyTree) -> jax.Array:
    """Return the parameters of one task, in the order of their names, `[F]` float32.

    Raises:
        ConfigError: if one of them is a random key, of which nothing can be learned.
    """
    named = {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(task)[0]}
    for name, leaf in named.items():
        if is_key(jnp.asarray(leaf)):
            raise ConfigError(
                f"method=policy_distillation tells the student the numbers of its task, and {name} is a random key here"
            )
    return jnp.concatenate([jnp.ravel(jnp.asarray(named[name])).astype(jnp.float32) for name in sorted(named)])


def flat(leaves: dict[str, np.ndarray]) -> np.ndarray:
    """Return the parameters of tasks in the order of their names, `[N, F]` float64, of leaves `[N, ...]` by name."""
    return np.concatenate(
        [leaves[name].reshape(len(leaves[name]), -1).astype(float) for name in sorted(leaves)], axis=1
    )
