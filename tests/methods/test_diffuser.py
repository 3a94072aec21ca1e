"""Diffuser: the bound that is learned, what a plan is given, and goals that no history was rewarded for."""

import dataclasses
import itertools
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import LITTLE, mesh_of

from ad_jax import Agent, Run
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.envs.grid import MOVES, cells, toward
from ad_jax.envs.point_mass import PointMass
from ad_jax.errors import AdJaxError, ConfigError
from ad_jax.experiment import (
    CollectConfig,
    EvaluateConfig,
    Experiment,
    MeshConfig,
    ReplayConfig,
    TaskConfig,
    build,
    load,
    override,
)
from ad_jax.methods.diffuser import Asked, Diffuser
from ad_jax.methods.goals import goals_of
from ad_jax.models import denoiser
from ad_jax.models.base import first_steps
from ad_jax.models.diffusion import Gaussian, Masked, _schedule
from ad_jax.models.transformer import Transformer
from ad_jax.policies.base import Policy
from ad_jax.policies.denoised import GOALS, Carry, Plan, Planning, replanned
from ad_jax.run import directory, in_memory
from ad_jax.sources.noisy_oracle import NoisyOracle
from ad_jax.stage import evaluate, rollout
from ad_jax.testing import check_method
from ad_jax.types import Discrete, Spec

SMALL = Transformer(layers=1, width=16, heads=2, mlp_width=16)
PLANNING = Planning(
    steps=6, warm_steps=2, replan_every=3, temperature=1.0, haste=0.05, tolerance=0.1, guidance=1.5
)  # fmt: skip
DRAWS = 4000


def drawn(process, plans, part, first):
    """Return `DRAWS` noisings of one row of plans, `[DRAWS, H]`."""
    many = tuple(jnp.broadcast_to(x, (DRAWS, *x.shape)) for x in (plans, part, first))
    return jax.jit(process.noised)(jax.random.key(0), *many)


def test_the_expected_loss_of_masked_plans_is_the_bound_over_all_orders():
    """By hand: the negative log-likelihood of finding the entries one by one, the mean over all orders."""
    process, length = Masked((3,)), 4
    plan, weights = jnp.array([2, 0, 1, 1], jnp.int32), np.random.default_rng(0).normal(size=(length, 4, length, 3))

    def log_p(entries):  # some function of what is seen, `[..., H, V]`
        seen = jax.nn.one_hot(entries, 4, dtype=jnp.float32)
        return jax.nn.log_softmax(jnp.einsum("...hv,hvik->...ik", seen, jnp.asarray(weights, jnp.float32)))

    orders = list(itertools.permutations(range(1, length)))
    bound = 0.0
    for order in orders:
        entries = np.array([2, 3, 3, 3])
        for i in order:
            bound -= float(log_p(jnp.asarray(entries))[i, plan[i]]) / len(orders)
            entries[i] = plan[i]
    noised = drawn(process, plan, jnp.zeros(4, jnp.int32), jnp.arange(4) == 0)
    many = jnp.broadcast_to(plan, (DRAWS, length))
    found = float(process.loss(log_p(noised.entries), noised, many)) * length
    assert found == pytest.approx(bound, rel=0.03)


def test_every_entry_that_is_not_given_is_as_likely_to_be_hidden_and_plans_in_a_row_are_apart():
    process = Masked((3,))
    part = jnp.array([0, 0, 0, 1, 1], jnp.int32)
    first = jnp.array([True, False, False, True, False])
    noised = drawn(process, jnp.zeros(5, jnp.int32), part, first)
    hidden = np.asarray(noised.entries == 3)
    # Of f entries (f + 1) / 2 are hidden on average: 0.75 of two, and the only one always.
    np.testing.assert_allclose(hidden.mean(0), [0, 0.75, 0.75, 0, 1], atol=0.03)
    assert (np.asarray(noised.weight) > 0).tolist() == hidden.tolist()
    np.testing.assert_allclose(np.asarray(noised.weight).mean(0), [0, 1, 1, 0, 1], atol=0.05)


def test_a_step_down_takes_the_forward_marginal_of_one_level_to_that_of_the_next():
    """With the entry known, from x at level 4/6 to level 3/6: mean and spread are those of noising to there at once."""
    process, truth, rows = Gaussian(1), 0.7, 20_000
    keys = jax.random.split(jax.random.key(0), rows)
    plan, free = jnp.full((rows, 1, 1), truth), jnp.ones((rows, 1, 1), jnp.bool_)
    now = process.renoised(keys, plan, free, free[..., 0], jnp.full((rows,), 4 / 6, jnp.float32))
    again = jax.vmap(jax.random.fold_in, (0, None))(keys, 1)
    after = process.denoised(again, plan, now, free, jnp.full((rows,), 4, jnp.int32), 6, 1.0, 6)
    signal, noise = _schedule(jnp.float32(0.5))
    assert float(after.mean()) == pytest.approx(float(signal) * truth, abs=0.02)
    assert float(after.std()) == pytest.approx(float(noise), rel=0.03)
    last = process.denoised(again, plan, now, free, jnp.full((rows,), 1, jnp.int32), 6, 1.0, 6)
    np.testing.assert_allclose(last, truth, atol=1e-5)


def parts_of(entries, spec):
    model = denoiser.make(SMALL, spec, entries, 8)
    return model.parts, model.init(jax.random.key(0))


GRID_PARTS = Masked((4, 4)), Spec(Discrete(5), (2,), (4, 4))
REAL_PARTS = Gaussian(2), Spec(Discrete(5), (2,), None)


def planned(entries, spec, now, goals, planning=PLANNING, old=None, warm=False, rows=3, leg=0):
    """Return plans of `rows` rows from `now` over goals, all of them new."""
    parts, params = parts_of(entries, spec)
    whole = isinstance(entries, Masked)
    here = entries.number(jnp.array([now])) if whole else jnp.array([now], jnp.float32)
    here = jnp.broadcast_to(here, (rows, *here.shape[1:]))
    make, count = goals_of(goals[-1], goals[:-1], None, entries)
    assert make is not None
    wanted = entries.known(make(first_steps(jnp.zeros((rows, 2), spec.compute_dtype), spec.action)))
    empty = jnp.zeros((rows, 8, *entries.shape), jnp.int32 if whole else jnp.float32)
    zero = jnp.zeros(rows, jnp.int32)
    old = old or Plan(empty, zero, jnp.zeros((rows, count), jnp.int32), zero)
    flags = jnp.full(rows, not warm), jnp.full(rows, warm)
    keys = jax.random.split(jax.random.key(1), rows)
    args = old, here, wanted, jnp.full(rows, leg, jnp.int32), *flags, None, keys
    plan = jax.jit(lambda params: replanned(parts, planning, 1.0, params, *args))(params)
    return plan, here, wanted


@pytest.mark.parametrize("spread", [None, 0.5], ids=["spread evenly", "as histories took"])
@pytest.mark.parametrize(("entries", "spec"), [GRID_PARTS, REAL_PARTS], ids=["masked", "gaussian"])
def test_what_a_plan_is_given_stands_in_it_unchanged(entries, spec, spread):
    planning = dataclasses.replace(PLANNING, haste=spread)
    goals = [(3, 0), (3, 3)] if isinstance(entries, Masked) else [(0.5, None), (-0.5, 0.25)]
    plan, here, (values, known) = planned(entries, spec, (0, 1), goals, planning)
    rows = np.arange(3)
    np.testing.assert_array_equal(plan.entries[:, 0], here)
    due = np.asarray(plan.due)
    assert (due[:, 0] > 0).all()
    assert (due[:, 0] < due[:, 1]).all()
    if spread is None:
        assert due.tolist() == [[3, 7]] * 3
    for number in range(2):
        held = due[:, number] < 8
        found = np.asarray(plan.entries)[rows, np.minimum(due[:, number], 7)]
        want, sure = np.asarray(values[:, number]), np.asarray(known[:, number])
        sure = sure & (held if sure.ndim == 1 else held[:, None])
        np.testing.assert_array_equal(found[sure], want[sure])
    if isinstance(entries, Masked):
        assert (np.asarray(plan.entries) < entries.size).all()  # nothing is left hidden
    else:
        assert not np.allclose(np.asarray(plan.entries)[:, 1], 0)  # and the rest is drawn


def test_a_plan_that_is_remade_without_noise_is_the_one_that_was_carried():
    plan, _, _ = planned(*GRID_PARTS, (0, 1), [(3, 3)], dataclasses.replace(PLANNING, haste=None))
    moved = plan._replace(at=plan.at + 2)
    two = int(plan.entries[0, 2])
    entries = plan.entries.at[:, 2].set(two)  # rows share where they are now
    still = dataclasses.replace(PLANNING, haste=None, warm_steps=0)
    again, _, _ = planned(*GRID_PARTS, divmod(two, 4), [(3, 3)], still, moved._replace(entries=entries), warm=True)
    np.testing.assert_array_equal(again.entries[:, :6], entries[:, 2:])
    assert (np.asarray(again.due) == 5).all()
    assert (np.asarray(again.end) == 5).all()
    np.testing.assert_array_equal(again.entries[:, 6:], np.asarray(entries)[:, [7, 7]])  # whoever is there stays
    noisy = dataclasses.replace(still, warm_steps=6)
    other, _, _ = planned(*GRID_PARTS, divmod(two, 4), [(3, 3)], noisy, moved._replace(entries=entries), warm=True)
    assert not np.array_equal(other.entries[:, 1:5], entries[:, 3:7])


ROOM = DarkRoom(size=4, steps=10)
EXPERIMENT = Experiment(
    name="goals",
    env=ROOM,
    source=NoisyOracle(noise_end=1.0),  # a random walk, to its end
    model=Transformer(layers=1, width=32, heads=2, mlp_width=64, window=10),
    tasks=TaskConfig(train=4, held_out=12),
    collect=CollectConfig(episodes=60, seeds=8),
    replay=ReplayConfig(batch=32, segment=40, groups=1),
    method=Diffuser(
        updates=400,
        updates_per_dispatch=100,
        warmup_updates=10,
        learning_rate=8e-3,
        acting=Asked(goal="task", denoising_steps=10, warm_steps=None),
    ),
    evaluate=EvaluateConfig(episodes=4, seeds=4, source_seeds=0, episodes_per_dispatch=4),
    mesh=MeshConfig(data=1),
)


@pytest.fixture(scope="module")
def learned():
    """Return a diffuser trained on random walks, and its networks."""
    made = in_memory.train(EXPERIMENT, in_memory.collect(EXPERIMENT))
    return made, build(EXPERIMENT).model


def test_learned_inverse_dynamics_are_right_for_every_pair_of_neighbors(learned):
    made, model = learned
    where, there = np.repeat(cells(4), len(MOVES), axis=0), np.tile(np.array(MOVES), (16, 1))
    after = np.clip(where + there, 0, 3)
    here, then = (model.parts.entries.number(jnp.asarray(x)) for x in (where, after))
    action = np.asarray(jnp.argmax(model.parts.inverse(made.params, here, then), -1))
    np.testing.assert_array_equal(np.clip(where + np.array(MOVES)[action], 0, 3), after)


def test_goals_that_no_history_was_rewarded_for_are_reached_within_twice_the_shortest_way(learned):
    """From histories of a random walk; the return of an episode says when its goal was reached, and that it stays."""
    made, _ = learned
    tasks = build(EXPERIMENT).split.held_out["held_out"]
    far = np.maximum(np.abs(np.asarray(tasks.goal) - 2).sum(-1), 1)
    returns = in_memory.evaluate(EXPERIMENT, made, "greedy").returns  # [N, S, E]
    in_time = ROOM.steps - 2 * far[:, None, None] + 1
    assert (returns >= in_time).mean() >= 0.9


def test_waypoints_are_passed_on_the_way(learned):
    made, model = learned
    asked = Asked(goal=(3, 3), waypoints=((0, 3), (3, 0)), denoising_steps=10, warm_steps=3, replan_every=2)
    policy = Diffuser(return_scale=1.0, acting=asked).policy(model, "greedy")
    act = jax.jit(policy.act)
    rows, at = 8, np.tile([[1, 1]], (8, 1))
    carry, seen = policy.init(rows), []
    steps = first_steps(jnp.asarray(at, jnp.int32), ROOM.action_spec)
    for t in range(40):
        action, carry = act(made.params, carry, steps, jax.random.split(jax.random.key(t), rows))
        at = np.clip(at + np.array(MOVES)[np.asarray(action)], 0, 3)
        seen.append(at @ [4, 1])
        steps = steps.replace(observation=jnp.asarray(at, jnp.int32), prev_action=action)
    for row in np.stack(seen, axis=1).tolist():
        assert row.index(3) < 39
        assert 12 in row[row.index(3) :]
        assert row[-1] == 15


def test_a_plan_is_followed_until_it_is_time_or_the_observation_leaves_it(learned):
    made, model = learned
    policy = Diffuser(return_scale=1.0, acting=Asked(replan_every=3, warm_steps=2)).policy(model)
    act, none = jax.jit(policy.act), first_steps(jnp.zeros((2, 2), jnp.int32), ROOM.action_spec)

    def after(carry, entry, done=False):
        seen = jnp.stack(jnp.divmod(jnp.asarray(entry), 4), axis=-1).astype(jnp.int32)
        steps = none.replace(observation=seen, prev_done=jnp.full((2,), done))
        return act(made.params, carry, steps, jax.random.split(jax.random.key(1), 2))[1]

    def plan(carry: Carry) -> Plan:
        return jax.tree.map(np.asarray, carry.plan)

    begun = after(policy.init(2), [5, 5])
    one = after(begun, plan(begun).entries[:, 1])
    assert plan(one).at.tolist() == [1, 1]
    np.testing.assert_array_equal(plan(one).entries, plan(begun).entries)
    expected = plan(one).entries[:, 2]
    strayed = after(one, [expected[0], (expected[1] + 7) % 16])
    assert plan(strayed).at.tolist() == [2, 0]
    np.testing.assert_array_equal(plan(strayed).entries[0], plan(begun).entries[0])
    timely = after(strayed, [plan(strayed).entries[0, 3], plan(strayed).entries[1, 1]])
    assert plan(timely).at.tolist() == [0, 1]
    assert plan(after(one, expected, done=True)).at.tolist() == [0, 0]


def test_evaluation_tells_a_policy_what_it_asks_to_be_told():
    def act(params, carry, steps, keys):
        goal = steps.extra[GOALS][:, -1].astype(jnp.int32)
        return jax.vmap(toward)(steps.observation, goal), carry

    policy = Policy(
        lambda batch: (), act, tell=lambda family, task, _: {GOALS: family.destinations(task).astype(jnp.float32)}
    )
    mesh, tasks = mesh_of(1), ROOM.split(0, 4, 12).train
    evaluator = rollout.make_evaluator(policy, ROOM, mesh, 1, ROOM.steps)
    curve = evaluate.evaluate(evaluator, {}, tasks, ROOM.task_ids(tasks), 1, 1, ROOM, mesh, 0)
    np.testing.assert_array_equal(curve.returns[:, 0, 0], ROOM.optimal_return(tasks))
    with pytest.raises(AdJaxError, match=r'Agent\.load\(path, acting=\{"goal"'):
        Agent(policy, {}, build(EXPERIMENT).seen_spec)


def test_real_observations_and_real_actions_keep_the_contract():
    assert check_method(Diffuser(acting=Asked(goal=(0.5, -0.5, None, None))), PointMass(steps=4))


SMOKE = override(load("dark_room", "smoke"), ["method=diffuser", *LITTLE])
CARTPOLE = load("gymnax_cartpole", "smoke")


@pytest.mark.parametrize(
    ("e", "changes", "told"),
    [
        (SMOKE, ["method.acting.goal=9,0"], r"acting.goal=\(9.0, 0.0\) is outside of the world, .* 0 to \[8, 8\]"),
        (SMOKE, ["method.acting.goal=1,"], r"acting.goal is an observation of DarkRoom, 2 numbers; got 1"),
        (SMOKE, ["method.acting.goal=(1,2)", "method.acting.waypoints=((0,-1),)"], r"waypoints=\(0.0, -1.0\) is outs"),
        (SMOKE, ["method.acting.waypoints=((0,1),)"], r"waypoints lie on the way to method.acting.goal"),
        (SMOKE, ["method.acting.target=21"], r"acting.target=21 is above what any policy can earn in DarkRoom: 20"),
        (SMOKE, ["method.acting.warm_steps=21"], r"warm_steps must be from 1 to denoising_steps=20"),
        (SMOKE, ["method.horizon=41"], r"a plan of 41 observations \(method.horizon\) .* replay.segment=40"),
        (SMOKE, ["model=lstm"], r"makes its denoiser of a transformer's options, and model=lstm has others"),
        (SMOKE, ["method.acting.gaol=1,2"], r"Did you mean 'method.acting.goal'"),
        (CARTPOLE, ["method=diffuser", "method.acting.goal=task"], r"does not say what is to be reached in a task"),
        (load("point_mass", "smoke"), ["method=diffuser", "method.acting.goal=2,0,None,None"], r"number 0 is from -1"),
        (load("bandit_adversarial", "smoke"), ["method=diffuser"], r"plans what is seen in an episode"),
        (load("watermaze", "smoke"), ["method=diffuser", "method.acting.goal=0,2,None,None"], r"outside of Watermaze"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_refused_before_anything_is_compiled(e, changes, told):
    with pytest.raises(ConfigError, match=told):
        build(override(e, changes))


def test_one_checkpoint_is_asked_for_other_goals_in_evaluation_and_by_an_agent(tmp_path):
    e = override(SMOKE, ["method.acting.goal=task", "method.acting.denoising_steps=4", "method.acting.warm_steps=2"])
    e = override(e, ["evaluate.episodes=1", "evaluate.seeds=1"])
    other = override(e, ["method.acting.goal=8,8", "method.acting.waypoints=((0,8),)"])
    assert directory.digest(other) == directory.digest(e)
    assert Experiment.from_json(json.loads(json.dumps(other.to_json()))) == other
    run = Run(e, tmp_path / "run")
    run.all()
    Run(other, run.folder).evaluate()
    key = json.loads((run.folder / "evaluation" / "held_out-sampled.json").read_text())["key"]
    assert key["acting"]["goal"] == [8, 8]
    with pytest.raises(AdJaxError, match="told more of its task"):
        Agent.load(run.folder)
    agent = Agent.load(run.folder, acting={"goal": (8, 0), "haste": None})
    agent.act([[4, 4]])
    entries = np.asarray(agent._carry.plan.entries)
    assert (entries[0, 0], entries[0, -1]) == (40, 72)
    with pytest.raises(ConfigError, match=r"goal=\(8.0, 9.0\) is outside of the world"):
        Agent.load(run.folder, acting={"goal": (8, 9)})


@pytest.mark.slow
def test_pictures_are_planned_by_the_familys_coordinates():
    e = override(load("watermaze", "smoke"), ["method=diffuser", *LITTLE, "method.acting.goal=task"])
    e = override(e, ["method.acting.denoising_steps=3", "method.acting.warm_steps=2", "evaluate.episodes=1"])
    made = in_memory.train(e, in_memory.collect(e))
    returns: Any = in_memory.evaluate(e, made).returns
    assert np.isfinite(returns).all()
    family: Any = build(e).family
    pose = jnp.array([2**14, 2**15, 1024], jnp.int32)
    np.testing.assert_allclose(family.coordinates(pose), [0, 1, math.cos(math.pi / 2), 1], atol=1e-6)
