"""Claims: every statistic against a plain one, intervals that are paired, rules that ask for the whole interval."""

import json
from typing import Any

import numpy as np
import pytest
import report_helpers as made
from scipy.stats import spearmanr

from ad_jax.errors import ConfigError
from ad_jax.history import lifetimes
from ad_jax.report import report
from ad_jax.report.results import gather
from ad_jax.study import text
from ad_jax.study.claims import STATISTICS, Claim, Rank, Rule, at_least, at_most, curves_of, decide, quantity

RNG = np.random.default_rng(0)


def arm(learner, source=None, optimal=10.0):
    """Return the sets of one run with the given returns `[tasks][rollouts][episodes]`."""
    one = made.grid_set(tasks=len(learner), **({} if source is None else {"returns": source}))
    one["returns"] = {"sampled": np.asarray(learner).tolist()}
    for task in one["tasks"]:
        task["optimal"] = optimal
    return gather(made.results(one, seeds=(0,)))


LEARNER, SOURCE = RNG.uniform(0, 9, (3, 2, 20)), RNG.uniform(0, 9, (3, 2, 40))
CURVE, LIFE = LEARNER.mean((0, 1)), SOURCE.mean((0, 1))


def first_at(curve, level):
    return next((i + 1 for i, y in enumerate(curve) if y >= level), len(curve) + 1)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("final", (), CURVE[18:].mean()),
        ("first", (), CURVE[0]),
        ("between", (3, 5), CURVE[2:5].mean()),
        ("share", (), (CURVE[18:].mean() - 0.2) / 9.8),
        ("area", (), (CURVE.mean() - 0.2) / 9.8),
        ("ratio", (), CURVE[18:].mean() / 10),
        ("area_ratio", (), CURVE.mean() / 10),
        ("regret", (), sum(10 - y for y in CURVE)),
        ("score", (), (CURVE.sum() - 20 * 0.2) / (LIFE[:20].sum() - 20 * 0.2)),
        ("episodes_to", (5.5,), first_at(CURVE, 5.5)),
        ("episodes_to", (99.0,), 21),
        ("steps_to", (5.5,), 20 * first_at(CURVE, 5.5)),
        ("source_final", (), LIFE[36:].mean()),
        ("source_between", (3, 5), LIFE[2:5].mean()),
        ("source_steps_to", (5.5,), 100 * first_at(LIFE, 5.5)),
        ("source_steps_to", (99.0,), 100 * 41),
        ("source_regret", (), sum(10 - y for y in LIFE[:20])),
        ("mean", (), CURVE.mean()),
        ("best", (), LEARNER.mean(1).max(1).mean()),
        ("random", (), 0.2),
        ("optimum", (), 10.0),
    ],
)
def test_statistics_are_what_their_words_log(name, arguments, expected):
    claim = Claim("", "", quantity(name, "A", *arguments), at_least(0))
    assert decide(claim, {"A": arm(LEARNER, SOURCE)}).value == pytest.approx(expected)


def test_every_statistic_is_tested_here():
    marks = test_statistics_are_what_their_words_log.pytestmark[0].args[1]  # pyright: ignore[reportFunctionMemberAccess]
    assert {case[0] for case in marks} == set(STATISTICS)


def test_the_interval_of_the_final_return_is_the_reports():
    results = made.results(made.grid_set(), seeds=(0, 1, 2))
    for i, run in enumerate(results["runs"]):
        run["sets"][0]["returns"]["sampled"] = made.curve(noise=2.0, seed=i)
    found = decide(Claim("", "", quantity("final", "A"), at_least(0)), {"A": gather(results)})
    row = report.statistics(results)["sets"]["held_out"]["rows"][-1]["sampled"]
    assert (found.value, found.low, found.high) == pytest.approx((row["final"], row["low"], row["high"]))


def test_arms_on_the_same_tasks_are_resampled_together():
    """Tasks differ by much more than the arms do: the difference is sure although neither return is."""
    tasks = np.linspace(0, 8, 6)[:, None, None] * np.ones((6, 2, 20))
    arms = {"low": arm(tasks), "high": arm(tasks + 0.5)}

    def final(name):
        return quantity("final", name)

    alone: Any = decide(Claim("", "", final("high"), at_least(0)), arms)
    apart = decide(Claim("", "", final("high") - final("low"), at_least(0.4)), arms)
    assert alone.high - alone.low > 2
    assert (apart.low, apart.high) == pytest.approx((0.5, 0.5))
    assert apart.holds
    ratio = decide(Claim("", "", final("low") / final("low"), at_least(1)), arms)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1, 1, 1))


def test_a_claim_holds_where_the_whole_interval_obeys_its_rule():
    assert at_least(2).holds(2, 9)
    assert not at_least(2).holds(1.9, 9)
    assert at_most(2).holds(-1, 2)
    assert not at_most(2).holds(-1, 2.1)
    assert Rule(1, 2).holds(1, 2)
    assert not Rule(1, 2).holds(0.9, 1.5)
    assert [str(rule) for rule in (at_least(2.5), at_most(0), Rule(1, 2))] == [
        "at least 2.5",
        "at most 0",
        "from 1 to 2",
    ]
    arms = {"A": arm(RNG.uniform(0, 9, (5, 2, 20)))}
    found: Any = decide(Claim("it is", "so they say", quantity("final", "A"), at_most(4.5)), arms)
    assert found.low < 4.5 < found.high
    assert not found.holds
    assert found.to_json()["holds"] is False
    assert "last tenth of episodes [A]" in found.to_json()["statistic"]


def test_one_task_with_one_training_seed_shows_nothing():
    """Rollouts of 0 and 10 on one task: 5 on average, and no interval that a rule could be held to."""
    one, many = arm(np.array([[[0.0] * 20, [10.0] * 20]])), arm(np.full((3, 2, 20), 4.0))

    def final(name):
        return quantity("final", name)

    for asked in (final("one"), final("one") - final("many"), final("many") / final("one")):
        found = decide(Claim("", "", asked, at_least(-99)), {"one": one, "many": many})
        assert (found.low, found.high, found.holds) == (None, None, False)
        assert "no interval" in text.told(found.to_json())
        json.dumps(found.to_json(), allow_nan=False)
    assert decide(Claim("", "", final("many"), at_least(4)), {"many": many}).holds
    two = made.results(made.grid_set(tasks=1), seeds=(0, 1))
    two["runs"][1]["sets"][0]["returns"]["sampled"] = made.curve(1, high=6.0)
    over_seeds = decide(Claim("", "", final("two"), at_least(6)), {"two": gather(two)})
    assert (over_seeds.low, over_seeds.high, over_seeds.holds) == (6, 8, True)


def test_numbers_of_any_size_are_written_down():
    tiny = decide(Claim("", "", quantity("final", "A"), at_least(0)), {"A": arm(np.full((3, 2, 20), 4.25e-6))})
    assert tiny.to_json()["value"] == tiny.to_json()["low"] == 4.25e-6
    assert text.told(tiny.to_json()) == "4.25e-06 (4.25e-06 to 4.25e-06)"
    level = quantity("episodes_to", "A", 5e-10)
    assert level.value({"A": arm(np.full((3, 2, 20), 4e-10))})[0] == 21, "which is not reached to rounding"


def test_steps_are_those_that_episodes_had():
    """Both learn to end their episodes early: 10 episodes of 20 steps then 10 of 4, against 40 pieces of 20."""
    lengths = [20] * 10 + [4] * 10
    learner, lifetime = np.array([lengths] * 2)[None] * -1.0, [20] * 30 + [5] * 80
    one = made.grid_set(tasks=1, **lifetimes.as_data([[[(-np.array(lifetime), np.array(lifetime))] * 2]], 1000))
    one |= {"returns": {"sampled": learner.tolist()}, "steps": {"sampled": (-learner).astype(int).tolist()}}
    one["tasks"][0]["random"] = -25.0
    arms = {"A": gather(made.results(one))}

    def value(name, *arguments):
        return quantity(name, "A", *arguments).value(arms)[0]

    assert value("steps_to", -4.0) == 10 * 20 + 4
    assert value("steps_to", -3.0) == 10 * 20 + 10 * 4 + 4, "not reached: one episode more than there are"
    assert value("source_steps_to", -5.0) == 31 * 20 * 2
    assert value("source_regret") == pytest.approx(20 * (10 + 20)), "of as many episodes"
    assert value("score") == pytest.approx((-12 + 25) / (-20 + 25))
    with pytest.raises(
        ConfigError, match=r"over 200 episodes needs as many of the source; one of its lifetimes has 110"
    ):
        value("source_between", 1, 200)


def test_sets_and_modes_are_chosen_by_name():
    results = made.results(made.grid_set(), made.grid_set("other"))
    results["runs"][0]["sets"][1]["returns"]["sampled"] = made.curve(high=3.0)
    arms = {"A": gather(results)}

    def value(**options):
        return decide(Claim("", "", quantity("final", "A", **options), at_least(0)), arms).value

    assert (value(), value(set="other"), value(mode="greedy")) == (8, 3, 7)
    assert curves_of(arms["A"][0], "greedy").learner.shape == (1001, 20)


@pytest.mark.parametrize(
    ("build", "part"),
    [
        (lambda: quantity("finall", "A"), "final"),
        (lambda: quantity("final", "B").value({"A": arm(LEARNER)}), "'B'"),
        (lambda: quantity("final", "A", set="held").value({"A": arm(LEARNER)}), "held_out"),
    ],
)
def test_unknown_names_are_refused_with_near_matches(build, part):
    with pytest.raises(ConfigError, match=part):
        build()


def test_a_number_of_the_source_needs_one():
    one = made.grid_set() | {"source": None}
    with pytest.raises(ConfigError, match="source_seeds above 0"):
        quantity("source_final", "A").value({"A": gather(made.results(one))})


def test_a_mean_of_episodes_that_nobody_had_is_refused():
    arms = {"AD": arm(LEARNER)}
    assert np.allclose(quantity("between", "AD", 20, 30).value(arms)[0], CURVE[19])
    for first, last in ((21, 30), (0, 5), (5, 4)):
        with pytest.raises(ConfigError, match=rf"mean of episodes {first} to {last} .*there are 20"):
            quantity("between", "AD", first, last).value(arms)


def test_a_ratio_to_a_time_that_never_came_holds_nothing():
    """A flat learner is nowhere near the level; the steps it took are no time to it."""
    flat = {"AD": arm(np.full((3, 2, 20), 0.1), SOURCE)}
    ratio = quantity("source_steps_to", "AD", 4) / quantity("steps_to", "AD", 4)
    assert not ratio.value(flat).any()
    assert not decide(Claim("AD needs fewer steps", "", ratio, at_least(0.001)), flat).holds


def test_a_rank_correlation_is_that_of_each_draw():
    learners = {name: RNG.uniform(0, 9, (4, 2, 20)) + 2 * i for i, name in enumerate("ABCD")}
    arms = {name: arm(learner) for name, learner in learners.items()}
    of = tuple(quantity("mean", name) for name in "ABCD")
    given = 1.0, 3.0, 2.0, 7.0
    found = Rank(of, given).value(arms, 50)
    each = np.stack([one.value(arms, 50) for one in of], axis=1)
    np.testing.assert_allclose(found, np.array([np.asarray(spearmanr(row, given))[0] for row in each]))
    assert Rank(of, given).units(arms) == 4
    same = dict.fromkeys("ABCD", arms["A"])
    assert not Rank(of, given).value(same, 5).any()  # what does not change follows nothing
    assert "A: 1, B: 3" in str(Rank(of, given))


@pytest.mark.parametrize("given", [(1.0, 2.0), (1.0, 2.0, 2.0)])
def test_a_rank_correlation_needs_numbers_that_differ(given):
    with pytest.raises(ConfigError, match="at least 3 arms, each with a number of its own"):
        Rank(tuple(quantity("mean", name) for name in "ABC"[: len(given)]), given)
