"""The quick permutation is JAX's own, number for number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad_jax.sources import shuffle


@pytest.mark.parametrize("n", [1, 2, 7, 600, 2048])
def test_a_permutation_is_that_of_jax(n):
    keys = jax.random.split(jax.random.key(n), 3)
    expected = jax.vmap(lambda key: jax.random.permutation(key, n))(keys)
    found = jax.jit(jax.vmap(lambda key: shuffle.permutation(key, n)))(keys)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_a_long_one_is_left_to_jax(monkeypatch):
    monkeypatch.setattr(shuffle, "stable_order", None)
    n = shuffle.PACKED + 1
    np.testing.assert_array_equal(
        shuffle.permutation(jax.random.key(0), n), jax.random.permutation(jax.random.key(0), n)
    )


def test_numbers_that_differ_in_their_last_bits_alone_are_put_in_order_and_equal_ones_keep_theirs():
    last = np.random.default_rng(0).integers(0, 8, 64).astype(np.uint32)  # of 64 places, 6 bits are packed away
    bits = np.where(np.arange(64) % 3 == 0, np.uint32(5 << 20), np.uint32(1 << 31)) | last
    np.testing.assert_array_equal(shuffle.stable_order(jnp.asarray(bits)), np.argsort(bits, kind="stable"))
