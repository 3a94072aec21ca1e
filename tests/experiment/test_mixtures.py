"""A mixture as data: its members, its file, changes by name, and what is refused before anything is compiled."""

import dataclasses
import json
import pathlib
import re

import pytest
from helpers import refused
from small_worlds import ARMS, METHOD, MODEL, POINT, ROOM, WORLDS, of

from ad_jax.errors import ConfigError
from ad_jax.experiment import Member, Mixture, build_members, load, load_mixture, override, override_mixture
from ad_jax.methods.decision_transformer import DecisionTransformer
from ad_jax.methods.rl2 import RL2
from ad_jax.models.lstm import LSTM
from ad_jax.models.transformer import Transformer
from ad_jax.policies.random import Random
from ad_jax.run.directory import digest
from ad_jax.sources.ucb import UCB


def test_a_member_is_an_experiment_with_what_is_shared_in_the_place_of_its_own():
    mixture = dataclasses.replace(WORLDS, seed=5, model=Transformer(layers=2), fit_updates=3)
    e = mixture.member("point")
    assert (e.name, e.seed, e.model, e.method) == ("point", 5, Transformer(layers=2), METHOD)
    assert (e.env, e.source, e.tasks, e.replay) == (POINT.env, POINT.source, POINT.tasks, POINT.replay)
    assert mixture.member("arms").method.updates == 3
    assert mixture.shares == {"room": 0.25, "point": 0.75}


def test_a_batch_is_dealt_out_by_weight_in_multiples_of_the_groups():
    def rows(**changes):
        mixture = dataclasses.replace(WORLDS, **changes)
        return {name: mixture.member(name).replay.batch for name in mixture.members}

    assert rows() == {"room": 8, "point": 8, "arms": 16}
    assert rows(batch=128) == {"room": 32, "point": 96, "arms": 16}
    assert rows(batch=8) == {"room": 8, "point": 8, "arms": 16}


def test_a_mixture_is_read_from_what_was_written():
    assert Mixture.from_json(json.loads(json.dumps(WORLDS.to_json()))) == WORLDS
    for change, told in (
        ({"env": 3}, "unknown field of mixture 'env'"),
        ({"envs": []}, "members by name"),
        ({"envs": {"room": {}}}, "envs.room expects weight, held_out and experiment"),
        ({"seed": "a"}, "seed expects int"),
    ):
        with pytest.raises(ConfigError, match=told):
            Mixture.from_json(WORLDS.to_json() | change)


def test_what_shapes_the_model_names_the_directory_and_nothing_else_does():
    def other(*changes):
        return digest(override_mixture(WORLDS, changes)) != digest(WORLDS)

    assert other("seed=1")
    assert other("model.layers=2")
    assert other("envs.point.weight=2")
    assert other("envs.room.env.size=4")
    assert other("batch=128")
    assert other("envs.arms.held_out=False")
    assert not other("mesh.data=2", "logging.progress_seconds=1", "envs.room.evaluate.episodes=9")
    assert digest(of(*reversed(WORLDS.members.values()))) == digest(WORLDS)


def test_changes_go_to_all_or_to_a_member():
    changed = override_mixture(
        WORLDS,
        [
            "model.layers=3",
            "method.updates=9",
            "--seed=2",
            "envs.room.tasks.train=3",
            "envs.room.weight=2",
            "batch=none",
        ],
    )
    assert (changed.model, changed.method.updates, changed.seed) == (dataclasses.replace(MODEL, layers=3), 9, 2)
    assert changed.member("room").tasks.train == 3
    assert changed.members["room"].weight == 2.0
    assert changed.members["point"] == WORLDS.members["point"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("envs.rom.tasks.train=3", "unknown member of worlds 'rom'. Did you mean 'room'"),
        ("tasks.train=3", "unknown field 'tasks.train'. Did you mean .*envs.room.tasks.train"),
        ("envs.room.model.layers=3", "all members share one model. Say model.layers=3"),
        ("envs.room.weight=much", "envs.room.weight expects float"),
        ("envs.room.tasks.trainn=3", "tasks.train"),
        ("model.layerz=3", "layers"),
        ("batch=many", "batch expects"),
        ("seed", "field=value"),
    ],
)
def test_a_change_of_nothing_is_refused(change, told):
    with pytest.raises(ConfigError, match=told):
        override_mixture(WORLDS, [change])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: of(ROOM, ROOM), "2 members are called 'room'"),
        (lambda: of(Member(ROOM, name="a/b")), "'a/b'"),
        (lambda: build_members(of(Member(ROOM, weight=0.0))), "envs.room.weight must be above 0"),
        (lambda: build_members(of(Member(ROOM, weight=float("nan")))), "envs.room.weight must be above 0"),
        (lambda: build_members(of(Member(ROOM, held_out=True))), r"at least one member must be trained; got room"),
        (lambda: build_members(of()), "at least one member must be trained; got none"),
        (lambda: build_members(of(ROOM, batch=0)), "batch must be at least 1"),
        (lambda: build_members(of(ROOM, fit_updates=0)), "fit_updates must be at least 1"),
        (
            lambda: build_members(of(ROOM, method=RL2())),
            "rl2 cannot train one model.*decision_transformer, distillation",
        ),
        (lambda: build_members(of(ROOM, model=Random())), "envs.room: model random has nothing to train"),
        (
            lambda: build_members(of(ARMS, dataclasses.replace(ROOM, source=UCB()))),
            "envs.room: ",
        ),
        (lambda: build_members(of(override(ROOM, ["replay.segment=99"]))), "envs.room: replay.segment=99"),
        (lambda: WORLDS.member("rom"), "Did you mean 'room'"),
    ],
)
def test_what_cannot_be_mixed_is_refused(make, told):
    with pytest.raises(ConfigError, match=re.compile(told)):
        make()


@pytest.mark.parametrize(
    "changes",
    [{"model": LSTM(width=8, hidden=8, mlp_width=8)}, {"method": DecisionTransformer(updates=4, warmup_updates=1)}],
)
def test_other_backbones_and_methods_mix_too(changes):
    parts = build_members(of(ROOM, ARMS, **changes))
    assert list(parts.together.members) == ["room", "arms"]
    assert parts.together.own == ("head", "tokens")


def test_the_page_shows_a_mixture_that_can_be_built():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "mixtures.md").read_text()
    names: dict = {}
    exec(page.partition("```python\n")[2].partition("\nMixtureRun(")[0], names)
    assert names["mixture"].shares == {"dark_room": 1 / 3, "point_mass": 2 / 3}
    assert list(build_members(names["mixture"]).together.members) == ["dark_room", "point_mass"]


def test_an_experiment_is_no_mixture_and_a_mixture_no_experiment(capsys):
    with pytest.raises(ConfigError, match=r"many_worlds is a mixture of dark_room,.*load_mixture"):
        load("many_worlds", "smoke")
    with pytest.raises(ConfigError, match="dark_room is an experiment with one family"):
        load_mixture("dark_room", "smoke")
    refused(capsys, ["run", "many_worlds", "--scale", "smoke", "envs.dark_rom.weight=1"], "dark_room")
