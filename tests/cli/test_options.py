"""How options of an experiment are written on the command line, and the help that is made of its classes."""

import subprocess
import sys

import pytest

from ad_jax.__main__ import main
from ad_jax.cli.options import as_overrides

FORMS = {
    "--model.layers 6": ["model.layers=6"],
    "--model.layers=6": ["model.layers=6"],
    "model.layers=6": ["model.layers=6"],
    "--method.learning-rate 1e-3": ["method.learning_rate=1e-3"],
    "--source.hidden 32 16 --seed 3": ["source.hidden=(32, 16)", "seed=3"],
    "--evaluate.prompt none": ["evaluate.prompt=none"],
    "--model.exact_context --env bandit": ["model.exact_context=true", "env=bandit"],
    "--model.exact_context env.size=5": ["model.exact_context=true", "env.size=5"],
    "--model.layers 6 dark_room --scale smoke": ["model.layers=6", "dark_room", "--scale", "smoke"],
    "--tasks.used -1": ["tasks.used=-1"],
    "--dir here --updates=3": ["--dir", "here", "--updates=3"],
}


@pytest.mark.parametrize("line", FORMS)
def test_flags_mean_overrides(line):
    assert as_overrides(line.split()) == FORMS[line]


def test_a_place_whose_name_reads_like_an_override_is_a_value_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=3/h").mkdir(parents=True)
    assert as_overrides(["--env.histories", "lr=3/h"]) == ["env.histories=lr=3/h"]
    assert as_overrides(["--model.exact_context", "lr=4/h"]) == ["model.exact_context=true", "lr=4/h"]


def test_a_flag_changes_the_experiment_and_a_wrong_one_is_refused_alike(capsys):
    assert main(["show", "dark_room", "--scale", "smoke", "--model.layers", "3", "--env", "dark_room_hard"]) == 0
    shown = capsys.readouterr().out
    assert "layers=3, width=16" in shown
    assert "DarkRoomHard(size=17" in shown
    for form in (["--model.layrs", "3"], ["model.layrs=3"]):
        assert main(["show", "dark_room", *form]) == 2
        assert capsys.readouterr().err == (
            "ad-jax: unknown option of model transformer 'layrs'. Did you mean 'layers' or 'layout'?\n"
        )


def test_help_after_an_experiment_lists_every_option_with_type_value_and_meaning(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main(
            ["run", "gymnax_cartpole", "--scale", "smoke", "--model.layers", "7", "env.vary.length=(0.3,0.4)", "--help"]
        )
    assert not stop.value.code
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--histories" in shown, "what the stage itself takes"
    for name, kind, meaning in (
        ("--model.layers", "INT", "(default: 7)"),
        ("--env.vary.length", "[FLOAT [FLOAT ...]]", "(default: 0.3 0.4)"),
        ("--source.clip", "FLOAT", "how far the ratio of probabilities may move"),
        ("--model.positions", "{rotary,absolute}", "(default: rotary)"),
        ("--evaluate.prompt", "{None}|FLOAT", "fill the context with a demonstrator"),
        ("--model.exact_context", "{True,False}", "the context is the last `window` steps exactly"),
    ):
        assert f"{name} {kind}" in shown
        assert meaning in shown
    assert "fixed" not in shown
    assert "replay.rotation is None here; it has --replay.rotation.resident, --replay.rotation.parts" in shown
    assert "reference is None here; it has --reference.source" in shown
    with pytest.raises(SystemExit) as stop:
        main(["run", "dark_rom", "--help"])
    assert stop.value.code == 2
    assert "unknown experiment 'dark_rom'. Did you mean 'dark_room'" in capsys.readouterr().err


def test_nobody_has_to_read_the_help_to_its_end():
    command = [sys.executable, "-m", "ad_jax", "run", "dark_room", "--scale", "smoke", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("usage")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
