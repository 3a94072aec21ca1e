"""What fails in a user's own code is told in one line, with its place; and what can be asked of the command line."""

import pathlib
import re
import sys

import jax.numpy as jnp
import pytest
from helpers import refused

from ad_jax import envs, experiment, models, policies, sources
from ad_jax.__main__ import main
from ad_jax.checkpoint import checkpoint
from ad_jax.cli import listing
from ad_jax.errors import CheckpointError
from ad_jax.testing import check_env
from ad_jax.testing.base import ContractError

SMOKE = ("dark_room", "--scale", "smoke")
FAMILY = """
import dataclasses
import jax.numpy as jnp
from ad_jax.envs.dark_room import DarkRoom

@dataclasses.dataclass(frozen=True)
class Mine(DarkRoom):
    size: int = 5
    wrong: str = ""

    def __post_init__(self):
        super().__post_init__()
        if self.wrong == "init":
            undefined_in_init

    def reset_env(self, key, params):
        if self.wrong == "reset":
            undefined_in_reset
        return super().reset_env(key, params)

    def step_env(self, key, state, action, params):
        if self.wrong == "step":
            undefined_in_step
        if self.wrong == "branch" and action > 1:
            return None
        return super().step_env(key, state, action, params)

    def split(self, seed, train, held_out):
        if self.wrong == "split":
            return super().split(seed, train, held_out, 1)
        if self.wrong == "trained":
            return {}["tasks"]
        return super().split(seed, train, held_out)

    def trace(self, state, action):
        if self.wrong == "trace":
            undefined_in_trace
        return super().trace(state, action)
"""
SOURCE = """
import flax.struct
from ad_jax.sources.base import SourceConfig

@flax.struct.dataclass
class Mine(SourceConfig):
    rate: float = 0.1

    def make(self, family):
        return undefined_source
"""
WHERE = {  # what goes wrong: what is said of it
    "init": ("NameError: name 'undefined_in_init' is not defined", "__post_init__"),
    "reset": ("NameError: name 'undefined_in_reset' is not defined", "reset_env"),
    "step": ("NameError: name 'undefined_in_step' is not defined", "step_env"),
    "branch": ("TracerBoolConversionError", "step_env"),
    "split": ("TypeError: ", "split"),
    "trained": ("KeyError: 'tasks'", "split"),
}


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    monkeypatch.setenv("AD_JAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    for name in ("my_family", "my_source"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    pathlib.Path("my_family.py").write_text(FAMILY)
    pathlib.Path("my_source.py").write_text(SOURCE)


def line_of(text: str, part: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), 1) if part in line)


@pytest.mark.parametrize("wrong", WHERE)
def test_a_mistake_in_a_family_is_one_line_with_its_place_before_anything_runs(wrong, capsys):
    what, function = WHERE[wrong]
    for command in ("run", "show"):
        told = refused(capsys, [command, *SMOKE, "env=my_family:Mine", f"env.wrong={wrong}"], what)
        assert told.count("\n") == 1
        assert re.search(rf"my_family\.py:\d+, in {function}\)", told)
        if what.startswith("NameError"):
            assert f"my_family.py:{line_of(FAMILY, f'            undefined_in_{wrong}')}," in told
    assert not pathlib.Path("runs").exists()


def test_a_mistake_that_shows_only_later_is_one_line_too(capsys):
    changes = [
        "env=my_family:Mine",
        "env.wrong=trace",
        "model=random",
        "evaluate.source_seeds=0",
        "--dir=run",
        "tasks.train=5",
    ]
    told = refused(capsys, ["run", *SMOKE, *changes], "NameError: name 'undefined_in_trace' is not defined")
    assert f"my_family.py:{line_of(FAMILY, '            undefined_in_trace')}, in trace" in told
    assert len(told.strip().splitlines()) == 1


def test_traceback_shows_all_of_it(capsys):
    words = ["show", *SMOKE, "env=my_family:Mine", "env.wrong=step", "--traceback"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert "undefined_in_step\n" in error
    assert error.splitlines()[-1].startswith("ad-jax: task family Mine failed: NameError")


def test_check_names_the_place(capsys):
    import my_family  # pyright: ignore[reportMissingImports]  # written by the fixture

    with pytest.raises(
        ContractError, match=r"NameError: name 'undefined_in_step' .*my_family.py:\d+, in step_env"
    ) as e:
        check_env(my_family.Mine(wrong="step"))
    assert "traceback above" not in str(e.value)
    with pytest.raises(ContractError, match=r"NameError: name 'undefined_in_trace' .*With --traceback you see all"):
        check_env(my_family.Mine(wrong="trace"))


def test_other_plug_ins_and_experiments(capsys):
    told = refused(capsys, ["show", *SMOKE, "source=my_source:Mine"], "NameError: name 'undefined_source'")
    assert "my_source.py:10, in make" in told
    pathlib.Path("my_source.py").write_text("undefined_module")
    sys.modules.pop("my_source")
    refused(capsys, ["show", *SMOKE, "source=my_source:Mine"], "cannot load source", "my_source.py:1, in <module>")
    sys.modules.pop("my_source", None)
    pathlib.Path("my_source.py").write_text("def Mine(config, family): return 1")
    refused(
        capsys,
        ["show", *SMOKE, "source=my_source:Mine"],
        "must be a frozen dataclass that is a SourceConfig",
        "ad_jax.sources.base states what that is",
    )
    pathlib.Path("mine.py").write_text("def config(scale='cpu'):\n    return len(3)")
    refused(capsys, ["show", "mine.py"], "cannot be loaded: TypeError", "mine.py:2, in config)")
    pathlib.Path("mine.py").write_text("def config(:")
    refused(capsys, ["show", "mine.py"], "cannot be loaded: SyntaxError", "mine.py:1)")


def test_a_module_that_fails_when_a_name_is_looked_up_is_named(tmp_path, monkeypatch, capsys):
    """Modules may make their names when they are asked for (PEP 562), and fail at that."""
    (tmp_path / "lazy_worlds.py").write_text(
        "def __getattr__(name):\n    raise RuntimeError(f'no license for {name}')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    refused(capsys, ["show", *SMOKE, "env=lazy_worlds:World"], "cannot load env", "RuntimeError: no license for World")


def test_a_mistake_of_ours_is_no_users(monkeypatch):
    def fail(args):
        raise RuntimeError("not a user's")

    monkeypatch.setattr("ad_jax.__main__._show", fail)
    monkeypatch.setattr("ad_jax.errors.place_of", lambda error: None)
    with pytest.raises(RuntimeError):
        main(["show", "dark_room"])


def test_a_best_checkpoint_that_was_never_kept_is_told_from_one_that_is_missing(tmp_path):
    with checkpoint.Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, {"x": jnp.int32(1)}, {"architecture": {}})
    with pytest.raises(CheckpointError, match=r"without keeping a best .*method.evaluate_every.*checkpoint=last"):
        checkpoint.load(tmp_path, "best")
    with pytest.raises(CheckpointError, match="run `ad-jax distill` first"):
        checkpoint.load(tmp_path / "nowhere", "best")


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert re.fullmatch(r"ad_jax \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


def test_what_there_is_can_be_listed(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in (*experiment.known(), *envs.FAMILIES, *sources.SOURCES, *models.MODELS, *policies.POLICIES):
        assert re.search(rf"^  {name} +[A-Z`].{{10,}}\.", shown, re.MULTILINE), name
    assert "[cpu, demo, smoke, paper]" in shown
    assert "CartPole-v1" in shown
    assert "See the module" not in shown
    assert main(["list", "models"]) == 0
    assert capsys.readouterr().out.splitlines() == listing.lines("models")
