#!/bin/sh
# What a GPU does with ad_jax, in eight minutes at most, what matters most first: does it run and learn (Dark Room from
# nothing), training 100M parameters, 65,536 learners, acting from a cache, kinds of attention, PyTorch beside it.
#
#   experiments/speed/gpu.sh [FOLDER [OPTION ...]]    from the repository's root; default runs/bench/gpu
#
# FOLDER/STAGE.json holds each row of a stage as soon as it is there, so what is cut off leaves what it had, and what
# fails leaves the stages after it; `ad-jax bench --show` prints one. With options, those of `ad-jax bench`, one call with
# them instead: FOLDER/bench.json.
#
# Uses the machine's own python3 (3.11 or later) and its JAX (0.10 or 0.11) with GPU support; flax, optax and
# orbax-checkpoint are often beside it, and PyTorch is used if it is. What it lacks, ad_jax included, comes as wheels
# from ./packages, filled beforehand on a machine that has a network, for the other one's Python:
#
#   pip wheel --no-deps -w packages .
#   pip download --no-deps -d packages -c constraints.txt --only-binary=:all: --python-version 3.12 PACKAGE ...
#
# PACKAGE: gymnax gymnasium farama-notifications cloudpickle chex toolz six rich markdown-it-py mdurl pygments msgspec
# jaxtyping wadler-lindig seaborn filelock jinja2 markupsafe tyro typeguard docstring-parser typing-extensions
#
# PYTHON names another interpreter, PACKAGES another folder of wheels, LIMIT other seconds for all, PART for a stage.
# TRIAL=1 tries the script itself on a CPU, at sizes that say nothing.
set -eu

end=$(($(date +%s) + ${LIMIT:-480}))
python=${PYTHON:-python3}
packages=${PACKAGES:-packages}
out=${1:-runs/bench/gpu}
[ $# -eq 0 ] || shift
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

if ls "$packages"/*.whl >/dev/null 2>&1; then
    "$python" -m pip install --quiet --no-index --no-deps --target "$place/packages" "$packages"/*.whl
    export PYTHONPATH="$place/packages${PYTHONPATH:+:$PYTHONPATH}"
fi

export AD_JAX_CACHE="$place/cache" PYTHONUNBUFFERED=1
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
if [ -n "${TRIAL:-}" ]; then
    export JAX_PLATFORMS=cpu
else
    "$python" -c 'import jax; d = jax.devices(); print("jax", jax.__version__, "on", d); assert d[0].platform != "cpu", "no GPU"'
fi

status=0
# bench NAME OPTION ...: into a file of that name, within what is left of the time.
bench() {
    file=$out/$1.json
    shift
    left=$((end - $(date +%s)))
    [ "$left" -lt "${PART:-180}" ] || left=${PART:-180}
    if [ "$left" -le 0 ]; then
        echo "no time is left for $file" >&2
        status=124
        return
    fi
    failed=0
    timeout "$left" "$python" -m ad_jax bench --out "$file" "$@" || failed=$?
    [ "$failed" -ne 124 ] || echo "cut off after $left s; $file holds what was measured until then" >&2
    [ "$failed" -eq 0 ] || status=$failed
}

if [ $# -gt 0 ]; then
    PART=${LIMIT:-480} bench bench "$@"
    exit "$status"
fi
# The demo is a process of its own, for which the one that waits for it must leave the memory.
XLA_PYTHON_CLIENT_PREALLOCATE=false bench demo --brief --only demo
for stage in distill collect evaluate attention; do bench "$stage" --brief --only "$stage"; done
if "$python" -c 'import torch' 2>/dev/null; then
    bench torch --brief --only torch
else
    echo "no PyTorch here: its rows are left out"
fi
exit "$status"
