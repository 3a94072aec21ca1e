"""Trajectory Transformer: its tokens, its loss, its plans against every plan there is, and a run from end to end."""

import dataclasses
import itertools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import LITTLE, mesh_of

from ad_jax import Agent, Run, envs
from ad_jax.errors import ConfigError
from ad_jax.experiment import build, load, override
from ad_jax.methods.returns_to_come import returns_after
from ad_jax.methods.trajectory_transformer import Planning, TrajectoryTransformer, loss_of
from ad_jax.models.base import Model
from ad_jax.models.lstm import LSTM
from ad_jax.models.step_tokens import Grid
from ad_jax.models.transformer import Transformer
from ad_jax.policies.base import Policy, from_model
from ad_jax.run import directory
from ad_jax.stage.rollout import make_evaluator
from ad_jax.testing import check_method, check_policy
from ad_jax.testing.model import decode_all, random_steps
from ad_jax.testing.policy import scanned
from ad_jax.types import Batch, Box, Discrete, Spec, Steps

SMOKE = load("dark_room", "smoke")
TT = override(
    SMOKE,
    ["method=trajectory_transformer", "method.acting.beam=3", "method.acting.horizon=2", "model.window=8", *LITTLE],
)
LINE = Spec(Discrete(3), (1,), (4,))
STREAMING = Transformer(layers=1, width=8, heads=2, mlp_width=8, window=6)
RECURRENT = LSTM(width=8, hidden=8, mlp_width=8)
OPTIONS: Any = {"reward_bounds": (-1.0, 1.0), "return_bounds": (-3.0, 3.0), "bins": 5, "hidden": 8, "discount": 0.9}


def planner(beam: int, horizon: int, expand: int, score: Any = "return") -> TrajectoryTransformer:
    """Return the method with plans of that kind."""
    return TrajectoryTransformer(**OPTIONS, acting=Planning(beam, horizon, expand, score))


def loud(params: Any) -> Any:
    """Return parameters whose outputs differ much, so that no two scores are near one another."""
    return jax.tree.map(lambda x: 3 * x, params)


@pytest.mark.parametrize("config", [STREAMING, RECURRENT], ids=["transformer", "lstm"])
def test_one_plan_scored_by_its_probability_is_behavior_cloning(config):
    method = planner(1, 3, 3, "log_prob")
    model = method.model(config, LINE)
    params, steps = loud(model.init(jax.random.key(1))), random_steps(LINE, 4, 20, 6)
    keys = jax.random.split(jax.random.key(2), (4, 20))
    plans, clones = (
        np.asarray(scanned(policy)(params, steps, keys))
        for policy in (method.policy(model, "greedy"), from_model(model, "greedy"))
    )
    np.testing.assert_array_equal(plans, clones)
    assert len(np.unique(plans)) > 1
    # The same weights, planned by what they expect to earn, do something else.
    wide = scanned(planner(9, 3, 3).policy(model, "greedy"))(params, steps, keys)
    assert not np.array_equal(wide, clones)


def every_plan(method: TrajectoryTransformer, model: Model, params: Any, steps: Steps) -> dict[tuple[int, ...], float]:
    """Return the score of every plan after a stream `[1, L]`, by decoding the stream and the plan from its first step
    on: no cache is shared, and nothing is left out.
    """
    p, h, found = model.parts, method.acting.horizon or 0, {}
    network, grid = p.network(params), p.tokens.reward
    decode = jax.jit(model.decode)
    for plan in itertools.product(range(3), repeat=h):
        lived, total, score, alive = steps, 0.0, 0.0, True
        for k, action in enumerate(plan):
            outputs = jnp.asarray(decode_all(model, params, lived, decode)[:, -1])
            more, one = outputs[:, 3:], jnp.array([action], jnp.int32)
            likely = float(jax.nn.log_softmax(outputs[0, :3])[action])
            of_reward = network.reward(more, one)
            reward = grid.points[jnp.argmax(of_reward, -1)]
            end, value = network.end(more, one, reward)
            done = bool(end[0] > 0)
            if method.acting.score == "return":
                total += alive * method.discount**k * float(jax.nn.softmax(of_reward[0]) @ grid.points)
                to_come = float(jax.nn.softmax(value[0]) @ p.tokens.value.points)
                score = total + alive * (not done) * method.discount ** (k + 1) * to_come
            else:
                score = total + alive * likely
                ended = float(jax.nn.log_sigmoid(end[0] if done else -end[0]))
                total = score + alive * (float(jax.nn.log_softmax(of_reward[0]).max()) + ended)
            alive = alive and not done
            logits = network.next(more, one, reward, ())
            total += alive * float(jax.nn.log_softmax(logits[0]).max()) * (method.acting.score == "log_prob")
            seen = np.asarray(jnp.argmax(logits, -1), np.int32)[:, None]
            after = Steps(
                observation=seen[:, None],
                prev_action=np.array([[action]], np.int32),
                prev_reward=np.asarray(reward)[:, None],
                prev_done=np.array([[done]]),
            )
            lived = jax.tree.map(lambda x, y: np.concatenate([x, y], axis=1), lived, after)
        found[plan] = score
    return found


@pytest.mark.parametrize("score", ["return", "log_prob"])
@pytest.mark.parametrize("config", [STREAMING, RECURRENT], ids=["transformer", "lstm"])
def test_a_beam_as_wide_as_there_are_plans_finds_the_best_of_all(config, score):
    method = planner(9, 2, 3, score)
    model = method.model(config, LINE)
    ended = parted = 0
    for seed in range(3):
        params, steps = loud(model.init(jax.random.key(seed))), random_steps(LINE, 1, 8, 20, seed=seed)
        scores = every_plan(method, model, params, steps)
        keys = jax.random.split(jax.random.key(2), (1, 8))
        action = int(scanned(method.policy(model, "greedy"))(params, steps, keys)[0, -1])
        best = {a: max(score for plan, score in scores.items() if plan[0] == a) for a in range(3)}
        assert best[action] == pytest.approx(max(best.values()), abs=1e-4)
        parted += max(best.values()) - sorted(best.values())[-2] > 1e-2  # or any action would do
        ended += len({round(s, 4) for s in scores.values()}) < 9
    assert parted
    assert ended  # some plans ended before their last action, which then does not matter


@pytest.mark.parametrize(
    ("mode", "action"), [("sampled", Discrete(3)), ("greedy", Box((2,), -1.0, 2.0))], ids=["sampled", "greedy, real"]
)
def test_a_planner_keeps_the_contract_of_policies(mode, action):
    spec = Spec(action, (2,), None)
    method = dataclasses.replace(planner(4, 2, 2), observation_bounds=(2.0,))
    model = method.model(STREAMING, spec)
    params = loud(model.init(jax.random.key(0)))
    check_policy(method.policy(model, mode), spec, episode_length=4, params=params, greedy=mode == "greedy")


def test_rollouts_on_eight_devices_are_those_of_one():
    family = envs.make("dark_room", {"size": 3, "steps": 4})
    method = TrajectoryTransformer(acting=Planning(4, 2, 2)).bind(family, family.all_tasks())
    model = method.model(STREAMING, Spec(Discrete(5), (2,), (3, 3)))
    params, returns = model.init(jax.random.key(0)), []
    keys, tasks = jax.random.split(jax.random.key(1), 8), jax.tree.map(lambda x: x[:8], family.all_tasks())
    for devices in (1, 8):
        evaluator = make_evaluator(method.policy(model), family, mesh_of(devices), 2, 8)
        rollouts, trace = evaluator.run(params, evaluator.start(keys, tasks), keys, tasks)
        returns.append((np.asarray(rollouts.returns), np.asarray(trace)))
    jax.tree.map(np.testing.assert_array_equal, *returns)


def test_a_number_on_a_grid_is_the_mean_of_its_weights():
    grid = Grid(-2.0, 4.0, 7)
    x = jnp.array([-2.0, -0.3, 0.0, 1.0, 3.75, 4.0])
    weights = grid.weights(x)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(weights @ grid.points, x, atol=1e-6)
    assert ((weights > 0).sum(-1) <= 2).all()
    np.testing.assert_allclose(grid.mean(jnp.log(weights)), x, atol=1e-6)
    np.testing.assert_allclose(grid.weights(jnp.array([-9.0, 9.0])), grid.weights(jnp.array([-2.0, 4.0])))


def test_returns_after_a_step_are_discounted_and_end_with_the_episode():
    reward = np.array([[1, 2, 4, 8, 16]], np.uint8)
    done = np.array([[False, False, True, False, False]])
    np.testing.assert_allclose(returns_after(reward, done, 0.5), [[2 + 2, 4, 0, 16, 0]])


def test_the_loss_is_the_mean_cross_entropy_of_the_tokens():
    """Token by token; what follows the end of an episode is no token, nor is what follows the window."""
    method, unit = planner(1, 1, 1), 2.0
    spec = Spec(Discrete(3), (2,), (4, 3))
    model = method.model(STREAMING, spec)
    params, steps = loud(model.init(jax.random.key(0))), random_steps(spec, 2, 5, 3)
    draw = np.random.default_rng(0)
    done = np.concatenate([steps.prev_done[:, 1:], np.array([[True], [False]])], axis=1)
    targets = {
        "action": draw.integers(0, 3, (2, 5)).astype(np.int32),
        "reward": draw.normal(size=(2, 5)).astype(np.float32),
        "return_after": draw.normal(size=(2, 5)).astype(np.float32),
        "terminated": done & (draw.random((2, 5)) < 0.5),
        "truncated": done,
    }
    found = jax.jit(loss_of(model, unit, 5.0))(params, Batch(steps, targets), None)  # pyright: ignore[reportArgumentType]

    outputs, network, tokens = jax.jit(model.apply)(params, steps), model.parts.network(params), model.parts.tokens
    total = 0.0
    for b, t in itertools.product(range(2), range(5)):
        action, more = jnp.asarray(targets["action"][b, t]), outputs[b, t, 3:]
        reward, after = (jnp.float32(targets[name][b, t] / unit) for name in ("reward", "return_after"))
        end, value = network.end(more, action, reward)
        total -= 5 * jax.nn.log_softmax(outputs[b, t, :3])[action]
        total -= jax.nn.log_softmax(network.reward(more, action)) @ tokens.reward.weights(reward)
        total -= jax.nn.log_sigmoid(end if done[b, t] else -end)
        if done[b, t]:
            continue
        total -= jax.nn.log_softmax(value) @ tokens.value.weights(after)
        if t < 4:
            known = ()
            for one in jnp.asarray(steps.observation[b, t + 1]):
                total -= jax.nn.log_softmax(network.next(more, action, reward, known))[one]
                known = (*known, one)
    assert float(found) == pytest.approx(float(total) / 10 / (5 + 3 + 2), rel=1e-5)


def bound(changes=()) -> TrajectoryTransformer:
    """Return the method with what its family knows."""
    method = build(override(TT, changes)).method
    assert isinstance(method, TrajectoryTransformer)
    return method


def test_what_is_left_open_follows_from_the_family():
    method = bound(["model.window=20", "method.acting.beam=none", "method.acting.horizon=none"])
    assert method.acting == Planning(32, 10, 2, "return")
    assert method.reward_bounds == (0.0, 4.0)  # a room pays nothing or 1
    assert method.return_bounds == pytest.approx((0.0, 4 * (1 - 0.99**20) / 0.01))
    one = envs.make("bandit", {"arms": 3})
    left = TrajectoryTransformer().bind(one, one.sample_tasks(jax.random.key(0), 2))
    assert (left.acting.horizon, left.acting.beam) == (1, 3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["method.acting.beam=0"], r"acting.beam must be at least 1; got 0"),
        (["method.acting.horizon=21"], r"horizon=21 is beyond the end of an episode of DarkRoom, 20 steps"),
        (["method.acting.horizon=9"], r"horizon=9 is longer than model.window=8"),
        (["method.acting.beam=26"], r"beam=26 is more than the 25 plans of 2 steps with 5 actions"),
        (["method.acting.expand=6"], r"expand=6 is more than the 5 actions"),
        (["method.acting.score=prob"], r"Did you mean 'log_prob'|log_prob"),
        (["method.discount=0"], r"discount must be above 0"),
        (["method.bins=1"], r"bins must be at least 2"),
        (["method.action_weight=0"], r"action_weight must be above 0"),
        (["method.label_smoothing=0.1"], r"label_smoothing must be 0"),
        (["method.reward_bounds=(1.0,0.0)"], r"reward_bounds must be two finite numbers, the lower first"),
        (["method.observation_bounds=(1.0,)"], r"observation_bounds is for real observations"),
        (["model=dpt"], r"which model=dpt does not take"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_compiled(changes, told):
    with pytest.raises(ConfigError, match=told):
        bound(changes)


def test_pictures_and_real_observations_without_bounds_are_refused():
    with pytest.raises(ConfigError, match=r"those of Watermaze are pictures"):
        TrajectoryTransformer().check_family(envs.make("watermaze", {}))
    real = envs.make("point_mass", {})
    for bounds in (None, (1.0, 1.0)):
        with pytest.raises(ConfigError, match=r"each of the 4 components .* in 1 or 4 numbers"):
            TrajectoryTransformer(observation_bounds=bounds).check_family(real)


@pytest.mark.slow
def test_it_learns_real_actions_and_observations():
    assert "actions are the family's" in check_method(
        TrajectoryTransformer(observation_bounds=(1.0, 1.0, 4.0, 4.0), acting=Planning(2, 2, 2)),
        envs.make("point_mass", {"steps": 4}),
    )


def test_how_it_plans_is_no_part_of_training():
    other = override(TT, ["method.acting.beam=2", "method.acting.score=log_prob"])
    assert directory.digest(other) == directory.digest(TT)
    assert directory.digest(override(TT, ["method.discount=0.5"])) != directory.digest(TT)


def test_a_run_trains_plans_and_is_evaluated_again_with_other_plans(tmp_path):
    run = Run(TT, tmp_path / "run")
    run.all()

    def planned() -> dict:
        data = json.loads((run.folder / "evaluation" / "held_out-sampled.json").read_text())
        return data["key"]["acting"]

    assert planned()["beam"] == 3
    again = override(TT, ["method.acting.beam=1", "method.acting.expand=1", "method.acting.score=log_prob"])
    Run(again, run.folder).evaluate()
    assert (planned()["beam"], planned()["score"]) == (1, "log_prob")
    agent = Agent.load(run.folder)
    actions = agent.act([[4, 4]])
    assert actions.shape == (1,) and 0 <= actions[0] < 5
    assert isinstance(agent.policy, Policy)
