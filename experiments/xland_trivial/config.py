"""XLand-MiniGrid: which of the objects in a grid is the goal, and what is to be done with it; PPO's histories.

Claim    frozen, on held-out rulesets, return in the last tenth of 60 episodes is at least 1.5 times that of the first
         tenth. Not run to its end yet.
Command  ad-jax run xland_trivial seed=0     (pip install 'ad_jax[xland]' first)
Variant  XLand-MiniGrid-R1-9x9, rulesets made here without a download, of the kind of its benchmark `trivial`: to stand
         before an object or to hold it, among five, no rules; where they lie is drawn anew in each episode; 40 steps;
         the goal pays 1 - 0.9 * (steps taken / 40) and ends the episode; a view of 5 x 5 cells, and what is held.
Paper    training takes about 47 GB and 25.4 PFLOP (50,000 updates)
"""

import dataclasses

from ad_jax.envs.outside.xland import XLand
from ad_jax.experiment import (
    CollectConfig,
    EvaluateConfig,
    Experiment,
    ReplayConfig,
    TaskConfig,
    smoke,
)
from ad_jax.methods.distillation import Distillation
from ad_jax.models.transformer import Transformer
from ad_jax.sources.ppo import PPO

LEARNER = PPO(
    actors=8,
    unroll=80,
    epochs=4,
    minibatches=4,
    hidden=(64, 64),
    learning_rate=2e-3,
    discount=0.97,
    trace_decay=0.9,
    entropy_cost=0.01,
    decay_updates=200.0,  # a lifetime of 400 episodes of 40 steps
)


def config(scale: str = "cpu") -> Experiment:
    """`cpu`: the claim above. `smoke`: every part in seconds, learns nothing. `paper`: more of everything; not run."""
    world = XLand(steps=40, layout="episode", goals=("near", "hold"), distractors=3)
    cpu = Experiment(
        name="xland_trivial",
        env=world,
        source=LEARNER,
        model=Transformer(layers=3, width=64, heads=4, window=240),
        tasks=TaskConfig(train=192, held_out=32),
        collect=CollectConfig(seeds=1, episodes=400, chunk_learners=64),
        replay=ReplayConfig(keep_every=12, phases=12, segment=240, batch=32),
        method=Distillation(updates=1500, optimizer="muon", learning_rate=0.01, warmup_updates=50),
        evaluate=EvaluateConfig(episodes=60, seeds=4, source_seeds=2),
    )
    little = dataclasses.replace(
        cpu,
        env=dataclasses.replace(world, steps=10),
        source=dataclasses.replace(LEARNER, actors=2, unroll=10, epochs=2, minibatches=2, hidden=(8,)),
        model=smoke.MODEL,
        tasks=TaskConfig(train=4, held_out=2),
        collect=CollectConfig(seeds=1, episodes=8, chunk_learners=4),
        replay=ReplayConfig(keep_every=2, segment=20, batch=8),
        method=smoke.training(updates=4, evaluate_episodes=2),
        evaluate=EvaluateConfig(episodes=2, seeds=2, episodes_per_dispatch=2, source_seeds=1),
    )
    paper = dataclasses.replace(
        cpu,
        env=XLand(steps=80, layout="episode"),
        model=Transformer(layers=4, width=64, heads=4, window=960, token_mask=0.3),
        tasks=TaskConfig(train=1024, held_out=64),
        collect=CollectConfig(seeds=1, episodes=1000, chunk_learners=128),
        replay=ReplayConfig(keep_every=12, phases=12, segment=960, batch=128),
        method=Distillation(updates=50_000, learning_rate=3e-4),
        evaluate=EvaluateConfig(episodes=100, seeds=8),
    )
    return {"cpu": cpu, "smoke": little, "paper": paper}[scale]
