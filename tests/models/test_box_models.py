"""Real-valued actions from backbone to agent: each backbone's contract, what it sees of an action, and refusals."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reach import Reach

from ad_jax import Agent, models
from ad_jax.envs.base import spec_of
from ad_jax.errors import AdJaxError, ConfigError
from ad_jax.models import lstm, transformer
from ad_jax.models.base import first_steps
from ad_jax.models.heads.binned import Binned
from ad_jax.models.heads.mixture import Mixture
from ad_jax.policies.base import Policy, from_model
from ad_jax.testing import ContractError, check_model, check_policy
from ad_jax.testing.model import random_steps
from ad_jax.types import Box, Discrete, Spec

REACH = Reach()
SPEC: Any = spec_of(REACH)  # its action is a Box
MATRIX = Spec(Box((2, 1), (-1, 5), (1, 6)), (4,), (3, 3, 3, 3))  # an action of two axes, away from zero
SMALL: dict[str, Any] = {"layers": 1, "width": 16, "heads": 2, "mlp_width": 16}
STREAMING = transformer.Transformer(**SMALL, window=5, action_head="mixture")
LSTM = lstm.LSTM(width=8, hidden=12, mlp_width=16)
CONFIGS = {
    "streaming, mixture": (STREAMING, SPEC),
    "streaming, binned": (dataclasses.replace(STREAMING, action_head="binned", action_bins=4), MATRIX),
    "streaming, exact context": (dataclasses.replace(STREAMING, exact_context=True), MATRIX),
    "paper": (transformer.Paper(**SMALL, window=10, episode_length=5, embedding_scale=1.0), MATRIX),
    "lstm": (LSTM, MATRIX),
}


def with_parameters(config=STREAMING, spec=SPEC):
    model = config.make(spec)
    return model, jax.jit(model.init)(jax.random.key(0))


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "paper" else n for n in CONFIGS])
def test_every_backbone_keeps_its_contract(name):
    config, spec = CONFIGS[name]
    model = config.make(spec)
    assert isinstance(model.head, Mixture if config.action_head == "mixture" else Binned)
    assert len(check_model(model, spec, episode_length=5)) == 9


def test_a_model_without_the_head_of_its_actions_is_caught():
    model, _ = with_parameters()
    assert isinstance(model.head, Mixture)
    with pytest.raises(ContractError, match="expected a head for Box"):
        check_model(model._replace(head=None), SPEC, episode_length=5)
    with pytest.raises(ContractError, match="expected a head of Box"):
        check_model(model._replace(head=Mixture(Box((2, 1), -1, 1), model.head.components)), SPEC, episode_length=5)


@pytest.mark.parametrize("mode", ["sampled", "greedy"])
def test_the_policy_of_a_model_keeps_the_contract(mode):
    model, params = with_parameters()
    check_policy(from_model(model, mode), SPEC, episode_length=3, params=params, greedy=mode == "greedy")


def test_an_action_is_seen_by_its_place_between_the_bounds():
    """Two worlds whose actions differ in units alone are the same to a model."""
    wide = dataclasses.replace(SPEC, action=Box((2,), (-50, 75), (50, 275)))
    (narrow, params), (scaled, others) = with_parameters(), with_parameters(spec=wide)
    jax.tree.map(np.testing.assert_array_equal, params, others)
    steps = random_steps(SPEC, 2, 6, 3)
    low, high = SPEC.action.bounds
    place = (steps.prev_action - low) / (high - low)
    moved = steps.replace(prev_action=wide.action.bounds[0] + place * (wide.action.bounds[1] - wide.action.bounds[0]))
    np.testing.assert_allclose(narrow.apply(params, steps), scaled.apply(params, moved), atol=1e-5)
    changed = steps.replace(prev_action=steps.prev_action * np.float32(0.5))
    assert np.abs(narrow.apply(params, steps) - narrow.apply(params, changed)).max() > 1e-3


def test_a_lifetime_begins_with_zeros_in_the_place_of_an_action():
    steps = first_steps(jnp.zeros((3, 4), jnp.int32), MATRIX.action)
    assert (steps.prev_action.shape, steps.prev_action.dtype) == ((3, 2, 1), jnp.float32)
    assert not steps.prev_action.any()


@pytest.mark.parametrize("mode", ["sampled", "greedy"])
def test_an_agent_acts_inside_the_box(mode):
    model, params = with_parameters()
    agent, (low, high) = Agent(from_model(model, mode), params, SPEC), SPEC.action.bounds
    agent.reset(batch=3)
    action = agent.act(np.zeros((3, 2)))
    for _ in range(7):
        assert (action.shape, action.dtype) == ((3, 2), np.float32)
        assert ((action >= low) & (action <= high)).all()
        action = agent.act(np.random.default_rng(0).normal(size=(3, 2)), reward=[0, 1, 2], done=False)
    with pytest.raises(AdJaxError, match=r"expects reward of shape \(3,\); got \(3, 2\)"):
        agent.act(np.zeros((3, 2)), reward=np.zeros((3, 2)), done=False)


@pytest.mark.parametrize("action", [[0.0, 0.76], [np.nan, 0.0]])
def test_an_agent_refuses_actions_that_are_none(action):
    beyond = Policy(lambda batch: (), lambda params, carry, steps, keys: (jnp.float32([action] * len(keys)), carry))
    with pytest.raises(AdJaxError, match=r"the policy's action \[.*\] for row 0, at step 0, is outside Box"):
        Agent(beyond, {}, SPEC).act([[0, 0]])


def test_an_agent_names_outputs_that_leave_nothing_to_choose():
    model, params = with_parameters()
    params["head"]["bias"] = params["head"]["bias"].at[-1].set(jnp.inf)
    with pytest.raises(AdJaxError, match=r"the model's highest logit is nan, no finite number; row 0"):
        Agent(from_model(model), params, SPEC).act([[0, 0]])


@pytest.mark.parametrize(
    ("name", "options", "spec", "words"),
    [
        ("dpt", {}, SPEC, "model=dpt answers with one of a number of actions; these are Box"),
        ("transformer", {"action_bins": 1}, SPEC, "model.action_bins must be at least 2; got 1"),
        ("lstm", {"action_components": 0}, SPEC, "model.action_components must be at least 1; got 0"),
        ("lstm", {"action_head": "binned"}, Spec(Discrete(3), (2,), None), "for actions in a Box; these are Discrete"),
        (
            "transformer",
            {"action_head": "bined"},
            SPEC,
            "unknown value of .*action_head 'bined'.*'binned'",
        ),
    ],
)
def test_what_cannot_be_is_refused(name, options, spec, words):
    with pytest.raises(ConfigError, match=words):
        models.make(name, options).make(spec)
