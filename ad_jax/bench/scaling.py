"""Collectives of a training step on 8 devices, by mesh: counted in the compiled program, not timed.

Run as a program, `python -m ad_jax.bench.scaling`, it reads sizes as JSON and prints its rows as JSON. The suite does
that in a process of its own, with 8 virtual CPU devices, where the process it runs in has fewer.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import jax

from ad_jax.bench import sizes as sizes_lib
from ad_jax.bench.distilling import compiled, setting
from ad_jax.bench.rows import Row
from ad_jax.bench.sizes import Sizes
from ad_jax.bench.worker import sizes_from
from ad_jax.planning import hlo
from ad_jax.sharding import MeshConfig, make_mesh

DEVICES = 8


def rows(sizes: Sizes) -> Iterator[Row]:
    """One row a mesh."""
    if len(jax.devices()) >= DEVICES:
        for mesh in sizes.meshes:
            yield row(mesh, sizes)
        return
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}".strip()
    done = subprocess.run(
        [sys.executable, "-m", "ad_jax.bench.scaling"],
        input=json.dumps(dataclasses.asdict(sizes)),
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the process that counts collectives failed: {done.stderr[-2000:]}")
    for found in json.loads(done.stdout.splitlines()[-1]):
        yield Row(**found)


def row(shape: tuple[int, int, int], sizes: Sizes) -> Row:
    """Bytes of collectives per update and device, for the first case of `sizes` on a mesh of `shape`.

    The share is gradient bytes (float32, each once: what data parallelism has to reduce) over bytes found.
    """
    mesh = make_mesh(MeshConfig(*shape), jax.devices()[:DEVICES])
    s = setting(sizes.cases[0], mesh)
    found = hlo.read(compiled(s).as_text() or "").collectives
    total = float(sum(found.bytes.values()))
    gradient = 4.0 * sum(leaf.size for leaf in jax.tree.leaves(s.trainer.abstract_state.params))
    counted = {"count": float(sum(found.count.values()))}
    for kind in (kind for kind, times in found.count.items() if times):
        counted |= {f"{kind} count": float(found.count[kind]), f"{kind} bytes": float(found.bytes[kind])}
    name = " x ".join(str(size) for size in shape)
    return Row(
        f"scaling/mesh {name}", total, total, "bytes/update", gradient / total if total else 1.0, "gradient bytes", 0,
        counted,
    )  # fmt: skip


if __name__ == "__main__":
    chosen = sizes_from(json.load(sys.stdin), sizes_lib)
    print(json.dumps([dataclasses.asdict(found) for found in rows(chosen)]))
