"""Gato: one vocabulary for families with unlike observations and actions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_worlds import ARMS, POINT, ROOM, of

from ad_jax.errors import ConfigError
from ad_jax.experiment import build, build_members, override
from ad_jax.keys import a_key
from ad_jax.methods.gato import Gato
from ad_jax.models.lstm import LSTM
from ad_jax.models.transformer import Transformer
from ad_jax.models.vocabulary import Vocabulary, companded, in_vocabulary
from ad_jax.testing import check_method, check_model
from ad_jax.types import Box, Discrete, Spec, Steps

VOCABULARY = Vocabulary(observations=4, actions=2, values=9)
SPECS = {"grid": Spec(Discrete(5), (2,), (9, 9)), "table": Spec(Box((2,), -2.0, 2.0), (4,), None)}
SMALL = Transformer(layers=1, width=8, heads=2, mlp_width=8, window=5)


def test_a_step_is_written_as_the_places_of_its_values():
    steps = Steps(
        observation=jnp.array([[[3, 8], [0, 1]]], jnp.int32),
        prev_action=jnp.array([[5, 2]], jnp.int32),  # none, then 2
        prev_reward=jnp.array([[0.0, 1.0]]),
        prev_done=jnp.array([[False, True]]),
    )
    seen = VOCABULARY.see(SPECS["grid"], steps)
    np.testing.assert_array_equal(seen.observation, [[[3, 8, 9, 9, 9, 9], [0, 1, 9, 9, 2, 9]]])
    np.testing.assert_array_equal(seen.prev_reward, steps.prev_reward)
    np.testing.assert_array_equal(seen.prev_done, steps.prev_done)
    real = Steps(
        observation=jnp.array([[-300.0, -0.01, 0.0, 300.0]]),
        prev_action=jnp.array([[-2.0, 0.5]]),
        prev_reward=jnp.zeros(1),
        prev_done=jnp.zeros(1, bool),
    )
    np.testing.assert_array_equal(VOCABULARY.see(SPECS["table"], real).observation, [[0, 4, 4, 8, 0, 5]])


def test_companding_keeps_small_numbers_apart_and_order():
    x = jnp.array([-1000.0, -1.0, -0.01, 0.0, 0.01, 1.0, 1000.0])
    y = np.asarray(companded(x))
    assert (np.diff(y) > 0).all()
    np.testing.assert_allclose(y, -y[::-1], atol=1e-6)
    assert y[-1] == 1.0
    assert y[4] > 0.05


def test_families_differ_in_one_token_alone():
    parts = build_members(of(ROOM, ARMS, POINT, method=Gato(updates=4, warmup_updates=1)))
    params = jax.eval_shape(parts.together.init, a_key(0))
    assert parts.together.own == ("family",)
    assert set(params["family"]) == {"room", "arms", "point"}
    assert {x.shape for x in jax.tree.leaves(params["family"])} == {(1, 8)}
    assert parts.components["room"].model.head.size == 5
    assert parts.components["point"].model.head.size == 2 * 64


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("config", [SMALL, LSTM(width=8, hidden=8, mlp_width=8)], ids=["transformer", "lstm"])
def test_a_model_in_the_vocabulary_keeps_the_contract(name, config):
    assert len(check_model(in_vocabulary(config, SPECS[name], VOCABULARY), SPECS[name], episode_length=4)) > 5


def test_gato_keeps_the_contract_of_methods():
    assert len(check_method(Gato(vocabulary=VOCABULARY))) > 5


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["method.vocabulary.values=2"], "vocabulary.values=2 is too few for this family; it needs 5"),
        (["method.vocabulary.observations=1"], "observations=1 is too few"),
        (["method.vocabulary.actions=0"], "method.vocabulary.actions must be at least 1"),
        (["model.memory=episode"], "model.memory=episode"),
        (["model.action_head=binned"], "action_head"),
        (["model=dpt"], "model=dpt does not take"),
        (["env=watermaze", "source=dqn"], "no pictures"),
    ],
)
def test_what_does_not_fit_is_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        build(override(ROOM, ["method=gato", *changes]))
