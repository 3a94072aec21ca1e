"""RL²: acting is decoding, a state lives as long as its trial, plain formulas' gradients, eight devices are one."""

import copy
import dataclasses
import functools
import json
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import mesh_of
from probes import Probes

from ad_jax import envs
from ad_jax.checkpoint import checkpoint
from ad_jax.envs.base import seen_spec_of
from ad_jax.errors import ConfigError, TrainingDivergedError
from ad_jax.experiment import TaskConfig, build, load
from ad_jax.methods import played, rl2, trials
from ad_jax.models import lstm
from ad_jax.planning import cost, residents
from ad_jax.policies.base import from_model
from ad_jax.process import metrics
from ad_jax.sources.returns import gae
from ad_jax.stage import evaluate
from ad_jax.stage import train as train_lib
from ad_jax.stage.feeds import TrainingTasks
from ad_jax.stage.rollout import make_evaluator
from ad_jax.stage.trainer import Trainer
from ad_jax.types import Steps

ROOM = envs.make("dark_room", {"size": 3, "steps": 4, "start": "random"})
TASKS = ROOM.split(0, 7, 2)
MODEL = lstm.LSTM(width=8, hidden=12, mlp_width=8, value_head=True)
NETWORK, DECODER = MODEL.actor_critic(seen_spec_of(ROOM)), MODEL.make(seen_spec_of(ROOM))
WHOLE = rl2.RL2(trial_episodes=3, trials=16, updates=5, minibatches=2, updates_per_dispatch=2, checkpoint_every=5)
PARTS = dataclasses.replace(WHOLE, trial_episodes=2, unroll_episodes=1)


def trainer_of(config=PARTS, mesh=None, family=ROOM, tasks=TASKS.train, network=NETWORK):
    mesh = mesh or mesh_of()
    return Trainer(rl2.make(network, family, tasks, config, mesh), TrainingTasks(tasks, mesh), config, mesh, seed=1)


@pytest.fixture(scope="module")
def trained():
    """One trainer of trials in parts, on one device, for every test that needs no other; it compiles once."""
    trainer: Any = trainer_of()
    trainer.compiled = lambda _: trainer.run
    return trainer


def acted(params, config, family=ROOM, tasks=TASKS.train, network=NETWORK):
    """Return a whole unroll of new trials, with the trials and the values after it."""

    @jax.jit
    def go(params):
        start = trials.begin(network, family, config, jax.random.key(0), tasks)
        return trials.roll(network, family, config, params, start, tasks, jax.random.key(1))

    return go(params)


@pytest.fixture(scope="module")
def rolled():
    """Parameters, and three whole episodes of 16 trials with the trials and the values after them."""
    params = jax.jit(NETWORK.init)(jax.random.key(3))
    return params, acted(params, WHOLE)


@functools.partial(jax.jit, static_argnames="model")
def decoded(params, steps, model=DECODER):
    """Logits `[B, L, A]` of steps `[B, L]`, by the contract's `decode` from an empty context."""

    def step(cache, step):
        logits, cache = model.decode(params, cache, step)
        return cache, logits

    time_first = jax.tree.map(lambda x: x.swapaxes(0, 1), steps)
    return jax.lax.scan(step, model.init_cache(len(steps.prev_action)), time_first)[1].swapaxes(0, 1)


def test_acting_is_decoding_the_stream_of_a_whole_trial(rolled):
    """And the stream is what an evaluation feeds: previous action, reward and end, across the ends of episodes."""
    params, (unroll, after, ahead) = rolled
    steps, done = unroll.steps, np.asarray(unroll.done)
    assert done.sum() == 16 * 3
    assert np.all(np.asarray(steps.prev_action)[:, 0] == ROOM.num_actions)
    chex.assert_trees_all_equal(steps.prev_action[:, 1:], unroll.action[:, :-1])
    chex.assert_trees_all_equal(steps.prev_reward[:, 1:], unroll.reward[:, :-1])
    chex.assert_trees_all_equal(steps.prev_done[:, 1:], done[:, :-1])
    expected = trials.log_prob_of(decoded(params, steps), unroll.action)
    np.testing.assert_allclose(unroll.log_prob, expected, atol=1e-5)
    whole = jax.tree.map(lambda x, last: jnp.concatenate([x, last[:, None]], 1), steps, after.steps)
    _, values, _ = jax.jit(NETWORK.segment)(params, NETWORK.init_cache(16), whole)
    np.testing.assert_allclose(unroll.value, values[:, :-1], atol=1e-5)
    np.testing.assert_allclose(ahead, values[:, -1], atol=1e-5)


def test_rewards_are_those_of_each_trials_task(rolled):
    _, (unroll, end, _) = rolled
    goal = np.asarray(TASKS.train.goal)[np.asarray(end.task)]
    after = np.where(np.asarray(unroll.done)[:, :-1, None], -1, np.asarray(unroll.steps.observation)[:, 1:])
    reached = np.all(after == goal[:, None], axis=-1)
    inside = ~np.asarray(unroll.done)[:, :-1]
    np.testing.assert_array_equal(np.asarray(unroll.reward)[:, :-1][inside], reached[inside])
    assert len(set(np.asarray(end.task).tolist())) > 3


def test_the_state_crosses_episodes_inside_a_trial_and_is_empty_at_the_next(trained):
    """Trials of two episodes, an episode an update, half of the trials ending after each."""
    start = trained.init()
    before = jax.device_get(start.trials)
    np.testing.assert_array_equal(before.age, np.tile([0, 0, 1, 1], 4))
    assert all(not leaf.any() for leaf in jax.tree.leaves(before.cache))
    after = jax.device_get(trained.run(start, trained.feed.tasks, jnp.int32(1))[0].trials)
    np.testing.assert_array_equal(after.age, 1 - before.age)
    goes_on = after.age == 1
    for leaf in jax.tree.leaves(after.cache):
        assert leaf[goes_on].any(axis=1).all()
        assert not leaf[~goes_on].any()
    assert after.steps.prev_done[goes_on].all(), "an episode has just ended"
    assert not after.steps.prev_done[~goes_on].any()
    assert (after.steps.prev_action[~goes_on] == ROOM.num_actions).all()
    assert (after.steps.prev_action[goes_on] < ROOM.num_actions).all()
    np.testing.assert_array_equal(after.task[goes_on], before.task[goes_on])
    assert (after.task[~goes_on] != before.task[~goes_on]).any()


def test_advantages_are_the_sources_without_an_end_of_episodes():
    rng, config = np.random.default_rng(0), rl2.RL2(discount=0.9, trace_decay=0.7)
    reward, value = rng.normal(size=(2, 3, 8)).astype(np.float32)
    ahead = rng.normal(size=3).astype(np.float32)
    found = trials.advantages(jnp.asarray(reward), jnp.asarray(value), jnp.asarray(ahead), config)
    following = np.concatenate([value[:, 1:], ahead[:, None]], axis=1)
    never = np.zeros((8, 3), bool)
    np.testing.assert_allclose(found.T, gae(reward.T, value.T, following.T, never, never, 0.9, 0.7), rtol=1e-5)
    for t in range(8):  # lambda = 1: what came, and the value after it
        worth = sum(0.9 ** (k - t) * reward[:, k] for k in range(t, 8)) + 0.9 ** (8 - t) * ahead
        one = trials.advantages(reward, value, jnp.asarray(ahead), dataclasses.replace(config, trace_decay=1.0))
        np.testing.assert_allclose(one[:, t], worth - value[:, t], rtol=1e-4)


def test_the_loss_is_that_of_a_loop_in_numpy(rolled):
    params, (unroll, _, _) = rolled
    rng, config = np.random.default_rng(1), dataclasses.replace(WHOLE, clip=0.1, value_cost=0.3, random_steps=1)
    shape = unroll.reward.shape
    advantage, target, moved = rng.normal(size=(3, *shape)).astype(np.float32)
    unroll = unroll.replace(log_prob=unroll.log_prob + 0.2 * moved, free=jnp.asarray(rng.random(shape) < 0.7))
    cache = NETWORK.init_cache(16)
    loss = jax.jit(lambda *batch: trials.loss(params, NETWORK, ROOM, config, jnp.float32(0.05), *batch))
    found, entropy = loss(cache, unroll, advantage, target)
    unroll = jax.device_get(unroll)
    logits, value, _ = jax.device_get(jax.jit(NETWORK.segment)(params, cache, unroll.steps))
    total = entropies = 0.0
    for b, t in np.ndindex(shape):
        p = np.exp(logits[b, t]) / np.exp(logits[b, t]).sum()
        ratio = p[unroll.action[b, t]] / np.exp(unroll.log_prob[b, t])
        gain = min(ratio * advantage[b, t], np.clip(ratio, 0.9, 1.1) * advantage[b, t]) if unroll.free[b, t] else 0.0
        entropies += -(p * np.log(p)).sum()
        total += -gain + 0.3 * 0.5 * (target[b, t] - value[b, t]) ** 2 - 0.05 * -(p * np.log(p)).sum()
    np.testing.assert_allclose([found, entropy], [total / np.prod(shape), entropies / np.prod(shape)], rtol=1e-4)


def test_the_first_gradient_is_the_policy_gradient_through_the_whole_trial(rolled):
    """Where the policy is still the one that acted, clipping does nothing."""
    params, (unroll, _, _) = rolled
    advantage = jnp.asarray(np.random.default_rng(2).normal(size=unroll.reward.shape).astype(np.float32))
    config = dataclasses.replace(WHOLE, value_cost=0.0)

    def ours(params):
        start, zero = NETWORK.init_cache(16), jnp.float32(0)
        return trials.loss(params, NETWORK, ROOM, config, zero, start, unroll, advantage, advantage)[0]

    def plain(params):
        return -(trials.log_prob_of(decoded(params, unroll.steps), unroll.action) * advantage).mean()

    chex.assert_trees_all_close(*jax.jit(lambda x: (jax.grad(ours)(x), jax.grad(plain)(x)))(params), rtol=0, atol=1e-6)


def test_random_steps_open_each_episode_and_no_other(rolled):
    params, _ = rolled
    config = dataclasses.replace(WHOLE, random_steps=2)
    bias = params["head"]["bias"] + jnp.asarray([50.0, 0, 0, 0, 0])  # left alone, it stays
    sure = params | {"head": params["head"] | {"bias": bias}}
    unroll = jax.device_get(acted(sure, config)[0])
    free = unroll.free.reshape(-1, ROOM.episode_length)
    assert {tuple(row) for row in free.tolist()} == {(True,) * 4, (False, True, True, True), (False, False, True, True)}
    assert (unroll.action[unroll.free] == 0).all()
    share = (unroll.action[~unroll.free] == 0).mean()
    assert 0.05 < share < 0.45, "any action alike"


def test_returns_of_first_and_last_episodes_where_episodes_end_early():
    """Rows of 6 steps; the second trial did not begin here, the third is not over.

    The last two did not begin here either: the one episode that ends in the fourth did not, that of the fifth did.
    """
    reward = jnp.asarray([[1, 2, 4, 8, 16, 32]] * 5, jnp.float32)
    rows = [[0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0]]
    done = jnp.asarray(rows, bool)
    before = jnp.zeros((5, 6), bool).at[4, 0].set(True)
    seen = Steps(observation=None, prev_action=None, prev_reward=None, prev_done=before)
    happened = played.Played(seen, None, reward, done)
    began, over = jnp.asarray([True, False, True, False, False]), jnp.asarray([True, True, False, True, True])
    first, last = played.episodes(happened, began, over)
    assert float(first) == ((1 + 2) + (1 + 2 + 4)) / 2
    assert float(last) == pytest.approx(((4 + 8 + 16) + (2 + 4 + 8 + 16 + 32) + (1 + 2 + 4)) / 3)


def test_the_end_of_an_episode_in_the_middle_of_a_trial_cuts_nothing():
    """Trials of the probes, whose episodes end early: an unroll has the same number of steps, so more episodes."""
    family, config = Probes(), dataclasses.replace(WHOLE, trial_episodes=4)
    network = MODEL.actor_critic(seen_spec_of(family))
    params = jax.jit(network.init)(jax.random.key(0))
    unroll = acted(params, config, family, family.all_tasks(), network)[0]
    assert unroll.reward.shape == (16, 8)
    assert {4, 8} >= set(np.asarray(unroll.done).sum(1).tolist()) > {8}
    expected = trials.log_prob_of(decoded(params, unroll.steps, MODEL.make(seen_spec_of(family))), unroll.action)
    np.testing.assert_allclose(unroll.log_prob, expected, atol=1e-5)


def test_eight_devices_train_like_one(trained):
    one, facts = trained.run(trained.init(), trained.feed.tasks, jnp.int32(2))
    other = trainer_of(mesh=mesh_of(4, 2, 1))
    many, others = other.run(other.init(), other.feed.tasks, jnp.int32(2))
    chex.assert_trees_all_equal(one.trials.task, many.trials.task)
    chex.assert_trees_all_equal(one.trials.steps, many.trials.steps)
    chex.assert_trees_all_close(*jax.device_get((facts, others)), rtol=1e-3, atol=1e-5)
    # Adam divides by the gradient's size: where that is nearly zero, rounding is a large part of it.
    chex.assert_trees_all_close(*jax.device_get((one.params, many.params)), rtol=0, atol=3e-4)
    assert not many.trials.task.sharding.is_fully_replicated


def test_updates_are_compiled_once_and_their_count_is_dynamic(trained):
    state = trained.init()
    for count in (1, 2, 2):
        state, _ = trained.run(state, trained.feed.tasks, jnp.int32(count))
    assert trained.loop._cache_size() == 1
    assert int(state.step) == 5


def train(trainer, folder, config=PARTS):
    folder.mkdir(exist_ok=True)
    meta = {"architecture": checkpoint.architecture_of(trainer.abstract_state.params)}
    log = metrics.MetricsLog(folder, metrics.Config())
    return train_lib.train(trainer, trainer.feed, config, folder / "checkpoints", meta, log)


def final_state(trainer, folder):
    with checkpoint.Checkpoints(folder / "checkpoints") as checkpoints:
        return jax.device_get(checkpoints.restore(trainer.abstract_state))


def test_killed_after_every_update_and_resumed_ends_bit_equal(trained, tmp_path):
    train(trained, tmp_path / "whole")
    for updates in range(1, 6):  # as far as a killed process came; the learning rate's schedule is the trainer's
        config = dataclasses.replace(PARTS, updates=updates, checkpoint_every=1)
        assert train(trained, tmp_path / "parts", config).resumed_from == updates - 1
    step, state, meta = final_state(trained, tmp_path / "whole")
    again, other, others = final_state(trained, tmp_path / "parts")
    assert step == again == 5
    chex.assert_trees_all_equal(state, other)
    lines = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert meta["facts"] == others["facts"]


def test_a_diverged_run_names_the_update_and_keeps_the_last_good_checkpoint(trained, tmp_path):
    config = dataclasses.replace(PARTS, checkpoint_every=2)
    train(trained, tmp_path, dataclasses.replace(config, updates=2))
    before = final_state(trained, tmp_path)
    worse = copy.copy(trained)

    def run(state, tasks, count):
        state, facts = trained.run(state, tasks, count)
        return state, facts | {"loss": facts["loss"].at[1].set(jnp.nan)}

    worse.compiled = lambda _: run
    with pytest.raises(TrainingDivergedError, match=r"update 4: loss nan.*lower method.learning_rate"):
        train(worse, tmp_path, config)
    chex.assert_trees_all_equal(before[1], final_state(trained, tmp_path)[1])


def poisoned(trained, *updates):
    """Return a trainer whose `updates`, counted from 1, end in parameters and a loss that are NaN."""
    worse = copy.copy(trained)

    def run(state, tasks, count):
        first = int(state.step) + 1
        state, facts = trained.run(state, tasks, count)
        for at in (update - first for update in updates if first <= update < first + count):
            state = state.replace(params=jax.tree.map(lambda p: p * jnp.nan, state.params))
            facts = facts | {"loss": facts["loss"].at[at].set(jnp.nan)}
        return state, facts

    worse.compiled = lambda _: run
    return worse


def test_rl2_goes_back_and_leaves_an_update_out(trained, tmp_path, capsys):
    state, _ = trained.run(trained.init(), trained.feed.tasks, jnp.int32(2))
    state, _ = trained.run(state, trained.feed.tasks, jnp.int32(1))
    state, facts = trained.run(state.replace(step=state.step + 1), trained.feed.tasks, jnp.int32(1))
    config = dataclasses.replace(PARTS, checkpoint_every=2, skip_updates=1)
    train(poisoned(trained, 4), tmp_path, config)
    assert "update 4: loss nan" in (told := capsys.readouterr().out)
    assert "back to update 2, and on without update 4" in told
    step, found, meta = final_state(trained, tmp_path)
    assert (step, meta["skipped"]) == (5, [4])
    chex.assert_trees_all_equal(found, jax.device_get(state))
    facts.pop("cannot be")
    assert meta["facts"] == {name: float(values[0]) for name, values in facts.items()}
    lines = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [2, 3, 5]
    again = train(trained, tmp_path, dataclasses.replace(config, skip_updates=None))
    assert (again.resumed_from, again.step) == (5, 5)


@pytest.mark.parametrize("skip", [None, 0, 1])
def test_rl2_leaves_out_as_many_updates_as_it_may(trained, tmp_path, skip):
    config = dataclasses.replace(PARTS, checkpoint_every=2, skip_updates=skip)
    bad = 4 if skip else 3
    with pytest.raises(
        TrainingDivergedError, match=rf"update {bad}: loss nan.*or set method.skip_updates, to leave it out"
    ):
        train(poisoned(trained, 3, 4), tmp_path, config)


def test_the_learning_rate_and_the_entropys_weight_fall_to_the_last_update():
    rule: Any = dataclasses.replace(WHOLE, learning_rate=0.1, clip_norm=1e9).make_optimizer()
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    state, moved = rule.init(params), []
    for _ in range(WHOLE.updates * WHOLE.epochs * WHOLE.minibatches):
        changes, state = rule.update({"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, state, params)
        moved.append(-float(changes["b"][0]))
    np.testing.assert_allclose(moved, 0.1 * np.linspace(1, 0, len(moved), endpoint=False), rtol=1e-3)
    rule = dataclasses.replace(WHOLE, weight_decay=0.5).make_optimizer()
    changes, _ = rule.update(jax.tree.map(jnp.zeros_like, params), rule.init(params), params)
    assert float(changes["w"].max()) < 0 == float(changes["b"].max())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"updates": 0}, r"method.updates must be at least 1; got 0"),
        ({"checkpoint_every": 0}, r"method.checkpoint_every must be at least 1"),
        ({"unroll_episodes": 2}, r"method.unroll_episodes=2 must divide method.trial_episodes=3"),
        ({"discount": 1.1}, r"method.discount is in \[0, 1\]; got 1.1"),
        ({"random_steps": -1}, r"method.random_steps must be at least 0"),
        ({"skip_updates": -1}, r"method.skip_updates must be at least 0; got -1"),
        ({"trials": 15}, r"method.trials=15 must be a multiple of .* 2 x 1"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        trainer_of(dataclasses.replace(WHOLE, **change))


def test_what_training_takes_is_counted(rolled):
    _, (unroll, _, _) = rolled
    e = dataclasses.replace(
        load("dark_room", "smoke"), model=MODEL, method=WHOLE, env=ROOM, tasks=TaskConfig(train=7, held_out=2)
    )
    parts = build(e)
    counted = cost.count(e, parts)
    assert (counted.histories, counted.env_steps) == (0, 0)
    assert counted.trial_steps == 5 * 16 * 3 * 4
    assert counted.updates == 5
    assert counted.batch_bytes == residents.tree_bytes(unroll) + 2 * unroll.reward.nbytes
    state = trainer_of(WHOLE).abstract_state
    assert counted.state_bytes == residents.tree_bytes((state.params, state.opt_state, state.params))
    assert "RL² takes 960 environment steps in 5 updates" in counted.lines()[0]


@pytest.mark.slow
def test_it_learns_to_find_a_cell_and_to_go_there_at_once():
    """3 x 3 cells, 8 episodes of 5 steps a trial: frozen, later episodes earn more than the first and than chance."""
    family = envs.make("dark_room", {"size": 3, "steps": 5})
    table = family.all_tasks()
    model = dataclasses.replace(MODEL, width=16, hidden=32, mlp_width=32)
    network = model.actor_critic(seen_spec_of(family))
    config = rl2.RL2(
        trial_episodes=8, trials=64, updates=120, minibatches=2, learning_rate=5e-3, updates_per_dispatch=120,
        discount=0.95, reward_scale=0.2,
    )  # fmt: skip
    trainer = trainer_of(config, family=family, tasks=table, network=network)
    state, _ = trainer.run(trainer.init(), trainer.feed.tasks, jnp.int32(120))
    decoder = model.make(seen_spec_of(family))
    runner = make_evaluator(from_model(decoder), family, mesh_of(), 8, 40)
    ids, chance = family.task_ids(table), family.random_return(table).mean()
    returns = evaluate.evaluate(runner, state.params, table, ids, 8, 8, family, mesh_of(), 0).returns.mean((0, 1))
    assert returns[0] > 1.5 * chance
    assert returns[-3:].mean() > 0.8 * family.optimal_return(table).mean()
