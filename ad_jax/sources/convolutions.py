"""Convolutions for sources that learn from pixels, fast where many learners run side by side.

Layers of kernel 3, stride 2 and ReLU; no norm and no pooling. Each learner under `vmap` has kernels of its own, which
makes one convolution of XLA's a grouped one, and slow on a CPU. Here a convolution is slices and one product with the
kernel, and under `vmap` that is a batched product (measured in experiments/LOG.md).

Laskin et al. 2022 (arXiv 2210.14215, appendix) have a ResNet of [32, 64, 64] channels in their source on Watermaze.
This is smaller, by default and in kind: no residual blocks.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ad_jax.types import Spec

KERNEL, STRIDE = 3, 2


def num_outputs(spec: Spec, channels: Sequence[int]) -> int:
    """F, the width of `convolved` for pictures of `spec`."""
    height, width, _ = spec.shape
    for _ in channels:
        height, width = -(-height // STRIDE), -(-width // STRIDE)
    return height * width * channels[-1]


def init_convolutions(key: jax.Array, spec: Spec, channels: Sequence[int]) -> list[dict[str, jax.Array]]:
    """Return a layer for each of `channels`: none where observations are no pixels. The key is consumed."""
    if not spec.pixels:
        return []
    sizes = (spec.shape[-1], *channels)
    return [_layer(k, n, m) for k, n, m in zip(jax.random.split(key, len(channels)), sizes, sizes[1:])]


def _layer(key: jax.Array, inputs: int, outputs: int) -> dict[str, jax.Array]:
    """Return a kernel, flat in the order of `_patches`, that keeps the scale of what goes through it and a ReLU."""
    rows = KERNEL**2 * inputs
    kernel = math.sqrt(2 / rows) * jax.random.normal(key, (rows, outputs), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(outputs, jnp.float32)}


def convolved(layers: Sequence[dict[str, jax.Array]], pictures: jax.Array) -> jax.Array:
    """`[B, height, width, C]` uint8 to `[B, F]` float32; bytes go from -0.5 to 0.5."""
    x = pictures.astype(jnp.float32) / 255 - 0.5
    for layer in layers:
        patches = _patches(x)
        flat = patches.reshape(-1, patches.shape[-1]) @ layer["kernel"] + layer["bias"][None]
        x = jax.nn.relu(flat).reshape(*patches.shape[:3], -1)
    return x.reshape(len(x), -1)


def _patches(x: jax.Array) -> jax.Array:
    """Return what each place of a convolution sees, `[B, height / 2, width / 2, 9 C]`: by row, column, channel.

    The edge is padded with zeros, by as much as XLA's "SAME".
    """
    sizes = [-(-n // STRIDE) for n in x.shape[1:3]]
    missing = [max((n - 1) * STRIDE + KERNEL - m, 0) for n, m in zip(sizes, x.shape[1:3])]
    x = jnp.pad(x, ((0, 0), *((m // 2, m - m // 2) for m in missing), (0, 0)))
    reach = [STRIDE * (n - 1) + 1 for n in sizes]
    taken = [x[:, i : i + reach[0] : STRIDE, j : j + reach[1] : STRIDE] for i in range(KERNEL) for j in range(KERNEL)]
    return jnp.concatenate(taken, axis=-1)
