"""XLand-MiniGrid and its MiniGrid: rulesets made here, and each trap of the library."""

from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from outside_helpers import first_task, lived, needs, random_actions

from ad_jax.envs.base import advance, reset, spec_of
from ad_jax.envs.outside.minigrid import MiniGrid
from ad_jax.envs.outside.rulesets import COLORS, HELD, HOLD, JOINED, NEAR, TILES, TOGETHER, drawn, in_words
from ad_jax.envs.outside.xland import XLand
from ad_jax.envs.stepping import lenient
from ad_jax.errors import ConfigError
from ad_jax.testing import check_env

pytestmark = needs("xland")
FORWARD, RIGHT, _, PICK, PUT, _ = range(6)


@pytest.mark.parametrize("make", [XLand, lambda **o: XLand(layout="episode", rules=1, **o), MiniGrid])
def test_families_keep_the_contract(make):
    check_env(make(steps=40))


def test_the_view_and_what_is_held_are_seen():
    """The library's own observation does not show what the agent holds."""
    family = XLand(steps=20)
    assert spec_of(family).values == (13, 12) * (5 * 5 + 1)
    task = first_task(family)
    _, state = reset(family, jax.random.key(0), task)
    agent = state.inner.state.agent.replace(pocket=jnp.array([3, 1], jnp.uint8))
    holding = state.replace(inner=state.inner.replace(state=state.inner.state.replace(agent=agent)))
    seen = family.observe(jax.random.key(0), holding, None, task)
    np.testing.assert_array_equal(seen[-2:], [3, 1])
    np.testing.assert_array_equal(seen[:-2], np.asarray(state.inner.observation).reshape(-1))


def test_the_layout_stays_and_the_start_is_drawn_anew():
    family = XLand(steps=10)
    task = first_task(family)
    states = [reset(family, jax.random.key(i), task)[1].inner.state for i in range(8)]
    assert all(np.array_equal(state.grid, states[0].grid) for state in states)
    assert len({tuple(np.asarray(state.agent.position).tolist()) for state in states}) > 3
    for state in states:
        assert state.grid[tuple(state.agent.position)][0] == 1  # floor: nothing lies there
    anew = XLand(steps=10, layout="episode")
    task = first_task(anew)
    grids = [np.asarray(reset(anew, jax.random.key(i), task)[1].inner.state.grid).tobytes() for i in range(4)]
    assert len(set(grids)) == 4


def test_the_ruleset_is_read_from_the_task_at_every_step():
    """The library's step reads a copy in its state, which a reset made: a task that is changed would act too late."""
    family = XLand(steps=200, goals=("near",))
    tasks = family.sample_tasks(jax.random.key(0), 2)
    one, other = (jax.tree.map(lambda x, i=i: x[i], tasks) for i in range(2))
    _, state = reset(family, jax.random.key(1), one)
    assert not np.any(state.inner.state.goal_encoding)
    # Put the agent before an object, and ask for that object or for another one.
    grid = jnp.asarray(np.asarray(state.inner.state.grid)).at[1:4, 1:4].set(jnp.array([1, 7], jnp.uint8))
    grid = grid.at[1, 1].set(jnp.array([3, 1], jnp.uint8))
    agent = state.inner.state.agent.replace(position=jnp.array([3, 1]), direction=jnp.int32(0))
    inner = state.inner.replace(state=state.inner.state.replace(grid=grid, agent=agent))
    for task, ends in ((one, True), (other, False)):
        goal = jnp.array([NEAR, 3 if ends else 4, 1, 0, 0], jnp.uint8)
        values = task.values | {"goal": goal, "rules": jnp.zeros_like(task.values["rules"])}
        after = family.step_env(
            jax.random.key(2), state.replace(inner=inner), jnp.int32(FORWARD), task.replace(values=values)
        )
        assert bool(after[3]) is ends


def test_the_goal_pays_by_our_limit_and_terminates_and_the_limit_truncates():
    """At the limit the library says LAST with discount 1, and at the goal with discount 0."""
    family = XLand(steps=30, goals=("near",), distractors=0)
    outcome = lived(family, first_task(family), random_actions(family, 3000))[2]
    terminated, truncated, reward = map(np.asarray, (outcome.terminated, outcome.truncated, outcome.reward))
    assert terminated.any() and truncated.any()
    assert np.all((reward > 0) == terminated)
    ends = np.flatnonzero(terminated | truncated)
    taken = np.diff(ends, prepend=-1)
    assert np.all(taken[truncated[ends]] == 30)
    found = terminated[ends]
    np.testing.assert_allclose(reward[ends][found], 1 - 0.9 * taken[found] / 30, rtol=1e-6)


def test_the_step_limit_is_ours_in_an_environment_of_another_size():
    """`make` with another size keeps the limit of the old one."""
    for env_id in ("XLand-MiniGrid-R1-9x9", "XLand-MiniGrid-R4-13x13"):
        assert XLand(env_id, steps=77).inner[1].max_steps == 77


@pytest.mark.slow  # 44 of them
def test_every_environment_can_be_made_and_reset():
    ids = import_module("xminigrid").registered_environments()
    assert len(ids) == 44
    for env_id in ids:
        family = (XLand if env_id.startswith("XLand") else MiniGrid)(env_id, steps=10)
        jax.eval_shape(lambda f=family: reset(f, jax.random.key(0), f.default_params))


def test_rulesets_are_of_the_librarys_encoding_and_can_be_said():
    goals, rules = import_module("xminigrid.core.goals"), import_module("xminigrid.core.rules")
    made = drawn(jax.random.key(0), 300, ("hold", "near", "together"), 2, 3)
    assert (made.goal.shape, made.rules.shape, made.init_tiles.shape) == ((300, 5), (300, 2, 7), (300, 7, 2))
    assert set(np.asarray(made.goal[:, 0]).tolist()) == {HOLD, NEAR, TOGETHER}
    assert set(np.asarray(made.rules[..., 0]).reshape(-1).tolist()) == {1, 2, 3}
    encoded = {
        HOLD: lambda g: goals.AgentHoldGoal(tile=g[1:3]),
        NEAR: lambda g: goals.AgentNearGoal(tile=g[1:3]),
        TOGETHER: lambda g: goals.TileNearGoal(tile_a=g[1:3], tile_b=g[3:5]),
    }
    ruled = {
        HELD: lambda r: rules.AgentHoldRule(tile=r[1:3], prod_tile=r[3:5]),
        2: lambda r: rules.AgentNearRule(tile=r[1:3], prod_tile=r[3:5]),
        JOINED: lambda r: rules.TileNearRule(tile_a=r[1:3], tile_b=r[3:5], prod_tile=r[5:7]),
    }

    def encode(kind, encoding):
        with lenient():
            return kind(encoding).encode()

    for goal, steps, lying in list(zip(*map(np.asarray, made)))[:20]:
        np.testing.assert_array_equal(encode(encoded[goal[0]], goal), goal)
        for rule in steps:
            np.testing.assert_array_equal(encode(ruled[rule[0]], rule), rule)
        objects = {tuple(thing.tolist()) for thing in lying}
        assert len(objects) == 7  # all different
        assert all(tile in TILES and color in COLORS for tile, color in objects)
        assert tuple(goal[1:3].tolist()) not in objects  # it is made
        product = steps[0][5:7] if steps[0][0] == JOINED else steps[0][3:5]
        np.testing.assert_array_equal(product, goal[1:3])
        first = steps[-1]
        assert tuple(first[1:3].tolist()) in objects  # what the chain begins with lies around
        assert len(in_words(goal, steps).split("; ")) == 3
    assert not np.any(drawn(jax.random.key(0), 3, ("hold",), 0, 3).rules)


def test_rulesets_can_be_solved_by_their_chain():
    """Random walks meet the goal of a ruleset with one rule now and then, though it is not there at first."""
    family = XLand(steps=400, rules=1, goals=("near", "hold"), distractors=0)
    tasks = family.sample_tasks(jax.random.key(0), 128)
    keys, actions = jax.random.split(jax.random.key(1), 401), jnp.asarray(random_actions(family, 400))

    def solved(task):
        def step(state, x):
            _, state, outcome = advance(family, x[1], state, x[0], task)
            return state, outcome.terminated

        return jax.lax.scan(step, reset(family, keys[0], task)[1], (actions, keys[1:]))[1].any()

    assert 4 <= int(jax.jit(jax.vmap(solved))(tasks).sum()) <= 120


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"goals": ("near", "hod")}, "unknown value of env.goals 'hod'. Did you mean 'hold'"),
        ({"goals": ()}, "env.goals of at least one kind"),
        ({"rules": -1}, "env.rules and env.distractors of at least 0"),
        ({"distractors": 59}, "need 61 different objects; there are 60"),
        ({"distractors": 40}, "put 42 objects into 49 cells"),
        ({"view": 4}, "env.view must be odd and at least 3; got 4"),
        ({"env_id": "MiniGrid-DoorKey-6x6"}, "unknown environment of xminigrid"),
    ],
)
def test_what_cannot_be_meant_is_named(options, words):
    with pytest.raises(ConfigError, match=words):
        XLand(**options)


def test_tasks_are_told_in_words():
    task = first_task(XLand(goals=("hold",)))
    assert XLand(goals=("hold",)).describe(task).startswith("hold the ")
