"""Streams that go on in many ways: the contract for configurations that matter to it, and what it catches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad_jax.history import reward_unit
from ad_jax.models.branches import branches_of, of_rows, take
from ad_jax.models.lstm import LSTM
from ad_jax.models.transformer import Transformer
from ad_jax.testing.base import BrokenError
from ad_jax.testing.model import Sample, _branches, random_steps
from ad_jax.types import Discrete, Spec

GRID = Spec(Discrete(5), (2,), (9, 9))
STREAMING = Transformer(layers=2, width=16, heads=2, mlp_width=32, window=6)
RECURRENT = LSTM(width=8, hidden=8, mlp_width=8)


def sample(model, episode_length=5) -> Sample:
    """Return what the check looks at."""
    params = model.init(jax.random.key(0))
    return Sample(model, GRID, params, episode_length, 1e-4, jax.jit(model.apply), jax.jit(model.decode))


@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(STREAMING, window=3),  # shorter than the plan
        dataclasses.replace(STREAMING, layout="triple", memory="episode"),
        RECURRENT,
    ],
    ids=["a plan longer than the window", "three tokens, episodes alone", "lstm"],
)
def test_ways_decode_as_the_streams_that_they_stand_for(config):
    _branches(sample(config.make(GRID), episode_length=3))


def test_ways_that_keep_what_is_not_theirs_are_caught():
    model = STREAMING.make(GRID)
    assert model.branches is not None
    stays = model.branches._replace(take=lambda ways, rows: ways)
    forgets = model.branches._replace(
        start=lambda cache, ways, steps: model.branches.start(model.init_cache(2), ways, steps)
    )
    for broken in (stays, forgets):
        with pytest.raises(BrokenError, match=r"branches - decode"):
            _branches(sample(model._replace(branches=broken)))


def test_rows_are_taken_within_a_stream_and_clocks_are_shared():
    tree = {"own": jnp.arange(12).reshape(2, 3, 2), "clock": jnp.int32(7)}
    taken = take(tree, jnp.array([[2, 2, 0], [1, 0, 0]], jnp.int32))
    assert taken["own"].tolist() == [[[4, 5], [4, 5], [0, 1]], [[8, 9], [6, 7], [6, 7]]]
    assert taken["clock"] == 7


def test_a_copy_for_each_way_gives_what_a_shared_past_gives():
    model = STREAMING.make(GRID)
    params, steps = model.init(jax.random.key(0)), random_steps(GRID, 2, 9, 4)
    ahead = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), random_steps(GRID, 6, 3, 4, seed=1))
    cache, decode = model.init_cache(2), jax.jit(model.decode)
    for t in range(9):
        _, cache = decode(params, cache, jax.tree.map(lambda x: x[:, t], steps))  # noqa: B023
    found = []
    for branches in (branches_of(model), of_rows(model.decode)):
        ways, outputs, go_on = branches.start(cache, 3, 3), jnp.zeros(()), jax.jit(branches.decode)
        for t in range(3):
            outputs, ways = go_on(params, ways, jax.tree.map(lambda x: x[:, :, t], ahead))  # noqa: B023
        found.append(np.asarray(outputs))
    np.testing.assert_allclose(*found, atol=1e-5)


def test_ways_count_rewards_in_the_unit_of_their_model():
    model = STREAMING.make(GRID)
    params, steps = model.init(jax.random.key(0)), random_steps(GRID, 2, 1, 4)
    one = jax.tree.map(lambda x: x, steps.replace(prev_reward=np.full((2, 1), 3, np.float32)))

    def outputs(model, steps):
        branches = branches_of(model)
        return branches.decode(params, branches.start(model.init_cache(2), 1, 1), steps)[0]

    counted = outputs(reward_unit.applied(model, 3.0), one)
    np.testing.assert_array_equal(counted, outputs(model, one.replace(prev_reward=np.ones((2, 1), np.float32))))
    assert not np.array_equal(counted, outputs(model, one))
