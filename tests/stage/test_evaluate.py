"""Evaluating: exact returns of scripted policies, cached = uncached, eight devices = one, tasks proved unseen."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import mesh_of, unused
from small_room import IDS, MODELS, ROOM, SPEC, TASKS, scripted

from ad_jax import envs
from ad_jax.agent import Agent
from ad_jax.envs.base import advance, take
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.envs.grid import MOVES
from ad_jax.errors import AdJaxError, ConfigError
from ad_jax.keys import named_key, number_of
from ad_jax.models.base import Model, first_steps, follow
from ad_jax.policies.base import Mode, choose, from_model
from ad_jax.stage import episodes, evaluate
from ad_jax.stage.rollout import make_evaluator


def curve(
    model, params=None, family=ROOM, tasks=TASKS, mode: Mode = "sampled", seeds=3, episodes=4, per_run=None, mesh=None
):
    mesh, policy = mesh or mesh_of(), from_model(model, mode)
    runner = make_evaluator(policy, family, mesh, episodes, per_run or episodes * family.episode_length)
    return evaluate.evaluate(runner, params, tasks, family.task_ids(tasks), seeds, episodes, family, mesh, seed=5)


@pytest.mark.parametrize("mode", ["sampled", "greedy"])
def test_scripted_policies_get_their_exact_returns(mode):
    stay = curve(scripted(lambda steps: jnp.zeros_like(steps.prev_action)), mode=mode)
    np.testing.assert_array_equal(stay.returns, np.array([0, 0, 6, 0])[:, None, None] * np.ones((4, 3, 4)))
    up_left = curve(scripted(lambda steps: jnp.where(steps.observation[:, 0] > 0, 2, 4)), mode=mode)
    # From (2, 2): two up, two left to goal (0, 0): rewards on steps 4, 5, 6. Goal (1, 2) is passed, (2, 2) left.
    np.testing.assert_array_equal(up_left.returns[:, 0, 0], [3, 1, 0, 0])
    optimal = curve(scripted(lambda steps: jnp.where(steps.observation[:, 0] > 0, 2, 4)), tasks=take(TASKS, slice(1)))
    np.testing.assert_array_equal(optimal.returns, ROOM.optimal_return(take(TASKS, slice(1)))[0])


def test_the_policy_sees_the_last_action_reward_and_episode_end():
    """A policy that stops for good once it was rewarded keeps every later reward, and resets cut it at the boundary."""

    def policy(steps):
        walk = jnp.where(steps.observation[:, 0] > 0, 2, 4)
        return jnp.where((steps.prev_reward > 0) & ~steps.prev_done, 0, walk)

    result = curve(scripted(policy), tasks=take(TASKS, slice(1, 2)))  # goal (1, 2), one step up of the center
    np.testing.assert_array_equal(result.returns, 6)


@pytest.mark.parametrize("reward", ["once", "terminate"])
def test_episodes_of_any_length_are_counted_apart(reward):
    """The goal of the first task is one step away, that of the second is not passed."""
    family = envs.make("dark_room", {"size": 5, "steps": 6, "reward": reward})
    tasks = take(family.all_tasks(), np.array([7, 24]))
    walk = scripted(lambda steps: jnp.where(steps.observation[:, 0] > 0, 2, 4))
    result = curve(walk, family=family, tasks=tasks, episodes=4)
    np.testing.assert_array_equal(result.returns, np.array([1.0, 0.0])[:, None, None] * np.ones((2, 3, 4)))
    lengths = np.array([1 if reward == "terminate" else 6, 6])
    np.testing.assert_array_equal(result.steps, lengths[:, None, None] * np.ones((2, 3, 4)))
    assert result.env_steps == 2 * 3 * 4 * 6


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "paper" else n for n in MODELS])
def test_cached_rollout_equals_uncached_action_for_action(name):
    model = MODELS[name]
    params = jax.jit(model.init)(jax.random.key(0))
    episodes, mode = 6, "sampled"  # 36 steps, 5 windows of the streaming model
    task, rollout = 1, 0  # the rollout whose positions are traced
    cached = curve(model, params, episodes=episodes, mode=mode)
    total = episodes * ROOM.episode_length
    positions, rewards = uncached_rollout(model, params, take(TASKS, task), IDS[task], rollout, total, mode)
    np.testing.assert_array_equal(cached.trace[:, task], positions)
    np.testing.assert_array_equal(cached.returns[task, rollout], rewards.reshape(episodes, -1).sum(1))
    assert len(np.unique(positions, axis=0)) > 5, "the rollout went places"


def uncached_rollout(model, params, task, task_id, rollout, total, mode):
    """One rollout as a Python loop that recomputes the whole context at each step."""
    key = jax.random.fold_in(jax.random.fold_in(named_key(5, "evaluate"), number_of(task_id)), rollout)
    observation, state = ROOM.reset_env(jax.random.fold_in(key, 2**31), task)
    stream = first_steps(observation[None], SPEC.action)
    longest = 1 + max(total - 1 - model.context_start(np.arange(total) % 6 == 0), model.window)
    apply = jax.jit(model.apply)
    pad = min(longest, model.max_segment or longest)
    rewards = []
    for t in range(total):
        first = model.context_start(np.asarray(stream.prev_done))
        context = jax.tree.map(lambda x: np.asarray(x)[first:], stream)  # noqa: B023

        def fill(x):
            return np.concatenate([x, np.zeros((pad - len(x), *x.shape[1:]), x.dtype)])[None]

        logits = apply(params, jax.tree.map(fill, context))[:, t - first]
        key_action, key_env = jax.random.split(jax.random.fold_in(key, t))
        action = choose(logits, key_action[None], mode)[0]
        observation, state, outcome = advance(ROOM, key_env, state, action, task)
        rewards.append(float(outcome.reward))
        new = follow(*jax.tree.map(lambda x: x[None], (observation, action, outcome)))
        stream = jax.tree.map(lambda x, y: np.concatenate([x, y]), stream, new)
    return stream.observation[:-1], np.array(rewards)


def test_results_do_not_depend_on_devices_batch_or_dispatches():
    model = MODELS["streaming"]
    params = jax.jit(model.init)(jax.random.key(0))
    whole = curve(model, params)
    np.testing.assert_array_equal(whole.returns, curve(model, params, per_run=6).returns)
    np.testing.assert_array_equal(
        whole.returns, curve(model, params, mesh=mesh_of(8)).returns
    )  # 12 rollouts, padded to 16
    np.testing.assert_array_equal(whole.returns, curve(model, params, mesh=mesh_of(2, 2, 2)).returns)
    np.testing.assert_array_equal(
        whole.returns[1:2, :2], curve(model, params, tasks=take(TASKS, slice(1, 2)), seeds=2).returns
    )


def test_temperature_is_that_of_the_softmax():
    logits, keys = jnp.tile(jnp.array([[1.0, 0.0, -0.5]]), (20_000, 1)), jax.random.split(jax.random.key(3), 20_000)
    for temperature in (0.5, 1.0, 2.0):
        actions = choose(logits, keys, "sampled", temperature)
        found = np.bincount(np.asarray(actions), minlength=3) / len(actions)
        np.testing.assert_allclose(found, jax.nn.softmax(logits[0] / temperature), atol=0.015)
    np.testing.assert_array_equal(choose(logits, keys, "greedy", 2.0), choose(logits, keys, "sampled", 0.01))


def test_an_evaluator_and_an_agent_sample_at_their_temperature():
    """So cold that they are greedy."""
    model = MODELS["streaming"]
    params = jax.jit(model.init)(jax.random.key(0))
    cold = make_evaluator(from_model(model, temperature=1e-4), ROOM, mesh_of(), 2, 12)
    found = evaluate.evaluate(cold, params, TASKS, IDS, 3, 2, ROOM, mesh_of(), seed=5)
    np.testing.assert_array_equal(found.trace, curve(model, params, mode="greedy", episodes=2).trace)
    assert not np.array_equal(found.trace, curve(model, params, episodes=2).trace)
    agents = [
        Agent(policy, params, SPEC) for policy in (from_model(model, "sampled", 1e-4), from_model(model, "greedy"))
    ]
    for agent in agents:
        agent.reset(batch=64)
    one, other = (agent.act(np.full((64, 2), 2)) for agent in agents)
    np.testing.assert_array_equal(one, other)
    with pytest.raises(ConfigError, match=r"evaluate\.temperature must be above 0; got 0"):
        evaluate.Config(temperature=0.0).validate()
    with pytest.raises(AdJaxError, match=r"temperature must be above 0; got -1"):
        from_model(model, temperature=-1)


def test_rollouts_are_compiled_once():
    model, mesh = MODELS["streaming"], mesh_of()
    params = jax.jit(model.init)(jax.random.key(0))
    runner: Any = make_evaluator(from_model(model), ROOM, mesh, 4, 6)
    for seed in (1, 2):
        evaluate.evaluate(runner, params, TASKS, IDS, 2, 4, ROOM, mesh, seed)
    assert runner.run._cache_size() == 1
    assert runner.start._cache_size() == 1


def test_traces_show_where_the_first_rollout_was():
    result = curve(scripted(lambda steps: jnp.full_like(steps.prev_action, 1)), episodes=2)  # down, into the wall
    down = [[2, 2], [3, 2], [4, 2], [4, 2], [4, 2], [4, 2]]
    np.testing.assert_array_equal(result.trace[:, 0], down * 2)
    data = episodes.tasks_as_data(ROOM, TASKS)
    paths = episodes.paths_as_data(result, data, "sampled")
    assert data[paths["task"]]["optimal"] == min(task["optimal"] for task in data)
    assert [e["episode"] for e in paths["episodes"]] == [1, 2]
    assert paths["episodes"][0]["points"] == down


@dataclasses.dataclass(frozen=True)
class OneShort(DarkRoom):
    """Every episode ends a step before its time limit: 19 of 20 in all, which no count of episodes tells soon."""

    def step_env(self, key, state, action, params) -> Any:
        observation, state, reward, _, info = super().step_env(key, state, action, params)
        return observation, state, reward, state.time >= self.episode_length - 1, info


def counting():
    """Return a "model" that walks down in its first episode, up in its second, and so on through the four moves."""

    def decode(params, cache, steps):
        cache = cache + steps.prev_done.astype(jnp.int32)
        return 1e4 * jax.nn.one_hot(1 + cache % 4, SPEC.num_actions), cache

    return Model(unused, unused, lambda batch: jnp.zeros((batch,), jnp.int32), decode, unused, 1, None)


def test_paths_are_those_of_their_episodes_where_all_end_a_step_early():
    family = OneShort(size=41, steps=20)
    tasks = take(family.all_tasks(), np.array([0]))
    result = curve(counting(), family=family, tasks=tasks, episodes=10, seeds=1)
    np.testing.assert_array_equal(result.steps, 19)
    assert result.env_steps == 10 * 20, "in one dispatch, which is not cut"
    paths = episodes.paths_as_data(result, episodes.tasks_as_data(family, tasks), "sampled")
    assert [e["episode"] for e in paths["episodes"]] == [1, 2, 3, 5, 10]
    for episode in paths["episodes"]:
        move = MOVES[1 + (episode["episode"] - 1) % 4]
        np.testing.assert_array_equal(episode["points"], 20 + np.arange(19)[:, None] * move)


def test_rollouts_stop_when_all_have_had_their_episodes():
    """And nothing that is kept depends on that."""
    family = envs.make("dark_room", {"size": 5, "steps": 6, "reward": "terminate"})
    above = take(family.all_tasks(), np.array([7, 2]))  # goals one step and two steps up from the center
    up = scripted(lambda steps: jnp.where(steps.prev_done, 0, 2))  # which dawdles after the first episode
    whole, cut = (curve(up, family=family, tasks=above, per_run=per_run) for per_run in (None, 1))
    np.testing.assert_array_equal(cut.steps[:, 0], [[1, 2, 2, 2], [2, 3, 3, 3]])
    np.testing.assert_array_equal(cut.steps, whole.steps)
    np.testing.assert_array_equal(cut.returns, whole.returns)
    assert (cut.env_steps, whole.env_steps) == (2 * 3 * 11, 2 * 3 * 24), "as long as the slowest took"
    np.testing.assert_array_equal(cut.trace, whole.trace[:11])


def test_longer_episodes_than_were_stated_are_an_error():
    @dataclasses.dataclass(frozen=True)
    class Endless(DarkRoom):
        def is_truncated(self, state, params):
            return jnp.bool_(False)

    with pytest.raises(AdJaxError, match=r"has finished 0 of 4 episodes: .* more than episode_length = 6 steps"):
        curve(scripted(lambda steps: jnp.zeros_like(steps.prev_action)), family=Endless(size=5, steps=6))


def test_trained_or_missing_tasks_are_refused():
    evaluate.check_unseen(["a"], ["b"])
    with pytest.raises(AdJaxError, match=r"1 of 2 held-out tasks were trained on \(b"):
        evaluate.check_unseen(["a", "b"], ["b", "c"])
    with pytest.raises(AdJaxError, match="held-out set is empty"):
        evaluate.check_unseen([], ["b"])


@pytest.mark.parametrize("name", MODELS)
def test_an_agent_acts_like_the_evaluator(name):
    """Greedy: the same episodes from Python, step by step, batched over tasks."""
    model = MODELS[name]
    params = jax.tree.map(lambda x: 2 * x, jax.jit(model.init)(jax.random.key(0)))
    agent = Agent(from_model(model, "greedy"), params, SPEC)
    expected = curve(model, params, mode="greedy", seeds=1, episodes=5).returns[:, 0]
    agent.reset(batch=4)
    keys = jax.random.split(jax.random.key(0), 4)
    step = jax.jit(jax.vmap(functools.partial(advance, ROOM)))
    observation, state = jax.vmap(ROOM.reset_env)(keys, TASKS)
    reward = done = None
    rewards = []
    for _ in range(5 * ROOM.episode_length):
        action = agent.act(observation, reward, done)
        observation, state, outcome = step(keys, state, jnp.asarray(action), TASKS)
        reward, done = outcome.reward, outcome.done
        rewards.append(np.asarray(reward))
    np.testing.assert_array_equal(np.stack(rewards, 1).reshape(4, 5, -1).sum(2), expected)


def test_an_agent_says_what_is_missing():
    model = MODELS["streaming"]
    agent = Agent(from_model(model), jax.jit(model.init)(jax.random.key(0)), SPEC)
    with pytest.raises(AdJaxError, match=r"expects observations of shape \(1, 2\)"):
        agent.act([1, 1])
    agent.act([[1, 1]])
    with pytest.raises(AdJaxError, match="needs reward and done"):
        agent.act([[1, 1]])
    agent.reset(batch=2, seed=3)
    first = [agent.act([[1, 1]] * 2), agent.act([[1, 2]] * 2, [0.0, 1.0], [False, True])]
    agent.reset(batch=2, seed=3)
    again = [agent.act([[1, 1]] * 2), agent.act([[1, 2]] * 2, [0.0, 1.0], [False, True])]
    np.testing.assert_array_equal(first, again)


def test_config_numbers_are_checked():
    with pytest.raises(AdJaxError, match=r"evaluate.seeds must be at least 1"):
        dataclasses.replace(evaluate.Config(), seeds=0).validate()


def test_a_step_copies_no_ring():
    """In the compiled rollout the ring is updated where it lies: a copy of it would cost more than the step."""
    model, batch = MODELS["streaming"], 3
    runner: Any = make_evaluator(from_model(model), ROOM, mesh_of(1), 2, 5)
    params = jax.jit(model.init)(jax.random.key(0))
    keys, tasks = jax.random.split(jax.random.key(0), batch), take(TASKS, slice(batch))
    rollouts = runner.start(keys, tasks)
    ring = rollouts.carry.cache.keys[0]
    program = runner.run.lower(params, rollouts, keys, tasks).compile().as_text()
    shape = ",".join(map(str, ring.shape))
    assert f"f32[{shape}]" in program
    assert not re.search(rf"= f32\[{shape}\]\S* copy\(", program)
