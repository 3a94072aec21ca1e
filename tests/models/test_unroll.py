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
SMALL = Transformer(layers=2, width=16, heads=2, mlp_width=32, window=5)
# Ends fall on the window, before and after it; the last part is longer than two windows.
PARTS = (slice(0, 3), slice(3, 5), slice(5, 6), slice(6, 11), slice(11, 24))


def part_of(steps: Steps, part: slice) -> Steps:
    return jax.tree.map(lambda x: x[:, part], steps)


@pytest.mark.parametrize(
    "changes",
    [
        {"gate": "gru"},
        {"memory": "episode"},
        {"norm": "post", "layout": "triple"},
        pytest.param({"memory": "episode", "layout": "triple", "gate": "gru"}, marks=pytest.mark.slow),
        pytest.param({"window": 1}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_an_unroll_is_as_many_decoded_steps(changes):
    model = dataclasses.replace(SMALL, **changes).make(GRID)
    params, steps = model.init(jax.random.key(0)), random_steps(GRID, 2, 24, 7)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=5).astype(np.float32))

    def of(unroll):
        def total(params, cache, steps):
            outputs, cache = unroll(params, cache, steps)
            return (outputs * weights).sum(), (outputs, cache)

        return jax.jit(jax.grad(total, has_aux=True))

    ours, plain = of(model.unroll), of(unroll_of(model._replace(unroll=None)))
    cache = other = model.init_cache(2)
    for part in PARTS:
        gradient, (outputs, cache) = ours(params, cache, part_of(steps, part))
        expected, (others, other) = plain(params, other, part_of(steps, part))
        chex.assert_trees_all_close((outputs, cache), (others, other), atol=1e-5)
        chex.assert_trees_all_close(gradient, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("memory", [None, "episode"])
def test_a_row_that_begins_anew_sees_nothing_of_before(memory):
    """While the others go on, and whether it acts step by step or a segment is looked at."""
    config = dataclasses.replace(SMALL, value_head=True, gate="gru", memory=memory)
    network, model = config.actor_critic(GRID), config.make(GRID)
    params, steps = network.init(jax.random.key(0)), random_steps(GRID, 2, 15, 7)
    segment = jax.jit(network.segment)
    *_, cache = segment(params, network.init_cache(2), part_of(steps, slice(4)))
    fresh = network.init_cache(2)
    anew = jnp.asarray([False, True])
    rows: Any = jax.tree.map(
        lambda new, old: jnp.where(anew.reshape(-1, *[1] * (old.ndim - 1)), new, old) if old.ndim else old, fresh, cache
    )
    after = part_of(steps, slice(4, 15))
    logits, values, _ = segment(params, rows, after)
    expected, alone, _ = segment(params, fresh, after)
    np.testing.assert_allclose(logits[1], expected[1], atol=1e-5)
    np.testing.assert_allclose(values[1], alone[1], atol=1e-5)
    np.testing.assert_allclose(logits[0], model.apply(params, steps)[0, 4:], atol=1e-5)
    for t in range(11):
        one, value, rows = segment(params, rows, part_of(after, slice(t, t + 1)))
        np.testing.assert_allclose(one[:, 0], logits[:, t], atol=1e-5)
        np.testing.assert_allclose(value[:, 0], values[:, t], atol=1e-5)


def test_a_value_head_leaves_the_transformer_as_it_was():
    plain, valued = SMALL.make(GRID), dataclasses.replace(SMALL, value_head=True).make(GRID)
    params, more = (dict(m.init(jax.random.key(0))) for m in (plain, valued))
    assert more.keys() - params.keys() == {"value_head"}
    steps = random_steps(GRID, 2, 8, 5)
    np.testing.assert_array_equal(plain.apply(params, steps), valued.apply(more, steps))


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
