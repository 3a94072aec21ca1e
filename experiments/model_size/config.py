"""In-context learning against width, depth and heads of the transformer (Laskin et al. 2022, appendix).

Claim    return rises with width, layers and heads, and saturates at about the paper's own depth, 4 layers; the width
         128 fails at the learning rate of 64.
Command  ad-jax reproduce model_size     (`ad-jax run model_size` is the arm of width 64, 4 layers, 4 heads)
Variant  Dark Key-to-Door with 5x5 cells and 20 steps (`dark_key_to_door` at scale `small`): random start, 1 for the
         key and then 1 for the door, observation = own position. The paper has 9x9 cells and 50 steps. All sizes have
         the learning rate and the updates of width 64; at width 128 that rate is too high.
Paper    training takes about 10 GB and 32.7 PFLOP (50,000 updates)
"""

import dataclasses

from ad_jax.experiment import Experiment, load, override
from ad_jax.study import Arm, Study
from ad_jax.study.claims import Claim, at_least, near, quantity


def config(scale: str = "cpu") -> Experiment:
    """`cpu`: the claim above. `smoke`: every part in seconds, learns nothing. `paper`: the paper's own model."""
    return dataclasses.replace(load("dark_key_to_door", "small" if scale == "cpu" else scale), name="model_size")


def study(scale: str = "cpu") -> Study:
    """Return the appendix' three ablations; the paper's model is one arm of each."""
    base = config(scale)
    arms = {}
    for option, values in (("width", (16, 32, 64, 128)), ("layers", (1, 2, 4, 6)), ("heads", (1, 2, 4, 8))):
        for value in values:
            changed = override(base, [f"model.{option}={value}", *(["model.mlp_width=512"] if value == 128 else [])])
            arms[f"{option} {value}"] = Arm(changed, x=value, group=option)

    def final(arm):
        return quantity("final", arm)

    saturates = "made two-sided after the run; before: at most 0.15"
    claims = (
        Claim(
            "A wider model is better",
            "1.01 of 2 at 16, 1.91 at 64",
            final("width 64") - final("width 16"),
            at_least(0.05),
        ),
        Claim(
            "Width saturates at 64",
            "1.91 at 64, 1.89 at 128",
            final("width 128") - final("width 64"),
            near(0, within=0.15),
            "At width 128 the return falls: all sizes are trained with the learning rate of width 64, which is too "
            "high for twice the width. So this does not say where width saturates.",
            saturates,
        ),
        Claim(
            "A deeper model is better",
            "1.61 of 2 with 2 layers, 1.89 with 4",
            final("layers 4") - final("layers 1"),
            at_least(0.05),
        ),
        Claim(
            "Depth saturates at 4 layers",
            "1.89 with 4, 1.93 with 6",
            final("layers 6") - final("layers 4"),
            near(0, within=0.15),
            changed=saturates,
        ),
        Claim(
            "More heads are better", "1.71 of 2 with 1, 1.92 with 4", final("heads 4") - final("heads 1"), at_least(0.0)
        ),
    )
    title = "Size of the model (appendix)"
    return Study("model_size", title, arms, claims, seeds=2, figure="sweep", axis="width, layers or heads")
