"""Sources: the contract, problems with known answers, and each hyper-parameter by what it is called."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from probes import NAMES, Probes
from source_helpers import assert_solves_the_probes, learn

from ad_jax import envs, sources
from ad_jax.envs.bandit import Bandit
from ad_jax.envs.bandit import Params as BanditParams
from ad_jax.envs.base import advance, take
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.envs.grid import MOVES
from ad_jax.errors import ConfigError
from ad_jax.sources import actor_critic, q_learning, ucb
from ad_jax.sources.base import Source, SourceConfig
from ad_jax.testing import ContractError, check_plugin, check_source
from ad_jax.types import Transition

SUITED = {  # registered source: a family on which nearly everything can be checked, and small sizes
    "actor_critic": (DarkRoom(size=3, steps=4, start="random"), {"actors": 3, "unroll": 6, "hidden": [8]}),
    "noisy_oracle": (DarkRoom(size=3, steps=4, reward="once"), {"noise_end": 0.5, "optimality": 0.5}),
    "dqn": (
        DarkRoom(size=3, steps=4, start="random"),
        {"actors": 3, "unroll": 6, "hidden": [8], "capacity": 12, "warmup": 6, "gradient_steps": 2, "sequence": 4},
    ),
    "ppo": (
        DarkRoom(size=3, steps=4, start="random"),
        {"actors": 3, "unroll": 6, "hidden": [8], "epochs": 2, "minibatches": 3, "decay_updates": 5},
    ),
    "primal_dual": (
        DarkRoom(size=3, steps=4, start="random"),
        {"actors": 3, "unroll": 6, "hidden": [8], "epochs": 2},
    ),
    "q_learning": (DarkRoom(size=3, steps=4, reward="terminate"), {}),
}


@pytest.mark.parametrize("name", sources.SOURCES)
def test_registered_sources_keep_the_contract(name):
    if name in SUITED:
        family, options = SUITED[name]
        assert len(check_source(sources.make(name, options), family)) == 5
    else:
        assert check_plugin(name)


def test_check_plugin_runs_a_source_on_the_families_it_accepts():
    passed = check_plugin("ad_jax.sources.ucb:UCB")
    assert len(passed) == 5
    assert all(check.endswith("(Bandit)") for check in passed)


# --- Sources that break the contract, each caught by the check that is about it ---


@struct.dataclass
class Broken(SourceConfig):
    """`temper` makes a leaf; `fault` says what is wrong."""

    temper: float = 1.0
    fault: str = struct.field(pytree_node=False, default="")

    def make(self, family) -> Source:
        return make_broken(self, family)


def make_broken(config: Broken, family) -> Source:
    """Three uniformly random actors, five steps an update, with a fault."""
    fault = config.fault
    reset = jax.vmap(family.reset_env, (0, None))

    def init(key, task):
        return reset(jax.random.split(key, 3), task)

    def update(key, state, task):
        key = jax.random.key(0) if fault == "ignores its key" else key
        if fault == "forgets the state between updates":
            state = init(key, task)

        def step(state, key):
            observation, env_state = state
            action = jax.random.randint(key, (3,), 0, family.num_actions)
            go = jax.vmap(lambda k, s, a: advance(family, k, s, a, task))
            after, env_state, outcome = go(jax.random.split(key, 3), env_state, action)
            seen = after if fault == "stores the next observation" else observation
            reward = outcome.reward * config.temper if fault == "changes rewards" else outcome.reward
            done = (outcome.terminated, outcome.truncated)
            reached = after if fault == "takes a new start for what was reached" else outcome.next_observation
            return (after, env_state), Transition(seen, action, reward, *done, reached)

        state, stream = jax.lax.scan(step, state, jax.random.split(key, 5))
        if fault == "mixes its actors":
            stream = jax.tree.map(lambda x: jnp.sort(x, axis=1), stream)
        if fault == "stores real actions":
            stream = stream.replace(action=stream.action.astype(jnp.float32))
        if fault == "drops a step":
            stream = jax.tree.map(lambda x: x[:4], stream)
        return state, stream

    return Source(init, update, steps_per_update=5, actors=3)


TYPES = "update keeps the state's types and returns Transition [steps, actors]"
REPLAY = "each actor's stream replays as one lifetime of the environment"
BROKEN = {
    "ignores its key": "a lifetime depends on its hyper-parameters, key and task alone",
    "forgets the state between updates": "streams are in the family's spaces and end their episodes as it does",
    "stores the next observation": REPLAY,
    "changes rewards": REPLAY,
    "takes a new start for what was reached": REPLAY,
    "mixes its actors": REPLAY,
    "stores real actions": TYPES,
    "drops a step": TYPES,
}


def test_the_random_source_is_sound_without_a_fault():
    check_source(Broken(), DarkRoom(size=3, steps=4, start="random"))


@pytest.mark.parametrize("fault", BROKEN)
def test_check_source_names_what_is_broken(fault):
    with pytest.raises(ContractError) as caught:
        check_source(Broken(0.5, fault), DarkRoom(size=3, steps=4, start="random"))
    assert caught.value.check == BROKEN[fault]


# --- Known answers ---


def test_q_learning_solves_the_probes_exactly():
    config = q_learning.QLearning(learning_rate=0.5, discount=0.5, exploration_episodes=1e9)
    solve = jax.vmap(lambda task, key: learn(config, Probes(), task, 300, key))
    state, _ = solve(Probes().all_tasks(), jax.random.split(jax.random.key(0), len(NAMES)))
    expected = {
        "constant": [[1, 1], [0, 0]],
        "two steps": [[0.5, 0.5], [1, 1]],
        "action": [[0, 1], [0, 0]],
        "observation": [[-1, -1], [1, 1]],
        "both": [[1, 0], [0, 1]],
        "cut": [[1, 1], [2, 2]],
    }
    for name, table in zip(NAMES, state.table):
        np.testing.assert_allclose(table, expected[name], atol=1e-4, err_msg=name)


def test_q_learning_breaks_ties_evenly():
    """Over an even grid of `which`, each of the best actions comes equally often; exploring, each action."""
    which = (jnp.arange(6000, dtype=jnp.float32) + 0.5) / 6000
    for values, eligible in [([0, 0, 0], [0, 1, 2]), ([1, 0, 1], [0, 2]), ([-1, -1, 3], [2]), ([2, 2, 1], [0, 1])]:
        for explore, expected in ((False, eligible), (True, [0, 1, 2])):
            inputs = jnp.array(values, jnp.float32), jnp.bool_(explore)
            actions = jax.vmap(q_learning.choose, (None, None, 0))(*inputs, which)
            counts = np.bincount(actions, minlength=3)
            np.testing.assert_allclose(counts[expected], 6000 / len(expected), atol=1)
            assert counts.sum() == counts[expected].sum()


def test_actor_critic_solves_the_probes():
    quick = {"actors": 8, "unroll": 8, "hidden": (16,)}
    config = actor_critic.ActorCritic(learning_rate=0.01, discount=0.5, entropy_cost=0.0, **quick)
    assert_solves_the_probes(config, 400)


@pytest.mark.parametrize("means", [(0.9, 0.6), (0.1, 0.5, 0.45, 0.9), tuple(np.linspace(0.05, 0.95, 10))])
def test_ucb_regret_is_below_its_bound(means):
    family, pulls, seeds = Bandit(arms=len(means)), 1000, 128
    task = BanditParams(jnp.int32(1), jnp.array(means, jnp.float32))
    run = jax.vmap(lambda key: learn(ucb.UCB(), family, task, pulls // 10, key)[1].action)
    action = np.asarray(run(jax.random.split(jax.random.key(0), seeds))).reshape(seeds, pulls)
    gaps = max(means) - np.array(means)
    regret = gaps[action].cumsum(axis=1).mean(axis=0)
    positive = gaps[gaps > 0]
    for n in (len(means), 100, pulls):
        bound = (8 * np.log(n) / positive).sum() + (1 + np.pi**2 / 3) * positive.sum()
        assert regret[n - 1] <= bound
    assert regret[-1] < 0.5 * pulls * gaps.mean()  # and well below chance, which the bound alone does not ask
    np.testing.assert_array_equal(np.sort(action[:, : len(means)]), np.tile(np.arange(len(means)), (seeds, 1)))
    first = np.bincount(action[:, 0], minlength=len(means))  # each arm is first equally often
    assert np.all(np.abs(first - seeds / len(means)) < 5 * np.sqrt(seeds / len(means)))


def test_ucb_bound_is_ucb1():
    bound = ucb.upper_bound(jnp.array([2.0, 8.0, 0.0]), jnp.array([1.0, 6.0, 0.0]), np.sqrt(2))
    expected = [0.5 + np.sqrt(2 * np.log(10) / 2), 0.75 + np.sqrt(2 * np.log(10) / 8), np.inf]
    np.testing.assert_allclose(bound, expected, rtol=1e-6)


def test_ucb_breaks_ties_by_noise():
    family = Bandit(arms=3)
    task = BanditParams(jnp.int32(1), jnp.ones(3))  # every pull pays 1, so after 3 pulls all bounds are equal
    run = jax.vmap(lambda key: learn(ucb.UCB(), family, task, 1, key)[1].action)
    fourth = np.asarray(run(jax.random.split(jax.random.key(0), 600)))[:, 0, 3, 0]
    assert np.all(np.abs(np.bincount(fourth, minlength=3) - 200) < 60)


def test_ucb_explores_as_much_as_it_is_told():
    task = BanditParams(jnp.int32(1), jnp.array([0.2, 0.8], jnp.float32))
    run = jax.vmap(lambda c: learn(ucb.UCB(exploration=c), Bandit(arms=2), task, 50, jax.random.key(0))[0])
    pulls = np.asarray(run(jnp.array([0.0, 1.0, 1000.0])).pulls)
    assert pulls[0].min() < pulls[1].min() < pulls[2].min()
    assert abs(pulls[2, 0] - pulls[2, 1]) <= 2


def test_sources_say_which_families_they_cannot_learn():
    with pytest.raises(TypeError, match=r"episodes of 1 step; DarkRoom has 20. Try source=q_learning"):
        ucb.UCB().make(envs.make("dark_room"))
    with pytest.raises(ConfigError, match="pulls_per_update must be at least 1; got 0"):
        ucb.UCB(pulls_per_update=0).make(Bandit())
    with pytest.raises(ConfigError, match="hidden must be at least 1; got 0"):
        actor_critic.ActorCritic(hidden=(8, 0)).make(Bandit())


# --- Q-learning: each hyper-parameter ---


def test_q_learning_hyper_parameters_do_what_they_are_called():
    family = DarkRoom(size=3, steps=50)
    task = take(family.all_tasks(), 0)
    learner: Any = q_learning.QLearning  # a vector of learners: its floats are leaves
    configs = learner(
        learning_rate=jnp.array([0.0, 0.0, 0.0, 0.5]),
        discount=jnp.array([0.9, 0.9, 0.9, 0.0]),
        epsilon_start=jnp.array([1.0, 0.0, 0.8, 1.0]),
        epsilon_end=jnp.array([0.0, 0.0, 0.2, 1.0]),
        exploration_episodes=jnp.full(4, 100.0),
        initial_value=jnp.zeros(4),
    )

    def run(config):
        source = config.make(family)
        state = source.init(jax.random.key(0), task)
        greedy = jnp.zeros_like(state.table).at[:, 3].set(1.0)  # prefers action 3
        state = state.replace(table=jnp.where(config.learning_rate == 0, greedy, state.table))

        def update(state, key):
            return source.update(key, state, task)

        return jax.lax.scan(update, state, jax.random.split(jax.random.key(1), 200))

    state, stream = jax.jit(jax.vmap(run))(configs)
    action = np.asarray(stream.action).reshape(4, 200, 50)
    # learning_rate 0 leaves the table as it was; discount 0 learns the immediate rewards (the goal is the corner)
    assert set(np.unique(state.table[:3]).tolist()) == {0.0, 1.0}
    expected = np.zeros((9, 5))
    expected[0, [0, 2, 4]] = expected[1, 4] = expected[3, 2] = 1
    np.testing.assert_allclose(state.table[3], expected, atol=1e-4)
    # epsilon 1 is uniform, 0 is greedy, and in between it falls linearly and then stays
    assert np.all(action[1] == 3)
    early = np.bincount(action[0, :5].ravel(), minlength=5)
    assert np.all(np.abs(early - 50) < 35)
    np.testing.assert_array_equal(action[0, 100:], 3)
    for first, epsilon in ((0, 0.77), (45, 0.5), (100, 0.2), (190, 0.2)):  # mean epsilon of ten updates
        other = np.mean(action[2, first : first + 10] != 3)
        assert abs(other - epsilon * 4 / 5) < 5 * 0.5 / np.sqrt(500), first


def test_novel_exploration_goes_where_the_episode_has_not_been_as_far_as_the_learner_knows():
    """Every action of a lifetime, against what a plain account of that lifetime says may be novel."""
    family = DarkRoom(size=4, steps=12, start="random")
    config = q_learning.QLearning(epsilon_end=1.0, explore="novel")
    _, lifetime = learn(config, family, take(family.all_tasks(), 5), 60, jax.random.key(0))
    places = [tuple(map(int, place)) for place in lifetime.observation.reshape(-1, 2)]
    actions, ends = (
        lifetime.action.reshape(-1).tolist(),
        (lifetime.terminated | lifetime.truncated).reshape(-1).tolist(),
    )
    after, reached, chosen = {}, set(), 0
    for place, action, end in zip(places, actions, ends, strict=True):
        novel = {a for a in range(len(MOVES)) if after.get((place, a)) not in reached}
        assert action in novel or not novel
        chosen += len(novel) < len(MOVES)
        after[place, action] = tuple(min(max(x + dx, 0), 3) for x, dx in zip(place, MOVES[action], strict=True))
        reached = set() if end else reached | {after[place, action]}
    assert chosen > 300  # most of the choices were not free


def test_an_optimistic_table_leads_q_learning_to_a_goal_that_chance_does_not_find():
    family = DarkRoom(size=11, steps=12, reward="terminate")
    task = take(family.all_tasks(), 0)  # a corner, 10 steps away
    learner: Any = q_learning.QLearning  # a vector of learners: its floats are leaves
    configs = learner(
        epsilon_start=jnp.array([1.0, 0.0, 0.0]),
        learning_rate=jnp.array([0.5, 0.5, 0.0]),
        discount=jnp.full(3, 0.95),
        epsilon_end=jnp.zeros(3),
        exploration_episodes=jnp.full(3, 500.0),
        initial_value=jnp.array([0.0, 1.0, 0.25]),
    )
    run = jax.vmap(lambda config: learn(config, family, task, 1000, jax.random.key(0)))
    state, stream = run(configs)
    assert np.asarray(stream.reward[1]).sum() > 100 > 10 > np.asarray(stream.reward[0]).sum()
    assert set(np.unique(state.table[2]).tolist()) == {0.25}
