"""Policies: the public contract, broken ones caught by it, and a name that an experiment gives."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import GRID, unused
from odd_policies import InTurn

from ad_jax import policies
from ad_jax.__main__ import main
from ad_jax.errors import AdJaxError, ConfigError
from ad_jax.experiment import Experiment, build, load, override
from ad_jax.files import read_json
from ad_jax.models.base import Model
from ad_jax.models.transformer import Transformer
from ad_jax.policies import random
from ad_jax.policies.base import Policy, from_model
from ad_jax.run.pipeline import Run
from ad_jax.study.reproduce import work
from ad_jax.testing import ContractError, check_plugin, check_policy
from ad_jax.testing.model import random_steps

ACTIONS = GRID.num_actions
UNIFORM = random.uniform(ACTIONS)
KEYS = jax.random.split(jax.random.key(0), 3)


@pytest.mark.parametrize("name", [*policies.POLICIES, "odd_policies:InTurn"])
def test_policies_keep_the_contract_sampled_and_greedy(name):
    passed = check_plugin(name)
    assert len(passed) == 2 * 7 + 1
    assert "no key changes a greedy action (greedy)" in passed


def test_the_policy_of_a_model_keeps_the_contract():
    model = Transformer(layers=1, width=16, heads=2, mlp_width=16, window=6).make(GRID)
    params = jax.jit(model.init)(jax.random.key(0))
    check_policy(from_model(model), GRID, episode_length=5, params=params)
    check_policy(from_model(model, "greedy"), GRID, episode_length=5, params=params, greedy=True)


def ruled(rule, init=lambda batch: ()):
    """Return a policy of `rule(carry, steps, keys) -> (action, carry)`."""
    return Policy(init, lambda params, *args: rule(*args))


def first_key_alone(carry, steps, keys):
    logits = jnp.zeros((len(keys), ACTIONS))
    return jax.random.categorical(keys[0], logits).astype(jnp.int32), carry


def counting(forgets):
    """Return the action is how many steps it has counted, of this episode or of its lifetime."""

    def rule(count, steps, keys):
        count = jnp.where(steps.prev_done & forgets, 0, count)
        return jnp.minimum(count // 3, ACTIONS - 1), count + 1

    return ruled(rule, lambda batch: jnp.zeros((batch,), jnp.int32))


TRACES = itertools.count()


def zero(keys):
    return jnp.zeros(len(keys), jnp.int32)


BROKEN = {
    "real actions": (
        ruled(lambda carry, steps, keys: (jnp.zeros(len(keys)), carry)),
        r"actions \[B\].*expected actions int32\[3\]; received float32\[3\]",
    ),
    "one action for all": (ruled(lambda carry, steps, keys: (jnp.int32(0), carry)), r"received int32\[\]"),
    "a carry that changes its type": (
        ruled(
            lambda carry, steps, keys: (zero(keys), carry.astype(jnp.float32)),
            lambda batch: jnp.zeros(batch, jnp.int32),
        ),
        r"same shapes and dtypes; received .*float32\[3\].*int32\[3\]",
    ),
    "a carry with the batch elsewhere": (
        ruled(lambda carry, steps, keys: (zero(keys), carry), lambda batch: jnp.zeros((2, batch))),
        "Put the batch first",
    ),
    "a highest of the whole batch": (
        UNIFORM._replace(highest=lambda carry: jnp.float32(0)),
        r"expected highest to be None or float32\[3\]",
    ),
    "an action too many": (
        ruled(lambda carry, steps, keys: (zero(keys) + ACTIONS, carry)),
        r"actions are in range.*expected actions in 0\.\.4; received actions from 5 to 5",
    ),
    "one array twice": (
        ruled(lambda carry, steps, keys: (zero(keys), carry), lambda batch: (jnp.zeros(batch),) * 2),
        "can be donated",
    ),
    "a counter of its own": (
        ruled(lambda carry, steps, keys: (zero(keys) + next(TRACES) % ACTIONS, carry)),
        "in a scan and step by step.*draw with the keys alone",
    ),
    "a glance at its neighbors": (
        ruled(lambda carry, steps, keys: (zero(keys) + steps.observation.sum().astype(jnp.int32) % ACTIONS, carry)),
        "rows of a batch do not affect",
    ),
    "a number for every row": (
        ruled(lambda carry, steps, keys: (jnp.arange(len(keys), dtype=jnp.int32), carry)),
        "wherever it is in the batch",
    ),
    "one key for all rows": (ruled(first_key_alone), "wherever it is in the batch|with its own key"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_policies_are_caught(name):
    policy, words = BROKEN[name]
    with pytest.raises(ContractError, match=words):
        check_policy(policy, GRID, episode_length=5)


def test_a_row_that_draws_with_its_neighbors_key_is_caught():
    turned = Policy(UNIFORM.init, lambda params, carry, steps, keys: UNIFORM.act(params, carry, steps, keys[::-1]))
    with pytest.raises(ContractError, match="drawn with its own key"):
        check_policy(turned, GRID, episode_length=5)


def test_a_greedy_policy_that_draws_is_caught():
    with pytest.raises(ContractError, match="no key changes a greedy action"):
        check_policy(UNIFORM, GRID, episode_length=5, greedy=True)


def test_an_episodic_policy_starts_anew_and_another_one_is_caught():
    assert "it starts anew at the end of an episode" in check_policy(
        counting(forgets=True), GRID, episode_length=5, episodic=True
    )
    check_policy(counting(forgets=False), GRID, episode_length=5)
    with pytest.raises(ContractError, match="it starts anew at the end of an episode"):
        check_policy(counting(forgets=False), GRID, episode_length=5, episodic=True)


def test_a_policy_that_suits_no_small_family_is_named():
    with pytest.raises(ConfigError, match=r"OfManyActions\(first=99\) accepts neither DarkRoom nor Bandit"):
        check_plugin("odd_policies:OfManyActions")


def test_a_models_policy_says_what_left_it_nothing_to_choose():
    """Row 0 is fine, 1 has a NaN, 2 masks every action; a mask and nothing else is no fault."""
    logits = jnp.array([[-jnp.inf, 0, 0], [0, 0, jnp.nan], [-jnp.inf] * 3])

    def decode(params, cache, steps):
        return (logits, cache)

    policy = from_model(Model(unused, unused, lambda batch: (), decode, unused, 1, None))
    carry = policy.init(3)
    assert np.isfinite(np.asarray(policy.highest(carry))).all()
    action, carry = policy.act({}, carry, jax.tree.map(lambda x: x[:, 0], random_steps(GRID, 3, 1, 5)), KEYS)
    np.testing.assert_array_equal(policy.highest(carry), [0, np.nan, -np.inf])
    assert action[0] in (1, 2)


@pytest.mark.parametrize(("how", "words"), [(("best",), "mode.*'best'"), (("sampled", 0.0), "must be above 0; got 0")])
def test_how_actions_are_chosen_is_checked(how, words):
    with pytest.raises(AdJaxError, match=words):
        from_model(Model(unused, unused, unused, unused, unused, 1, None), *how)
    with pytest.raises(AdJaxError, match=words):
        build(override(load("dark_room", "smoke"), ["model=random"])).policy(*how)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["model=thomson"], r"unknown model 'thomson'. Did you mean 'thompson'"),
        (["model=transfomer"], r"unknown model 'transfomer'. Did you mean 'transformer'"),
        (
            ["model=odd_policies:InTurn", "model.fir=1"],
            r"unknown option of policy odd_policies:InTurn 'fir'.*'first'",
        ),
        (["model=odd_policies:InTurn", "model.first=5"], r"model.first must be below 5; got 5"),
        (["model=odd_policies:made"], r"cannot load model 'odd_policies:made'"),
        (
            ["model=odd_policies:made_for_a_family"],
            r"must be a frozen dataclass that is a ModelConfig or PolicyConfig; got .*ad_jax.models.base states what",
        ),
    ],
)
def test_names_and_options_of_policies_are_checked_with_those_of_models(changes, words):
    with pytest.raises(ConfigError, match=words):
        build(override(load("dark_room", "smoke"), changes))


def test_a_policy_from_outside_runs_through_every_stage_under_a_models_name(tmp_path):
    """What config.json holds of it is what it would hold of a model, so old ones are read."""
    changes = ["model=odd_policies:InTurn", "model.first=1", "evaluate.source_seeds=0", "logging.progress_seconds=1000"]
    e = override(load("dark_room", "smoke"), changes)
    assert Run(e, tmp_path / "run").all().is_file()
    saved = read_json(tmp_path / "run/config.json")
    assert saved["model"] == {"name": "odd_policies:InTurn", "config": {"first": 1}}
    assert Experiment.from_json(saved) == e
    (one,) = read_json(tmp_path / "run/results.json")["runs"][0]["sets"]
    assert np.array_equal(one["returns"]["sampled"], one["returns"]["greedy"])
    parts = build(dataclasses.replace(e, model=InTurn()))
    assert (parts.model, parts.trained) == (None, False)


def test_what_a_policy_costs_is_its_rollouts(capsys):
    assert main(["show", "dark_room", "--scale", "smoke", "model=random"]) == 0
    assert "collect  nothing: the model is not trained" in capsys.readouterr().out
    costs = work(override(load("dark_room", "smoke"), ["model=random"]))
    assert costs["model"] == 0
    assert costs["curve"] > 0
