"""CartPole with poles of many lengths and forces of both signs: gymnax through the adapter, from PPO's histories.

Claim    frozen, on 16 held-out carts, return rises in context from 69 of 100 in episode 1 to 98 (95 % interval 96 to
         99) in the last 3 of 30 episodes, sampled actions; the gain is 29 (23 to 36), over tasks and 3 training seeds.
         PPO itself is at 23 after as many steps, 2,876, needs 27,200 for 98, and is at 99 at its end.
Command  ad-jax run gymnax_cartpole seed=0     (1, 2 with --histories of 0; 4 minutes of collecting, 12 of training and
         3 of evaluating, at about a sixth of one CPU core)
Variant  gymnax's CartPole-v1; half the pole's length uniform in 0.25..1 m (0.5 there), force 5..15 N (10 there) to the
         one side or the other with equal chance, drawn once per task; at most 100 steps (`paper`: 500); reward 1 on
         every step. Of the held-out carts 8 have a negative force, of the 64 training ones 34.
Paper    training takes about 14 GB and 27.2 PFLOP (50,000 updates)

Two things to know before reading a curve. Episodes end when the pole falls, so early ones are short, and a window of a
fixed number of steps holds many of them or few. And with a negative force the action that pushed left pushes right:
no policy without a memory balances both kinds, and what a model must find out first is which of them it is in. A few
steps show it, so the first episode is already better than a random policy's (about 22).

Observations are divided by what each of them is like in a balanced episode (`scale`), because an angle of 0.05 rad
beside embeddings of size 1 is hard to see, for the source's network and for the transformer.
"""

import dataclasses

from ad_jax.envs.gymnax_adapter import Gymnax
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

POLES = Gymnax(
    env_id="CartPole-v1",
    vary={"length": (0.25, 1.0), "force_mag": (5.0, 15.0, "signed")},
    scale=(1.0, 1.0, 0.1, 1.0),  # m, m/s, rad, rad/s
    steps=100,
)
LEARNER = PPO(
    actors=8,
    unroll=32,
    epochs=8,
    minibatches=2,
    hidden=(32, 32),
    learning_rate=1e-3,
    discount=0.98,
    trace_decay=0.8,
    decay_updates=250.0,  # a lifetime at `cpu` scale; without it a policy that balances is now and then lost again
)


def config(scale: str = "cpu") -> Experiment:
    """`cpu`: the claim above. `demo`: half of its training, by Muon, and no lower return.

    `smoke`: every part in seconds, learns nothing. `paper`: all 500 steps, more tasks.
    """
    cpu = Experiment(
        name="gymnax_cartpole",
        env=POLES,
        source=LEARNER,
        model=Transformer(layers=3, width=64, heads=4, window=200),
        tasks=TaskConfig(train=64, held_out=16),
        collect=CollectConfig(seeds=1, episodes=80, chunk_learners=64),
        replay=ReplayConfig(keep_every=15, phases=15, segment=200, batch=32),
        method=Distillation(updates=600, learning_rate=4e-3, warmup_updates=50),
        evaluate=EvaluateConfig(episodes=30, seeds=4, source_seeds=4),
    )
    demo = dataclasses.replace(
        cpu,
        model=dataclasses.replace(cpu.model, layers=2),
        method=dataclasses.replace(cpu.method, updates=450, optimizer="muon", learning_rate=0.02),
    )
    little = dataclasses.replace(
        cpu,
        env=dataclasses.replace(POLES, steps=20),
        source=dataclasses.replace(LEARNER, actors=2, unroll=10, epochs=2, hidden=(8,)),
        model=smoke.MODEL,
        tasks=TaskConfig(train=4, held_out=2),
        collect=CollectConfig(seeds=1, episodes=8, chunk_learners=4),
        replay=ReplayConfig(keep_every=2, segment=20, batch=8),
        method=smoke.training(updates=4, evaluate_episodes=2),
        evaluate=EvaluateConfig(episodes=2, seeds=2, episodes_per_dispatch=2, source_seeds=2),
    )
    paper = dataclasses.replace(
        cpu,
        env=dataclasses.replace(POLES, steps=500),
        model=Transformer(layers=4, width=64, heads=4, window=1000, token_mask=0.3),
        source=dataclasses.replace(LEARNER, decay_updates=1562.0),
        tasks=TaskConfig(train=512, held_out=64),
        collect=CollectConfig(seeds=1, episodes=100, chunk_learners=128),
        replay=ReplayConfig(keep_every=10, phases=10, segment=1000, batch=128),
        method=Distillation(updates=50_000, learning_rate=3e-4),
        evaluate=EvaluateConfig(episodes=100, seeds=8),
    )
    return {"cpu": cpu, "demo": demo, "smoke": little, "paper": paper}[scale]
