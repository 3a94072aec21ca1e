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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from ad_jax import (
    checkpoint,
    collect,
    cost,
    distill,
    evaluate,
    history_store,
    locks,
    metrics,
    places,
    processes,
    provenance,
    replay,
    report,
    reward_unit,
    rl2,
    rotation,
    settings,
)
from ad_jax.collection import check_histories, make_manifest
from ad_jax.curves import Curves
from ad_jax.envs.base import optimal_labels
from ad_jax.errors import ConfigError, HistoryError
from ad_jax.experiment import Experiment, build
from ad_jax.keys import a_key
from ad_jax.metrics import say
from ad_jax.models import lstm
from ad_jax.numerals import significant
from ad_jax.run_directory import check, claim, digest, read_json, write_json
from ad_jax.seal import seal
from ad_jax.sharding import batch_devices, make_mesh, own_mesh, put, replicated, rows_mesh


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """No other run may work in the directory, within; the first process of this one holds the lock."""
    with contextlib.ExitStack() as stack:
        processes.on_first(lambda: stack.enter_context(locks.only_one(folder)))
        yield


def _alone(stage: Callable[["Run"], Any]) -> Callable[["Run"], Any]:
    """A stage during which no other run may work in the directory, and JAX's switches are ours."""

    @functools.wraps(stage)
    def alone(self: "Run") -> Any:
        with _alone_in(self.folder), settings.pinned():
            return stage(self)

    return alone


class Run:
    """One experiment in one directory.

    Args:
        experiment: what to run; equal to the directory's if it holds one already.
        folder: the run directory; default `runs/<name>/<hash of the config>`.
        histories: where the collection is; default `folder/histories`.
        trained: the run directory whose trained model is evaluated; default `folder` itself.
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
    ):
        self.experiment, self.parts = experiment, build(experiment)
        self.folder = places.local(folder or Path("runs") / experiment.name / digest(experiment), "--dir").absolute()
        self.histories, self.given = histories or str(self.folder / "histories"), histories is not None
        self.trained = places.local(trained or self.folder)
        self.mesh = rows_mesh(experiment.mesh)
        if trains:
            self._can_train()
        if self.parts.trained and not processes.on_first(lambda: (self.folder / "config.json").exists()):
            places.check_checkpoints(self.folder)
        places.check_histories(self.histories)
        same = {"version": provenance.version(), "folder": str(self.folder), "histories": self.histories}
        processes.check_equal("run", same | {"experiment": experiment.to_json()})
        provenance.use_compilation_cache()
        processes.on_first(lambda: check(self.folder, experiment))  # before there is a lock in somebody else's folder
        with _alone_in(self.folder):
            processes.on_first(lambda: claim(self.folder, experiment))
            self.log = metrics.MetricsLog(self.folder, experiment.logging, experiment.name)
            processes.on_first(lambda: write_json(self.folder / "environment.json", provenance.collect()))
        self.curves = Curves(experiment, self.parts, self.mesh, self.folder, self.log)

    @property
    def train_ids(self) -> list[str]:
        """Ids of the training tasks."""
        return self.parts.family.task_ids(self.parts.split.train)

    @_alone
    def all(self) -> Path:
        """The four stages; returns the report's page."""
        self._can_train()
        self.collect()
        self.distill()
        self.evaluate()
        return self.report()

    @_alone
    def collect(self) -> None:
        """Stage 1. Complete histories that the caller names are used as they are, also those of another seed."""
        e, p = self.experiment, self.parts
        if not p.trained:
            return say(f"collect  nothing to do: model {e.model.name} has no parameters, so no histories are needed")
        if e.rl2 is not None:
            return say("collect  nothing to do: RL² learns from the training tasks themselves")
        if self.given and (facts := processes.on_first(self._complete)) is not None:
            return self._finish("collect", **facts) if facts else None
        mesh = own_mesh(self.mesh)
        learners = collect.Learners(p.family, p.source, e.collect.episodes, mesh, e.collect.chunk_learners)
        manifest = make_manifest(e, p, learners)
        result = collect.collect(
            learners,
            p.split.train,
            self.train_ids,
            e.collect,
            e.seed,
            self.histories,
            manifest,
            self.log,
            e.logging.progress_seconds,
        )
        self._finish(
            "collect",
            seconds=result.seconds,
            compile_seconds=result.compile_seconds,
            env_steps=result.env_steps,
            # From the ledger: other sessions, or other processes, may have written chunks.
            **processes.on_first(self._source_at_the_end),
        )

    def _complete(self) -> dict[str, float] | None:
        """Facts of given histories that are complete; None of others, which the writer resumes or refuses."""
        with contextlib.suppress(HistoryError):
            found = history_store.open_store(self.histories)
            check_histories(found.manifest, self.experiment, self.parts)
            say(f"collect  nothing to do: {self.histories} is complete")
            return _source_at_the_end(found)
        return None

    def _source_at_the_end(self) -> dict[str, float]:
        return _source_at_the_end(history_store.open_store(self.histories, allow_partial=True))

    @_alone
    def distill(self) -> None:
        """Stage 2, or RL² in its place."""
        e, p = self.experiment, self.parts
        if not self._can_train():
            return say(f"distil   nothing to do: {self.folder / 'checkpoints'} is trained to the end")
        if e.rl2 is not None:
            return self._rl2(e.rl2)
        if not p.trained:
            return say(f"distil   nothing to do: model {e.model.name} has no parameters")
        store = processes.together(lambda: history_store.open_store(self.histories))
        check_histories(store.manifest, e, p)
        self._check_room()
        relabel = lambda histories: optimal_labels(p.family, histories.transition.observation, histories.tasks)
        unit = self._reward_unit(e.replay.reward_unit, lambda: reward_unit.of_store(store))
        model = reward_unit.applied(p.model, unit)
        trainer = distill.Trainer(model, p.spec, e.distill, e.replay, self.mesh, e.seed, p.family.render)
        meta = self._meta(trainer.like.params, store.task_ids, unit)
        in_loop = self.curves.in_loop(model) if e.distill.evaluate_every else None
        with rotation.residents(store, p.spec, e.replay, self.mesh, e.seed, relabel) as residents:
            result = distill.distill(
                trainer,
                residents,
                e.distill,
                e.replay,
                self.folder / "checkpoints",
                meta,
                self.log,
                in_loop,
                e.logging.progress_seconds,
            )
        parameters = sum(x.size for x in jax.tree.leaves(result.params))
        if (facts := residents.facts()) and result.step > result.resumed_from:
            say("distil   " + rotation.summary(facts, result.step - result.resumed_from, result.seconds))
        self._finish(
            "distill",
            seconds=result.seconds,
            compile_seconds=result.compile_seconds,
            updates=result.step,
            resumed_from=result.resumed_from,
            loss=result.loss,
            parameters=parameters,
            positions=result.step * e.replay.batch * e.replay.segment,
            **facts,
        )

    def _can_train(self) -> bool:
        """Whether this experiment can be trained on the devices there are. Collecting and evaluating take any.

        Raises:
            ConfigError: if it cannot, and training has not ended.
        """
        e = self.experiment
        if not self.parts.trained:
            return True
        try:
            split = batch_devices(make_mesh(e.mesh))
            e.replay.validate(split) if e.rl2 is None else e.rl2.check_devices(split)
        except ConfigError:
            if not checkpoint.has(self.folder / "checkpoints", (e.distill if e.rl2 is None else e.rl2).updates):
                raise
            return False
        return True

    def _check_room(self) -> None:
        """Raises ConfigError where a device tells how much memory it has, and the histories alone are more."""
        e, split = self.experiment, batch_devices(self.mesh)
        limit = (self.mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")
        needed = cost.resident_bytes(e, self.parts) // split
        if limit is None or needed < limit:
            return
        rows = cost.versions(e, self.parts)
        wanted = replay.RotationConfig(rows * limit // needed // 2).fitted(e.replay.groups)
        raise ConfigError(
            f"the histories take {cost.of(needed, 'B')} of each device, which has {cost.of(limit, 'B')}. Let them take "
            f"turns: replay.rotation.resident={wanted.resident} holds half of that; or spread them over more devices"
        )

    def _rl2(self, config: rl2.Config) -> None:
        """Training without histories."""
        e, p = self.experiment, self.parts
        network = lstm.actor_critic(p.model_config, p.seen_spec)
        by_chance = lambda: rl2.unit_by_chance(p.family, p.split.train, config, e.seed)
        unit = self._reward_unit(config.reward_unit, by_chance)
        trainer = rl2.Trainer(network, p.family, p.split.train, config, self.mesh, e.seed, unit)
        meta, folder = self._meta(trainer.like.params, self.train_ids, unit), self.folder / "checkpoints"
        result = rl2.train(trainer, p.family, config, folder, meta, self.log, e.logging.progress_seconds)
        self._finish(
            "distill",
            seconds=result.seconds,
            compile_seconds=result.compile_seconds,
            updates=result.step,
            resumed_from=result.resumed_from,
            parameters=sum(x.size for x in jax.tree.leaves(result.params)),
            env_steps=result.env_steps,
            **result.facts,
        )

    def _reward_unit(self, asked: float | None, found: Callable[[], float]) -> float:
        """What the rewards of this training are divided by: what was asked for, what it began with, or `found()`."""

        def unit() -> float:
            saved = checkpoint.saved_meta(self.folder / "checkpoints")
            if asked is not None or saved is None:
                return found() if asked is None else float(asked)
            return saved.get("reward_unit", reward_unit.NONE)  # an earlier version divided nothing

        found_unit = processes.on_first(unit)
        if found_unit != reward_unit.NONE:
            say(f"distil   the model counts rewards in units of {found_unit:g} (reward_unit=1 would leave them alone)")
        return found_unit

    def _meta(self, params: Any, train_task_ids: list[str], unit: float) -> dict[str, Any]:
        """What every checkpoint says of itself."""
        e, p = self.experiment, self.parts
        return {
            "architecture": checkpoint.architecture_of(params),
            "spec": p.seen_spec.to_json(),  # what an `Agent` is fed
            "model": {"name": e.model.name, "options": dataclasses.asdict(p.model_config)},
            "reward_unit": unit,
            "seed": e.seed,
            "train_task_ids": sorted(set(train_task_ids)),
            "experiment": e.to_json(),
        }

    @_alone
    def evaluate(self) -> None:
        """Stage 3."""
        e, p = self.experiment, self.parts
        step, params, meta = self._trained() if p.trained else (0, {}, {"train_task_ids": []})
        unit: Any = meta.get("reward_unit", reward_unit.NONE)  # an earlier version divided nothing
        model = reward_unit.applied(p.model, unit)
        seconds, env_steps, sets = 0.0, 0, []
        for name, tasks in p.split.held_out.items():
            ids = p.family.task_ids(tasks)
            evaluate.check_unseen(ids, meta["train_task_ids"])
            data = {"name": name, "kind": p.split.kind, "tasks": evaluate.tasks_as_data(p.family, tasks)}
            data |= {"returns": {}, "steps": {}}
            for mode in ("sampled", "greedy") if e.evaluate.greedy else ("sampled",):
                part, took = self.curves.part(
                    f"{name}-{mode}",
                    meta,
                    step,
                    functools.partial(self.curves.in_context, data, tasks, model, params, mode),
                )
                data["returns"][mode], data["steps"][mode] = part["returns"], part["steps"]
                data.setdefault("paths", part["paths"])
                data.setdefault("prompt", part.get("prompt"))
                env_steps, seconds = env_steps + part["env_steps"], seconds + took
            data["source"], took = self.curves.part(
                f"{name}-source", meta, step, functools.partial(self.curves.of_source, tasks, ids)
            )
            seconds += took
            sets.append(data)
        self._finish("evaluate", seconds=seconds, env_steps=env_steps)
        processes.on_first(lambda: self._write_results(sets, {"step": step, "which": e.evaluate.checkpoint}))

    @_alone
    def report(self) -> Path:
        """Stage 4; returns the page."""
        return Path(processes.on_first(self._report))

    def _report(self) -> str:
        results = report.load([self.folder / "results.json"])
        page = report.write(results, self.folder / "report")
        say(f"\n{report.summary(results)}\n\n{report.table(results)}\n\nreport   {page}")
        return str(page)

    def _trained(self) -> tuple[int, Any, dict[str, Any]]:
        """Step, parameters and metadata of the checkpoint that is evaluated."""
        step, state, meta = checkpoint.load(self.trained, self.experiment.evaluate.checkpoint)
        expected = checkpoint.architecture_of(jax.eval_shape(self.parts.model.init, a_key(0)))
        checkpoint.check_architecture(meta, expected, self.trained)
        return step, put(state["params"], replicated(self.mesh)), meta

    def _write_results(self, sets: list[dict[str, Any]], which: dict[str, Any]) -> None:
        e = self.experiment
        run = {
            "seed": e.seed,
            "config": e.to_json(),
            "provenance": read_json(self.folder / "environment.json"),
            "stages": self._stages(),
            "episode_length": self.parts.family.episode_length,
            "checkpoint": which,
            "sets": sets,
        }
        write_json(self.folder / "results.json", seal({"schema": report.SCHEMA, "experiment": e.name, "runs": [run]}))

    def _stages(self) -> dict[str, Any]:
        """The facts of every stage; those of training may be another directory's."""
        files = (folder / "stages.json" for folder in (self.trained, self.folder))
        return {stage: facts for file in files if file.exists() for stage, facts in read_json(file).items()}

    def _finish(self, stage: str, **facts: float) -> None:
        """Record a stage's facts; a stage that had nothing left to do keeps the facts of when it did."""
        processes.on_first(lambda: self._record(stage, facts))

    def _record(self, stage: str, facts: dict[str, float]) -> None:
        path = self.folder / "stages.json"
        stages = read_json(path) if path.exists() else {}
        if stage not in stages or facts.get("env_steps"):
            stages[stage] = {name: significant(float(value), 3) for name, value in facts.items()}
        write_json(path, stages)


def _source_at_the_end(store: history_store.HistoryStore) -> dict[str, float]:
    """Say what the source of a collection came to; the facts of it that are known."""
    if store.returns is None:
        return {}
    say("collect  source " + "; ".join(f"{what}: {how_much}" for what, how_much in store.returns.lines()))
    return store.returns.facts()
