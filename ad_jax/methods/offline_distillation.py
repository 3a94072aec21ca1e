"""Offline distillation: a student learns what a frozen teacher would do on windows of stored histories.

The control of on-policy distillation: the same teacher and the same divergence, but in situations that the source of
the histories got into, not the student. Teacher and student see the same windows.

Source: the offline form of policy distillation, Rusu et al. 2016 (arXiv 1511.06295), equation 3, with a sequence model
as the teacher, and the temperature of its logits.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ad_jax.errors import ConfigError
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.keys import named_key
from ad_jax.methods import teacher as teachers
from ad_jax.methods.base import Learner, Method, Metrics, Setting
from ad_jax.methods.supervised import Supervised, gradient
from ad_jax.methods.teacher import Divergence, Teacher, divergence
from ad_jax.sharding import optimizer_shardings, param_shardings, replicated
from ad_jax.types import Array, Batch, PyTree


@struct.dataclass
class TrainState:
    """Everything that training carries from one update to the next."""

    params: PyTree
    opt_state: PyTree
    step: Array  # [] int32, updates done
    teacher: PyTree  # its parameters


@dataclasses.dataclass(frozen=True)
class OfflineDistillation(Supervised):
    """Options of offline distillation."""

    teacher: str = ""  # run directory of the trained model that is learned from
    divergence: Divergence = "forward"  # KL from teacher to student, or from student to teacher
    teacher_temperature: float = 1.0  # of the teacher's logits; below 1 its likelier actions gain

    title: ClassVar[str] = "offline distillation"

    def taught_by(self) -> str:
        """Return the teacher's run directory."""
        return self.teacher

    def validate(self, sampling: ReplayConfig) -> None:
        """Raise ConfigError where a number cannot be meant."""
        super().validate(sampling)
        if not self.teacher_temperature > 0:
            raise ConfigError(f"method.teacher_temperature must be above 0; got {self.teacher_temperature}")
        if self.label_smoothing:
            raise ConfigError(
                f"method.label_smoothing={self.label_smoothing} has no meaning beside a teacher's distribution: set it "
                "to 0; method.teacher_temperature above 1 smooths that"
            )

    def make(self, setting: Setting) -> Method:
        """Make the method for a setting.

        Raises:
            ConfigError: as `teacher.of`, or if a window is longer than the teacher can take.
        """
        teacher, segment = teachers.of(setting, "offline_distillation"), setting.sampling.segment
        if (longest := teacher.model.max_segment) is not None and segment > longest:
            raise ConfigError(f"replay.segment={segment} is longer than the teacher can take ({longest} steps)")
        return Method(taught(self, setting, teacher, self.learner(setting, lambda *_: jnp.float32(0))))


def taught(config: OfflineDistillation, setting: Setting, teacher: Teacher, plain: Learner) -> Learner:
    """Return the learner with a teacher in its state, so that programs hold none of its numbers.

    Args:
        config: how to train.
        setting: of the student.
        teacher: what is learned from.
        plain: the learner of any loss on the same windows, for what is the same.
    """
    student, optimizer, mesh = setting.model, config.make_optimizer(), setting.mesh
    parts, groups = config.accumulate, setting.sampling.groups

    def init(seed: jax.Array, _: PyTree) -> TrainState:
        params = student.init(named_key(seed, "params"))
        told = jax.tree.map(jnp.asarray, teacher.params)
        return TrainState(params, optimizer.init(params), jnp.int32(0), told)

    def update(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        def loss(params, batch, key):
            told = teacher.model.apply(state.teacher, batch.steps) / jnp.float32(config.teacher_temperature)
            return divergence(config.divergence, told, student.apply(params, batch.steps, key)).mean()

        value, grads = gradient(loss, state.params, batch, key, parts, groups)
        changes, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, changes)
        metrics = {"loss": value, "grad_norm": optax.tree.norm(grads)}
        return TrainState(params, opt_state, state.step + 1, state.teacher), metrics

    def shardings(shapes: TrainState) -> TrainState:
        placed = param_shardings(shapes.params, mesh, student.partition)
        held = optimizer_shardings(optimizer, shapes.params, placed, mesh)
        return TrainState(
            placed, held, replicated(mesh), param_shardings(shapes.teacher, mesh, teacher.model.partition)
        )

    return plain._replace(init=init, update=update, params=lambda state: state.params, shardings=shardings, loss=None)
