"""A run of a mixture: one model over several families, each of which has a run directory of its own.

    config.json           the mixture
    checkpoints/          stage 2: the trunk and the layers of every family that is trained
    stages.json           seconds and counts of the training
    members/NAME/         the ordinary run directory of a family: histories/, evaluation/, results.json, report/
    members/NAME/checkpoints/   of a family that is held out: its own layers, fitted to the trunk, beside the trunk
    report/               one page, a curve a family

Collecting, evaluating and reporting are the ordinary stages of each member, in its directory. Only training is the
mixture's own, and it goes through the one loop, as every training does.
"""

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from ad_jax import files
from ad_jax.checkpoint import checkpoint, lineage
from ad_jax.errors import ConfigError, OtherCheckpointError
from ad_jax.experiment import Experiment, Mixture, build_members
from ad_jax.files import JsonObject
from ad_jax.history.opaque import Opaque
from ad_jax.history.store import HistoryStore
from ad_jax.process import distributed, provenance
from ad_jax.process.metrics import log
from ad_jax.report import mixture as page
from ad_jax.report import report
from ad_jax.run import directory, frozen, training, training_mixture
from ad_jax.run.pipeline import Run, alone, claimed
from ad_jax.sharding import batch_devices, make_mesh, rows_mesh
from ad_jax.types import PyTree


class MemberRun(Run):
    """The run of one member. What it evaluates is its part of the mixture's checkpoint, or its own, fitted to that."""

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        histories: str | None,
        trained: Path | None,
        name: str,
        redo: bool = False,
    ):
        """`trained` is the mixture's directory, in which the family is `name`; None: its own layers are fitted."""
        self.name, self.fitted = name, trained is None
        super().__init__(experiment, folder, histories, trained, redo=redo)

    def saved(self) -> tuple[int, PyTree, JsonObject]:
        """Return step, parameters and metadata of this family, of the checkpoint that is evaluated."""
        step, params, meta = super().saved()
        if self.fitted:
            return step, params, meta
        params, mine = frozen.chosen(params, meta, self.name)
        trained = mine["experiment"] | {"name": f"{meta['experiment']['name']}, {mine['experiment']['name']}"}
        return step, params, mine | {"experiment": trained}


class MixtureRun:
    """One mixture in one directory; a stage goes on where it was stopped.

    Args:
        mixture: what to run; equal to the directory's if it holds one already.
        folder: the run directory; default `runs/<name>/<hash of the config>`.
        histories: where the collections are: one place, in which each family's has its name, or a place for each by
            name; default in the families' directories. Those of opaque tasks are where `env.histories` says.
        trains: whether to refuse at once, before anything is written, what these devices cannot train.
        redo: delete histories and checkpoints that no longer fit, and make them anew, where they would be refused.

    Raises:
        ConfigError: if the mixture or a member is refused, the directory holds something else, or another process works
            there.
    """

    def __init__(
        self,
        mixture: Mixture,
        folder: str | Path | None = None,
        histories: str | Mapping[str, str] | None = None,
        trains: bool = False,
        redo: bool = False,
    ):
        self.experiment, self.parts, self.redo = mixture, build_members(mixture), redo
        self.folder = files.local(
            folder or distributed.on_first(lambda: str(directory.default(mixture))), "--dir"
        ).absolute()
        same: JsonObject = {"folder": str(self.folder), "version": provenance.version(), "redo": redo, "trains": trains}
        distributed.check_equal("run", same | {"experiment": mixture.to_json()})
        self.mesh = rows_mesh(mixture.mesh)
        if trains:
            self._can_train()
        if not distributed.on_first(lambda: (self.folder / "config.json").exists()):
            files.check_checkpoints(self.folder)
        self.log = claimed(self.folder, mixture)
        self.runs = {name: self._member(name, histories) for name in mixture.members}

    def _member(self, name: str, histories: str | Mapping[str, str] | None) -> MemberRun:
        """Return the run of a member, in its own directory."""
        if isinstance(histories, str):
            opaque = isinstance(self.experiment.members[name].experiment.env, Opaque)
            place = None if opaque else f"{histories.rstrip('/')}/{name}"
        else:
            place = (histories or {}).get(name)
        own, fitted = self.folder / "members" / name, self.experiment.members[name].held_out
        return MemberRun(self.parts.experiments[name], own, place, None if fitted else self.folder, name, self.redo)

    @property
    def trained(self) -> dict[str, MemberRun]:
        """The runs of the members that the trunk is trained on."""
        return {name: run for name, run in self.runs.items() if not run.fitted}

    @alone
    def all(self) -> Path:
        """Go through the four stages; returns the report's page."""
        self._can_evaluate()
        self._can_train()
        self.collect()
        self.distill()
        self.evaluate()
        return self.report()

    @alone
    def collect(self) -> None:
        """Stage 1, of each member."""
        for name, run in self.runs.items():
            log(f"collect  {name}")
            run.collect()

    @alone
    def distill(self) -> None:
        """Stage 2: the trunk with all families that are trained, then the layers of those that are held out."""
        if self._can_train():
            stores = {name: run.collected() for name, run in self.trained.items()}
            training.record(self.folder, training_mixture.train_trunk(self, self._checkpoints(stores), stores))
        else:
            log(f"distill  nothing to do: {self.folder / 'checkpoints'} is trained to the end")
        for name, run in self.runs.items():
            if run.fitted:
                log(f"distill  {name}: its own layers, on the trunk as it is")
                training_mixture.fit(self, run, run.collected())

    @alone
    def evaluate(self) -> None:
        """Stage 3, of each member whose tasks can be simulated."""
        self._can_evaluate()
        for name, run in self.runs.items():
            if run.components.family.simulated:
                log(f"evaluate {name}")
                run.evaluate()
            else:
                log(f"evaluate {name}: {self._missing(name)}")

    @alone
    def report(self) -> Path:
        """Stage 4: a page for each member, and one with a curve of each; returns that."""
        return Path(distributed.on_first(self._report))

    def _report(self) -> str:
        found = page.load([self.folder])
        results = {name: found[name] for name in self.runs if name in found}
        for name, one in results.items():
            report.write(one, self.runs[name].folder / "report")
        written = page.write(self.experiment.name, results, self.folder / "report")
        log(f"\n{page.table(results)}\n\nreport   {written}")
        return str(written)

    def _can_evaluate(self) -> None:
        """Raise ConfigError where the tasks of every member are ids, so that nothing can be played in any."""
        if not any(run.components.family.simulated for run in self.runs.values()):
            first = next(iter(self.runs))
            raise ConfigError(
                f"{self.experiment.name}: no member can be evaluated, all can be trained (ad-jax distill). {first}: "
                f"{self._missing(first)}"
            )

    def _missing(self, name: str) -> str:
        """Say why a member whose tasks are ids is not evaluated, and what acts in its place."""
        run = self.runs[name]
        where = f"{str(run.folder)!r}" if run.fitted else f"{str(self.folder)!r}, env={name!r}"
        return (
            "its tasks are ids of imported histories, and what an action does in them is not known. Agent.load("
            f"{where}) acts in any world that has {run.components.spec}"
        )

    def _can_train(self) -> bool:
        """Whether the trunk can be trained on the devices there are, and has not been; raises as `Run`'s."""
        method = self.experiment.method
        ended = checkpoint.has(self.folder / "checkpoints", method.updates)
        try:
            split = batch_devices(make_mesh(self.experiment.mesh))
            for e in self.parts.experiments.values():
                method.check_devices(split, e.replay)
        except ConfigError:
            if not ended:
                raise
        return not ended

    def _checkpoints(self, stores: Mapping[str, HistoryStore]) -> Path:
        """Where they lie; those that are there are of this run. Where none is, the facts of a training before go."""
        folder = self.folder / "checkpoints"
        saved = distributed.on_first(lambda: checkpoint.saved_meta(folder))
        if saved is not None:
            with contextlib.ExitStack() as refused:
                if self.redo:
                    refused.enter_context(contextlib.suppress(OtherCheckpointError))
                for name, store in stores.items():
                    mine = self.runs[name].origins.of_run() | {"histories": store.fingerprint}
                    lineage.check_own(frozen.chosen({}, saved, name)[1], mine, folder)
                return folder
            log(f"redo     {folder} is made anew")
            distributed.on_first(lambda: shutil.rmtree(folder))
        distributed.on_first(lambda: directory.forget(self.folder, "distill"))
        return folder


def open_run(
    experiment: Experiment | Mixture,
    folder: str | Path | None = None,
    histories: str | None = None,
    trained: str | Path | None = None,
    trains: bool = False,
    redo: bool = False,
) -> Run | MixtureRun:
    """Return the run of an experiment or of a mixture; arguments and errors are theirs.

    Raises:
        ConfigError: for a mixture, if it is to evaluate what another run has trained.
    """
    if not isinstance(experiment, Mixture):
        return Run(experiment, folder, histories, trained, trains, redo)
    if trained is not None:
        raise ConfigError("a mixture evaluates what it has trained itself; leave --trained out, and name its --dir")
    return MixtureRun(experiment, folder, histories, trains, redo)
