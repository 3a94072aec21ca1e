"""DPT: a set of transitions as context, in any order and at every length, and optimal actions as labels."""

import dataclasses
import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import GRID, mesh_of, numbered_histories

from ad_jax import envs
from ad_jax.envs.base import has_labels, optimal_labels
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.errors import ConfigError
from ad_jax.experiment import build, load, override
from ad_jax.files import read_json
from ad_jax.history import replay
from ad_jax.methods.dpt import DPT
from ad_jax.models import attention
from ad_jax.models.dpt import DPTModel, Network
from ad_jax.run.pipeline import Run
from ad_jax.testing import check_model
from ad_jax.testing.model import random_steps
from ad_jax.types import Discrete, Histories, Spec

ONE, PIXELS = Spec(Discrete(10), (), (1,)), Spec(Discrete(4), (9, 12, 3), None, pixels=True)
SMALL = DPTModel(layers=2, width=16, heads=2, mlp_width=32, window=6)
FLAT = dataclasses.replace(SMALL, layers=1)


@functools.cache
def built(config, spec):
    """Parameters, and `apply` with them."""
    model = config.make(spec)
    params = jax.jit(model.init)(jax.random.key(0))
    apply = jax.jit(model.apply)
    return lambda *args: np.asarray(apply(params, *args))


@pytest.mark.slow
def test_contract():
    """Causal, and decoding is applying: below, at and far past the window. On a grid: `test_models.py`."""
    check_model(dataclasses.replace(SMALL, window=4, heads=16).make(ONE), ONE, episode_length=1)


@pytest.mark.slow
def test_a_cell_can_go_in_as_numbers():
    model = dataclasses.replace(SMALL, numeric_observations=True).make(GRID)
    params = jax.jit(model.init)(jax.random.key(0))
    assert params["tokens"]["observation"]["kernel"].shape == (2, 16)
    steps = random_steps(GRID, 1, 7, 5)
    logits = model.apply(params, steps)
    far = steps.replace(observation=jnp.asarray(steps.observation).at[0, -1].add(1))
    assert not np.array_equal(model.apply(params, far)[0, -1], logits[0, -1])
    check_model(model, GRID, episode_length=4)


def test_pictures_go_in():
    model = dataclasses.replace(SMALL, pixel_channels=(4,), pixel_width=8).make(PIXELS)
    params, steps = jax.eval_shape(model.init, jax.random.key(0)), random_steps(PIXELS, 2, 7, 3)
    assert jax.eval_shape(model.apply, params, steps, jax.random.key(0)).shape == (2, 7, 4)
    cache, one = model.init_cache(2), jax.tree.map(lambda x: x[:, 0], steps)
    logits, after = jax.eval_shape(model.decode, params, cache, one)
    assert logits.shape == (2, 4)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, cache)


def test_a_key_that_a_query_alone_sees_is_one_more_of_the_softmax():
    """In blocks of a window. And its gradients, and those of all others, are those that JAX finds."""
    length, window = 13, 4
    q, k, v, own_k, own_v, g = np.random.default_rng(0).normal(size=(6, 2, length, 2, 4)).astype(np.float32)

    def plain(q, k, v, own_k, own_v):
        back = np.arange(length)[:, None] - np.arange(length)[None]
        scores = jnp.einsum("btkh,bskh->bkts", q, k) / 2
        scores = jnp.where(jnp.asarray((back >= 0) & (back < window))[None, None], scores, -1e30)
        alone = jnp.einsum("btkh,btkh->bkt", q, own_k)[..., None] / 2
        weights = jax.nn.softmax(jnp.concatenate([scores, alone], axis=-1), axis=-1)
        return jnp.einsum("bkts,bskh->btkh", weights[..., :-1], v) + weights[..., -1].swapaxes(1, 2)[..., None] * own_v

    def both(f):
        out, back = jax.vjp(f, q, k, v, own_k, own_v)
        return out, *back(g)

    def ours(q, k, v, *own):
        return attention.segment_attention(q, k, v, window=window, n=1, own=own)

    for found, wanted in zip(jax.jit(lambda: both(ours))(), jax.jit(lambda: both(plain))(), strict=True):
        np.testing.assert_allclose(found, wanted, atol=5e-5)


def bandit_steps(length, rows=1):
    """Return pulls and what they paid: every transition is apart from all others."""
    steps = random_steps(ONE, rows, length, 1)
    return steps.replace(prev_reward=(steps.prev_reward > 0) * np.linspace(-1, 1, length, dtype=np.float32)[None])


def reordered(steps, order):
    """Return the transitions that led to steps 1.. in another order; only where episodes have one step."""

    def move(x):
        return np.concatenate([x[:, :1], x[:, 1:][:, list(order)]], axis=1)

    return steps.replace(prev_action=move(steps.prev_action), prev_reward=move(steps.prev_reward))


def test_one_layer_does_not_see_the_order_of_its_context():
    """Two do, through the causal mask."""
    steps = bandit_steps(6)
    for config, blind in ((FLAT, True), (SMALL, False)):
        apply = built(config, ONE)
        known = apply(steps)[:, -1]
        again = [apply(reordered(steps, order))[:, -1] for order in ((4, 3, 2, 1, 0), (2, 0, 1, 4, 3))]
        assert all(np.abs(logits - known).max() < 1e-5 for logits in again) is blind
        fewer = apply(steps.replace(prev_reward=steps.prev_reward * 0))[:, -1]
        assert np.abs(fewer - known).max() > 1e-3


def test_one_layer_does_not_see_the_order_of_episodes():
    """Observations, next observations and ends of episodes included."""
    apply, one = built(dataclasses.replace(FLAT, window=12), GRID), random_steps(GRID, 1, 13, 4)
    episodes = [slice(0, 4), slice(4, 8), slice(8, 12)]

    def stream(order):
        # An episode begins at its first observation, and its transitions stand one step later.
        observed = [one.observation[:, episodes[i]] for i in order]
        done = [x[:, 1 + 4 * i : 5 + 4 * i] for x in (one.prev_action, one.prev_reward, one.prev_done) for i in order]

        def whole(first, parts):
            return np.concatenate([first, *parts], axis=1)

        return one.replace(
            observation=np.concatenate([*observed, one.observation[:, -1:]], axis=1),
            prev_action=whole(one.prev_action[:, :1], done[:3]),
            prev_reward=whole(one.prev_reward[:, :1], done[3:6]),
            prev_done=whole(one.prev_done[:, :1], done[6:]),
        )

    chex.assert_trees_all_equal(stream((0, 1, 2)), one)
    first, other = (apply(stream(order))[0, -1] for order in ((0, 1, 2), (2, 0, 1)))
    np.testing.assert_allclose(first, other, atol=1e-5)


def test_training_answers_each_query_from_the_first_of_a_random_order():
    """Each row's logits are those of one order of its transitions, at every length; every order is drawn."""
    apply, steps = built(SMALL, ONE), bandit_steps(4, rows=64)
    steps = jax.tree.map(lambda x: np.broadcast_to(x[:1], x.shape), steps)
    orders = list(itertools.permutations(range(3)))
    known = np.stack([apply(reordered(steps, order))[0] for order in orders])
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(known, 2)) > 1e-3
    drawn = apply(steps, jax.random.key(1))
    apart = np.abs(drawn[:, None] - known[None]).max((2, 3))  # rows, orders
    assert (apart.min(1) < 1e-5).all()
    assert set(apart.argmin(1)) == set(range(6))
    in_time = built(dataclasses.replace(SMALL, shuffle=False), ONE)
    np.testing.assert_allclose(in_time(steps, jax.random.key(1)), apply(steps), atol=1e-5)


def test_training_keeps_the_set_of_transitions():
    """The last query sees all of them, in whatever order: one layer answers as without a key."""
    apply, steps = built(dataclasses.replace(FLAT, window=12), GRID), random_steps(GRID, 1, 13, 3)
    drawn, known = apply(steps, jax.random.key(2)), apply(steps)
    np.testing.assert_allclose(drawn[:, -1], known[:, -1], atol=1e-5)
    assert np.abs(drawn - known)[:, 1:-1].max() > 1e-3


def test_a_transition_that_ends_an_episode_does_not_hold_the_next_ones_first_observation():
    steps = random_steps(GRID, 1, 6, 3)  # an episode begins at step 3
    embed = jax.jit(lambda steps: Network(FLAT, GRID, rngs=nnx.Rngs(0)).embed(steps, None)[0])
    for moved, changed in ((2, [False, True, True, False, False]), (3, [False, False, False, True, False])):
        observation = steps.observation.copy()
        observation[:, moved] = (observation[:, moved] + 1) % 9
        apart = np.abs(np.asarray(embed(steps) - embed(steps.replace(observation=observation))))
        assert (apart.max((0, 2)) > 0).tolist() == changed, "transitions 1..5: to it and from it, unless it is a first"


def the_way(cell, goal):
    """Rows first, then columns."""
    if cell[0] != goal[0]:
        return 1 if goal[0] > cell[0] else 2
    return 0 if cell[1] == goal[1] else 3 if goal[1] > cell[1] else 4


def seeking(count, steps) -> Histories:
    """Numbered histories, each with a goal of its own."""
    goals = np.random.default_rng(0).integers(0, 9, (count, 2)).astype(np.int32)
    limit = np.full(count, 20, np.int32)
    return dataclasses.replace(numbered_histories(count, steps), tasks={"max_steps_in_episode": limit, "goal": goals})


@pytest.mark.parametrize(("keep_every", "phases", "tail"), [(3, 3, 1.0), (2, 1, 0.5)])
def test_optimal_labels_go_with_their_steps(keep_every, phases, tail):
    """Against a plain loop, in every drawn window; the context is still what the source did."""
    histories = seeking(9, 60)
    config = replay.Config(tail, keep_every, phases, segment=6, batch=32)

    def prepare(h):
        return {"label": optimal_labels(DarkRoom(), h.transition.observation, h.tasks)}

    resident = replay.load(histories, GRID, config, mesh_of(), prepare)
    batch = jax.device_get(
        jax.jit(lambda r, k: replay.sample(r, k, GRID, config, mesh_of()))(resident, jax.random.key(3))
    )
    earned = batch.steps.prev_reward.astype(int)
    for row in range(32):
        goal = histories.tasks["goal"][earned[row, -1] // 1000]
        assert batch.targets["label"][row].tolist() == [the_way(cell, goal) for cell in batch.steps.observation[row]]
    np.testing.assert_array_equal(batch.steps.prev_action[:, 1:], earned[:, 1:] % 1000 % 5)


def test_labels_are_stored_narrow_and_only_where_they_are_asked_for():
    histories, config = seeking(8, 20), replay.Config(segment=5, batch=8)
    assert optimal_labels(DarkRoom(), histories.transition.observation, histories.tasks).dtype == np.uint8
    assert replay.load(histories, GRID, config, mesh_of()).steps.keys() == {"observation", "action", "reward", "ends"}


def test_families_say_whether_what_is_stored_decides_the_optimal_action():
    found = {name for name in envs.FAMILIES if has_labels(envs.make(name))}
    assert found == {"bandit", "dark_room", "dark_room_hard", "dark_room_permuted", "watermaze"}


def test_labels_that_nobody_knows_are_refused():
    e = override(load("dark_key_to_door", "smoke"), ["replay.labels=optimal"])
    with pytest.raises(ConfigError, match=r"DarkKeyToDoor.* has no optimal_label"):
        build(e)
    with pytest.raises(ConfigError, match=r"replay.labels.*best"):
        override(e, ["replay.labels=best"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "multiple of heads = 3; got 16"),
        ({"window": 0}, "window must be at least 1"),
        ({"heads": 0}, "heads"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, **changes).make(GRID)


@pytest.mark.slow
def test_dpt_runs_through_every_stage(tmp_path):
    e = load("dark_room", "smoke")
    model = DPTModel(layers=1, width=16, heads=2, mlp_width=16, window=20)
    less = ["evaluate.greedy=False", "evaluate.source_seeds=0"]  # of which a model knows nothing
    e = override(dataclasses.replace(e, model=model), ["replay.labels=optimal", *less])
    assert e.method == DPT(**vars(load("dark_room", "smoke").method))
    run = Run(e, tmp_path / "run")
    run.collect()
    run.distill()
    run.evaluate()
    assert run.report().exists()
    (one,) = read_json(tmp_path / "run/results.json")["runs"][0]["sets"]
    assert np.shape(one["returns"]["sampled"]) == (len(one["tasks"]), e.evaluate.seeds, e.evaluate.episodes)
