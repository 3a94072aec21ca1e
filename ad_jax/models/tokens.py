"""(observation, previous action, reward and done) -> token embeddings; the only place that knows their order.

Two layouts. `"step"`: one token a step, the sum of all parts. `"triple"`: three tokens a step, previous action,
previous reward (with done), observation; read in sequence that is o, a, r, o, a, r, ... of Laskin et al. 2022
(section 3), with outputs taken at the observation. Integer observations have one embedding table per component: x and y
of a grid apart generalize to unseen cells, one table per cell does not. Real observations enter through a linear map,
and so do actions in a Box, each component from -1 to 1 between its bounds; pixels through the convolutions of Laskin et
al. 2022 (appendix, Watermaze). What a method adds to the steps (`Spec.extra`) enters through linear maps, onto the
observation.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Float32, Integer, Num, UInt8

from ad_jax.models.heads.unit import to_unit
from ad_jax.types import Array, Box, Spec, Steps

Layout = Literal["step", "triple"]


class PixelConfig(NamedTuple):
    """Sizes of a `PixelEncoder`."""

    channels: tuple[int, ...]  # of each block
    width: int  # of what the blocks are mapped to
    pool: bool  # halve the picture a second time in each block
    dropout: float  # after each block, in training
    dtype: str  # of the products
    kernel: int = 5  # of each convolution
    stride: int = 2  # equal to the kernel: patches that do not overlap


# Names of the dimensions of what a tokenizer and its encoder hold, for a model's partition: tables are split, the few
# numbers of projections, convolutions and norms are copied.
PARTITION = (
    (r"tokens/.*/embedding", (None, "embed")),
    (r"tokens/.*/(kernel|scale|bias)", ()),
    (r"mask_token", ()),
)


class PixelEncoder(nnx.Module):
    """Pictures to `config.width` features, each by itself.

    Blocks of a convolution (kernel 5, stride 2 by default), a norm, ReLU, a maximum over 2 x 2 (stride 2, optional) and
    dropout; then one dense layer. The paper's block has BatchNorm, whose statistics would tie rows to one another and a
    step to the steps after it, and a decoded step, which is alone, would be another function than the applied one. Here
    the norm is over one picture, all of it and of its channels: a small picture shrinks to one pixel, where groups of
    few channels would normalize everything away. Where the stride is the kernel, a convolution is one product of
    patches (Dosovitskiy et al. 2021, arXiv 2010.11929): on a CPU, whose convolutions are slow, several times as fast.
    """

    def __init__(self, shape: tuple[int, ...], config: PixelConfig, *, rngs: nnx.Rngs):
        self.config = config
        height, width, inputs = shape
        for i, outputs in enumerate(config.channels):
            options = {"use_bias": False, "dtype": jnp.dtype(config.dtype), "rngs": rngs}
            if config.kernel == config.stride:
                conv = nnx.Linear(config.kernel**2 * inputs, outputs, **options)
            else:
                conv = nnx.Conv(inputs, outputs, (config.kernel, config.kernel), config.stride, **options)
            setattr(self, f"conv_{i}", conv)
            setattr(self, f"norm_{i}", nnx.GroupNorm(outputs, 1, rngs=rngs))
            for by in (config.stride, 2) if config.pool else (config.stride,):
                height, width = -(-height // by), -(-width // by)
            inputs = outputs
        self.dense = nnx.Linear(height * width * inputs, config.width, dtype=jnp.dtype(config.dtype), rngs=rngs)

    def __call__(
        self, pictures: UInt8[Array, "N height width C"], key: jax.Array | None = None
    ) -> Float32[Array, "N F"]:
        """With `key`, training mode; it is consumed."""
        rate, x = self.config.dropout, pictures.astype(jnp.float32) / 255 - 0.5
        for i in range(len(self.config.channels)):
            if self.config.kernel == self.config.stride:
                x = patches(x, self.config.kernel)
            x = getattr(self, f"conv_{i}")(x).astype(jnp.float32)
            x = jax.nn.relu(getattr(self, f"norm_{i}")(x))
            if self.config.pool:
                x = nnx.max_pool(x, (2, 2), (2, 2), "SAME")
            if key is not None and rate > 0:
                kept = jax.random.bernoulli(jax.random.fold_in(key, i), jnp.float32(1 - rate), x.shape)
                x = jnp.where(kept, x / (1 - rate), 0.0)
        return jax.nn.relu(self.dense(x.reshape(len(x), -1)).astype(jnp.float32))


def patches(x: Float[Array, "N height width C"], size: int) -> Float[Array, "N rows columns _"]:
    """Pictures in squares of `size` pixels; the last are padded."""
    n, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, -height % size), (0, -width % size), (0, 0)))
    rows, columns = x.shape[1] // size, x.shape[2] // size
    x = x.reshape(n, rows, size, columns, size, channels).swapaxes(2, 3)
    return x.reshape(n, rows, columns, size * size * channels)


class Tokenizer(nnx.Module):
    """Embeds steps as n = `tokens_per_step(layout)` tokens each.

    `pixels` is used where observations are pixels. With `numeric_observations`, whole observations enter as numbers, so
    that unseen ones lie between seen ones, and not each component by a table of its values.
    """

    def __init__(
        self,
        spec: Spec,
        width: int,
        layout: Layout,
        scale: float,
        pixels: PixelConfig,
        numeric_observations: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        def table(rows):
            return nnx.Embed(rows, width, embedding_init=nnx.initializers.normal(scale), rngs=rngs)

        def dense(rows, scale=scale):
            return nnx.Linear(rows, width, kernel_init=nnx.initializers.normal(scale), use_bias=False, rngs=rngs)

        self.spec, self.layout, self.numeric_observations = spec, layout, numeric_observations
        if spec.pixels:
            self.encoder = PixelEncoder(spec.shape, pixels, rngs=rngs)
            # Of the size of the other parts, which a sum over so many features would drown.
            self.observation = dense(pixels.width, scale / pixels.width**0.5)
        else:
            values = None if numeric_observations else spec.values
            self.observation = dense(spec.size) if values is None else table(sum(values))
        if isinstance(spec.action, Box):
            self.action = dense(spec.action.size)
        else:
            self.action = table(spec.action.n + 1)  # the last row is "none", before the first action
        self.reward = dense(1)
        self.done = table(2)
        for name, shape in spec.extra:
            setattr(self, f"extra_{name}", dense(math.prod(shape)))

    def __call__(self, steps: Steps, key: jax.Array | None = None) -> Float32[Array, "*B n D"]:
        """Tokens of steps `[*B]`. With `key`, training mode; it is consumed."""
        observation = self.embed_observation(steps.observation, key)
        for name, shape in self.spec.extra:
            given = steps.extra[name]
            flat = given.reshape(*given.shape[: given.ndim - len(shape)], math.prod(shape))
            observation = observation + getattr(self, f"extra_{name}")(flat)
        action = self.embed_action(steps.prev_action)
        reward = self.reward(steps.prev_reward[..., None]) + self.done(steps.prev_done.astype(jnp.int32))
        if self.layout == "step":
            return (observation + action + reward)[..., None, :]
        return jnp.stack([action, reward, observation], axis=-2)

    def embed_action(self, action: Num[Array, "..."]) -> Float32[Array, "*B D"]:
        """Embed actions `[*B, *S]`. Zeros before the first action of a Box are clipped to its bounds."""
        box = self.spec.action
        return self.action(to_unit(box, action) if isinstance(box, Box) else action)

    def embed_observation(self, observation: Num[Array, "..."], key: jax.Array | None = None) -> Float32[Array, "*B D"]:
        """Embed observations `[*B, *O]`."""
        lead = observation.ndim - len(self.spec.shape)
        if self.spec.pixels:
            encoded = self.encoder(observation.reshape(-1, *self.spec.shape), key)
            return self.observation(encoded).reshape(*observation.shape[:lead], -1)
        flat = observation.reshape(*observation.shape[:lead], self.spec.size)
        if self.spec.values is None:
            return self.observation(flat.astype(jnp.float32))
        if self.numeric_observations:
            return self.observation(as_numbers(flat, self.spec.values))
        first_row = np.cumsum((0, *self.spec.values[:-1]), dtype=np.int32)
        rows = flat.astype(jnp.int32) + jnp.asarray(first_row).reshape((1,) * lead + (-1,))
        return self.observation(rows).sum(axis=-2)


def as_numbers(observation: Integer[Array, "*B n"], values: tuple[int, ...]) -> Float32[Array, "*B n"]:
    """Whole observations, each of the n components from -1 to 1 over its `values`."""
    most = np.maximum(np.array(values, np.float32) - 1, 1)
    return 2 * observation.astype(jnp.float32) / jnp.broadcast_to(most, observation.shape) - 1


def masked(
    key: jax.Array, rate: float, tokens: Float[Array, "B T D"], mask: Float[Array, " D"]
) -> Float[Array, "B T D"]:
    """`tokens`, of which a share `rate` is replaced by `mask`. The key is consumed."""
    hidden = jax.random.bernoulli(key, jnp.float32(rate), tokens.shape[:2])
    return jnp.where(hidden[..., None], mask.reshape(1, 1, -1), tokens)


def tokens_per_step(layout: Layout) -> int:
    """Return n, the tokens that a step is written as."""
    return 1 if layout == "step" else 3
