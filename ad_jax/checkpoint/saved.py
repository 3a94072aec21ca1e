"""One checkpoint: what is written of a state, how it is read, and when it counts as whole (Orbax).

In: a state, plain data, and the folder of a step. Out: the same to the bit, or a DamagedCheckpointError that names what
is not. The plain data carries its own checksum and a fingerprint of every array, which is compared with what was read.
Several processes come to one verdict: a checkpoint that one of them alone cannot read is damaged for all.
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

from ad_jax.checkpoint.fingerprint import fingerprint, path_of, without_elements
from ad_jax.errors import CheckpointError, DamagedCheckpointError, differences
from ad_jax.files import JsonObject
from ad_jax.keys import as_data, as_keys
from ad_jax.process import distributed
from ad_jax.types import PyTree, Tree

SCHEMA = 2  # 1 had neither checksum nor fingerprint


OWN = ("schema", "fingerprint", "crc32")  # of the plain data, what is not the caller's


Accept = Callable[[JsonObject], None]


def copy(state: Tree) -> Tree:
    """Return the state in fresh buffers, so that a save can go on while the originals are donated.

    Without a program for each leaf's shape, which JAX's own `copy` compiles, where this process holds all of a leaf.
    """

    def fresh(x: jax.Array) -> jax.Array:
        return jax.device_put(x, x.sharding, may_alias=False) if x.is_fully_addressable else x.copy()

    return jax.tree.map(fresh, state)


def open_steps(folder: Path, keep: int | None = None, **options: Any) -> ocp.CheckpointManager:
    """Open a folder of steps, as Orbax does; `keep` of the newest stay."""
    handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
    # Lightweight: Orbax's own notes on a step (when it was written) are not read, so that a damaged one stops nobody.
    chosen = ocp.CheckpointManagerOptions(max_to_keep=keep, lightweight_initialize=True, **options)
    return ocp.CheckpointManager(folder, options=chosen, item_handlers=handlers)


def open_alone(folder: Path) -> ocp.CheckpointManager:
    """Open one to read this process's part, and wait for nobody: who fails must leave none in a barrier of Orbax's."""
    me = distributed.index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"{me}")
    return open_steps(folder, create=False, multiprocessing_options=alone)


def arguments(state: PyTree, meta: JsonObject) -> ocp.args.Composite:
    """Return what Orbax saves of a state and the caller's plain data: a copy, with fingerprint and checksum."""
    state = copy(as_data(state))
    plain = meta | {"schema": SCHEMA, "fingerprint": fingerprint(state)}
    return ocp.args.Composite(
        state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(plain | {"crc32": _crc(plain)})
    )


def _crc(plain: JsonObject) -> int:
    """Checksum of plain data that may have been JSON meanwhile."""
    return zlib.crc32(json.dumps(json.loads(json.dumps(plain)), sort_keys=True).encode())


def restore(
    manager: ocp.CheckpointManager, step: int | None, abstract_state: PyTree, accept: Accept = lambda meta: None
) -> tuple[int, PyTree, JsonObject]:
    """On every process, or the same error on every process: nobody goes on to a collective that others never reach."""
    meta, expected, state = distributed.together(lambda: _read(manager, step, abstract_state, accept))
    assert step is not None
    found = {} if expected is None else fingerprint(state, every_copy=True)  # a collective: not within `together`

    def check_bits() -> None:
        if expected is not None and (changed := differences(expected, found)):
            which = ", ".join(changed[:3])
            raise _damaged(manager, step, f"{len(changed)} arrays hold other bits than were saved: {which}")

    distributed.together(check_bits)
    return step, state if abstract_state is None else as_keys(state, abstract_state), meta


def _read(
    manager: ocp.CheckpointManager, step: int | None, abstract_state: PyTree, accept: Accept
) -> tuple[JsonObject, dict[str, int] | None, PyTree]:
    """Return the caller's plain data, the fingerprint, and this process's part of the state; no collective."""
    meta, expected = restore_meta(manager, step)
    assert step is not None
    accept(meta)
    try:
        abstract_state = _on_first_device(manager, step) if abstract_state is None else abstract_state
        onto = ocp.args.Composite(state=ocp.args.StandardRestore(as_data(abstract_state)))
        return meta, expected, manager.restore(step, args=onto)["state"]
    except Exception as error:
        raise _damaged(manager, step, error) from error


def restore_meta(manager: ocp.CheckpointManager, step: int | None) -> tuple[JsonObject, dict[str, int] | None]:
    """Return the caller's plain data, and the fingerprint of the arrays; None in checkpoints of schema 1."""
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


def read_back(manager: ocp.CheckpointManager, step: int, keep: int | None = None) -> None:
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
            with open_alone(Path(manager.directory)) as reader:
                _, expected = restore_meta(reader, step)
                found = jax.tree_util.tree_leaves_with_path(_on_first_device(reader, step))
        except Exception as error:
            raise unreadable(error) from error
        if expected is not None and (lost := expected.keys() - {path_of(path) for path, _ in found}):
            raise unreadable(f"{', '.join(sorted(lost)[:3])} not found")

    distributed.together(look)
    for old in [] if keep is None else sorted(manager.all_steps())[:-keep]:
        manager.delete(old)


def _damaged(manager: ocp.CheckpointManager, step: int, what: object) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        f"cannot read checkpoint {manager.directory}/{step}: {what}. If it is damaged, run the same command that "
        "trained again: it goes on from the one before"
    )


def _on_first_device(manager: ocp.CheckpointManager, step: int) -> PyTree:
    """Shapes of what was saved, to be put on one device, wherever it was saved from."""
    # Of the arrays' folder itself: the manager would ask Orbax's notes on the step, too, which may be damaged.
    saved = ocp.StandardCheckpointHandler().metadata(manager.directory / str(step) / "state").tree
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=here), saved)


@contextlib.contextmanager
def writing(folder: Path, state: PyTree = None) -> Iterator[None]:
    """Errors of writing, of this save or of the one under way, as a CheckpointError that says how to go on."""

    def check_room() -> None:
        if told := without_elements(state):
            raise CheckpointError(told)
        needed, free = sum(x.nbytes for x in jax.tree.leaves(state)), shutil.disk_usage(folder).free
        if free < needed:
            told = f"the disk is full: a checkpoint needs {needed:,} bytes, {free:,} are free"
            raise CheckpointError(cannot_write(folder, told))

    if state is not None:  # before the writers start, which fail at length, and wait for each other
        distributed.together(check_room)
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(cannot_write(folder, error)) from error


def cannot_write(folder: Path, what: object) -> str:
    """Say that a checkpoint could not be written, why, and how to go on."""
    full = "the disk is full, " if "No space left" in str(what) else ""
    return (
        f"cannot write a checkpoint: {full}{what}. The checkpoint before it is kept: free space under {folder}, or "
        "mend it, and run the same command again"
    )
