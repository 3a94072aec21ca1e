"""TAP: codes against every plan there is, what is encoded and what is not, and that actions cost nothing."""

import dataclasses
import itertools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import LITTLE

from ad_jax import envs
from ad_jax.errors import ConfigError
from ad_jax.experiment import build, load, override
from ad_jax.methods.tap import TAP, CodePlanning, loss_of
from ad_jax.models.base import Model
from ad_jax.models.heads.beside import Beside
from ad_jax.models.transformer import Transformer
from ad_jax.run import directory
from ad_jax.testing import check_method, check_policy
from ad_jax.testing.model import random_steps
from ad_jax.types import Batch, Box, Discrete, Spec

SMOKE = override(load("dark_room", "smoke"), ["method=tap", *LITTLE])
LINE = Spec(Discrete(3), (1,), (4,))
STREAMING = Transformer(layers=1, width=8, heads=2, mlp_width=8, window=6)
OPTIONS: Any = {
    "reward_bounds": (-1.0, 1.0),
    "return_bounds": (-3.0, 3.0),
    "bins": 5,
    "hidden": 8,
    "discount": 0.9,
    "codes": 4,
    "code_steps": 2,
    "codes_ahead": 2,
}


def planner(beam: int, horizon: int, expand: int, **asked: float) -> TAP:
    """Return the method with plans of that kind."""
    return TAP(**OPTIONS, acting=CodePlanning(beam, horizon, expand, **asked))


def loud(params: Any) -> Any:
    """Return parameters whose outputs differ much, so that no two scores are near one another."""
    return jax.tree.map(lambda x: 3 * x, params)


def every_plan(method: TAP, model: Model, params: Any, state: jax.Array) -> dict[tuple[int, ...], float]:
    """Return the score of every plan from `state [D]`, one code and one step after another."""
    network, shape, asked, found = model.parts.network(params), model.parts.shape, method.acting, {}
    for plan in itertools.product(range(shape.codes), repeat=asked.horizon or 0):
        now, time, total, excess, alive, value = state, 0, 0.0, 0.0, True, 0.0
        for code in plan:
            if not alive:
                break
            excess += float(jax.nn.log_softmax(network.prior(now))[code]) - float(np.log(asked.likely))
            now = network.after(now, network.directions()[code])
            reward, end, after = network.earned(now)
            for k in range(shape.length):
                total += alive * method.discount**time * float(jax.nn.softmax(reward[k]) @ shape.tokens.reward.points)
                alive, time = alive and not bool(end[k] > 0), time + 1
            value = alive * method.discount**time * float(jax.nn.softmax(after) @ shape.tokens.value.points)
        found[plan] = total + value + asked.penalty * min(excess, 0)
    return found


@pytest.mark.parametrize("penalty", [0.0, 2.0])
def test_a_beam_as_wide_as_there_are_plans_finds_the_best_of_all(penalty):
    method = planner(16, 2, 4, penalty=penalty, likely=0.3)
    model, ended = method.model(STREAMING, LINE), 0
    policy = method.policy(model, "greedy")
    act = jax.jit(policy.act)
    for seed in range(4):
        params, steps = loud(model.init(jax.random.key(seed))), random_steps(LINE, 1, 1, 20, seed=seed)
        one = jax.tree.map(lambda x: x[:, 0], steps)
        network, head = model.parts.network(params), cast(Beside, model.head)
        state = head.of_more(model.decode(params, model.init_cache(1), one)[0])[0]
        scores = every_plan(method, model, params, state)
        best = max(scores, key=scores.__getitem__)
        wanted = head.action.greedy(network.actions(network.after(state, network.directions()[best[0]]))[0])
        action, _ = act(params, policy.init(1), one, jax.random.split(jax.random.key(0), 1))
        assert int(action[0]) == int(wanted)
        ended += len({round(score, 4) for score in scores.values()}) < len(scores)
    assert ended  # some plans ended before their last code, which then does not matter


@pytest.mark.parametrize(
    ("mode", "action"), [("greedy", Discrete(3)), ("sampled", Box((2,), -1.0, 2.0))], ids=["greedy", "sampled, real"]
)
def test_a_planner_keeps_the_contract_of_policies(mode, action):
    spec = Spec(action, (2,), None)
    method = dataclasses.replace(planner(4, 2, 2), observation_bounds=(2.0,))
    model = method.model(STREAMING, spec)
    params = loud(model.init(jax.random.key(0)))
    check_policy(method.policy(model, mode), spec, episode_length=4, params=params, greedy=mode == "greedy")


@pytest.mark.slow
def test_it_learns_real_actions():
    family = envs.make("point_mass", {"steps": 4})
    asked = dataclasses.replace(planner(4, 2, 2), reward_bounds=None, return_bounds=None, observation_bounds=(2.0,))
    assert "actions are the family's" in check_method(asked, family)


def batch_of(steps: Any, seed: int = 0) -> Batch:
    """Return what an update learns from; the third step ends an episode, and so does each third after it."""
    draw, (rows, length) = np.random.default_rng(seed), steps.prev_done.shape
    done = np.concatenate([steps.prev_done[:, 1:], np.zeros((rows, 1), bool)], axis=1)
    targets = {
        "action": draw.integers(0, 3, (rows, length)).astype(np.int32),
        "reward": draw.uniform(-0.9, 0.9, (rows, length)).astype(np.float32),
        "return_after": draw.normal(size=(rows, length)).astype(np.float32),
        "terminated": done,
        "truncated": np.zeros_like(done),
    }
    return Batch(steps, jax.tree.map(jnp.asarray, targets))


def test_segments_end_with_the_episode_and_with_the_window():
    """The loss of a step does not feel what comes after its episode; in it, all that its codes stand for."""
    method = planner(1, 1, 1)
    model = method.model(STREAMING, LINE)
    params, steps = loud(model.init(jax.random.key(0))), random_steps(LINE, 1, 6, 3)
    batch = batch_of(steps)
    outputs = jax.eval_shape(model.apply, params, steps)
    fixed = model._replace(apply=lambda *_: jnp.ones(outputs.shape).at[:, 1:].set(0.5))  # what is seen changes nothing

    def loss(network: Any, steps: Any, targets: Any) -> jax.Array:
        each = loss_of(network, 1.0, 2, 5.0)
        return each(params, Batch(steps, targets), None)  # pyright: ignore[reportArgumentType]

    def cut(first: int, end: int) -> float:
        part = jax.tree.map(lambda x: x[:, first:end], (batch.steps, batch.targets))
        short = model._replace(apply=lambda *_: jnp.ones((1, end - first, *outputs.shape[2:])))
        return float(jax.jit(lambda *part: loss(short, *part))(*part)) * (end - first)

    def paid(reward: jax.Array) -> jax.Array:
        return loss(fixed, batch.steps, {**batch.targets, "reward": reward})

    slope = np.asarray(jax.jit(jax.grad(paid))(batch.targets["reward"]))[0]
    assert np.isfinite(slope).all() and (np.abs(slope) > 0).all()
    # Two episodes of three steps cost what each of them costs: no segment reaches over the end.
    assert cut(0, 6) == pytest.approx(cut(0, 3) + cut(3, 6), rel=1e-5)


def test_a_decision_costs_the_same_however_many_actions_there_are():
    def flops(actions: int) -> float:
        spec = Spec(Discrete(actions), (2,), (9, 9))
        model = (method := planner(8, 2, 4)).model(STREAMING, spec)
        policy = method.policy(model)
        params, carry = jax.eval_shape(model.init, jax.random.key(0)), jax.eval_shape(lambda: policy.init(4))
        steps = jax.tree.map(lambda x: x[:, 0], random_steps(spec, 4, 1, 4))
        lowered = jax.jit(policy.act).lower(params, carry, steps, jax.random.split(jax.random.key(0), 4))
        return lowered.compile().cost_analysis()["flops"]

    assert flops(65) < 1.2 * flops(5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["method.codes=1"], r"method.codes must be at least 2"),
        (["method.code_steps=41"], r"code_steps=41 is longer than what is learned from at once, replay.segment=40"),
        (["method.acting.horizon=8"], r"horizon=8 codes of 3 steps is beyond the end .* 20 steps"),
        (["method.acting.horizon=1", "method.acting.beam=65"], r"beam=65 is more than the 64 plans of 1"),
        (["method.acting.expand=65"], r"expand=65 is more than method.codes=64"),
        (["method.acting.likely=0"], r"likely must be a probability above 0.* got 0.0 and 100.0"),
        (["method.acting.beam=0"], r"acting.beam must be at least 1; got 0"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_compiled(changes, told):
    with pytest.raises(ConfigError, match=told):
        build(override(SMOKE, changes))


def test_how_it_plans_is_no_part_of_training():
    method = build(SMOKE).method
    assert isinstance(method, TAP)
    assert method.acting == CodePlanning(32, 4, 4, 0.05, 100.0)
    assert directory.digest(override(SMOKE, ["method.acting.beam=2"])) == directory.digest(SMOKE)
    assert directory.digest(override(SMOKE, ["method.codes=8"])) != directory.digest(SMOKE)
