"""The gate of GTrXL: the equations of its paper, what it does at the start, and where it is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ad_jax.errors import ConfigError
from ad_jax.models.gate import BIAS, Gate
from ad_jax.models.transformer import Transformer
from ad_jax.testing import check_model
from ad_jax.types import Discrete, Spec

GRID = Spec(Discrete(5), (2,), (9, 9))


def test_a_gate_is_the_equations_of_its_paper():
    gate, (x, y) = Gate(4, jnp.dtype("float32"), rngs=nnx.Rngs(0)), np.random.default_rng(0).normal(size=(2, 3, 4))
    x, y = x.astype(np.float32), y.astype(np.float32)
    w = {name: np.asarray(getattr(gate, name).kernel[...]) for name in ("branch", "stream", "inside")}
    (yr, yz, yh), (xr, xz) = np.split(y @ w["branch"], 3, axis=-1), np.split(x @ w["stream"], 2, axis=-1)

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    r, z = sigmoid(yr + xr), sigmoid(yz + xz - BIAS)
    expected = (1 - z) * x + z * np.tanh(yh + (r * x) @ w["inside"])
    np.testing.assert_allclose(gate(jnp.asarray(x), jnp.asarray(y)), expected, atol=1e-6)


def test_contract():
    model = Transformer(layers=2, width=16, heads=2, mlp_width=32, window=6, gate="gru").make(GRID)
    assert len(check_model(model, GRID, episode_length=5)) == 9


def test_at_the_start_a_gate_lets_the_stream_through():
    gate, x = Gate(64, jnp.dtype("float32"), rngs=nnx.Rngs(0)), jax.random.normal(jax.random.key(0), (256, 64))
    out = gate(x, jnp.zeros_like(x))
    assert np.corrcoef(np.ravel(out), np.ravel(x))[0, 1] > 0.95


def test_a_gate_after_the_norm_is_refused():
    with pytest.raises(ConfigError, match=r"model.gate=gru needs model.norm=pre.*got post"):
        Transformer(gate="gru", norm="post").make(GRID)
