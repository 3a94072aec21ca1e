"""Key-to-Door, the permuted and the hard Dark Room, and the optimal policies of all grids, against plain Python."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import play

from ad_jax.envs.bandit import Bandit
from ad_jax.envs.base import source_view, take
from ad_jax.envs.dark_key_to_door import DarkKeyToDoor
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.envs.dark_room_hard import DarkRoomHard
from ad_jax.envs.dark_room_permuted import DarkRoomPermuted
from ad_jax.envs.grid import Start
from ad_jax.errors import ConfigError
from ad_jax.testing import check_env

STARTS: tuple[Start, ...] = ("random", "center", "corner")
KEY_TO_DOORS = [
    DarkKeyToDoor(size=3, steps=9, start=start, reward=reward)
    for start in STARTS
    for reward in ("once", "terminate", "every_step")
]
PERMUTED = [
    DarkRoomPermuted(size=3, steps=5, start="random"),
    DarkRoomPermuted(size=3, steps=5, reward="once", goals="corner"),
    DarkRoomPermuted(size=3, steps=5, start="corner", reward="terminate"),
]
CELLS = list(itertools.product(range(3), range(3)))


@pytest.mark.parametrize("family", [*KEY_TO_DOORS[::4], PERMUTED[1]], ids=repr)
def test_variants_keep_the_contract(family):
    check_env(family)


# --- Simulators in plain Python ---


def walk(row, column, move, size):
    """Return the cell that a move by its number leads to."""
    if move == 1:
        row = min(row + 1, size - 1)
    if move == 2:
        row = max(row - 1, 0)
    if move == 3:
        column = min(column + 1, size - 1)
    if move == 4:
        column = max(column - 1, 0)
    return row, column


def key_to_door_step(family, cell: tuple[int, int], stage, move, key, door):
    """One step, written out: cell, stage (0 no key, 1 key, 2 door opened), reward, terminated."""
    cell = walk(*cell, move, family.size)
    if stage == 0:
        return (cell, 1, 1.0, False) if cell == key else (cell, 0, 0.0, False)
    if cell != door:
        return cell, stage, 0.0, False
    pays = stage == 1 or family.reward == "every_step"
    return cell, 2, 1.0 if pays else 0.0, family.reward == "terminate"


def permuted_step(family, cell: tuple[int, int], found, action, goal, moves):
    """One step, written out: cell, found, reward, terminated."""
    cell = walk(*cell, moves[action], family.size)
    here = cell == goal
    pays = here and not (family.reward == "once" and found)
    return cell, found or here, 1.0 if pays else 0.0, here and family.reward == "terminate"


def leaves(task):
    """Return the leaves of one task but its time limit, as Python values."""
    return [tuple(np.asarray(leaf).tolist()) for leaf in jax.tree.leaves(task)[1:]]


def simulate(family, step, tasks):
    """Play random actions on every task, and hold every step against the plain one; returns all rewards."""
    count, steps = len(jax.tree.leaves(tasks)[0]), 6 * family.steps + 3
    actions = np.random.default_rng(0).integers(0, 5, (count, steps)).astype(np.int32)
    lifetimes = jax.vmap(lambda key, task, actions: play(family, key, task, actions))
    observed, outcome = jax.tree.map(np.asarray, lifetimes(jax.random.split(jax.random.key(0), count), tasks, actions))
    view = jax.vmap(jax.vmap(family.source_observation))
    seen = np.asarray(view(outcome.next_state, outcome.next_observation))
    starts = set()
    for n in range(count):
        task, cell, memory, time = leaves(take(tasks, n)), None, 0, 0
        for t in range(steps):
            if cell is None:
                cell, memory, time = tuple(observed[n, t].tolist()), 0, 0
                starts.add(cell)
            assert tuple(observed[n, t].tolist()) == cell
            cell, memory, reward, terminated = step(family, cell, memory, int(actions[n, t]), *task)
            time += 1
            truncated = time == family.steps and not terminated
            assert outcome.reward[n, t] == reward
            assert (outcome.terminated[n, t], outcome.truncated[n, t]) == (terminated, truncated)
            assert tuple(outcome.next_observation[n, t].tolist()) == cell  # of the old episode, also at its end
            assert seen[n, t].tolist() == [*cell, memory][: seen.shape[2]]
            if terminated or truncated:
                cell = None
    assert starts == {"random": set(CELLS), "center": {(1, 1)}, "corner": {(0, 0)}}[family.start]
    return outcome.reward


@pytest.mark.parametrize("family", KEY_TO_DOORS, ids=repr)
def test_key_to_door_equals_a_plain_simulator(family):
    assert len(family.task_ids(family.all_tasks())) == 81
    rewards = simulate(family, key_to_door_step, take(family.all_tasks(), slice(None, None, 2)))
    assert rewards.sum() > 100  # a simulator on which nothing happens proves nothing


@pytest.mark.parametrize("family", PERMUTED, ids=repr)
def test_a_permuted_room_equals_a_plain_simulator(family):
    tasks = family.all_tasks()
    assert len(tasks.goal) == (120 if family.goals == "corner" else 9 * 120)
    assert len({tuple(moves) for moves in np.asarray(tasks.moves).tolist()}) == 120
    assert simulate(family, permuted_step, take(tasks, slice(0, None, len(tasks.goal) // 40))).sum() > 20


# --- Returns by dynamic programming ---


@functools.cache
def key_to_door_values(reward, key, door):
    """Value of every start cell, of the best and of the random policy, at size 3 and 9 steps."""
    family = DarkKeyToDoor(size=3, steps=9, reward=reward)
    best = chance = dict.fromkeys(itertools.product(CELLS, range(3)), 0.0)
    for _ in range(family.steps):
        reached = {
            (cell, stage): [key_to_door_step(family, cell, stage, move, key, door) for move in range(5)]
            for cell, stage in best
        }

        def ahead(value, r):
            return r[2] + (0.0 if r[3] else value[r[0], r[1]])

        best, chance = (
            {at: max(ahead(best, r) for r in steps) for at, steps in reached.items()},
            {at: sum(ahead(chance, r) for r in steps) / 5 for at, steps in reached.items()},
        )
    return [best[cell, 0] for cell in CELLS], [chance[cell, 0] for cell in CELLS]


@pytest.mark.parametrize("family", KEY_TO_DOORS, ids=repr)
def test_key_to_door_returns_equal_dynamic_programming(family):
    tasks = family.all_tasks()
    got = np.stack([family.optimal_return(tasks), family.random_return(tasks)])
    weight = {"random": np.full(9, 1 / 9), "center": np.eye(9)[4], "corner": np.eye(9)[0]}[family.start]
    for n in range(81):
        values = key_to_door_values(family.reward, *leaves(take(tasks, n)))
        np.testing.assert_allclose(got[:, n], values @ weight, atol=1e-9, err_msg=str(n))


def test_permuting_actions_changes_no_return():
    room, permuted = DarkRoom(size=3, steps=5), DarkRoomPermuted(size=3, steps=5)
    tasks, plain = permuted.all_tasks(), room.all_tasks()
    np.testing.assert_array_equal(permuted.optimal_return(tasks), np.repeat(room.optimal_return(plain), 120))
    np.testing.assert_array_equal(permuted.random_return(tasks), np.repeat(room.random_return(plain), 120))


# --- The optimal policy ---

GRIDS = [
    *(DarkRoom(5, 6, start, reward) for start in STARTS for reward in ("every_step", "once", "terminate")),
    DarkRoomHard(),
    *PERMUTED,
    *KEY_TO_DOORS,
    DarkKeyToDoor(),
    DarkKeyToDoor(size=10, steps=40, reward="terminate"),
    DarkKeyToDoor(steps=14),  # too short for some tasks
]


def optimal_episodes(family, tasks):
    """Return the return of an episode that follows `optimal_action`, from each cell of each task: `[N, cells]`."""

    def episode(task, cell):
        _, state = family.reset_env(jax.random.key(0), task)

        def step(carry, key):
            state, over = carry
            action = family.optimal_action(state, task)
            _, state, reward, terminated, _ = family.step_env(key, state, action, task)
            return (state, over | terminated), jnp.where(over, 0.0, reward)

        start = (state.replace(position=cell), jnp.bool_(False))
        return jax.lax.scan(step, start, jax.random.split(jax.random.key(0), family.steps))[1].sum()

    cells = jnp.array(list(itertools.product(range(family.size), repeat=2)), jnp.int32)
    return np.asarray(jax.jit(jax.vmap(jax.vmap(episode, (None, 0)), (0, None)))(tasks, cells), np.float64)


@pytest.mark.parametrize("family", GRIDS, ids=repr)
def test_following_optimal_action_earns_exactly_the_optimal_return(family):
    table = family.all_tasks()
    tasks = take(table, slice(0, None, 1 + len(jax.tree.leaves(table)[0]) // 100))
    size, middle = family.size, family.size // 2
    returns = optimal_episodes(family, tasks)
    at = {"random": returns.mean(1), "center": returns[:, middle * (size + 1)], "corner": returns[:, 0]}[family.start]
    np.testing.assert_allclose(at, family.optimal_return(tasks), atol=1e-9)


def test_the_best_arm_is_the_optimal_action():
    family = Bandit(arms=4)
    tasks = family.sample_tasks(jax.random.key(0), 20)
    state = family.reset_env(jax.random.key(0), take(tasks, 0))[1]
    arms = jax.vmap(lambda task: family.optimal_action(state, task))(tasks)
    np.testing.assert_array_equal(tasks.means[jnp.arange(20), arms], family.optimal_return(tasks))


# --- Published sizes, words and pictures ---


def test_published_variants_have_the_published_sizes():
    laskin, ad_eps, ra_dt = (
        DarkKeyToDoor(),
        DarkKeyToDoor(steps=40, reward="terminate"),
        DarkKeyToDoor(10, 100, "corner", "every_step"),
    )
    assert len(laskin.all_tasks().key) == 6561
    assert len(ra_dt.all_tasks().key) == 10_000
    assert np.all(laskin.optimal_return(laskin.all_tasks()) == 2)
    assert np.all(ad_eps.optimal_return(ad_eps.all_tasks()) == 2)
    assert (laskin.episode_length, ad_eps.episode_length, ra_dt.episode_length) == (50, 40, 100)
    hard = DarkRoomHard()
    assert hard.options == {"size": 17, "steps": 20, "start": "center", "reward": "once"}
    assert len(hard.all_tasks().goal) == 289
    assert np.all(hard.optimal_return(hard.all_tasks()) == 1)
    assert len(DarkRoomPermuted().all_tasks().goal) == 81 * 120


def test_key_to_door_says_what_its_task_is():
    family = DarkKeyToDoor()
    task = take(family.all_tasks(), (1 * 9 + 2) * 81 + 3 * 9 + 4)
    assert family.task_ids(jax.tree.map(lambda x: jnp.asarray(x)[None], task)) == ["key-1-2-door-3-4"]
    assert family.describe(task) == "key at row 1, column 2; door at row 3, column 4"
    assert family.picture(task) == {"kind": "grid", "size": 9, "goal": [3, 4], "key": [1, 2]}


def test_a_permuted_room_says_what_its_task_is():
    family = DarkRoomPermuted(size=3)
    task = take(family.all_tasks(), 5 * 120 + 119)
    assert family.task_ids(jax.tree.map(lambda x: jnp.asarray(x)[None], task)) == ["goal-1-2-moves-43210"]
    assert family.describe(task) == "goal at row 1, column 2; the actions are left, right, up, down, stay"


def test_only_hidden_state_makes_a_source_privileged():
    spec, view = source_view(DarkKeyToDoor(), privileged=True)
    assert spec.values == (9, 9, 3)
    assert source_view(DarkRoomHard(), privileged=True)[0].values == (17, 17, 2)
    spec, view = source_view(DarkKeyToDoor(), privileged=False)
    assert spec.values == (9, 9)
    observation = jnp.int32(3)
    assert view("any state", observation) is observation
    with pytest.raises(ConfigError, match=r"source.privileged=True: DarkRoom\(.*hides no state"):
        source_view(DarkRoom(), privileged=True)
