"""Stage 4: `results.json` of one or several runs → statistics, figures and one self-contained HTML page.

In: results of schema 2, one entry in `runs` per training seed. Returns are `[N tasks, S rollouts, E episodes]`,
in reward units per episode; environment steps are those that episodes had, of every actor. Out: `index.html`, which
embeds its images and loads nothing, and the same figures as PNG files. Everything is drawn from the results alone, and
nothing here imports JAX.

What is reported. *Final* is the mean of the last 10 % of episodes (at least one). Rollouts are averaged inside a task;
intervals are 95 % percentile bootstraps over training seeds, then tasks. Data efficiency (Laskin et al. 2022, figure 4)
divides the environment steps a source needs by those the frozen learner needs for the same return; the source's curve
is one over time (`lifetimes`), in pieces of as many steps as the longest possible episode. The share of the
source's gain (figure 3) compares what both earn above a random policy in as many episodes.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ad_jax import normalized
from ad_jax.files import write_whole
from ad_jax.report import figures, page
from ad_jax.report.bootstrap import bootstrap, final_of, resampled
from ad_jax.report.figures import TIMES, Band
from ad_jax.report.results import SCHEMA, ReportError, Set, gather, load, validate
from ad_jax.report.seal import seal
from ad_jax.text import number

__all__ = ["SCHEMA", "ReportError", "bootstrap", "load", "share_of_source", "statistics", "summary", "table", "write"]


def share_of_source(s: Set, mode: str, runs: slice = slice(None)) -> dict[str, float | None] | None:
    """What the learner gains over a random policy, as a share of what its source gains: `{"mean", "low", "high"}`.

    The interval is None of one task in one run.

    (r - r_random) / (r_source - r_random), the normalised score of Laskin et al. 2022, figure 3. Each r is a sum over
    the E in-context episodes, for the source over its first E, averaged over tasks and runs before dividing; runs and
    tasks are resampled for all three together.

    Returns:
        None where the return of the random policy or of the source is unknown, where the source has fewer than E
        episodes, or where its gain is not clear of zero, as a share of it then means nothing.
    """
    values, episodes = s.returns[mode][runs], s.returns[mode].shape[-1]
    if s.random is None or s.source_episodes is None or s.source_episodes.shape[-1] < episodes:
        return None
    chance = episodes * s.random[runs]
    gains = np.stack([x.sum(-1) - chance for x in (values, s.source_episodes[runs, :, :episodes])], axis=-1)
    drawn = resampled(gains)
    if drawn[:, 1].min() <= 0:
        return None
    learner, source = gains.mean((0, 1))
    low, high = map(float, np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5]))
    low, high = (low, high) if gains.shape[0] * gains.shape[1] > 1 else (None, None)
    return {"mean": float(learner / source), "low": low, "high": high}


def summary(results: dict[str, Any]) -> str:
    """One line: return of the first episode → final, of the optimum where known, on the first set."""
    first = gather(results)[0]
    values = first.returns[first.mode]
    start, end = values[..., 0].mean(), final_of(values).mean()
    scale = max(abs(start), abs(end), 0 if first.optimal is None else abs(first.optimal.mean()))
    best = None if first.optimal is None else float(first.optimal.mean())
    of = "" if best is None else f" of {number(best, scale)}" if best > 0 else f" (optimal {number(best, scale)})"
    name = first.name.replace("_", "-")
    episodes = f"{values.shape[-1]} in-context episode{'s' if values.shape[-1] > 1 else ''}"
    return f"{name} return {number(start, scale)} → {number(end, scale)}{of} over {episodes}"


def statistics(results: dict[str, Any]) -> dict[str, Any]:
    """Every number of the page, as plain data.

    Returns:
        `{"experiment", "sets": {name: {"kind", "tasks", "optimal", "random", "rows", "source"}}}`. A row is
        `{"seed": int or "all", "seconds": {stage: float}, mode: {...}}`; a mode holds `first`, `final`, `low` and
        `high` (95 % interval of `final`; None of one task in one run), `area` (mean return as a share of the way from
        random to optimal; None where that means nothing, see `normalized`), `episodes_to` (from 1, by "75 % of the way
        to final" and so on, ways that begin at the random policy's return; None where never reached, absent where there
        is no way), and `share`, what `share_of_source` gives. `source` is None or
        `{"name", "role", "piece", "same_steps", "same_steps_by", "final", "levels"}`: `piece` is the steps of all
        actors in which its curve has one value, `same_steps_by` is by mode. A level is
        `{"level", "return", "ad_steps", "source_steps", "source_end", "ratio", "reached"}`.
    """
    stats: dict[str, Any] = {"experiment": results["experiment"], "sets": {}}
    seconds = [{name: stage.get("seconds") for name, stage in run["stages"].items()} for run in results["runs"]]
    names = list(dict.fromkeys(name for run in seconds for name in run))
    for s in gather(results):
        rows = [{"seed": seed, "seconds": seconds[r], **_row(s, slice(r, r + 1))} for r, seed in enumerate(s.seeds)]
        mean = {n: float(np.mean([t[n] for t in seconds])) for n in names if all(t.get(n) is not None for t in seconds)}
        rows.append({"seed": "all", "seconds": mean, **_row(s, slice(None))})
        stats["sets"][s.name] = {
            "kind": s.kind,
            "tasks": len(s.tasks[0]),
            "runs": len(s.seeds),
            "optimal": None if s.optimal is None else float(s.optimal.mean()),
            "random": None if s.random is None else float(s.random.mean()),
            "rows": rows,
            "source": _against_source(s),
        }
    return stats


def table(results: dict[str, Any]) -> str:
    """Plain text for a terminal: a row per training seed and one for all (seconds are then means), for each set."""
    blocks = []
    for name, stats in statistics(results)["sets"].items():
        size = page.scale(stats)
        mode = next(m for m in ("sampled", "greedy") if m in stats["rows"][-1])
        stages = list(dict.fromkeys(stage for row in stats["rows"] for stage in row["seconds"]))
        shared = stats["rows"][-1][mode]["share"] is not None
        share = [f"share of the {stats['source']['role']}'s gain"] if shared else []
        names = ["seed", "episode 1", "last 10 %", "95 % interval", "greedy", *share]
        lines = [[*names, *(f"{stage} s" for stage in stages)]]
        for row in stats["rows"]:
            main, greedy = row[mode], row.get("greedy")
            lines.append(
                [
                    str(row["seed"]),
                    number(main["first"], size),
                    number(main["final"], size),
                    page.interval(main, size),
                    "-" if greedy is None else number(greedy["final"], size),
                    *([page.share(main)] if shared else []),
                    *("-" if row["seconds"].get(stage) is None else f"{row['seconds'][stage]:.1f}" for stage in stages),
                ]
            )
        widths = [max(map(len, column)) for column in zip(*lines)]
        rows = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)
        blocks.append(f"{name} ({stats['tasks']} tasks, {mode})\n{rows}")
    return "\n\n".join(blocks)


def write(results: dict[str, Any], folder: Path) -> Path:
    """Draw every figure and the page into `folder`; each file appears whole or not at all, the page last.

    Figures are `curve`, `goals`, `efficiency` and `paths`, with the suffix `-<set>` from the second set on; one that
    the results hold no data for is left out, and the page says why.

    Returns:
        The path of `index.html`.

    Raises:
        ReportError: results that `load` would refuse.
    """
    validate(results, "results")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stats, sections = statistics(results), []
    for index, s in enumerate(gather(results)):
        shown = []
        for stem, (figure, caption) in _figures(s, stats["sets"][s.name]).items():
            image = None if figure is None else figures.png(figure)
            if image is not None:
                write_whole(folder / f"{stem}{f'-{s.name}' if index else ''}.png", image)
            shown.append((stem, image, caption))
        sections.append(page.section(s.name, stats["sets"][s.name], shown))
    write_whole(folder / "index.html", page.render(results, summary(results), sections))
    return folder / "index.html"


def as_episodes(s: Set, steps: np.ndarray) -> np.ndarray:
    """Where `steps [K]` of the environment are on an axis of the learner's episodes, in proportion between them."""
    taken = np.concatenate([[0.0], s.time(s.mode)])
    return np.interp(steps, taken, np.arange(len(taken)))


def _known(x: float) -> float | None:
    return None if np.isnan(x) else float(x)


def _whole(x: float) -> int | float:
    """A mean number of steps, an int where it is whole."""
    return int(x) if x == int(x) else float(x)


def _reached(curve: np.ndarray, level: float) -> int | None:
    """The first index from 1 at which the mean curve `[E]` is at `level`, to rounding."""
    there = curve >= level - 1e-9 * abs(level)
    return int(np.argmax(there)) + 1 if there.any() else None


def _row(s: Set, runs: slice) -> dict[str, Any]:
    """By mode, the numbers of these runs."""
    row = {}
    mean = lambda x: None if x is None else float(x[runs].mean())
    optimal, random = mean(s.optimal), mean(s.random)
    for mode, every in s.returns.items():
        values = every[runs]
        curve, (final, low, high) = values.mean((0, 1)), bootstrap(final_of(values)[..., None])
        ends = {"final": float(final[0]), "optimal": optimal}
        levels = {
            f"{part} % of the way to {name}": level
            for name, end in ends.items()
            for part in (75, 90)
            if (level := normalized.level(part / 100, random, end)) is not None
        }
        row[mode] = {
            "first": float(curve[0]),
            "final": float(final[0]),
            "low": _known(low[0]),
            "high": _known(high[0]),
            "area": normalized.share(float(curve.mean()), random, optimal),
            "episodes_to": {name: _reached(curve, level) for name, level in levels.items()},
            "share": share_of_source(s, mode, runs),
        }
    return row


def _against_source(s: Set) -> dict[str, Any] | None:
    """Data efficiency. Wherever noise must favour one side it favours the source, so a ratio is a cautious one.

    At the learner's final return all the steps it took are counted, though it may have got there earlier, against the
    first episode of the source whose mean is as high.
    """
    if s.source is None:
        return None
    learner, source, taken = s.returns[s.mode].mean((0, 1)), s.source.mean((0, 1)), s.time(s.mode)
    final = float(final_of(learner))
    wanted: list[tuple[str, float, int | None]] = [("AD's final return", final, len(learner))]
    mean = lambda x: None if x is None else float(x.mean())
    level = normalized.level(0.75, mean(s.random), mean(s.optimal))
    if level is not None:
        wanted.append(("75 % of the way to the optimum", level, _reached(learner, level)))
    levels = []
    for name, level, episodes in wanted:
        ad_steps = None if episodes is None else _whole(taken[episodes - 1])
        reached, end = _reached(source, level), len(source) * s.source_steps
        steps = None if reached is None else reached * s.source_steps
        levels.append(
            {
                "level": name,
                "return": level,
                "ad_steps": ad_steps,
                "source_steps": steps,
                "source_end": end,
                "ratio": None if ad_steps is None else (steps or end) / ad_steps,
                "reached": reached is not None,
            }
        )

    def same(mode: str) -> float | None:
        done = int(s.time(mode)[-1] / s.source_steps + 1e-9)  # pieces of its life in as many steps as the learner takes
        return float(source[min(done, len(source)) - 1]) if done else None

    return {
        "name": s.source_name,
        "role": s.source_role,
        "piece": s.source_steps,
        "same_steps": same(s.mode),
        "same_steps_by": {mode: same(mode) for mode in s.returns},
        "final": float(final_of(source)),
        "levels": levels,
    }


def _figures(s: Set, stats: dict[str, Any]) -> dict[str, tuple[Figure | None, str]]:
    """By file stem, the figure (None where the results do not hold what it takes) and the sentence under it."""
    learner = {mode: Band(s.time(mode), *bootstrap(values)) for mode, values in s.returns.items()}
    source = None if s.source is None else _thinned(s.source, s.source_steps)
    return {
        "curve": _curve(s, stats, learner, source),
        "efficiency": _efficiency(s, stats, learner[s.mode], source),
        "goals": _by_task(s),
        "paths": _paths(s),
    }


def _curve(s: Set, stats: dict[str, Any], learner: dict[str, Band], source: Band | None) -> tuple[Figure, str]:
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


def _efficiency(s: Set, stats: dict[str, Any], learner: Band, source: Band | None) -> tuple[Figure | None, str]:
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
    """Final return by goal where every task is a goal on one grid, else by task."""
    flat = [task for tasks in s.tasks for task in tasks]
    pictures = [task["picture"] or {} for task in flat]
    final, early = (final_of(values).ravel() for values in (s.returns[s.mode], s.returns[s.mode][..., ::-1]))  # [R * N]
    is_goal = lambda picture: picture.get("kind") == "grid" and picture.get("key") is None
    sizes = {picture["size"] if is_goal(picture) else None for picture in pictures}
    if len(sizes) == 1 and None not in sizes:
        cells, index = np.unique([picture["goal"] for picture in pictures], axis=0, return_inverse=True)
        share = normalized.share(final_of(s.returns[s.mode]), s.random, s.optimal)
        colour = "size" if share is None else "share of the way from a random policy to the optimum"
        caption = f"Mean {s.mode} return of the last 10 % of episodes by goal, coloured by its {colour}; hatched cells "
        caption += f"are no goals of this set ({_over(s)})."
        share = None if share is None else _by(index, share.ravel())
        return figures.goals(pictures[0]["size"], cells, _by(index, final), share), caption
    _, index = np.unique([task["id"] for task in flat], return_inverse=True)
    label, unit = "return", ""
    normalised = normalized.comparable(s.random, s.optimal)
    if s.random is not None and s.optimal is not None and normalised:
        final, early = (normalized.share(x, s.random.ravel(), s.optimal.ravel()) for x in (final, early))
        label, unit = "normalised return", " (0: random policy, 1: optimal policy)"
    caption = f"Mean {s.mode} {label}{unit} of every task in the first and in the last 10 % of episodes ({_over(s)})."
    return figures.tasks(_by(index, early), _by(index, final), label, normalised), caption


def _paths(s: Set) -> tuple[Figure | None, str]:
    """The agent's way through some episodes of one task."""
    if s.paths is None:
        return None, "Paths: none were recorded on these tasks."
    task, episodes = s.tasks[s.paths["run"]][s.paths["task"]], s.paths["episodes"]
    picture = task["picture"] or {}
    where = (
        f"one task of this set ({task['description']}; {s.paths['mode']}, rollout {s.paths['seed']}, training "
        f"seed {s.seeds[s.paths['run']]})."
    )
    if picture.get("kind") in ("grid", "pool"):
        return figures.grid_paths(picture, episodes), f"The agent's path, from dark to light as time passes, on {where}"
    if picture.get("kind") == "arms":
        order = "" if picture["means"] is None else ", best arm on top and coloured by the arm's mean,"
        return figures.arm_paths(picture["means"], episodes), f"The arm pulled at each step{order} on {where}"
    return None, "Paths: this task family does not say how to draw one."


def _thinned(values: np.ndarray, steps: int, most: int = 2000) -> Band:
    """The band of a source's life `[R, N, E2]`; of a very long one, `most` episodes, evenly spaced on a log axis."""
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
    """What the shaded interval is over; with one run it knows nothing of the spread between trainings."""
    if len(s.seeds) * len(s.tasks[0]) == 1:
        return "No interval: one task and one training seed say nothing of what varies."
    if len(s.tasks[0]) == 1:
        over = "training seeds (one task, so not over tasks)"
    else:
        over = "tasks (one training seed, so not over training)" if len(s.seeds) == 1 else "training seeds, then tasks"
    return f"Shaded: 95 % bootstrap interval over {over}, 1000 resamples."


def pool(results: dict[str, Any], path: Path) -> None:
    """Write what `load` gave, several seeds as one file that `load` reads again."""
    write_whole(Path(path), json.dumps(seal(results), separators=(",", ":")).encode())
