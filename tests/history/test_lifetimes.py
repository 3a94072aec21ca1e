"""Streams cut into episodes, and learning curves over time: against plain loops, and the right values of odd
lifetimes.
"""

import numpy as np
import pytest

from ad_jax.history import lifetimes
from ad_jax.text import plain as plain_numbers
from ad_jax.types import Transition


def ragged(seed: int, histories=7, steps=53, most=20) -> Transition:
    """Histories whose episodes have all lengths up to `most` and end for both reasons."""
    rng = np.random.default_rng(seed)
    ends = rng.random((2, histories, steps)) < 0.1
    for row in range(histories):
        open_since = 0
        for t in range(steps):
            ends[0, row, t] |= t - open_since + 1 == most
            open_since = t + 1 if ends[:, row, t].any() else open_since
    reward = rng.integers(-100, 100, (histories, steps)).astype(np.int8)
    nothing = np.zeros((histories, steps), np.uint8)
    return Transition(nothing, nothing, reward, ends[0], ends[1] & ~ends[0])


def plain(t: Transition, row: int) -> list[tuple[float, int, int]]:
    """Return, length and last step of the finished episodes of one history, the plain way."""
    found, total, began = [], 0.0, 0
    for time, (reward, end) in enumerate(zip(t.reward[row].tolist(), t.done[row], strict=True)):
        total += reward
        if end:
            found.append((total, time + 1 - began, time))
            total, began = 0.0, time + 1
    return found


def episodes_of(t: Transition) -> lifetimes.Episodes:
    return lifetimes.episodes_of(t.reward, t.done)


@pytest.mark.parametrize("seed", range(4))
def test_every_episode_is_found_with_its_return_and_length(seed):
    t = ragged(seed)
    found = episodes_of(t)
    expected = [plain(t, row) for row in range(7)]
    assert len({len(one) for one in expected}) > 1, "histories complete different numbers of episodes"
    for returns, steps, one in zip(found.returns, found.steps, expected, strict=True):
        assert list(zip(returns.tolist(), steps.tolist(), strict=True)) == [(r, n) for r, n, _ in one]
    assert found.lifetime == 53


@pytest.mark.parametrize("seed", range(4))
def test_a_curve_over_time_is_of_the_episodes_that_end_in_each_piece(seed):
    t = ragged(seed)
    curve = episodes_of(t).curve(20)
    assert curve.shape == (7, 2), "53 steps are two pieces of 20, and a rest"
    for row in range(7):
        for piece in range(2):
            inside = [r for r, _, end in plain(t, row) if piece * 20 <= end < (piece + 1) * 20]
            assert curve[row, piece] == pytest.approx(np.mean(inside))


def test_a_slow_learner_is_not_cut_before_it_learns():
    """Two lifetimes of 8,000 steps of reward 1: both end at 100, though one has 320 episodes and the other 80."""
    quick, slow = [100] * 80, [20] * 300 + [100] * 20
    done = np.zeros((2, 8000), bool)
    for row, lengths in enumerate((quick, slow)):
        done[row, np.cumsum(lengths) - 1] = True
    found = lifetimes.episodes_of(np.ones((2, 8000), np.float32), done)
    assert [steps.tolist() for steps in found.steps] == [quick, slow]
    curve = found.curve(100)
    np.testing.assert_array_equal(curve[:, -8:], np.full((2, 8), 100))
    np.testing.assert_array_equal(curve[1], [20] * 60 + [100] * 20)
    data = lifetimes.as_data([[[x]] for x in zip(found.returns, found.steps, strict=True)], 8000)
    np.testing.assert_array_equal(lifetimes.curves(data, 100), curve[:, None])
    assert lifetimes.by_episode(data).shape == (2, 1, 80)


def test_episodes_of_full_length_are_their_own_pieces():
    """Bit for bit what was there before lengths were: the mean over actors, in float32."""
    returns = np.random.default_rng(0).normal(size=(3, 2, 4, 10)).astype(np.float32)
    by_task = [[[(r, np.full(10, 20)) for r in actors] for actors in of_task] for of_task in returns]
    data = lifetimes.as_data(by_task, 207)
    assert (data["steps"], data["actors"], data["life"]) == (20, 4, 207)
    np.testing.assert_array_equal(np.asarray(data["returns"], np.float32), returns.mean(2))
    np.testing.assert_array_equal(lifetimes.curves(data, 20), np.asarray(data["returns"]))
    np.testing.assert_array_equal(lifetimes.by_episode(data), np.asarray(data["returns"]))


def test_episodes_of_one_length_that_is_not_the_longest_are_pieced_together():
    """All end at 19 of 20 steps: 10 pieces of 20 steps hold 10 ends, the eleventh episode ends after them."""
    returns = np.arange(11.0)
    by_task = [[[(returns + actor, np.full(11, 19)) for actor in (0, 2)]]]
    data = lifetimes.as_data(by_task, 210)
    assert data["steps"] == 19
    found = lifetimes.curves(data, 20)
    expected = [
        np.mean([r + 1 for e, r in enumerate(returns) if 20 * p <= 19 * e + 18 < 20 * p + 20]) for p in range(10)
    ]
    np.testing.assert_array_equal(found, [[expected]])


def test_the_episodes_of_all_actors_count_together():
    """One actor has a long episode where the other has five short ones: the mean is of six episodes."""
    by_task = [[[(np.array([100.0]), np.array([100])), (np.full(5, 20.0), np.full(5, 20))]]]
    assert lifetimes.curves(lifetimes.as_data(by_task, 100), 100) == pytest.approx(200 / 6)


def test_curves_of_many_actors_are_of_all_their_episodes():
    rows = [episodes_of(ragged(seed, histories=6)) for seed in range(2)]
    by_task = [[list(zip(e.returns[i : i + 3], e.steps[i : i + 3], strict=True)) for i in (0, 3)] for e in rows]
    data = lifetimes.as_data(by_task, 53)

    def ends(e, row):
        return zip(e.returns[row], (np.cumsum(e.steps[row]) - 1) // 20, strict=True)

    def mean(e, s, piece):
        return np.mean([r for a in range(3) for r, at in ends(e, 3 * s + a) if at == piece])

    expected = [[[mean(e, s, piece) for piece in range(2)] for s in range(2)] for e in rows]
    np.testing.assert_allclose(lifetimes.curves(data, 20), expected)
    shortest = min(len(r) for e in rows for r in e.returns)
    first = np.stack([np.stack([r[:shortest] for r in e.returns]).reshape(2, 3, -1).mean(1) for e in rows])
    np.testing.assert_allclose(lifetimes.by_episode(data), first)


def test_a_stream_that_never_ends_has_no_episodes():
    found = lifetimes.episodes_of(np.ones((2, 5)), np.zeros((2, 5), bool))
    assert [len(x) for x in (*found.returns, *found.steps)] == [0] * 4


def test_episodes_of_one_length_need_not_be_as_many_in_each_stream():
    """A lifetime that ends in a long unfinished episode has fewer of the short ones."""
    by_task = [[[(np.ones(10), np.full(10, 10)), (np.ones(5), np.full(5, 10))]]]
    data = lifetimes.as_data(by_task, 100)
    assert [len(stream) for stream in data["returns"][0][0]] == [10, 5]
    assert lifetimes.by_episode(data).shape == (1, 1, 5)


def test_huge_returns_are_not_whole_numbers_of_64_bits():
    assert plain_numbers(np.array([1e19, 3.0], np.float32)) == [pytest.approx(1e19), 3.0]
