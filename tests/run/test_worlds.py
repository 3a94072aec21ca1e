"""Worlds unlike ours, through the whole pipeline: every number that is reported of them is computed again in NumPy.

Episodes that end early, costs beside prizes, real observations with a hidden parameter, components that have nothing to
do with one another: see `families`. A run is recorded step by step, and each step is held against a plain simulator.
"""

import dataclasses
import functools
import json
import re
import types

import jax
import numpy as np
import pytest
from families import audit, audit_histories, audit_report, audit_shown
from families.running import WORLDS, evaluated, known_of, ran, value_of

from ad_jax import Run
from ad_jax.history import info, replay
from ad_jax.history import store as history_store
from ad_jax.report import report
from ad_jax.report.drawings import figures_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Each world's run, made when it is asked for."""
    return functools.cache(lambda name: ran(name, tmp_path_factory.mktemp(name), "tiny"))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.slow) if name in ("costs", "floats", "vector") else name for name in WORLDS
    ],
)
def at(request, runs):
    return runs(request.param)


@pytest.fixture(scope="module")
def prompted(runs, tmp_path_factory):
    """Return a trained model, shown three episodes that cost little of the way from random to optimal; it costs below
    that.
    """
    at = runs("costs")
    asked = dataclasses.replace(at.e.evaluate, prompt=0.8, prompt_episodes=3, source_seeds=0)
    folder = tmp_path_factory.mktemp("prompted")
    return evaluated("costs", Run(dataclasses.replace(at.e, evaluate=asked), folder, trained=at.folder))


@pytest.fixture(scope="module")
def lived(at):
    """Return the histories of the run, and their episodes."""
    store = history_store.open_store(at.folder / "histories")
    histories = store.read()
    return types.SimpleNamespace(
        store=store, histories=histories, streams=audit_histories.streams_of(at.world, histories)
    )


def test_episodes_end_early_and_not_all_alike(at):
    lengths = audit.steps(at.truth.rollouts["sampled"])
    assert len({x for task in lengths for rollout in task for x in rollout}) > 2


def test_results_hold_what_happened(at):
    (run,) = at.results["runs"]
    audit_report.check_results(run["sets"][0], at.truth, at.known.actors)


def test_stages_tell_the_steps_that_were_taken(at):
    stages = at.results["runs"][0]["stages"]
    rollouts = sum(r.action.size for r in at.recording.rollouts)
    assert stages["evaluate"]["env_steps"] <= rollouts
    counted = sum(sum(audit_report.flat(audit.steps(x))) for x in at.truth.rollouts.values())
    assert stages["evaluate"]["env_steps"] >= counted
    e, p = at.e, at.p
    lifetime = -(-e.collect.episodes * at.known.longest // p.source.steps_per_update) * p.source.steps_per_update
    assert stages["collect"]["env_steps"] == e.tasks.train * e.collect.seeds * p.source.actors * lifetime
    assert stages["distill"]["updates"] == e.method.updates
    assert all(stage["seconds"] > 0 for stage in stages.values())


def test_the_terminal_counts_the_steps_that_were_taken(at):
    """The last line of each rollout: so many of as many, though episodes could have been longer."""
    lines = re.findall(r"evaluate (\d+)/(\d+) steps of held_out, (\w+)", at.told.getvalue())
    last = {mode: (int(done), int(total)) for done, total, mode in lines}
    most = at.e.evaluate.episodes * at.known.longest
    for mode, raw in zip(at.truth.rollouts, at.recording.rollouts, strict=True):
        taken = min(len(raw.action), most)
        assert last[mode] == (taken, taken)


def test_the_returns_of_every_row(at):
    for row in at.stats["rows"]:
        audit_report.check_row(row, [at.truth])


def test_data_efficiency_counts_steps(at):
    audit_report.check_source(at.stats["source"], [at.truth], at.known)


def test_the_texts_show_these_numbers(at):
    audit_shown.check_summary(report.summary(at.results), [at.truth], at.known)
    audit_shown.check_table(report.table(at.results), [[at.truth]], [at.key])
    audit_shown.check_page((at.folder / "report/index.html").read_text(), report.statistics(at.results))


def test_the_figures_draw_these_numbers(at):
    drawn = {stem: figure for stem, (figure, _) in figures_of(at.s, at.stats).items()}
    audit_shown.check_figures(drawn, [at.truth], at.known)


def test_claims_are_made_of_these_numbers(at):
    audit_report.check_claims(value_of(at), [at.truth], at.known)


def test_shares_count_from_the_random_policy(at):
    for row in at.stats["rows"]:
        audit_report.check_shares(row, [at.truth], at.known)
    audit_report.check_normalized(value_of(at), at.stats["source"], [at.truth], at.known)


def test_the_log_has_the_return_of_every_episode(at):
    records = [json.loads(line) for line in (at.folder / "metrics.jsonl").read_text().splitlines()]
    for mode, streams in at.truth.rollouts.items():
        logged = {r["step"]: r["return"] for r in records if r["stage"] == f"evaluate/{at.key}/{mode}"}
        curve = np.mean(audit.returns(streams), axis=(0, 1))
        audit.close([logged[step] for step in sorted(logged)], curve.tolist())


def test_what_is_said_of_the_histories(at, lived):
    text, store = info.info(at.folder / "histories"), lived.store
    ids = at.p.family.task_ids(at.p.split.train)
    best = known_of(at.p.family, at.p.split.train, at.p.source.actors)
    row = [ids.index(task) for task in lived.histories.task_ids]
    known = None if best.optimal is None else (best.optimal[0][row], best.random[0][row])
    audit_histories.check_info(text, store.returns, lived.streams, store.manifest.steps, at.p.source.actors, known)
    if known is not None:
        audit_histories.check_percent(text, store.returns)


@pytest.mark.parametrize(
    "settings", [{}, {"keep_every": 3, "phases": 2}, {"tail": 0.4}, {"tail": 0.5, "keep_every": 2}]
)
def test_training_sees_the_episodes_that_it_is_meant_to(at, lived, settings):
    """Resident histories hold the steps of the kept episodes, in order, and nothing else."""
    config = dataclasses.replace(at.e.replay, **settings)
    h, lifetime = lived.histories, lived.store.manifest.steps
    subsampled, lengths = replay.subsample(h, config)
    count = len(h.task_ids)
    for phase in range(config.phases):
        for row in range(count):
            kept = audit_histories.kept_steps(
                lived.streams[row], lifetime, config.tail, config.keep_every, phase, config.phases
            )
            at_row = phase * count + row
            assert lengths[at_row] == len(kept)
            for name in ("observation", "action", "reward"):
                np.testing.assert_array_equal(
                    subsampled[name][at_row, : len(kept)], np.asarray(getattr(h.transition, name))[row, kept]
                )


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_the_best_histories_are_those_whose_episodes_end_best(at, lived, share):
    config, t = dataclasses.replace(at.e.replay, best=share), lived.histories.transition
    ids = [lived.histories.task_ids[0]] * len(lived.streams)  # one large task: all are ranked together
    for names in (lived.histories.task_ids, ids):
        kept = replay.select(replay.final_return(t.reward, t.terminated | t.truncated), names, config)
        expected = audit_histories.best_rows(lived.streams, names, lived.store.manifest.steps, share)
        assert kept.tolist() == expected


def test_one_world_in_many_batches_is_one_world(at):
    """The tasks of the run are those of its ids, in order."""
    ids = at.p.family.task_ids(at.tasks)
    assert [task["id"] for task in at.results["runs"][0]["sets"][0]["tasks"]] == ids
    assert jax.tree.leaves(at.tasks)[0].shape[0] == len(ids) == at.e.tasks.held_out


def test_a_prompt_whose_episodes_end_early_is_cut_where_it_ends(prompted):
    (run,) = prompted.results["runs"]
    audit_report.check_results(run["sets"][0], prompted.truth, prompted.known.actors)
    lengths = audit.steps(prompted.truth.shown["sampled"])
    assert min(x for task in lengths for rollout in task for x in rollout) < prompted.known.longest
    audit_report.check_row(prompted.stats["rows"][-1], [prompted.truth])
    assert prompted.stats["source"] is None


def test_what_is_shown_is_so_far_on_the_way_from_random_to_optimal(prompted):
    """A demonstrator of the noise that was chosen, played in NumPy."""
    told, world = prompted.results["runs"][0]["sets"][0]["prompt"], prompted.world
    assert told["share"] == 0.8
    random, (address,) = np.random.default_rng(0), [np.asarray(prompted.tasks.address)]
    count, total = 4000, []
    for task in address:
        tasks = {"address": np.tile(task, (count, 1))}
        others = np.array([cell for cell in np.ndindex(world.size, world.size) if cell != tuple(task)])
        state = {"time": np.zeros(count, int), "place": others[random.integers(0, len(others), count)]}
        earned, over = np.zeros(count), np.zeros(count, bool)
        for _ in range(world.limit):
            down, right = (tasks["address"] - state["place"]).T
            best = np.where(down > 0, 0, np.where(down < 0, 1, np.where(right > 0, 2, 3)))
            action = np.where(random.random(count) < told["noise"], random.integers(0, 4, count), best)
            state, reward, ended = world.step(state, action, tasks)
            earned, over = earned + np.where(over, 0.0, reward), over | ended
        total.append(earned.mean())
    best, chance = prompted.known.optimal.mean(), prompted.known.random.mean()
    assert abs((np.mean(total) - chance) / (best - chance) - 0.8) < 0.1  # 64 simulated episodes of each task chose it
