"""Attention forward and backward by head width: ours, and what JAX brings, on equal work.

FLOP are counted as in `planning.transformer`: 12 S D a token, the causal mask does not halve. cuDNN's kernel is there
on GPUs and for 16-bit numbers only; where an implementation cannot run, its row is left out. After them, training steps
of whole models with each attention (`ad_jax.models.fused`).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp

from ad_jax.bench import distilling
from ad_jax.bench.peak import peak
from ad_jax.bench.rows import Row, rate
from ad_jax.bench.sizes import Case, Sizes
from ad_jax.bench.timing import Work, measure, paired
from ad_jax.keys import a_key
from ad_jax.models.attention import segment_attention


def rows(sizes: Sizes) -> Iterator[Row]:
    """One row a head width and implementation; keys in sight are all of the segment. And one a model and attention."""
    batch, length, width, dtype = sizes.attention
    dtype = jnp.dtype(dtype)
    for head in sizes.head_widths:
        shape = (batch, length, width // head, head)
        works = {name: work for name, attend in implementations(length, dtype) if (work := timed(attend, shape, dtype))}
        names = list(works)
        works["peak"] = peak(sizes, dtype)
        seconds = measure(works, sizes.rounds, sizes.budget)
        for name in names:
            over = paired(seconds[name], seconds["ours"])
            yield rate(
                f"attention/{dtype} {batch}x{length}x{width}, heads of {head}/{name}", "FLOP/s", works[name].amount,
                seconds[name], f"limits/peak {dtype}", works["peak"].amount, seconds["peak"],
                seconds_over_ours=over,
            )  # fmt: skip
    yield from distilling.rows(dataclasses.replace(sizes, cases=tuple(variants(sizes.variants))))


def variants(cases: Iterable[Case]) -> Iterator[Case]:
    """Each case with each attention."""
    for case in cases:
        for kind in ("banded", "fused"):
            yield dataclasses.replace(case, name=f"{case.name}, {kind}", options={**case.options, "attention": kind})


def implementations(length: int, dtype: jnp.dtype) -> Iterator[tuple[str, Callable]]:
    """Causal attention of `(q, k, v)`, by name."""
    yield "ours", functools.partial(segment_attention, window=length, n=1)
    yield "jax xla", functools.partial(jax.nn.dot_product_attention, is_causal=True, implementation="xla")
    if jax.default_backend() == "gpu" and dtype.itemsize == 2:
        yield "jax cudnn", functools.partial(jax.nn.dot_product_attention, is_causal=True, implementation="cudnn")


def timed(attend: Callable, shape: tuple[int, int, int, int], dtype: jnp.dtype) -> Work | None:
    """Output and gradients of one attention; None where it cannot run. Amount: FLOP."""
    batch, length, heads, head = shape
    q, k, v = (jax.random.normal(key, shape, dtype) for key in jax.random.split(a_key(0), 3))

    def loss(q, k, v):
        return attend(q, k, v).astype(jnp.float32).sum()

    run = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    try:
        jax.block_until_ready(run(q, k, v))
    except (RuntimeError, ValueError, NotImplementedError):
        return None
    return Work(lambda: run(q, k, v), 12.0 * length * heads * head * batch * length)
