"""Draws docs/envs/watermaze.png: `python docs/envs/watermaze_picture.py`."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from ad_jax.envs.base import advance, take
from ad_jax.envs.watermaze import Watermaze
from ad_jax.report import figures, ways

SMALL, LARGE = Watermaze(height=24, width=32), Watermaze()
ACTIONS = (7, 7, 0, 0, 0, 0, 0, 0, 4, 4, 4, 4, 6, 0, 0, 0, 0, 0, 0, 4, 4, 6, 0, 0)
SHOWN = range(0, len(ACTIONS), 2)


def main() -> None:
    """One episode of given actions: twelve of its pictures in both sizes, and its path from above."""
    task = take(LARGE.sample_tasks(jax.random.key(4), 1), 0)
    step = jax.jit(lambda state, action: advance(LARGE, jax.random.key(0), state, action, task))
    observation, state = LARGE.reset_env(jax.random.key(9), task)
    poses, points, total = [], [], 0.0
    for action in ACTIONS:
        poses.append(np.asarray(observation))
        points.append(np.asarray(LARGE.trace(state, jnp.int32(action))).tolist())
        observation, state, outcome = step(state, jnp.int32(action))
        total += float(outcome.reward)
    stored = jnp.asarray(np.stack([poses[t] for t in SHOWN]))
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(4.1, 1))
    axes = left.subplots(6, 4, height_ratios=(3, 2) * 3)
    for row, family in ((0, LARGE), (1, SMALL)):
        pictures = np.asarray(jax.jit(jax.vmap(family.render))(stored))
        for i, (t, picture) in enumerate(zip(SHOWN, pictures, strict=True)):
            panel = axes[2 * (i // 4) + row, i % 4]
            panel.imshow(picture, interpolation="nearest")
            panel.set_axis_off()
            if row == 0:
                panel.set_title(f"step {t}", fontsize=8, pad=2)
    above = right.subplots()
    ways.panel(above, LARGE.picture(task), {"episode": 1, "return": total, "points": points})
    above.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), fontsize=8, ncol=3, handletextpad=0.2)
    Path(__file__).with_suffix("").with_name("watermaze.png").write_bytes(figures.png(figure))


main()
