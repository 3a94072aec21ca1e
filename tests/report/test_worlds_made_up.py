"""Reports of made-up runs of every shape, held against what happened in them: no environment, no model, no JAX."""

import dataclasses

import numpy as np
import pytest
from families import audit_report, audit_shown
from families.made_up import Shape, happened, known_of, results_of
from report_helpers import save

from ad_jax.report import report
from ad_jax.report import results as report_input
from ad_jax.report.drawings import figures_of
from ad_jax.study import claims

SHAPES = {
    "plain": Shape(),
    "episodes of one step": Shape(longest=1, lifetime=40),
    "all of full length": Shape(shortest=20),
    "all of one length that is not the longest": Shape(shortest=7, longest=7),
    "some end on their first step": Shape(longest=60, lifetime=600),
    "eight actors": Shape(actors=8, longest=30, lifetime=300),
    "the learner takes less than one lifetime's piece": Shape(actors=16, longest=50, lifetime=400, episodes=4),
    "three runs": Shape(runs=3, tasks=4),
    "one task": Shape(tasks=1),
    "one task, three runs": Shape(tasks=1, runs=3),
    "one rollout of one task": Shape(tasks=1, rollouts=1, seeds=1, greedy=False),
    "one episode": Shape(episodes=1),
    "costs": Shape(size=30.0, shift=-4.0),
    "costs that never pay": Shape(size=5.0, shift=-9.0),
    "large rewards": Shape(size=1e6),
    "tiny rewards": Shape(size=1e-6),
    "tiny costs": Shape(size=1e-5, shift=-5.0),
    "no source": Shape(source=False),
    "nothing known": Shape(known=False),
    "nothing known, costs": Shape(known=False, shift=-5.0),
    "a lifetime that is no multiple of the longest episode": Shape(longest=30, lifetime=217),
    "many episodes": Shape(episodes=100, longest=6, lifetime=300),
}


@pytest.mark.parametrize("draw", range(2))
@pytest.mark.parametrize("name", SHAPES)
def test_every_number_is_that_of_what_happened(name, draw, tmp_path):
    shape, rng = SHAPES[name], np.random.default_rng([draw, len(name)])
    runs, known = happened(rng, shape), known_of(rng, shape)
    results = report.load([save(tmp_path / "results.json", results_of(runs, known, shape))])
    for one, t in zip((run["sets"][0] for run in results["runs"]), runs, strict=True):
        audit_report.check_episodes(one, t, shape.actors)
    stats = report.statistics(results)["sets"]["held_out"]
    assert [row["seed"] for row in stats["rows"]] == [*range(shape.runs), "all"]
    for i, row in enumerate(stats["rows"]):
        some = runs if row["seed"] == "all" else runs[i : i + 1]
        audit_report.check_row(row, some)
        audit_report.check_shares(row, some, known)
    audit_report.check_source(stats["source"], runs, known)
    audit_shown.check_summary(report.summary(results), runs, known)
    audit_shown.check_table(report.table(results), [runs], ["held_out"])
    (s,) = report_input.gather(results)

    def value(statistic, *arguments):
        return claims.quantity(statistic, "AD", *arguments).value({"AD": [s]})

    audit_report.check_claims(value, runs, known)
    audit_report.check_normalized(value, stats["source"], runs, known)


@pytest.mark.parametrize(
    "name", ["eight actors", "costs", "tiny rewards", "the learner takes less than one lifetime's piece"]
)
def test_what_is_drawn_is_what_happened(name, tmp_path):
    shape, rng = SHAPES[name], np.random.default_rng(len(name))
    runs, known = happened(rng, shape), known_of(rng, shape)
    results = report.load([save(tmp_path / "results.json", results_of(runs, known, shape))])
    page = report.write(results, tmp_path / "report").read_text()
    stats = report.statistics(results)
    audit_shown.check_page(page, stats)
    (s,) = report_input.gather(results)
    figures = {stem: figure for stem, (figure, _) in figures_of(s, stats["sets"]["held_out"]).items()}
    audit_shown.check_figures(figures, runs, known)


def test_each_set_of_tasks_has_its_own_numbers(tmp_path):
    shapes = {"near": Shape(runs=2), "far": Shape(runs=2, tasks=5, episodes=12, shift=-3.0, source=False)}
    made, runs_of = {}, {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(len(name))
        runs = happened(rng, shape)
        known = known_of(rng, shape)
        runs_of[name], made[name] = (runs, known), results_of(runs, known, shape)
    results = made["near"]
    for run, other in zip(results["runs"], made["far"]["runs"], strict=True):
        run["sets"] = [run["sets"][0] | {"name": "near"}, other["sets"][0] | {"name": "far"}]
    results = report.load([save(tmp_path / "results.json", results)])
    stats = report.statistics(results)["sets"]
    for name, (runs, known) in runs_of.items():
        audit_report.check_row(stats[name]["rows"][-1], runs)
        audit_report.check_shares(stats[name]["rows"][-1], runs, known)
        audit_report.check_source(stats[name]["source"], runs, known)
    audit_shown.check_table(report.table(results), [runs for runs, _ in runs_of.values()], list(shapes))
    audit_shown.check_summary(report.summary(results), *runs_of["near"])


def test_a_wrong_number_would_be_found(tmp_path):
    """The audit is no formality: one episode a step longer, or one return off, and it does not agree."""
    shape, rng = Shape(), np.random.default_rng(0)
    runs, known = happened(rng, shape), known_of(rng, shape)
    results = results_of(runs, known, shape)
    stats = report.statistics(results)["sets"]["held_out"]
    audit_report.check_source(stats["source"], runs, known)
    longer = runs[0].rollouts["sampled"][0][0]
    longer[0] = dataclasses.replace(longer[0], steps=longer[0].steps + 1)
    with pytest.raises(AssertionError):
        audit_report.check_source(stats["source"], runs, known)
    longer[-1] = dataclasses.replace(longer[-1], total=longer[-1].total + 0.01)
    with pytest.raises(AssertionError):
        audit_report.check_row(stats["rows"][0], runs)
