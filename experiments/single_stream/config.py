"""AD from the stream of a single learner learns faster than that learner (Laskin et al. 2022, Fig. 6).

Claim    trained on every k-th episode of one learner's stream, AD learns new tasks in several times fewer episodes
         than the learner, and the larger k, the faster.
Command  ad-jax reproduce single_stream     (`ad-jax run single_stream` is the arm of k = 8)
Variant  Dark Key-to-Door with 5x5 cells and 20 steps (`dark_key_to_door` at scale `small`): random start, 1 for the
         key and then 1 for the door, observation = own position. The paper has 9x9 cells and 50 steps. A stream is
         the whole lifetime of one tabular Q-learner, 160 episodes, which is given whether it has the key.
Paper    training takes about 10 GB and 32.7 PFLOP (50,000 updates)
"""

import dataclasses

from ad_jax.experiment import Experiment, load, override
from ad_jax.study import Arm, Study
from ad_jax.study.claims import Claim, at_least, quantity


def config(scale: str = "cpu") -> Experiment:
    """`cpu`: the claim above. `smoke`: every part in seconds, learns nothing. `paper`: the paper's own model."""
    return dataclasses.replace(load("dark_key_to_door", "small" if scale == "cpu" else scale), name="single_stream")


def study(scale: str = "cpu") -> Study:
    """Figure 6, and a sweep of k. A history of every k-th episode has `phases` subsampled versions, at most k."""
    base, arms = config(scale), {}
    for k in (2, 4, 8, 16):
        if scale != "cpu" and base.collect.episodes // k * base.env.episode_length < base.replay.segment:
            continue  # too few episodes are left for a window
        sizes = [f"replay.keep_every={k}", f"replay.phases={min(k, base.replay.phases)}"]
        arms[f"k = {k}"] = Arm(override(base, sizes), x=k)
    main = "k = 8" if "k = 8" in arms else "k = 2"
    faster = quantity("source_steps_to", main, 1.6) / quantity("steps_to", main, 1.6)
    claims = [
        Claim(
            "From one learner's stream AD improves in context",
            "from 0.4 to 1.82 of 2 (Fig. 6)",
            quantity("final", main) - quantity("first", main),
            at_least(0.8),
        ),
        Claim(
            "AD learns faster than the learner it was distilled from",
            "90 % of its end after 7,200 steps, the learner 22,100 for less (Fig. 6)",
            faster,
            at_least(2),
        ),
    ]
    if len(arms) > 2:
        claims.append(
            Claim(
                "A larger k is faster",
                "only k = 10 is shown; the text says that fewer episodes make AD faster",
                quantity("episodes_to", "k = 2", 1.4) / quantity("episodes_to", "k = 8", 1.4),
                at_least(1.5),
            )
        )
    title = "A single learner's stream (Fig. 6)"
    return Study("single_stream", title, arms, claims, figure="sweep", axis="k: every k-th episode is kept")
