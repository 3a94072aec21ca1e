"""The limits of in-context learning: the explorer's plan, returns and bound, Thompson sampling, the pipeline."""

import dataclasses
import functools
import itertools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import mesh_of, unused

from ad_jax import envs
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.errors import ConfigError
from ad_jax.experiment import build, load, override
from ad_jax.files import read_json
from ad_jax.policies.explorer import Explorer, walk
from ad_jax.policies.search_plan import Room, bounds, plan, returns
from ad_jax.policies.thompson import Thompson, log_best
from ad_jax.run.pipeline import Run
from ad_jax.stage.evaluate import evaluate
from ad_jax.stage.rollout import make_evaluator
from ad_jax.types import Steps

PAPER = Room(9, 20, "center", "every_step")
SMALL = Room(4, 6, "corner", "once")
LIFE, BEAM = 100, 300
KEY = jax.random.key(0)
ROOMS = [PAPER, SMALL, Room(5, 7, "center", "once"), Room(4, 5, "corner", "every_step")]  # the last has far cells


@functools.cache
def planned(room):
    return walk(room, LIFE, BEAM)


def rolled_out(room, episodes):
    """Return `[E, C]` of the explorer as `evaluate` gets them, one rollout on every goal of the room."""
    family = envs.make("dark_room", dataclasses.asdict(room))
    policy, tasks = Explorer(LIFE, BEAM).make(family), family.all_tasks()
    runner = make_evaluator(policy, family, mesh_of(), episodes, episodes * room.steps)
    ids = family.task_ids(tasks)
    curve = evaluate(runner, {}, tasks, ids, 1, episodes, family, mesh_of(), seed=3)
    return curve.returns[:, 0].T, np.asarray(family.optimal_return(tasks))


def nearest_unseen(room, episodes, ties=0):
    """Return a searcher that always goes to the nearest cell it has not been on; moves `[E, T]`. `ties`: a seed."""
    noise = np.random.default_rng(ties).random(room.size**2) / 2
    seen, actions = np.zeros(room.size**2, bool), np.zeros((episodes, room.steps), int)
    place = np.stack(np.divmod(np.arange(room.size**2), room.size), 1)
    for e in range(episodes):
        cell = room.first
        for t in range(room.steps):
            if seen.all():
                continue
            far = np.where(seen, 99, np.abs(place - place[cell]).sum(1) + noise)
            goal = place[far.argmin()]

            def closest(move):
                return np.abs(place[room.reached[cell, move]] - goal).sum()  # noqa: B023

            actions[e, t] = min(range(5), key=closest)
            cell = room.reached[cell, actions[e, t]]
            seen[cell] = True
    return actions


@pytest.mark.parametrize("room", ROOMS, ids=str)
def test_the_explorer_earns_what_was_planned_on_every_goal(room):
    """Through the environment and the evaluator, goal by goal and episode by episode; and then the optimum for good."""
    episodes = len(planned(room)) + 2
    earned, optimal = rolled_out(room, episodes)
    np.testing.assert_array_equal(earned, returns(room, planned(room), episodes))
    np.testing.assert_array_equal(earned[-2:], np.stack([optimal, optimal]))
    found = np.cumsum(earned > 0, axis=0) > 1  # in an earlier episode
    np.testing.assert_array_equal(earned[found], np.broadcast_to(optimal, earned.shape)[found])


@pytest.mark.parametrize("room", ROOMS, ids=str)
def test_the_walk_steps_on_every_cell_that_can_be_reached_in_an_episode(room):
    cells, seen = {room.first}, set()
    for episode in planned(room):
        cell = room.first
        for action in episode:
            cell = room.reached[cell, action]
            seen.add(int(cell))
    for _ in range(room.steps):
        cells |= set(room.reached[list(cells)].reshape(-1).tolist())
    assert seen == cells
    assert (room.optimal > 0).sum() == len(cells)


@pytest.mark.parametrize("room", ROOMS, ids=str)
def test_the_bound_is_above_the_plan_and_below_the_optimum(room):
    each, total = bounds(room, LIFE)
    earned = returns(room, planned(room), LIFE).mean(1)
    assert np.all(earned <= each + 1e-9)
    assert earned.sum() <= total + 1e-9 <= each.sum() + 2e-9
    assert np.all(each <= room.optimal.mean() + 1e-9)
    assert np.all(returns(room, nearest_unseen(room, 30), LIFE).mean(1) <= each + 1e-9)


def test_the_plan_is_near_its_bound_and_better_than_going_to_the_nearest_unseen_cell():
    """In the room of the experiment; and where the goal is paid once the plan is the optimum."""
    nearest = [returns(PAPER, nearest_unseen(PAPER, 12, ties), LIFE) for ties in range(10)]
    np.testing.assert_array_equal(nearest[0][-1], PAPER.optimal)
    mine = returns(PAPER, planned(PAPER), LIFE).mean(1)
    assert mine.sum() > max(one.mean(1).sum() for one in nearest)
    assert len(planned(PAPER)) == 5
    assert bounds(PAPER, LIFE)[1] - mine.sum() < 1.5
    once = dataclasses.replace(PAPER, reward="once")
    assert returns(once, planned(once), LIFE).mean(1).sum() == pytest.approx(bounds(once, LIFE)[1])


def test_this_page_states_what_is_planned():
    """docs/limits.md: the rows of Dark Room, with the default beam."""
    page = (pathlib.Path(__file__).parents[2] / "docs" / "limits.md").read_text()
    actions, (each, total) = plan(PAPER, LIFE, Explorer().beam), bounds(PAPER, LIFE)
    earned = returns(PAPER, actions, LIFE)
    goals = np.asarray(build(load("dark_room")).split.held_out["held_out"].goal) @ np.array([9, 1])
    rows = {
        "explorer, all 81 goals": earned.mean(1),
        "bound, all 81 goals": each,
        "explorer, the 16 held-out goals": earned[:, goals].mean(1),
    }
    for name, values in rows.items():
        assert f"| {name} | {' | '.join(f'{value:.2f}' for value in values[:8])} |" in page
    assert f"center, every step | {earned.mean(1).sum():.2f} | {total:.2f} | {len(actions)} |" in page


def test_a_hard_room_is_planned_for_in_few_episodes():
    room = Room(17, 20, "center", "once")
    actions = plan(room, LIFE, 200)
    total = bounds(room, LIFE)[1]
    assert 0.995 * total < returns(room, actions, LIFE).mean(1).sum() <= total


@pytest.mark.parametrize(
    ("start", "reward", "steps"), [*itertools.product(("center", "corner"), ("every_step", "once"), (4, 5))]
)
def test_in_a_room_that_can_be_searched_exhaustively_the_plan_is_the_optimum(start, reward, steps):
    """3x3: dynamic programming over every set of seen cells."""
    room, lifetime = Room(3, steps, start, reward), 6
    pays, reached, optimal = room.pays.tolist(), room.reached.tolist(), room.optimal.tolist()

    @functools.cache
    def best(seen, cell, episode, step):
        if episode == lifetime:
            return 0
        values = []
        for to in set(reached[cell]):
            gain = 0 if seen >> to & 1 else pays[step] + (lifetime - 1 - episode) * optimal[to]
            after = (episode, step + 1) if step + 1 < steps else (episode + 1, 0)
            values.append(gain + best(seen | 1 << to, to if after[1] else room.first, *after))
        return max(values)

    assert returns(room, plan(room, lifetime, 500), lifetime).sum() == best(0, room.first, 0, 0)


def test_a_goal_that_pays_with_the_last_step_of_an_episode_is_remembered():
    """The observation is by then the next episode's first; the goal is where the action led."""
    room = Room(4, 6, "corner", "once")
    policy = Explorer(beam=BEAM).make(envs.make("dark_room", dataclasses.asdict(room)))
    cell, cells = room.first, []
    for action in walk(room, LIFE, BEAM)[0]:
        cells.append(cell)
        cell = room.reached[cell, action]
    actions = [5, *walk(room, LIFE, BEAM)[0]]
    positions = np.stack(np.divmod([*cells, room.first], 4), 1)[None].astype(np.int32)
    last = np.arange(7) == 6
    steps = Steps(
        observation=positions,
        prev_action=np.array(actions, np.int32)[None],
        prev_reward=last[None].astype(np.float32),
        prev_done=last[None],
    )
    _, lifetime = functools.reduce(
        lambda carry, t: policy.act({}, carry[1], jax.tree.map(lambda x: x[:, t], steps), jax.random.split(KEY, 1)),
        range(7),
        (unused, policy.init(1)),
    )
    assert int(lifetime.goal[0]) == cell
    assert (int(lifetime.episode[0]), int(lifetime.step[0])) == (1, 0)


def better(a, b, c, d):
    """P(X > Y) for X of Beta(a, b) and Y of Beta(c, d), whole numbers: a finite sum."""

    def log_beta(p, q):
        return math.lgamma(p) + math.lgamma(q) - math.lgamma(p + q)

    terms = [log_beta(c + i, b + d) - math.log(b + i) - log_beta(1 + i, b) - log_beta(c, d) for i in range(a)]
    return sum(math.exp(term) for term in terms)


@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (3, 1, 0, 2), (40, 60, 45, 55), (0, 30, 2, 20), (99, 1, 90, 0)])
def test_the_probability_that_one_of_two_arms_is_best_is_the_closed_form(counts):
    w, x, y, z = counts
    found = np.exp(log_best(jnp.array([[w, y]], jnp.float32), jnp.array([[x, z]], jnp.float32), 512))[0]
    expected = better(w + 1, x + 1, y + 1, z + 1)
    np.testing.assert_allclose(found, [expected, 1 - expected], atol=1e-4)


def test_probabilities_of_ten_arms_are_those_of_draws_from_the_posterior():
    rng, draws = np.random.default_rng(0), 200_000
    ones, zeros = rng.integers(0, 12, (2, 10))
    best = rng.beta(1 + ones, 1 + zeros, (draws, 10)).argmax(1)
    found = np.exp(log_best(jnp.asarray(ones[None], jnp.float32), jnp.asarray(zeros[None], jnp.float32), 512))[0]
    np.testing.assert_allclose(found, np.bincount(best, minlength=10) / draws, atol=5 * np.sqrt(0.25 / draws))
    assert found.sum() == pytest.approx(1, abs=1e-5)


def smoke(env, tmp_path, model, *changes):
    e = override(load(env, "smoke"), ["logging.progress_seconds=1000", *changes])
    run = Run(dataclasses.replace(e, model=model), tmp_path / "run")
    page = run.all()
    return run, page, read_json(tmp_path / "run/results.json")["runs"][0]


@pytest.mark.slow
def test_thompson_sampling_earns_more_than_ucb1_on_the_bandits_of_its_prior(tmp_path):
    """Through every stage of a run, beside the source on the same tasks: 10 arms, 100 pulls."""
    changes = ["env.tasks=uniform", "source.exploration=1.41421356", "tasks.held_out=64", "collect.episodes=100"]
    changes += ["evaluate.episodes=100", "evaluate.episodes_per_dispatch=100", "evaluate.seeds=1"]
    changes += ["evaluate.greedy=False"]
    model = Thompson(points=64)
    _, page, result = smoke("bandit_adversarial", tmp_path, model, *changes)
    (one,) = result["sets"]
    optimal = np.mean([task["optimal"] for task in one["tasks"]])
    pulls = {mode: np.mean(values, (0, 1)) for mode, values in one["returns"].items()}
    regret = {mode: 100 * optimal - rewards.sum() for mode, rewards in pulls.items()}
    ucb = 100 * optimal - np.mean(one["source"]["returns"], (0, 1)).sum()
    assert regret["sampled"] < 0.8 * ucb
    assert pulls["sampled"][-20:].mean() > pulls["sampled"][:20].mean() + 0.1
    assert page.is_file()


def test_the_explorer_runs_through_every_stage_without_histories_or_training(tmp_path, capsys):
    model = Explorer(beam=BEAM)
    run, page, result = smoke("dark_room", tmp_path, model, "collect.episodes=1", "replay.keep_every=1")
    shown = capsys.readouterr().out
    assert "collect  nothing to do: model explorer is not trained" in shown
    assert "distill  nothing to do: model explorer is not trained" in shown
    assert not (run.folder / "histories").exists()
    assert not (run.folder / "checkpoints").exists()
    assert set(result["stages"]) == {"evaluate"}
    assert result["checkpoint"] == {"step": 0, "which": "last"}
    (one,) = result["sets"]
    goals = [goal[0] * 9 + goal[1] for goal in (task["picture"]["goal"] for task in one["tasks"])]
    expected = returns(PAPER, planned(PAPER), 4)[:, goals].T  # [N, E]
    for mode in ("sampled", "greedy"):
        np.testing.assert_array_equal(np.array(one["returns"][mode]), np.stack([expected] * 2, 1))
    assert one["source"]["name"] == "q_learning"
    assert page.is_file()
    assert run.components.model is None


@pytest.mark.parametrize(
    ("experiment", "changes", "words"),
    [
        ("bandit_adversarial", ["model=explorer"], "the explorer knows Dark Room"),
        ("dark_room", ["env=dark_room_permuted", "model=explorer"], "the explorer knows Dark Room"),
        ("dark_room", ["env.start=random", "model=explorer"], "one start; got start='random'. Use env.start=center"),
        ("dark_room", ["env.reward=terminate", "model=explorer"], "reward='terminate'. Use env.reward=once"),
        ("dark_room", ["model=explorer", "model.size=8"], "unknown option of policy explorer 'size'"),
        ("dark_room", ["model=explorer", "model.beam=0"], "model.beam must be at least 1; got 0"),
        ("dark_room", ["model=thompson"], "Thompson sampling is of bandits"),
        ("bandit_adversarial", ["env.reward=gaussian", "model=thompson"], "Use env.reward=bernoulli"),
        ("bandit_adversarial", ["model=thompson", "model.points=1"], "model.points must be at least 2; got 1"),
        ("dark_room", ["model=random", "model.beam=3"], "unknown option of policy random 'beam'"),
    ],
)
def test_what_a_limit_does_not_know_is_refused(experiment, changes, words):
    with pytest.raises(ConfigError, match=words):
        build(override(load(experiment), changes))


class Painted(DarkRoom):
    """Dark Room as a picture."""

    def render(self, observation):
        return jnp.zeros((4, 4, 3), jnp.uint8)


def test_a_room_has_to_show_the_cell():
    with pytest.raises(ConfigError, match=r"sees its cell in the room, .*; Painted shows Spec.*pixels=True"):
        Explorer().make(Painted())
