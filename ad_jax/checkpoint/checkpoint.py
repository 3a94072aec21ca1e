"""Checkpoints: params, optimiser, step and everything needed to go on or to act, saved and restored together (Orbax).

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
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from ad_jax import files
from ad_jax.checkpoint import orbax_threads
from ad_jax.checkpoint.fingerprint import fingerprint, path_of, without_elements
from ad_jax.checkpoint.lineage import architecture_of, check_architecture
from ad_jax.errors import CheckpointError, DamagedCheckpointError, differences
from ad_jax.keys import as_data, as_keys
from ad_jax.process import distributed
from ad_jax.process.metrics import say

SCHEMA = 2  # 1 had neither checksum nor fingerprint
__all__ = ["Checkpoints", "architecture_of", "check_architecture", "has", "load", "saved_meta"]
OWN = ("schema", "fingerprint", "crc32")  # of the plain data, what is not the caller's

Accept = Callable[[dict[str, Any]], None]


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
            raise CheckpointError(_cannot_write(self.folder, error)) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        # What made us leave matters more than whether the last write, too, failed.
        try:
            with _writing(self.folder) if kind is None else contextlib.suppress(Exception):
                self.manager.wait_until_finished()
                if kind is None:
                    self._read_back()
                self.manager.close()
        finally:
            orbax_threads.release()

    def _open(self) -> ocp.CheckpointManager:
        return _manager(self.folder / "steps", max(self.keep, 2))  # the one before stays until a save is read back

    def _read_back(self) -> None:
        """Read the save before this one, if it has not been, and delete what is then too old."""
        if self.unread is not None:
            _read_back(self.manager, self.unread, self.keep)
            self.unread = None

    def latest(self) -> int | None:
        """The newest complete step, as the first process sees it, or None."""
        return _latest(self.manager)

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Start an asynchronous save. The caller may donate `state` at once: a copy is written."""
        with _writing(self.folder, state):
            self.manager.wait_until_finished()  # Orbax would now
            self._read_back()
            self.manager.save(step, args=_arguments(state, meta), force=True)
            self.unread = step

    def save_best(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Replace the best checkpoint, also one of this step or a later one that a training gone back has left."""
        folder = self.folder / "best"
        with _writing(self.folder, state), _manager(folder) as best:  # Orbax would keep by number: it deletes none
            arguments = _arguments(state, meta)
            held = distributed.on_first(lambda: sorted(best.all_steps()))
            if not (step in held and distributed.on_first(lambda: _is_there(folder, step, arguments))):
                # First those that are later: killed before the end, `load` would take one of them for the best.
                for old in (old for old in held if old >= step):
                    best.delete(old)
                best.save(step, args=arguments, force=True)
                best.wait_until_finished()
                _read_back(best, step)
                held = [old for old in held if old < step]
            for old in (old for old in held if old != step):
                best.delete(old)

    def restore(self, like: Any, accept: Accept = lambda meta: None) -> tuple[int, Any, dict[str, Any]]:
        """The latest checkpoint that is whole. Damaged ones are put aside, and that is said.

        Args:
            like: shapes with shardings: how the state comes out.
            accept: is given its plain data before the arrays are read, and raises what is wrong with it.

        Returns:
            Step, state, meta.

        Raises:
            CheckpointError: if there is none, all are damaged, or it is of another architecture.
        """
        with _writing(self.folder):
            self.manager.wait_until_finished()  # the latest may be under way: who reads is not who writes
        while True:
            step = self.latest()
            try:
                with _reader(self.folder / "steps") as reader:
                    return _restore(reader, step, like, accept)
            except DamagedCheckpointError as error:  # on all processes, as is what follows
                if distributed.on_first(lambda: len(self.manager.all_steps())) < 2:
                    raise
                distributed.on_first(lambda step=step: self._put_aside(step))
                self.manager.close()
                self.manager = self._open()  # its own `reload` reads Orbax's notes
                say(f"warning  {error}. It was moved to {self.folder / 'damaged'}; going on from the one before")

    def _put_aside(self, step: Any) -> None:
        aside = self.folder / "damaged" / str(step)
        aside.parent.mkdir(exist_ok=True)
        if aside.exists():
            shutil.rmtree(aside)
        (self.folder / "steps" / str(step)).rename(aside)


def load(folder: Path, which: str = "last", like: Any = None) -> tuple[int, Any, dict[str, Any]]:
    """Read one checkpoint of a finished or running training.

    Args:
        folder: a run directory, its `checkpoints`, or a folder of steps.
        which: `"last"` or `"best"`.
        like: shapes with shardings to restore onto; None leaves the arrays on this process's first device.

    Returns:
        Step, state, meta.

    Raises:
        CheckpointError: if there is none, or its parts do not fit `like`.
    """
    folder = files.local(folder).absolute()
    name = {"last": "steps", "best": "best"}.get(which)
    if name is None:
        raise CheckpointError(f"evaluate.checkpoint is 'last' or 'best'; got {which!r}")
    with _reader(distributed.together(lambda: _folder_of_steps(folder, which, name))) as reader:
        return _restore(reader, _latest(reader), like)


def has(folder: Path, step: int) -> bool:
    """Whether `folder`, a run's `checkpoints`, holds that step; touches nothing."""
    return distributed.on_first(lambda: (folder / "steps" / str(step)).is_dir())


def saved_meta(folder: Path) -> dict[str, Any] | None:
    """What the newest checkpoint of a training in `folder` says that can be read; None where there is none.

    Of this process alone; no array is read.
    """
    steps = Path(folder).absolute() / "steps"
    if _has_steps(steps):
        with _reader(steps) as manager:
            for step in sorted(manager.all_steps(), reverse=True):
                with contextlib.suppress(CheckpointError):
                    return _restore_meta(manager, step)[0]
    return None


def copy(state: Any) -> Any:
    """The state in fresh buffers, so that a save can go on while the originals are donated."""
    return jax.tree.map(lambda x: x.copy(), state)


def _manager(folder: Path, keep: int | None = None, **options: Any) -> ocp.CheckpointManager:
    handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
    # Lightweight: Orbax's own notes on a step (when it was written) are not read, so that a damaged one stops nobody.
    chosen = ocp.CheckpointManagerOptions(max_to_keep=keep, lightweight_initialize=True, **options)
    return ocp.CheckpointManager(folder, options=chosen, item_handlers=handlers)


def _reader(folder: Path) -> ocp.CheckpointManager:
    """Reads this process's part and waits for nobody: one that fails must not leave others in a barrier of Orbax's."""
    me = distributed.index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"{me}")
    return _manager(folder, create=False, multiprocessing_options=alone)


@contextlib.contextmanager
def _writing(folder: Path, state: Any = None) -> Iterator[None]:
    """Errors of writing, of this save or of the one under way, as a CheckpointError that says how to go on."""

    def check_room() -> None:
        if told := without_elements(state):
            raise CheckpointError(told)
        needed, free = sum(x.nbytes for x in jax.tree.leaves(state)), shutil.disk_usage(folder).free
        if free < needed:
            told = f"the disk is full: a checkpoint needs {needed:,} bytes, {free:,} are free"
            raise CheckpointError(_cannot_write(folder, told))

    if state is not None:  # before the writers start, which fail at length, and wait for each other
        distributed.together(check_room)
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(_cannot_write(folder, error)) from error


def _is_there(folder: Path, step: int, arguments: ocp.args.Composite) -> bool:
    """Whether that is what was saved at that step: the same plain data, which holds the fingerprint of the arrays.

    Of this process alone: the manager that writes would wait for the others.
    """
    try:
        with _reader(folder) as reader:
            found = reader.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
    except Exception:  # damaged, whatever the reader makes of it
        return False
    return found == json.loads(json.dumps(arguments["meta"].item))


def _cannot_write(folder: Path, what: Any) -> str:
    full = "the disk is full, " if "No space left" in str(what) else ""
    return (
        f"cannot write a checkpoint: {full}{what}. The checkpoint before it is kept: free space under {folder}, or "
        "mend it, and run the same command again"
    )


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


def _arguments(state: Any, meta: dict[str, Any]) -> ocp.args.Composite:
    state = copy(as_data(state))
    plain = meta | {"schema": SCHEMA, "fingerprint": fingerprint(state)}
    return ocp.args.Composite(
        state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(plain | {"crc32": _crc(plain)})
    )


def _crc(plain: dict[str, Any]) -> int:
    """Checksum of plain data that may have been JSON meanwhile."""
    return zlib.crc32(json.dumps(json.loads(json.dumps(plain)), sort_keys=True).encode())


def _restore(
    manager: ocp.CheckpointManager, step: int | None, like: Any, accept: Accept = lambda meta: None
) -> tuple[int, Any, dict[str, Any]]:
    """On every process, or the same error on every process: nobody goes on to a collective that others never reach."""
    meta, expected, state = distributed.together(lambda: _read(manager, step, like, accept))
    assert step is not None
    found = {} if expected is None else fingerprint(state, every_copy=True)  # a collective: not within `together`

    def check_bits() -> None:
        if expected is not None and (changed := differences(expected, found)):
            which = ", ".join(changed[:3])
            raise _damaged(manager, step, f"{len(changed)} arrays hold other bits than were saved: {which}")

    distributed.together(check_bits)
    return step, state if like is None else as_keys(state, like), meta


def _read(
    manager: ocp.CheckpointManager, step: int | None, like: Any, accept: Accept
) -> tuple[dict[str, Any], dict[str, int] | None, Any]:
    """The caller's plain data, the fingerprint, and this process's part of the state; no collective."""
    meta, expected = _restore_meta(manager, step)
    assert step is not None
    accept(meta)
    try:
        like = _on_first_device(manager, step) if like is None else like
        return (
            meta,
            expected,
            manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(as_data(like))))["state"],
        )
    except Exception as error:
        raise _damaged(manager, step, error) from error


def _restore_meta(manager: ocp.CheckpointManager, step: int | None) -> tuple[dict[str, Any], dict[str, int] | None]:
    """The caller's plain data, and the fingerprint of the arrays; None in checkpoints of schema 1."""
    if step is None:
        raise CheckpointError(f"no checkpoint in {manager.directory}")
    try:
        meta = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        own = {name: meta.get(name) for name in OWN}
        rest = {name: value for name, value in meta.items() if name not in OWN}
        if own == {"schema": 1, "fingerprint": None, "crc32": None}:
            return rest, None
        found = _crc({name: value for name, value in meta.items() if name != "crc32"})
    except Exception as error:
        raise _damaged(manager, step, error) from error
    if own["crc32"] != found:
        raise _damaged(manager, step, f"its plain data has checksum {found}, expected {own['crc32']}")
    if own["schema"] != SCHEMA:
        raise CheckpointError(f"{manager.directory}/{step}: checkpoint schema {own['schema']}, expected {SCHEMA}")
    return rest, own["fingerprint"]


def _read_back(manager: ocp.CheckpointManager, step: int, keep: int | None = None) -> None:
    """See that a finished save can be read, cheaply: not the arrays, but what they and their tree say of themselves.

    Then all but those of the `keep` largest steps are deleted; None keeps all.

    Raises:
        CheckpointError: if it cannot; those before it are still there.
    """

    def unreadable(why: object) -> CheckpointError:
        return CheckpointError(
            f"checkpoint {manager.directory}/{step} was written, and cannot be read again: {why}. The one before "
            "it is kept. Use another directory (--dir), on another file system if that does not help"
        )

    def look() -> None:
        try:
            with _reader(Path(manager.directory)) as reader:
                _, expected = _restore_meta(reader, step)
                found = jax.tree_util.tree_leaves_with_path(_on_first_device(reader, step))
        except Exception as error:
            raise unreadable(error) from error
        if expected is not None and (lost := expected.keys() - {path_of(path) for path, _ in found}):
            raise unreadable(f"{', '.join(sorted(lost)[:3])} not found")

    distributed.together(look)
    for old in [] if keep is None else sorted(manager.all_steps())[:-keep]:
        manager.delete(old)


def _damaged(manager: ocp.CheckpointManager, step: int, what: Any) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        f"cannot read checkpoint {manager.directory}/{step}: {what}. If it is damaged, run the same command that "
        "trained again: it goes on from the one before"
    )


def _on_first_device(manager: ocp.CheckpointManager, step: int) -> Any:
    """Shapes of what was saved, to be put on one device, wherever it was saved from."""
    # Of the arrays' folder itself: the manager would ask Orbax's notes on the step, too, which may be damaged.
    saved = ocp.StandardCheckpointHandler().metadata(manager.directory / str(step) / "state").tree
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=here), saved)
