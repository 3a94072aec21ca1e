#!/bin/sh
# The throughput suite on a machine with a GPU: one file, cut off after 570 s.
#
#   experiments/speed/gpu.sh [OUT.json [OPTION ...]]     from the repository's root; default runs/bench/gpu.json
#
# Options are those of `ad-jax bench`, such as --quick or --only evaluate. The whole suite takes longer than ten minutes on a
# fast GPU, most of it compiling: what matters most goes first, in calls of its own.
#
# Uses the machine's own python3 and its JAX with GPU support (flax, optax and orbax-checkpoint are often beside it). What
# it lacks, ad_jax included, comes as wheels from ./packages, filled beforehand on a machine that has a network:
#
#   pip wheel --no-deps -w packages .
#   pip download --no-deps -d packages -c constraints.txt gymnax gymnasium farama-notifications nest-asyncio rich six
#
# PYTHON names another interpreter, PACKAGES another folder of wheels, LIMIT other seconds.
set -eu

python=${PYTHON:-python3}
packages=${PACKAGES:-packages}
out=${1:-runs/bench/gpu.json}
[ $# -eq 0 ] || shift
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

if ls "$packages"/*.whl >/dev/null 2>&1; then
    "$python" -m pip install --quiet --no-index --no-deps --target "$place/packages" "$packages"/*.whl
    export PYTHONPATH="$place/packages${PYTHONPATH:+:$PYTHONPATH}"
fi

export AD_JAX_CACHE="$place/cache" PYTHONUNBUFFERED=1
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
"$python" -c 'import jax; d = jax.devices(); print("jax", jax.__version__, "on", d); assert d[0].platform != "cpu", "no GPU"'

# Rows are kept as they come, so a run that is cut off leaves what it had measured.
status=0
timeout "${LIMIT:-570}" "$python" -m ad_jax bench --out "$out" "$@" || status=$?
[ "$status" -ne 124 ] || echo "cut off after ${LIMIT:-570} s; $out holds what was measured until then" >&2
exit "$status"
