"""Reading results: runs are merged, and files that hold something else are refused by name."""

import re

import numpy as np
import pytest
from report_helpers import curve, grid_set, results, save

from ad_jax import report
from ad_jax.report import ReportError


def test_load_merges_runs_in_order_of_seed(tmp_path):
    save(tmp_path / "a" / "results.json", results(seeds=(7,)))
    merged = report.load([tmp_path / "a", save(tmp_path / "b.json", results(seeds=(2, 1)))])
    assert [run["seed"] for run in merged["runs"]] == [1, 2, 7]
    report.pool(merged, tmp_path / "pooled" / "results.json")
    assert report.load([tmp_path / "pooled"]) == merged


def broken(change):
    data = results()
    change(data["runs"][0]["sets"][0], data["runs"][0], data)
    return data


BROKEN = {
    "schema': expected 1, received 2": lambda s, run, data: data.update(schema=2),
    "expected a field 'experiment'": lambda s, run, data: data.pop("experiment"),
    "runs': expected at least one run": lambda s, run, data: data.update(runs=[]),
    "runs[0].seed: expected int, received '0'": lambda s, run, data: run.update(seed="0"),
    "runs[0].seed: expected int, received True": lambda s, run, data: run.update(seed=True),
    "runs[0]: expected a field 'stages'": lambda s, run, data: run.pop("stages"),
    "runs[0].stages.collect: expected an object with 'seconds'": lambda s, run, data: run["stages"].update(collect=3),
    "runs[0].episode_length: expected from 1": lambda s, run, data: run.update(episode_length=0),
    "sets[0].name: expected letters": lambda s, run, data: s.update(name="../x"),
    "sets: expected different names": lambda s, run, data: run["sets"].append(s),
    "sets[0].tasks[1]: expected a field 'optimal'": lambda s, run, data: s["tasks"][1].pop("optimal"),
    "tasks[0].optimal: expected a finite number, received inf": lambda s, run, data: s["tasks"][0].update(
        optimal=np.inf
    ),
    "picture.goal: expected a cell of the 9x9": lambda s, run, data: s["tasks"][0]["picture"].update(goal=[9, 0]),
    "picture.size: expected from 1 to 1000": lambda s, run, data: s["tasks"][0]["picture"].update(size=10**9),
    "picture: expected a field 'radius'": lambda s, run, data: s["tasks"][0]["picture"].update(kind="pool"),
    "picture.goal: expected a cell of the 9x9 pool as [x, y]": lambda s, run, data: s["tasks"][0]["picture"].update(
        kind="pool", radius=1, goal=[9, 0]
    ),
    "returns: expected 'sampled' and/or 'greedy'": lambda s, run, data: s["returns"].update(other=curve()),
    "returns.sampled: expected one entry for each of 4": lambda s, run, data: s["returns"].update(sampled=curve(3)),
    "returns: expected as many episodes": lambda s, run, data: s["returns"].update(greedy=curve(episodes=19)),
    "returns.sampled: expected numbers as [tasks]": lambda s, run, data: s["returns"]["sampled"][0][0].pop(),
    "returns.sampled[0][0][3]: expected a finite": lambda s, run, data: s["returns"]["sampled"][0][0].__setitem__(
        3, np.nan
    ),
    "source.returns: expected numbers as": lambda s, run, data: s["source"].update(returns=[["x"]]),
    "source: field 'role': expected one of ('source', 'reference'), received 'x'": lambda s, run, data: s[
        "source"
    ].update(role="x"),
    "source.env_steps_per_episode: expected int": lambda s, run, data: s["source"].update(env_steps_per_episode=1.5),
    "paths.task: expected the index of one of 4": lambda s, run, data: s["paths"].update(task=4),
    "episodes[0].points: expected a list of grid": lambda s, run, data: s["paths"]["episodes"][0].update(
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


def test_sources_are_compared_over_the_episodes_that_every_run_has(tmp_path):
    """Where episodes end early, lives of as many steps hold different numbers of them."""
    first, second = results(seeds=(0,)), results(grid_set(returns=curve(4, 3, 47, high=9.0, at=39)), seeds=(1,))
    merged = report.load([save(tmp_path / "0.json", first), save(tmp_path / "1.json", second)])
    (one,) = report.gather(merged)
    assert one.source is not None
    np.testing.assert_array_equal(one.source[1], np.mean(curve(4, 3, 47, high=9.0, at=39), axis=1))
    np.testing.assert_array_equal(one.source[0], one.source[1])
    second["runs"][0]["sets"][0]["source"]["returns"] = curve(4, 2, 50)  # other numbers of learners are still refused
    with pytest.raises(ReportError, match=r"held_out.source.returns shape: expected \(4, 3\)"):
        report.load([tmp_path / "0.json", save(tmp_path / "1.json", second)])
