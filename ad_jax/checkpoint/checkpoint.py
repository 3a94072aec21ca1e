"""Checkpoints: params, optimizer, step and everything needed to go on or to act, saved and restored together (Orbax).

    folder/<step>/state   the training state, arrays, from whatever mesh and onto whatever mesh
    folder/<step>/meta    plain data: model and its options, spec, seed, ids of the training tasks, the experiment
    folder/best/<step>    the checkpoint with the best in-context return so far, with that return in its meta

The batch sampler's whole state is (seed, step), because batches are keyed by step; both are in here. A write is atomic:
a process killed while saving leaves the checkpoint before it as the latest. Every save is read back, its plain data and
what the arrays say of themselves, before a checkpoint that is known to be whole is deleted for it.

Nothing that was damaged is read as if it were whole: the plain data carries its own checksum and a fingerprint of every
array, which is compared with what was read. Training that finds its latest checkpoint damaged puts it aside, says so,
and goes on from the one before, to the same bytes. Several processes come to one verdict: a checkpoint that one of them
alone cannot read is damaged for all. All of them make every call here.
"""

import contextlib
import json
import shutil
from pathlib import Path

import orbax.checkpoint as ocp

from ad_jax import files
from ad_jax.checkpoint import orbax_threads, saved
from ad_jax.checkpoint.lineage import architecture_of, check_architecture
from ad_jax.checkpoint.saved import Accept
from ad_jax.errors import CheckpointError, DamagedCheckpointError
from ad_jax.files import JsonObject
from ad_jax.process import distributed
from ad_jax.process.metrics import log
from ad_jax.types import PyTree

__all__ = ["Checkpoints", "architecture_of", "check_architecture", "has", "load", "saved_meta"]


class Checkpoints:
    """The checkpoints of one training run. Use as a context manager: leaving it waits for the writes.

    Args:
        folder: where they lie; created when first saved to.
        keep: how many of the newest are kept.

    Raises:
        ConfigError: if what is written there could not be read again.
        CheckpointError: if nothing can be written there.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep, self.unread = folder.absolute(), keep, None
        files.check_checkpoints(self.folder)
        try:
            self.manager = self._open()
        except OSError as error:
            raise CheckpointError(saved.cannot_write(self.folder, error)) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # What made us leave matters more than whether the last write, too, failed.
        try:
            with saved.writing(self.folder) if kind is None else contextlib.suppress(Exception):
                self.manager.wait_until_finished()
                if kind is None:
                    self._read_back()
                self.manager.close()
        finally:
            orbax_threads.release()

    def _open(self) -> ocp.CheckpointManager:
        # The one before stays until a save is read back.
        return saved.open_steps(self.folder / "steps", max(self.keep, 2))

    def _read_back(self) -> None:
        """Read the save before this one, if it has not been, and delete what is then too old."""
        if self.unread is not None:
            saved.read_back(self.manager, self.unread, self.keep)
            self.unread = None

    def latest(self) -> int | None:
        """Return the newest complete step, as the first process sees it, or None."""
        return _latest(self.manager)

    def save(self, step: int, state: PyTree, meta: JsonObject) -> None:
        """Start an asynchronous save. The caller may donate `state` at once: a copy is written."""
        with saved.writing(self.folder, state):
            self.manager.wait_until_finished()  # Orbax would now
            self._read_back()
            self.manager.save(step, args=saved.arguments(state, meta), force=True)
            self.unread = step

    def save_best(self, step: int, state: PyTree, meta: JsonObject) -> None:
        """Replace the best checkpoint, also one of this step or a later one that a training gone back has left."""
        folder = self.folder / "best"
        # Orbax would keep by number: it deletes none.
        with saved.writing(self.folder, state), saved.open_steps(folder) as best:
            arguments = saved.arguments(state, meta)
            held = distributed.on_first(lambda: sorted(best.all_steps()))
            if not (step in held and distributed.on_first(lambda: _is_there(folder, step, arguments))):
                # First those that are later: killed before the end, `load` would take one of them for the best.
                for old in (old for old in held if old >= step):
                    best.delete(old)
                best.save(step, args=arguments, force=True)
                best.wait_until_finished()
                saved.read_back(best, step)
                held = [old for old in held if old < step]
            for old in (old for old in held if old != step):
                best.delete(old)

    def restore(self, abstract_state: PyTree, accept: Accept = lambda meta: None) -> tuple[int, PyTree, JsonObject]:
        """Return the latest checkpoint that is whole. Damaged ones are put aside, and that is said.

        Args:
            abstract_state: shapes with shardings: how the state comes out.
            accept: is given its plain data before the arrays are read, and raises what is wrong with it.

        Returns:
            Step, state, meta.

        Raises:
            CheckpointError: if there is none, all are damaged, or it is of another architecture.
        """
        with saved.writing(self.folder):
            self.manager.wait_until_finished()  # the latest may be under way: who reads is not who writes
        while True:
            step = self.latest()
            try:
                with saved.open_alone(self.folder / "steps") as reader:
                    return saved.restore(reader, step, abstract_state, accept)
            except DamagedCheckpointError as error:  # on all processes, as is what follows
                if distributed.on_first(lambda: len(self.manager.all_steps())) < 2:
                    raise
                distributed.on_first(lambda step=step: self._put_aside(step))
                self.manager.close()
                self.manager = self._open()  # its own `reload` reads Orbax's notes
                log(f"warning  {error}. It was moved to {self.folder / 'damaged'}; going on from the one before")

    def _put_aside(self, step: object) -> None:
        aside = self.folder / "damaged" / str(step)
        aside.parent.mkdir(exist_ok=True)
        if aside.exists():
            shutil.rmtree(aside)
        (self.folder / "steps" / str(step)).rename(aside)


def load(folder: str | Path, which: str = "last", abstract_state: PyTree = None) -> tuple[int, PyTree, JsonObject]:
    """Read one checkpoint of a finished or running training.

    Args:
        folder: a run directory, its `checkpoints`, or a folder of steps.
        which: `"last"` or `"best"`.
        abstract_state: shapes with shardings to restore onto; None leaves the arrays on this process's first device.

    Returns:
        Step, state, meta.

    Raises:
        CheckpointError: if there is none, or its parts do not fit `abstract_state`.
    """
    folder = files.local(folder).absolute()
    name = {"last": "steps", "best": "best"}.get(which)
    if name is None:
        raise CheckpointError(f"evaluate.checkpoint is 'last' or 'best'; got {which!r}")
    with saved.open_alone(distributed.together(lambda: _folder_of_steps(folder, which, name))) as reader:
        return saved.restore(reader, _latest(reader), abstract_state)


def has(folder: Path, step: int) -> bool:
    """Whether `folder`, a run's `checkpoints`, holds that step; touches nothing."""
    return distributed.on_first(lambda: (folder / "steps" / str(step)).is_dir())


def saved_meta(folder: Path) -> JsonObject | None:
    """Return what the newest checkpoint of a training in `folder` says that can be read; None where there is none.

    Of this process alone; no array is read.
    """
    steps = Path(folder).absolute() / "steps"
    if _has_steps(steps):
        with saved.open_alone(steps) as manager:
            for step in sorted(manager.all_steps(), reverse=True):
                with contextlib.suppress(CheckpointError):
                    return saved.restore_meta(manager, step)[0]
    return None


def _is_there(folder: Path, step: int, arguments: ocp.args.Composite) -> bool:
    """Whether that is what was saved at that step: the same plain data, which holds the fingerprint of the arrays.

    Of this process alone: the manager that writes would wait for the others.
    """
    try:
        with saved.open_alone(folder) as reader:
            found = reader.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
    except Exception:  # damaged, whatever the reader makes of it
        return False
    return found == json.loads(json.dumps(arguments["meta"].item))


def _latest(manager: ocp.CheckpointManager) -> int | None:
    return distributed.on_first(manager.latest_step)


def _folder_of_steps(folder: Path, which: str, name: str) -> Path:
    found = next((p for p in (folder / "checkpoints" / name, folder / name, folder) if _has_steps(p)), None)
    if found is None and which == "best" and _has_steps(folder / "checkpoints" / "steps"):
        raise CheckpointError(
            f"{folder} was trained without keeping a best checkpoint: method.evaluate_every was 0. "
            "Use evaluate.checkpoint=last"
        )
    if found is None:
        raise CheckpointError(
            f"no {which} checkpoint under {folder}. Expected a run directory with "
            f"checkpoints/{name}; run `ad-jax distill` first"
        )
    return found


def _has_steps(folder: Path) -> bool:
    return folder.is_dir() and any(p.name.isdigit() and p.is_dir() for p in folder.iterdir())
