"""One of several processes, for `test_processes.py`.

`process_worker.py meet OPTION FOLDER` prints as JSON what this process saw of the others.
`process_worker.py lost SECONDS ARGUMENT...` is the command line, which takes others for dead after so many seconds of
silence; `process_worker.py dying SECONDS STAGE ARGUMENT...` one that is killed: near the end of its chunks when it
collects, in the middle of its last checkpoint when it distils.
`process_worker.py signaled STAGE ARGUMENT...` is the command line that gets SIGTERM when it has logged of STAGE; while
distilling, once the file `go` is there; while collecting, seconds later, when it waits for the others.
`process_worker.py busy STAGE ARGUMENT...` is one that has not the time to listen from then on.

Gymnax makes arrays when it is imported, so what imports it is imported after the start.
"""

import json
import os
import pathlib
import shutil
import signal
import sys
import threading
import time

from ad_jax.__main__ import main
from ad_jax.checkpoint import checkpoint
from ad_jax.errors import AdJaxError, HistoryError
from ad_jax.process import distributed, metrics

LAST = 8  # updates of a training
WAITING = 3  # seconds until a process that has collected its share waits for the others


def stop() -> None:
    print(f"stopped at {time.time()}", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def when_logged(stage: str, call, line: int = 1) -> None:
    """Arrange for `call()` at a line of `stage` that this process logs, or would log were it the first."""
    write, calls = metrics.MetricsLog.write, []

    def logged(self, of, *args):
        write(self, of, *args)
        if of == stage:
            calls.append(of)
            if len(calls) == line:
                call()

    metrics.MetricsLog.write = logged  # pyright: ignore[reportAttributeAccessIssue]


def stop_after_go() -> None:
    pathlib.Path("reached").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.1)
    stop()


STOPS = {"distill": stop_after_go, "collect": lambda: threading.Timer(WAITING, stop).start()}


def failure(call) -> str:
    """Return what `call` raises, in words; a defect of ours is not caught."""
    try:
        return f"no error: {call()!r}"
    except AdJaxError as error:
        return f"{type(error).__name__}: {error}"


def fail(error: Exception):
    raise error


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_saving() -> None:
    save = checkpoint.Checkpoints.save

    def dying(self, step, state, meta) -> None:
        save(self, step, state, meta)
        if step == LAST:
            kill()

    checkpoint.Checkpoints.save = dying


def only_one_cannot_read(folder: pathlib.Path, index: int) -> dict[str, str]:
    """Return what each process gets of checkpoints 1 and 2 of which process 1 alone cannot read its part, or reads
    another.
    """
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    from ad_jax.sharding import MeshConfig, make_mesh, on_batch, put, replicated

    mesh, restore = make_mesh(MeshConfig()), ocp.CheckpointManager.restore
    state = put({"copied": np.arange(6.0, dtype=np.float32)}, replicated(mesh))
    state |= put({"split": np.arange(8, dtype=np.int32)}, on_batch(mesh))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)

    def failing(*steps: int):
        def fails(manager, step, args):
            if step in steps and "state" in args:
                raise OSError(f"injected at {step}")
            return restore(manager, step, args=args)

        return fails

    def other_bits(manager, step, args):
        read = restore(manager, step, args=args)
        if step == 2 and "state" in args:  # its own copy alone: the others read what was saved
            whole = read["state"]["copied"]
            mine = [jax.device_put(whole.addressable_data(0) + np.float32(1), jax.local_devices()[0])]
            read["state"]["copied"] = jax.make_array_from_single_device_arrays(whole.shape, whole.sharding, mine)
        return read

    def outcome(name: str, injected) -> str:
        here = folder / name
        with checkpoint.Checkpoints(here) as checkpoints:
            for step in (1, 2):
                checkpoints.save(step, state, {"architecture": {}, "step": step})
        if index == 1:
            ocp.CheckpointManager.restore = injected
        try:
            with checkpoint.Checkpoints(here) as checkpoints:
                step, read, meta = checkpoints.restore(like)
            same = all(np.array_equal(read[leaf].addressable_data(0), state[leaf].addressable_data(0)) for leaf in read)
            aside = [path.name for path in (here / "damaged").glob("*")]
            return f"{step}, {meta['step']}, {'equal' if same else 'other'}, aside: {aside}"
        except AdJaxError as error:
            return f"{type(error).__name__}: {error}"
        finally:
            ocp.CheckpointManager.restore = restore

    seen = {
        "latest unread": outcome("one", failing(2)),
        "none read": outcome("none", failing(1, 2)),
        "other bits": outcome("bits", other_bits),
        "loaded whole": outcome("loaded", restore),
    }
    if index == 1:
        ocp.CheckpointManager.restore = failing(2)  # pyright: ignore[reportAttributeAccessIssue]
    seen["loaded"] = failure(lambda: checkpoint.load(folder / "loaded"))
    ocp.CheckpointManager.restore = restore
    usage = shutil.disk_usage
    if index == 1:
        shutil.disk_usage = lambda path: usage(path)._replace(free=3)
    with checkpoint.Checkpoints(folder / "full") as checkpoints:
        seen["full"] = failure(lambda: checkpoints.save(1, state, {}))
    shutil.disk_usage = usage
    return seen


def meet(folder: pathlib.Path) -> dict:
    import jax
    import numpy as np

    from ad_jax.experiment import load, override
    from ad_jax.run.pipeline import Run
    from ad_jax.sharding import MeshConfig, make_mesh, on_batch, own_mesh, put, to_host

    index = distributed.index()
    mesh = make_mesh(MeshConfig())
    host = np.arange(24, dtype=np.int32).reshape(8, 3)
    rows = put(host, on_batch(mesh))
    keys = jax.random.split(jax.random.key(3), 8)

    def only_here(error):
        return failure(lambda: distributed.together(lambda: fail(error) if index == 1 else "fine"))

    experiment = load("dark_room", "smoke")
    foreign = folder / "foreign"
    return {
        "who": [index, distributed.count(), distributed.is_first()],
        "everywhere": distributed.everywhere(lambda: {"index": index, "long": "x" * 1000 * index}),
        "on_first": distributed.on_first(lambda: f"from {index}"),
        "together": distributed.together(lambda: index),
        "mine": rows.addressable_shards[0].data.tolist(),
        "all": np.array_equal(to_host(rows), host),
        "keys": np.array_equal(to_host(jax.random.key_data(put(keys, on_batch(mesh)))), jax.random.key_data(keys)),
        "own": [device.process_index for device in own_mesh(mesh).devices.flat],
        "history error": only_here(HistoryError("the disk is full")),
        "os error": only_here(OSError("no such device")),
        "first fails": failure(lambda: distributed.on_first(lambda: fail(HistoryError("gone")))),
        "other experiment": failure(lambda: Run(override(experiment, [f"seed={index}"]), folder / "differing")),
        "foreign": failure(lambda: Run(experiment, foreign)),
        "checkpoints": only_one_cannot_read(folder / "unread", index),
        "after": distributed.everywhere(lambda: index),
    }


if __name__ == "__main__":
    if sys.argv[1] == "signaled":
        when_logged(sys.argv[2], STOPS.get(sys.argv[2], stop))
        sys.exit(main(sys.argv[3:]))
    if sys.argv[1] == "busy":
        when_logged(sys.argv[2], lambda: time.sleep(600))
        sys.exit(main(sys.argv[3:]))
    if sys.argv[1] in ("lost", "dying"):
        distributed.LOST_SECONDS = int(sys.argv[2])  # of all alike: each sends a sign of life twice in that time
        if sys.argv[1] == "lost":
            sys.exit(main(sys.argv[3:]))
        line = 2 if "--processes" in sys.argv else 4  # of those that this process collects
        die_saving() if sys.argv[3] == "distill" else when_logged("collect", kill, line)
        sys.exit(main(sys.argv[4:]))
    distributed.start(sys.argv[2])
    print(json.dumps(meet(pathlib.Path(sys.argv[3]))))
