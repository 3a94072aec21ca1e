"""The noisy oracle by its options, and sources that are given hidden state."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probes

from ad_jax import sources
from ad_jax.envs.bandit import Bandit
from ad_jax.envs.base import take
from ad_jax.envs.dark_key_to_door import DarkKeyToDoor
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.errors import ConfigError
from ad_jax.sources import noisy_oracle, q_learning
from ad_jax.testing import check_source


@functools.partial(jax.jit, static_argnums=(0, 2, 4))
def learn(name, config, family, task, updates, key):
    """Return the final state and all transitions `[updates, steps, actors, ...]` of one learner."""
    source = config.make(family)
    key_init, key_updates = jax.random.split(key)

    def update(state, key):
        return source.update(key, state, task)

    return jax.lax.scan(update, source.init(key_init, task), jax.random.split(key_updates, updates))


def demonstrate(family, tasks, updates, **options):
    """Transitions `[N, updates, steps, ...]` of a demonstrator on each task."""
    config = noisy_oracle.NoisyOracle(**options)
    keys = jax.random.split(jax.random.key(0), len(jax.tree.leaves(tasks)[0]))

    def act(task, key):
        return learn("noisy_oracle", config, family, task, updates, key)[1]

    return jax.tree.map(lambda x: np.asarray(x)[:, :, :, 0], jax.vmap(act)(tasks, keys))


def optimal_moves(family, stream, tasks):
    """Return what a rows-first shortest way does at each observation: `[N, updates, steps]`."""
    row, column = np.moveaxis(np.asarray(tasks.goal)[:, None, None] - stream.observation, -1, 0)
    return np.select([row > 0, row < 0, column > 0, column < 0], [1, 2, 3, 4], 0)


# --- Noise ---


@pytest.mark.parametrize("family", [DarkRoom(5, 8, "random"), DarkKeyToDoor(4, 12, "center")], ids=repr)
def test_without_noise_it_earns_the_optimal_return_and_with_noise_1_the_random_one(family):
    tasks = take(family.all_tasks(), slice(None, None, 3))
    noises = {0.0: family.optimal_return(tasks), 1.0: family.random_return(tasks)}
    for noise, expected in noises.items():
        stream = demonstrate(family, tasks, 400, noise_start=noise, noise_end=noise)
        returns = stream.reward.sum(-1)
        error = np.sqrt(returns.var(axis=1) / 400) + 1e-9
        assert np.all(np.abs(returns.mean(1) - expected) < 5 * error + 0.02), noise


def test_noise_falls_linearly_step_by_step_and_then_stays():
    family = DarkRoom(size=5, steps=10)
    tasks = take(family.all_tasks(), jnp.arange(500) % 25)
    stream = demonstrate(family, tasks, 12, noise_start=0.9, noise_end=0.2, noise_episodes=8.0)
    wrong = (stream.action != optimal_moves(family, stream, tasks)).reshape(500, 120).mean(0)
    noise = 0.9 + np.minimum(np.arange(120) / 80, 1) * (0.2 - 0.9)
    assert np.all(np.abs(wrong - noise * 4 / 5) < 5 * 0.5 / np.sqrt(500))
    assert abs(np.mean(wrong - noise * 4 / 5)) < 5 * 0.5 / np.sqrt(500 * 120)
    assert abs(wrong[:5].mean() - 0.9 * 4 / 5) < 0.05 < wrong[:5].mean() - wrong[-5:].mean()


def test_noise_is_uniform_over_the_actions():
    family = DarkRoom(size=3, steps=50)
    stream = demonstrate(family, take(family.all_tasks(), slice(1)), 100, noise_end=1.0)
    assert np.all(np.abs(np.bincount(stream.action.ravel(), minlength=5) - 1000) < 5 * np.sqrt(800))


def test_decisions_last_as_long_as_persistence_says_and_are_as_often_noise():
    family = DarkRoom(size=5, steps=40)
    tasks = take(family.all_tasks(), jnp.arange(100) % 25)
    noise = demonstrate(family, tasks, 20, noise_end=1.0, persistence=4.0).action
    same = noise[..., 1:] == noise[..., :-1]
    assert abs(same.mean() - (3 / 4 + 1 / 4 * 1 / 5)) < 5 * 0.4 / np.sqrt(100 * 20)  # steps of an episode hang together
    assert abs((noise[:, 1:, 0] == noise[:, :-1, -1]).mean() - 1 / 5) < 5 * 0.4 / np.sqrt(100 * 19)  # episodes do not
    half = demonstrate(family, tasks, 20, noise_start=0.5, noise_end=0.5, persistence=4.0)
    wrong = half.action != optimal_moves(family, half, tasks)
    # A little above half of 4/5: while an action lasts, the optimal one may change.
    assert 0.5 * 4 / 5 < wrong.mean() < 0.5 * 4 / 5 + 0.05


def test_a_decision_that_lasts_less_than_a_step_is_refused():
    with pytest.raises(ConfigError, match=r"persistence is a mean number of steps, at least 1; got 0\.5"):
        noisy_oracle.NoisyOracle(persistence=0.5).make(DarkRoom())


def test_noise_0_from_the_second_step_on():
    family = DarkRoom(size=5, steps=10)
    tasks = take(family.all_tasks(), jnp.arange(200) % 25)
    stream = demonstrate(family, tasks, 2, noise_episodes=0.0)
    right = stream.action == optimal_moves(family, stream, tasks)
    assert not right[:, 0, 0].all()
    assert right.reshape(200, 20)[:, 1:].all()


# --- A sub-optimal demonstrator ---


def test_errors_are_fixed_for_a_demonstrator_and_differ_between_them():
    family = DarkRoom(size=4, steps=30, start="random")
    tasks = take(family.all_tasks(), jnp.zeros(300, jnp.int32))
    stream = demonstrate(family, tasks, 20, noise_start=0.0, optimality=0.6)
    best = optimal_moves(family, stream, tasks)
    cell = (stream.observation @ np.array([4, 1])).reshape(300, -1)
    habit = np.full((300, 16), -1)
    for n, (cells, actions) in enumerate(zip(cell, stream.action.reshape(300, -1))):
        habit[n, cells] = actions
        assert np.all(habit[n, cells] == actions)  # the same action in the same cell, every time
    right = np.full(16, -1)
    right[cell.ravel()] = best.ravel()
    visited = habit >= 0
    share = (habit == right)[visited].mean()
    assert abs(share - (0.6 + 0.4 / 5)) < 5 * 0.5 / np.sqrt(visited.sum())
    wrong = habit[visited & (habit != right)]
    assert len(np.unique(wrong)) == 5
    assert np.all(np.ptp(np.where(visited[:, 1:], habit[:, 1:], -1), axis=0) > 0)  # not one demonstrator for all


@pytest.mark.parametrize(("optimality", "share"), [(1.0, 1.0), (0.5, 0.6), (0.0, 0.2)])
def test_a_bandit_demonstrator_knows_its_arm_or_always_pulls_the_same_one(optimality, share):
    family = Bandit(arms=5)
    tasks = family.sample_tasks(jax.random.key(1), 1000)
    pulls = demonstrate(family, tasks, 8, noise_start=0.0, optimality=optimality).action[:, :, 0]
    assert np.all(pulls == pulls[:, :1])
    right = np.mean(pulls[:, 0] == np.asarray(tasks.means).argmax(1))
    assert right == 1 if share == 1 else abs(right - share) < 5 * 0.5 / np.sqrt(1000)


def test_situations_are_told_apart_by_hidden_state():
    """In one cell, a demonstrator can be right on its way to the door and wrong on its way to the key."""
    family = DarkKeyToDoor(size=2, steps=12)
    task = take(family.all_tasks(), 0 * 4 + 3)  # key (0, 0), door (1, 1)
    tasks = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 200), task)
    stream = demonstrate(family, tasks, 20, noise_start=0.3, noise_end=0.3, optimality=0.5)
    earned = np.cumsum(stream.reward, axis=2) - stream.reward  # before the step: the stage of the episode
    corner = np.all(stream.observation == [0, 1], axis=-1)

    def common(which, n):
        return np.bincount(stream.action[n][which[n]], minlength=5).argmax() if which[n].any() else -1

    pairs = [(common(corner & (earned == 0), n), common(corner & (earned == 1), n)) for n in range(200)]
    seen = np.array([pair for pair in pairs if -1 not in pair])
    assert len(seen) > 50
    assert 0.02 < np.mean(seen[:, 0] == seen[:, 1]) < 0.33  # 0.15 if independent, 0.5 if the stage were not seen


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float32, jnp.uint8])
def test_the_number_of_an_observation_is_uniform_and_depends_on_all_of_it(dtype):
    grid = jnp.array(list(itertools.product(range(16), repeat=3)), dtype)
    seed = jnp.uint32(7)
    words = np.asarray(jax.vmap(noisy_oracle.number_of, (0, None))(grid, seed))
    assert len(np.unique(words)) > 0.999 * len(words)
    for bits in noisy_oracle.halves(jnp.asarray(words)):
        counts = np.bincount((np.asarray(bits) * 16).astype(int), minlength=16)
        assert ((counts - 256) ** 2 / 256).sum() < 45  # chi-square, 15 degrees: p < 1e-4
    other = np.asarray(jax.vmap(noisy_oracle.number_of, (0, None))(grid, jnp.uint32(8)))
    assert np.mean(words == other) < 0.01


def test_a_family_without_optimal_actions_is_refused():
    with pytest.raises(TypeError, match="noisy_oracle needs an optimal_action; Probes has none"):
        noisy_oracle.NoisyOracle().make(Probes())


# --- Hidden state for sources ---

ROOM = DarkKeyToDoor(size=3, steps=10)
PRIVILEGED = {
    "actor_critic": {"actors": 3, "unroll": 6, "hidden": [8], "privileged": True},
    "q_learning": {"privileged": True},
}


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("actor_critic", ROOM),
        ("q_learning", ROOM),
        pytest.param("q_learning", DarkRoom(size=3, steps=4, start="random", reward="once"), marks=pytest.mark.slow),
    ],
)
def test_privileged_sources_keep_the_contract(name, family):
    """Among it: observations of the plain space, from which the plain environment leads to the next."""
    assert len(check_source(sources.make(name, PRIVILEGED[name]), family)) == 5


@pytest.mark.parametrize("name", PRIVILEGED)
def test_a_source_cannot_be_given_what_is_not_hidden(name):
    with pytest.raises(ConfigError, match=r"DarkRoom.*hides no state"):
        sources.make(name, PRIVILEGED[name]).make(DarkRoom())


def test_privileged_q_learning_learns_the_way_to_the_key_and_from_it_to_the_door():
    """Its table is that of value iteration on position and stage; without the privilege no table could be."""
    task = take(ROOM.all_tasks(), 3 * 9 + 5)  # key (1, 0), door (1, 2)
    config = q_learning.QLearning(learning_rate=0.5, discount=0.5, exploration_episodes=1e9, privileged=True)
    state, _ = learn("q_learning", config, ROOM, task, 1500, jax.random.key(0))

    def step(n):
        return np.array(list(itertools.product(range(3), range(3))))[n]

    def away(a, b):
        return max(int(np.abs(step(a) - step(b)).sum()), 1)

    value = np.asarray(state.table).reshape(9, 3, 5).max(-1)
    holding = [0.5 ** (away(n, 5) - 1) if n != 5 else 0 for n in range(9)]  # at a door that is still shut: never
    np.testing.assert_allclose(value[:, 1], holding, atol=1e-3)
    np.testing.assert_allclose(value[:, 2], 0, atol=1e-6)
    first = 1 + 0.5 * value[3, 1]  # the key, and what the door is worth from there
    np.testing.assert_allclose(value[:, 0], [first * 0.5 ** (away(n, 3) - 1) for n in range(9)], atol=1e-3)
    plain = learn("q_learning", dataclasses.replace(config, privileged=False), ROOM, task, 2, jax.random.key(0))[0]
    assert plain.table.shape == (9, 5)


def test_privileged_actor_critic_sees_what_q_learning_sees():
    config = sources.make("actor_critic", PRIVILEGED["actor_critic"])
    state, stream = learn("actor_critic", config, ROOM, take(ROOM.all_tasks(), 0), 2, jax.random.key(0))
    assert state.params["hidden"][0]["weight"].shape == (3 + 3 + 3, 8)
    assert stream.observation.shape == (2, 6, 3, 2)
