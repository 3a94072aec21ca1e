"""Demonstrations in the context: AD improves on what it is shown (Laskin et al. 2022, Fig. 5).

Claim    shown four episodes of a policy that earns 5 % to 95 % of the optimum, AD improves on it in its context, the
         faster the better the policy, and from 25 % up ends above 15.5 of 16.9.
Command  ad-jax reproduce prompted     (`ad-jax run prompted` is the arm of AD and 50 %)
Variant  Dark Room 9x9 as in `dark_room`, whose trained models these are. The demonstrator takes the optimal action
         but for a share of random ones, found by simulation; the paper's are half-trained policies.
Paper    training takes about 3.5 GB and 11.4 PFLOP (50,000 updates)
"""

import dataclasses

from ad_jax.experiment import Experiment, load
from ad_jax.study import Arm, Study
from ad_jax.study import load as load_study
from ad_jax.study.claims import Claim, at_least, at_most, quantity


def config(scale: str = "cpu") -> Experiment:
    """`cpu`: the claim above. `smoke`: every part in seconds, learns nothing. `paper`: the paper's own model."""
    return shown(dataclasses.replace(load("dark_room", scale), name="prompted"), 0.5)


# What a random policy earns on the held-out goals, divided by the optimum: 0.28676 of 16.875. The paper's shares count
# from 0, `evaluate.prompt` from there.
CHANCE = 0.2867565655494435 / 16.875


def shown(e: Experiment, share: float) -> Experiment:
    """Return the experiment with a demonstration that earns `share` of the optimum, and without its source's curves."""
    evaluate = dataclasses.replace(e.evaluate, prompt=(share - CHANCE) / (1 - CHANCE), source_seeds=0)
    return dataclasses.replace(e, evaluate=evaluate)


def study(scale: str = "cpu") -> Study:
    """Figure 5."""
    ad, ed = (load_study("dark_room", scale).arms[name].experiment for name in ("AD", "ED"))
    arms = {}
    for name, e in (("AD", ad), ("ED", ed)):
        for share in (0.05, 0.25, 0.5, 0.75, 0.95):
            arms[f"{name}, {share:.0%}"] = Arm(
                shown(dataclasses.replace(e, name="prompted"), share), x=share, group=name
            )
    final, early = lambda arm: quantity("final", arm), lambda arm: quantity("between", arm, 1, 5)
    claims = [
        Claim(
            f"Shown a policy at {share:.0%}, AD ends above 15.5 of 16.9",
            f"{paper} of 16.9 (Fig. 5)",
            final(f"AD, {share:.0%}"),
            at_least(15.5),
        )
        for share, paper in ((0.25, 15.9), (0.5, 16.2), (0.75, 16.5), (0.95, 16.5))
    ]
    claims += [
        Claim("Shown a policy at 5 %, AD improves", "from 0.8 to 13.6 (Fig. 5)", final("AD, 5%"), at_least(12.0)),
        Claim(
            "The better the demonstration, the faster",
            "episode 1 is at the demonstration's level in all (Fig. 5)",
            early("AD, 95%") - early("AD, 5%"),
            at_least(2.0),
        ),
        Claim(
            "Expert distillation does not improve on a demonstration at 50 %",
            "it keeps the demonstration's level (Fig. 5)",
            quantity("ratio", "ED, 50%"),
            at_most(0.6),
            "The demonstrator errs at random, so its goal stands in the context, and ED reads it: it is at 75 % of the "
            "optimum in its first episode already, and falls from there. The paper's demonstrators are half-trained.",
        ),
        Claim(
            "Expert distillation does not improve on a demonstration at 5 %",
            "it keeps the demonstration's level (Fig. 5)",
            quantity("ratio", "ED, 5%"),
            at_most(0.2),
            "ED is at 16 % in its first episode and at 26 % in the last tenth (AD: 23 % and 99 %): sampled actions "
            "come upon the goal now and then, and where that was in the last four episodes ED goes back to it.",
        ),
    ]
    title, axis = "Demonstrations in the context (Fig. 5)", "what the demonstration earns, as a share of the optimum"
    return Study("prompted", title, arms, claims, figure="sweep", axis=axis, log=False)
