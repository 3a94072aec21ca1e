"""Sources on pixels: convolutions against XLA's own, many learners against one by one, and what reaches the heads."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad_jax import sources
from ad_jax.envs.base import seen_spec_of, take
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.envs.watermaze import Watermaze
from ad_jax.errors import ConfigError
from ad_jax.sources import convolutions, dqn, networks
from ad_jax.testing import check_source
from ad_jax.types import Discrete, Spec

TINY = Watermaze(height=12, width=16, steps=10, heading="fixed")
BOTH = {
    "policy": (networks.init_policy, lambda *args: jnp.sum(networks.policy(*args)[0])),
    "action values": (
        lambda key, spec, channels, hidden, _: dqn.init_q_values(key, spec, channels, hidden),
        lambda *args: jnp.sum(dqn.q_values(*args)),
    ),
}


def pictures(spec: Spec, *lead: int) -> jax.Array:
    return jax.random.randint(jax.random.key(1), (*lead, *spec.shape), 0, 256).astype(jnp.uint8)


def plain(layers, x):
    """Return the same by XLA's convolution."""
    x = x.astype(jnp.float32) / 255 - 0.5
    for layer in layers:
        kernel = layer["kernel"].reshape(3, 3, x.shape[-1], -1)
        x = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x + layer["bias"][None, None, None])
    return x.reshape(len(x), -1)


@pytest.mark.parametrize(
    "shape", [pytest.param((24, 32, 3), marks=pytest.mark.slow), (12, 16, 3), (7, 9, 2), (1, 1, 1)]
)
def test_convolutions_equal_those_of_xla(shape):
    spec, channels = Spec(Discrete(8), shape, None, pixels=True), (4, 6, 5)
    layers = convolutions.init_convolutions(jax.random.key(0), spec, channels)
    layers = [layer | {"bias": jax.random.normal(jax.random.key(2), layer["bias"].shape)} for layer in layers]
    x = pictures(spec, 9)
    got = convolutions.convolved(layers, x)
    assert got.shape == (9, convolutions.num_outputs(spec, channels))
    assert got.std() > 0.05
    np.testing.assert_allclose(got, plain(layers, x), rtol=1e-4, atol=1e-5)


def test_the_scale_of_what_comes_out_is_that_of_what_goes_in():
    spec = Spec(Discrete(8), (24, 32, 3), None, pixels=True)
    x = pictures(spec, 20)
    layers = convolutions.init_convolutions(jax.random.key(0), spec, (64, 64, 64))
    means = [float(jnp.mean(convolutions.convolved(layers[:n], x) ** 2)) for n in range(4)]
    assert all(0.5 < b / a < 2 for a, b in itertools.pairwise(means))


@pytest.mark.parametrize("which", [pytest.param("policy", marks=pytest.mark.slow), "action values"])
def test_learners_side_by_side_equal_one_at_a_time_in_value_and_gradient(which):
    init, total = BOTH[which]
    spec, x = seen_spec_of(TINY), pictures(seen_spec_of(TINY), 5, 6)
    params = jax.vmap(lambda key: init(key, spec, (4, 8), (16,), 8))(jax.random.split(jax.random.key(0), 5))
    learn = jax.value_and_grad(lambda params, x: total(params, spec, x))
    together = jax.jit(jax.vmap(learn))(params, x)
    for i in range(5):
        alone = jax.jit(learn)(*take((params, x), i))
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("which", BOTH)
def test_all_of_a_picture_reaches_the_head_through_every_layer(which):
    init, total = BOTH[which]
    spec = seen_spec_of(TINY)
    params, x = init(jax.random.key(0), spec, (8, 8, 8), (32,), 8), pictures(spec, 4)
    gradient = jax.grad(lambda params: total(params, spec, x))(params)
    for layer in (*gradient["convolutions"], *gradient["hidden"]):
        for leaf in layer.values():
            assert np.mean(np.asarray(leaf) != 0) > 0.5
    seen = jax.grad(lambda x: jnp.sum(convolutions.convolved(params["convolutions"], x) ** 2))(x.astype(jnp.float32))
    assert np.mean(np.asarray(seen) != 0) > 0.95


def test_only_pixels_get_convolutions_and_none_where_no_channels_are_asked_for():
    grid, real = Spec(Discrete(5), (2,), (9, 9)), Spec(Discrete(5), (3, 2), None)
    for spec, channels in ((grid, (16, 32)), (real, (16,)), (seen_spec_of(TINY), ())):
        params = networks.init_policy(jax.random.key(0), spec, channels, (8,), 5)
        assert params["convolutions"] == []
        assert params["hidden"][0]["weight"].shape == (networks.num_features(spec), 8)
    flat = networks.features(seen_spec_of(TINY), pictures(seen_spec_of(TINY), 2), [])
    assert flat.shape == (2, 12 * 16 * 3)
    assert flat.min() >= -0.5
    assert flat.max() <= 0.5


@pytest.mark.slow
def test_dqn_on_pixels_keeps_the_contract():
    """So does actor-critic: tests/envs/test_watermaze.py."""
    sizes = {"actors": 2, "unroll": 5, "capacity": 10, "warmup": 5, "gradient_steps": 1, "batch": 2, "sequence": 3}
    config = sources.make("dqn", sizes | {"hidden": [8], "channels": [4, 4]})
    assert len(check_source(config, TINY)) == 5


@pytest.mark.parametrize("name", ["actor_critic", "dqn", "ppo", "primal_dual"])
def test_layers_without_channels_are_refused(name):
    config = sources.make(name, {"channels": [4, 0]})
    with pytest.raises(ConfigError, match=r"source\.channels must be at least 1; got 0"):
        config.make(DarkRoom())
