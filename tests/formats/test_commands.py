"""`ad-jax histories import`, `show` and `export`; and the page of the docs, whose example runs."""

import re
from pathlib import Path

import numpy as np
import pytest
from public_layouts import ad_eps

from ad_jax.__main__ import main
from ad_jax.formats import FORMATS
from ad_jax.formats.base import Format
from ad_jax.formats.importing import format_of
from ad_jax.history.store import open_store
from ad_jax.run import lived

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "histories.md"


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    return ad_eps(tmp_path_factory.mktemp("public") / "d", [(2, 6), (7, 1)], episodes=30, greedy=2.0)


def test_import_show_and_export_by_command(public, tmp_path, capsys):
    out = str(tmp_path / "h")
    assert main(["histories", "import", "ad_eps", str(public), "--out", out, "steps=400"]) == 0
    assert main(["histories", "info", out]) == 0
    assert "dark_room" in capsys.readouterr().out
    assert open_store(out).manifest.steps == 400
    assert main(["histories", "show", out, "--history", "1", "--out", str(tmp_path / "a.png")]) == 0
    shown = capsys.readouterr().out
    assert "history 1: task goal-7-1" in shown and "20 episodes end in 400 steps; 0 steps after" in shown
    assert "episode 19 earns" in shown and "(4,4)" in shown
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["histories", "export", "npz", out, "--out", str(tmp_path / "a.npz")]) == 0
    with np.load(tmp_path / "a.npz") as found:
        assert found["action"].shape == (2, 400)


def test_a_path_whose_name_reads_like_an_option_is_a_path(public, tmp_path, monkeypatch, capsys):
    """As sweeps name their folders. What is nowhere is an option, and an import needs a path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "steps=400").symlink_to(public)
    (tmp_path / "run=3").mkdir()
    (tmp_path / "run=3/d").symlink_to(public)
    for number, words in enumerate((["run=3/d"], ["steps=400", "size=9"], ["size=9", "./steps=400"])):
        assert main(["histories", "import", "ad_eps", *words, "--out", f"h{number}"]) == 0, capsys.readouterr().err
        assert open_store(tmp_path / f"h{number}").manifest.steps == 600
    assert main(["histories", "import", "ad_eps", "steps=401", "--out", "h"]) == 2
    assert "got steps=401, of which none is there" in capsys.readouterr().err


def test_what_cannot_be_is_one_line_and_status_2(public, tmp_path, capsys):
    out = str(tmp_path / "h")
    for words, told in (
        (["import", "ad_epsilon", str(public), "--out", out], "'ad_eps'"),
        (["import", "ad_eps", str(tmp_path / "no"), "--out", out], "is not there"),
        (["import", "ad_eps", str(public), "--out", out, "siz=9"], "'size'"),
        (
            ["import", "ad_eps", str(public), "--out", out, f"siz={'9' * 300}"],
            "'size'",
        ),  # no name of a file can be so long
        (["show", out], "no learning histories"),
        (["export", "npz", out, "--out", str(tmp_path / "a.npz")], "no learning histories"),
    ):
        assert main(["histories", *words]) == 2
        found = capsys.readouterr().err
        assert told in found and len(found.strip().splitlines()) == 1, found
    assert not (tmp_path / "h").exists()


def test_a_history_that_is_not_there_and_a_file_of_no_kind_are_refused(public, tmp_path, capsys):
    out = str(tmp_path / "h")
    assert main(["histories", "import", "ad_eps", str(public), "--out", out]) == 0
    assert main(["histories", "show", out, "--history", "2"]) == 2
    assert main(["histories", "show", out, "--out", str(tmp_path / "a.xyz")]) == 2
    assert "2 of 2 are" in (told := capsys.readouterr().err) and ".png" in told


def test_returns_and_ways_are_those_of_the_history(public, tmp_path):
    out = str(tmp_path / "h")
    main(["histories", "import", "ad_eps", str(public), "--out", out])
    look = lived.look(out, 0, 3)
    t = open_store(out).read().transition
    np.testing.assert_array_equal(look.returns, t.reward[0].reshape(30, 20).sum(1))
    assert look.picked == (0, 14, 29) and look.lengths.tolist() == [20] * 30
    assert look._points(14) == t.observation[0, 280:300].tolist()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_its_options_and_its_section(name):
    assert isinstance(format_of(name, {"steps": 3}), Format)
    assert f"`{name}`" in re.sub(r"```.*?```", "", PAGE.read_text(), flags=re.DOTALL)


def test_the_pages_example_leads_from_a_log_to_a_figure(tmp_path, monkeypatch):
    """It is at most 30 lines, and runs as it stands on a file of the form that it names."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(code.splitlines()) <= 30
    monkeypatch.chdir(tmp_path)
    rng, lines = np.random.default_rng(0), ["machine,run,temperature,load,choice,gain,last"]
    for machine in range(4):
        for run in range(6):
            for step in range(10):
                sensor = ",".join(f"{x:.3f}" for x in rng.normal(size=2))
                lines.append(f"m{machine},{run},{sensor},{rng.integers(3)},{rng.random():.3f},{int(step == 9)}")
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    exec(compile(code, str(PAGE), "exec"), {})
    assert (tmp_path / "log.png").read_bytes()[:4] == b"\x89PNG"
    assert open_store(tmp_path / "runs/log").task_ids == ["m0", "m1", "m2", "m3"]
