#!/usr/bin/env bash
# orbax-checkpoint: in a directory named "hidden=[32,32]" every save succeeds and nothing can be read back.
#
# Expectation  a directory's name is only a place: what CheckpointManager has saved, finished and lists can be restored,
#              or the save raises. Sweeps name run directories after options, so brackets and commas are common there.
# Behavior    save and wait_until_finished raise nothing, latest_step() says 1, and restore ends with a ValueError
#              (NOT_FOUND). The directory's own name is taken as a glob pattern when the pieces of the processes are looked
#              for; it matches nothing, so they are never merged into the checkpoint. A backslash in the name does the same,
#              because it is read as a separator of folders.
# Version      orbax-checkpoint 0.12.8, jax and jaxlib 0.10.2, etils 1.15.0, tensorstore 0.1.86, numpy 2.4.6, Python 3.11
# Source       etils.epath (gpath.glob joins the path, unescaped, with the pattern) as orbax-checkpoint calls it to merge
#              "ocdbt.process_*".
# Seen         plain: saved, step 1 listed, restored [0. 1. 2. 3.]
#              hidden=[32,32]: saved, step 1 listed, ValueError
#              back\slash: saved, step 1 listed, ValueError
#
# Exits 0 only while it holds.
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check \
    orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 etils==1.15.0 tensorstore==0.1.86 numpy==2.4.6

JAX_PLATFORMS=cpu "$place/venv/bin/python" - "$place" <<'PYTHON' 2>"$place/log"
import pathlib
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp

sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
like = {"w": jax.ShapeDtypeStruct((4,), np.float32, sharding=sharding)}
lost = {}
for name in ("plain", "hidden=[32,32]", "back\\slash"):
    folder = pathlib.Path(sys.argv[1], "runs", name)
    with ocp.CheckpointManager(folder) as manager:
        manager.save(1, args=ocp.args.StandardSave({"w": np.arange(4.0, dtype=np.float32)}))
        manager.wait_until_finished()
    with ocp.CheckpointManager(folder) as manager:
        listed = manager.latest_step()
        try:
            found = f"restored {np.asarray(manager.restore(1, args=ocp.args.StandardRestore(like))['w'])}"
        except ValueError as error:
            found = type(error).__name__
    lost[name] = listed == 1 and found == "ValueError"
    print(f"{name}: saved, step {listed} listed, {found}")
raise SystemExit(0 if list(lost.values()) == [False, True, True] else 1)
PYTHON
