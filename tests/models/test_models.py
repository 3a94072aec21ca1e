"""Backbones: the public contract for every configuration, and each option does what it is called."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import differentiated

from ad_jax import models
from ad_jax.errors import ConfigError
from ad_jax.keys import a_key
from ad_jax.models import attention
from ad_jax.models.base import Model
from ad_jax.models.dropout import keep
from ad_jax.models.functional import functional
from ad_jax.models.tokens import PixelConfig, PixelEncoder, Tokenizer, patches
from ad_jax.models.transformer import Paper, Transformer
from ad_jax.testing import ContractError, check_model
from ad_jax.testing.model import decode_all, random_steps
from ad_jax.types import Discrete, Spec

GRID, REAL, ONE = Spec(Discrete(5), (2,), (9, 9)), Spec(Discrete(3), (4,), None), Spec(Discrete(10), (), (1,))
PIXELS = Spec(Discrete(4), (9, 12, 3), None, pixels=True)
SMALL: dict[str, Any] = {"layers": 2, "width": 16, "heads": 2, "mlp_width": 32}
STREAMING = Transformer(**SMALL, window=6)
PAPER = Paper(**SMALL, window=14, episode_length=5, embedding_scale=1.0)

CONFIGS = {
    "streaming, real observations": (STREAMING, REAL),
    "streaming, one-step episodes": (dataclasses.replace(STREAMING, window=5), ONE),
    "streaming, three tokens": (dataclasses.replace(STREAMING, layout="triple"), GRID),
    "streaming, window of one": (dataclasses.replace(STREAMING, window=1), GRID),
    "streaming, pixels": (dataclasses.replace(STREAMING, pixel_channels=(4, 8), pixel_width=8), PIXELS),
    "streaming, patches": (
        dataclasses.replace(STREAMING, pixel_channels=(4, 8), pixel_width=8, pixel_kernel=4, pixel_stride=4),
        PIXELS,
    ),
    "streaming, exact context": (dataclasses.replace(STREAMING, exact_context=True), GRID),
    "paper, exact context": (dataclasses.replace(PAPER, exact_context=True), GRID),
    "paper, pixels": (dataclasses.replace(PAPER, pixel_channels=(4, 4, 8), pixel_width=8), PIXELS),
    "paper, one token": (dataclasses.replace(PAPER, layout="step"), GRID),
    "paper, window of one episode": (dataclasses.replace(PAPER, window=5), GRID),
}


# What the default suite leaves to the slow one: these differ from the others in one choice at a time.
SLOW = {"streaming, one-step episodes", "streaming, three tokens", "streaming, pixels", "streaming, patches"}
SLOW |= {name for name in CONFIGS if name.startswith("paper")}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CONFIGS])
def test_contract(name):
    config, spec = CONFIGS[name]
    check_model(config.make(spec), spec, episode_length=1 if spec is ONE else 5)


@pytest.mark.parametrize("name", models.MODELS)
def test_every_registered_model_keeps_the_contract(name):
    options = SMALL | {"window": 12} | ({"episode_length": 5} if name == "paper" else {})
    options = {"width": 16, "hidden": 16, "mlp_width": 32} if name == "lstm" else options
    model = models.make(name, options).make(GRID)
    assert len(check_model(model, GRID, episode_length=5)) == 9


def test_an_exact_context_is_the_last_window_of_steps_and_the_usual_one_reaches_further():
    steps, changed = random_steps(GRID, 1, 12, 5), random_steps(GRID, 1, 12, 5)
    changed.prev_reward[:, 12 - 6 - 1] += 1  # one step before the window of the last one
    for exact, same in ((True, True), (False, False)):
        model = dataclasses.replace(STREAMING, exact_context=exact).make(GRID)
        params = model.init(jax.random.key(0))
        one, other = (decode_all(model, params, x)[:, -1] for x in (steps, changed))
        assert np.array_equal(one, other) == same


def broken_decode(model):
    def decode(params, cache, steps):
        return model.decode(params, cache, steps.replace(prev_reward=steps.prev_reward * 0))

    return model._replace(decode=decode)


def leaky_apply(model):
    def apply(params, steps, key=None):
        logits = model.apply(params, steps, key)
        return logits + steps.prev_reward[:, -1][:, None, None]

    return model._replace(apply=apply)


def fewer_logits(model):
    return model._replace(apply=lambda params, steps, key=None: model.apply(params, steps, key)[..., 1:])


def beside_the_cache(leaf):
    """Return a model with one more leaf in its cache, float32 from the first step on."""

    def spoil(model):
        def decode(params, cache, steps):
            logits, inner = model.decode(params, cache["inner"], steps)
            return logits, {"inner": inner, "leaf": cache["leaf"].astype(jnp.float32)}

        return model._replace(decode=decode, init_cache=lambda rows: {"inner": model.init_cache(rows), "leaf": leaf})

    return spoil


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (broken_decode, "decode equals apply"),
        (leaky_apply, "see the future"),
        (fewer_logits, r"outputs .*; received input 0 has shape \(2, 6, 4\) but expected \(2, 6, 5\)\. As many a step"),
        (
            beside_the_cache(np.zeros(2, jnp.int32)),
            r"decode is compiled once.*; received Function 'counted' is traced > 1",
        ),
        (beside_the_cache(np.full(2, np.nan)), "cache leaves are finite"),
        (beside_the_cache(np.zeros(3)), "cache leaves are finite and lead with the batch"),
    ],
)
def test_contract_checks_catch_a_broken_model(spoil, check):
    with pytest.raises(ContractError, match=check):
        check_model(spoil(STREAMING.make(GRID)), GRID, episode_length=5)


def indifferent(spec):
    """Return a model without parameters, whose logits are 0."""
    init_cache, window = lambda batch: (), 4

    def decode(params, cache, steps):
        return (jnp.zeros((len(steps.prev_action), spec.num_actions)), cache)

    def apply(params, steps, key=None):
        return jnp.zeros((*steps.prev_action.shape, spec.num_actions))

    return Model(lambda key: {}, apply, init_cache, decode, lambda prev_done: 0, window, None)


def test_contract_checks_catch_a_model_without_parameters_that_sees_the_future():
    check_model(indifferent(GRID), GRID, episode_length=5)
    with pytest.raises(ContractError, match="see the future"):
        check_model(leaky_apply(indifferent(GRID)), GRID, episode_length=5)


@pytest.mark.parametrize(
    "config", [pytest.param(STREAMING, id="streaming"), pytest.param(PAPER, id="paper", marks=pytest.mark.slow)]
)
def test_bfloat16_is_close_to_float32(config):
    half = dataclasses.replace(config, compute_dtype="bfloat16")
    steps = random_steps(GRID, 2, 12, 5)
    params = jax.jit(config.make(GRID).init)(jax.random.key(0))
    full, low = (jax.jit(c.make(GRID).apply)(params, steps) for c in (config, half))
    assert low.dtype == jnp.float32
    assert not np.array_equal(full, low)
    np.testing.assert_allclose(full, low, atol=0.15)
    decoded = decode_all(half.make(GRID), params, steps)
    first = 10  # before the paper context moves
    np.testing.assert_allclose(decoded[:, :first], low[:, :first], atol=0.1)


def test_attention_against_a_plain_loop():
    """Every query of a long segment sees exactly its window; against softmax written out in NumPy."""
    rng, window, n, length = np.random.default_rng(0), 3, 2, 11
    q, k, v = rng.normal(size=(3, 1, length * n, 2, 4)).astype(np.float32)
    out = np.asarray(attention.segment_attention(q, k, v, window=window, n=n))
    for token in range(length * n):
        first = max(0, token // n - window + 1) * n
        for head in range(2):
            scores = k[0, first : token + 1, head] @ q[0, token, head] / 2
            weights = np.exp(scores - scores.max())
            expected = weights @ v[0, first : token + 1, head] / weights.sum()
            np.testing.assert_allclose(out[0, token, head], expected, atol=1e-5)


def plain_attention(q, k, v, window, n, scale: Any = 1.0):
    """Softmax attention in one piece, `[B, T, K, h]`, its gradient left to JAX."""
    token = np.arange(q.shape[1])
    steps_back = token[:, None] // n - token[None] // n
    seen = (token[None] <= token[:, None]) & (steps_back < window)
    scores = jnp.einsum("btkh,bskh->bkts", q, k) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(jnp.asarray(seen)[None, None], scores, -1e30), axis=-1)
    return jnp.einsum("bkts,bskh->btkh", weights * scale, v)


@pytest.mark.parametrize(("length", "window", "n"), [(7, 9, 1), (6, 6, 3), (1, 2, 1), (13, 4, 1), (11, 3, 2)])
def test_the_backward_pass_of_attention_is_the_gradient(length, window, n):
    """Written out by hand, against the derivative that JAX finds: one block, several, and spans of few tokens."""
    q, k, v, g = np.random.default_rng(0).normal(size=(4, 2, length * n, 2, 4)).astype(np.float32)

    def banded(q, k, v):
        return attention.segment_attention(q, k, v, window=window, n=n)

    def plain(q, k, v):
        return plain_attention(q, k, v, window, n)

    (out, back), (expected, back_expected) = differentiated(banded, g, q, k, v), differentiated(plain, g, q, k, v)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    for gradient, wanted in zip(back, back_expected, strict=True):
        np.testing.assert_allclose(gradient, wanted, atol=2e-5)


def test_the_backward_pass_of_attention_dropout_is_the_gradient():
    """With the very weights that the key drops, against the derivative that JAX finds."""
    q, k, v, g = np.random.default_rng(1).normal(size=(4, 2, 8, 2, 4)).astype(np.float32)
    key, kept = jax.random.key(0), np.ones((2, 2, 8, 8), bool)
    for i, (queries, keys) in enumerate(attention.Band(8, 1, 1).spans):
        shape = kept[..., queries, keys].shape
        kept[..., queries, keys] = keep(jax.random.fold_in(key, i), 0.4, shape)

    def dropped(q, k, v):
        return attention.segment_attention(q, k, v, window=8, n=1, dropout=0.4, key=key)

    def plain(q, k, v):
        return plain_attention(q, k, v, 8, 1, jnp.asarray(kept / np.float32(0.6)))

    (out, back), (expected, back_expected) = differentiated(dropped, g, q, k, v), differentiated(plain, g, q, k, v)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    for gradient, wanted in zip(back, back_expected, strict=True):
        np.testing.assert_allclose(gradient, wanted, atol=5e-5)


def test_attention_dropout_keeps_the_mean():
    """Over many keys the output is that without dropout, and a share `dropout` of the weights is dropped."""
    q, k, v = np.random.default_rng(2).normal(size=(3, 1, 6, 1, 4)).astype(np.float32)

    def one(key):
        return attention.segment_attention(q, k, v, window=6, n=1, dropout=0.3, key=key)

    outs = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 4000))
    plain = attention.segment_attention(q, k, v, window=6, n=1)
    np.testing.assert_allclose(outs.mean(0), plain, atol=0.08)
    assert (outs[:, 0, 0] == 0).all(-1).mean() == pytest.approx(0.3, abs=0.03)  # the first token sees itself alone


def test_long_segments_cost_grows_with_window_not_length():
    """FLOPs of attention over L steps, counted by the compiler, stay near L * W."""

    def flops(length):
        shapes = [jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)] * 3
        banded = jax.jit(lambda q, k, v: attention.segment_attention(q, k, v, window=16, n=1))
        return banded.lower(*shapes).compile().cost_analysis()["flops"]

    assert flops(512) / flops(128) < 4.5  # quadratic attention would be 16 times


def test_rotary_positions_repeat_exactly_and_keep_their_digits():
    """Far down a stream the rotation is that of the position modulo the period, bit for bit."""
    period = attention.rotary_period(6, 1)
    x = jax.random.normal(jax.random.key(0), (1, 3, 2, 8))
    near, far = jnp.array([0, 1, 5]), jnp.array([0, 1, 5]) + period * 10_000_000 // 64
    np.testing.assert_array_equal(attention.rotate(x, near, period), attention.rotate(x, far, period))
    norms = jnp.linalg.norm(attention.rotate(x, near, period), axis=-1)
    np.testing.assert_allclose(norms, jnp.linalg.norm(x, axis=-1), rtol=1e-5)


def test_token_mask_hides_tokens_and_dropout_drops():
    """With everything masked the logits no longer depend on the input; without a key nothing is random."""
    config = dataclasses.replace(STREAMING, token_mask=0.999999)
    model = config.make(GRID)
    params, apply = jax.jit(model.init)(jax.random.key(0)), jax.jit(model.apply)
    a, b = random_steps(GRID, 1, 6, 5, seed=0), random_steps(GRID, 1, 6, 5, seed=1)
    key = jax.random.key(3)
    np.testing.assert_allclose(apply(params, a, key), apply(params, b, key), atol=1e-6)
    assert not np.allclose(apply(params, a), apply(params, b))
    plain = jax.jit(STREAMING.make(GRID).apply)(params, a)
    for option in ("dropout", "attention_dropout"):
        noisy = jax.jit(dataclasses.replace(STREAMING, **{option: 0.5}).make(GRID).apply)
        assert not np.allclose(noisy(params, a, key), noisy(params, a, jax.random.key(4)))
        np.testing.assert_array_equal(noisy(params, a), plain)


@pytest.mark.slow
def test_the_encoder_sees_each_picture_by_itself_and_all_of_it():
    """One picture's code does not depend on the others in the batch, and every pixel of it matters."""
    config = PixelConfig((8, 8, 8), 16, pool=True, dropout=0.5, dtype="float32")
    encoder = PixelEncoder((24, 32, 3), config, rngs=nnx.Rngs(0))
    pictures = np.random.default_rng(0).integers(0, 256, (5, 24, 32, 3), np.uint8)
    codes = encoder(pictures)
    assert codes.shape == (5, 16)
    np.testing.assert_allclose(encoder(pictures[2:3]), codes[2:3], atol=1e-5)
    noisy = encoder(pictures, jax.random.key(0))
    assert not np.allclose(noisy, codes)
    assert not np.allclose(noisy, encoder(pictures, jax.random.key(1)))
    np.testing.assert_array_equal(noisy, encoder(pictures, jax.random.key(0)))
    slope = jax.grad(lambda x: PixelEncoder((24, 32, 3), config._replace(pool=False), rngs=nnx.Rngs(0))(x).sum())
    assert np.mean(np.asarray(slope(pictures.astype(np.float32))) != 0) > 0.99


@pytest.mark.parametrize("shape", [(72, 96, 3), (24, 32, 3), (1, 1, 1)])
def test_an_encoder_fits_every_size_of_picture(shape):
    spec = Spec(Discrete(8), shape, None, pixels=True)
    for config in (PAPER, STREAMING):
        model = config.make(spec)
        params = jax.eval_shape(model.init, jax.random.key(0))
        logits = jax.eval_shape(model.apply, params, random_steps(spec, 1, 3, 5))
        assert logits.shape == (1, 3, 8)
        assert params["tokens"]["encoder"]["conv_0"]["kernel"].shape == (5, 5, shape[2], config.pixel_channels[0])


def test_dropout_keeps_the_mean():
    """Kept activations are scaled up, so the mean over many draws is the deterministic value."""
    from ad_jax.models.transformer import _dropout

    x = jnp.ones((2000,))
    assert abs(float(_dropout(jax.random.key(0), x, 0.3).mean()) - 1) < 0.05


def test_the_paper_context_moves_by_whole_episodes():
    """Against a list that drops its oldest episodes: the cache holds what the rule says, step by step."""
    model = PAPER.make(GRID)  # window 14, episodes of 5
    done = random_steps(GRID, 1, 40, 5).prev_done[0]
    starts = [model.context_start(done[: t + 1]) for t in range(40)]
    held, expected = [], []
    for t in range(40):
        if t % 5 == 0 and t > 0:
            while held and t - held[0] + 5 > 14:
                held.pop(0)
        if t % 5 == 0:
            held.append(t)
        expected.append(held[0])
    assert starts == expected


def test_far_down_the_stream_the_streaming_cache_still_equals_apply():
    """The contract asks for 5 windows; 60 windows, past turns of the rotary period, must not differ either."""
    model = dataclasses.replace(STREAMING, window=3).make(GRID)
    params = jax.jit(model.init)(jax.random.key(0))
    steps = random_steps(GRID, 1, 180, 5)
    decoded = decode_all(model, params, steps)
    np.testing.assert_allclose(decoded[:, -1], np.asarray(model.apply(params, steps))[:, -1], atol=1e-4)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (dataclasses.replace(STREAMING, heads=3), "multiple of 2"),
        (dataclasses.replace(STREAMING, token_mask=1.0), "token_mask is a probability"),
        (dataclasses.replace(STREAMING, window=0), "window must be at least 1"),
        (dataclasses.replace(STREAMING, pixel_channels=(8, 0)), "pixel_channels must be at least 1"),
        (dataclasses.replace(STREAMING, pixel_dropout=1.0), "pixel_dropout is a probability"),
        (dataclasses.replace(STREAMING, pixel_kernel=2, pixel_stride=3), "parts of the picture would be missed"),
        (dataclasses.replace(PAPER, episode_length=None), "need model.episode_length"),
        (dataclasses.replace(PAPER, episode_length=15), "at most the window"),
    ],
)
def test_contradictions_are_refused(config, words):
    with pytest.raises(ConfigError, match=words):
        config.make(GRID)


def test_a_segment_past_absolute_positions_is_refused():
    model = PAPER.make(GRID)
    with pytest.raises(ConfigError, match="absolute positions reach 14 steps"):
        model.apply(jax.jit(model.init)(jax.random.key(0)), random_steps(GRID, 1, 15, 5))


@pytest.mark.parametrize("size", [2, 4])
def test_patches_and_a_product_are_the_convolution_whose_stride_is_its_kernel(size):
    pictures = jax.random.normal(jax.random.key(0), (3, 9, 12, 2))
    kernel = jax.random.normal(jax.random.key(1), (size, size, 2, 5))
    padded = jnp.pad(pictures, ((0, 0), (0, -9 % size), (0, -12 % size), (0, 0)))
    dimensions = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(padded, kernel, (size, size), "VALID", dimension_numbers=dimensions)
    found = patches(pictures, size) @ kernel.reshape(-1, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", [GRID, PIXELS], ids=["grid", "pixels"])
def test_no_part_of_a_token_drowns_the_others_at_the_start(spec):
    tokens = Tokenizer(spec, 64, "step", 1.0, PixelConfig((8, 16), 256, False, 0.0, "float32"), rngs=nnx.Rngs(0))
    steps = random_steps(spec, 4, 50, 10)

    def size(x):
        return float(jnp.std(x))

    observation, action = size(tokens.embed_observation(steps.observation)), size(tokens.action(steps.prev_action))
    assert 1 / 3 < observation / action < 3


def test_a_module_is_built_once_for_its_shapes_its_parameters_and_the_programs_it_is_part_of():
    built = []

    def build(key):
        built.append(key)
        return nnx.Linear(3, 4, rngs=nnx.Rngs(key))

    init, module = functional(build)
    shapes = jax.eval_shape(lambda: init(a_key(0)))
    params, compiled = init(a_key(1)), jax.jit(lambda: init(a_key(1)))()
    assert len(built) == 1
    assert shapes["kernel"].shape == (3, 4) and shapes["bias"].shape == (4,)
    jax.tree.map(np.testing.assert_array_equal, params, compiled)
    x = jnp.ones((2, 3), jnp.float32)
    np.testing.assert_array_equal(module(params)(x), build(a_key(1))(x))
