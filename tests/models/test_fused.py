"""JAX's attention in the place of ours: the same function over segments and in models; which of them is chosen."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from ad_jax.models import fused
from ad_jax.models.attention import segment_attention
from ad_jax.models.fused import chosen_attention
from ad_jax.models.transformer import Paper, Transformer
from ad_jax.testing.model import decode_all, random_steps
from ad_jax.types import Discrete, Spec

GRID = Spec(Discrete(5), (2,), (9, 9))
STREAMING = Transformer(layers=2, width=16, heads=2, mlp_width=32, window=6)
PAPER = Paper(layers=2, width=16, heads=2, mlp_width=32, window=14, episode_length=5, embedding_scale=1.0)


@pytest.fixture
def hopper(monkeypatch):
    """Stand in for a GPU of this process, as far as it is looked at before anything is compiled."""
    monkeypatch.setattr(fused, "capability", lambda: (9, 0))
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)


def drawn(length, heads=3, dtype=jnp.float32):
    """Return queries, keys, values and gradients `[2, length, heads, 4]`."""
    return jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, length, heads, 4)), dtype)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def forward_and_back(kind, window, n, q, k, v, g):
    """Return the output, and the gradients of q, k and v."""
    out, back = jax.vjp(lambda *x: chosen_attention(*x, window=window, n=n, kind=kind), q, k, v)
    return out, *back(g)


@pytest.mark.parametrize(("length", "window", "n"), [(7, 9, 1), (6, 6, 3), (1, 2, 1), (13, 4, 1), (11, 3, 2)])
def test_the_attention_of_jax_is_ours(length, window, n):
    """With its gradient: segments shorter than the window and several times longer, one token a step and more."""
    given = drawn(length * n)
    found, wanted = (forward_and_back(kind, window, n, *given) for kind in ("fused", "banded"))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    assert length == 1 or not np.array_equal(found[1], wanted[1]), "another program"


def test_carrying_both_changes_nothing_on_a_cpu(hopper):
    """To the bit, with the gradient."""
    given = drawn(8)
    for both, ours in zip(*(forward_and_back(kind, 9, 1, *given) for kind in (None, "banded")), strict=True):
        np.testing.assert_array_equal(both, ours)


@pytest.mark.parametrize("kind", [None, "fused"])
def test_dropping_weights_is_ours_whatever_was_chosen(kind):
    q, k, v, _ = drawn(8)
    key = jax.random.key(3)
    dropped = segment_attention(q, k, v, window=5, n=1, dropout=0.5, key=key)
    np.testing.assert_array_equal(chosen_attention(q, k, v, window=5, n=1, kind=kind, dropout=0.5, key=key), dropped)


@pytest.mark.parametrize("config", [STREAMING, PAPER], ids=["streaming", "paper"])
def test_a_model_is_the_same_function_by_either_attention(config):
    """Over a segment, and step by step with a cache, which the paper's model fills anew by segments."""
    ours, theirs = (dataclasses.replace(config, attention=kind).make(GRID) for kind in ("banded", "fused"))
    params, steps = jax.jit(ours.init)(jax.random.key(0)), random_steps(GRID, 2, 14, 5)
    assert jax.tree.map(jnp.shape, jax.eval_shape(theirs.init, jax.random.key(0))) == jax.tree.map(jnp.shape, params)
    logits, expected = (jax.jit(model.apply)(params, steps) for model in (theirs, ours))
    np.testing.assert_allclose(logits, expected, atol=2e-5)
    assert not np.array_equal(logits, expected)
    longer = random_steps(GRID, 2, 20, 5)
    np.testing.assert_allclose(decode_all(theirs, params, longer), decode_all(ours, params, longer), atol=2e-5)


def lowered(platform, kind, length, window, n=1, heads=2, width=16, dtype=jnp.float32) -> str:
    """Return the text of attention and its gradient for a platform."""

    def total(q, k, v):
        return chosen_attention(q, k, v, window=window, n=n, kind=kind).astype(jnp.float32).sum()

    shape = jax.ShapeDtypeStruct((2, length, heads, width), dtype)
    traced = jax.jit(jax.grad(total, (0, 1, 2))).trace(shape, shape, shape)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_without_a_gpu_the_program_is_ours_alone():
    assert lowered("cuda", None, 8, 8) == lowered("cuda", "banded", 8, 8) != lowered("cuda", "fused", 8, 8)


def test_with_a_gpu_the_device_decides(hopper):
    """A segment longer than the window stays ours there, too: all pairs of tokens would be computed."""

    def products(platform, kind):
        return lowered(platform, kind, 8, 8).count("dot_general")

    assert products("cuda", None) == products("cuda", "fused") != products("cuda", "banded")
    for platform in ("cpu", "tpu"):
        assert products(platform, None) == products(platform, "banded")
    assert lowered("cuda", None, 9, 8) == lowered("cuda", "banded", 9, 8) != lowered("cuda", "fused", 9, 8)


@pytest.mark.parametrize(("length", "window", "n"), [(8, 8, 1), (16, 4, 1), (16, 4, 2)])
def test_on_a_gpu_numbers_of_16_bits_are_cudnns(hopper, length, window, n):
    """Forward and backward, also over segments longer than the window; a window of tokens goes to the kernel."""
    text = lowered("cuda", None, length, window, n, dtype=jnp.bfloat16)
    assert text.count("custom_call @__cudnn$fmha") == 2
    assert ("sliding_window_length\\22: 4" in text) == (length > window * n and n == 1)
    assert "cudnn" not in lowered("tpu", None, length, window, n, dtype=jnp.bfloat16)
    assert "cudnn" not in lowered("cuda", "banded", length, window, n, dtype=jnp.bfloat16)


def test_what_cudnn_does_not_take_is_not_given_to_it(hopper, monkeypatch):
    def taken(dtype, width=16, length=8, window=8, n=1):
        return fused.cudnn_takes(jnp.zeros((1, length, 2, width), dtype), window, n)

    assert taken(jnp.bfloat16) and taken(jnp.float16)
    assert not taken(jnp.float32)
    assert not taken(jnp.bfloat16, width=12), "no multiple of 8"
    assert not taken(jnp.bfloat16, length=9, window=2, n=3), "an odd number of tokens under a mask"
    monkeypatch.setattr(fused, "capability", lambda: (7, 5))
    assert not taken(jnp.bfloat16)


def test_a_machine_without_a_gpu_has_no_cudnn(monkeypatch):
    assert fused.capability() == ()
    assert not fused.cudnn_takes(jnp.zeros((1, 8, 2, 16), jnp.bfloat16), 8, 1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for stated, found in {("8.0", "9.0"): (8, 0), ("gfx90a",): (), (): ()}.items():
        devices = [type("Device", (), {"compute_capability": x})() for x in stated]
        monkeypatch.setattr(jax, "local_devices", lambda devices=devices: devices)
        assert fused.capability() == found
