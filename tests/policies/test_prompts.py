"""Demonstrations: they earn what was asked for, fill the context, and are not counted as in-context episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import mesh_of
from small_room import IDS, MODELS, ROOM, TASKS, scripted

from ad_jax import envs
from ad_jax.envs.base import num_tasks, take
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.errors import ConfigError
from ad_jax.experiment import build, load, override
from ad_jax.policies import demonstrator
from ad_jax.policies.base import from_model
from ad_jax.policies.demonstrator import Prompt
from ad_jax.stage import evaluate
from ad_jax.stage.episodes import after_prompt
from ad_jax.stage.rollout import make_evaluator


@pytest.mark.parametrize("share", [0.5, 0.95, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.25, 0.75))])
@pytest.mark.parametrize("name", ["dark_room", "dark_key_to_door"])
def test_a_demonstrator_earns_the_share_that_was_asked_for(name, share):
    family = envs.make(name, {"size": 5, "steps": 12})
    tasks = take(family.all_tasks(), np.arange(0, num_tasks(family.all_tasks()), 7))
    noise = demonstrator.noise_for(family, tasks, share, seed=0)
    stay = scripted(lambda steps: jnp.zeros_like(steps.prev_action))
    found = rolled(stay, Prompt(noise, 30), 30, family, tasks)
    random, optimal = family.random_return(tasks).mean(), family.optimal_return(tasks).mean()
    assert (found.returns.mean() - random) / (optimal - random) == pytest.approx(share, abs=0.03)


def test_a_policy_worse_than_chance_is_a_random_one():
    assert demonstrator.noise_for(ROOM, TASKS, 0.0, seed=0) == 1


def rolled(model, prompt, episodes, family=ROOM, tasks=TASKS, params=None, seeds=2):
    steps = episodes * family.episode_length
    runner = make_evaluator(from_model(model), family, mesh_of(), episodes, steps, prompt)
    ids = family.task_ids(tasks)
    return evaluate.evaluate(runner, params, tasks, ids, seeds, episodes, family, mesh_of(), seed=3)


def test_the_demonstrator_acts_in_the_prompt_and_the_model_after_it():
    stay = scripted(lambda steps: jnp.zeros_like(steps.prev_action))
    whole = rolled(stay, Prompt(0.0, 3), 5)
    np.testing.assert_allclose(whole.returns[..., :3], ROOM.optimal_return(TASKS)[:, None, None] * np.ones((4, 2, 3)))
    after, told = after_prompt(whole, Prompt(0.0, 3))
    np.testing.assert_array_equal(after.returns, rolled(stay, None, 2).returns)
    assert after.trace.shape[0] == 2 * ROOM.episode_length
    assert told == {"noise": 0.0, "episodes": 3, "return": pytest.approx(float(ROOM.optimal_return(TASKS).mean()))}


def test_a_path_begins_after_the_prompt_where_its_episodes_end_early():
    """The prompt takes 3 x 1 steps of the first task and 3 x 4 of the second; the model's paths begin after that."""
    room = envs.make("dark_room", {"size": 5, "steps": 6, "reward": "terminate"})
    tasks = take(room.all_tasks(), np.array([7, 0]))  # goals one and four steps away
    down = scripted(lambda steps: jnp.ones_like(steps.prev_action))
    whole = rolled(down, Prompt(0.0, 3), 5, room, tasks)
    np.testing.assert_array_equal(whole.steps[:, 0], [[1, 1, 1, 6, 6], [4, 4, 4, 6, 6]])
    after, _ = after_prompt(whole, Prompt(0.0, 3))
    np.testing.assert_array_equal(after.steps, 6)
    assert after.trace.shape[:2] == (12, 2)
    path = [[2, 2], [3, 2], [4, 2], [4, 2], [4, 2], [4, 2]]
    for task in range(2):
        np.testing.assert_array_equal(after.trace[:, task], path * 2)


def test_the_model_sees_the_demonstration():
    """A policy with a memory: it stops for good once it was rewarded. Shown the goal, it never moves by itself."""
    memory = scripted(None)

    def decode(params, cache, steps):
        return (
            1e4 * jax.nn.one_hot(jnp.where(cache, 0, 1), 5),
            cache | (steps.prev_reward > 0),
        )

    memory = memory._replace(init_cache=lambda batch: jnp.zeros((batch,), jnp.bool_), decode=decode)
    center = take(TASKS, slice(2, 3))  # the goal is where an episode starts
    assert rolled(memory, None, 2, tasks=center).returns.max() == 0
    assert rolled(memory, Prompt(0.0, 1), 2, tasks=center).returns[..., 1].min() == ROOM.episode_length


def test_without_a_prompt_the_random_numbers_are_as_they_were():
    params = MODELS["streaming"].init(jax.random.key(0))
    one, other = (rolled(MODELS["streaming"], prompt, 3, params=params) for prompt in (None, Prompt(0.5, 1)))
    assert not np.array_equal(one.returns, other.returns)
    runner = make_evaluator(from_model(MODELS["streaming"]), ROOM, mesh_of(), 3, 18)
    again = evaluate.evaluate(runner, params, TASKS, IDS, 2, 3, ROOM, mesh_of(), seed=3)
    np.testing.assert_array_equal(one.returns, again.returns)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (["evaluate.prompt=1.5"], "0 to 1"),
        (["evaluate.prompt=0.5", "evaluate.prompt_episodes=0"], "at least 1"),
    ],
)
def test_demonstrations_that_cannot_be_are_refused(changes, part):
    with pytest.raises(ConfigError, match=part):
        build(override(load("dark_room", "smoke"), changes))


def test_a_family_that_knows_no_optimal_action_has_no_demonstrator():
    with pytest.raises(ConfigError, match=r"evaluate\.prompt needs a family with optimal_action"):
        build(override(load("gymnax_cartpole", "smoke"), ["evaluate.prompt=0.5"]))


def test_trained_tasks_that_are_evaluated_are_checked_like_those_that_are_held_out(monkeypatch):
    """Where chance earns all there is to earn on them, a share of the way says nothing, and it is said at once."""
    e = override(load("dark_room", "smoke"), ["evaluate.prompt=0.5", "evaluate.trained=2"])
    build(e)
    chance = DarkRoom.random_return

    def on_two_all(family, tasks):
        return family.optimal_return(tasks) if num_tasks(tasks) == 2 else chance(family, tasks)

    monkeypatch.setattr(DarkRoom, "random_return", on_two_all)
    with pytest.raises(ConfigError, match=r"on trained of DarkRoom"):
        build(e)
