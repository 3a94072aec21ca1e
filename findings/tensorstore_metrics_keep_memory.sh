#!/usr/bin/env bash
# tensorstore: each reading of the metrics keeps memory.
#
# Expectation  tensorstore.experimental_collect_matching_metrics returns a list of plain dictionaries. When the caller drops
#              them, a later call has nothing more in memory than an earlier one.
# Behavior    the process grows by several kilobytes a call, for ever; gc.collect() does not bring it back.
# Why it is    orbax-checkpoint (0.12.8) calls it when it saves, so a training that checkpoints for days grows with the number
# worth it     of its checkpoints, and the growth is easily taken for a leak of its own arrays.
# Version      tensorstore 0.1.86, numpy 2.4.6, Python 3.11, Linux x86-64.
# Source       the Python binding of the function, documented at the page "tensorstore.experimental_collect_matching_metrics".
# Seen         tensorstore 0.1.86: 18 metrics a call
#              grew by 11579 bytes a call over 2000 calls
#
# Exits 0 only while it holds (more than 1,000 bytes a call, after a warm-up).
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check tensorstore==0.1.86 numpy==2.4.6

"$place/venv/bin/python" - <<'PYTHON'
import gc
import importlib.metadata
import os
import tempfile

import tensorstore as ts


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


with tempfile.TemporaryDirectory() as folder:  # one array written, so that there are metrics to read
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": folder}, "metadata": {"dtype": "<f4", "shape": [8]}}
    ts.open(spec, create=True).result().write(1.0).result()

    for _ in range(500):
        found = ts.experimental_collect_matching_metrics("/tensorstore/")
    before = resident()
    calls = 2000
    for _ in range(calls):
        found = ts.experimental_collect_matching_metrics("/tensorstore/")
    grown = (resident() - before) / calls

print(f"tensorstore {importlib.metadata.version('tensorstore')}: {len(found)} metrics a call")
print(f"grew by {grown:.0f} bytes a call over {calls} calls")
raise SystemExit(0 if grown > 1000 else 1)
PYTHON
