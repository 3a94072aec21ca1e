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

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ad_jax import methods
from ad_jax.checkpoint import lineage
from ad_jax.checkpoint.identity import canonical
from ad_jax.envs.base import TaskFamily
from ad_jax.errors import AdJaxError
from ad_jax.experiment import Experiment, build, name_of
from ad_jax.files import read_json, write_json
from ad_jax.models.base import ModelConfig
from ad_jax.policies.base import PolicyConfig
from ad_jax.process import locks
from ad_jax.process.metrics import say
from ad_jax.report import report
from ad_jax.report.results import gather
from ad_jax.run.origins import Origins
from ad_jax.run.pipeline import Run
from ad_jax.sources.base import SourceConfig
from ad_jax.study import Study, page
from ad_jax.study import text as study_text
from ad_jax.study.claims import NEEDS, decide, statistics_of
from ad_jax.study.form import SCHEMA

WAIT_SECONDS = 2.0  # between two looks at what other processes are at


def changes(value: Any) -> Any:
    """A config as plain data, without what is at its default: a new option with a default changes no key."""
    if isinstance(value, Experiment):  # keys of before there was a `method` stay what they were
        return _changed(value, apart=("method",)) | methods.as_before(value.method, _changed(value.method))
    if isinstance(value, TaskFamily | SourceConfig | ModelConfig | PolicyConfig):
        return {"name": name_of(value), "options": _changed(value)}
    return _changed(value)


def _changed(value: Any, apart: tuple[str, ...] = ()) -> Any:
    if not dataclasses.is_dataclass(value):
        return canonical(json.loads(json.dumps(value)))
    fields = {field.name: field for field in dataclasses.fields(value)}
    at_default = lambda name: getattr(value, name) == fields[name].default
    return {name: changes(getattr(value, name)) for name in fields if name not in apart and not at_default(name)}


def key(experiment: Experiment) -> str:
    """Twelve hex digits of everything that the experiment changes."""
    return _digest(changes(experiment))


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


def collected_by(e: Experiment) -> Experiment:
    """What of an experiment decides its histories."""
    return Experiment("histories", e.env, e.source, seed=e.seed, tasks=e.tasks, collect=e.collect)


def trained_by(e: Experiment) -> Experiment:
    """What of an experiment decides its trained model."""
    defaults = {"evaluate": type(e.evaluate)(), "reference": None, "logging": type(e.logging)()}
    return dataclasses.replace(e, name="model", **defaults)


class Workshop:
    """Where the pieces lie, and how each is made."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._families: dict[str, Any] = {}  # how each behaves now, by name and options
        self._before = dict(_named_before(self.folder))

    def curve(self, e: Experiment) -> Path:
        """The run directory of an evaluation."""
        return self._place("curves", key(e))

    def model(self, e: Experiment) -> Path:
        """The run directory of a trained model."""
        return self._place("models", key(trained_by(e)))

    def histories(self, e: Experiment) -> Path:
        """Where a collection is."""
        return self._place("histories", key(collected_by(e)))

    def _place(self, kind: str, name: str) -> Path:
        return self.folder / kind / self._before.get((kind, name), name)

    def done(self, e: Experiment) -> bool:
        """Whether the evaluation is there, in full."""
        return (self.curve(e) / "results.json").exists()

    def check(self, e: Experiment, behavior: Any) -> None:
        """Raise AdJaxError where the task family was edited since that piece, which behaved so, was made."""
        kind = json.dumps(changes(e.env), sort_keys=True)
        if kind not in self._families:
            self._families[kind] = Origins(e, build(e)).family
        if told := lineage.behaves_otherwise(behavior, {"family": self._families[kind]}, e.to_json(), ("family",)):
            raise AdJaxError(f"{told} from when {self.curve(e)} was made. Use another directory (--dir)")

    def make(self, e: Experiment) -> bool:
        """Collect, train and evaluate what is missing; False where another process is at a piece of it."""
        histories = str(self.histories(e))
        with _lock(self.curve(e)) as mine:
            if not mine or (build(e).trained and not self._train(e, histories)):
                return False
            Run(e, self.curve(e), histories, trained=self.model(e)).evaluate()
        return True

    def _train(self, e: Experiment, histories: str) -> bool:
        """Make the model of `e`; False where another process is at it or at its histories."""
        folder = self.model(e)
        if (folder / "trained.json").exists():
            return True
        with _lock(folder) as mine:
            if not mine:
                return False
            run = Run(trained_by(e), folder, histories)
            with _lock(self.histories(e)) as mine_too:
                if not mine_too:
                    return False
                run.collect()
            run.distill()
            # Opening a run directory anew says what code opened it; this says what code trained.
            write_json(folder / "trained.json", read_json(folder / "environment.json"), indent=1)
        return True


def _named_before(folder: Path) -> Iterator[tuple[tuple[str, str], str]]:
    """Names of pieces whose keys an earlier version made, of options as they were written, by kind and key of today."""
    for file in (*folder.glob("curves/*/config.json"), *folder.glob("models/*/config.json")):
        with contextlib.suppress(AdJaxError, OSError):
            data = read_json(file)
            if "options" in data["env"]:
                e = Experiment.from_json(data)
                yield (file.parents[1].name, key(e)), file.parent.name
                written = {name: canonical(data[name]) for name in ("env", "source")}
                collected = changes(collected_by(e))
                yield ("histories", _digest(collected)), _digest(collected | written)


def _lock(piece: Path) -> AbstractContextManager[bool]:
    """Whether a piece is ours to make, within."""
    return locks.taken(piece.with_suffix(".lock"))


def work(e: Experiment) -> dict[str, float]:
    """What training and evaluating take, in FLOP by a rough count: weights for progress over many runs."""
    parts = build(e)
    size = sum(x.size for x in jax.tree.leaves(parts.params)) + 100_000  # what a step costs beside its products
    rollouts = sum(len(parts.family.task_ids(tasks)) for tasks in parts.split.held_out.values()) * e.evaluate.seeds
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
    progress = Progress(workshop, [e for study in todo for arm in study.arms for e in study.runs(arm)])
    while todo:
        advanced = False
        for study in list(todo):
            runs = {f"{study.name}, {arm}, seed {e.seed}": e for arm in study.arms for e in study.runs(arm)}
            for name, e in runs.items():
                if workshop.done(e) or name in failed:
                    continue
                say(f"\n{name}: {progress.line()}")
                try:
                    advanced |= workshop.make(e)
                except AdJaxError as error:  # the other arms do not need it, and a night's work should not end with it
                    say(f"{name} failed: {error}")
                    failed[name], advanced = error, True
            missing = {name for name, e in runs.items() if not workshop.done(e)}
            if not missing:
                try:
                    finish(study, workshop, out, scale)
                    page.write(out, order)
                except AdJaxError as error:  # a claim that means nothing of these curves
                    say(f"{study.name}: {error}")
                    failed[f"{study.name}, its claims"] = error
            if missing <= failed.keys():
                todo.remove(study)
                advanced = True
        if todo and not advanced:
            say("waiting for what other processes are at")
            time.sleep(WAIT_SECONDS)
    if failed:
        each = "".join(f"\n  {name}: {error}" for name, error in failed.items())
        raise AdJaxError(f"{len(failed)} runs failed, all others are done; the same command tries them again:{each}")
    return out / "claims.html"


def check(study: Study) -> None:
    """Raises ConfigError for a claim whose number could mean nothing, before anything is run.

    It may need what a random or the optimal policy earns, which a family need not know, or the one to be above the
    other.
    """
    for claim in study.claims:
        for one in statistics_of(claim.quantity):
            if one.name in NEEDS:
                parts = build(study.arms[one.arm].experiment)
                sets = parts.split.held_out
                tasks = sets.get(one.set or next(iter(sets)))
                if tasks is not None:  # another set is named when the claims are decided, with those there are
                    of = lambda returns: None if returns is None else np.asarray(returns).mean(keepdims=True)
                    one.check(of(parts.family.random_return(tasks)), of(parts.family.optimal_return(tasks)))


class Progress:
    """How much of all the work is done, and how long the rest may take at the rate so far."""

    def __init__(self, workshop: Workshop, experiments: Sequence[Experiment]):
        self.pieces: dict[Path, tuple[float, Callable[[], bool]]] = {}
        for e in experiments:
            model, curve, weights = workshop.model(e), workshop.curve(e), work(e)
            self.pieces[model] = weights["model"], lambda folder=model: (folder / "trained.json").exists()
            self.pieces[curve] = weights["curve"], lambda folder=curve: (folder / "results.json").exists()
        self.total = sum(weight for weight, _ in self.pieces.values())
        self.started, self.before = time.monotonic(), self.done()

    def done(self) -> float:
        """The weight of the pieces that are there."""
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
        trained = [workshop.model(e) / "trained.json" for e in experiments]
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
    page.write_study(out / study.name, data, study.figure, sets, study.axis, study.log, study.sets)
    held = sum(verdict.holds for verdict in verdicts)
    say(f"\n{study.name}: {held} of {len(verdicts)} claims hold")
    for verdict in verdicts:
        say(f"  {'holds        ' if verdict.holds else 'does not hold'}  {study_text.sentence(verdict.to_json())}")


def _clock(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
