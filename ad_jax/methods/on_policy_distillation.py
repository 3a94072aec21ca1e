"""On-policy distillation: a small student acts, a frozen teacher says at every step what it would have done.

The student plays the training tasks by its own sampled actions, so it learns in the situations that it gets into. The
teacher follows the same lifetimes through its own cache and gives a whole distribution for each of their steps. So an
in-context learner becomes another, cheaper one: of a transformer, whose every decision costs its window, an LSTM, whose
every decision costs its state. Nothing but the teacher is needed: no histories, no source.

Sources: Parisotto and Salakhutdinov 2021 (arXiv 2104.01655), whose actor is distilled from its learner on what the
actor does; Agarwal et al. 2024 (arXiv 2306.13649), for students and teachers of sequences. Differences: the teacher is
frozen, and there is no value to distill.

Letters: B lifetimes side by side, L steps of each in an update.
"""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ad_jax.envs.base import TaskFamily, advance, num_tasks, reset, take
from ad_jax.errors import ConfigError
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.keys import named_key
from ad_jax.methods import teacher as teachers
from ad_jax.methods.base import Feed, Learner, Method, MethodConfig, Metrics, Setting
from ad_jax.methods.optimizer import Rule, warmed_up
from ad_jax.methods.played import Played, cannot_be, check_of, episodes, rendered
from ad_jax.methods.teacher import Divergence, Teacher, divergence
from ad_jax.models.base import Model, first_steps, follow, unroll_of
from ad_jax.policies.base import choose
from ad_jax.sharding import batch_devices, on_batch, optimizer_shardings, param_shardings, replicated
from ad_jax.types import Array, PyTree, Spec, Steps


class Lifetimes(struct.PyTreeNode):
    """B lifetimes under way, all of one age. Every leaf is `[B, ...]` or a scalar."""

    age: Array  # [] int32, updates that they have had
    task: Array  # [B] int32, row of the training tasks
    cache: PyTree  # the student's
    teachers: PyTree  # the teacher's cache
    steps: Steps  # [B], what both see next, its observation as yet unrendered
    env_state: PyTree


@struct.dataclass
class TrainState:
    """Everything that training carries from one update to the next."""

    params: PyTree
    opt_state: PyTree
    step: Array  # [] int32, updates done
    lifetimes: Lifetimes


class Parts(NamedTuple):
    """What an update is made of."""

    student: Model
    teacher: Model
    family: TaskFamily
    optimizer: optax.GradientTransformation


@dataclasses.dataclass(frozen=True)
class OnPolicyDistillation(MethodConfig):
    """Options of on-policy distillation. An update is some steps of every lifetime and one gradient step on them."""

    teacher: str = ""  # run directory of the trained model that is learned from
    updates_per_dispatch: int = 5
    checkpoint_every: int = 100  # updates
    lifetime_episodes: int = 20  # of full length, before the next task
    unroll_episodes: int | None = None  # of each lifetime in an update, divides the lifetime; None: whole lifetimes
    lifetimes: int = 64  # B, side by side
    divergence: Divergence = "forward"  # KL from teacher to student, or from student to teacher
    optimizer: Rule = "adamw"
    learning_rate: float = 3e-3  # peak, after warm-up; cosine to 0 at the last update
    warmup_updates: int = 50
    weight_decay: float = 0.0
    clip_norm: float = 1.0  # global norm of the gradient

    feed: ClassVar[Feed] = "tasks"
    title: ClassVar[str] = "on-policy distillation"

    @property
    def unroll(self) -> int:
        """Episodes of each lifetime in an update."""
        return self.lifetime_episodes if self.unroll_episodes is None else self.unroll_episodes

    def taught_by(self) -> str:
        """Return the teacher's run directory."""
        return self.teacher

    def validate(self, sampling: ReplayConfig | None = None) -> None:
        """Raise ConfigError where a number cannot be meant."""
        super().validate(sampling or ReplayConfig())
        for name in ("lifetime_episodes", "lifetimes"):
            self.at_least(name, 1)
        if self.unroll < 1 or self.lifetime_episodes % self.unroll:
            raise ConfigError(
                f"method.unroll_episodes={self.unroll} must divide method.lifetime_episodes={self.lifetime_episodes}; "
                "None takes whole lifetimes"
            )
        if self.warmup_updates >= self.updates:
            raise ConfigError(
                f"method.warmup_updates={self.warmup_updates} must be below method.updates={self.updates}"
            )

    def check_devices(self, split: int, sampling: ReplayConfig | None = None) -> None:
        """Raise ConfigError unless every device has as many lifetimes."""
        if self.lifetimes % split:
            raise ConfigError(f"method.lifetimes={self.lifetimes} must be a multiple of the {split} devices")

    def env_steps(self, family: TaskFamily) -> int:
        """Return the environment steps of an update."""
        return self.lifetimes * self.unroll * family.episode_length

    def positions(self, family: TaskFamily, sampling: ReplayConfig | None = None) -> int:
        """Return the steps that the gradients of an update go over."""
        return self.env_steps(family)

    def batch_bytes(self, family: TaskFamily, spec: Spec, sampling: ReplayConfig | None = None) -> int:
        """Return the bytes of what an update learns from."""
        return self.env_steps(family) * (spec.size * spec.compute_dtype.itemsize + 4 * family.num_actions + 14)

    def make_optimizer(self) -> optax.GradientTransformation:
        """Return AdamW or Muon, on a warm-up and cosine schedule, after global-norm clipping."""
        decay, clip = self.weight_decay, self.clip_norm
        schedule = self.optimizer, self.learning_rate, self.warmup_updates, self.updates
        return warmed_up(*schedule, weight_decay=decay, clip_norm=clip)

    def make(self, setting: Setting) -> Method:
        """Make the method for a setting; raises as `teacher.of`."""
        return Method(learner(self, setting, teachers.of(setting, "on_policy_distillation")))


def learner(config: OnPolicyDistillation, setting: Setting, teacher: Teacher) -> Learner:
    """Make the learner of a student and its teacher, which is fed the training tasks."""
    config.validate()
    config.check_devices(batch_devices(setting.mesh))
    family, mesh, tasks = setting.family, setting.mesh, setting.tasks
    parts = Parts(setting.model, teacher.model, family, config.make_optimizer())

    def init(seed: jax.Array, fed: PyTree) -> TrainState:
        params = parts.student.init(named_key(seed, "params"))
        begun = begin(parts, config, named_key(seed, "lifetimes"), fed[0])
        return TrainState(params, parts.optimizer.init(params), jnp.int32(0), begun)

    def shardings(shapes: TrainState) -> TrainState:
        placed = param_shardings(shapes.params, mesh, parts.student.partition)
        rows, one = on_batch(mesh), replicated(mesh)
        return TrainState(
            placed,
            optimizer_shardings(parts.optimizer, shapes.params, placed, mesh),
            one,
            jax.tree.map(lambda x: rows if x.ndim else one, shapes.lifetimes),
        )

    return Learner(
        name="distill",
        feed="tasks",
        init=init,
        update=functools.partial(update, parts, config),
        params=lambda state: state.params,
        shardings=shardings,
        steps=config.env_steps(family),
        check=check_of(tasks, family),
        shown={"loss": "loss", "first_episode": "first_return", "last": "last_return"},
    )


def begin(parts: Parts, config: OnPolicyDistillation, key: jax.Array, tasks: PyTree) -> Lifetimes:
    """B new lifetimes of tasks drawn from `tasks [N]`. The key is consumed."""
    key_task, key_reset = jax.random.split(key)
    batch = config.lifetimes
    task = jax.random.randint(key_task, (batch,), 0, num_tasks(tasks), jnp.int32)
    go = jax.vmap(functools.partial(reset, parts.family))
    observation, env_state = go(jax.random.split(key_reset, batch), take(tasks, task))
    caches = parts.student.init_cache(batch), parts.teacher.init_cache(batch)
    return Lifetimes(jnp.int32(0), task, *caches, first_steps(observation, parts.family.action_spec), env_state)


def roll(
    parts: Parts, length: int, params: PyTree, taught: PyTree, lifetimes: Lifetimes, tasks: PyTree, key: jax.Array
) -> tuple[Played, jax.Array, Lifetimes]:
    """Return L steps of the student's sampled actions, the teacher's logits `[B, L, A]` at each of them, and the
    lifetimes after them. The key is consumed.
    """
    batch, family = len(lifetimes.task), parts.family
    keys = jax.random.split(key, (length, batch, 2))
    own, go = take(tasks, lifetimes.task), jax.vmap(functools.partial(advance, family))

    def step(carry, keys):
        cache, other, steps, env_state = carry
        seen = rendered(family, steps)
        logits, cache = parts.student.decode(params, cache, seen)
        told, other = parts.teacher.decode(taught, other, seen)
        action = choose(logits, keys[:, 0], "sampled")
        observation, env_state, outcome = go(keys[:, 1], env_state, action, own)
        did = Played(steps, action, outcome.reward, outcome.done)
        return (cache, other, follow(observation, action, outcome), env_state), (did, told)

    start = lifetimes.cache, lifetimes.teachers, lifetimes.steps, lifetimes.env_state
    (cache, other, steps, env_state), happened = jax.lax.scan(step, start, keys)
    played, told = jax.tree.map(lambda x: x.swapaxes(0, 1), happened)
    return played, told, lifetimes.replace(cache=cache, teachers=other, steps=steps, env_state=env_state)


def update(
    parts: Parts, config: OnPolicyDistillation, state: TrainState, fed: tuple[PyTree, PyTree], key: jax.Array
) -> tuple[TrainState, Metrics]:
    """Return some steps of every lifetime, one gradient step on them, and new lifetimes where these are over. The key
    is consumed; what is `fed` are the training tasks `[N]` and the teacher's parameters.

    Returns:
        The state after it, and as float32 scalars: loss, gradient norm, and the mean return of the first and of the
        last episode of the lifetimes, where they began and ended here; beside them what `cannot_be`.
    """
    key_roll, key_begin = jax.random.split(key)
    length = config.unroll * parts.family.episode_length
    (tasks, taught), before = fed, state.lifetimes
    played, told, after = roll(parts, length, state.params, taught, before, tasks, key_roll)
    unroll = unroll_of(parts.student)

    def loss(params):
        logits, _ = unroll(params, before.cache, rendered(parts.family, played.steps))
        return divergence(config.divergence, told, logits).mean()

    value, grads = jax.value_and_grad(loss)(state.params)
    changes, opt_state = parts.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, changes)
    over = before.age + 1 >= config.lifetime_episodes // config.unroll
    fresh = begin(parts, config, key_begin, tasks)
    after = after.replace(age=before.age + 1)
    lifetimes = jax.tree.map(lambda new, old: jnp.where(over, new, old), fresh, after)
    rows = jnp.ones(before.task.shape, jnp.bool_)
    first, last = episodes(played, rows & (before.age == 0), rows & over)
    metrics = {"loss": value, "grad_norm": optax.tree.norm(grads), "first_return": first, "last_return": last}
    metrics["cannot be"] = cannot_be(parts.family, played, before.task)
    return TrainState(params, opt_state, state.step + 1, lifetimes), metrics
