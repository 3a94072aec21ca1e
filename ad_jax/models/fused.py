"""Attention over a segment by what JAX brings for GPUs, and the choice between that and ours.

`attention.segment_attention` is banded, with a backward pass written for CPUs. `jax.nn.dot_product_attention` is the
same function to rounding: cuDNN's kernel for 16-bit numbers, which keeps no weights in memory and skips what the window
hides, else XLA's products with a softmax between them over all pairs of tokens. Decoding is in neither: one query meets
its ring in a product of a vector and a matrix a head, which a kernel for segments would not make faster.

Letters as in `attention.py`.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int32

from ad_jax.models.attention import segment_attention
from ad_jax.types import Array

AMPERE = (8, 0)  # compute capability from which on cuDNN has the kernel


def chosen_attention(
    q: Float[Array, "B T K h"],
    k: Float[Array, "B T K h"],
    v: Float[Array, "B T K h"],
    *,
    window: int,
    n: int,
    kind: Literal["banded", "fused"] | None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
    episode: Int32[Array, "B T"] | None = None,
) -> Float[Array, "B T K h"]:
    """Attention over a whole segment, as `segment_attention`, which states the other arguments.

    `kind` says whose: "banded" is ours, "fused" JAX's. None is ours, but JAX's on a CUDA GPU: there a program carries
    both and has one of them when it is lowered, so what the same process lowers for its CPU is ours. XLA's products
    cost L * L, so a segment longer than the window is ours on a GPU, too, unless cuDNN takes it. Where weights are
    dropped it is always ours: the others drop none, or other ones. Ours, too, where tokens see their own episode alone:
    a mask of every pair, different in each row, is what JAX's kernels save themselves.
    """
    ours = functools.partial(segment_attention, window=window, n=n, episode=episode)
    if kind == "banded" or (key is not None and dropout > 0) or episode is not None:
        return ours(q, k, v, dropout=dropout, key=key)
    # A process without a GPU does not trace what it cannot use: carrying both costs up to a third more of tracing.
    if kind is None and not capability():
        return ours(q, k, v)
    cudnn = cudnn_takes(q, window, n)
    fused = functools.partial(_dot_product, window=window, n=n, implementation="cudnn" if cudnn else "xla")
    if kind == "fused":
        return fused(q, k, v)
    if cudnn or q.shape[1] <= window * n:
        return jax.lax.platform_dependent(q, k, v, cuda=fused, default=ours)
    return ours(q, k, v)


def _dot_product(q, k, v, *, window, n, implementation):
    """Attention by `jax.nn.dot_product_attention`."""
    return jax.nn.dot_product_attention(q, k, v, implementation=implementation, **_sight(q.shape[1], window, n))


def _sight(length: int, window: int, n: int) -> dict[str, Any]:
    """Which tokens see which, in the words of `jax.nn.dot_product_attention`, whose windows count tokens, not steps.

    A token of a step of several sees the whole first step of its window, so how many tokens it sees depends on its
    place in the step: no one width says that, but a mask does.
    """
    if length <= window * n:
        return {"is_causal": True}
    if n == 1:
        return {"is_causal": True, "local_window_size": (window - 1, 0)}
    token = jnp.arange(length, dtype=jnp.int32)
    back = token[:, None] // n - token[None] // n  # in steps
    return {"mask": ((token[None] <= token[:, None]) & (back < window))[None, None]}


def cudnn_takes(q: Float[Array, "B T K h"], window: int, n: int) -> bool:
    """Whether cuDNN's kernel can do this attention and its gradient on this process's devices.

    JAX itself is asked, which knows the widths of heads and versions of cuDNN; nothing is computed. Without a GPU in
    this process the answer is no.
    """
    if q.dtype.itemsize != 2 or capability() < AMPERE:
        return False
    one = jax.ShapeDtypeStruct(q.shape, q.dtype)
    attend = functools.partial(_dot_product, window=window, n=n, implementation="cudnn")

    def total(q, k, v):
        return attend(q, k, v).astype(jnp.float32).sum()

    try:
        jax.eval_shape(jax.grad(total, (0, 1, 2)), one, one, one)
    except (NotImplementedError, RuntimeError, ValueError):
        return False
    return True


def capability() -> tuple[int, ...]:
    """Compute capability of this process's CUDA GPUs, e.g. (9, 0), the lowest; () where there are none."""
    if jax.default_backend() != "gpu":
        return ()
    stated = [str(getattr(device, "compute_capability", "")).split(".") for device in jax.local_devices()]
    return min((tuple(map(int, parts)) if all(map(str.isdigit, parts)) else () for parts in stated), default=())
