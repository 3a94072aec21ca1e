"""An optimizer of hyper-parameters that has learned, from other data sets, how to search.

    python -m examples.tune_models.run            # three trainings; interrupted, it goes on with the next of them
    python -m examples.tune_models.run --quick    # every part in seconds; learns nothing

GP-UCB and a local search, which know nothing of other tasks, search 600 to 800 tables of scores. A transformer is
distilled from the last three fifths of their lifetimes, every third trial of them, so that it goes in ten trials where
they went in thirty, and begins where they had been twenty before. Frozen, it gets ten trials on cuts of data sets that
nothing was trained on. README.md has the claims and the verdict.
"""

import argparse
import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np

from ad_jax import CollectConfig, Distillation, EvaluateConfig, Experiment, ReplayConfig, TaskConfig, Transformer
from ad_jax.report.bootstrap import bootstrap
from ad_jax.run import in_memory
from examples.tune_models.searches import GPUCB, LocalSearch
from examples.tune_models.world import Tuning, tables

TRIALS = 10
UNSEEN = (("breast_cancer", "iris"), ("diabetes", "wine"), ("digits",))  # by seed: each data set is unseen once
SETTINGS = tuple(itertools.product((0.5, 1.0), (2.0, 4.0)))  # of GP-UCB: its exploration and its length


def experiment(seed: int, quick: bool = False) -> Experiment:
    """Return what is learned with a seed, and on which data sets."""
    unseen = UNSEEN[seed]
    seen = sum(len(table) for name, table in tables().items() if name not in unseen)
    return Experiment(
        name="tune_models",
        env=Tuning(unseen),
        source=GPUCB(),
        seed=seed,
        model=Transformer(layers=1, width=16) if quick else Transformer(layers=2, width=64, window=TRIALS),
        tasks=TaskConfig(train=16 if quick else seen, held_out=(4 if quick else 64) // len(unseen)),
        collect=CollectConfig(seeds=1 if quick else 4, episodes=5 * TRIALS, chunk_learners=16 if quick else 400),
        replay=ReplayConfig(tail=0.6, keep_every=3, phases=3, segment=TRIALS, batch=8 if quick else 64),
        method=Distillation(updates=2 if quick else 1200, learning_rate=6e-3, warmup_updates=1 if quick else 50),
        evaluate=EvaluateConfig(episodes=TRIALS, seeds=2 if quick else 8),
    )


def regret(scores: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return how far the best of the trials so far is from the best setting, a row a task.

    Args:
        scores: tables, `[N, 144]`.
        found: the score of every trial, `[N, S, E]` or, task by task, `[N * S, E]`; the mean is over S.
    """
    found = found.reshape(len(scores), -1, TRIALS)
    return scores.max(1)[:, None] - np.maximum.accumulate(found, -1).mean(1)


def tuned(e: Experiment) -> GPUCB:
    """Return the GP-UCB that is best in ten trials on the training tasks: a baseline at its best."""
    collect = dataclasses.replace(e.collect, seeds=1, episodes=TRIALS)

    def left(source):
        # The windows of training would be longer than ten trials, thinned.
        asked = dataclasses.replace(e, source=source, collect=collect, replay=ReplayConfig(segment=TRIALS))
        lived = in_memory.collect(asked)
        return regret(lived.tasks["scores"], lived.transition.reward)[:, -1].mean()

    return min(itertools.starmap(GPUCB, SETTINGS), key=left)


def portfolio(scores: np.ndarray) -> list[int]:
    """Return the ten settings that together are best on the training tasks, the best on average first."""
    chosen, best = [], np.full(len(scores), -np.inf)
    for _ in range(TRIALS):
        chosen.append(int(np.maximum(best[:, None], scores).mean(0).argmax()))
        best = np.maximum(best, scores[:, chosen[-1]])
    return chosen


def run(seed: int, quick: bool = False) -> dict[str, list]:
    """Collect, distill, and search the held-out tables in every way: regrets `[N, E]` by way."""
    e = experiment(seed, quick)
    e = dataclasses.replace(e, source=tuned(e))
    local = dataclasses.replace(e, source=LocalSearch())
    print(f"seed {seed}, without {' and '.join(UNSEEN[seed])}: {e.source}", flush=True)
    histories = in_memory.join(in_memory.collect(e), in_memory.collect(local))
    learned = in_memory.train(e, histories, lambda step, found: print(f"  {step} updates, loss {found['loss']:.3f}"))
    split, rng = e.env.split(e.tasks.split_seed, e.tasks.train, e.tasks.held_out), np.random.default_rng(seed)
    known = portfolio(np.asarray(split.train.scores))
    found = {}
    for name, tasks in split.held_out.items():
        scores = np.asarray(tasks.scores)
        by_chance = rng.permuted(np.repeat(scores, 64, 0), axis=1)[:, :TRIALS]
        searches = {
            "distilled": in_memory.evaluate(e, learned, held_out=name).returns,
            "GP-UCB": in_memory.collect(e, held_out=name).transition.reward[:, :TRIALS],
            "local search": in_memory.collect(local, held_out=name).transition.reward[:, :TRIALS],
            "random search": by_chance,
            "best on average": np.repeat(scores[:, known[:1]], TRIALS, 1),
            "best ten together": scores[:, known],
        }
        for way, tried in searches.items():
            found.setdefault(way, []).extend(regret(scores, tried).round(4).tolist())
    return found


def by_way(results: dict[str, dict]) -> dict[str, np.ndarray]:
    """Return regrets `[R, N, E]` by way, of the results of R seeds."""
    first = next(iter(results.values()))
    return {way: np.array([found[way] for found in results.values()]) for way in first}


def verdict(results: dict[str, dict]) -> list[str]:
    """Return the sentences that README.md ends with."""
    ways = by_way(results)
    lines = []
    for way, values in ways.items():
        mean, low, high = (x[-1] for x in bootstrap(values))
        lines.append(f"| {way} | {values[..., 0].mean():.3f} | {mean:.3f} ({low:.3f} to {high:.3f}) |")
    for way in ("GP-UCB", "best on average"):
        mean, low, high = (x[-1] for x in bootstrap(ways["distilled"] - ways[way]))
        said = "holds" if high < 0 else "fails"
        lines.append(
            f"Regret after ten trials below that of {way}: **{said}**, {mean:+.3f} ({low:+.3f} to {high:+.3f})."
        )
    return lines


def draw(results: dict[str, dict], path: Path) -> None:
    """Draw regret by trial."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for way, values in by_way(results).items():
        mean, low, high = bootstrap(values)
        (line,) = axes.plot(range(1, TRIALS + 1), mean, label=way, lw=2.5 if way == "distilled" else 1.2)
        axes.fill_between(range(1, TRIALS + 1), low, high, color=line.get_color(), alpha=0.1)
    axes.set(xlabel="trial", ylabel="regret of the best so far", ylim=(0, None), title="Data sets never trained on")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main(out: Path, quick: bool = False, seeds: int = len(UNSEEN)) -> dict[str, dict]:
    """Run what `out` does not have yet, and draw."""
    out.mkdir(parents=True, exist_ok=True)
    saved = out / "results.json"
    results = json.loads(saved.read_text()) if saved.exists() else {}
    for seed in range(seeds):
        if str(seed) not in results:
            results[str(seed)] = run(seed, quick)
            saved.write_text(json.dumps(results))
    draw(results, out / "figure.png")
    print("\n".join(verdict(results)))
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every part in seconds; learns nothing")
    parser.add_argument("--out", type=Path, default=None, help="default: runs/tune_models, or with _quick")
    asked = parser.parse_args()
    main(asked.out or Path("runs") / ("tune_models" + "_quick" * asked.quick), asked.quick)
