"""Stage 2 of a run: its method, made for the devices there are, and trained from where the checkpoints are.

In: a run whose histories, where the method is fed any, were checked. Out: checkpoints, and the facts of the stage.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from jax.sharding import Mesh

from ad_jax.checkpoint import checkpoint
from ad_jax.errors import ConfigError
from ad_jax.experiment import Components, Experiment
from ad_jax.files import JsonObject
from ad_jax.history import replay, reward_unit, streaming
from ad_jax.history.store import HistoryStore
from ad_jax.methods.base import Learner, Method, MethodConfig, Setting, checked
from ad_jax.planning import residents
from ad_jax.process import distributed
from ad_jax.process.metrics import log
from ad_jax.run import directory, frozen
from ad_jax.sharding import batch_devices
from ad_jax.stage.feeds import TrainingTasks, Windows, feed_of
from ad_jax.stage.train import Result, train
from ad_jax.stage.trainer import Trainer
from ad_jax.text import si
from ad_jax.types import PyTree

if TYPE_CHECKING:
    from ad_jax.run.pipeline import Run


def run(run: "Run", folder: Path, made_of: JsonObject, store: HistoryStore | None) -> JsonObject:
    """Train to the method's last update, from the latest checkpoint in `folder` if there is one.

    Args:
        run: whose experiment, parts, mesh, log and curves are used.
        folder: where checkpoints are saved.
        made_of: what every checkpoint says of the run.
        store: the histories, where the method is fed any.

    Returns:
        The facts of the stage.

    Raises:
        ConfigError, CheckpointError, TrainingDivergedError: as `stage.train.train` and the method.
    """
    r = ready(run, store, checkpoint.saved_meta)
    return trained(run, r, r.method.learner, folder, made_of, store)[1]


class Ready(NamedTuple):
    """What training takes of one run."""

    setting: Setting
    method: Method
    feed: Windows | TrainingTasks
    prepare: replay.Prepare | None


def ready(run: "Run", store: HistoryStore | None, saved: Callable[[Path], JsonObject | None]) -> Ready:
    """Return a run's method, made for the devices that there are, with what feeds it.

    Args:
        run: whose experiment, parts and mesh are used.
        store: the histories, where the method is fed any.
        saved: gives what the newest checkpoint in a folder says of the run; None where there is none.
    """
    e, p, config = run.experiment, run.components, run.components.method
    teacher = frozen.teacher(config)
    unit = _reward_unit(run, config, store, saved) if teacher is None else teacher.unit
    setting = p.setting(e, run.mesh, unit, teacher)
    method = config.make(setting)
    prepare = checked(method, config.channels(p.family, p.spec), config.needs)
    return Ready(setting, method, feed_of(config, setting), prepare)


def trained(
    run: "Run", r: Ready, learner: Learner, folder: Path, made_of: JsonObject, store: HistoryStore | None
) -> tuple[Result, JsonObject]:
    """Train a learner of one run to the last update, and return what came of it with the facts of the stage.

    Args:
        run: whose experiment, mesh and log are used.
        r: what feeds the learner.
        learner: the method's, or another that its feed fits.
        folder: where checkpoints are saved.
        made_of: what identifies this training, kept in every checkpoint.
        store: the histories, where the method is fed any.
    """
    e, config = run.experiment, run.components.method
    trainer = Trainer(learner, r.feed, config, run.mesh, e.seed)
    meta = made_of | of_training(run, trainer.abstract_state.params, store, r.setting)
    in_loop = None
    if config.evaluate_every and run.components.family.simulated:
        in_loop = run.curves.in_loop(config.policy(r.setting.model))
    with residents_of(store, r.feed, r.setting, r.prepare, e.seed) as there:
        result = train(trainer, there, config, folder, meta, run.log, in_loop, e.logging.progress_seconds)
    return result, facts_of(result, there.facts(), learner, config)


def record(folder: Path, facts: JsonObject) -> None:
    """Record the facts of the stage in a run directory; where nothing was left to do, those of when there was stay."""
    worked = facts["updates"] > facts["resumed_from"]
    distributed.on_first(lambda: directory.record(folder, "distill", facts, worked))


def of_training(run: "Run", params: PyTree, store: HistoryStore | None, setting: Setting) -> JsonObject:
    """Return what a checkpoint says of a run beside `Origins.of_run`."""
    ids = run.train_ids if store is None else store.task_ids
    return run.origins.of_training(params, ids, setting.unit)


def facts_of(result: Result, waited: dict[str, float], learner: Learner, config: MethodConfig) -> JsonObject:
    """Return the facts of the stage, and say what was waited for."""
    trained = result.step - result.resumed_from
    if waited and trained:
        log("distill  " + streaming.summary(waited, trained, result.seconds))
    facts = {
        "seconds": result.seconds,
        "compile_seconds": result.compile_seconds,
        "updates": result.step,
        "resumed_from": result.resumed_from,
        "parameters": sum(x.size for x in jax.tree.leaves(result.params)),
        **result.facts,
        **waited,
    }
    if config.feed == "histories":
        return facts | {"positions": trained * learner.steps}  # in those seconds
    return facts | {"env_steps": result.step * learner.steps}


@contextlib.contextmanager
def residents_of(
    store: HistoryStore | None, feed: Any, s: Setting, prepare: replay.Prepare | None, seed: int
) -> Iterator[replay.Residents]:
    """Yield what lies on the devices: the histories, all or in turns, or the tasks of the feed."""
    if store is None:
        yield feed
        return
    with streaming.residents(store, s.spec, s.sampling, s.mesh, seed, prepare) as there:
        yield there


def _reward_unit(
    run: "Run", config: MethodConfig, store: HistoryStore | None, saved: Callable[[Path], JsonObject | None]
) -> float:
    """Return what the rewards of this training are divided by: what was asked for, what it began with, or what is
    found.
    """
    e, p = run.experiment, run.components
    asked = config.reward_unit_asked(e.replay)

    def unit() -> float:
        found = saved(run.folder / "checkpoints")
        if asked is not None:
            return float(asked)
        if found is not None:
            return found.get("reward_unit", reward_unit.NONE)  # an earlier version divided nothing
        if store is not None:
            return reward_unit.of_store(store)
        return config.reward_unit_found(p.family, p.split.train, e.seed)

    found = distributed.on_first(unit)
    if found != reward_unit.NONE:
        log(f"distill  the model counts rewards in units of {found:g} (reward_unit=1 would leave them alone)")
    return found


def check_room(e: Experiment, p: Components, mesh: Mesh) -> None:
    """Raise ConfigError where a device tells how much memory it has, and the histories alone are more."""
    limit = (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")
    needed = residents.resident_bytes(e, p) // batch_devices(mesh)
    if limit is None or needed < limit:
        return
    rows = residents.versions(e, p)
    wanted = replay.RotationConfig(rows * limit // needed // 2).fitted(e.replay.groups)
    raise ConfigError(
        f"the histories take {si(needed, 'B')} of each device, which has {si(limit, 'B')}. Let them take "
        f"turns: replay.rotation.resident={wanted.resident} holds half of that; or spread them over more devices"
    )
