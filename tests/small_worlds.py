"""Three small families with unlike observations and actions, and a mixture of them."""

import dataclasses

from ad_jax.envs.bandit import Bandit
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.envs.point_mass import PointMass
from ad_jax.experiment import (
    CollectConfig,
    EvaluateConfig,
    Experiment,
    Member,
    MeshConfig,
    Mixture,
    ReplayConfig,
    TaskConfig,
)
from ad_jax.methods.distillation import Distillation
from ad_jax.models.transformer import Transformer
from ad_jax.sources.ppo import PPO
from ad_jax.sources.q_learning import QLearning
from ad_jax.sources.ucb import UCB

MODEL = Transformer(layers=1, width=8, heads=2, mlp_width=8, window=8)
METHOD = Distillation(updates=4, warmup_updates=1, updates_per_dispatch=2, checkpoint_every=2)
PLAYED = EvaluateConfig(episodes=2, seeds=1, greedy=False, source_seeds=0)
ONE = MeshConfig(data=1)


def world(name, env, source, seeds: int, episodes: int, segment: int, batch: int = 8) -> Experiment:
    """Return an experiment with eight histories."""
    return Experiment(
        name,
        env,
        source,
        MODEL,
        tasks=TaskConfig(train=8 // seeds, held_out=2),
        collect=CollectConfig(seeds=seeds, episodes=episodes, chunk_learners=8),
        replay=ReplayConfig(segment=segment, batch=batch),
        method=METHOD,
        evaluate=PLAYED,
        mesh=ONE,
    )


ROOM = world("room", DarkRoom(size=3, steps=4), QLearning(), 2, 4, 8)
ARMS = world("arms", Bandit(arms=3, tasks="uniform"), UCB(), 1, 8, 6, 16)
LEARNER = PPO(actors=1, unroll=4, epochs=1, minibatches=1, hidden=(4,))
POINT = world("point", PointMass(steps=4), LEARNER, 1, 4, 8)
WORLDS = Mixture(
    "worlds", [ROOM, Member(POINT, weight=3.0), Member(ARMS, held_out=True)], MODEL, method=METHOD, mesh=ONE
)


def of(*members: Experiment | Member, **changes) -> Mixture:
    """Return a mixture of these members."""
    return dataclasses.replace(WORLDS, envs=members, **changes)
