"""RL² in an experiment: its options, the models that it takes, its run directory, every stage."""

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ad_jax import Agent, envs
from ad_jax.checkpoint import checkpoint
from ad_jax.envs.base import seen_spec_of
from ad_jax.errors import ConfigError
from ad_jax.experiment import Experiment, build, load, name_of
from ad_jax.files import read_json
from ad_jax.methods import rl2
from ad_jax.models.dpt import DPTModel
from ad_jax.models.lstm import LSTM
from ad_jax.models.transformer import Transformer
from ad_jax.run.directory import identity
from ad_jax.run.pipeline import Run

MODEL: dict[str, Any] = {"width": 8, "hidden": 12, "mlp_width": 8, "value_head": True}
PARTS = rl2.RL2(
    trial_episodes=2, unroll_episodes=1, trials=16, updates=5, minibatches=2, updates_per_dispatch=2, checkpoint_every=5
)


def test_the_page_names_every_option_with_its_default():
    page = (Path(__file__).parents[2] / "docs/rl2.md").read_text()
    told = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 5 and cells[1].startswith("`"):
            told |= dict(zip(cells[1].replace("`", "").split(", "), cells[2].replace("`", "").split(", "), strict=True))
    assert {name: ast.literal_eval(value) for name, value in told.items()} == dataclasses.asdict(rl2.RL2())


def experiment(**changes) -> Experiment:
    e = load("dark_room", "smoke")
    return dataclasses.replace(e, **{"model": LSTM(**MODEL), "method": PARTS, **changes})


def test_other_models_are_refused_with_the_remedy():
    for model in (Transformer(), LSTM(), DPTModel()):
        told = r"set model=lstm or model=transformer, and model.value_head=True.*got model " + name_of(model)
        with pytest.raises(ConfigError, match=told):
            build(experiment(model=model))
    for option in ("token_mask", "dropout"):
        with pytest.raises(ConfigError, match=rf"where model.{option}=0.1 does nothing: set model.{option}=0.0"):
            build(experiment(model=dataclasses.replace(Transformer(value_head=True), **{option: 0.1})))
    with pytest.raises(ConfigError, match=r"needs model.value_head=True"):
        LSTM(**{**MODEL, "value_head": False}).actor_critic(seen_spec_of(envs.make("dark_room")))
    with pytest.raises(ConfigError, match=r"method.updates must be at least 1"):
        build(experiment(method=dataclasses.replace(PARTS, updates=0)))
    build(experiment(replay=dataclasses.replace(experiment().replay, segment=10**6)))  # there is nothing to replay


def test_an_experiment_says_rl2_and_those_without_keep_their_directory():
    e = experiment()
    assert Experiment.from_json(json.loads(json.dumps(e.to_json()))) == e
    assert identity(e)["method"]["trial_episodes"] == 2


@pytest.mark.slow
def test_rl2_runs_through_every_stage(tmp_path, capsys):
    e = experiment(method=dataclasses.replace(PARTS, checkpoint_every=2, updates=3, evaluate_every=2))
    assert Run(e, tmp_path / "run").all().exists()
    assert "nothing to do" in capsys.readouterr().out
    assert not (tmp_path / "run/histories").exists()
    (one,) = read_json(tmp_path / "run/results.json")["runs"]
    assert one["stages"]["distill"]["env_steps"] == 3 * 16 * 20
    assert np.shape(one["sets"][0]["returns"]["sampled"]) == (16, e.evaluate.seeds, e.evaluate.episodes)
    agent = Agent.load(tmp_path / "run")
    assert agent.act([[4, 4]]).shape == (1,)
    Run(e, tmp_path / "run").evaluate()  # again, from what is there
    assert checkpoint.load(tmp_path / "run", "best")[0] in (2, 3), "by its return in context on training tasks"
