"""Actions in a Box through every stage: a run from histories to report, other methods, and what is refused."""

import dataclasses
import pathlib
from typing import cast

import jax
import numpy as np
import pytest
from helpers import unused
from reach import HIGH, LOW, NearlyOptimal, Reach

from ad_jax import Agent, Run, open_store
from ad_jax.envs.base import take
from ad_jax.errors import ConfigError
from ad_jax.experiment import (
    CollectConfig,
    EvaluateConfig,
    Experiment,
    ReplayConfig,
    TaskConfig,
    build,
    override,
    plugins,
)
from ad_jax.files import read_json
from ad_jax.methods.distillation import Distillation
from ad_jax.models.heads.binned import Binned
from ad_jax.models.transformer import Transformer
from ad_jax.planning import cost
from ad_jax.policies import demonstrator, random
from ad_jax.run import in_memory
from ad_jax.testing import check_method, check_policy
from ad_jax.types import Box

EXPERIMENT = Experiment(
    name="reach",
    env=Reach(),
    source=NearlyOptimal(),
    model=Transformer(layers=1, width=16, heads=2, mlp_width=16, window=8),
    tasks=TaskConfig(train=8, held_out=4),
    collect=CollectConfig(episodes=12, seeds=1),
    replay=ReplayConfig(batch=8, segment=8),
    method=Distillation(updates=6, updates_per_dispatch=3, checkpoint_every=6, warmup_updates=1),
    evaluate=EvaluateConfig(episodes=3, seeds=2, episodes_per_dispatch=3, source_seeds=0),
)
PROMPTED = override(EXPERIMENT, ["evaluate.prompt=0.8", "evaluate.prompt_episodes=2"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    run = Run(PROMPTED, tmp_path_factory.mktemp("run") / "one")
    run.all()
    return run.folder


@pytest.fixture(scope="module")
def histories():
    return in_memory.collect(EXPERIMENT)


def test_histories_hold_the_actions_as_they_were_done(folder, histories):
    action = open_store(folder / "histories").read().transition.action
    np.testing.assert_array_equal(action, histories.transition.action)
    assert (action.shape, action.dtype) == ((8, 48, 2), np.float32)
    assert ((action >= LOW) & (action <= HIGH)).all()
    assert action.std() > 0.1


def test_a_report_leaves_out_what_cannot_be_drawn(folder):
    (one,) = read_json(folder / "results.json")["runs"][0]["sets"]
    assert np.shape(one["returns"]["sampled"]) == np.shape(one["returns"]["greedy"]) == (4, 2, 3)
    assert one["tasks"][0]["picture"] == {"kind": "none"}
    assert "Paths: this task family does not say how to draw one." in (folder / "report" / "index.html").read_text()


def test_an_agent_of_a_checkpoint_acts(folder):
    agent = Agent.load(folder)
    action = agent.act([[0, 0]])
    assert (action.shape, action.dtype) == ((1, 2), np.float32)
    assert ((action >= LOW) & (action <= HIGH)).all()


def test_a_prompt_is_the_demonstrator_s(folder):
    """It earns about what was asked for, between chance and the optimum."""
    (one,) = read_json(folder / "results.json")["runs"][0]["sets"]
    tasks = next(iter(build(EXPERIMENT).split.held_out.values()))
    optimal = Reach().optimal_return(tasks).mean()
    by_chance = demonstrator._returns(Reach(), tasks, np.ones(1, np.float32), seed=0).mean()
    assert (one["prompt"]["return"] - by_chance) / (optimal - by_chance) == pytest.approx(0.8, abs=0.25)


def test_the_loss_is_a_density_s_and_falls(histories):
    """It begins near that of uniform actions, the logarithm of the Box's volume or above."""
    method, shown = dataclasses.replace(EXPERIMENT.method, updates=60, updates_per_dispatch=20), []
    longer = dataclasses.replace(EXPERIMENT, method=method)
    in_memory.train(longer, histories, lambda step, metrics: shown.append(metrics["loss"]))
    assert shown[0] > np.log(np.prod(HIGH - LOW)) - 0.5
    assert shown[-1] < shown[0] - 0.2


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(["model.action_head=mixture", "model.action_components=2"], marks=pytest.mark.slow),
        ["model=lstm", "model.width=8", "model.hidden=12", "model.mlp_width=16"],
    ],
)
def test_other_heads_and_backbones_train_and_act(histories, changes):
    e = override(EXPERIMENT, changes)
    curve = in_memory.evaluate(e, in_memory.train(e, histories), "greedy")
    assert curve.returns.shape == (4, 2, 3)
    assert np.isfinite(curve.returns).all()


def test_a_decision_transformer_trains_and_acts(histories):
    options = {name: getattr(EXPERIMENT.method, name) for name in ("updates", "updates_per_dispatch", "warmup_updates")}
    options |= {"target": 3.0, "scale": 1.0}
    e = dataclasses.replace(
        EXPERIMENT, method=plugins.read("method", "examples.decision_transformer:DecisionTransformer", options)
    )
    curve = in_memory.evaluate(e, in_memory.train(e, histories))
    assert np.isfinite(curve.returns).all()


@pytest.mark.parametrize(
    "name", ["distillation", pytest.param("examples.decision_transformer:DecisionTransformer", marks=pytest.mark.slow)]
)
def test_methods_keep_their_contract(name):
    assert len(check_method(plugins.read("method", name), Reach())) == 8


@pytest.mark.parametrize("mode", ["sampled", "greedy"])
def test_the_random_policy_fills_the_box(mode):
    family, e = Reach(), override(EXPERIMENT, ["model=random"])
    parts = build(e)
    check_policy(parts.policy(mode), parts.spec, episode_length=3, greedy=mode == "greedy")
    keys = jax.random.split(jax.random.key(0), 4000)
    assert isinstance(family.action_spec, Box)
    action = np.asarray(random.uniform_in(family.action_spec, mode).act({}, (), unused, keys)[0])
    np.testing.assert_allclose(action.mean(0), (LOW + HIGH) / 2, atol=0.02)
    spread = (HIGH - LOW) / 12**0.5 if mode == "sampled" else 0
    np.testing.assert_allclose(action.std(0), spread, atol=0.02)


def test_a_demonstrator_with_noise_draws_from_the_box():
    family = Reach()
    task = take(family.sample_tasks(jax.random.key(0), 1), 0)
    _, state = family.reset_env(jax.random.key(1), task)

    def draw(noise):
        return np.asarray(
            jax.vmap(lambda key: demonstrator.demonstrate(family, noise, key, state, task))(
                jax.random.split(jax.random.key(2), 500)
            )
        )

    np.testing.assert_array_equal(draw(0.0), np.broadcast_to(family.optimal_action(state, task), (500, 2)))
    assert len(np.unique(draw(1.0), axis=0)) == 500
    assert 200 < len(np.unique(draw(0.5), axis=0)) < 300


def test_what_a_run_costs_counts_the_head_and_the_actions():
    parts = build(EXPERIMENT)
    plain, wide = (cost.count(e, build(e)) for e in (EXPERIMENT, override(EXPERIMENT, ["model.action_bins=33"])))
    assert wide.parameters - plain.parameters == (16 + 1) * 2
    assert plain.parameters == sum(x.size for x in jax.tree.leaves(parts.params))
    assert plain.disk_bytes == 8 * 48 * (2 * 4 + 2 * 4 + 4 + 2)
    assert plain.batch_bytes == 8 * 8 * (2 * 4 + 2 * (2 * 4) + 4 + 1)
    assert parts.model.head == Binned(cast(Box, parts.spec.action), 32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["method=dpt"], "method=dpt learns which of a number of actions is optimal, and those of Reach are Box"),
        (["model=dpt"], "model=dpt answers with one of a number of actions; these are Box"),
        (["method=rl2", "model=lstm", "model.value_head=True"], "method=rl2 trains a policy over a number of actions"),
        (["method.label_smoothing=0.1"], "method.label_smoothing=0.1 spreads a share over all other actions"),
        (["model=thompson"], "Thompson sampling is of bandits"),
        (["model=explorer"], "the explorer knows Dark Room"),
    ],
)
def test_what_is_for_counted_actions_alone_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        build(override(EXPERIMENT, changes))
