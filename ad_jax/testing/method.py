"""Contract check for methods: `check_method(MyMethod())` proves what training and acting rely on.

It collects a few short histories of Dark Room, trains a small model on them by the method, and lets the policy act.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ad_jax import envs, models, sources
from ad_jax.envs.base import TaskFamily, check_split, seen_spec_of, spec_of, take
from ad_jax.errors import ConfigError
from ad_jax.files import JsonObject
from ad_jax.history import replay, reward_unit
from ad_jax.history.columns import STORED, check_needs
from ad_jax.keys import a_key
from ad_jax.methods.base import Channel, Method, MethodConfig, Setting, checked
from ad_jax.methods.teacher import Teacher
from ad_jax.models.base import Model, ModelConfig
from ad_jax.sharding import MeshConfig, make_mesh
from ad_jax.stage import collect
from ad_jax.stage.feeds import feed_of
from ad_jax.stage.trainer import Trainer
from ad_jax.testing.base import check_actions, promised, require, run_checks, same
from ad_jax.testing.model import random_steps
from ad_jax.types import Histories, PyTree, Spec

ROWS, EPISODES = 4, 8  # of a policy's batch; of each history
FEATURES = 8  # of a source, where the method learns from them
SMALL: dict[str, JsonObject] = {  # backbones to try, in this order
    "transformer": {"layers": 1, "width": 8, "heads": 1, "mlp_width": 8, "window": 8},
    "lstm": {"width": 8, "hidden": 8, "mlp_width": 8, "value_head": True},
}


@dataclasses.dataclass
class Sample:
    """What the checks look at."""

    config: MethodConfig
    setting: Setting
    channels: dict[str, Channel]
    histories: Histories
    method: Method
    prepare: replay.Prepare | None
    trainer: Trainer
    resident: PyTree

    @functools.cached_property
    def played(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Actions of the policy before any update, the same with rows turned round, and how often it was traced."""
        return _played(self)


def check_method(config: MethodConfig, family: TaskFamily | None = None) -> list[str]:
    """Run every check on a method, with the options of `config`.

    Args:
        config: of the method; its counts of updates, trials and episodes are replaced by small ones.
        family: to learn on, with episodes of a few steps; default a Dark Room of 3 x 3 cells.

    Returns:
        The names of the checks, all passed.

    Raises:
        ContractError: for the first check that fails.
        ConfigError: if the method takes neither the family nor a small transformer nor a small LSTM.
    """
    room = envs.make("dark_room", {"size": 3, "steps": 4})
    # A handful of updates, and as few trials or windows: these options are no part of what is promised.
    small = {"updates": 8, "updates_per_dispatch": 4, "warmup_updates": 1}
    small |= {"trials": 4, "trial_episodes": 2, "lifetimes": 4, "lifetime_episodes": 2}
    known = {field.name for field in dataclasses.fields(config)}
    config = dataclasses.replace(config, **{name: value for name, value in small.items() if name in known})
    return run_checks(type(config).__name__, CHECKS, _sample(config, family or room))


def _sample(config: MethodConfig, family: TaskFamily) -> Sample:
    config.check_family(family)
    spec, sampling, mesh = spec_of(family), replay.Config(segment=8, batch=8, groups=1), make_mesh(MeshConfig(1))
    config.validate(sampling)
    check_needs(config.needs, STORED)
    split = family.split(0, 4, 2)
    check_split(family, split)
    config, features = _collected(config.bind(family, split.train))
    channels = config.channels(family, spec)
    seen = tuple((name, channel.shape) for name, channel in channels.items() if channel.seen)
    seen_spec = dataclasses.replace(seen_spec_of(family), extra=seen)
    model_config, model = _backbone(config, seen_spec)
    teacher = None if config.taught_by() is None else _teacher(family, seen_spec_of(family), split.train)
    setting = Setting(family, model, model_config, spec, seen_spec, split.train, sampling, mesh, teacher=teacher)
    method = config.make(setting)
    histories = _histories(family, split.train, mesh, config.needs, features)
    prepare = checked(method, channels, config.needs)
    feed = feed_of(config, setting)
    resident = feed.tasks if config.feed == "tasks" else replay.load(histories, spec, sampling, mesh, prepare)
    trainer = Trainer(method.learner, feed, config, mesh, seed=0)
    return Sample(config, setting, channels, histories, method, prepare, trainer, resident)


def _collected(config: MethodConfig) -> tuple[MethodConfig, int | None]:
    """Return the options with what histories decide, and how many features of their source those then hold."""
    try:
        return config.collected(None), None
    except ConfigError:
        return config.collected(FEATURES), FEATURES


def _backbone(config: MethodConfig, spec: Spec) -> tuple[ModelConfig, Model]:
    """Return the first of the small backbones that the method takes."""
    refused: list[str] = []
    for name, options in SMALL.items():
        model_config = models.make(name, options)
        try:
            config.check_model(name, model_config)
        except ConfigError as error:
            refused.append(str(error))
        else:
            return model_config, config.model(model_config, spec)
    raise ConfigError(f"the method takes none of {', '.join(SMALL)}: {'; '.join(refused)}")


def _teacher(family: TaskFamily, spec: Spec, tasks: PyTree) -> Teacher:
    """Return a small transformer that was never trained, for a method that learns from another model."""
    model = models.make("transformer", SMALL["transformer"]).make(spec)
    return Teacher("a test", model, model.init(a_key(1)), spec, reward_unit.NONE, frozenset(family.task_ids(tasks)))


def _histories(
    family: TaskFamily, tasks: PyTree, mesh: Mesh, needs: Collection[str], features: int | None
) -> Histories:
    """Two learners' histories on each task, by the first source that takes the family, or by one with features."""
    ids, source = family.task_ids(tasks), None
    known = [(name, {}) for name in ("q_learning", "ucb", "noisy_oracle", "actor_critic")]
    for name, options in known if features is None else [("dqn", {"actors": 1, "hidden": (features,)})]:
        with contextlib.suppress(TypeError, ConfigError):  # how a source says that a family does not suit it
            source = source or sources.make(name, options).make(family)
    if source is None:
        raise ConfigError(f"no source of this package takes {family.name}; give check_method another family")
    collector = collect.Collector(
        family, source, EPISODES, mesh, 2 * len(ids), **{name: name in needs for name in STORED}, features=features
    )
    lifetime = collector.run(0, tasks, ids, 2, 0)
    return collect.as_histories(lifetime, tasks, ids, 2, 0, 2 * len(ids))


def _channels(s: Sample) -> None:
    channels = {} if s.prepare is None else s.prepare(s.histories)
    with promised("finite numbers", "Nothing can be learned from others."):
        chex.assert_tree_all_finite(channels)


def _alone(s: Sample) -> None:
    if s.prepare is None:
        return
    together, rows = s.prepare(s.histories), np.array([3, 0])
    alone = s.prepare(replay.take(s.histories, rows))
    for name, x in together.items():
        require(
            x[rows].tobytes() == alone[name].tobytes(),
            f"{name} of a history that follows from that history alone",
            "others where fewer histories are there",
            "Collections are prepared chunk by chunk: use nothing of the other rows.",
        )


def _state(s: Sample) -> None:
    for name in ("step", "params"):
        require(
            hasattr(s.trainer.abstract_state, name),
            f"a state with a field {name!r}",
            s.trainer.abstract_state,
            "Add it.",
        )
    step = s.trainer.abstract_state.step
    kind = f"{step.dtype}{list(step.shape)}"
    require(kind == "int32[]", "a step that is int32[]", kind, "Count updates in it.")


def _metrics(s: Sample) -> None:
    _, metrics = jax.eval_shape(s.trainer.update, s.trainer.abstract_state, s.resident, s.trainer.seed)
    remedy = "Return both with every update: the loop looks whether they are finite."
    for name in ("loss", "grad_norm"):
        require(name in metrics, f"a metric {name!r}", sorted(metrics), remedy)
        kind = f"{metrics[name].dtype}{list(metrics[name].shape)}"
        require(kind == "float32[]", f"{name} that is float32[]", kind, "Take a mean.")


def _dispatches(s: Sample) -> None:
    one, found = s.trainer.run(s.trainer.init(), s.resident, jnp.int32(4))
    state, parts = s.trainer.init(), []
    for count in (1, 3):
        state, metrics = s.trainer.run(state, s.resident, jnp.int32(count))
        parts.append(np.asarray(metrics["loss"])[:count])
    require(int(one.step) == int(state.step) == 4, "4 updates counted", int(one.step), "Add 1 to step in an update.")
    loss = np.asarray(found["loss"])[:4]
    require(np.isfinite(loss).all(), "finite losses", loss.tolist(), "Look at the loss of a batch.")
    remedy = "An update may use its state, what it is fed and its key, and nothing else."
    with promised("the same bits whether updates are sent together or apart", remedy):
        chex.assert_trees_all_equal(*jax.device_get(((one, loss), (state, np.concatenate(parts)))))
    moved = not same(s.trainer.init().params, one.params)
    require(moved, "parameters that an update changes", "the same as at the start", "Apply the gradients.")


def _acting(s: Sample) -> None:
    actions, _, _ = s.played
    spec, kind = s.setting.spec, f"{actions.dtype}{list(actions.shape[1:])}"
    stated = f"{spec.action.compute_dtype}{[ROWS, *spec.action.shape]}"
    require(kind == stated, f"actions {stated}", kind, "One action a row.")
    check_actions(spec, actions, "Correct them.")


def _rows(s: Sample) -> None:
    actions, turned, _ = s.played
    require(
        np.array_equal(actions[:, ::-1], turned),
        "each row's actions to follow from its own steps and keys",
        "others where the rows stand in another order",
        "Nothing may mix rows.",
    )


def _carry(s: Sample) -> None:
    _, _, traces = s.played
    require(traces == 1, "1 trace", traces, "The carry must come out with the shapes and dtypes it had.")


def _played(s: Sample) -> tuple[np.ndarray, np.ndarray, int]:
    """Actions `[T, B]` in a stream of steps of several episodes, rows in both orders, by one program."""
    policy, traces = s.config.policy(s.setting.model), []
    steps = random_steps(dataclasses.replace(s.setting.seen_spec, extra=()), ROWS, 3 * 4, 4)
    params = jax.device_get(s.method.learner.params(s.trainer.init()))  # else the carry would be where they are

    @jax.jit
    def act(params, carry, step, keys):
        traces.append(1)
        if policy.tell is not None:  # of one task, as evaluation tells it
            told = jax.vmap(functools.partial(policy.tell, s.setting.family, take(s.setting.tasks, 0)))
            step = step.replace(extra=step.extra | told(step.observation))
        return policy.act(params, carry, step, keys)

    def stream(order: Callable[[PyTree], PyTree]) -> np.ndarray:
        carry, actions = policy.init(ROWS), []
        for t in range(steps.prev_done.shape[1]):
            keys = jax.random.split(a_key(t), ROWS)
            step = jax.tree.map(lambda x: order(jnp.asarray(x[:, t])), steps)  # noqa: B023
            action, carry = act(params, carry, step, order(keys))
            actions.append(np.asarray(action))
        return np.stack(actions)

    return stream(lambda x: x), stream(lambda x: x[::-1]), len(traces)


CHECKS: dict[str, Callable[[Sample], None]] = {
    "channels are finite": _channels,
    "channels follow from each history alone": _alone,
    "the state counts updates and holds parameters": _state,
    "updates tell their loss and gradient norm": _metrics,
    "updates sent together are updates sent apart": _dispatches,
    "actions are the family's": _acting,
    "rows act independently": _rows,
    "acting is traced once": _carry,
}
