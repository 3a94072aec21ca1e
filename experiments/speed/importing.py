"""How quickly a file in XLand's layout is imported, beside reading it by h5py alone, in turn; and in what memory.

    python experiments/speed/importing.py            # a file of about 1 GB decoded, 5 turns
    python experiments/speed/importing.py 20 1       # 20 GB of groups that repeat one another, once, for the memory

Groups are links to a few that are written: a file of any size costs little disk, and h5py decodes each of them anew.
States repeat as they do in the world, most of the 25 cells from one step to the next, so that gzip has its usual work.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import h5py
import numpy as np

ROWS, STEPS = 32, 60_928
REPORT = """
import json, resource, sys, time
{imports}
started = time.monotonic(), time.process_time()
{work}
took = time.monotonic() - started[0], time.process_time() - started[1]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({{"seconds": took[0], "cpu": took[1], "peak": peak}}))
"""
READ = (
    "import h5py",
    """
with h5py.File(sys.argv[1]) as file:
    for name in file:
        for field in ("states", "actions", "rewards", "dones"):
            for row in range(32):
                file[name][field][row]
""",
)
IMPORT = (
    """
import dataclasses, pathlib
import ad_jax.history.write, h5py
from ad_jax.formats import importing
from ad_jax.formats.xland import XLand
""",
    """
opened = XLand.open
XLand.open = lambda self, paths: dataclasses.replace(opened(self, paths), allow_duplicates=True)
importing.import_histories("xland", [pathlib.Path(sys.argv[1])], sys.argv[2], {}, 60)
""",
)


def write(path: pathlib.Path, groups: int) -> float:
    """Write a file of so many groups; returns the gigabytes that it decodes to."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for number in range(min(groups, 2)):
            group = file.create_group(str(number))
            seen = rng.integers(0, 156, (ROWS, STEPS // 16 + 1, 5, 5)).astype(np.uint8)
            states = np.repeat(seen, 16, axis=1)[:, :STEPS]
            done = np.broadcast_to(np.arange(1, STEPS + 1) % 243 == 0, (ROWS, STEPS))
            arrays = {
                "states": states,
                "actions": rng.integers(0, 6, (ROWS, STEPS)).astype(np.uint8),
                "rewards": (done * rng.random((ROWS, STEPS))).astype(np.float16),
                "dones": done,
            }
            for name, x in arrays.items():
                chunk = (1, 4096, *x.shape[2:])
                group.create_dataset(name, data=x, chunks=chunk, compression="gzip", compression_opts=6)
            group.attrs["env-id"], group.attrs["benchmark-id"] = "XLand-MiniGrid-R1-9x9", "medium-1m"
            group.attrs["ruleset-id"] = number
        for number in range(2, groups):
            file[str(number)] = file[str(number % 2)]
    return groups * ROWS * STEPS * (25 + 1 + 2 + 1) / 1e9


def measured(program: tuple[str, str], *args: str) -> dict:
    """Run it in a process of its own; seconds are without starting Python and importing."""
    code = REPORT.format(imports=program[0], work=program[1])
    done = subprocess.run([sys.executable, "-c", code, *args], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(gigabytes: float = 1.0, turns: int = 5) -> None:
    """Print one line a turn, and the median ratio."""
    with tempfile.TemporaryDirectory() as place:
        path, out = pathlib.Path(place) / "a.hdf5", pathlib.Path(place) / "h"
        size = write(path, max(2, round(gigabytes * 1e9 / (ROWS * STEPS * 29))))
        ratios = []
        for _ in range(turns):
            alone = measured(READ, str(path))
            shutil.rmtree(out, ignore_errors=True)
            ours = measured(IMPORT, str(path), str(out))
            ratios.append(alone["seconds"] / ours["seconds"])
            print(
                f"{size:.2f} GB  h5py {alone['seconds']:.1f} s (processor {alone['cpu']:.1f})  import "
                f"{ours['seconds']:.1f} s (processor {ours['cpu']:.1f})  ratio {ratios[-1]:.2f}"
                f"  peak {ours['peak'] / 1e6:.2f} GB, h5py alone {alone['peak'] / 1e6:.2f} GB",
                flush=True,
            )
        print(f"median ratio {np.median(ratios):.2f}, {time.strftime('%Y-%m-%d')}")


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((float, int), sys.argv[1:])))
