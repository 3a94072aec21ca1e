"""Task families: the contract, independent simulators in plain Python, and returns against dynamic programming."""

import dataclasses
import itertools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from helpers import play
from probes import Probes

from ad_jax import envs
from ad_jax.envs.bandit import Bandit
from ad_jax.envs.base import take
from ad_jax.envs.dark_key_to_door import DarkKeyToDoor
from ad_jax.envs.dark_room import DarkRoom, Params, State
from ad_jax.envs.grid import toward
from ad_jax.errors import ConfigError
from ad_jax.testing import ContractError, check_env, check_plugin

DARK_ROOMS = [
    DarkRoom(size=5, steps=6, start=start, reward=reward)
    for start, reward in itertools.product(("center", "corner", "random"), ("every_step", "once", "terminate"))
]
BANDITS = [
    Bandit(arms=5, reward=reward, tasks=tasks)
    for reward, tasks in itertools.product(("bernoulli", "gaussian"), ("adversarial", "uniform"))
]
QUICK = [*DARK_ROOMS[::4], *BANDITS[::3], Probes()]  # each choice once; the slow suite takes each with each
SLOW = [pytest.param(family, marks=pytest.mark.slow) for family in (*DARK_ROOMS, *BANDITS) if family not in QUICK]


@pytest.mark.parametrize("name", envs.FAMILIES)
def test_registered_families_keep_the_contract(name):
    assert len(check_plugin(name)) == 22


@pytest.mark.parametrize("family", [*QUICK, *SLOW], ids=repr)
def test_variants_keep_the_contract(family):
    check_env(family)


# --- Dark Room against a simulator in plain Python ---


def dark_room_step(family, position, found, time, action, goal):
    """One step, written out: position, found, reward, terminated, truncated."""
    row, column = position
    if action == 1 and row + 1 < family.size:
        row += 1
    elif action == 2 and row > 0:
        row -= 1
    elif action == 3 and column + 1 < family.size:
        column += 1
    elif action == 4 and column > 0:
        column -= 1
    here = (row, column) == goal
    reward = 1.0 if here and not (family.reward == "once" and found) else 0.0
    terminated = here and family.reward == "terminate"
    return (row, column), found or here, reward, terminated, time + 1 == family.steps and not terminated


@pytest.mark.parametrize("family", DARK_ROOMS, ids=repr)
def test_dark_room_equals_a_plain_simulator(family):
    tasks, steps = family.all_tasks(), 4 * family.steps + 3
    actions = np.random.default_rng(0).integers(0, 5, (25, steps)).astype(np.int32)
    lifetimes = jax.vmap(lambda key, task, actions: play(family, key, task, actions))
    observed, outcome = jax.tree.map(np.asarray, lifetimes(jax.random.split(jax.random.key(0), 25), tasks, actions))
    starts = []
    for n in range(25):
        goal, position, found, time = tuple(np.asarray(tasks.goal[n]).tolist()), None, False, 0
        for t in range(steps):
            if position is None:  # where a lifetime begins is checked below, not simulated
                position, found, time = tuple(observed[n, t].tolist()), False, 0
                starts.append(position)
            assert tuple(observed[n, t].tolist()) == position
            position, found, *expected = dark_room_step(family, position, found, time, actions[n, t], goal)
            time += 1
            assert expected == [outcome.reward[n, t], outcome.terminated[n, t], outcome.truncated[n, t]]
            assert tuple(outcome.next_observation[n, t].tolist()) == position  # of the old episode, also at its end
            if expected[1] or expected[2]:
                position = None
    if family.start == "random":
        counts = np.unique([row * 5 + column for row, column in starts], return_counts=True)[1]
        assert len(counts) == 25
        assert ((counts - len(starts) / 25) ** 2).sum() / (len(starts) / 25) < 60  # chi-square, 24 degrees: p < 1e-4
    else:
        assert set(starts) == {(2, 2) if family.start == "center" else (0, 0)}


@pytest.mark.parametrize("family", DARK_ROOMS, ids=repr)
def test_dark_room_returns_equal_dynamic_programming(family):
    tasks = family.all_tasks()
    cells = list(itertools.product(range(5), range(5)))
    for n, goal in enumerate(cells):
        best = dict.fromkeys(
            itertools.product(cells, (False, True)), 0.0
        )  # value of (position, found) with no steps left
        chance = dict(best)
        for time in reversed(range(family.steps)):
            q_best, q_chance = {}, {}
            for position, found in best:
                reached = [dark_room_step(family, position, found, time, action, goal) for action in range(5)]
                ahead = [[r[2] + (0.0 if r[3] else v[r[0], r[1]]) for r in reached] for v in (best, chance)]
                q_best[position, found], q_chance[position, found] = max(ahead[0]), sum(ahead[1]) / 5
            best, chance = q_best, q_chance
        starts = {"center": [(2, 2)], "corner": [(0, 0)], "random": cells}[family.start]
        row = take(tasks, np.array([n]))
        for got, value in ((family.optimal_return(row), best), (family.random_return(row), chance)):
            np.testing.assert_allclose(got, [np.mean([value[start, False] for start in starts])], atol=1e-9)


# --- Bandits ---


@pytest.mark.parametrize("family", BANDITS, ids=repr)
def test_bandit_pulls_equal_numpy_on_the_same_draws(family):
    tasks, keys = family.sample_tasks(jax.random.key(0), 64), jax.random.split(jax.random.key(1), 64)
    actions = np.random.default_rng(0).integers(0, 5, 64).astype(np.int32)
    state = family.reset_env(keys[0], take(tasks, 0))[1]
    pull = jax.vmap(lambda key, action, task: family.step_env(key, state, action, task))
    observation, after, reward, terminated, _ = pull(keys, actions, tasks)
    mean = np.asarray(tasks.means)[np.arange(64), actions]
    if family.reward == "bernoulli":
        expected = (np.asarray(jax.vmap(jax.random.uniform)(keys)) < mean).astype(np.float32)
    else:
        expected = mean + 0.3 * np.asarray(jax.vmap(jax.random.normal)(keys))
    np.testing.assert_allclose(reward, expected, rtol=1e-6)
    assert not np.any(observation)
    assert not np.any(terminated)
    assert np.all(after.time == 1)


@pytest.mark.parametrize("family", BANDITS, ids=repr)
def test_every_pull_is_a_truncated_episode_with_the_stated_distribution(family):
    task = take(family.sample_tasks(jax.random.key(0), 1), 0)
    arm = int(np.argsort(task.means)[2])  # of middling mean, so that a Bernoulli reward varies
    _, outcome = play(family, jax.random.key(1), task, jnp.full(20_000, arm, jnp.int32))
    assert np.all(outcome.truncated)
    assert not np.any(outcome.terminated)
    mean = float(task.means[arm])
    spread = np.sqrt(mean * (1 - mean)) if family.reward == "bernoulli" else 0.3
    assert abs(float(outcome.reward.mean()) - mean) < 5 * spread / np.sqrt(20_000)
    assert abs(float(outcome.reward.std()) - spread) < 0.02


@pytest.mark.parametrize("arms", [2, 5, 10])
def test_the_good_arm_is_on_the_stated_side(arms):
    sets = Bandit(arms=arms).split(seed=3, train=4000, held_out=4000)
    assert list(sets.held_out) == ["odd", "even", "uniform"]
    expected = {"train": 0.95, "odd": 0.95, "even": 0.05, "uniform": (arms // 2) / arms}
    for name, tasks in {"train": sets.train, **sets.held_out}.items():
        means = np.asarray(tasks.means)
        good = means.argmax(axis=1)
        assert abs(np.mean(good % 2) - expected[name]) < 5 * 0.5 / np.sqrt(4000), name
        counts = np.bincount(good, minlength=arms)
        for side in (counts[::2], counts[1::2]):  # each arm of a side equally often
            assert np.all(np.abs(side - side.mean()) < 5 * np.sqrt(side.mean()) + 1), name
        assert abs(means.mean() - 0.5) < 0.02
        assert (
            abs(means.max(axis=1).mean() - arms / (arms + 1)) < 0.02
        )  # of `arms` uniform numbers, also after the swap


def test_a_uniform_bandit_has_one_evaluation_set():
    assert list(Bandit(tasks="uniform").split(0, 2, 2).held_out) == ["uniform"]


def test_bandit_says_what_its_task_is():
    family = Bandit(arms=3)
    tasks = dataclasses.replace(family.sample_tasks(jax.random.key(0), 1), means=jnp.array([[0.25, 0.75, 0.5]]))
    assert family.describe(take(tasks, 0)) == "arm 1 of 3 is best, with mean 0.75"
    assert family.picture(take(tasks, 0)) == {"kind": "arms", "means": [0.25, 0.75, 0.5]}
    assert family.optimal_return(tasks) == [0.75]
    assert family.random_return(tasks) == [0.5]


@pytest.mark.parametrize("options", [{"arms": 1}, {"odds": 1.5}, {"noise": -1.0}, {"reward": "bernouli"}])
def test_bad_bandit_options_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        envs.make("bandit", options)


# --- Families that break the contract, each caught by the check that is about it ---


@dataclasses.dataclass(frozen=True)
class CopiesTheGoal(DarkRoom):
    """Stores the goal in the state too."""

    def reset_env(self, key, params):
        observation, state = super().reset_env(key, params)
        return observation, WithGoal(state.time, state.position, state.found, params.goal)

    def step_env(self, key, state: Any, action, params) -> Any:
        observation, after, *rest = super().step_env(key, state, action, params)
        return observation, WithGoal(after.time, after.position, after.found, state.goal), *rest


WithGoal = dataclasses.make_dataclass("WithGoal", [("goal", jax.Array)], bases=(State,), frozen=True)
jax.tree_util.register_dataclass(WithGoal, ["time", "position", "found", "goal"], [])


@dataclasses.dataclass(frozen=True)
class StatesAnotherLength(DarkRoom):
    """Its tasks keep the old time limit."""

    @property
    def episode_length(self):
        return self.steps + 1


@dataclasses.dataclass(frozen=True)
class CountsTwice(DarkRoom):
    """Episodes are half as long as stated."""

    def step_env(self, key, state, action, params) -> Any:
        observation, state, *rest = super().step_env(key, state, action, params)
        return observation, dataclasses.replace(state, time=state.time + 1), *rest


@dataclasses.dataclass(frozen=True)
class DrawsItsGoal(DarkRoom):
    """A new goal at each reset, whatever the task."""

    def reset_env(self, key, params):
        observation, state = super().reset_env(key, params)
        return observation, WithGoal(
            state.time, state.position, state.found, jax.random.randint(key, (2,), 0, self.size)
        )

    def step_env(self, key, state: Any, action, params) -> Any:
        observation, after, *rest = super().step_env(key, state, action, dataclasses.replace(params, goal=state.goal))
        return observation, WithGoal(after.time, after.position, after.found, state.goal), *rest


@dataclasses.dataclass(frozen=True)
class UnderstatesItsSpace(DarkRoom):
    """The last row and column are outside the stated space."""

    def observation_space(self, params):
        return spaces.Box(0, self.size - 2, (2,), jnp.int32)


@dataclasses.dataclass(frozen=True)
class NamesRowsOnly(DarkRoom):
    """Goals of one row share a task id."""

    def task_ids(self, tasks: Params):
        return [f"row {row}" for row in np.asarray(tasks.goal)[:, 0]]


@dataclasses.dataclass(frozen=True)
class RoundsRewards(Bandit):
    """Gaussian rewards, stored as bytes."""

    reward: Literal["gaussian"] = "gaussian"

    @property
    def reward_dtype(self):
        return np.dtype(np.uint8)


@dataclasses.dataclass(frozen=True)
class ReusesTasks(DarkRoom):
    """Trains on what it is tested on."""

    def split(self, seed, train, held_out):
        split = super().split(seed, train, held_out)
        return dataclasses.replace(split, held_out={"held_out": split.train})


@dataclasses.dataclass(frozen=True)
class BoastsOfChance(DarkRoom):
    """Overstates the random return by a third."""

    def random_return(self, tasks):
        return 4 / 3 * super().random_return(tasks)


@dataclasses.dataclass(frozen=True)
class GoesTheWrongWay(DarkRoom):
    """Its optimal policy avoids the goals to the right."""

    def optimal_action(self, state, task):
        action = super().optimal_action(state, task)
        return jnp.where(action == 3, 4, action)


@dataclasses.dataclass(frozen=True)
class AvoidsAGoalOfUnknownWorth(DarkRoom):
    """Its optimal policy goes the other way, and what it would earn is not stated."""

    def optimal_return(self, tasks) -> Any:
        return None

    def optimal_action(self, state, task):
        return jnp.array([0, 2, 1, 4, 3], jnp.int32)[super().optimal_action(state, task)]


@dataclasses.dataclass(frozen=True)
class LabelsAnotherGoal(DarkRoom):
    """Its labels lead past the goal's row."""

    def optimal_action(self, state, task):
        return super().optimal_label(state.position, task)

    def optimal_label(self, observation, task):
        return super().optimal_label(observation, dataclasses.replace(task, goal=task.goal + jnp.array([1, 0])))


@dataclasses.dataclass(frozen=True)
class LabelsWhatItHides(DarkKeyToDoor):
    """Labels as if the key had been taken, which its observations do not say."""

    def optimal_label(self, observation, task):
        return toward(observation, task.door)


@dataclasses.dataclass(frozen=True)
class HidesMoreThanItSays(DarkRoom):
    """What it gives a privileged source is outside of the space stated for that."""

    reward: Literal["once"] = "once"

    def source_observation(self, state, observation):
        return jnp.append(observation, 2 * state.found.astype(jnp.int32))


@dataclasses.dataclass(frozen=True)
class SaysItHidesNothing(DarkRoom):
    """Gives a privileged source something, and states no space for it."""

    reward: Literal["once"] = "once"

    def source_observation_space(self, params):
        return None


@dataclasses.dataclass(frozen=True)
class PaintsAnew(DarkRoom):
    """Another picture each time that one is asked for."""

    def render(self, observation):
        return jnp.full((2, 2, 3), next(PAINT) % 256, jnp.uint8)


PAINT = itertools.count()


@dataclasses.dataclass(frozen=True)
class PaintsInFloats(DarkRoom):
    """Its pictures are not bytes."""

    def render(self, observation):
        return jnp.ones((2, 2, 3))


class IsNotFrozen(DarkRoom):
    """Not a frozen dataclass of its own options."""


BROKEN = {
    CopiesTheGoal: "the task is stored once, in its params",
    StatesAnotherLength: "tasks are batched params with the family's episode length",
    CountsTwice: "episodes end at episode_length, or before it by termination",
    DrawsItsGoal: "the task decides what happens",
    UnderstatesItsSpace: "observations are in the observation space",
    NamesRowsOnly: "task ids are unique and equal exactly when the tasks are",
    RoundsRewards: "reward_dtype holds every reward exactly",
    ReusesTasks: "splits are disjoint and fixed by the seed",
    BoastsOfChance: "stated returns agree with simulated ones",
    GoesTheWrongWay: "optimal_action earns optimal_return",
    AvoidsAGoalOfUnknownWorth: "optimal_action earns optimal_return",
    LabelsAnotherGoal: "optimal_label is optimal_action",
    LabelsWhatItHides: "optimal_label is optimal_action",
    HidesMoreThanItSays: "source observations are in their own space",
    SaysItHidesNothing: "source observations are in their own space",
    PaintsAnew: "render shows the same, bit for bit, alone and in a batch",
    PaintsInFloats: "render shows the same, bit for bit, alone and in a batch",
    IsNotFrozen: "it is a frozen dataclass that its options rebuild",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda c: c.__name__)
def test_check_env_names_what_is_broken(broken):
    with pytest.raises(ContractError) as caught:
        check_env(broken())
    assert caught.value.check == BROKEN[broken]


def test_check_plugin_wants_a_plugin():
    with pytest.raises(ConfigError, match="Did you mean 'dark_room'"):
        check_plugin("dark_rom")
    with pytest.raises(ConfigError, match="must be a frozen dataclass that is a TaskFamily"):
        check_plugin("ad_jax.envs.grid:MOVES")
