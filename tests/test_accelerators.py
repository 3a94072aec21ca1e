"""Every compiled part lowers for CUDA and for TPU on a machine that has neither.

A part is traced once, at tiny sizes, and lowered for each platform; nothing is compiled or run. That finds what has no
rule there, a callback to the host, and a shape that only the CPU's rule takes. What a device then makes of the program
it does not find: its compiler, its memory, its numbers.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import mesh_of

from ad_jax import methods, models, sources
from ad_jax.envs.bandit import Bandit
from ad_jax.envs.base import TaskFamily, seen_spec_of, spec_of
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.envs.point_mass import PointMass
from ad_jax.envs.watermaze import Watermaze
from ad_jax.history import replay
from ad_jax.keys import a_key
from ad_jax.methods.actor_learner import ActorLearner
from ad_jax.methods.base import MethodConfig, Setting
from ad_jax.methods.decision_transformer import DecisionTransformer
from ad_jax.methods.diffuser import Asked, Diffuser
from ad_jax.methods.distillation import Distillation
from ad_jax.methods.dpt import DPT
from ad_jax.methods.gato import Gato
from ad_jax.methods.multi_game_dt import MultiGameDT
from ad_jax.methods.offline_distillation import OfflineDistillation
from ad_jax.methods.on_policy_distillation import OnPolicyDistillation
from ad_jax.methods.policy_distillation import PolicyDistillation
from ad_jax.methods.rl2 import RL2
from ad_jax.methods.tap import TAP
from ad_jax.methods.teacher import Teacher
from ad_jax.methods.trajectory_transformer import Planning, TrajectoryTransformer
from ad_jax.models.base import ModelConfig
from ad_jax.models.dpt import DPTModel
from ad_jax.models.lstm import LSTM
from ad_jax.models.transformer import Paper, Transformer
from ad_jax.planning.residents import subsampled
from ad_jax.policies.base import from_model
from ad_jax.policies.demonstrator import Prompt
from ad_jax.sources.actor_critic import ActorCritic
from ad_jax.sources.base import SourceConfig
from ad_jax.sources.dqn import DQN
from ad_jax.sources.noisy_oracle import NoisyOracle
from ad_jax.sources.ppo import PPO
from ad_jax.sources.primal_dual import PrimalDual
from ad_jax.sources.q_learning import QLearning
from ad_jax.sources.ucb import UCB
from ad_jax.stage.collect import Collector
from ad_jax.stage.feeds import feed_of
from ad_jax.stage.rollout import make_evaluator
from ad_jax.stage.trainer import Trainer

PLATFORMS = ("cuda", "tpu")
ROOM = DarkRoom(size=3, steps=4)
POINTS = PointMass(steps=4)
POOL = Watermaze(height=12, width=16, steps=4)
SAMPLING = replay.Config(segment=8, batch=8, groups=2)

BLOCKS: dict[str, Any] = {"layers": 1, "width": 16, "heads": 2, "mlp_width": 16, "window": 8}
EYES: dict[str, Any] = {"pixel_channels": (4, 4), "pixel_width": 8}
ROLL: dict[str, Any] = {"actors": 2, "unroll": 4, "hidden": (4,)}
DEEP_Q = DQN(**ROLL, capacity=8, warmup=4, gradient_steps=2, batch=2, sequence=2, channels=(2, 2))


class Program(NamedTuple):
    """Something jitted, and arguments of it, or their shapes."""

    jitted: Any
    arguments: tuple


def lowered(program: Program) -> str:
    """Return the text of a program that carries what each of the platforms takes, as an exported one does.

    What asks the host is refused here, too: such a program is of one platform.
    """
    traced = program.jitted.trace(*program.arguments)
    return traced.lower(lowering_platforms=PLATFORMS).as_text()


def keys(count: int) -> Any:
    return jax.eval_shape(lambda: jax.random.split(a_key(0), count))


def tasks_of(family: TaskFamily, count: int = 4) -> Any:
    return jax.tree.map(lambda x: np.stack([np.asarray(x)] * count), family.default_params)


def collecting(source: SourceConfig, family: TaskFamily, **options: bool) -> Program:
    """Return lifetimes of two learners."""
    collector = Collector(family, source.make(family), 2, mesh_of(), 2, **options)
    return Program(collector.jitted, (keys(2), tasks_of(family, 2)))


def setting_of(model: ModelConfig, family: TaskFamily, method: MethodConfig | None = None) -> Setting:
    spec, seen, bound, tasks = spec_of(family), seen_spec_of(family), model.bind(family), tasks_of(family)
    method = method or Distillation()
    channels = method.channels(family, spec).items()
    extra = tuple((name, channel.shape) for name, channel in channels if channel.seen)
    seen, teacher = dataclasses.replace(seen, extra=extra), None
    if method.taught_by() is not None:
        taught = Transformer(**BLOCKS).make(seen)
        teacher = Teacher("", taught, taught.init(a_key(1)), seen, 1.0, frozenset(family.task_ids(tasks)))
    made = method.bind(family, tasks).model(bound, seen)
    return Setting(family, made, bound, spec, seen, tasks, SAMPLING, mesh_of(), teacher=teacher)


def resident(method: MethodConfig, family: TaskFamily) -> replay.Replay:
    """Shapes of four histories of eight episodes on the devices."""
    columns = method.columns(family, spec_of(family))
    return subsampled(columns, 4, 8 * family.episode_length, family.episode_length, SAMPLING)


def trainer_of(method: MethodConfig, model: ModelConfig, family: TaskFamily) -> Trainer:
    setting = setting_of(model, family, method)
    return Trainer(method.make(setting).learner, feed_of(method, setting), method, setting.mesh, 0)


def training(method: MethodConfig, model: ModelConfig, family: TaskFamily = ROOM) -> Program:
    """Return the loop over the updates of a dispatch."""
    trainer = trainer_of(method, model, family)
    fed = trainer.feed.tasks if method.feed == "tasks" else resident(method, family)
    return Program(trainer.loop, (trainer.abstract_state, fed, jax.ShapeDtypeStruct((), jnp.int32), trainer.seed))


def evaluating(model: ModelConfig, family: TaskFamily = ROOM, mode: Any = "sampled", part: str = "run") -> Program:
    """Return rollouts of two lifetimes, an episode each; or how they start, or are looked at step by step."""
    made = setting_of(model, family).model
    evaluator = make_evaluator(from_model(made, mode), family, mesh_of(), 2, family.episode_length)
    return _rollouts(evaluator, jax.eval_shape(made.init, a_key(0)), family, part)


def _rollouts(evaluator: Any, params: Any, family: TaskFamily, part: str) -> Program:
    fixed = keys(2), tasks_of(family, 2)
    if part == "start":
        return Program(evaluator.start, fixed)
    return Program(evaluator.run, (params, jax.eval_shape(evaluator.start, *fixed), *fixed))


def prompted() -> Program:
    """Return rollouts whose context a demonstrator fills."""
    made = setting_of(Transformer(**BLOCKS), ROOM).model
    evaluator = make_evaluator(from_model(made), ROOM, mesh_of(), 2, 4, Prompt(0.5, 1))
    return _rollouts(evaluator, jax.eval_shape(made.init, a_key(0)), ROOM, "run")


def planning() -> Program:
    """Return rollouts of a diffuser that is told each task's goal."""
    method = Diffuser(acting=Asked(goal="task")).bind(ROOM, tasks_of(ROOM))
    model = setting_of(Transformer(**BLOCKS), ROOM, method).model
    evaluator = make_evaluator(method.policy(model), ROOM, mesh_of(), 2, 4)
    return _rollouts(evaluator, jax.eval_shape(model.init, a_key(0)), ROOM, "run")


def searching() -> Program:
    """Return rollouts whose every decision is a beam search."""
    method = dataclasses.replace(PLANNER, observation_bounds=None).bind(ROOM, tasks_of(ROOM))
    made = setting_of(Transformer(**BLOCKS), ROOM, method).model
    evaluator = make_evaluator(method.policy(made), ROOM, mesh_of(), 2, ROOM.episode_length)
    return _rollouts(evaluator, jax.eval_shape(made.init, a_key(0)), ROOM, "run")


def sampling(family: TaskFamily) -> Program:
    """Return a batch of windows."""
    spec, mesh = spec_of(family), mesh_of()
    draw = jax.jit(lambda held, key: replay.sample(held, key, spec, SAMPLING, mesh, family.render))
    return Program(draw, (resident(Distillation(), family), jax.eval_shape(lambda: a_key(0))))


def born(method: MethodConfig, model: ModelConfig) -> Program:
    """Return what training starts from."""
    trainer = trainer_of(method, model, ROOM)
    return Program(jax.jit(trainer.learner.init), (trainer.seed, trainer.feed.tasks))


COLLECTING = {
    "q_learning": (QLearning(), ROOM),
    "ucb": (UCB(), Bandit(arms=3)),
    "noisy_oracle": (NoisyOracle(persistence=2.0, optimality=0.5), ROOM),
    "actor_critic": (ActorCritic(**ROLL), ROOM),
    "ppo": (PPO(**ROLL, epochs=2, minibatches=2), ROOM),
    "primal_dual": (PrimalDual(**ROLL, epochs=2), ROOM),
    "dqn": (DEEP_Q, ROOM),
    "actor_critic, real actions": (ActorCritic(**ROLL), POINTS),
    "ppo, real actions": (PPO(**ROLL, epochs=2, minibatches=2), POINTS),
    "dqn, pictures": (DEEP_Q, POOL),
}
SHORT: dict[str, Any] = {"updates": 4, "updates_per_dispatch": 2}
TAUGHT: dict[str, Any] = {**SHORT, "warmup_updates": 2}
PLANNER = TrajectoryTransformer(**TAUGHT, observation_bounds=(2.0,), acting=Planning(2, 2, 2))
TRIALS = RL2(**SHORT, trial_episodes=2, trials=4)
TRAINING = {
    "distillation, transformer": (Distillation(**TAUGHT), Transformer(**BLOCKS)),
    "distillation, bfloat16 in parts, recomputed": (
        Distillation(**TAUGHT, accumulate=2, optimizer="muon"),
        Transformer(**BLOCKS, compute_dtype="bfloat16", remat=True),
    ),
    "distillation, paper": (Distillation(**TAUGHT), Paper(**BLOCKS)),
    "distillation, fused attention": (Distillation(**TAUGHT), Transformer(**BLOCKS, attention="fused")),
    "distillation, lstm": (Distillation(**TAUGHT), LSTM(width=8, hidden=8, mlp_width=8)),
    "distillation, real actions": (Distillation(**TAUGHT), Transformer(**BLOCKS), POINTS),
    "distillation, real actions, mixture": (Distillation(**TAUGHT), LSTM(8, action_head="mixture"), POINTS),
    "distillation, pictures": (Distillation(**TAUGHT), Transformer(**BLOCKS, **EYES), POOL),
    "decision_transformer, episodes alone": (
        DecisionTransformer(**TAUGHT),
        Transformer(**BLOCKS, memory="episode", gate="gru"),
    ),
    "gato": (Gato(**TAUGHT), Transformer(**BLOCKS)),
    "multi_game_dt": (MultiGameDT(**TAUGHT), Transformer(**BLOCKS)),
    "diffuser": (Diffuser(**TAUGHT), Transformer(**BLOCKS)),
    "diffuser, pictures": (Diffuser(**TAUGHT), Transformer(**BLOCKS), POOL),
    "offline_distillation, lstm": (OfflineDistillation(**TAUGHT), LSTM(width=8, hidden=8, mlp_width=8)),
    "on_policy_distillation, lstm": (
        OnPolicyDistillation(**TAUGHT, lifetimes=4, lifetime_episodes=2),
        LSTM(width=8, hidden=8, mlp_width=8),
    ),
    "policy_distillation": (
        PolicyDistillation(**TAUGHT, task_scale=(1.0, 1.0), features=0.1, feature_width=4),
        Transformer(**BLOCKS),
    ),
    "dpt, dpt": (DPT(**TAUGHT), DPTModel(**BLOCKS)),
    "trajectory_transformer, real actions": (PLANNER, Transformer(**BLOCKS), POINTS),
    "tap, lstm": (TAP(**TAUGHT), LSTM(width=8, hidden=8, mlp_width=8)),
    "rl2, lstm": (TRIALS, LSTM(width=8, hidden=8, mlp_width=8, value_head=True)),
    "actor_learner, lstm": (
        ActorLearner(**SHORT, trial_episodes=2, trials=4, learner=Transformer(**BLOCKS, gate="gru", value_head=True)),
        LSTM(width=8, hidden=8, mlp_width=8, value_head=True),
    ),
    "rl2, gated transformer": (TRIALS, Transformer(**BLOCKS, gate="gru", value_head=True)),
}
EVALUATING = {
    "transformer": (Transformer(**BLOCKS),),
    "transformer, exact context": (Transformer(**BLOCKS, exact_context=True),),
    "paper": (Paper(**BLOCKS),),
    "lstm": (LSTM(width=8, hidden=8, mlp_width=8),),
    "dpt, likeliest": (DPTModel(**BLOCKS), ROOM, "greedy"),
    "transformer, real actions": (Transformer(**BLOCKS), POINTS),
    "transformer, pictures": (Transformer(**BLOCKS, **EYES), POOL),
    "the start": (Transformer(**BLOCKS), ROOM, "sampled", "start"),
}
PARTS: dict[str, Callable[[], Program]] = {
    **{f"collecting: {name}": functools.partial(collecting, *of) for name, of in COLLECTING.items()},
    "collecting: what each action led to": functools.partial(collecting, QLearning(), ROOM, next_observation=True),
    **{f"training: {name}": functools.partial(training, *of) for name, of in TRAINING.items()},
    "training: the start, rl2": functools.partial(born, *TRAINING["rl2, lstm"]),
    **{f"evaluating: {name}": functools.partial(evaluating, *of) for name, of in EVALUATING.items()},
    "evaluating: prompted": prompted,
    "evaluating: plans": planning,
    "evaluating: beams": searching,
    "sampling: steps": functools.partial(sampling, ROOM),
    "sampling: pictures": functools.partial(sampling, POOL),
}
# What the default suite leaves to the slow one: these differ from others in a choice that others make, too.
SLOW = {
    "collecting: dqn, pictures",
    "collecting: ppo",
    "collecting: actor_critic, real actions",
    "collecting: what each action led to",
    "training: distillation, transformer",
    "training: distillation, fused attention",
    "training: distillation, real actions",
    "training: distillation, real actions, mixture",
    "training: the start, rl2",
    "evaluating: transformer, exact context",
    "evaluating: prompted",
}
assert PARTS.keys() > SLOW


@pytest.mark.parametrize(
    "part", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in PARTS]
)
def test_every_compiled_part_lowers_for_accelerators(part):
    assert lowered(PARTS[part]())


def test_everything_that_is_registered_is_among_the_parts():
    """Expert distillation is distillation of the histories' ends, which are chosen on the host: one program."""
    assert {name.split(",")[0] for name in COLLECTING} == set(sources.SOURCES)
    assert {name.split(",")[0] for name in TRAINING} == set(methods.METHODS)
    assert {type(model) for _, model, *_ in TRAINING.values()} == {type(models.make(name)) for name in models.MODELS}
    assert {type(model) for model, *_ in EVALUATING.values()} == {type(models.make(name)) for name in models.MODELS}


def test_what_a_platform_has_no_rule_for_is_found():
    """Or the tests above could not fail; and programs are those of the platforms, not of this machine."""
    with pytest.raises(NotImplementedError, match="eig"):
        lowered(Program(jax.jit(jnp.linalg.eigvals), (jnp.eye(2),)))
    factor = Program(jax.jit(jnp.linalg.cholesky), (jnp.eye(2),))
    assert "cusolver" in lowered(factor) and "lapack" not in lowered(factor)
    with pytest.raises(NotImplementedError, match="callback"):
        lowered(Program(jax.jit(lambda x: jax.pure_callback(np.sin, x, x)), (jnp.float32(0),)))
