"""Dark Room (Hard): 17x17 cells, the goal pays once an episode; learned in context on goals never trained on.

Claim    frozen, on 58 held-out goals, return rises in context from 0.04 to at least 0.65 of 1 in the last 40 of 400
         episodes, sampled actions; measured 0.92 (95 % interval 0.89 to 0.94, over goals and 3 training seeds: 0.91,
         0.91 and 0.93). Laskin et al. 2022, Fig. 4: 0.68 after 1000 episodes.
Command  ad-jax run dark_room_hard seed=0     (1, 2; 9 minutes each on one CPU core)
Variant  20 steps, start in the center, reward 1 at the goal once an episode, observation = own position (the paper's).
         Histories are of a noisy oracle, 30 episodes each, every one kept: no reinforcement learning. In 13 million
         steps RL² learns nothing here (0.04 at the end, as a random policy); the paper's had a thousand million.
Paper    training takes about 3.5 GB and 11.4 PFLOP (50,000 updates)
"""

import dataclasses

from ad_jax.envs.dark_room_hard import DarkRoomHard
from ad_jax.experiment import (
    CollectConfig,
    EvaluateConfig,
    Experiment,
    ReplayConfig,
    TaskConfig,
    override,
    smoke,
)
from ad_jax.methods.distillation import Distillation
from ad_jax.methods.rl2 import RL2
from ad_jax.models.lstm import LSTM
from ad_jax.models.transformer import Paper, Transformer
from ad_jax.sources.actor_critic import ActorCritic
from ad_jax.sources.noisy_oracle import NoisyOracle
from ad_jax.study import Arm, Study
from ad_jax.study.claims import Claim, at_least, at_most, near, quantity


def config(scale: str = "cpu") -> Experiment:
    """`cpu`: for a few cores. `demo`: a sixth of its training, by Muon, and the same return.

    `smoke`: every part in seconds, learns nothing. `paper`: the paper's own model.
    """
    cpu = Experiment(
        name="dark_room_hard",
        env=DarkRoomHard(),
        source=NoisyOracle(noise_episodes=22.0, persistence=3.0),
        model=Transformer(layers=4, width=64, heads=4, window=80, token_mask=0.1),
        tasks=TaskConfig(train=231, held_out=58),
        collect=CollectConfig(seeds=32, episodes=30, chunk_learners=231),
        replay=ReplayConfig(keep_every=1, segment=80, batch=64),
        method=Distillation(updates=3000, learning_rate=8e-3, warmup_updates=100, evaluate_every=500),
        evaluate=EvaluateConfig(episodes=400, seeds=4, source_seeds=4),
    )
    demo = dataclasses.replace(
        cpu,
        model=dataclasses.replace(cpu.model, layers=2),
        replay=dataclasses.replace(cpu.replay, batch=32),
        method=dataclasses.replace(cpu.method, updates=2000, optimizer="muon", learning_rate=0.02),
    )
    little = dataclasses.replace(
        cpu,
        tasks=TaskConfig(train=24, held_out=4),
        model=dataclasses.replace(smoke.MODEL, layers=2),
        collect=CollectConfig(seeds=2, episodes=20, chunk_learners=24),
        replay=ReplayConfig(keep_every=2, segment=40, batch=16),
        method=smoke.training(),
        evaluate=EvaluateConfig(episodes=4, seeds=2, episodes_per_dispatch=2, source_seeds=2),
    )
    paper = dataclasses.replace(
        cpu,
        model=Paper(window=80, token_mask=0.5, attention_dropout=0.0),
        source=ActorCritic(actors=100),
        # 23,100 histories, every actor of a learner on each task; the paper has 2000.
        collect=CollectConfig(seeds=1, episodes=1000, chunk_learners=77),
        replay=ReplayConfig(keep_every=10, segment=80, batch=128),
        method=Distillation(updates=50_000, learning_rate=3e-4, b2=0.99, weight_decay=0.0, label_smoothing=0.2),
        evaluate=EvaluateConfig(episodes=1000, seeds=20, source_seeds=2),
    )
    return {"cpu": cpu, "demo": demo, "smoke": little, "paper": paper}[scale]


def study(scale: str = "cpu") -> Study:
    """Figure 4, Dark Room (Hard): AD beside expert distillation and RL²."""
    ad = config(scale)
    arms = {"AD": Arm(ad), "ED": Arm(expert(scale)), "RL2": Arm(reinforced(scale))}
    claims = (
        Claim(
            "AD improves in context on held-out goals",
            "from 0.03 to 0.68 of 1 (Fig. 4)",
            quantity("final", "AD") - quantity("first", "AD"),
            at_least(0.6),
        ),
        Claim(
            "AD ends near RL²",
            "0.68 beside 0.70 of 1 (Fig. 4)",
            quantity("ratio", "AD") - quantity("ratio", "RL2"),
            near(0, within=0.05),
            "RL² did not learn: with 12.8 million steps of training it stays at a random policy's return, so this "
            "says nothing about a good RL².",
            "made two-sided after the run; before: at least -0.05",
        ),
        Claim(
            "Expert distillation does not improve", "ends at 0.07 of 1 (Fig. 4)", quantity("final", "ED"), at_most(0.15)
        ),
    )
    return Study("dark_room_hard", "Dark Room, hard (Fig. 4)", arms, claims)


def reinforced(scale: str = "cpu") -> Experiment:
    """RL² over trials of 20 episodes, the gradient reaching back 10, on the same training tasks."""
    width, hidden, mlp_width, updates = {
        "cpu": (16, 128, 64, 500),
        "smoke": (8, 8, 8, 2),
        "paper": (64, 256, 256, 78_125),
    }[scale]
    model = LSTM(width=width, hidden=hidden, mlp_width=mlp_width, numeric_observations=True, value_head=True)
    trials = {"trial_episodes": 20, "unroll_episodes": 10, "discount": 0.98, "random_steps": 3, "entropy_cost": 0.02}
    method = RL2(**trials, updates=updates, trials=8 if scale == "smoke" else 64)  # `paper`: 1e9 steps
    ad = config(scale)
    return dataclasses.replace(
        ad, model=model, method=method, evaluate=dataclasses.replace(ad.evaluate, source_seeds=0)
    )


def expert(scale: str = "cpu") -> Experiment:
    """Expert distillation: the same training, on the last fifth of the same histories."""
    ad = config(scale)
    last = ["replay.tail=0.2", f"replay.segment={min(ad.replay.segment, 80)}", "evaluate.source_seeds=0"]
    if scale == "smoke":
        last = ["replay.tail=0.5", "replay.segment=40", "evaluate.source_seeds=0"]
    return override(ad, last)
