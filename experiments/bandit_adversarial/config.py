"""Adversarial bandit: trained on tasks whose good arm is odd, tested on tasks whose good arm is even, from UCB's lives.

Claim    tbd
Command  ad-jax run bandit_adversarial
Variant  tbd
"""

import dataclasses

from ad_jax.experiment import (
    CollectConfig,
    DistillConfig,
    EvaluateConfig,
    Experiment,
    Plugin,
    ReplayConfig,
    TaskConfig,
)


def config(scale: str = "cpu") -> Experiment:
    """`cpu`: the claim above. `smoke`: every part in seconds, learns nothing. `paper`: the paper's own model."""
    cpu = Experiment(
        name="bandit_adversarial",
        env=Plugin("bandit", {"arms": 10, "reward": "bernoulli", "tasks": "adversarial"}),
        source=Plugin("ucb", {"exploration": 0.5}),
        # No token masking: a hidden pull is missing from the counts that UCB acts on.
        model=Plugin("transformer", {"layers": 3, "width": 64, "heads": 4, "window": 100}),
        tasks=TaskConfig(train=8192, held_out=256),
        collect=CollectConfig(seeds=1, episodes=100, chunk_learners=512),
        replay=ReplayConfig(segment=100, batch=64),  # whole lives: every window starts at the first pull
        distill=DistillConfig(updates=1000, learning_rate=6e-3, warmup_updates=50),
        evaluate=EvaluateConfig(episodes=100, seeds=2, episodes_per_dispatch=100, source_seeds=2),
    )
    smoke = dataclasses.replace(
        cpu,
        model=Plugin("transformer", {"layers": 1, "width": 16, "heads": 2, "mlp_width": 32, "window": 20}),
        tasks=TaskConfig(train=32, held_out=4),
        collect=CollectConfig(seeds=1, episodes=20, chunk_learners=32),
        replay=ReplayConfig(segment=20, batch=16),
        distill=DistillConfig(
            updates=8,
            warmup_updates=2,
            checkpoint_every=4,
            updates_per_dispatch=2,
            evaluate_every=4,
            evaluate_episodes=4,
        ),
        evaluate=EvaluateConfig(episodes=20, seeds=2, episodes_per_dispatch=10, source_seeds=2),
    )
    paper = dataclasses.replace(
        cpu,
        model=Plugin("paper", {"window": 100, "token_mask": 0.0, "attention_dropout": 0.0}),
        tasks=TaskConfig(train=100_000, held_out=256),
        collect=CollectConfig(seeds=1, episodes=100, chunk_learners=4096),
        replay=ReplayConfig(segment=100, batch=128),
        distill=DistillConfig(updates=50_000, learning_rate=3e-4, b2=0.99),
        evaluate=EvaluateConfig(episodes=100, seeds=20, episodes_per_dispatch=100),
    )
    return {"cpu": cpu, "smoke": smoke, "paper": paper}[scale]
