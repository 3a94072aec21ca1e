"""The examples that solve problems: their worlds and sources keep the contracts, every part runs, their pages say what
their results say.
"""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad_jax.testing import check_env, check_source
from examples.thermostat import run as heating
from examples.thermostat.optimum import value_iteration
from examples.thermostat.world import DAY, Thermostat, live, outside
from examples.tune_models import run as tuning
from examples.tune_models.searches import GPUCB, LocalSearch
from examples.tune_models.world import SIDE, Tuning, tables, tasks_of

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = {"tune_models": tuning, "thermostat": heating}


@pytest.mark.parametrize("family", [Tuning(), pytest.param(Thermostat(days=1), marks=pytest.mark.slow)], ids=repr)
def test_the_worlds_keep_the_contract(family):
    assert len(check_env(family)) > 10


@pytest.mark.parametrize("source", [GPUCB(), LocalSearch()], ids=lambda source: type(source).__name__)
def test_the_searches_keep_the_contract(source):
    assert len(check_source(source, Tuning())) > 3


def searched(source, scores: np.ndarray, trials: int) -> tuple[np.ndarray, tuple]:
    """Return the settings that a search tries on one table, and what it believes at the end."""
    family, task = Tuning(), jax.tree.map(lambda x: x[0], tasks_of(scores[None]))
    made = source.make(family)

    def update(state, key):
        state, transition = made.update(key, state, task)
        return state, transition.action[0, 0]

    (belief, *_), actions = jax.lax.scan(
        update, made.init(jax.random.key(0), task), jax.random.split(jax.random.key(1), trials)
    )
    return np.asarray(actions), belief


def test_gp_ucb_believes_what_a_gaussian_process_does():
    """One observation after another is all of them at once (Rasmussen and Williams 2006, equations 2.25 and 2.26)."""
    scores = np.random.default_rng(0).random(SIDE**2).astype(np.float32)
    source = GPUCB(length=2.0, noise=0.1)
    actions, (mean, covariance) = searched(source, scores, 12)
    place = np.stack(np.divmod(np.arange(SIDE**2), SIDE), 1)
    prior = 1 + 0.09 * np.exp(-((place[:, None] - place[None]) ** 2).sum(-1) / 8)
    seen = np.linalg.solve(prior[np.ix_(actions, actions)] + 0.01 * np.eye(12), prior[actions])
    np.testing.assert_allclose(mean, seen.T @ scores[actions], atol=1e-3)
    np.testing.assert_allclose(covariance, prior - prior[:, actions] @ seen, atol=1e-3)


def test_local_search_keeps_the_best_and_stays_near_it():
    scores = np.random.default_rng(0).random(SIDE**2).astype(np.float32)
    actions, (best, score) = searched(LocalSearch(anywhere=0.0), scores, 40)
    assert scores[actions].max() == score == scores[best]
    before = actions[:-1][np.array([scores[actions[: t + 1]].argmax() for t in range(39)])]
    far = np.abs(np.stack(np.divmod(actions[1:], SIDE)) - np.stack(np.divmod(before, SIDE)))
    assert far.max() == 2
    assert len(set(actions.tolist())) > 10


@pytest.mark.parametrize("unseen", tuning.UNSEEN)
def test_no_cut_of_an_unseen_data_set_is_trained_on(unseen):
    family = Tuning(unseen)
    seen = sum(len(table) for name, table in tables().items() if name not in unseen)
    split = family.split(0, seen, 8)
    assert tuple(split.held_out) == unseen
    trained = {row.tobytes() for row in np.asarray(split.train.scores)}
    assert len(trained) == seen
    for name, tasks in split.held_out.items():
        rows = {row.tobytes() for row in np.asarray(tasks.scores)}
        assert rows <= {row.tobytes() for row in tables()[name]}
        assert not trained & {row.tobytes() for row in tables()[name]}
    with pytest.raises(ValueError, match=f"expected 1 to {seen} tasks of"):
        family.split(0, seen + 1, 8)


def test_the_tables_are_those_of_scikit_learn():
    """As they were made, and as `KernelRidge` itself scores its settings: some of each row and column of the grid."""
    sklearn = pytest.importorskip("sklearn.kernel_ridge", reason="pip install 'ad-jax[examples]'")
    from examples.tune_models import tables as made

    cut = made.cut("wine", 7, *made.load("wine"))
    x, taught, unseen, labels = cut
    scores = made.scores(*cut)
    np.testing.assert_array_equal(scores.astype(np.float16), tables()["wine"][7].astype(np.float16))
    names, commonest = np.unique(taught), np.unique(labels, return_counts=True)[1].max() / len(labels)
    for i in range(SIDE):
        j = 5 * i % SIDE
        model = sklearn.KernelRidge(alpha=made.RIDGE[i], kernel="rbf", gamma=made.GAMMA[j])
        model.fit(x, np.where(taught[:, None] == names, 1.0, -1.0))
        right = (names[model.predict(unseen).argmax(1)] == labels).mean()
        assert scores[SIDE * i + j] == pytest.approx((right - commonest) / (1 - commonest), abs=1e-9)


def lived(task, levels, state=None):
    """Return air, outside and cost of every step at given levels, in weather that stays."""
    state = Thermostat().reset_env(jax.random.key(0), task)[1] if state is None else state

    def step(state, level):
        after, cost = live(state, level, task)
        return after, (after.air, outside(state), cost)

    return jax.lax.scan(step, state, jnp.asarray(levels, jnp.float32))[1]


def test_heat_raises_the_mean_temperature_by_its_resistance_to_the_outside():
    """What a linear building does in the end, whatever its capacities: power times both resistances."""
    task = Thermostat().default_params
    air, outdoors, _ = lived(task, np.full(120 * DAY, 0.5))
    raised = float(jnp.mean(air[-DAY:]) - jnp.mean(outdoors[-DAY:]))
    # From day 20 on, nothing halves the power of the average building: it does so on no day of its 20.
    assert raised == pytest.approx(float(0.25 * task.power * (task.inner + task.outer)), rel=1e-3)


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_heat_comes_late_and_halves_on_its_day(delay):
    task = dataclasses.replace(Thermostat().default_params, delay=jnp.int32(delay), halves=jnp.int32(1))
    pulse = np.zeros(2 * DAY)
    pulse[[3, DAY + 3]] = 1.0
    warmer = np.asarray(lived(task, pulse)[0] - lived(task, np.zeros(2 * DAY))[0])
    rise = np.diff(warmer, prepend=0.0)
    assert np.flatnonzero(rise > 0.05).tolist() == [3 + delay, DAY + 3 + delay]
    assert rise[DAY + 3 + delay] == pytest.approx(rise[3 + delay] / 2, rel=0.2)


def test_the_program_of_the_day_is_read_off_the_circle():
    """The controllers see the time as a point; what they want of it changes on the half hour."""
    family = Thermostat()
    _, state = family.reset_env(jax.random.key(0), family.default_params)
    times = jnp.arange(DAY, dtype=jnp.int32)
    seen = jax.vmap(
        lambda t: family.observe(jax.random.key(0), dataclasses.replace(state, time=t), None, family.default_params)
    )
    hours = np.flatnonzero(heating.wanted(np.asarray(seen(times)), 1.0) > 20) / 2
    np.testing.assert_array_equal(hours, np.arange(6.0, 22.0, 0.5))


@pytest.mark.slow
def test_value_iteration_costs_no_more_than_a_planner():
    """In buildings that both know, whose heater fails on the second day; a little more than the grid leaves over."""
    house = Thermostat(days=3)
    buildings = dataclasses.replace(house.sample_tasks(jax.random.key(3), 3), halves=np.full(3, 1, np.int32))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        least = heating.control(house, buildings, value_iteration(buildings, points=13, days=2))
        planned = heating.control(house, buildings, heating.planner(house, buildings))
        by_rule = heating.control(house, buildings, heating.pi(1.0, 0.4, 0.03))
    assert least.sum() < 1.02 * planned.sum()
    assert planned.sum() < by_rule.sum()


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_part_of_an_example_runs(name, tmp_path, capsys, monkeypatch):
    example = EXAMPLES[name]
    monkeypatch.setattr(tuning, "SETTINGS", tuning.SETTINGS[:1])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        results = example.main(tmp_path, quick=True, seeds=1)
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
    shown = capsys.readouterr().out
    assert all(line in shown for line in example.verdict(results))
    assert json.loads((tmp_path / "results.json").read_text()) == results
    ways = example.by_way(results)
    assert {"distilled"} < set(ways)
    if name == "tune_models":
        assert all((np.diff(values) <= 0).all() and (values >= -1e-4).all() for values in ways.values())
        np.testing.assert_array_equal(ways["best ten together"][..., 0], ways["best on average"][..., 0])
    else:
        assert all((values > 0).all() for values in ways.values())


@pytest.mark.parametrize("name", [name for name in EXAMPLES if (FOLDER / name / "results.json").exists()])
def test_a_page_says_what_its_results_say(name):
    page, results = ((FOLDER / name / file).read_text() for file in ("README.md", "results.json"))
    lines = EXAMPLES[name].verdict(json.loads(results))
    assert len(lines) > 4
    assert not [line for line in lines if line not in page]
