"""Methods with a loss on windows of histories: their options, and the `Learner` that a loss is made into."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from ad_jax.errors import ConfigError
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.keys import named_key
from ad_jax.methods.base import Learner, MethodConfig, Metrics, Setting
from ad_jax.methods.optimizer import Rule, warmed_up
from ad_jax.models import heads
from ad_jax.models.base import Model
from ad_jax.sharding import Partition, optimizer_shardings, param_shardings, replicated
from ad_jax.types import Array, Batch, Box, PyTree

if TYPE_CHECKING:
    from ad_jax.envs.base import TaskFamily

Loss = Callable[[PyTree, Batch, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Supervised(MethodConfig):
    """How to train on windows of histories. An update is one optimizer step."""

    optimizer: Rule = "adamw"
    learning_rate: float = 2e-3  # peak, after warm-up; cosine to 0 at the last update
    warmup_updates: int = 100
    weight_decay: float = 0.01  # of matrices and tables, not of norms and biases
    b1: float = 0.9
    b2: float = 0.999
    clip_norm: float = 1.0  # global norm of the gradient
    label_smoothing: float = 0.0
    accumulate: int = 1  # parts that a batch is split into, one after another; saves memory

    @property
    def parts(self) -> int:
        """Parts that a batch is split into, one after another."""
        return self.accumulate

    def validate(self, sampling: ReplayConfig) -> None:
        """Raise ConfigError where a number cannot be meant."""
        super().validate(sampling)
        self.at_least("accumulate", 1)
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"method.label_smoothing is in [0, 1); got {self.label_smoothing}")
        if self.warmup_updates >= self.updates:
            raise ConfigError(
                f"method.warmup_updates={self.warmup_updates} must be below method.updates={self.updates}"
            )
        if (rows := sampling.batch // sampling.groups) % self.accumulate:
            raise ConfigError(
                f"method.accumulate={self.accumulate} must divide the rows of a group, "
                f"replay.batch / replay.groups = {rows}"
            )

    def check_family(self, family: "TaskFamily") -> None:
        """Raise ConfigError where labels are to be smoothed over actions that cannot be counted."""
        if self.label_smoothing and isinstance(action := family.action_spec, Box):
            raise ConfigError(
                f"method.label_smoothing={self.label_smoothing} spreads a share over all other actions, and those of "
                f"{family.name} are {action}. Set it to 0"
            )

    def make_optimizer(self) -> optax.GradientTransformation:
        """Return AdamW or Muon, on a warm-up and cosine schedule, after global-norm clipping."""
        return warmed_up(
            self.optimizer,
            self.learning_rate,
            self.warmup_updates,
            self.updates,
            b1=self.b1,
            b2=self.b2,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
        )

    def learner(self, setting: Setting, loss: Loss) -> Learner:
        """Make the learner of a loss for a setting.

        Raises:
            ConfigError: if a window is longer than the model can take.
        """
        sampling, longest = setting.sampling, setting.model.max_segment
        self.validate(sampling)
        if longest is not None and sampling.segment > longest:
            raise ConfigError(f"replay.segment={sampling.segment} is longer than this model can take ({longest} steps)")
        return supervised(
            loss,
            setting.model.init,
            self.make_optimizer(),
            setting.mesh,
            steps=sampling.batch * sampling.segment,
            accumulate=self.accumulate,
            groups=sampling.groups,
            partition=setting.model.partition,
        )


def cross_entropy(model: Model, target: str = "action", label_smoothing: float = 0.0) -> Loss:
    """Return `(params, batch, key) -> []` float32: the mean cross-entropy of a target over all steps, in nats.

    Args:
        model: its head says how likely a target is; of actions in a Box that is a density, whose logarithm has no
            bound: a loss below 0 says that actions are known to less than one of the environment's units.
        target: name of an action at every step.
        label_smoothing: of Discrete actions.
    """

    def loss(params, batch, key):
        outputs, labels = model.apply(params, batch.steps, key), batch.targets[target]
        if label_smoothing == 0:
            return -heads.of(model, outputs).log_prob(outputs, labels).mean()
        smooth = optax.smooth_labels(jax.nn.one_hot(labels, outputs.shape[-1]), label_smoothing)
        return optax.softmax_cross_entropy(outputs, smooth).mean()

    return loss


@struct.dataclass
class TrainState:
    """Everything that supervised training carries from one update to the next."""

    params: PyTree
    opt_state: PyTree
    step: Array  # [] int32, updates done; with the seed, the whole state of the batch sampler


def supervised(
    loss: Loss,
    init: Callable[[jax.Array], PyTree],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    steps: int,
    accumulate: int = 1,
    groups: int = 1,
    partition: Partition = (),
    name: str = "distill",
) -> Learner:
    """Make a learner of a loss on windows of histories.

    Args:
        loss: `(params, batch [B, L], key) -> []` float32; the key is consumed.
        init: `key -> params`, a model's.
        optimizer: turns gradients into changes of the parameters.
        mesh: on which the parameters and the optimizer's state lie.
        steps: in a batch, B x L.
        accumulate: parts that a batch is split into, one after another; saves memory.
        groups: of the histories, see `ad_jax.history.replay`; every part takes rows of each.
        partition: a model's: which axes of the mesh split which parameter.
        name: as of the `Learner`.
    """

    def start(seed: jax.Array, _: PyTree) -> TrainState:
        params = init(named_key(seed, "params"))
        return TrainState(params, optimizer.init(params), jnp.int32(0))

    def update(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        value, grads = gradient(loss, state.params, batch, key, accumulate, groups)
        changes, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, changes)
        told = {"loss": value, "grad_norm": optax.tree.norm(grads)}
        return TrainState(params, opt_state, state.step + 1), told

    def shardings(shapes: TrainState) -> TrainState:
        placed = param_shardings(shapes.params, mesh, partition)
        return TrainState(placed, optimizer_shardings(optimizer, shapes.params, placed, mesh), replicated(mesh))

    return Learner(name, "histories", start, update, lambda state: state.params, shardings, steps, loss=loss)


def gradient(
    loss: Loss, params: PyTree, batch: Batch, key: jax.Array, accumulate: int = 1, groups: int = 1
) -> tuple[jax.Array, PyTree]:
    """Return loss and gradient of a batch, in `accumulate` parts. The key is consumed."""
    value_and_grad = jax.value_and_grad(loss)
    if accumulate == 1:
        return value_and_grad(params, batch, key)

    # Every part takes rows of every group, so that each device works on each part from its own rows.
    def split(x):
        return x.reshape(groups, accumulate, -1, *x.shape[1:]).swapaxes(0, 1).reshape(accumulate, -1, *x.shape[1:])

    def add(total, part):
        index, piece = part
        return jax.tree.map(jnp.add, total, value_and_grad(params, piece, jax.random.fold_in(key, index))), None

    zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(add, zero, (jnp.arange(accumulate, dtype=jnp.int32), jax.tree.map(split, batch)))
    return jax.tree.map(lambda x: x / accumulate, total)
