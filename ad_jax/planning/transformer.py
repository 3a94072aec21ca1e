"""What our transformer's products and memory come to, from its options and the shapes of its parameters.

FLOP are those of the model's products, not of a program; memory of activations is an estimate. The formulas stand at
the functions, and tests hold them to what training and the compiler give.

Letters: B batch, L segment, W window, n tokens a step, D width, M the MLP's width, K heads, S keys in sight of a token.
"""

import math
from typing import NamedTuple

import jax
import numpy as np

from ad_jax.models.attention import Band
from ad_jax.models.tokens import tokens_per_step
from ad_jax.models.transformer import Transformer
from ad_jax.types import PyTree, Spec

FLOAT = 4  # bytes of a float32, and of an int32


class PictureLayer(NamedTuple):
    """One convolution of the model's pixel encoder."""

    multiplied: int  # multiply-adds of one picture
    size: int  # numbers that come out
    pooled: int  # of them, after pooling


def picture_layers(config: Transformer, seen: Spec) -> list[PictureLayer]:
    """Return the convolutions of `models.tokens.PixelEncoder`; none where observations are no pixels."""
    if not seen.pixels:
        return []
    layers, (height, width, inputs) = [], seen.shape
    for outputs in config.pixel_channels:
        height, width = -(-height // config.pixel_stride), -(-width // config.pixel_stride)
        size = height * width * outputs
        if config.pixel_pool:
            height, width = -(-height // 2), -(-width // 2)
        layers.append(PictureLayer(size * config.pixel_kernel**2 * inputs, size, height * width * outputs))
        inputs = outputs
    return layers


def matmul_params(params: PyTree) -> tuple[int, int]:
    """Weights that multiply every token (matrices of the blocks) and every position (the head).

    Not counted: embedding tables (a lookup), the 1 x D reward map, norms, biases.
    """
    per_token = per_position = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if math.prod(leaf.shape[:-1]) > 1 and name.startswith("block_"):
            per_token += math.prod(leaf.shape)
        elif len(leaf.shape) > 1 and name.startswith("head"):
            per_position += math.prod(leaf.shape)
    return per_token, per_position


def train_flops(params: PyTree, config: Transformer, seen: Spec, batch: int, segment: int) -> float:
    """FLOP of one update, by the model and not by the program.

        6 P tokens + 6 H positions + 12 S D layers tokens + (6 C - 2 C1) pictures

    tokens = batch x segment x n, positions = batch x segment, P and H from `matmul_params`, D the width, S the keys in
    sight, n x min(segment, W). 6 is 2 for a multiply-add, forward and twice backward; 12 the same for the two products
    of attention. Pixels only: a picture a position, C its multiply-adds in the convolutions and the two dense maps
    after them, C1 those of the first convolution, which needs no gradient of its input. The causal mask does not halve
    S, so a program that skips masked work is credited with it. Norms, activations, softmax, embeddings and the
    optimizer count nothing.
    """
    n = tokens_per_step(config.layout)
    per_token, per_position = matmul_params(params)
    positions, sight = batch * segment, n * min(segment, config.window)
    attention = 12 * sight * config.width * config.layers
    picture = 0
    if layers := picture_layers(config, seen):
        dense = config.pixel_width * (layers[-1].pooled + config.width)
        picture = 6 * (sum(layer.multiplied for layer in layers) + dense) - 2 * layers[0].multiplied
    return float(positions * (n * (6 * per_token + attention) + 6 * per_position + picture))


def activation_bytes(config: Transformer, seen: Spec, rows: int, segment: int) -> int:
    """Bytes that a backward pass over `rows x segment` steps needs beside parameters and gradients; an estimate.

        tokens [(layers + 1) (4 D 4 + (5 D + 2 M + K S) c + masks) + 2 D 4] + pictures 4 (I + sum(p X + Y) + p max X)

    Kept by a layer: the residual stream and its norm, twice; q, k, v, what attention gives, and its sum; the MLP's
    inside before and after the activation; of each gate, where there are any, its six parts; attention weights of the
    pairs that the blocks of `attention.Band` meet, S a token on average; a byte for each value that dropout may drop.
    Once more for the gradients of the layer that is being differentiated. c: bytes of the compute dtype. A picture
    keeps its input I, and of each convolution what comes
    out, the norm of that, and where there is pooling what that compares, X each (p = 2 or 3), and the pooled Y; and the
    same of the largest as gradients.
    """
    n, c = (
        tokens_per_step(config.layout),
        np.dtype("float16" if config.compute_dtype == "bfloat16" else "float32").itemsize,
    )
    sight = sum(pairs(config, segment)) / segment / n
    masks = (2 * config.width if config.dropout else 0) + (config.heads * sight if config.attention_dropout else 0)
    gates = 0 if config.gate is None else 2 * 6 * config.width * FLOAT
    layer = gates + 16 * config.width + c * (5 * config.width + 2 * config.mlp_width + config.heads * sight) + masks
    token = (config.layers + 1) * layer + 2 * config.width * FLOAT
    layers, picture = picture_layers(config, seen), 0
    if layers:
        p = 3 if config.pixel_pool else 2
        kept = sum(p * layer.size + layer.pooled for layer in layers)
        picture = FLOAT * (seen.size + kept + p * max(layer.size for layer in layers))
    return round(rows * segment * (n * token + picture))


def encoding_bytes(config: Transformer, seen: Spec, rows: int) -> int:
    """Working memory of encoding `rows` windows without a backward pass; an estimate.

    The largest of what a layer makes: the MLP's inside, the scores of the largest part of attention, the pictures of a
    convolution. Beside it the residual stream and its norm, and q, k and v.
    """
    n = tokens_per_step(config.layout)
    tokens = rows * config.window * n
    inside, scores = tokens * config.mlp_width, rows * config.heads * max(pairs(config, config.window))
    picture = rows * config.window * max((layer.size for layer in picture_layers(config, seen)), default=0)
    return FLOAT * (max(inside, scores, picture) + 5 * tokens * config.width)


def pairs(config: Transformer, segment: int) -> list[int]:
    """Query-key pairs of one head over a segment, in each of the parts in which `attention.Band` meets them."""
    n = tokens_per_step(config.layout)
    block = n * min(segment, config.window)
    band = Band(block, n, -(-segment // config.window))
    return [band.blocks * (q.stop - q.start) * (k.stop - k.start) for q, k in band.spans]
