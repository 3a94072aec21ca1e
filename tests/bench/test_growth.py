"""Cost as work grows: which sizes are left out, what is fitted, what is written; and each axis at its smallest."""

import dataclasses
import json

import pytest

from ad_jax.__main__ import main
from ad_jax.bench import growth
from ad_jax.bench import sizes as sizes_lib
from ad_jax.bench.growth import AXES, Axis, Point
from ad_jax.bench.timing import Work
from ad_jax.bench.worker import sizes_from


def test_exponents_are_those_of_the_upper_half():
    sizes = [1, 2, 4, 8, 16, 32]
    assert growth.exponent(sizes, [1.0, 1.0, 1.0, 64.0, 256.0, 1024.0]) == pytest.approx(2)
    assert growth.exponent(sizes[:3], [9.0, 2.0, 4.0]) == pytest.approx(1), "of an odd number the middle is above"
    assert growth.exponent([1, 2], [1.0, 2.0]) is None, "through one point goes every line"


@pytest.fixture
def fake(monkeypatch):
    """Return an axis whose call takes size² / 100 s by the clock of this test, and whose limit takes 1 / 100 s."""
    clock = [0.0]

    def at(size):
        clock[0] += 10.0  # compiling
        nothing = Work(lambda: None, 1.0)
        return Point(nothing._replace(amount=size), {"limit": nothing}, lambda seconds: 3 * seconds["limit"])

    def measure(works, rounds, budget):
        return {"work": [works["work"].amount ** 2 / 100] * 3, "limit": [0.02, 0.01, 0.03]}

    monkeypatch.setattr(growth, "measure", measure)
    monkeypatch.setattr(growth.time, "perf_counter", lambda: clock[0])
    return Axis("apples", "picking", "a ladder", [2, 4, 8, 16, 32], at, 2.0)


def test_a_size_that_would_take_too_long_is_left_out_and_said_to_be(fake, capsys):
    """Of the size after 8, 0.64 s, four times as much is expected; with an exponent of 1, twice. Of a limit counts the
    fastest round.
    """
    found = growth.measured(fake, longest=2.0, budget=1e9)
    assert found["sizes"] == [2, 4, 8] and found["left_out"] == [16, 32]
    assert found["seconds"] == [0.04, 0.16, 0.64] and found["limit_seconds"] == [0.03] * 3
    assert found["exponent"] == pytest.approx(2) and found["limit_exponent"] == pytest.approx(0)
    assert "apples: left out 16, 32: a call would take over 2 s" in capsys.readouterr().out
    assert growth.measured(dataclasses.replace(fake, steepest=1.0), 2.0, 1e9)["left_out"] == [32]
    assert growth.measured(fake, 1e9, 1e9)["left_out"] == []


def test_no_size_is_begun_that_may_go_beyond_the_budget(fake, capsys):
    """Each takes 10 s here: a fourth one would end at 40."""
    found = growth.measured(fake, longest=1e9, budget=35.0)
    assert found["sizes"] == [2, 4, 8]
    assert "left out 16, 32: 35 s are over" in capsys.readouterr().out


def test_results_and_figure_are_written_axis_by_axis(fake, tmp_path, capsys):
    def broken(size):
        raise RuntimeError("out of memory")

    out = tmp_path / "new/scaling.json"
    with pytest.raises(RuntimeError, match="out of memory"):
        growth.run(out, [fake, dataclasses.replace(fake, at=broken)])
    read = json.loads(out.read_text())
    assert read["kind"] == "bench scaling" and [axis["name"] for axis in read["axes"]] == ["apples"]
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    growth.run(out, [fake])
    assert "| apples | 2 | 32 | 2.00 | 0.00 | none |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("learners", 64),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in (("context", 8), ("width", 64), ("rollouts", 64))),
    ],
)
def test_each_axis_times_calls_against_a_limit(name, size, monkeypatch):
    small = dataclasses.replace(growth.LIMITS, matmul=32, small_flops=1e5)
    monkeypatch.setattr(growth, "LIMITS", small)
    monkeypatch.setattr(growth, "TRIAD", 2**10)
    axis = next(axis for axis in AXES if axis.name == name)
    found = growth.measured(dataclasses.replace(axis, sizes=[size]))
    assert found["sizes"] == [size] and found["seconds"][0] > 0 and found["limit_seconds"][0] > 0


def test_other_options_are_refused_beside_it(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "--scaling", "--only", "limits"]) == 2
    assert "got --only, too. Leave one out" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["QUICK", "FULL", "ACCELERATOR", "BRIEF", "TRIAL"])
def test_sizes_go_to_another_process_as_json(name):
    sizes = getattr(sizes_lib, name)
    assert sizes_from(json.loads(json.dumps(dataclasses.asdict(sizes))), sizes_lib) == sizes
