"""A run directory and the four stages on it. The same call goes on where the last one stopped.

    config.json        the experiment; a run directory holds one
    environment.json   versions, device, commit
    histories/         stage 1, a collection (or `histories` names one elsewhere: a directory, gs:// or s3:// URL)
    checkpoints/       stage 2; a model without parameters has neither these nor histories
    evaluation/        stage 3, one file per finished part
    stages.json        seconds and counts of each finished stage
    results.json       stage 3, everything that the report is drawn from
    report/            stage 4

Stages never import each other; they meet here and on disk. So do several processes (`processes.py`): all of them go
through every stage, and the first one writes what is not dealt out among them.
"""

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from ad_jax import files
from ad_jax.checkpoint import checkpoint, lineage
from ad_jax.errors import ConfigError, OtherCheckpointError, OtherHistoriesError
from ad_jax.experiment import Experiment, Mixture, build, name_of
from ad_jax.files import JsonObject, read_json, write_json
from ad_jax.history import reward_unit
from ad_jax.history import store as history_store
from ad_jax.history.opaque import Opaque
from ad_jax.process import distributed, locks, metrics, provenance, settings
from ad_jax.process.metrics import log
from ad_jax.report import report
from ad_jax.report.seal import seal
from ad_jax.run import collection, directory, frozen, training
from ad_jax.run.curves import Curves
from ad_jax.run.directory import check, claim
from ad_jax.run.origins import Origins, digest_of
from ad_jax.sharding import batch_devices, make_mesh, own_mesh, put, replicated, rows_mesh
from ad_jax.stage import collect, episodes, evaluate
from ad_jax.types import PyTree

T = TypeVar("T")


class Placed(Protocol):
    """What has a directory of its own."""

    folder: Path


P = TypeVar("P", bound=Placed)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """No other run may work in the directory, within; the first process of this one holds the lock."""
    with contextlib.ExitStack() as stack:
        distributed.on_first(lambda: stack.enter_context(locks.only_one(folder)))
        yield


def alone(stage: Callable[[P], T]) -> Callable[[P], T]:
    """Return a stage during which no other run may work in the directory, and JAX's switches are ours."""

    @functools.wraps(stage)
    def by_itself(self: P) -> T:
        with alone_in(self.folder), settings.pinned():
            return stage(self)

    return by_itself


def claimed(folder: Path, experiment: Experiment | Mixture) -> metrics.MetricsLog:
    """Make a directory that of a run, with its environment in it, and return its log; raises as `directory.check`."""
    provenance.use_compilation_cache()
    distributed.on_first(lambda: check(folder, experiment))  # before there is a lock in somebody else's folder
    with alone_in(folder):
        distributed.on_first(lambda: claim(folder, experiment))
        log = metrics.MetricsLog(folder, experiment.logging, experiment.name)
        distributed.on_first(lambda: write_json(folder / "environment.json", provenance.collect(), indent=1))
    return log


class Run:
    """One experiment in one directory.

    Args:
        experiment: what to run; equal to the directory's if it holds one already.
        folder: the run directory; default `runs/<name>/<hash of the config>`.
        histories: where the collection is; default `folder/histories`. Of opaque tasks it is `env.histories`.
        trained: the run directory whose trained model is evaluated; default `folder` itself.
        redo: delete histories and checkpoints of the run directory that no longer fit the experiment and its plug-ins,
            and make them anew, where they would be refused.
        trains: whether to refuse at once, before anything is written, what these devices cannot train.

    Raises:
        ConfigError: if the experiment is refused, the directory holds something else, another process works there, or
            one of this run's differs.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: str | Path | None = None,
        histories: str | None = None,
        trained: str | Path | None = None,
        trains: bool = False,
        redo: bool = False,
    ):
        self.experiment, self.components = experiment, build(experiment)

        def default():
            return str(directory.default(experiment))

        self.folder = files.local(folder or distributed.on_first(default), "--dir").absolute()
        if isinstance(experiment.env, Opaque):
            histories = experiment.env.collection(histories)
        self.histories, self.given = histories or str(self.folder / "histories"), histories is not None
        self.trained, self.redo = files.local(trained or self.folder).absolute(), redo
        self.origins = Origins(experiment, self.components)
        # Before anything that several processes do together: they may have been started differently.
        same: JsonObject = {name: str(getattr(self, name)) for name in ("folder", "histories", "given", "trained")}
        same |= {"version": provenance.version(), "redo": redo, "trains": trains}
        distributed.check_equal("run", same | {"experiment": experiment.to_json()})
        self.mesh = rows_mesh(experiment.mesh)
        if trains:
            self._can_train()
        if self.components.trained and not distributed.on_first(lambda: (self.folder / "config.json").exists()):
            files.check_checkpoints(self.folder)
        files.check_histories(self.histories)
        if self.given and (split := collection.unseen_split(self.histories, experiment, self.components)) is not None:
            self.components = build(experiment, split)
            self.origins = Origins(experiment, self.components)
        self.log = claimed(self.folder, experiment)
        self.curves = Curves(experiment, self.components, self.mesh, self.folder, self.log, self.origins)

    @property
    def train_ids(self) -> list[str]:
        """Ids of the training tasks."""
        return self.components.family.task_ids(self.components.split.train)

    @alone
    def all(self) -> Path:
        """Return the four stages; returns the report's page."""
        self._can_evaluate()
        self._can_train()
        self.collect()
        self.distill()
        self.evaluate()
        return self.report()

    @alone
    def collect(self) -> None:
        """Stage 1. Complete histories that the caller names are used as they are, also those of another seed."""
        e, p = self.experiment, self.components
        if p.method.feed == "nothing":
            log(f"collect  nothing to do: model {name_of(e.model)} is not trained, so no histories are needed")
            return
        if p.method.feed == "tasks":
            log(f"collect  nothing to do: {p.method.title} learns from the training tasks themselves")
            return
        made_by, url = self.origins.of_histories, self.histories

        def complete():
            return collection.facts_if_complete(url, e, p, made_by)

        if self.given and (facts := distributed.on_first(complete)) is not None:
            if facts:
                self._finish("collect", True, **facts)
            return
        manifest = self._fitting(
            lambda: self._continued(collection.make_manifest(e, p, made_by)), None if self.given else Path(url)
        )
        collector = collect.Collector.of(p.family, p.source, e.collect, own_mesh(self.mesh))
        result = collect.collect(
            collector,
            p.split.train,
            self.train_ids,
            e.collect,
            e.seed,
            url,
            manifest,
            self.log,
            e.logging.progress_seconds,
        )

        # From the ledger: other sessions, or other processes, may have written chunks.
        def final_return():
            return collection.source_final_return(history_store.open_store(url, allow_partial=True))

        self._finish(
            "collect",
            result.env_steps > 0,
            seconds=result.seconds,
            compile_seconds=result.compile_seconds,
            env_steps=result.env_steps,
            **distributed.on_first(final_return),
        )

    def _continued(self, manifest: history_store.Manifest) -> history_store.Manifest:
        """Return the manifest of the collection that is there, if one is, and if it is this experiment's."""
        found = distributed.on_first(lambda: collection.there(self.histories))
        ours = collection.continued(manifest, found, self.experiment, self.histories, self.given)
        if self.redo and not self.given and found is not None and (odd := collection.differing(found, ours)):
            raise OtherHistoriesError(f"the histories in {self.histories} differ in {', '.join(odd[:4])}")
        if found is None:
            distributed.on_first(lambda: directory.forget(self.folder, "collect"))
        return ours

    def _fitting(self, call: Callable[[], T], made: Path | None) -> T:
        """`call()`; again without `made`, where that is not what this run would make and is to be made anew."""
        try:
            return call()
        except (OtherHistoriesError, OtherCheckpointError) as error:
            if not self.redo or made is None:
                raise
            log(f"redo     {error.args[0].partition('. ')[0]}: {made} is made anew")
            distributed.on_first(lambda: shutil.rmtree(made))
        return call()

    @alone
    def distill(self) -> None:
        """Stage 2, whatever the method."""
        if not self._can_train():
            log(f"distill  nothing to do: {self.folder / 'checkpoints'} is trained to the end")
            return
        if self.components.method.feed == "nothing":
            log(f"distill  nothing to do: model {name_of(self.experiment.model)} is not trained")
            return
        made_of, store = self.origins.of_run(), None
        if self.components.method.feed == "histories":
            store = self.collected()
            made_of |= {"histories": store.fingerprint}
        folder = self._fitting(lambda: self._checkpoints(made_of), self.folder / "checkpoints")
        training.record(self.folder, training.run(self, folder, made_of, store))

    def collected(self) -> history_store.HistoryStore:
        """Return the histories, which are of this experiment and fit on the devices."""
        e, p = self.experiment, self.components
        store = distributed.together(lambda: history_store.open_store(self.histories))
        collection.check_histories(store.manifest, e, p, self.origins.of_histories, self.histories, self.given)
        training.check_room(e, p, self.mesh)
        return store

    def _can_train(self) -> bool:
        """Whether this experiment can be trained on the devices there are. Collecting and evaluating take any.

        Raises:
            ConfigError: if it cannot, and training has not ended.
        """
        e, method = self.experiment, self.components.method
        if method.feed == "nothing":
            return True
        try:
            frozen.check_taught(method)
            method.check_devices(batch_devices(make_mesh(e.mesh)), e.replay)
        except ConfigError:
            if not checkpoint.has(self.folder / "checkpoints", method.updates):
                raise
            return False
        return True

    def _can_evaluate(self) -> None:
        """Raise ConfigError where tasks are ids, so that nothing can be played in them."""
        env = self.experiment.env
        if isinstance(env, Opaque):
            raise ConfigError(
                f"the tasks of the histories in {env.histories} are ids, and what an action does in them is not known: "
                "they are trained on (ad-jax distill), and cannot be evaluated. Evaluate the trained model in a task "
                f"family of the same observations and actions: ad-jax evaluate {self.experiment.name} "
                f"env=my_package.my_module:MyEnv --trained {self.folder}, where MyEnv has {env.manifest.spec}"
            )

    def _checkpoints(self, made_of: JsonObject) -> Path:
        """Where they lie; those that are there are of this run. Where none is, the facts of a training before go."""
        folder = self.folder / "checkpoints"
        saved = distributed.on_first(lambda: checkpoint.saved_meta(folder))
        if saved is None:
            distributed.on_first(lambda: directory.forget(self.folder, "distill"))
        else:
            lineage.check_own(saved, made_of, folder)
        return folder

    @alone
    def evaluate(self) -> None:
        """Stage 3."""
        self._can_evaluate()
        e, p = self.experiment, self.components
        untrained: tuple[int, PyTree, JsonObject] = 0, {}, {"train_task_ids": []}
        step, params, meta = self._trained() if p.trained else untrained
        unit: float = meta.get("reward_unit", reward_unit.NONE)  # an earlier version divided nothing
        which: JsonObject = {"step": step, "which": e.evaluate.checkpoint}
        if p.trained:
            which["fingerprint"] = digest_of(params)
        if self.trained != self.folder and p.trained:
            which["trained_as"] = {"experiment": meta["experiment"]["name"], "seed": meta["seed"]}
        seconds, env_steps, sets = 0.0, 0, []
        for name, tasks in p.evaluated.items():
            ids = p.family.task_ids(tasks)
            if name in p.split.held_out:
                evaluate.check_unseen(ids, meta["train_task_ids"])
            kind = p.split.kind if name in p.split.held_out else "none, these were trained on"
            data = {"name": name, "kind": kind, "tasks": episodes.tasks_as_data(p.family, tasks)}
            data |= {"returns": {}, "steps": {}}
            asked = {"checkpoint": which, "reward_unit": unit, "tasks": ids, "train_tasks": meta["train_task_ids"]}
            if (acting := getattr(p.method, "acting", None)) is not None:
                asked["acting"] = dataclasses.asdict(acting)
            for mode in ("sampled", "greedy") if e.evaluate.greedy else ("sampled",):
                policy = p.policy(mode, e.evaluate.temperature or 1.0, unit)
                compute = functools.partial(self.curves.in_context, data, tasks, policy, params, mode)
                part, took = self.curves.part(f"{name}-{mode}", asked, compute)
                data["returns"][mode], data["steps"][mode] = part["returns"], part["steps"]
                data.setdefault("paths", part["paths"])
                data.setdefault("prompt", part.get("prompt"))
                env_steps, seconds = env_steps + part["env_steps"], seconds + took
            data["source"], took = self.curves.part(
                f"{name}-source", {"tasks": ids}, functools.partial(self.curves.of_source, tasks, ids)
            )
            seconds += took
            sets.append(data)
        self._finish("evaluate", True, seconds=seconds, env_steps=env_steps)
        behavior = self.origins.of_evaluation
        distributed.on_first(lambda: self._write_results(sets, which, behavior))

    @alone
    def report(self) -> Path:
        """Stage 4; returns the page."""
        return Path(distributed.on_first(self._report))

    def _report(self) -> str:
        results = report.load([self.folder / "results.json"])
        page = report.write(results, self.folder / "report")
        log(f"\n{report.summary(results)}\n\n{report.table(results)}\n\nreport   {page}")
        return str(page)

    def _trained(self) -> tuple[int, PyTree, JsonObject]:
        """Step, parameters and metadata of the checkpoint that is evaluated."""
        step, params, meta = self.saved()
        expected = checkpoint.architecture_of(self.components.params)
        checkpoint.check_architecture(meta, expected, self.trained)
        of_this = self.trained == self.folder
        (lineage.check_own if of_this else lineage.check_trained)(meta, self.origins.of_run(), self.trained)
        return step, put(params, replicated(self.mesh)), meta

    def saved(self) -> tuple[int, PyTree, JsonObject]:
        """Return step, parameters and metadata of the checkpoint that is evaluated, as they lie on disk."""
        step, state, meta = checkpoint.load(self.trained, self.experiment.evaluate.checkpoint)
        return step, state["params"], meta

    def _write_results(self, sets: list[JsonObject], which: JsonObject, behavior: JsonObject) -> None:
        e = self.experiment
        run = {
            "seed": e.seed,
            "config": e.to_json(),
            "provenance": read_json(self.folder / "environment.json"),
            "stages": directory.stages(self.folder, self.trained),
            "episode_length": self.components.family.episode_length,
            "reward_dtype": str(self.components.family.reward_dtype),
            "behavior": behavior,
            "checkpoint": which,
            "sets": sets,
        }
        write_json(self.folder / "results.json", seal({"schema": report.SCHEMA, "experiment": e.name, "runs": [run]}))

    def _finish(self, stage: str, worked: bool, **facts: float) -> None:
        """Record a stage's facts; a stage that had nothing left to do keeps the facts of when it did."""
        distributed.on_first(lambda: directory.record(self.folder, stage, facts, worked))
