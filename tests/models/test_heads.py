"""Heads: densities that integrate to one, samples that follow them, actions inside the Box, gradients at its bounds."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ad_jax.errors import ConfigError
from ad_jax.models import heads
from ad_jax.models.heads.binned import Binned
from ad_jax.models.heads.categorical import Categorical
from ad_jax.models.heads.mixture import Mixture
from ad_jax.models.heads.unit import from_unit, to_unit
from ad_jax.types import Box, Discrete, Spec

ONE, TWO = Box((), -3.0, 1.0), Box((2,), (-2.0, 5.0), (2.0, 6.0))
HEADS = {"binned": lambda box: Binned(box, 7), "mixture": lambda box: Mixture(box, 3)}
CONTINUOUS = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
DRAWS = 20_000


def outputs_of(head, *lead, scale=2.0, seed=0):
    return scale * jax.random.normal(jax.random.key(seed), (*lead, head.size), jnp.float32)


def grid(box, points):
    """Middles of equal cells of a Box, `[points ** n, *S]`, and the volume of a cell."""
    low, high = (x.reshape(-1) for x in box.bounds)
    each = [np.linspace(a, b, 2 * points + 1)[1::2] for a, b in zip(low, high, strict=True)]
    cells = np.stack(np.meshgrid(*each, indexing="ij"), axis=-1).reshape(-1, *box.shape).astype(np.float32)
    return cells, float(np.prod((high - low) / points))


def density(head, outputs, actions):
    """Return the density of each action `[P, *S]` under one row of outputs."""
    return np.exp(np.asarray(head.log_prob(jnp.broadcast_to(outputs, (len(actions), head.size)), actions), np.float64))


def draws(head, outputs, temperature=1.0):
    """Many actions of one row of outputs."""
    keys = jax.random.split(jax.random.key(1), DRAWS)
    return np.asarray(head.sample(jnp.broadcast_to(outputs, (DRAWS, head.size)), keys, temperature))


@CONTINUOUS
@pytest.mark.parametrize(("box", "points"), [(ONE, 7 * 400), (TWO, 7 * 60)], ids=["one number", "two"])
def test_a_density_integrates_to_one_over_the_box(head, box, points):
    head = head(box)
    cells, volume = grid(box, points)
    for seed in range(3):
        assert density(head, outputs_of(head, scale=1.0, seed=seed), cells).sum() * volume == pytest.approx(1, abs=2e-3)


@CONTINUOUS
def test_samples_follow_the_density(head):
    """Kolmogorov and Smirnov's distance of the draws from the distribution that the density integrates to."""
    head = head(ONE)
    cells, volume = grid(ONE, 7 * 400)
    for seed in range(3):
        outputs = outputs_of(head, seed=seed)
        found = np.sort(draws(head, outputs))
        expected = np.interp(found, cells + volume / 2, np.cumsum(density(head, outputs, cells)) * volume)
        assert np.abs(expected - np.linspace(0, 1, DRAWS)).max() < 1.63 / DRAWS**0.5  # exceeded by 1 % of true draws


@CONTINUOUS
def test_samples_of_two_components_have_the_density_s_moments(head):
    """Means, variances, and how the components hang together."""
    head = head(TWO)
    cells, volume = grid(TWO, 7 * 40)
    weights = density(head, outputs_of(head), cells) * volume
    found, mean = draws(head, outputs_of(head)), weights @ cells
    spread = cells - mean
    np.testing.assert_allclose(found.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(np.cov(found.T), (spread.T * weights) @ spread, atol=0.05)


@CONTINUOUS
def test_a_low_temperature_draws_near_the_likeliest(head):
    """Within half a bin; of the mixture, far less than a component's width."""
    head, (low, high) = head(TWO), TWO.bounds
    outputs, keys = outputs_of(head, 256), jax.random.split(jax.random.key(2), 256)
    if isinstance(head, Binned):
        likeliest = from_unit(TWO, 2 / 7 * (outputs.reshape(256, 2, 7).argmax(-1).astype(jnp.float32) + 0.5) - 1)
    else:
        likeliest = head.greedy(outputs)  # the mean of the component of largest weight

    def away(temperature):
        return np.abs(head.sample(outputs, keys, temperature) - likeliest) / (high - low)[None]

    assert away(1e-4).max() <= 0.5 / 7 + 1e-6
    assert away(1.0).mean() > 0.15


def test_the_greedy_action_of_bins_is_their_median():
    """As many draws below its bin as half of them at most, as many up to its end as half of them at least."""
    head = Binned(ONE, 7)
    for seed in range(3):
        outputs = outputs_of(head, seed=seed)
        found, middle = draws(head, outputs), float(head.greedy(outputs))
        half = 2 / 7  # of a bin's width, 4 / 7
        assert (found < middle - half).mean() < 0.51 and (found < middle + half).mean() > 0.49
    two_fifths_at_a_bound = jnp.log(jnp.array([0.4, *[0.1] * 6], jnp.float32))  # which is the likeliest bin by far
    assert head.greedy(two_fifths_at_a_bound) == pytest.approx(-3 + 4 / 7 * 1.5)


@CONTINUOUS
@pytest.mark.parametrize("box", [ONE, TWO, Box((2, 1), -1e30, 3e38), Box((3,), 100.0, 100.001)], ids=str)
def test_greedy_actions_and_samples_are_inside_the_box_whatever_the_outputs(head, box):
    head = head(box)
    low, high = box.bounds
    for scale in (0.1, 3.0, 300.0):
        outputs = outputs_of(head, 256, scale=scale)
        for actions in (head.greedy(outputs), head.sample(outputs, jax.random.split(jax.random.key(2), 256))):
            assert actions.shape == (256, *box.shape)
            assert actions.dtype == jnp.float32
            assert ((actions >= low[None]) & (actions <= high[None])).all()


@CONTINUOUS
def test_gradients_are_finite_at_the_bounds_whatever_the_outputs(head):
    head = head(TWO)
    slope = jax.jit(jax.vmap(jax.grad(head.log_prob), (0, None)))
    for scale in (0.0, 3.0, 100.0):
        outputs = outputs_of(head, 64, scale=scale)
        for target in TWO.bounds:
            assert np.isfinite(head.log_prob(outputs, jnp.broadcast_to(target, (64, 2)))).all()
            assert np.isfinite(slope(outputs, target)).all()


@CONTINUOUS
def test_ascending_the_gradient_finds_two_heaps_at_the_bounds(head):
    """Half of the actions at each corner: what is learned draws both, and nothing between them."""
    head, low, high = head(TWO), *TWO.bounds
    targets = jnp.asarray(np.stack([low, high] * 8))

    def loss(outputs):
        return -head.log_prob(jnp.broadcast_to(outputs, (16, head.size)), targets).mean()

    rule = optax.adam(0.05)

    def update(carry, _):
        outputs, moments = carry
        changes, moments = rule.update(jax.grad(loss)(outputs), moments)
        return (optax.apply_updates(outputs, changes), moments), None

    start = outputs_of(head, scale=1.0)
    with jax.numpy_dtype_promotion("standard"):  # for optax
        (outputs, _), _ = jax.lax.scan(update, (start, rule.init(start)), None, 400)
    first = (to_unit(TWO, draws(head, outputs))[:, 0] + 1) / 2
    assert np.mean(first < 0.15) == pytest.approx(0.5, abs=0.05)
    assert np.mean(first > 0.85) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("head", [Categorical(5), Binned(TWO, 4), Mixture(TWO, 2)], ids=lambda h: type(h).__name__)
def test_a_row_does_not_depend_on_its_neighbors(head):
    outputs, others = outputs_of(head, 6), outputs_of(head, 6, seed=1)
    keys, other_keys = jax.random.split(jax.random.key(3), 6), jax.random.split(jax.random.key(4), 6)
    mine = jnp.arange(6) == 2
    alone = head.sample(jnp.where(mine[:, None], outputs, others), jnp.where(mine, keys, other_keys))
    together = head.sample(outputs, keys)
    np.testing.assert_array_equal(alone[2], together[2])
    np.testing.assert_array_equal(head.sample(outputs[::-1], keys[::-1])[::-1], together)
    assert len(np.unique(np.asarray(head.sample(jnp.broadcast_to(outputs[0], outputs.shape), keys)), axis=0)) > 1


def test_a_categorical_head_is_softmax_argmax_and_the_usual_cross_entropy():
    head, outputs, labels = Categorical(5), outputs_of(Categorical(5), 8, 3), jnp.arange(24).reshape(8, 3) % 5
    expected = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
    np.testing.assert_array_equal(-head.log_prob(outputs, labels), expected)
    np.testing.assert_array_equal(head.greedy(outputs), np.argmax(outputs, -1))
    assert head.greedy(outputs).dtype == jnp.int32
    keys = jax.random.split(jax.random.key(0), 8)
    one_by_one = [jax.random.categorical(key, row / 0.5) for key, row in zip(keys, outputs[:, 0], strict=True)]
    np.testing.assert_array_equal(head.sample(outputs[:, 0], keys, 0.5), one_by_one)


def test_units_of_an_action_go_to_one_and_back_and_stay_inside():
    box = Box((2, 2), (-2.0, 5.0, 0.1, -7.0), (2.0, 6.0, 0.3, 0.7))
    low, high = box.bounds
    actions = low + (high - low) * np.linspace(0, 1, 9, dtype=np.float32)[:, None, None]
    unit = to_unit(box, jnp.asarray(actions))
    np.testing.assert_allclose(unit, np.broadcast_to(np.linspace(-1, 1, 9)[:, None], (9, 4)), atol=1e-6)
    back = np.asarray(from_unit(box, unit))
    np.testing.assert_allclose(back, actions, atol=1e-6)
    assert ((back >= low) & (back <= high)).all()
    assert np.abs(to_unit(box, jnp.zeros((2, 2)))).max() == 1  # 0 lies outside of 5..6


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("head", "outputs", "highest"),
    [
        (Categorical(3), [-INF, 2, 1], 2),
        (Categorical(3), [0, NAN, 1], NAN),
        (Categorical(2), [-INF, -INF], -INF),
        (Binned(ONE, 3), [0, 1, -INF], 1),
        (Binned(ONE, 3), [0, NAN, 1], NAN),
        (Binned(ONE, 3), [0, -INF, INF], INF),
        (Binned(TWO, 2), [-INF, 3, 0, 1], 4),
        (Binned(TWO, 2), [1, 0, -INF, -INF], -INF),
        (Mixture(ONE, 2), [0, -INF, 1, 1, 1, 1], 0),
        (Mixture(ONE, 2), [-INF, -INF, 1, 1, 1, 1], -INF),
        (Mixture(ONE, 1), [0, INF, 1], NAN),
        (Mixture(ONE, 1), [0, 1, NAN], NAN),
    ],
)
def test_what_leaves_nothing_to_choose_is_no_finite_number(head, outputs, highest):
    np.testing.assert_array_equal(head.highest(jnp.array(outputs, jnp.float32)), np.float32(highest))


def test_the_options_of_a_model_name_its_head():
    box, counted = Spec(TWO, (3,), None), Spec(Discrete(4), (3,), None)
    assert heads.Options().head(counted) == Categorical(4)
    assert heads.Options(action_head="binned", action_bins=16).head(box) == Binned(TWO, 16)
    assert heads.Options(action_head="mixture", action_components=2).head(box) == Mixture(TWO, 2)
    assert heads.Options().head(box) == Binned(TWO, 32)
    lists: Any = [-2, 5], [2, 6]
    assert len({Mixture(TWO, 2), Mixture(Box((2,), *lists), 2)}) == 1
    with pytest.raises(ConfigError, match="is for actions in a Box; these are"):
        heads.Options(action_head="binned").head(counted)
    wrong: Any = {"action_bins": 1}, {"action_components": 0}
    for changes in wrong:
        with pytest.raises(ConfigError, match=f"model.{next(iter(changes))} must be at least"):
            heads.Options(**changes).head(box)
