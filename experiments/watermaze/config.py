"""Watermaze from pixels: learn to find a platform that no picture shows, in context.

Claim    frozen, on 32 held-out platforms, the share of episodes that reach the platform rises in context from
         0.26 in the first three to at least three times that in the last 16 of 160, and lies above DQN's after as many
         environment steps, however many; measured 0.94 (95 % interval 0.93 to 0.95, over platforms and 3 training
         seeds: 0.95, 0.94 and 0.94), DQN 0.88 at the end. Laskin et al. 2022, Fig. 4: from about 0.3 to 0.84 in 160
         episodes (source 0.998).
Command  ad-jax run watermaze seed=0     (1, 2; 40 minutes each on one CPU core, a third of them DQN's)
Variant  `cpu`: pictures of 24 x 32, start in the center with a fixed heading, reward 1 the first time the platform is
         reached, 50 steps; histories of a noisy oracle that turns and then walks, and so no reinforcement learning.
         RL² has 1.3 million steps of training and is at 0.56 in every episode; the paper's had a thousand million.
         `paper`: 72 x 96, a random heading, histories of DQN. The pool is ours, not DMLab's (docs/envs/watermaze.md).
Paper    training takes about 11 GB and 487 PFLOP (50,000 updates)
"""

import dataclasses

from ad_jax.envs.watermaze import Watermaze
from ad_jax.experiment import (
    CollectConfig,
    EvaluateConfig,
    Experiment,
    ReferenceConfig,
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
from ad_jax.sources.dqn import DQN
from ad_jax.sources.noisy_oracle import NoisyOracle
from ad_jax.study import Arm, Study
from ad_jax.study.claims import Claim, at_least, at_most, near, quantity


def config(scale: str = "cpu") -> Experiment:
    """`cpu`: small pictures and networks. `demo`: a third of its training, by Muon, without the DQN beside it.

    `smoke`: every part, learns nothing. `paper`: not run yet.
    """
    cpu = Experiment(
        name="watermaze",
        # Noise never ends, and lasts: the demonstrator strays from the platform, comes back, and so shows the way from
        # everywhere. It turns and then walks, which can be told from a picture sooner than stepping sideways.
        env=Watermaze(height=24, width=32, heading="fixed", way="facing"),
        source=NoisyOracle(noise_episodes=8.0, noise_end=0.3, persistence=3.0),
        model=Transformer(
            layers=4, width=64, heads=4, window=200, pixel_channels=(64,), pixel_kernel=8, pixel_stride=8
        ),
        tasks=TaskConfig(train=1024, held_out=32),
        collect=CollectConfig(seeds=8, episodes=16, chunk_learners=512),
        replay=ReplayConfig(keep_every=1, segment=200, batch=16),
        method=Distillation(
            updates=4000, learning_rate=8e-3, warmup_updates=100, evaluate_every=500, evaluate_episodes=40
        ),
        evaluate=EvaluateConfig(episodes=160, seeds=4, source_seeds=1),
        # The demonstrator does not learn; this does, in as many environment steps as 160 episodes in context have.
        reference=ReferenceConfig(
            DQN(
                actors=4,
                discount=0.9,
                trace_decay=0.9,
                epsilon_spread=2.0,
                learning_rate=1e-3,
                gradient_steps=8,
                capacity=2000,
                hidden=(64,),
                channels=(8, 16, 16),
            ),
            episodes=40,
        ),
    )
    demo = dataclasses.replace(
        cpu,
        reference=None,
        model=dataclasses.replace(cpu.model, layers=2),
        method=dataclasses.replace(cpu.method, updates=2500, optimizer="muon", learning_rate=0.02),
    )
    little = dataclasses.replace(
        cpu,
        reference=None,
        env=Watermaze(height=24, width=32),
        source=ActorCritic(actors=2, unroll=25, hidden=(16,), channels=(4, 8)),
        model=dataclasses.replace(smoke.MODEL, pixel_channels=(8, 8, 8)),
        tasks=TaskConfig(train=8, held_out=3),
        collect=CollectConfig(seeds=1, episodes=4, chunk_learners=8),
        replay=ReplayConfig(keep_every=2, segment=50, batch=8),
        method=smoke.training(evaluate_episodes=2),
        evaluate=EvaluateConfig(episodes=3, seeds=2, episodes_per_dispatch=3, source_seeds=1),
    )
    paper = dataclasses.replace(
        cpu,
        reference=None,
        env=Watermaze(height=72, width=96),
        source=DQN(
            actors=16,
            unroll=25,
            discount=0.9,
            batch=8,
            sequence=40,
            capacity=6250,  # of each actor: 100,000 in all
            channels=(32, 64, 64),  # of the paper's ResNet, without its residual blocks
        ),
        model=Paper(window=200),
        # 4000 histories, as in the paper: 250 learners of 16 actors. Ten at once: the patches of a gradient step's 320
        # pictures, kept for its backward pass, are 0.4 GB a learner.
        tasks=TaskConfig(train=250, held_out=32),
        collect=CollectConfig(seeds=1, episodes=500, chunk_learners=10),
        replay=ReplayConfig(keep_every=5, segment=200, batch=128),
        # In 16 parts: the activations of the convolutions are what fills the memory.
        method=Distillation(updates=50_000, learning_rate=3e-4, b2=0.99, weight_decay=0.0, accumulate=16),
        # The paper's 20 seeds do not fit: a context that drops its oldest episodes encodes 200 pictures a rollout anew,
        # of all rollouts at once (about 120 GB; with 4 seeds 23 GB).
        evaluate=EvaluateConfig(episodes=160, seeds=4, source_seeds=2),
    )
    return {"cpu": cpu, "demo": demo, "smoke": little, "paper": paper}[scale]


def study(scale: str = "cpu") -> Study:
    """Figure 4, Watermaze: AD beside expert distillation, RL² and DQN."""
    ad = config(scale)
    arms = {"AD": Arm(ad), "ED": Arm(expert(scale)), "RL2": Arm(reinforced(scale))}
    claims = (
        Claim(
            "AD improves in context on held-out platforms",
            "from 0.3 to 0.84 of 1 (Fig. 4)",
            quantity("final", "AD") - quantity("first", "AD"),
            at_least(0.5),
        ),
        Claim(
            "AD ends near RL²",
            "0.84 beside 0.97 of 1 (Fig. 4)",
            quantity("ratio", "AD") - quantity("ratio", "RL2"),
            near(0, within=0.13),
            "RL² hardly learned: with 1.3 million steps of training (the paper's: a thousand million) it is at "
            "0.56 of 1 in every episode.",
            "made two-sided after the run; before: at least -0.13",
        ),
        Claim(
            "Expert distillation does not improve",
            "ends at 0.18 of 1 (Fig. 4)",
            quantity("final", "ED") - quantity("first", "ED"),
            at_most(0.15),
            "It goes back to where the last four episodes show the platform: after one that found it, the next does in "
            "68 % of cases, after one that did not in 18 %, as the first episode (AD: 95 % and 73 %). Its "
            "demonstrators' noise never ends, and shows how to come back.",
        ),
        Claim(
            "AD needs several times fewer environment steps than DQN to a return of 0.75",
            "4,600 beside 16,000, 3.5 times fewer (Fig. 4)",
            quantity("source_steps_to", "AD", 0.75) / quantity("steps_to", "AD", 0.75),
            at_least(2),
        ),
    )
    return Study("watermaze", "Watermaze from pixels (Fig. 4)", arms, claims)


def reinforced(scale: str = "cpu") -> Experiment:
    """RL² over trials of 10 episodes, 30 as in the paper at its scale, on the same training platforms."""
    width, hidden, mlp_width, updates = {
        "cpu": (64, 128, 64, 40),
        "smoke": (8, 8, 8, 2),
        "paper": (256, 256, 256, 10_417),
    }[scale]
    eyes = {
        "cpu": LSTM(pixel_channels=(32,), pixel_kernel=8, pixel_stride=8, pixel_width=64),
        "smoke": LSTM(pixel_channels=(8, 8, 8)),
        "paper": LSTM(pixel_channels=(128, 128, 128)),
    }[scale]
    model = dataclasses.replace(eyes, width=width, hidden=hidden, mlp_width=mlp_width, value_head=True)
    trials = {"trial_episodes": 10, "trials": 8 if scale == "smoke" else 64, "updates_per_dispatch": 2}
    if scale == "paper":  # 1e9 steps
        trials |= {"trial_episodes": 30, "unroll_episodes": 5, "trials": 384}
    method = RL2(**trials, updates=updates, discount=0.97, entropy_cost=0.02, entropy_cost_end=0.005)
    ad = config(scale)
    evaluate = dataclasses.replace(ad.evaluate, source_seeds=0)
    return dataclasses.replace(ad, model=model, method=method, evaluate=evaluate, reference=None)


def expert(scale: str = "cpu") -> Experiment:
    """Expert distillation: a quarter of the training, on the last episodes of the same histories."""
    ad = config(scale)
    updates = [] if scale == "smoke" else [f"method.updates={ad.method.updates // 4}"]
    last = ["replay.tail=0.3", "evaluate.source_seeds=0", "reference=none"]
    return override(ad, [*last, *updates])
