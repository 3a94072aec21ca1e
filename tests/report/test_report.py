"""The report: known statistics, and a page that is self-contained and inert."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.patches import Circle
from report_helpers import HOSTILE, arms_set, curve, grid_set, pool_set, results

from ad_jax.errors import ConfigError
from ad_jax.report import drawings, figures, report, statistics, ways
from ad_jax.report import page as report_page
from ad_jax.text import number, si

# ---- statistics


def test_bootstrap_of_constant_data_has_zero_width():
    values = np.broadcast_to(np.array([0.25, 3.0]), (3, 5, 2))
    for got in report.bootstrap(values):
        np.testing.assert_array_equal(got, [0.25, 3.0])


def test_bootstrap_resamples_tasks_inside_runs():
    # Runs that differ while tasks do not: the interval is that of 2 runs, which reaches both of them.
    between = np.broadcast_to(np.array([0.0, 1.0])[:, None, None], (2, 50, 1))
    assert [x.item() for x in report.bootstrap(between)] == [0.5, 0.0, 1.0]
    # Tasks that differ while runs do not: 2 * 50 draws of a fair coin, 95 % within 1.96 * 0.05 of one half.
    within = np.broadcast_to((np.arange(50) % 2.0)[None, :, None], (2, 50, 1))
    mean, low, high = (x.item() for x in report.bootstrap(within))
    assert mean == 0.5
    assert 0.37 < low < 0.43 < 0.57 < high < 0.63


def test_bootstrap_covers_the_truth_about_95_percent_of_the_time():
    rng = np.random.default_rng(0)
    _, low, high = report.bootstrap(rng.normal(3.0, 2.0, size=(1, 40, 500)))  # 500 experiments, one per column
    assert 0.90 < np.mean((low <= 3.0) & (high >= 3.0)) < 0.97


def test_bootstrap_narrows_as_one_over_root_n_and_repeats():
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=(1, 10, 200)), rng.normal(size=(1, 160, 200))

    def width(values):
        return np.subtract(*report.bootstrap(values)[:0:-1]).mean()

    assert width(few) / width(many) == pytest.approx(4, rel=0.15)
    np.testing.assert_array_equal(report.bootstrap(few, seed=1), report.bootstrap(few, seed=1))
    assert (report.bootstrap(few, seed=1)[1] != report.bootstrap(few, seed=2)[1]).any()


def test_summary():
    one: dict[str, Any] = grid_set() | {"returns": {"sampled": curve(low=0.84, high=8.06)}}
    assert report.summary(results(one)) == "held-out return 0.8 → 8.1 of 10.0 over 20 in-context episodes"
    for task in one["tasks"]:
        task["optimal"] = None
    assert report.summary(results(one)) == "held-out return 0.84 → 8.06 over 20 in-context episodes"
    assert report.summary(results(arms_set())) == "uniform return 0.500 → 0.900 of 0.900 over 20 in-context episodes"


def test_statistics_of_known_curves():
    one = report.statistics(results(seeds=(3, 5)))["sets"]["held_out"]
    assert [row["seed"] for row in one["rows"]] == [3, 5, "all"]
    assert one["rows"][0]["seconds"] == {"collect": 10.0, "distill": 200.0}
    assert (one["tasks"], one["runs"], one["optimal"]) == (4, 2, 10.0)
    for row in one["rows"]:
        assert row["sampled"] == {
            "first": 0.0,
            "final": 8.0,
            "low": 8.0,
            "high": 8.0,
            "area": pytest.approx((6 - 0.2) / (10 - 0.2)),  # 15 episodes of 20 at 8
            "episodes_to": {
                "75 % of the way to final": 6,
                "90 % of the way to final": 6,
                "75 % of the way to optimal": 6,
                "90 % of the way to optimal": None,
            },
            "share": None,  # in 20 episodes the source earns less than a random policy
        }
        assert row["greedy"]["final"] == 7.0


def test_final_is_the_last_tenth_and_rollouts_are_averaged_first():
    one = grid_set(tasks=2)
    values = np.zeros((2, 2, 20))
    values[0, 0, 18:], values[1, :, 17] = (4.0, 8.0), 100.0  # episode 18 of 20 is not in the last tenth
    one["returns"] = {"sampled": values.tolist()}
    got = report.statistics(results(one))["sets"]["held_out"]["rows"][-1]["sampled"]
    assert (got["final"], got["low"], got["high"]) == (1.5, 0.0, 3.0)  # tasks 3 and 0: either may be drawn twice


def test_efficiency_is_exact():
    """AD is at 8 from episode 6 (120 steps) to 20 (400 steps); the source is at 9 from its episode 40 (4000 steps)."""
    source = report.statistics(results())["sets"]["held_out"]["source"]
    final, share = source["levels"]
    assert (final["ad_steps"], final["source_steps"], final["ratio"], final["reached"]) == (400, 4000, 10.0, True)
    assert (share["return"], share["ad_steps"], share["source_steps"]) == (0.2 + 0.75 * 9.8, 120, 4000)
    assert report_page.ratio(final) == "10×"  # noqa: RUF001
    assert (source["same_steps"], source["final"]) == (0.0, 9.0)


def test_efficiency_when_the_source_never_gets_there():
    six_on_average = np.array(curve(4, 3, 50, high=6.0, at=39)) * [[1.5], [0.5], [1.0]]
    one = grid_set(returns=six_on_average.tolist())
    final, share = report.statistics(results(one))["sets"]["held_out"]["source"]["levels"]
    assert (final["reached"], final["source_steps"], final["source_end"], final["ratio"]) == (False, None, 5000, 12.5)
    assert report_page.ratio(final) == "> 12×"  # noqa: RUF001
    assert share["ratio"] == pytest.approx(5000 / 120)  # 41.67, and a bound is rounded down
    assert report_page.ratio(share) == "> 41×"  # noqa: RUF001


def test_efficiency_when_the_learner_never_gets_there(tmp_path):
    one = grid_set()
    one["returns"] = {"sampled": curve(high=3.0)}
    share = report.statistics(results(one))["sets"]["held_out"]["source"]["levels"][1]
    assert (share["ad_steps"], share["ratio"], report_page.ratio(share)) == (None, None, "-")
    assert "<td>never</td>" in report.write(results(one), tmp_path).read_text()


def gains_set(learner, source):
    """Two tasks whose random policy earns 2 in the learner's 4 episodes; sums `learner` and `source` over those."""
    one = grid_set(tasks=2)
    for task in one["tasks"]:
        task["random"] = 0.5
    # Two rollouts a task, unlike each other; the source lives on for a fifth episode, which is not compared.
    one["returns"] = {"sampled": [[[x - 1, 0.0, 0.0, 0.0], [1.0, 0.0, x, 0.0]] for x in learner]}
    one["source"] |= {"returns": [[[0.0, x, 0.0, 0.0, 100.0]] for x in source], "life": 5 * 20}
    return one


def share(one, **runs):
    return report.share_of_source(report.gather(results(one, **runs))[0], "sampled")


def test_share_of_the_sources_gain_is_of_sums_above_the_random_policy():
    # Gains 4 and 1 against 4 and 2: 5 / 6. Drawn twice, a task by itself gives 1 or 1 / 2, each a quarter of the time.
    expected = {"mean": pytest.approx(5 / 6), "low": pytest.approx(0.5), "high": pytest.approx(1)}
    assert share(gains_set((6, 3), (6, 4))) == expected
    # Equal in every task: no width, also over runs. Worse than the random policy: negative.
    half = dict.fromkeys(("mean", "low", "high"), pytest.approx(0.5))
    assert share(gains_set((4, 3), (6, 4)), seeds=(0, 1)) == half
    assert share(gains_set((1, 1.5), (6, 4)))["mean"] == pytest.approx(-1.5 / 6)


def test_share_of_the_sources_gain_is_unknown_where_it_means_nothing():
    assert share(gains_set((6, 3), (6, 2))) is None  # the second task alone, at times, and nothing gained on it
    for change in (
        lambda one: one["tasks"][1].update(random=None),
        lambda one: one.update(source=None),
        lambda one: one["source"].update(returns=[[[6.0, 0.0, 0.0]], [[4.0, 0.0, 0.0]]]),
    ):
        one = gains_set((6, 3), (6, 4))
        change(one)
        assert share(one) is None


def test_share_of_the_sources_gain_is_shown(tmp_path):
    data = results(gains_set((6, 3), (6, 4)))
    assert report.table(data).splitlines()[1:] == [
        "seed  episode 1  last 10 %  95 % interval  greedy  share of the source's gain  collect s  distill s",
        "   0        2.2        0.0     0.0 to 0.0       -      0.833 (0.500 to 1.000)       10.0      200.0",
        " all        2.2        0.0     0.0 to 0.0       -      0.833 (0.500 to 1.000)       10.0      200.0",
    ]
    text = report.write(data, tmp_path).read_text()
    assert "<td>gain over the random policy / the source&#39;s</td><td>0.833 (0.500 to 1.000)</td>" in text


def test_a_level_is_reached_to_rounding():
    reached = statistics._reached
    assert (reached(np.array([0.0, 0.3, 0.4]), 0.3), reached(np.array([0.0, 0.3 - 1e-12]), 0.3)) == (2, 2)
    assert reached(np.array([0.0, 0.3 - 1e-6]), 0.3) is None


def test_table_is_aligned():
    assert report.table(results(seeds=(0, 1))).splitlines() == [
        "held_out (4 tasks, sampled)",
        "seed  episode 1  last 10 %  95 % interval  greedy  collect s  distill s",
        "   0        0.0        8.0     8.0 to 8.0     7.0       10.0      200.0",
        "   1        0.0        8.0     8.0 to 8.0     7.0       10.0      200.0",
        " all        0.0        8.0     8.0 to 8.0     7.0       10.0      200.0",
    ]


# ---- page and figures


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Return the page of two runs."""
    return report.write(results(seeds=(0, 1)), tmp_path_factory.mktemp("runs") / "new" / "report")


def test_page_is_self_contained_and_shows_every_figure(written):
    index, text = written, written.read_text()
    names = {"curve.png", "goals.png", "efficiency.png", "paths.png"}
    assert {path.name for path in index.parent.iterdir()} == {"index.html"} | names
    for name in names:
        image = (index.parent / name).read_bytes()
        width, height = (int.from_bytes(image[at : at + 4], "big") for at in (16, 20))
        assert min(width, height, len(image) // 30) > 300
        assert b"Matplotlib" not in image  # the same bytes whatever its version says of itself
    assert text.count('src="data:image/png;base64,') == text.count("<img") == 4
    assert not re.findall(r"<script|<link|<iframe|@import|url\(|https?:|\bsrc=(?!\"data:)|\bhref=", text)
    for words in (report.summary(results(seeds=(0, 1))), "4 held-out tasks", "2 training seeds", "95 % bootstrap"):
        assert words in text


def test_page_says_what_the_results_do_not_hold(tmp_path):
    one = grid_set()
    one["source"] = one["paths"] = None
    one["tasks"][0]["optimal"] = one["tasks"][0]["random"] = one["tasks"][0]["picture"] = None
    text = report.write(results(one), tmp_path).read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "curve.png", "goals.png"}
    assert "no learning curve of the source was recorded" in text
    assert "none were recorded" in text


def test_report_is_the_same_bytes_again(written, tmp_path):
    report.write(results(seeds=(0, 1)), tmp_path)
    for path in written.parent.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


CHANGES = {
    "curve": lambda s: s["returns"].update(sampled=curve(at=9)),
    "goals": lambda s: s["returns"]["sampled"][0][0].__setitem__(19, 2.0),
    "efficiency": lambda s: s["source"].update(returns=curve(4, 3, 50, high=9.0, at=30)),
    "paths": lambda s: s["paths"]["episodes"][1]["points"].__setitem__(3, [2, 3]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_figures_change_with_the_data(written, tmp_path, name):
    data = results(seeds=(0, 1))
    CHANGES[name](data["runs"][0]["sets"][0])
    changed = report.write(data, tmp_path).with_name(f"{name}.png").read_bytes()
    assert changed != written.with_name(f"{name}.png").read_bytes()


def test_figures_receive_the_right_numbers(monkeypatch):
    seen = {}
    for name, module in (("curve", figures), ("efficiency", figures), ("goals", ways)):
        monkeypatch.setattr(module, name, lambda *given, name=name: seen.update({name: given}))
    data = results()
    drawings.figures_of(report.gather(data)[0], report.statistics(data)["sets"]["held_out"])
    modes, optimal, random, source, label = seen["curve"]
    np.testing.assert_array_equal(modes["sampled"].x, np.arange(1, 21))
    assert (optimal, random, label) == (10.0, pytest.approx(0.2), "source (q_learning)")
    np.testing.assert_array_equal(source.x, [5, 10, 15, 20])  # 400 steps hold 4 of its episodes, 5 of ours each
    learner, source, _, levels, _, _ = seen["efficiency"]
    assert (learner.x[0], learner.x[-1], source.x[0], source.x[-1]) == (20, 400, 100, 5000)
    assert [level["text"] for level in levels] == ["10×", "33×"]  # noqa: RUF001
    size, cells, returns, shares = seen["goals"]
    assert (size, cells.tolist()) == (9, [[1, 2], [1, 3], [1, 4], [1, 5]])
    np.testing.assert_allclose([returns, shares], [[8.0] * 4, [(8 - 0.2) / 9.8] * 4])


def test_a_reference_is_called_one_wherever_a_source_would_be(written, tmp_path):
    data = results(seeds=(0, 1))
    for run in data["runs"]:
        run["sets"][0]["source"].update(name="dqn", role="reference")
    page = report.write(data, tmp_path).read_text()
    text = re.sub(r"data:image[^\"]*|<[^>]*>", " ", page)
    assert "Reference: dqn. Its return after" in text
    assert "reference (dqn) learning from scratch" in text
    assert "the source" not in text.lower()
    assert "Source: q_learning. Its return after" in re.sub(r"<[^>]*>", " ", written.read_text())


def test_second_set_gets_a_suffix_and_a_failure_leaves_no_half_file(tmp_path, monkeypatch):
    index = report.write(results(grid_set(), grid_set("training")), tmp_path)
    names = {f"{stem}{end}.png" for stem in ("curve", "efficiency", "goals", "paths") for end in ("", "-training")}
    assert {path.name for path in tmp_path.iterdir()} == names | {"index.html"}
    before = index.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(ConfigError, match="disk full"):
        report.write(results(grid_set()), tmp_path)
    assert index.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == names | {"index.html"}


def test_hostile_strings_are_shown_and_not_run(tmp_path):
    data = results(experiment=HOSTILE, seeds=(0, 1))
    for run in data["runs"]:
        run["config"] = {HOSTILE: {HOSTILE: HOSTILE}, "list": [HOSTILE], "logging": f"{HOSTILE}{run['seed']}"}
        run["provenance"][HOSTILE] = HOSTILE
        run["stages"][HOSTILE] = {"seconds": 1.0, HOSTILE.replace("\ud800", ""): HOSTILE}
        run["checkpoint"] = {"step": 9, "which": HOSTILE}
        one = run["sets"][0]
        one["kind"] = one["source"]["name"] = one["paths"]["mode"] = HOSTILE
        for task in one["tasks"]:
            task["description"] = HOSTILE
    text = report.write(data, tmp_path).read_text()
    assert "<script" not in text
    assert text.count("<img") == 4
    assert text.count("&lt;script&gt;alert(1)") > 12
    assert "onerror='" not in text


@pytest.mark.parametrize("means", [(0.1, 0.9, 0.5), None])
def test_bandit_report(tmp_path, means):
    one = arms_set(means)
    names = {path.name for path in report.write(results(one, episode_length=1), tmp_path).parent.iterdir()}
    assert names == {"index.html", "curve.png", "goals.png", "paths.png"}


def test_a_key_makes_the_goal_a_door_and_the_summary_one_by_task(tmp_path):
    one = grid_set()

    def labels():
        return {text.get_text() for text in ways.grid_paths(picture, one["paths"]["episodes"]).legends[0].texts}

    picture = one["tasks"][0]["picture"]
    assert labels() == {"goal", "start", "end"}
    assert "return of the last 10 % of episodes by goal" in report.write(results(one), tmp_path / "goal").read_text()
    for task in one["tasks"]:
        task["picture"]["key"] = [5, 5]
    assert labels() == {"door", "key", "start", "end"}
    text = report.write(results(one), tmp_path / "key").read_text()
    assert "of episodes by goal" not in text
    assert "of every task in the first and in the last" in text


def test_pool_report(tmp_path):
    page = report.write(results(pool_set()), tmp_path)
    assert {path.name for path in page.parent.iterdir()} >= {"curve.png", "goals.png", "paths.png"}
    assert "The agent&#39;s path" in page.read_text()
    picture = pool_set()["tasks"][0]["picture"]
    figure = ways.grid_paths(picture, pool_set()["paths"]["episodes"])
    assert len(figure.axes) == 3
    pool, platform = (patch for patch in figure.axes[0].patches if isinstance(patch, Circle))
    assert (pool.center, pool.radius) == ((100, 100), 100)
    assert (tuple(platform.center), platform.radius) == ((60, 90), 15)
    start = next(line for line in figure.axes[0].lines if line.get_label() == "start")
    assert np.asarray(start.get_xydata())[0].tolist() == [100, 100]
    end = next(line for line in figure.axes[0].lines if line.get_label() == "end")
    assert np.asarray(end.get_xydata())[0].tolist() == [70, 91], "x to the right, y up"
    bottom, top = figure.axes[0].get_ylim()
    assert bottom < top


def test_smallest_results(tmp_path):
    """One task, one rollout, one episode of negative return, a source slower than that, one point of a path."""
    one = grid_set(tasks=1)
    one["returns"] = {"greedy": [[[-1.0]]]}
    one["source"] |= {"returns": [[[-2.0]]], "life": 20}
    one["paths"] |= {"task": 0, "episodes": [{"episode": 1, "return": -1.0, "points": [[0, 0]]}]}
    one["tasks"][0]["picture"]["key"] = [5, 5]
    text = report.write(results(one), tmp_path).read_text()
    assert "has its first value after" in text
    assert report.summary(results(one)) == "held-out return -1.0 → -1.0 of 10.0 over 1 in-context episode"


def test_long_source_is_subsampled_for_drawing_only():
    band = drawings._subsampled(np.zeros((1, 2, 25_000)), 10)
    assert len(band.x) < 2001
    assert (band.x[0], band.x[-1]) == (10, 250_000)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.8123, "0.812"), (1.8149, "1.81"), (16.12, "16.1"), (250.4, "250"), (-3.2, "-3.20"), (None, "-")),
        *((0.0123, "0.012"), (0.00412, "0.00412"), (-0.0001, "-0.000100"), (4e-6, "4.00e-06"), (0.0, "0.000")),
    ],
)
def test_numbers_have_the_decimals_they_deserve(value, text):
    assert number(value) == text
    assert [si(x) for x in (7, 950, 20_000, 4_160_000, 999_900)] == ["7", "950", "20k", "4.16M", "1M"]


def test_report_imports_no_jax():
    code = "import sys, ad_jax.report.report; sys.exit('jax' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
