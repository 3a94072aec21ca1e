"""A share of the optimum counts from a random policy's return: right with costs, refused or "-" where it means nothing.

The numbers of the world of costs: a random policy earns -20, the optimal one -4, so 90 % of the way is -5.6.
"""

import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import report_helpers as made
from flax import struct
from gymnax.environments import environment, spaces

from ad_jax import load_experiment, normalized, override, study
from ad_jax.envs.base import TaskFamily
from ad_jax.errors import ConfigError
from ad_jax.experiment import build
from ad_jax.policies import demonstrator
from ad_jax.report import report, ways
from ad_jax.report.drawings import figures_of
from ad_jax.report.results import gather
from ad_jax.study import reproduce
from ad_jax.study import text as study_text
from ad_jax.study.claims import Claim, at_least, decide, quantity
from ad_jax.types import Array

RANDOM, OPTIMAL = -20.0, -4.0


def costs(low=-20.0, high=-6.0, optimal: float | None = OPTIMAL, random: float | None = RANDOM):
    """Results of a world of costs: `low` in the first 5 episodes, `high` in the other 15."""
    one = made.grid_set()
    one["returns"] = {"sampled": made.curve(low=low, high=high), "greedy": made.curve(low=low, high=high + 1.5)}
    for task in one["tasks"]:
        task |= {"optimal": optimal, "random": random}
    return made.results(one)


def test_a_share_is_of_the_way_from_random_to_optimal():
    assert normalized.share(-5.6, RANDOM, OPTIMAL) == pytest.approx(0.9)
    assert normalized.level(0.9, RANDOM, OPTIMAL) == pytest.approx(-5.6)
    np.testing.assert_allclose(normalized.share(np.array([-20, -12, -4]), RANDOM, OPTIMAL), [0, 0.5, 1])
    shifted = [normalized.share(x + 1e3, RANDOM + 1e3, OPTIMAL + 1e3) for x in (-19.0, -3.0)]
    assert shifted == [normalized.share(x, RANDOM, OPTIMAL) for x in (-19.0, -3.0)], "a constant changes nothing"


@pytest.mark.parametrize(
    ("random", "optimal"),
    [
        (None, 1.0),
        (0.0, None),
        (2.0, 2.0),
        (2.0, 2.0 * (1 + 1e-12)),
        (1.0, 0.0),
        (np.nan, 1.0),
        (0.0, np.inf),
        (np.zeros(2), np.array([1.0, 0.0])),
    ],
)
def test_there_is_no_share_where_it_means_nothing(random, optimal):
    assert normalized.share(0.5, random, optimal) is None
    assert normalized.level(0.5, random, optimal) is None


def test_the_reports_numbers_are_right_with_costs():
    stats = report.statistics(costs())["sets"]["held_out"]
    row = stats["rows"][-1]["sampled"]
    assert row["area"] == pytest.approx((-9.5 + 20) / 16)  # a quarter of the episodes at -20, the others at -6
    assert row["episodes_to"] == {
        "75 % of the way to final": 6,  # -9.5
        "90 % of the way to final": 6,  # -7.4
        "75 % of the way to optimal": 6,  # -8
        "90 % of the way to optimal": None,  # -5.6
    }
    assert stats["rows"][-1]["greedy"]["episodes_to"]["90 % of the way to optimal"] == 6  # its -4.5 is there
    level = stats["source"]["levels"][1]
    assert (level["level"], level["return"]) == ("75 % of the way to the optimum", -8)


def test_the_page_and_the_summary_are_right_with_costs(tmp_path):
    text = re.sub(r"<[^>]*>", "|", report.write(costs(), tmp_path).read_text())
    assert re.search(r"90 % of the way to optimal\|+never\|+6\|", text)
    assert re.search(r"as a share of the way to optimal\|+0\.656\|", text)
    assert report.summary(costs()) == "held-out return -20.0 → -6.0 (optimal -4.0) over 20 in-context episodes"


def test_a_final_return_below_chance_has_no_way_to_it(tmp_path):
    data = costs(low=-22.0, high=-21.0)
    row = report.statistics(data)["sets"]["held_out"]["rows"][-1]
    assert [name for name in row["sampled"]["episodes_to"] if "final" in name] == []
    assert row["sampled"]["episodes_to"]["75 % of the way to optimal"] is None
    assert "75 % of the way to final" in row["greedy"]["episodes_to"]
    text = re.sub(r"<[^>]*>", "|", report.write(data, tmp_path).read_text())
    assert re.search(r"75 % of the way to final\|+-\|+6\|", text)


@pytest.mark.parametrize("unknown", [{"random": None}, {"optimal": None}, {"optimal": -20.0}])
def test_where_a_return_is_unknown_or_they_are_equal_nothing_is_a_share(unknown, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(ways, "goals", lambda *given, draw=ways.goals: seen.update(goals=given) or draw(*given))
    data = costs(**unknown)
    stats = report.statistics(data)["sets"]["held_out"]
    assert stats["rows"][-1]["sampled"]["area"] is None
    assert not any("optimal" in name for name in stats["rows"][-1]["sampled"]["episodes_to"])
    assert [level["level"] for level in stats["source"]["levels"]] == ["AD's final return"]
    text = report.write(data, tmp_path).read_text()
    assert "as a share of the way to optimal" not in text and "colored by its size" in text
    assert seen["goals"][-1] is None


def test_the_map_of_goals_is_colored_by_shares(monkeypatch):
    seen = {}
    monkeypatch.setattr(ways, "goals", lambda *given: seen.update(goals=given))
    data = costs()
    figures_of(gather(data)[0], report.statistics(data)["sets"]["held_out"])
    np.testing.assert_allclose(seen["goals"][-1], [(-6 + 20) / 16] * 4)


def of(name, data, *arguments):
    return decide(Claim("", "", quantity(name, "A", *arguments), at_least(0)), {"A": gather(data)}).value


def test_claims_with_costs():
    assert of("share", costs()) == pytest.approx((-6 + 20) / 16)
    assert of("area", costs()) == pytest.approx((-9.5 + 20) / 16)
    assert of("regret", costs()) == pytest.approx(20 * (-4 + 9.5))


@pytest.mark.parametrize(
    ("name", "data", "part"),
    [
        ("share", costs(random=None), "does not know what its random policy earns"),
        ("share", costs(optimal=None), "does not know what its optimal policy earns"),
        ("area", costs(optimal=-20.0), "no way from a random policy"),
        ("regret", costs(optimal=None), "Define optimal_return"),
        ("ratio", costs(), "means nothing where that is -4; use `share`"),
        ("area_ratio", costs(optimal=0.0), "means nothing where that is 0"),
        ("score", costs(random=100.0), "earns no more than a random policy"),
    ],
)
def test_claims_that_mean_nothing_are_refused(name, data, part):
    with pytest.raises(ConfigError, match=part):
        of(name, data)


@pytest.mark.parametrize(
    ("name", "change", "part"),
    [
        ("area", "env.knows_random=False", "does not know what its random policy earns"),
        ("share", "env.worth=0.0", r"no way from a random policy \(-24\) to the optimum \(-24\)"),
        ("ratio", "env.worth=2.0", "means nothing where that is -8"),
    ],
)
def test_a_study_of_such_claims_is_refused_before_anything_runs(name, change, part, tmp_path):
    e = override(load_experiment("dark_room", "smoke"), [f"env={__name__}:Tolls", change])
    e = override(e, ["tasks.train=1", "tasks.held_out=1"])
    claim = Claim("it is", "not in the paper", quantity("final", "A") - quantity(name, "A"), at_least(0))
    tolls = study.Study("tolls", "Tolls", {"A": study.Arm(e)}, [claim])
    with pytest.raises(ConfigError, match=part):
        reproduce.reproduce([tolls], tmp_path / "pieces", tmp_path / "out", "cpu", ["tolls"])
    assert list(tmp_path.iterdir()) == []


# Demonstrations.


@struct.dataclass
class State(environment.EnvState):
    place: jax.Array  # [] int32


@struct.dataclass
class Params(environment.EnvParams):
    side: Array = None  # [] int32, 0 or 1: where it costs less


@dataclasses.dataclass(frozen=True)
class Tolls(TaskFamily[State, Params]):
    """Every step costs 1 on the cheap side and 3 on the other; an action chooses the side. Optimal -8, random -16."""

    knows_random: bool = True
    worth: float = 2.0  # what the cheap side saves

    @property
    def episode_length(self) -> int:
        return 8

    @property
    def default_params(self):
        return Params(self.episode_length, jnp.int32(0))

    def all_tasks(self):
        return Params(jnp.full(2, self.episode_length), jnp.arange(2))  # pyright: ignore[reportArgumentType]

    def action_space(self, params=None):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return spaces.Discrete(2)

    def reset_env(self, key, params):
        return jnp.int32(0), State(jnp.int32(0), jnp.int32(0))

    def step_env(self, key, state, action, params):
        reward = jnp.where(action == params.side, self.worth - 3.0, -3.0)
        return action.astype(jnp.int32), State(state.time + 1, action.astype(jnp.int32)), reward, jnp.bool_(False), {}

    def optimal_return(self, tasks):
        return np.full(len(tasks.side), 8 * (self.worth - 3))

    def random_return(self, tasks):
        return np.full(len(tasks.side), 8 * (self.worth / 2 - 3)) if self.knows_random else None

    def optimal_action(self, state, task):
        return task.side


@pytest.mark.parametrize("knows_random", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_a_demonstrator_of_costs_earns_the_share_that_was_asked_for(share, knows_random):
    """With noise p it chooses wrongly in p / 2 of the steps: it is at 1 - p of the way."""
    family = Tolls(knows_random)
    noise = demonstrator.noise_for(family, family.all_tasks(), share, seed=0)
    assert noise == pytest.approx(1 - share, abs=0.05)


def test_a_demonstration_where_there_is_no_way_is_refused():
    equal, ask = Tolls(worth=0.0), [f"env={__name__}:Tolls", "evaluate.prompt=0.5"]
    with pytest.raises(ConfigError, match=r"-24 and -24, so there is none"):
        demonstrator.noise_for(dataclasses.replace(equal, knows_random=False), equal.all_tasks(), 0.5, seed=0)
    e = override(load_experiment("dark_room", "smoke"), [*ask, "tasks.train=1", "tasks.held_out=1"])
    with pytest.raises(ConfigError, match=r"on held_out of Tolls those are -24 and -24"):
        build(override(e, ["env.worth=0.0"]))


def test_the_prompted_study_asks_what_the_paper_shows():
    """Its arms are named by the paper's shares, which count from 0; `evaluate.prompt` counts from a random policy."""
    arms = study.load("prompted").arms
    p = build(arms["AD, 5%"].experiment)
    held_out = p.split.held_out["held_out"]
    random, optimal = (f(held_out).mean() for f in (p.family.random_return, p.family.optimal_return))
    for name, arm in arms.items():
        assert arm.experiment.evaluate.prompt is not None
        asked = normalized.level(arm.experiment.evaluate.prompt, random, optimal)
        assert asked == pytest.approx(arm.x * optimal), name


# What claims say, and how they are decided.

NEAR = re.compile(
    r"\bnear\b|\bsame\b|\bequal|\bas good as\b|costs little|little is gained|saturates|\bkeeps\b|\blike\b"
)
BOUND = re.compile(r"at least|at most|or below|or above|no worse|no less|no more")


@pytest.mark.parametrize("name", study.known())
def test_words_and_rules_of_claims_agree(name):
    """Near is near from both sides; a bound is said to be one."""
    for claim in study.load(name).claims:
        two_sided = np.isfinite([claim.rule.least, claim.rule.most]).all()
        assert two_sided == bool(NEAR.search(claim.text) and not BOUND.search(claim.text)), claim.text


def test_verdicts_on_file_are_those_of_the_rules():
    """Text, rule, statistic and verdict of every claim on file are those of its study, decided by its numbers."""
    folder = Path(__file__).parents[2] / "experiments"
    files = [name for name in study.known() if (folder / name / "claims.json").exists()]
    assert len(files) > 15
    for name in files:
        written = json.loads((folder / name / "claims.json").read_text())["claims"]
        for claim, on_file in zip(study.load(name).claims, written, strict=True):
            words = (claim.text, claim.paper, str(claim.rule), str(claim.quantity), claim.note, claim.changed)
            keys = ("text", "paper", "rule", "statistic", "note", "changed")
            assert tuple(on_file[key] for key in keys) == words
            assert on_file["holds"] == claim.rule.holds(on_file["low"], on_file["high"]), claim.text
            assert on_file["holds"] or claim.note or not claim.changed, f"{claim.text}: say why it does not hold"


def test_the_table_of_experiments_counts_the_verdicts_on_file():
    folder = Path(__file__).parents[2] / "experiments"
    table = (folder / "README.md").read_text()
    counted = re.findall(r"^\| \[(\w+)\].*?\| (\d+) of (\d+) claims hold; (.*?):", table, re.MULTILINE)
    assert len(counted) > 5
    for name, held, of, first in counted:
        claims = json.loads((folder / name / "claims.json").read_text())["claims"]
        assert (sum(claim["holds"] for claim in claims), len(claims)) == (int(held), int(of)), name
        assert claims[0]["text"] == first


def test_a_change_after_the_run_is_shown():
    claim = {"rule": "from 0 to 1", "changed": "made two-sided after the run; before: at least 0"}
    assert study_text.ruled(claim) == "from 0 to 1 (made two-sided after the run; before: at least 0)"
    assert study_text.ruled({"rule": "at least 0"}) == "at least 0"
