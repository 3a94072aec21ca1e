"""Operations and bytes, counted on paper: FLOP of decoding, of plans, of actor-critic and of RL².

Those of a training step are in `ad_jax/cost.py`.
"""

import itertools
import math

import jax

from ad_jax.models.segments import DIRECTIONS, Shape
from ad_jax.models.step_tokens import Tokens
from ad_jax.models.tokens import tokens_per_step
from ad_jax.models.transformer import Transformer
from ad_jax.planning.transformer import matmul_params
from ad_jax.types import PyTree


def decode_cost(params: PyTree, config: Transformer, rollouts: int) -> tuple[float, float]:
    """FLOP and bytes of one decoded step of `rollouts` at a full window.

    FLOP: 2 P + 4 S D layers a token, 2 H a position. Bytes: the whole cache read once, and the weights once, in the
    compute dtype of the cache and float32.
    """
    n = tokens_per_step(config.layout)
    per_token, per_position = matmul_params(params)
    seen = n * config.window
    flops = rollouts * (n * (2 * per_token + 4 * seen * config.width * config.layers) + 2 * per_position)
    item = 2 if config.compute_dtype == "bfloat16" else 4
    return float(flops), float(
        rollouts * 2 * config.layers * seen * config.width * item + 4 * (per_token + per_position)
    )


def denoise_flops(params: PyTree, config: Transformer, horizon: int) -> float:
    """FLOP of one pass of a diffuser's denoiser over one plan of H = `horizon` entries.

    H (2 P + 4 H D layers): P the weights of blocks and head; each entry meets every other. Embeddings are not counted.
    """
    inside = [part for name, part in params.items() if name.startswith("block_") or name == "found"]
    count = sum(math.prod(leaf.shape) for part in inside for leaf in jax.tree.leaves(part) if len(leaf.shape) > 1)
    return float(horizon * (2 * count + 4 * horizon * config.width * config.layers))


def beam_flops(params: PyTree, config: Transformer, tokens: Tokens, beam: int, horizon: int, expand: int) -> float:
    """FLOP of one decision of a beam search at a full window.

    (1 + (horizon - 1) beam) C + horizon beam expand 2 D (r + 1 + v) + (horizon - 1) beam 2 D O, C those of a decoded
    step, the plan's own steps in sight; D the hidden numbers of a token, r, v and O the values of a reward, of a return
    and of all components of an observation.
    """
    per_token, per_position = matmul_params(params)
    n = tokens_per_step(config.layout)

    def decoded(seen):
        return n * (2 * per_token + 4 * n * seen * config.width * config.layers) + 2 * per_position

    spec = tokens.spec
    values = sum(grid.bins for grid in tokens.observation) if spec.values is None else sum(spec.values)
    candidates = horizon * beam * expand * 2 * tokens.hidden * (tokens.reward.bins + 1 + tokens.value.bins)
    kept = (horizon - 1) * beam * 2 * tokens.hidden * values
    return float(decoded(config.window) + (horizon - 1) * beam * decoded(config.window) + candidates + kept)


def code_beam_flops(params: PyTree, config: Transformer, shape: Shape, beam: int, horizon: int, expand: int) -> float:
    """FLOP of one decision of a beam search among codes, at a full window.

    C + 2 horizon beam [D (4 D + codes) + expand (3 D d + 2 D D + 2 D (L (r + 1) + v))], C those of a decoded step, D
    the hidden numbers, d the dimensions of a code, L its steps, r and v the values of a reward and of a return.
    """
    backbone, _ = decode_cost(params, config, 1)
    hidden, tokens = shape.tokens.hidden, shape.tokens
    plan = hidden * (4 * hidden + shape.codes)
    earned = 2 * hidden * (shape.length * (tokens.reward.bins + 1) + tokens.value.bins)
    each = 3 * hidden * DIRECTIONS + 2 * hidden * hidden + earned
    return float(backbone + 2 * horizon * beam * (plan + expand * each))


def actor_critic_flops(inputs: int, hidden: tuple[int, ...], actions: int) -> float:
    """FLOP per environment step of the actor-critic source, products with weights only.

    10 P - 2 F h: 2 P to act, 2 P forward and 4 P backward to learn, 2 P for the value of the observation reached; the
    first layer (F x h) needs no gradient of its input. One-hot features are multiplied as any others.
    """
    sizes = (inputs, *hidden)
    params = sum(a * b for a, b in itertools.pairwise(sizes)) + hidden[-1] * (actions + 1)
    return float(10 * params - 2 * sizes[0] * sizes[1])


def rl2_flops(params: PyTree, epochs: int) -> float:
    """FLOP per environment step of RL² on an LSTM, products with weights only.

    (2 + 6 epochs) P, P the weights of LSTM, MLP and heads: 2 P to act, and forward and backward in each epoch.
    Embedding tables and the 1 x D reward map are not counted.
    """
    tables = ("tokens", "mask_token")
    inside = [leaf for name, part in params.items() if name not in tables for leaf in jax.tree.leaves(part)]
    return float((2 + 6 * epochs) * sum(math.prod(leaf.shape) for leaf in inside if len(leaf.shape) > 1))
