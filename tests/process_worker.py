"""One of several processes, for `test_processes.py`.

`process_worker.py meet OPTION FOLDER` prints as JSON what this process saw of the others.
`process_worker.py lost SECONDS ARGUMENT...` is the command line, which takes others for dead after so many seconds of
silence; `process_worker.py dying SECONDS ARGUMENT...` one that is killed in the middle of its first checkpoint.

Gymnax makes arrays when it is imported, so what imports it is imported after the start.
"""

import json
import os
import pathlib
import signal
import sys

from ad_jax import checkpoint, processes
from ad_jax.__main__ import main
from ad_jax.errors import AdJaxError, HistoryError


def failure(call) -> str:
    """What `call` raises, in words; a defect of ours is not caught."""
    try:
        return f"no error: {call()!r}"
    except AdJaxError as error:
        return f"{type(error).__name__}: {error}"


def fail(error: Exception):
    raise error


def die(self, *args) -> None:
    save(self, *args)
    os.kill(os.getpid(), signal.SIGKILL)


def meet(folder: pathlib.Path) -> dict:
    import jax
    import numpy as np

    from ad_jax.experiment import load, override
    from ad_jax.pipeline import Run
    from ad_jax.sharding import MeshConfig, make_mesh, on_batch, own_mesh, put, to_host

    index = processes.index()
    mesh = make_mesh(MeshConfig())
    host = np.arange(24, dtype=np.int32).reshape(8, 3)
    rows = put(host, on_batch(mesh))
    keys = jax.random.split(jax.random.key(3), 8)
    only_here = lambda error: failure(lambda: processes.together(lambda: fail(error) if index == 1 else "fine"))
    experiment = load("dark_room", "smoke")
    foreign = folder / "foreign"
    return {
        "who": [index, processes.count(), processes.is_first()],
        "everywhere": processes.everywhere(lambda: {"index": index, "long": "x" * 1000 * index}),
        "on_first": processes.on_first(lambda: f"from {index}"),
        "together": processes.together(lambda: index),
        "mine": rows.addressable_shards[0].data.tolist(),
        "all": np.array_equal(to_host(rows), host),
        "keys": np.array_equal(to_host(jax.random.key_data(put(keys, on_batch(mesh)))), jax.random.key_data(keys)),
        "own": [device.process_index for device in own_mesh(mesh).devices.flat],
        "history error": only_here(HistoryError("the disk is full")),
        "os error": only_here(OSError("no such device")),
        "first fails": failure(lambda: processes.on_first(lambda: fail(HistoryError("gone")))),
        "other experiment": failure(lambda: Run(override(experiment, [f"seed={index}"]), folder / "differing")),
        "foreign": failure(lambda: Run(experiment, foreign)),
        "after": processes.everywhere(lambda: index),
    }


if __name__ == "__main__":
    if sys.argv[1] in ("lost", "dying"):
        processes.LOST_SECONDS = int(sys.argv[2])  # of all alike: each sends a sign of life twice in that time
        save = checkpoint.Checkpoints.save
        if sys.argv[1] == "dying":
            checkpoint.Checkpoints.save = die
        sys.exit(main(sys.argv[3:]))
    processes.start(sys.argv[2])
    print(json.dumps(meet(pathlib.Path(sys.argv[3]))))
