"""Which figures a set of results has, each with the sentence under it. Imports no JAX."""

import numpy as np
from matplotlib.figure import Figure

from ad_jax import normalized
from ad_jax.files import JsonObject
from ad_jax.report import figures, page, ways
from ad_jax.report.bootstrap import bootstrap, final_of
from ad_jax.report.figures import TIMES, Band
from ad_jax.report.results import Set


def as_episodes(s: Set, steps: np.ndarray) -> np.ndarray:
    """Where `steps [K]` of the environment are on an axis of the learner's episodes, in proportion between them."""
    taken = np.concatenate([[0.0], s.time(s.mode)])
    return np.interp(steps, taken, np.arange(len(taken)))


def figures_of(s: Set, stats: JsonObject) -> dict[str, tuple[Figure | None, str]]:
    """By file stem, the figure (None where the results do not hold what it takes) and the sentence under it."""
    learner = {mode: Band(s.time(mode), *bootstrap(values)) for mode, values in s.returns.items()}
    source = None if s.source is None else _subsampled(s.source, s.source_steps)
    return {
        "curve": _curve(s, stats, learner, source),
        "efficiency": _efficiency(s, stats, learner[s.mode], source),
        "goals": _by_task(s),
        "paths": _paths(s),
    }


def _curve(s: Set, stats: JsonObject, learner: dict[str, Band], source: Band | None) -> tuple[Figure, str]:
    episode = np.arange(1, s.returns[s.mode].shape[-1] + 1)
    rollouts = " and ".join(f"{_n(k, f'{mode} rollout')}" for mode, k in s.rollouts.items())
    caption = (
        f"Return of each in-context episode with frozen weights, mean over {_over(s)}, {rollouts} per task. {_band(s)}"
    )
    cut = None
    if source is not None:
        inside = source.x <= s.time(s.mode)[-1]
        if inside.any():
            cut = Band(*(y[inside] for y in source))
            cut = cut._replace(x=as_episodes(s, cut.x))
            caption += (
                f" The {s.source_role} is drawn at the same number of environment steps, those of its actors together."
            )
        else:
            caption += (
                f" The {s.source_role}'s curve has its first value after {s.source_steps:,} environment steps, more "
                "than are taken here, so it is not drawn."
            )
    drawn = {mode: band._replace(x=episode) for mode, band in learner.items()}
    return figures.curve(drawn, stats["optimal"], stats["random"], cut, s.source_label), caption


def _efficiency(s: Set, stats: JsonObject, learner: Band, source: Band | None) -> tuple[Figure | None, str]:
    if source is None:
        return None, "Data efficiency: no learning curve of the source was recorded on these tasks."
    levels = [{**level, "text": page.ratio(level)} for level in stats["source"]["levels"] if level["ad_steps"]]
    caption = (
        f"Return against environment steps on the same tasks: AD in context ({s.mode}) and {s.source_label} learning "
        f"from scratch ({_n(s.source_seeds, 'seed')} per task, the steps of all its actors counted), mean over "
        f"{_over(s)}. An arrow leads from AD's steps to the other's for the same return, and says how many times as "
        "many those are; dashed with '>' where it never gets there. The steps in AD's training data are not "
        f"counted. {_band(s)}"
    )
    return figures.efficiency(learner, source, s.source_label, levels, stats["optimal"], stats["random"]), caption


def _by_task(s: Set) -> tuple[Figure, str]:
    """Return final return by goal where every task is a goal on one grid, else by task."""
    flat = [task for tasks in s.tasks for task in tasks]
    pictures = [task["picture"] or {} for task in flat]
    final, early = (final_of(values).ravel() for values in (s.returns[s.mode], s.returns[s.mode][..., ::-1]))  # [R * N]

    def is_goal(picture):
        return picture.get("kind") == "grid" and picture.get("key") is None

    sizes = {picture["size"] if is_goal(picture) else None for picture in pictures}
    if len(sizes) == 1 and None not in sizes:
        cells, index = np.unique([picture["goal"] for picture in pictures], axis=0, return_inverse=True)
        share = normalized.share(final_of(s.returns[s.mode]), s.random, s.optimal)
        color = "size" if share is None else "share of the way from a random policy to the optimum"
        caption = f"Mean {s.mode} return of the last 10 % of episodes by goal, colored by its {color}; hatched cells "
        caption += f"are no goals of this set ({_over(s)})."
        share = None if share is None else _by(index, share.ravel())
        return ways.goals(pictures[0]["size"], cells, _by(index, final), share), caption
    _, index = np.unique([task["id"] for task in flat], return_inverse=True)
    label, unit = "return", ""
    comparable = normalized.comparable(s.random, s.optimal)
    if s.random is not None and s.optimal is not None and comparable:
        final, early = (normalized.share(x, s.random.ravel(), s.optimal.ravel()) for x in (final, early))
        label, unit = "normalized return", " (0: random policy, 1: optimal policy)"
    caption = f"Mean {s.mode} {label}{unit} of every task in the first and in the last 10 % of episodes ({_over(s)})."
    return figures.tasks(_by(index, early), _by(index, final), label, comparable), caption


def _paths(s: Set) -> tuple[Figure | None, str]:
    """Return the agent's way through some episodes of one task."""
    if s.paths is None:
        return None, "Paths: none were recorded on these tasks."
    task, episodes = s.tasks[s.paths["run"]][s.paths["task"]], s.paths["episodes"]
    picture = task["picture"] or {}
    where = (
        f"one task of this set ({task['description']}; {s.paths['mode']}, rollout {s.paths['seed']}, training "
        f"seed {s.seeds[s.paths['run']]})."
    )
    if picture.get("kind") in ("grid", "pool"):
        return ways.grid_paths(picture, episodes), f"The agent's path, from dark to light as time passes, on {where}"
    if picture.get("kind") == "arms":
        order = "" if picture["means"] is None else ", best arm on top and colored by the arm's mean,"
        return ways.arm_paths(picture["means"], episodes), f"The arm pulled at each step{order} on {where}"
    return None, "Paths: this task family does not say how to draw one."


def _subsampled(values: np.ndarray, steps: int, most: int = 2000) -> Band:
    """Return the band of a source's lifetime `[R, N, E2]`; of a very long one, `most` episodes, evenly spaced on a log
    axis.
    """
    episodes = np.arange(values.shape[-1])
    if len(episodes) > most:
        episodes = np.unique(np.geomspace(1, len(episodes), most).round().astype(int)) - 1
    return Band((episodes + 1) * steps, *bootstrap(values[..., episodes]))


def _by(index: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of `values` for each index 0, 1, ...; each occurs."""
    return np.bincount(index.ravel(), values) / np.bincount(index.ravel())


def _n(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _over(s: Set) -> str:
    return f"{_n(len(s.tasks[0]), s.name.replace('_', '-') + ' task')} {TIMES} {_n(len(s.seeds), 'training seed')}"


def _band(s: Set) -> str:
    """Return what the shaded interval is over; with one run it knows nothing of the spread between trainings."""
    if len(s.seeds) * len(s.tasks[0]) == 1:
        return "No interval: one task and one training seed say nothing of what varies."
    if len(s.tasks[0]) == 1:
        over = "training seeds (one task, so not over tasks)"
    else:
        over = "tasks (one training seed, so not over training)" if len(s.seeds) == 1 else "training seeds, then tasks"
    return f"Shaded: 95 % bootstrap interval over {over}, 1000 resamples."
