"""One model over six families, with unlike observations and actions: a shared trunk, and layers of its own for each.

Claim    on held-out tasks of every family, the one model ends at 0.9 of what a model of the same size ends at that was
         trained on that family alone, at least, with as many updates on it. Not run yet.
Command  ad-jax run many_worlds            (the one model, 109 TFLOP: by count about 25 minutes of training on two CPU
         cores, and as much of collecting and evaluating; the comparison, twice that: `ad-jax reproduce many_worlds`)
Variant  Dark Room and its hard form, Key-to-Door, the adversarial bandit, CartPole through gymnax, and the point mass,
         each with the world, source, tasks, histories and evaluation of its own experiment; Q-learning, a noisy oracle,
         UCB and PPO made them. Every update has a batch of each, as large as that experiment's, at equal weights.
Paper    4,722,176 parameters of the trunk, 56,923 of the families' own; 9.63 TFLOP an update, 482 PFLOP in 50,000
"""

import dataclasses

from ad_jax.experiment import Experiment, Member, Mixture, load, override, smoke
from ad_jax.methods.distillation import Distillation
from ad_jax.models.transformer import Transformer
from ad_jax.study import Arm, Study
from ad_jax.study.claims import Claim, at_least, quantity

FAMILIES = ("dark_room", "dark_room_hard", "dark_key_to_door", "bandit_adversarial", "gymnax_cartpole", "point_mass")


def config(scale: str = "cpu") -> Mixture:
    """`cpu`: the claim above. `smoke`: every part in seconds, learns nothing. `paper`: the experiments' large sizes."""
    # The context is the longest that a family's own experiment has. Few tokens are masked: in the bandit a hidden pull
    # is missing from what the source counts.
    model, method = {
        "cpu": (
            Transformer(layers=4, width=64, heads=4, window=200, token_mask=0.1),
            Distillation(updates=2000, learning_rate=5e-3, warmup_updates=100, evaluate_every=500),
        ),
        "smoke": (dataclasses.replace(smoke.MODEL, window=40), smoke.training()),
        "paper": (
            Transformer(layers=6, width=256, heads=8, mlp_width=1024, window=1000, token_mask=0.1),
            Distillation(updates=50_000, learning_rate=1e-3),
        ),
    }[scale]
    return Mixture("many_worlds", [_member(name, scale) for name in FAMILIES], model, method=method)


def _member(name: str, scale: str) -> Member:
    """Return a family of the mixture: its own experiment, at `cpu` with sampled actions alone."""
    e = load(name, scale)
    return Member(override(e, ["evaluate.greedy=False"]) if scale == "cpu" else e)


def alone(name: str, scale: str = "cpu") -> Experiment:
    """Return the single-family model: the same options and as many updates, on that family alone."""
    return config(scale).member(name)


def study(scale: str = "cpu") -> Study:
    """Not in the paper: one model of six families beside six models of one."""
    mixture = config(scale)
    arms = {f"{name}, alone": Arm(alone(name, scale), group=name) for name in FAMILIES}
    arms |= {f"{name}, one model": Arm(alone(name, scale), group=name, of=(mixture, name)) for name in FAMILIES}
    claims = tuple(
        Claim(
            f"On held-out tasks of {name}, one model of six families ends at nine tenths of its single-family model, "
            "at least",
            "not in the paper",
            quantity("final", f"{name}, one model") / quantity("final", f"{name}, alone"),
            at_least(0.9),
        )
        for name in FAMILIES
    )
    return Study("many_worlds", "One model, many worlds", arms, claims, seeds=1)
