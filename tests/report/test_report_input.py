"""Reading results: runs are merged, and files that hold something else are refused by name."""

import re

import numpy as np
import pytest
from report_helpers import curve, grid_set, results, save

from ad_jax.history import lifetimes
from ad_jax.report import report
from ad_jax.report.report import ReportError


def test_load_merges_runs_in_order_of_seed(tmp_path):
    save(tmp_path / "a" / "results.json", results(seeds=(7,)))
    merged = report.load([tmp_path / "a", save(tmp_path / "b.json", results(seeds=(2, 1)))])
    assert [run["seed"] for run in merged["runs"]] == [1, 2, 7]
    report.pool(merged, tmp_path / "pooled" / "results.json")
    assert report.load([tmp_path / "pooled"]) == merged


def streams_of(lengths, actors=2):
    """Plain data of a source whose streams have episodes of these lengths, one task for every `actors` of them."""
    streams = [np.asarray(one) for one in lengths]
    of_tasks = [[[(s, s) for s in streams[i : i + actors]]] for i in range(0, len(streams), actors)]
    return lifetimes.as_data(of_tasks, 1000)


def broken(change):
    data = results()
    change(data["runs"][0]["sets"][0], data["runs"][0], data)
    return data


BROKEN = {
    ": schema: expected 2, received 3": lambda s, run, data: data.update(schema=3),
    "expected a field 'experiment'": lambda s, run, data: data.pop("experiment"),
    ": runs: expected array of at least 1, received []": lambda s, run, data: data.update(runs=[]),
    "runs[0].seed: expected int, received '0'": lambda s, run, data: run.update(seed="0"),
    "runs[0].seed: expected int, received True": lambda s, run, data: run.update(seed=True),
    "runs[0]: expected a field 'stages'": lambda s, run, data: run.pop("stages"),
    "runs[0].stages.collect: expected object, received 3": lambda s, run, data: run["stages"].update(collect=3),
    "runs[0].episode_length: expected int >= 1, received 0": lambda s, run, data: run.update(episode_length=0),
    "sets[0].name: expected letters": lambda s, run, data: s.update(name="../x"),
    "sets: expected different names": lambda s, run, data: run["sets"].append(s),
    "sets[0].tasks[1]: expected a field 'optimal'": lambda s, run, data: s["tasks"][1].pop("optimal"),
    "tasks[0].optimal: expected a finite number, received inf": lambda s, run, data: s["tasks"][0].update(
        optimal=np.inf
    ),
    "picture.goal: expected a cell of the 9x9": lambda s, run, data: s["tasks"][0]["picture"].update(goal=[9, 0]),
    "picture.size: expected int <= 1000, received": lambda s, run, data: s["tasks"][0]["picture"].update(size=10**9),
    "picture: expected a field 'radius'": lambda s, run, data: s["tasks"][0]["picture"].update(kind="pool"),
    "picture.goal: expected a cell of the 9x9 pool as [x, y]": lambda s, run, data: s["tasks"][0]["picture"].update(
        kind="pool", radius=1, goal=[9, 0]
    ),
    "returns: expected 'sampled' and/or 'greedy'": lambda s, run, data: s["returns"].update(other=curve()),
    "returns.sampled: expected numbers as [4 tasks][seeds][episodes]": lambda s, run, data: s["returns"].update(
        sampled=curve(3)
    ),
    "returns.greedy: expected numbers as [4 tasks][seeds][20 episodes]": lambda s, run, data: s["returns"].update(
        greedy=curve(episodes=19)
    ),
    "returns.sampled: expected numbers as [4 tasks][seeds]": lambda s, run, data: s["returns"]["sampled"][0][0].pop(),
    "returns.sampled[0][0][3]: expected a finite": lambda s, run, data: s["returns"]["sampled"][0][0].__setitem__(
        3, np.nan
    ),
    "source.returns[0][0]: expected array, received 'x'": lambda s, run, data: s["source"].update(returns=[["x"]]),
    "source.role: expected one of ('source', 'reference'), received 'x'": lambda s, run, data: s["source"].update(
        role="x"
    ),
    "source.actors: expected int": lambda s, run, data: s["source"].update(actors=1.5),
    "source.life: expected at least episode_length = 20": lambda s, run, data: s["source"].update(life=19),
    "source.steps: expected episodes of 1000 steps in all": lambda s, run, data: s["source"].update(steps=19),
    "source.returns, numbers of episodes: expected numbers as [4 tasks][": lambda s, run, data: s["source"].update(
        streams_of([[20] * 50, [10] * 100])
    ),
    "source.steps[0][0][1]: expected episodes of 1000 steps": lambda s, run, data: s["source"].update(
        streams_of([[20] * 50, [10] * 98] * 4)
    ),
    "source.steps[0][0][0]: expected from 1 to 20 = episode_length": lambda s, run, data: s["source"].update(
        streams_of([[20, 980], [20] * 50] * 4)
    ),
    "source.steps[0][0][1]: expected numbers as [50 episodes]": lambda s, run, data: s["source"].update(
        streams_of([[20] * 50, [10] * 100] * 4) | {"returns": [[[[1.0] * 50] * 2]] * 4}
    ),
    "sets[0]: expected a field 'steps'": lambda s, run, data: s.pop("steps"),
    "sets[0].steps: expected a field 'greedy'": lambda s, run, data: s["steps"].pop("greedy"),
    "steps.sampled: expected from 1 to 20 = episode_length": lambda s, run, data: s["steps"].update(sampled=21),
    "steps.greedy: expected from 1 to 20 = episode_length": lambda s, run, data: s["steps"].update(
        greedy=np.zeros((4, 1, 20), int).tolist()
    ),
    "steps.sampled: expected numbers as [4 tasks][2 seeds][20": lambda s, run, data: s["steps"].update(
        sampled=np.ones((4, 2, 19), int).tolist()
    ),
    "paths.task: expected the index of one of 4": lambda s, run, data: s["paths"].update(task=4),
    "episodes[0].points[0][1]: expected int <= 8, received 9": lambda s, run, data: s["paths"]["episodes"][0].update(
        points=[[0, 9]]
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_load_names_the_file_and_the_field(tmp_path, message):
    file = save(tmp_path / "results.json", broken(BROKEN[message]))
    with pytest.raises(ReportError, match=re.escape(message)) as caught:
        report.load([file])
    assert str(caught.value).startswith(f"{file}: ")
    with pytest.raises(ReportError, match=re.escape(message)):
        report.write(broken(BROKEN[message]), tmp_path / "report")
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", '"x"'])
def test_load_refuses_what_is_no_results_file(tmp_path, text):
    with pytest.raises(ReportError, match=re.escape(str(tmp_path / "r.json"))):
        report.load([save(tmp_path / "r.json", text)])
    with pytest.raises(ReportError, match=re.escape(str(tmp_path / "results.json"))):
        report.load([tmp_path])  # no such file
    with pytest.raises(ReportError, match="at least one"):
        report.load([])


def test_load_refuses_runs_that_cannot_be_averaged(tmp_path):
    first = save(tmp_path / "1.json", results(seeds=(0,)))
    with pytest.raises(ReportError, match=r"2.json: field 'experiment': expected 'dark_room' .* received 'bandit'"):
        report.load([first, save(tmp_path / "2.json", results(seeds=(1,), experiment="bandit"))])
    with pytest.raises(ReportError, match=r"3.json: runs\[0\].seed: .* received 0 again, which .*1.json"):
        report.load([first, save(tmp_path / "3.json", results())])
    with pytest.raises(ReportError, match=r"4.json: runs\[0\]: episode_length: expected 20 .* received 30"):
        report.load([first, save(tmp_path / "4.json", results(seeds=(1,), episode_length=30))])
    compared = results(seeds=(1,))
    compared["runs"][0]["sets"][0]["source"]["role"] = "reference"
    with pytest.raises(ReportError, match=r"6.json: .*held_out.source.role: expected source .* received reference"):
        report.load([first, save(tmp_path / "6.json", compared)])
    with pytest.raises(ReportError, match=r"5.json: .*held_out.returns.sampled shape: expected \(4, 2, 20\)"):
        report.load([first, save(tmp_path / "5.json", results(grid_set(tasks=5), seeds=(1,)))])


def test_by_task_of_one_length_need_not_have_as_many_episodes(tmp_path):
    """Each learner's curve is cut into pieces of time, of which all have as many; none is cut at another's end."""
    quick, slow = [[20] * 50] * 8, [[5] * 160 + [20] * 10] * 8
    first, second = (
        results(grid_set(**streams_of(quick)), seeds=(0,)),
        results(grid_set(**streams_of(slow)), seeds=(1,)),
    )
    assert first["runs"][0]["sets"][0]["source"]["steps"] == 20
    assert len(second["runs"][0]["sets"][0]["source"]["returns"][0][0][0]) == 170
    merged = report.load([save(tmp_path / "0.json", first), save(tmp_path / "1.json", second)])
    (one,) = report.gather(merged)
    assert one.source is not None
    assert one.source_episodes is not None
    np.testing.assert_array_equal(one.source[0], np.full((4, 50), 20))
    np.testing.assert_array_equal(one.source[1], np.tile([5.0] * 40 + [20] * 10, (4, 1)))
    np.testing.assert_array_equal(one.source_episodes[1], np.full((4, 50), 5))
    assert one.source_steps == 2 * 20
    second["runs"][0]["sets"][0]["source"]["returns"] = curve(4, 2, 50)  # other numbers of learners are still refused
    second["runs"][0]["sets"][0]["source"]["steps"] = 20
    with pytest.raises(ReportError, match=r"held_out.source.returns shape: expected \(4, 1\)"):
        report.load([tmp_path / "0.json", save(tmp_path / "1.json", second)])


def test_results_of_the_first_schema_are_refused_with_the_remedy(tmp_path):
    """They did not say how many steps each episode had."""
    file = save(tmp_path / "r.json", results() | {"schema": 1})
    with pytest.raises(ReportError, match=r"r\.json: schema: expected 2, received 1; evaluate again to renew it"):
        report.load([file])
