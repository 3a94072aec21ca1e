#!/usr/bin/env bash
# gymnax: importing one module of spaces imports seaborn, pandas, scipy.stats and pyplot.
#
# Expectation  gymnax.environments.spaces holds five small classes on jax.numpy. To import it costs what JAX costs.
# Behavior    the package's __init__ files import every environment, and some of those import plotting libraries at their
#              top, for pictures that nobody has asked for. A process that draws nothing pays for seaborn, and through it
#              for pandas and scipy.stats, before its first step.
# Why it is    thousands of short processes (tests, a command line's --help, workers of a cluster) each pay again; it is
# worth it     twice what importing jax itself takes.
# Version      gymnax 1.0.1, jax 0.10.2, seaborn 0.13.2, Python 3.11, Linux x86-64.
# Source       gymnax/environments/__init__.py, gymnax/environments/misc/pong.py.
# Seen         gymnax 1.0.1 brings seaborn, pandas, scipy.stats, matplotlib.pyplot
#              CPU seconds: jax 0.9, gymnax's spaces after it 1.9
#
# Exits 0 only while it holds (all four imported).
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check gymnax==1.0.1 jax==0.10.2 seaborn==0.13.2 six

"$place/venv/bin/python" -c "import jax, gymnax.environments.spaces"  # its bytecode is compiled once
"$place/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import sys
import time

before = time.process_time()
import jax  # noqa: E402, F401

middle = time.process_time()
import gymnax.environments.spaces  # noqa: E402, F401

after = time.process_time()
found = [name for name in ("seaborn", "pandas", "scipy.stats", "matplotlib.pyplot") if name in sys.modules]
print(f"gymnax {importlib.metadata.version('gymnax')} brings {', '.join(found)}")
print(f"CPU seconds: jax {middle - before:.1f}, gymnax's spaces after it {after - middle:.1f}")
raise SystemExit(0 if len(found) == 4 else 1)
PYTHON
