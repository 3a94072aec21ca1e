"""Stage 2 of a run: its method, made for the devices there are, and trained from where the checkpoints are.

In: a run whose histories, where the method is fed any, were checked. Out: checkpoints, and the facts of the stage.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import Mesh

from ad_jax.checkpoint import checkpoint
from ad_jax.errors import ConfigError
from ad_jax.experiment import Components, Experiment
from ad_jax.files import JsonObject
from ad_jax.history import replay, reward_unit, streaming
from ad_jax.history.store import HistoryStore
from ad_jax.methods.base import MethodConfig, Setting, checked
from ad_jax.planning import residents
from ad_jax.process import distributed
from ad_jax.process.metrics import log
from ad_jax.run import frozen
from ad_jax.sharding import batch_devices
from ad_jax.stage.feeds import feed_of
from ad_jax.stage.train import train
from ad_jax.stage.trainer import Trainer
from ad_jax.text import si

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
    e, p, config = run.experiment, run.components, run.components.method
    teacher = frozen.teacher(config)
    unit = _reward_unit(run, config, store) if teacher is None else teacher.unit
    setting = p.setting(e, run.mesh, unit, teacher)
    method = config.make(setting)
    feed = feed_of(config, setting)
    trainer = Trainer(method.learner, feed, config, run.mesh, e.seed)
    ids = run.train_ids if store is None else store.task_ids
    meta = made_of | run.origins.of_training(trainer.abstract_state.params, ids, setting.unit)
    in_loop = None
    if config.evaluate_every and p.family.simulated:
        in_loop = run.curves.in_loop(config.policy(setting.model))
    prepare = checked(method, config.channels(p.family, p.spec), config.needs)
    with _residents(store, feed, setting, prepare, e.seed) as there:
        result = train(trainer, there, config, folder, meta, run.log, in_loop, e.logging.progress_seconds)
    trained, waited = result.step - result.resumed_from, there.facts()
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
        return facts | {"positions": trained * method.learner.steps}  # in those seconds
    return facts | {"env_steps": result.step * method.learner.steps}


@contextlib.contextmanager
def _residents(
    store: HistoryStore | None, feed: Any, s: Setting, prepare: replay.Prepare | None, seed: int
) -> Iterator[replay.Residents]:
    """Yield what lies on the devices: the histories, all or in turns, or the tasks of the feed."""
    if store is None:
        yield feed
        return
    with streaming.residents(store, s.spec, s.sampling, s.mesh, seed, prepare) as there:
        yield there


def _reward_unit(run: "Run", config: MethodConfig, store: HistoryStore | None) -> float:
    """Return what the rewards of this training are divided by: what was asked for, what it began with, or what is
    found.
    """
    e, p = run.experiment, run.components
    asked = config.reward_unit_asked(e.replay)

    def unit() -> float:
        saved = checkpoint.saved_meta(run.folder / "checkpoints")
        if asked is not None:
            return float(asked)
        if saved is not None:
            return saved.get("reward_unit", reward_unit.NONE)  # an earlier version divided nothing
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
