"""DQN: the probes, targets against a plain loop, the replay against a list, and each hyper-parameter."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import mesh_of
from probes import NAMES, Probes
from source_helpers import KINDS, learn

from ad_jax import sources
from ad_jax.envs.base import spec_of, take
from ad_jax.envs.watermaze import Watermaze
from ad_jax.errors import ConfigError
from ad_jax.sources import dqn
from ad_jax.sources.decorrelation import covariances
from ad_jax.sources.returns import q_lambda
from ad_jax.stage.collect import Collector
from ad_jax.types import Discrete, Spec, Transition

QUICK = {"actors": 4, "unroll": 8, "capacity": 400, "warmup": 16, "gradient_steps": 4, "sequence": 5, "hidden": (16,)}


@pytest.mark.slow
def test_dqn_solves_the_probes():
    family = Probes()
    config = dqn.DQN(learning_rate=0.01, discount=0.5, **QUICK)
    solve = jax.vmap(lambda task, key: learn(config, family, task, 150, key))
    state, _ = solve(family.all_tasks(), jax.random.split(jax.random.key(0), len(NAMES)))
    got = jax.vmap(lambda params: dqn.q_values(params, spec_of(family), jnp.arange(2)))(state.params)
    got = dict(zip(NAMES, np.asarray(got)))
    np.testing.assert_allclose(got["constant"][0], [1, 1], atol=0.1)
    np.testing.assert_allclose(got["two steps"], [[0.5, 0.5], [1, 1]], atol=0.1)
    np.testing.assert_allclose(got["action"][0], [0, 1], atol=0.1)
    np.testing.assert_allclose(got["observation"], [[-1, -1], [1, 1]], atol=0.1)
    np.testing.assert_allclose(got["both"], [[1, 0], [0, 1]], atol=0.1)
    np.testing.assert_allclose(got["cut"], [[1, 1], [2, 2]], atol=0.1)


def slow_q_lambda(reward, ahead, terminated, truncated, discount, trace_decay):
    """Return the average of n-step returns, each weighted by (1 - lambda) lambda^(n - 1), the last by what is left of
    1.
    """
    targets = np.zeros(len(reward))
    for t in range(len(reward)):
        total, discounted, weight = 0.0, 0.0, 1.0
        for k in range(t, len(reward)):
            discounted += discount ** (k - t) * reward[k]
            bootstrap = 0.0 if terminated[k] else discount ** (k - t + 1) * ahead[k]
            last = terminated[k] or truncated[k] or k == len(reward) - 1
            total += weight * (1.0 if last else 1 - trace_decay) * (discounted + bootstrap)
            weight *= trace_decay
            if last:
                break
        targets[t] = total
    return targets


def test_targets_are_averages_of_n_step_returns_however_episodes_end():
    ends = np.array(list(itertools.product(KINDS, repeat=5)))  # [243, T, 2]
    reward, ahead = np.random.default_rng(0).normal(size=(2, len(ends), 5)).astype(np.float32)
    arrays = (reward, ahead, ends[..., 0], ends[..., 1])
    got = q_lambda(*(jnp.asarray(x.T) for x in arrays), discount=0.9, trace_decay=0.7)
    expected = np.stack([slow_q_lambda(*row, 0.9, 0.7) for row in zip(*arrays)], axis=1)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def numbered(first, steps, actors):
    """Return steps that tell where they are from: observation (time, actor), action 0, reached (time + 1, actor)."""
    time = jnp.repeat(jnp.arange(first, first + steps)[:, None], actors, axis=1)
    actor = jnp.broadcast_to(jnp.arange(actors)[None], time.shape)
    none = jnp.zeros(time.shape, bool)
    stream = Transition(jnp.stack([time, actor], -1), 0 * time, time.astype(jnp.float32), none, none)
    return stream, jnp.stack([time + 1, actor], -1)


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 9])
def test_sequences_are_of_one_actor_consecutive_and_among_the_last_steps(blocks):
    replay = dqn.empty_replay(Spec(Discrete(2), (2,), (99, 3)), capacity=12, actors=3)
    for block in range(blocks):
        replay = dqn.add(replay, *numbered(4 * block, 4, 3))
    stream, reached = jax.jit(dqn.sample, static_argnums=(2, 3))(jax.random.key(0), replay, 500, 3)
    time, actor = np.asarray(stream.observation[..., 0], int), np.asarray(stream.observation[..., 1], int)
    assert np.all(np.diff(time, axis=0) == 1)
    assert np.all(actor == actor[:1])
    np.testing.assert_array_equal(stream.reward, time)
    np.testing.assert_array_equal(reached, np.stack([time + 1, actor], -1))
    oldest, newest = max(0, 4 * blocks - 12), 4 * blocks - 1
    assert set(time[0].tolist()) == set(range(oldest, newest - 1))
    assert set(actor[0].tolist()) == {0, 1, 2}


@pytest.mark.slow
def test_actors_explore_each_at_its_own_rate_and_at_random_before_learning():
    family = Probes()
    config = dqn.DQN(epsilon=0.5, epsilon_spread=2.0, learning_rate=0.0, **{**QUICK, "actors": 3})
    np.testing.assert_allclose(dqn.epsilons(config), [0.5, 0.25, 0.125], rtol=1e-6)
    np.testing.assert_allclose(dqn.epsilons(dqn.DQN(actors=1, epsilon=0.3)), [0.3], rtol=1e-6)
    source, task = config.make(family), take(family.all_tasks(), 0)

    def run(key):
        state = source.init(key, task)
        state.params["head"] = {"weight": jnp.zeros((16, 2)), "bias": jnp.array([0.0, 1.0])}  # action 1 is best
        return jax.lax.scan(lambda s, k: source.update(k, s, task), state, jax.random.split(key, 102))

    state, stream = jax.jit(run)(jax.random.key(0))
    other = np.asarray(stream.action == 0)
    assert abs(other[:2].mean() - 0.5) < 5 * 0.5 / np.sqrt(48)
    for actor, epsilon in enumerate((0.5, 0.25, 0.125)):
        assert abs(other[2:, :, actor].mean() - epsilon / 2) < 5 * 0.5 / np.sqrt(800)
    np.testing.assert_array_equal(state.params["head"]["bias"], [0.0, 1.0])


def test_learning_waits_for_the_warmup_and_the_target_network_for_its_turn():
    family = Probes()
    source = dqn.DQN(target_updates=3, **{**QUICK, "warmup": 24}).make(family)
    task, update = take(family.all_tasks(), 4), jax.jit(source.update)
    state = source.init(jax.random.key(0), task)
    start = head = target = np.asarray(state.params["head"]["weight"])
    for n in range(1, 8):
        state = update(jax.random.key(n), state, task)[0]
        before, head = head, np.asarray(state.params["head"]["weight"])
        assert np.array_equal(head, before) == (n < 3), n  # 24 steps of each actor are there after the third update
        target = head if n % 3 == 0 else target
        np.testing.assert_array_equal(state.target["head"]["weight"], target)
    assert not np.array_equal(start, target)


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(
        ConfigError, match=r"capacity must be a multiple of source.unroll=8 and at least source.sequence=5; got 401"
    ):
        dqn.DQN(**{**QUICK, "capacity": 401}).make(Probes())
    with pytest.raises(ConfigError, match=r"source.batch must be at least 1; got 0"):
        dqn.DQN(batch=0).make(Probes())


@pytest.mark.slow
def test_dqn_learns_from_pixels_to_go_to_a_hidden_platform():
    """Two platforms, four actors; half a minute of one core. At random an episode succeeds once in five."""
    family = Watermaze(height=24, width=32, heading="fixed", reward="terminate")
    options = {"learning_rate": 1e-3, "discount": 0.9, "trace_decay": 0.9, "epsilon_spread": 2.0, "actors": 4}
    sizes = {"capacity": 1200, "gradient_steps": 8, "channels": [8, 16, 16], "hidden": [64]}
    source = sources.make("dqn", options | sizes).make(family)
    collector = Collector(family, source, 24, mesh_of(), 2)
    lifetimes = collector.lifetimes(jax.random.split(jax.random.key(0), 2), family.split(0, 2, 1).train).transition
    reward, done = np.asarray(lifetimes.reward, float), np.asarray(lifetimes.terminated | lifetimes.truncated)

    def success(steps):
        return reward[..., steps].sum((1, 2)) / done[..., steps].sum((1, 2))

    assert np.all(success(slice(200)) < 0.6)  # the warm-up: all actors act at random
    assert np.all(success(slice(-400, None)) > 0.9)


def test_decorrelation_is_the_sum_of_squared_covariances_and_only_of_different_features():
    features = np.random.default_rng(0).normal(1.0, 2.0, (7, 30)).astype(np.float32)
    of_pairs = np.cov(features.T, bias=True)
    expected = (of_pairs**2).sum() - (np.diag(of_pairs) ** 2).sum()
    np.testing.assert_allclose(covariances(jnp.asarray(features)), expected, rtol=1e-4)
    apart = np.zeros((4, 2), np.float32)
    apart[:, 0], apart[:, 1] = [1, -1, 1, -1], [1, 1, -1, -1]
    assert covariances(jnp.asarray(apart)) == 0


def test_decorrelated_features_vary_apart():
    """And the values of the probe of one reward stay what they are."""
    family, task = Probes(), take(Probes().all_tasks(), 3)
    measured = {}
    for weight in (None, 1.0):
        config = dqn.DQN(learning_rate=0.01, discount=0.5, decorrelation=weight, **QUICK)
        state, _ = learn(config, family, task, 60, jax.random.key(0))
        seen = dqn.last_features(state.params, spec_of(family), jnp.arange(2))
        measured[weight] = float(covariances(seen))
        best = dqn.q_values(state.params, spec_of(family), jnp.arange(2)).max(1)
        np.testing.assert_allclose(best, [-1, 1], atol=0.25)
    assert measured[1.0] < 0.2 * measured[None]


def test_a_weight_of_decorrelation_below_0_is_refused():
    with pytest.raises(ConfigError, match=r"source.decorrelation must be at least 0 and finite, or None; got -1"):
        dqn.DQN(decorrelation=-1.0).make(Probes())
