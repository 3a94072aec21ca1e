"""Stage 2 of a mixture: one trunk on the histories of all families, then the layers of those that are held out.

In: the runs of the members, whose histories were checked. Out: checkpoints, and the facts of the stage.
"""

import contextlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import jax
import numpy as np

from ad_jax.checkpoint import checkpoint, lineage
from ad_jax.checkpoint.fingerprint import fingerprint
from ad_jax.errors import AdJaxError, OtherCheckpointError
from ad_jax.experiment import name_of
from ad_jax.files import JsonObject
from ad_jax.history.store import HistoryStore
from ad_jax.methods.mixture import fitted, mixed, part_of
from ad_jax.methods.supervised import Supervised
from ad_jax.models.base import Params
from ad_jax.models.together import Together
from ad_jax.process import distributed
from ad_jax.process.metrics import log
from ad_jax.run import directory, frozen, training
from ad_jax.run.training import Ready
from ad_jax.sharding import put, replicated
from ad_jax.stage.feeds import Windows
from ad_jax.stage.mixed import FittingWindows, MixedResidents, MixedWindows
from ad_jax.stage.train import train
from ad_jax.stage.trainer import Trainer
from ad_jax.types import PyTree

if TYPE_CHECKING:
    from ad_jax.run.mixture import MemberRun, MixtureRun


def train_trunk(run: "MixtureRun", folder: Path, stores: Mapping[str, HistoryStore]) -> JsonObject:
    """Train all members' layers and their trunk to the last update, from the latest checkpoint in `folder`, if any.

    Args:
        run: whose members, mesh and log are used.
        folder: where checkpoints are saved.
        stores: the histories of each member that is trained.

    Returns:
        The facts of the stage.
    """
    m, config = run.experiment, cast(Supervised, run.experiment.method)
    every = {
        name: training.ready(member, stores[name], _saved_of(folder, name)) for name, member in run.trained.items()
    }
    parts = {
        name: part_of(ready.method.learner, ready.setting.sampling.groups, m.shares[name])
        for name, ready in every.items()
    }
    together = Together({name: ready.setting.model for name, ready in every.items()})
    feed = MixedWindows({name: cast(Windows, ready.feed) for name, ready in every.items()})
    trainer = Trainer(mixed(config, together, parts, run.mesh), feed, config, run.mesh, m.seed)
    params = trainer.abstract_state.params

    def said(name: str, member: "MemberRun") -> JsonObject:
        mine = training.of_training(member, together.view(params, name), stores[name], every[name].setting)
        return member.origins.of_run() | {"histories": stores[name].fingerprint} | mine

    meta: JsonObject = {
        "experiment": directory.identity(m),
        "seed": m.seed,
        "own": list(together.own),
        "architecture": checkpoint.architecture_of(params),
        "members": {name: said(name, member) for name, member in run.trained.items()},
    }
    simulated = any(ready.setting.family.simulated for ready in every.values())
    in_loop = _in_loop(run, every, together, stores) if config.evaluate_every and simulated else None
    with contextlib.ExitStack() as open_ones:
        there = MixedResidents(
            {
                name: open_ones.enter_context(
                    training.residents_of(stores[name], ready.feed, ready.setting, ready.prepare, m.seed)
                )
                for name, ready in every.items()
            }
        )
        result = train(trainer, there, config, folder, meta, run.log, in_loop, m.logging.progress_seconds)
        return training.facts_of(result, there.facts(), trainer.learner, config)


def fit(run: "MixtureRun", member: "MemberRun", store: HistoryStore) -> None:
    """Train the layers of a family that the trunk was not trained on; the trunk stays as it is, to the bit.

    Raises:
        OtherCheckpointError: if layers are there that are of another trunk, other histories or another experiment.
        AdJaxError: if the trunk did not stay.
    """
    e, config = member.experiment, cast(Supervised, member.components.method)
    folder, trunk = member.folder / "checkpoints", trunk_of(run.folder, e.evaluate.checkpoint)
    made_of = member.origins.of_run() | {"histories": store.fingerprint, "trunk": fingerprint(trunk)}
    saved = distributed.on_first(lambda: checkpoint.saved_meta(folder))
    if saved is not None:
        try:
            _check_fitted(saved, made_of, folder)
        except OtherCheckpointError as error:
            if not run.redo:
                raise
            log(f"redo     {error}")
            distributed.on_first(lambda: shutil.rmtree(folder))
    if checkpoint.has(folder, config.updates):
        log(f"distill  nothing to do: {folder} is trained to the end")
        return
    ready = training.ready(member, store, checkpoint.saved_meta)
    learner = fitted(
        config, ready.setting.model, part_of(ready.method.learner, ready.setting.sampling.groups), run.mesh
    )
    feed = FittingWindows(cast(Windows, ready.feed), put(trunk, replicated(run.mesh)))
    result, facts = training.trained(member, ready._replace(feed=feed), learner, folder, made_of, store)
    if fingerprint({name: result.params[name] for name in trunk}) != made_of["trunk"]:
        raise AdJaxError(f"{name_of(config)}: the trunk changed while the layers of {member.name} were fitted to it")
    training.record(member.folder, facts)


def _check_fitted(saved: JsonObject, made_of: JsonObject, folder: Path) -> None:
    """Raise OtherCheckpointError where the layers in a folder are not those that would be fitted now."""
    if saved.get("trunk") != made_of["trunk"]:
        raise OtherCheckpointError(
            f"the layers in {folder} were fitted to another trunk. Delete that folder to fit them anew, or make anew "
            "what no longer fits (--redo)"
        )
    lineage.check_own(saved, made_of, folder)


def trunk_of(folder: Path, which: str = "last") -> Params:
    """Return the trunk of the mixture that was trained in a run directory, in host memory."""
    _, state, meta = checkpoint.load(folder, which)
    return jax.tree.map(np.asarray, {name: x for name, x in state["params"].items() if name not in meta["own"]})


def _saved_of(folder: Path, name: str) -> Callable[[Path], JsonObject | None]:
    """Return what gives what the mixture's newest checkpoint says of a member, if there is one."""

    def saved(_: Path) -> JsonObject | None:
        found = checkpoint.saved_meta(folder)
        return None if found is None else frozen.chosen({}, found, name)[1]

    return saved


def _in_loop(
    run: "MixtureRun", every: Mapping[str, Ready], together: Together, stores: Mapping[str, HistoryStore]
) -> Callable[[PyTree], float]:
    """Return the mean over families of the return in context on training tasks, for choosing a checkpoint.

    Each counts in units of how far its source came: 0 is the first tenth of the histories, 1 their last.
    """
    of = {
        name: run.runs[name].curves.in_loop(run.runs[name].components.method.policy(ready.setting.model))
        for name, ready in every.items()
        if ready.setting.family.simulated
    }
    scales = {name: _scale(stores[name]) for name in of}

    def mean(params: PyTree) -> float:
        found = {name: returned(together.view(params, name)) for name, returned in of.items()}
        shares = {name: (found[name] - low) / (high - low) for name, (low, high) in scales.items()}
        return float(np.mean(list(shares.values())))

    return mean


def _scale(store: HistoryStore) -> tuple[float, float]:
    """Return what a source earned in the first and in the last tenth of its histories; 0 and 1 where it never rose."""
    tenths = [x for x in (store.returns.by_tenth if store.returns else []) if x is not None]
    return (tenths[0], tenths[-1]) if len(tenths) > 1 and tenths[-1] > tenths[0] else (0.0, 1.0)
