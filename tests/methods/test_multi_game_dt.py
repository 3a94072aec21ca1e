"""Multi-Game Decision Transformer: its head against sums by hand, its options, two preferences of a checkpoint."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import LITTLE

from ad_jax import Agent, Run
from ad_jax.errors import ConfigError
from ad_jax.experiment import build, load, override
from ad_jax.methods.multi_game_dt import MultiGameDT, Preferred, places
from ad_jax.models.heads.binned import Binned
from ad_jax.models.heads.categorical import Categorical
from ad_jax.models.heads.returns import Returns
from ad_jax.run import directory
from ad_jax.types import Box

SMOKE = load("dark_room", "smoke")
MGDT = override(SMOKE, ["method=multi_game_dt", "model.memory=episode", *LITTLE])


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.fixture
def outputs():
    return np.random.default_rng(0).normal(size=(6, 3 * (1 + 4))).astype(np.float32)


def by_hand(outputs, kappa):
    """Probability of each return and action, `[B, R, A]`, and of each return `[B, R]`."""
    returns, actions = outputs[:, :3].astype(float), outputs[:, 3:].reshape(-1, 3, 4).astype(float)
    likely = softmax(returns + kappa * np.array([0, 0.5, 1]))
    return likely[:, :, None] * softmax(actions), likely


@pytest.mark.parametrize("kappa", [0.0, 2.5])
def test_the_head_is_a_mixture_over_returns_that_prefers_high_ones(outputs, kappa):
    head = Returns(3, Categorical(4), kappa)
    both, likely = by_hand(outputs, kappa)
    for action in range(4):
        found = head.log_prob(outputs, jnp.full(6, action))
        np.testing.assert_allclose(found, np.log(both[:, :, action].sum(1)), rtol=1e-5)
    np.testing.assert_array_equal(head.greedy(outputs), both[np.arange(6), likely.argmax(1)].argmax(-1))
    for row, column in itertools.product(range(2), repeat=2):  # any batch axes, as a window has
        window = jnp.stack([outputs[:2], outputs[2:4]])
        one = head.log_prob(window, jnp.zeros((2, 2), jnp.int32))[row, column]
        np.testing.assert_allclose(one, head.log_prob(window[row, column][None], jnp.zeros(1, jnp.int32))[0], rtol=1e-6)


def test_actions_are_drawn_as_the_mixture_says(outputs):
    head, draws = Returns(3, Categorical(4), 2.5), 20_000
    both, _ = by_hand(outputs[:1], 2.5)
    drawn = head.sample(jnp.repeat(outputs[:1], draws, 0), jax.random.split(jax.random.key(0), draws))
    shares = np.bincount(np.asarray(drawn), minlength=4) / draws
    np.testing.assert_allclose(shares, both[0].sum(0), atol=5 * 0.5 / np.sqrt(draws))


def test_the_loss_is_that_of_the_return_and_of_the_action_where_it_comes(outputs):
    both, _ = by_hand(outputs, 0)
    place, action = jnp.array([0, 1, 2, 0, 1, 2]), jnp.array([3, 2, 1, 0, 3, 2])
    found = Returns(3, Categorical(4), 2.5).log_prob_of_both(outputs, place, action)  # learned without preference
    np.testing.assert_allclose(found, np.log(both[np.arange(6), place, action]), rtol=1e-5)


def test_a_number_without_meaning_is_seen(outputs):
    head = Returns(3, Categorical(4))
    for bad, where in itertools.product((np.nan, np.inf), (1, 9)):
        assert np.isfinite(head.highest(outputs)).all()
        assert not np.isfinite(head.highest(jnp.asarray(outputs).at[2, where].set(bad)))[2]


def test_actions_in_a_box_have_their_own_distribution_for_each_return():
    inner = Binned(Box((2,), -1.0, 1.0), 5)
    head = Returns(3, inner)
    outputs = np.random.default_rng(1).normal(size=(4, head.size)).astype(np.float32)
    action = jnp.asarray(np.random.default_rng(2).uniform(-1, 1, (4, 2)).astype(np.float32))
    each = np.stack([inner.log_prob(outputs[:, 3:].reshape(4, 3, -1)[:, r], action) for r in range(3)], 1)
    expected = np.log((softmax(outputs[:, :3]) * np.exp(each)).sum(1))
    np.testing.assert_allclose(head.log_prob(outputs, action), expected, rtol=1e-5)
    assert head.sample(outputs, jax.random.split(jax.random.key(0), 4)).shape == (4, 2)


def test_returns_go_to_the_nearest_place():
    found = places(np.array([[-3, 0, 0.4, 0.6, 4, 9]], np.float32), 0.0, 4.0, 5)
    np.testing.assert_array_equal(found, [[0, 0, 0, 1, 4, 4]])
    assert found.dtype == np.uint8


def test_returns_reach_from_the_family():
    method = build(MGDT).method
    assert isinstance(method, MultiGameDT)
    assert (method.return_low, method.return_high) == (0.0, 20.0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["method.acting.kappa=-1"], r"kappa must be at least 0 and finite; got -1"),
        (["method.returns=1"], r"method.returns must be at least 2; got 1"),
        (["method.return_low=30"], r"return_low=30 must be below method.return_high=20"),
        (["method.label_smoothing=0.1"], r"label_smoothing must be 0 with returns"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_compiled(changes, told):
    with pytest.raises(ConfigError, match=told):
        build(override(MGDT, changes))


def test_a_backbone_that_takes_no_other_head_is_refused():
    with pytest.raises(ConfigError, match=r"which model=dpt does not take. Use model=transformer"):
        build(override(MGDT, ["model=dpt"]))


def test_one_checkpoint_is_evaluated_at_two_preferences(tmp_path):
    run = Run(MGDT, tmp_path / "run")
    run.all()
    other = override(MGDT, ["method.acting.kappa=0"])
    assert directory.digest(other) == directory.digest(MGDT)
    assert Agent.load(run.folder).act([[4, 4]]).shape == (1,)
    method = build(other).method
    assert isinstance(method, MultiGameDT) and method.acting == Preferred(0.0)
