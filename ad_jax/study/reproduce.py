"""Every study of this project, from nothing to verdicts: `ad-jax reproduce`, `make reproduce`.

    DIR/histories/<key>/   collections of learning histories
    DIR/models/<key>/      run directories, each with a trained model
    DIR/curves/<key>/      run directories, each with an evaluation of one of them
    OUT/<study>/           claims.json, claims.png and README.md, as soon as a study's last curve is there
    OUT/claims.html        one page: every claim with its verdict, beside its figure; OUT/claims.md holds its tables

A key is a digest of what decides the content, so arms of different studies that collect or train the same share it, and
what is there is never done again. Killed at any instant, the same command goes on. Several processes may work on one
DIR: each takes what no other one is at (a lock per piece, which the system drops when its process ends).
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from ad_jax.errors import AdJaxError
from ad_jax.experiment import Experiment, Mixture, build
from ad_jax.files import read_json
from ad_jax.process.metrics import log
from ad_jax.report import report
from ad_jax.report.results import gather
from ad_jax.study import Study, page
from ad_jax.study import text as study_text
from ad_jax.study.claims import NEEDS, decide, statistics_of
from ad_jax.study.form import SCHEMA
from ad_jax.study.keys import changes
from ad_jax.study.workshop import Workshop

WAIT_SECONDS = 2.0  # between two looks at what other processes are at


def work(e: Experiment) -> dict[str, float]:
    """Return what training and evaluating take, in FLOP by a rough count: weights for progress over many runs."""
    parts = build(e)
    size = sum(x.size for x in jax.tree.leaves(parts.params)) + 100_000  # what a step costs beside its products
    rollouts = sum(len(parts.family.task_ids(tasks)) for tasks in parts.evaluated.values()) * e.evaluate.seeds
    steps = rollouts * e.evaluate.episodes * parts.family.episode_length * (1 + e.evaluate.greedy)
    positions = parts.method.updates * parts.method.positions(parts.family, e.replay)
    return {"model": 6.0 * size * positions, "curve": 6.0 * size * steps}


def reproduce(studies: Sequence[Study], folder: Path, out: Path, scale: str, order: Sequence[str]) -> Path:
    """Make every piece of `studies` that is missing, decide their claims, and draw the page.

    Args:
        studies: in the order in which they are made.
        folder: where pieces are kept.
        out: where each study's files and the page go.
        scale: of the studies, for the page.
        order: names of all studies there are: the page shows those of them that `out` holds.

    Returns:
        The page.

    Raises:
        AdJaxError: naming the arms that failed, after everything else is done.
    """
    workshop, todo, failed = Workshop(folder), list(studies), {}
    for study in todo:
        check(study)
    every = [(e, study.mixture(arm, e.seed)) for study in todo for arm in study.arms for e in study.runs(arm)]
    progress = Progress(workshop, [e for e, _ in every], [of for _, of in every])
    while todo:
        advanced = False
        for study in list(todo):
            runs, taught = {}, {}
            for arm in study.arms:
                for e in study.runs(arm):
                    name = f"{study.name}, {arm}, seed {e.seed}"
                    runs[name], taught[name] = e, (study.teacher(arm, e.seed), study.mixture(arm, e.seed))
            for name, e in runs.items():
                if workshop.done(e) or name in failed:
                    continue
                log(f"\n{name}: {progress.line()}")
                try:
                    advanced |= workshop.make(e, *taught[name])
                except AdJaxError as error:  # the other arms do not need it, and a night's work should not end with it
                    log(f"{name} failed: {error}")
                    failed[name], advanced = error, True
            missing = {name for name, e in runs.items() if not workshop.done(e)}
            if not missing:
                try:
                    finish(study, workshop, out, scale)
                    page.write(out, order)
                except AdJaxError as error:  # a claim that means nothing of these curves
                    log(f"{study.name}: {error}")
                    failed[f"{study.name}, its claims"] = error
            if missing <= failed.keys():
                todo.remove(study)
                advanced = True
        if todo and not advanced:
            log("waiting for what other processes are at")
            time.sleep(WAIT_SECONDS)
    if failed:
        each = "".join(f"\n  {name}: {error}" for name, error in failed.items())
        raise AdJaxError(f"{len(failed)} runs failed, all others are done; the same command tries them again:{each}")
    return out / "claims.html"


def check(study: Study) -> None:
    """Raise ConfigError for a claim whose number could mean nothing, before anything is run.

    It may need what a random or the optimal policy earns, which a family need not know, or the one to be above the
    other.
    """
    for claim in study.claims:
        for one in statistics_of(claim.quantity):
            if one.name in NEEDS:
                parts = build(study.runs(one.arm)[0])
                sets = parts.evaluated
                tasks = sets.get(one.set or next(iter(sets)))
                if tasks is not None:  # another set is named when the claims are decided, with those there are

                    def of(returns):
                        return None if returns is None else np.asarray(returns).mean(keepdims=True)

                    one.check(of(parts.family.random_return(tasks)), of(parts.family.optimal_return(tasks)))


class Progress:
    """How much of all the work is done, and how long the rest may take at the rate so far."""

    def __init__(
        self,
        workshop: Workshop,
        experiments: Sequence[Experiment],
        mixtures: Sequence[tuple[Mixture, str] | None] | None = None,
    ):
        self.pieces: dict[Path, tuple[float, Callable[[], bool]]] = {}
        for e, of in zip(experiments, mixtures or [None] * len(experiments), strict=True):
            model, curve, weights = workshop.model(e, of), workshop.curve(e), work(e)
            before = self.pieces[model][0] if of is not None and model in self.pieces else 0.0  # its other members'
            self.pieces[model] = before + weights["model"], lambda folder=model: (folder / "trained.json").exists()
            self.pieces[curve] = weights["curve"], lambda folder=curve: (folder / "results.json").exists()
        self.total = sum(weight for weight, _ in self.pieces.values())
        self.started, self.before = time.monotonic(), self.done()

    def done(self) -> float:
        """Return the weight of the pieces that are there."""
        return sum(weight for weight, done in self.pieces.values() if done())

    def line(self) -> str:
        """For the terminal."""
        done = self.done()
        made, elapsed = done - self.before, time.monotonic() - self.started
        left = "" if made <= 0 else f", about {_clock((self.total - done) * elapsed / made)} left"
        return f"{done / max(self.total, 1):.0%} of the work is done{left}"


def finish(study: Study, workshop: Workshop, out: Path, scale: str) -> None:
    """Decide the study's claims and write its files into `out/<name>`."""
    arms, sets = {}, {}
    for name in study.arms:
        experiments = study.runs(name)
        results = report.load([workshop.curve(e) for e in experiments])
        for e, run in zip(experiments, results["runs"], strict=True):
            workshop.check(e, run.get("behavior"))
        sets[name] = gather(results)
        trained = [workshop.model(e, study.mixture(name, e.seed)) / "trained.json" for e in experiments]
        arms[name] = {
            "changes": changes(dataclasses.replace(experiments[0], seed=0)),
            "x": study.arms[name].x,
            "group": study.arms[name].group,
            "seeds": [e.seed for e in experiments],
            "trained": [read_json(file) if file.exists() else None for file in trained],
            "evaluated": [run["provenance"] for run in results["runs"]],
            "prompts": [run["sets"][0].get("prompt") for run in results["runs"]],
            "statistics": report.statistics(results)["sets"],
        }
    verdicts = [decide(claim, sets) for claim in study.claims]
    data = {
        "schema": SCHEMA,
        "study": study.name,
        "title": study.title,
        "scale": scale,
        "seeds": study.seeds,
        "claims": [verdict.to_json() for verdict in verdicts],
        "arms": arms,
    }
    hidden = [name for name, arm in study.arms.items() if not arm.shown]
    page.write_study(out / study.name, data, study.figure, sets, study.axis, study.log, study.sets, hidden)
    held = sum(verdict.holds for verdict in verdicts)
    log(f"\n{study.name}: {held} of {len(verdicts)} claims hold")
    for verdict in verdicts:
        log(f"  {'holds        ' if verdict.holds else 'does not hold'}  {study_text.sentence(verdict.to_json())}")


def _clock(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
