"""The most FLOP/s that this machine is seen to do, the limit of what is products: the best of three ways to do many.

On CPUs: fused multiply-adds in registers, on every core; XLA's large product; and the product of NumPy's library
(OpenBLAS in its wheels). Bfloat16 is held against all of them and its own product, for whoever computes in float32 can
do it. On accelerators XLA's product is that of the maker's library, and the only one.

XLA's products run in a loop on the device in which every product depends on the one before, so nothing is hoisted and
nothing is dispatched from the host. Precision is what JAX takes by default: on some accelerators a float32 product is
computed with shorter mantissas.
"""

import concurrent.futures
import functools
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.bench.sizes import Sizes
from ad_jax.bench.timing import Work
from ad_jax.keys import a_key

# Multiply-adds that hang on nothing but the one before, side by side in as many registers as hide how long one takes,
# and so many in a row that reading and writing the array is nothing. Of 4 to 12 side by side and 64 to 256 in a row
# this was the fastest with AVX2, as fast as the best product.
LANES, CHAINS, DEPTH = 512, 8, 192

# Widths of vectors in bits, by what /proc/cpuinfo calls the instructions; the widest first.
VECTORS = {"avx512f": ("AVX-512", 512), "avx2": ("AVX2", 256), "avx": ("AVX", 256), "asimd": ("NEON", 128)}


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def vectors(file: Path = Path("/proc/cpuinfo")) -> tuple[str, int]:
    """Return the name and the width in bits of the processor's vector instructions; 0 where nothing says it."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        lines = []
    flags = {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split()}
    return next((VECTORS[name] for name in VECTORS if name in flags), (platform.machine(), 0))


def multiply_adds(flops: float) -> Work:
    """Fused multiply-adds of float32 on every core, about `flops` in a call. Amount: FLOP."""
    each = 2.0 * LANES * CHAINS * DEPTH
    loops = max(1, round(flops / cores() / each))
    x = jnp.ones((LANES,), jnp.float32)

    def call() -> list[jax.Array]:
        return list(_workers().map(_program(loops), [x] * cores()))

    return Work(call, each * loops * cores())


@functools.cache
def _program(loops: int) -> jax.stages.Compiled:
    run = jax.jit(functools.partial(_multiply_adds, loops=loops))
    return run.lower(jax.ShapeDtypeStruct((LANES,), jnp.float32)).compile()


@functools.cache
def _workers() -> concurrent.futures.ThreadPoolExecutor:
    """Return a thread for each core; JAX lets go of Python while a program runs."""
    return concurrent.futures.ThreadPoolExecutor(cores())


def _multiply_adds(x: jax.Array, loops: int) -> jax.Array:
    def body(_, x):
        chains = [x * jnp.float32(1 - 1e-3 * i) for i in range(1, CHAINS + 1)]
        for _ in range(DEPTH):
            chains = [chain * jnp.float32(0.999) + jnp.float32(1e-3) for chain in chains]
        return functools.reduce(jnp.maximum, chains)

    return jax.lax.fori_loop(0, loops, body, x)


def library(size: int, flops: float) -> Work:
    """Square products of float32 by NumPy, on the cores that it takes: those of this process. Amount: FLOP."""
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((size, size), np.float32) for _ in range(2))
    out, each = np.empty_like(a), 2.0 * size**3
    loops = max(1, round(flops / each))

    def call() -> np.ndarray:
        for _ in range(loops):
            np.matmul(a, b, out=out)
        return out

    return Work(call, each * loops)


def matmul(m: int, k: int, n: int, dtype: Any = jnp.float32, batch: int = 0, flops: float = 2e10) -> Work:
    """Products `[m, k] x [k, n]` in a row, about `flops` of them in a call; with `batch`, so many side by side.

    Amount: FLOP.
    """
    lead = (batch,) if batch else ()
    each = 2.0 * m * k * n * max(batch, 1)
    loops = max(1, round(flops / each))
    key_x, key_w = jax.random.split(a_key(0))
    x = jax.random.normal(key_x, (*lead, m, k), dtype) / math.sqrt(k)
    w = jax.random.normal(key_w, (*lead, k, n), dtype)
    run = jax.jit(functools.partial(_products, loops=loops))
    return Work(lambda: run(x, w), loops * each)


def _products(x, w, loops):
    def body(_, carry):
        w, y = carry
        w = w.at[..., 0, :].add(jnp.asarray(1e-6, w.dtype) * y[..., 0, :])  # depends on the last product, in place
        return w, x @ w

    return jax.lax.fori_loop(0, loops, body, (w, jnp.zeros((*x.shape[:-1], w.shape[-1]), x.dtype)))[1]


def candidates(size: int, flops: float, dtype: jnp.dtype) -> Mapping[str, Callable[[], Work]]:
    """Return what may be the fastest in `dtype`, by the keys of its rows: products of `size`, `flops` in a call."""
    cpu = jax.default_backend() == "cpu"
    found: dict[str, Callable[[], Work]] = {}
    for name in dict.fromkeys((str(dtype), "float32") if cpu else (str(dtype),)):
        square = functools.partial(matmul, size, size, size, jnp.dtype(name), flops=flops)
        found[f"limits/matmul {name} {size}"] = square
    if cpu:
        found["limits/multiply-adds float32"] = functools.partial(multiply_adds, flops)
        found[f"limits/library matmul float32 {size}"] = functools.partial(library, size, flops)
    return found


@functools.cache
def fastest(size: int, flops: float, dtype: jnp.dtype) -> str:
    """Return the key of the fastest candidate, by the fastest of ten calls; found once a process."""
    makers = candidates(size, flops, dtype)
    if len(makers) == 1:
        return next(iter(makers))
    works, rates = {key: make() for key, make in makers.items()}, dict.fromkeys(makers, 0.0)
    for _ in range(11):  # the first compiles
        for key, work in works.items():
            started = time.perf_counter()
            jax.block_until_ready(work.call())
            rates[key] = max(rates[key], work.amount / (time.perf_counter() - started))
    return max(rates, key=lambda key: rates[key])


def peak(sizes: Sizes, dtype: Any = jnp.float32) -> Work:
    """Return the limit that shares of `limits/peak` refer to, as a call. Amount: FLOP."""
    size, flops, name = sizes.matmul, 4 * sizes.small_flops, jnp.dtype(dtype)
    return candidates(size, flops, name)[fastest(size, flops, name)]()
