"""The transformer's `unroll`: what as many decoded steps give, with their gradient; and rows that begin anew alone."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad_jax.errors import ConfigError
from ad_jax.models.base import unroll_of
from ad_jax.models.transformer import Paper, Transformer
from ad_jax.testing.model import random_steps
from ad_jax.types import Discrete, Spec, Steps

GRID = Spec(Discrete(5), (2,), (9, 9))
SMALL = Transformer(layers=2, width=16, heads=2, mlp_width=32, window=4)
PARTS = (slice(0, 3), slice(3, 6), slice(6, 10), slice(10, 21))  # below the window, over it, at it, past two of them


def part_of(steps: Steps, part: slice) -> Steps:
    return jax.tree.map(lambda x: x[:, part], steps)


@pytest.mark.parametrize(
    "changes",
    [
        {"gate": "gru"},
        {"memory": "episode"},
        pytest.param({"norm": "post", "layout": "triple"}, marks=pytest.mark.slow),
        pytest.param({"memory": "episode", "layout": "triple", "gate": "gru"}, marks=pytest.mark.slow),
        pytest.param({"window": 1}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_an_unroll_is_as_many_decoded_steps(changes):
    """Its outputs, the cache after it, and its gradient."""
    model = dataclasses.replace(SMALL, **changes).make(GRID)
    params, steps = model.init(jax.random.key(0)), random_steps(GRID, 2, 21, 7)
    decode, unroll = jax.jit(model.decode), jax.jit(unroll_of(model))
    before = cache = model.init_cache(2)
    for part in PARTS:
        before, other = cache, cache
        outputs, cache = unroll(params, before, part_of(steps, part))
        for t in range(part.start, part.stop):
            expected, other = decode(params, other, jax.tree.map(lambda x: x[:, t], steps))  # noqa: B023
            np.testing.assert_allclose(outputs[:, t - part.start], expected, atol=1e-5)
        chex.assert_trees_all_close(cache, other, atol=1e-5)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=5).astype(np.float32))

    def gradient(unroll):
        return jax.jit(jax.grad(lambda p: (unroll(p, before, part_of(steps, PARTS[-1]))[0] @ weights).sum()))(params)

    plain = unroll_of(model._replace(unroll=None))
    chex.assert_trees_all_close(gradient(unroll_of(model)), gradient(plain), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("memory", [None, pytest.param("episode", marks=pytest.mark.slow)])
def test_a_row_that_begins_anew_sees_nothing_of_before(memory):
    """While the others go on, and whether it acts step by step or a segment is looked at."""
    config = dataclasses.replace(SMALL, value_head=True, gate="gru", memory=memory)
    network, model = config.actor_critic(GRID), config.make(GRID)
    params, steps = network.init(jax.random.key(0)), random_steps(GRID, 2, 12, 7)
    segment = jax.jit(network.segment)
    *_, cache = segment(params, network.init_cache(2), part_of(steps, slice(4)))
    fresh = network.init_cache(2)
    anew = jnp.asarray([False, True])
    rows: Any = jax.tree.map(
        lambda new, old: jnp.where(anew.reshape(-1, *[1] * (old.ndim - 1)), new, old) if old.ndim else old, fresh, cache
    )
    after = part_of(steps, slice(4, 12))
    logits, values, _ = segment(params, rows, after)
    expected, alone, _ = segment(params, fresh, after)
    np.testing.assert_allclose(logits[1], expected[1], atol=1e-5)
    np.testing.assert_allclose(values[1], alone[1], atol=1e-5)
    np.testing.assert_allclose(logits[0], jax.jit(model.apply)(params, steps)[0, 4:], atol=1e-5)
    for t in range(8):
        one, value, rows = segment(params, rows, part_of(after, slice(t, t + 1)))
        np.testing.assert_allclose(one[:, 0], logits[:, t], atol=1e-5)
        np.testing.assert_allclose(value[:, 0], values[:, t], atol=1e-5)


def test_a_value_head_leaves_the_transformer_as_it_was():
    config = dataclasses.replace(SMALL, layers=1)
    plain, valued = config.make(GRID), dataclasses.replace(config, value_head=True).make(GRID)
    params, more = (dict(m.init(jax.random.key(0))) for m in (plain, valued))
    assert more.keys() - params.keys() == {"value_head"}
    steps = random_steps(GRID, 2, 8, 5)
    np.testing.assert_array_equal(jax.jit(plain.apply)(params, steps), jax.jit(valued.apply)(more, steps))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (Paper(value_head=True, episode_length=5), r"needs model.positions=rotary.*got absolute and False"),
        (dataclasses.replace(SMALL, value_head=True, exact_context=True), r"got rotary and True"),
        (SMALL, r"needs model.value_head=True; got None"),
    ],
)
def test_a_value_is_refused_where_it_cannot_be(config, told):
    with pytest.raises(ConfigError, match=told):
        config.actor_critic(GRID)
