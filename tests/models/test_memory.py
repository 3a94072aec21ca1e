"""A memory of the episode alone: each episode begins as a lifetime does, and where that cannot be it is refused."""

import dataclasses

import jax
import numpy as np
import pytest

from ad_jax.errors import ConfigError
from ad_jax.models.lstm import LSTM
from ad_jax.models.transformer import Transformer
from ad_jax.testing import check_model
from ad_jax.testing.model import random_steps
from ad_jax.types import Discrete, Spec

GRID = Spec(Discrete(5), (2,), (9, 9))
STREAMING = Transformer(layers=2, width=16, heads=2, mlp_width=32, window=6)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"layout": "triple"}, marks=pytest.mark.slow),
        pytest.param({"exact_context": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_contract(changes):
    model = dataclasses.replace(STREAMING, memory="episode", **changes).make(GRID)
    assert len(check_model(model, GRID, episode_length=5)) == 9


@pytest.mark.parametrize("config", [STREAMING, LSTM(width=8, hidden=8, mlp_width=8)], ids=["transformer", "lstm"])
def test_a_memory_of_an_episode_begins_each_as_a_lifetime_begins(config):
    """Two episodes in one segment give what each gives alone; a memory of the lifetime does not."""
    steps = random_steps(GRID, 2, 10, 5)
    first = jax.tree.map(lambda x: x[:, :5], steps)
    second = jax.tree.map(lambda x: x[:, 5:].copy(), steps)
    second.prev_action[:, 0], second.prev_reward[:, 0], second.prev_done[:, 0] = GRID.action.none, 0, False
    for memory, equal in (("episode", True), (None, False)):
        model = dataclasses.replace(config, memory=memory).make(GRID)
        params, apply = model.init(jax.random.key(0)), jax.jit(model.apply)
        alone = np.concatenate([apply(params, first), apply(params, second)], axis=1)
        assert np.allclose(apply(params, steps), alone, atol=1e-5) == equal


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"positions": "absolute", "episode_length": 5}, r"memory=episode needs model.positions=rotary.*got absolute"),
        ({"attention": "fused"}, r"model.attention=fused cannot; use banded"),
    ],
)
def test_a_memory_of_an_episode_is_refused_where_it_cannot_be(options, told):
    with pytest.raises(ConfigError, match=told):
        dataclasses.replace(STREAMING, memory="episode", **options).make(GRID)
