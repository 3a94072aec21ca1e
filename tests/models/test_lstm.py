"""The LSTM backbone: the contract, a library's LSTM as reference, its options, and the whole pipeline on it."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ad_jax import Agent, models
from ad_jax.errors import ConfigError
from ad_jax.experiment import build, load
from ad_jax.files import read_json
from ad_jax.models.lstm import LSTM, Carry, Layer
from ad_jax.models.tokens import as_numbers
from ad_jax.policies.base import from_model
from ad_jax.run.pipeline import Run
from ad_jax.testing import check_model
from ad_jax.testing.model import random_steps
from ad_jax.types import Discrete, Spec

GRID, REAL = Spec(Discrete(5), (2,), (9, 9)), Spec(Discrete(3), (4,), None)
PIXELS = Spec(Discrete(4), (9, 12, 3), None, pixels=True)
SMALL = LSTM(width=8, hidden=12, mlp_width=8)
CONFIGS = {
    "grid": (SMALL, GRID),
    "two layers, masked": (dataclasses.replace(SMALL, layers=2, token_mask=0.3), REAL),
    "with a value, observations as numbers": (
        dataclasses.replace(SMALL, value_head=True, numeric_observations=True),
        GRID,
    ),
    "its episode alone": (dataclasses.replace(SMALL, layers=2, memory="episode"), GRID),
    "pixels": (dataclasses.replace(SMALL, pixel_channels=(4, 8), pixel_width=8), PIXELS),
}


SLOW = ("two layers, masked", "pixels")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CONFIGS])
def test_contract(name):
    config, spec = CONFIGS[name]
    assert len(check_model(config.make(spec), spec, episode_length=5)) == 9


def test_a_layer_equals_flax_lstm_cell_step_by_step():
    """Flax keeps one bias, at the recurrent product, and orders its gates input, forget, candidate, output."""
    rng, batch, length, inputs, hidden = np.random.default_rng(0), 3, 7, 5, 6
    x = rng.normal(size=(batch, length, inputs)).astype(np.float32)
    layer, cell = Layer(inputs, hidden, rngs=nnx.Rngs(0)), nnx.OptimizedLSTMCell(inputs, hidden, rngs=nnx.Rngs(1))
    cell.dense_i.kernel[...] = layer.inputs.kernel[...]
    cell.dense_h.kernel[...] = layer.recurrent.kernel[...]
    cell.dense_h.bias[...] = layer.inputs.bias[...]
    start = Carry(*jnp.asarray(rng.normal(size=(2, batch, hidden)).astype(np.float32)))
    outputs, end = layer(jnp.asarray(x), start)
    state: Any = tuple(start)
    for t in range(length):
        state, out = cell(state, jnp.asarray(x[:, t]))
        np.testing.assert_allclose(outputs[:, t], out, atol=1e-6)
    chex.assert_trees_all_close(tuple(end), state, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(layer.inputs.bias[...], np.repeat([0.0, 1.0, 0.0, 0.0], hidden))


def test_all_of_the_past_reaches_a_logit_and_a_segment_starts_empty():
    model, steps = SMALL.make(GRID), random_steps(GRID, 1, 40, 5)
    params = jax.jit(model.init)(jax.random.key(0))
    first = jax.grad(lambda reward: model.apply(params, steps.replace(prev_reward=reward))[0, -1].sum())
    assert np.all(np.asarray(first(jnp.asarray(steps.prev_reward))) != 0)
    assert model.context_start(steps.prev_done[0]) == 0
    assert all(not leaf.any() for leaf in jax.tree.leaves(model.init_cache(2)))


def test_a_value_head_leaves_the_model_as_it_was():
    """Its parameters come beside the others, which are the same as without it, and logits do not see it."""
    plain, valued = SMALL.make(GRID), dataclasses.replace(SMALL, value_head=True)
    params, more = (jax.jit(c.make(GRID).init)(jax.random.key(0)) for c in (SMALL, valued))
    assert more.keys() - params.keys() == {"value_head"}
    chex.assert_trees_all_equal(params, {name: more[name] for name in params})
    steps = random_steps(GRID, 3, 7, 5)
    np.testing.assert_array_equal(valued.make(GRID).apply(more, steps), plain.apply(params, steps))
    network = valued.actor_critic(GRID)
    logits, value, cache = network.segment(more, network.init_cache(3), steps)
    np.testing.assert_array_equal(logits, plain.apply(params, steps))
    assert value.shape == (3, 7)

    def half(part):
        return jax.tree.map(lambda x: x[:, part], steps)

    _, first, middle = network.segment(more, network.init_cache(3), half(slice(4)))
    _, second, end = network.segment(more, middle, half(slice(4, None)))
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), value, atol=1e-6)
    chex.assert_trees_all_close(end, cache, rtol=0, atol=1e-6)


def test_an_agent_acts_with_it():
    """It donates the cache, in which each buffer may stand but once."""
    model = dataclasses.replace(SMALL, layers=2).make(GRID)
    agent = Agent(from_model(model), jax.jit(model.init)(jax.random.key(0)), GRID)
    agent.act([[4, 4]])
    assert agent.act([[4, 5]], reward=[0], done=[False]).shape == (1,)


def test_observations_as_numbers_lie_between_minus_one_and_one():
    observation = jnp.asarray([[[0, 8], [4, 2]]])
    np.testing.assert_allclose(as_numbers(observation, (9, 9)), [[[-1, 1], [0, -0.5]]])
    np.testing.assert_allclose(as_numbers(jnp.asarray([[3]]), (4,)), [[1]])
    assert as_numbers(jnp.asarray([[0]]), (1,)).shape == (1, 1)

    def middle(cell):
        return jnp.asarray([[[cell, 0]]])

    model, steps = dataclasses.replace(SMALL, numeric_observations=True).make(GRID), random_steps(GRID, 1, 1, 5)
    params = jax.jit(model.init)(jax.random.key(0))
    assert params["tokens"]["observation"]["kernel"].shape == (2, 8)
    seen = [model.apply(params, steps.replace(observation=middle(cell)))[0, 0] for cell in (0, 4, 8)]
    assert len({float(logits[0]) for logits in seen}) == 3


def test_masked_tokens_change_training_alone():
    model, steps = dataclasses.replace(SMALL, token_mask=0.5).make(GRID), random_steps(GRID, 4, 10, 5)
    params = jax.jit(model.init)(jax.random.key(0))
    plain = SMALL.make(GRID)
    np.testing.assert_array_equal(model.apply(params, steps), plain.apply(params, steps))
    np.testing.assert_array_equal(plain.apply(params, steps, jax.random.key(1)), plain.apply(params, steps))
    assert not np.array_equal(model.apply(params, steps, jax.random.key(1)), model.apply(params, steps))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "model.hidden must be at least 1; got 0"),
        ({"token_mask": 1.0}, "model.token_mask is a probability below 1"),
        ({"pixel_kernel": 1}, "model.pixel_kernel=1 must be at least model.pixel_stride=2"),
        ({"heads": 2}, "unknown option of model lstm 'heads'"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        models.make("lstm", options).make(GRID)


@pytest.mark.slow
def test_an_lstm_runs_through_every_stage(tmp_path):
    e = load("dark_room", "smoke")
    e = dataclasses.replace(e, model=LSTM(width=16, hidden=16, mlp_width=16, token_mask=0.1))
    run = Run(e, tmp_path / "run")
    run.collect()
    run.distill()
    run.evaluate()
    assert run.report().exists()
    (one,) = read_json(tmp_path / "run/results.json")["runs"][0]["sets"]
    assert np.shape(one["returns"]["sampled"]) == (len(one["tasks"]), e.evaluate.seeds, e.evaluate.episodes)
    assert build(e).model.max_segment is None
