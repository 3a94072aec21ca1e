"""Adversarial bandit: trained on tasks whose good arm is odd, tested on tasks whose good arm is even, from UCB's
lifetimes.

Claim    frozen, on held-out tasks, it earns at least 0.97 of what UCB earns above a random policy in 100 pulls where
         the good arm is odd as in training, and at least 0.84 where it is even. Measured, sampled actions, 3 training
         seeds, 256 tasks a set: odd 0.990 (95 % interval 0.978 to 1.002), even 0.999 (0.987 to 1.012), uniform 0.980
         (0.964 to 1.000). Laskin et al. 2022, figure 3, read by eye: 0.99, 0.84 and 0.87.
Command  ad-jax run bandit_adversarial seed=0     (1, 2; 18 minutes each, at about a sixth of one CPU core)
Variant  10 arms, 100 pulls, Bernoulli rewards, uniform means, the good arm odd in 95 % of training tasks: see
         ad_jax/envs/bandit.py. UCB with c = 1/2, what UCB1-Tuned uses for an arm of the largest variance; it earns 78
         of 100 where a random policy earns 49 and the best arm 91. With UCB1's own c of sqrt(2) it would earn 63.
Paper    training takes about 4.3 GB and 14.6 PFLOP (50,000 updates)

A pull is an episode, and a window holds a whole lifetime. The score is (r - r_random) / (r_UCB - r_random) of the sums
over 100 pulls, "share of the source's gain" in the report; UCB learns the same held-out tasks.
"""

import dataclasses

from ad_jax.envs.bandit import Bandit
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
from ad_jax.sources.ucb import UCB
from ad_jax.study import Arm, Study
from ad_jax.study.claims import Claim, at_least, at_most, near, quantity


def config(scale: str = "cpu") -> Experiment:
    """`cpu`: the claim above. `demo`: a third of its training, by Muon, and the same return.

    `smoke`: every part in seconds, learns nothing. `paper`: the paper's own model.
    """
    cpu = Experiment(
        name="bandit_adversarial",
        env=Bandit(arms=10, reward="bernoulli", tasks="adversarial"),
        source=UCB(exploration=0.5),
        # No token masking: a hidden pull is missing from the counts that UCB acts on.
        model=Transformer(layers=3, width=64, heads=4, window=100),
        tasks=TaskConfig(train=8192, held_out=256),
        collect=CollectConfig(seeds=1, episodes=100, chunk_learners=512),
        replay=ReplayConfig(segment=100, batch=64),  # whole lifetimes: every window starts at the first pull
        method=Distillation(updates=1000, learning_rate=6e-3, warmup_updates=50),
        evaluate=EvaluateConfig(episodes=100, seeds=2, episodes_per_dispatch=100, source_seeds=2),
    )
    demo = dataclasses.replace(
        cpu,
        model=dataclasses.replace(cpu.model, layers=2),
        replay=dataclasses.replace(cpu.replay, batch=32),
        method=dataclasses.replace(cpu.method, updates=1000, optimizer="muon", learning_rate=0.02),
    )
    little = dataclasses.replace(
        cpu,
        model=smoke.MODEL,
        tasks=TaskConfig(train=32, held_out=4),
        collect=CollectConfig(seeds=1, episodes=20, chunk_learners=32),
        replay=ReplayConfig(segment=20, batch=16),
        method=smoke.training(),
        evaluate=EvaluateConfig(episodes=20, seeds=2, episodes_per_dispatch=10, source_seeds=2),
    )
    paper = dataclasses.replace(
        cpu,
        model=Paper(window=100, token_mask=0.0, attention_dropout=0.0),
        tasks=TaskConfig(train=100_000, held_out=256),
        collect=CollectConfig(seeds=1, episodes=100, chunk_learners=4096),
        replay=ReplayConfig(segment=100, batch=128),
        method=Distillation(updates=50_000, learning_rate=3e-4, b2=0.99, weight_decay=0.0),
        evaluate=EvaluateConfig(episodes=100, seeds=20, episodes_per_dispatch=100),
    )
    return {"cpu": cpu, "demo": demo, "smoke": little, "paper": paper}[scale]


def study(scale: str = "cpu") -> Study:
    """Figure 3: AD beside expert distillation and RL², on odd arms as in training, and on even ones."""
    ad = config(scale)
    arms = {
        "AD": Arm(ad),
        "ED": Arm(expert(scale)),
        "RL2": Arm(reinforced(scale)),
        "Thompson": Arm(override(ad, ["model=thompson"]), seeds=1),
    }

    def score(arm, name):
        return quantity("score", arm, set=name)

    two_sided = "made two-sided after the run; before: at least 0.9"
    kept = 'reworded after the run; before: "AD keeps most of it {}"'
    claims = (
        Claim(
            "AD is near UCB where the good arm is odd",
            "0.99 (Fig. 3)",
            score("AD", "odd"),
            near(1, within=0.1),
            changed=two_sided,
        ),
        Claim(
            "AD has at least four fifths of UCB's gain where the good arm is even",
            "0.84 (Fig. 3)",
            score("AD", "even"),
            at_least(0.8),
            changed=kept.format("where the good arm is even"),
        ),
        Claim(
            "AD has at least four fifths of UCB's gain on uniform tasks",
            "0.87 (Fig. 3)",
            score("AD", "uniform"),
            at_least(0.8),
            changed=kept.format("on uniform tasks"),
        ),
        Claim(
            "RL² is near UCB where the good arm is odd",
            "1.05 (Fig. 3)",
            score("RL2", "odd"),
            near(1, within=0.1),
            "It is better by a quarter, and is not where nothing can be known before (0.99 on uniform tasks): trained "
            "where 95 % of the good arms are odd, it knows that, as UCB and Thompson sampling (1.00) do not.",
            two_sided,
        ),
        Claim(
            "RL² falls to a random policy or below where the good arm is even",
            "-0.48 (Fig. 3)",
            score("RL2", "even"),
            at_most(0.2),
            "One training task in twenty has its good arm on the even side, and a policy that is paid for whole trials "
            "learns to look there, too. Stopped at half of UCB's gain on odd arms, it had a fifth of it on even ones.",
        ),
        Claim("Expert distillation is far below UCB on odd arms", "0.49 (Fig. 3)", score("ED", "odd"), at_most(0.7)),
        Claim(
            "Expert distillation falls to a random policy or below on even arms",
            "-0.48 (Fig. 3)",
            score("ED", "even"),
            at_most(0.2),
            changed='reworded after the run, without "or below" before',
        ),
    )
    sets = () if scale == "smoke" else ("odd", "even", "uniform")
    return Study("bandit_adversarial", "Adversarial bandit (Fig. 3)", arms, claims, sets=sets)


def reinforced(scale: str = "cpu") -> Experiment:
    """RL² over trials of a whole lifetime of pulls, on the same training tasks."""
    width, hidden, mlp_width, updates = {
        "cpu": (16, 96, 64, 300),
        "smoke": (8, 8, 8, 2),
        "paper": (64, 256, 256, 39_062),
    }[scale]
    model = LSTM(width=width, hidden=hidden, mlp_width=mlp_width, value_head=True)
    ad = config(scale)
    trials = {"trial_episodes": ad.evaluate.episodes, "minibatches": 4, "discount": 0.98, "reward_scale": 0.1}
    trials |= {"entropy_cost": 0.01, "entropy_cost_end": 0.0}
    method = RL2(**trials, updates=updates, trials=8 if scale == "smoke" else 256)  # `paper`: 1e9 steps
    return dataclasses.replace(ad, model=model, method=method, evaluate=ad.evaluate)


def expert(scale: str = "cpu") -> Experiment:
    """Expert distillation: the end of lifetimes a hundred times as long, by which UCB explores no more."""
    ad = config(scale)
    lifetime = ad.collect.episodes
    longer = [f"collect.episodes={100 * lifetime}", "replay.tail=0.01", "method.updates=300"]
    ed = override(ad, longer if scale != "smoke" else [f"collect.episodes={2 * lifetime}", "replay.tail=0.5"])
    # What the score compares with is what it is for AD: UCB's first pulls.
    return dataclasses.replace(ed, reference=ReferenceConfig(ad.source, ad.evaluate.episodes))
