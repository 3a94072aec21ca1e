"""The report where episodes end early, returns are tiny, or one task and one seed are all there is."""

import dataclasses
import re

import numpy as np
import pytest
from report_helpers import curve, grid_set, results

from ad_jax.history import lifetimes
from ad_jax.report import figures, report
from ad_jax.report.drawings import figures_of


def test_one_task_with_one_training_seed_has_no_interval(tmp_path):
    """Rollouts of 0 and 10 on one task said "5.00 to 5.00"."""
    one = grid_set(tasks=1)
    one["returns"] = {"sampled": [[[0.0] * 20, [0.0] * 10 + [10.0] * 10]]}
    one["paths"]["task"], one["source"]["returns"] = 0, curve(1, 3, 50, high=9.0, at=9)
    data = results(one)
    (row, everything) = report.statistics(data)["sets"]["held_out"]["rows"]
    assert row["sampled"] == everything["sampled"]
    assert (row["sampled"]["final"], row["sampled"]["low"], row["sampled"]["high"]) == (5, None, None)
    assert row["sampled"]["share"]["low"] is None
    assert report.table(data).splitlines()[2].split()[:5] == ["0", "0.0", "5.0", "-", "-"]
    text = re.sub(r"data:image[^\"]*|<[^>]*>", " ", report.write(data, tmp_path).read_text())
    assert "5.0 to 5.0" not in text
    assert "No interval: one task and one training seed" in text
    assert "One task with one training seed has none" in text


def test_one_task_with_several_seeds_has_an_interval_over_them(tmp_path):
    data = results(grid_set(tasks=1), seeds=(0, 1))
    for run, high in zip(data["runs"], (6.0, 8.0), strict=True):
        run["sets"][0]["returns"]["sampled"] = curve(1, high=high)
        run["sets"][0]["paths"]["task"] = 0
    *rows, everything = report.statistics(data)["sets"]["held_out"]["rows"]
    assert [row["sampled"]["low"] for row in rows] == [None, None]
    assert (everything["sampled"]["low"], everything["sampled"]["high"]) == (6, 8)
    assert "interval over training seeds (one task" in report.write(data, tmp_path).read_text()


def test_tiny_returns_are_shown_with_their_digits(tmp_path):
    one = grid_set() | {"returns": {"sampled": curve(low=1e-6, high=4e-6)}, "source": None}
    for task in one["tasks"]:
        task |= {"optimal": 5e-6, "random": 1e-7}
    assert report.summary(results(one)) == "held-out return 1.00e-06 → 4.00e-06 of 5.00e-06 over 20 in-context episodes"
    text = report.write(results(one), tmp_path).read_text()
    assert "<td>4.00e-06 to 4.00e-06</td>" in text
    assert "<td>0.000</td>" not in text


# ---- episodes that end early


def early_set():
    """Return a learner of 10 episodes of 20 steps and 10 of 4; a source of two actors, 30 of 20 steps and 80 of 5."""
    lengths, lifetime = np.array([20] * 10 + [4] * 10), np.array([20] * 30 + [5] * 80)
    one = grid_set(**lifetimes.as_data([[[(20.0 - lifetime, lifetime)] * 2] * 3] * 4, 1000))
    steps = np.broadcast_to(lengths, (4, 2, 20))
    one |= {"returns": {"sampled": (20.0 - steps).tolist()}, "steps": {"sampled": steps.tolist()}}
    for task in one["tasks"]:
        task["optimal"] = 18.0
    return one


def test_efficiency_counts_the_steps_that_episodes_had(monkeypatch):
    data = results(early_set())
    source = report.statistics(data)["sets"]["held_out"]["source"]
    final, share = source["levels"]
    assert (final["ad_steps"], final["source_steps"], final["source_end"], final["reached"]) == (240, None, 2000, False)
    assert (share["return"], share["ad_steps"], share["source_steps"]) == (0.2 + 0.75 * 17.8, 204, 31 * 40)
    assert share["ratio"] == 31 * 40 / 204
    assert (source["same_steps"], source["final"], source["piece"]) == (0, 15, 40)
    seen = {}
    for name in ("curve", "efficiency"):
        monkeypatch.setattr(figures, name, lambda *given, name=name: seen.update({name: given}))
    figures_of(report.gather(data)[0], report.statistics(data)["sets"]["held_out"])
    taken = [*range(20, 201, 20), *range(204, 241, 4)]
    np.testing.assert_array_equal(seen["efficiency"][0].x, taken)
    np.testing.assert_array_equal(seen["efficiency"][1].x, np.arange(1, 51) * 40)
    np.testing.assert_array_equal(seen["curve"][0]["sampled"].x, np.arange(1, 21))
    np.testing.assert_array_equal(seen["curve"][3].x, [2, 4, 6, 8, 10, 20])  # 40, 80, ... 240 steps


def test_the_share_of_the_sources_gain_is_over_as_many_episodes():
    one = report.gather(results(early_set()))[0]
    found = report.share_of_source(one, "sampled")
    assert found is None, "the source's first 20 episodes earn less than a random policy"
    one = dataclasses.replace(one, random=np.full((1, 4), -1.0))
    assert report.share_of_source(one, "sampled")["mean"] == pytest.approx((10 * 16 + 20) / 20)
