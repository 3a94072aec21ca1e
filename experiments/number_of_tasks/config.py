"""In-context learning against the number of training tasks (Laskin et al. 2022, appendix).

Claim    AD learns new tasks in its context only when it was trained on enough of them: the return on held-out tasks
         rises with their number, from about a random policy's.
Command  ad-jax reproduce number_of_tasks     (`ad-jax run number_of_tasks` is the arm of 512 tasks)
Variant  Dark Key-to-Door with 5x5 cells and 20 steps (`dark_key_to_door` at scale `small`): random start, 1 for the
         key and then 1 for the door, observation = own position. The paper has 9x9 cells and 50 steps. Every arm has
         1024 histories: fewer tasks have more learners each.
Paper    training takes about 10 GB and 32.7 PFLOP (50,000 updates)
"""

import dataclasses

from ad_jax.experiment import Experiment, load, override
from ad_jax.study import Arm, Study
from ad_jax.study.claims import Claim, at_least, at_most, quantity


def config(scale: str = "cpu") -> Experiment:
    """`cpu`: the claim above. `smoke`: every part in seconds, learns nothing. `paper`: the paper's own model."""
    return dataclasses.replace(load("dark_key_to_door", "small" if scale == "cpu" else scale), name="number_of_tasks")


def study(scale: str = "cpu") -> Study:
    """Return the appendix' ablation, with the number of histories held."""
    base, arms = config(scale), {}
    histories = base.tasks.train * base.collect.seeds
    counts = [n for n in (1, 4, 16, 64, 256, 512) if n <= base.tasks.train]
    for n in counts:
        sizes = [f"tasks.used={n}", f"collect.seeds={histories // n}"]
        arms[f"{n} tasks"] = Arm(override(base, sizes), x=n)
    few, many = f"{counts[0]} tasks", f"{counts[-1]} tasks"
    middle = f"{counts[len(counts) // 2]} tasks"
    claims = (
        Claim(
            "Trained on one task, AD does not learn others",
            "0.44 of 2, chance being about 0.45",
            quantity("final", few) - quantity("random", few),
            at_most(0.35),
        ),
        Claim(
            "Trained on hundreds of tasks, AD learns new ones",
            "1.87 of 2 from 1212 tasks",
            quantity("ratio", many),
            at_least(0.8),
        ),
        Claim(
            "More tasks are better",
            "0.95 from 151 tasks, 1.64 from 606, 1.87 from 1212",
            quantity("final", many) - quantity("final", middle),
            at_least(0.1),
        ),
    )
    title = "Number of training tasks (appendix)"
    return Study(
        "number_of_tasks", title, arms, claims, seeds=2, figure="sweep", axis="training tasks, 1024 histories in all"
    )
