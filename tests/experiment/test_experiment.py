"""Experiments as data: overriding, round trips, digests, and every experiment file loads and builds at each scale."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import pytest
from outside_helpers import skip_without

from ad_jax import experiment as experiments
from ad_jax.checkpoint import identity
from ad_jax.envs.bandit import Bandit
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.errors import ConfigError
from ad_jax.experiment import (
    Experiment,
    Mixture,
    Plugin,
    ReferenceConfig,
    TaskConfig,
    build,
    build_members,
    docstring,
    load,
    load_any,
    override,
)
from ad_jax.experiment.plugins import KINDS
from ad_jax.files import write_json
from ad_jax.history.replay import RotationConfig
from ad_jax.methods.distillation import Distillation
from ad_jax.models.transformer import Transformer
from ad_jax.run.directory import default, digest
from ad_jax.sources.q_learning import QLearning
from ad_jax.sources.ucb import UCB
from ad_jax.stage.collect import Config as CollectConfig

PLAIN = Experiment("plain", DarkRoom(size=5), QLearning(discount=0.5))
REFERENCE = {"source": {"name": "q_learning", "options": {"discount": 0.8}}, "episodes": 3}
FILES = sorted(pathlib.Path(__file__).parents[2].glob("experiments/*/config.py"))
SCALES = ("cpu", "smoke", "paper")


@dataclasses.dataclass(frozen=True)
class Loose(DarkRoom):
    """A room with an option of any type."""

    vary: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def changed(*changes: str, base: Experiment = PLAIN) -> Experiment:
    return override(base, changes)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("seed=3", {"seed": 3}),
        ("--seed=3", {"seed": 3}),
        ("name=other", {"name": "other"}),
        ("name='7'", {"name": "7"}),
        ("tasks.train=9", {"tasks": TaskConfig(train=9)}),
        ("collect.episodes=1_000", {"collect": CollectConfig(episodes=1000)}),
        ("env.size=17", {"env": DarkRoom(size=17)}),
        ("env.options.size=17", {"env": DarkRoom(size=17)}),
        ("env.options={'steps': 4}", {"env": DarkRoom(size=5, steps=4)}),
        ("env.start=corner", {"env": DarkRoom(size=5, start="corner")}),
        ("source.discount=1e-2", {"source": QLearning(discount=0.01)}),
        ("source.name=ucb", {"source": UCB()}),
        ("env=bandit", {"env": Bandit()}),
        ("env=ad_jax.envs.bandit:Bandit", {"env": Bandit()}),
        ("source=source_helpers:named_by_a_function", {"source": UCB()}),
        ("model.pixel_channels=(8, 8)", {"model": Transformer(pixel_channels=(8, 8))}),
    ],
)
def test_an_override_changes_what_it_names_and_nothing_else(change, expected):
    assert changed(change) == dataclasses.replace(PLAIN, **expected)
    assert PLAIN.env == DarkRoom(size=5), "the original stays"


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("False", False), ("none", None), ("TRUE", True), ("abc", "abc"), ("", ""), ("[1,2]", [1, 2])],
)
def test_values_are_literals_or_else_strings(text, value):
    env: Any = changed(f"env.vary.length={text}", base=dataclasses.replace(PLAIN, env=Loose())).env
    found = env.vary["length"]
    assert found == value
    assert type(found) is type(value)


def test_an_int_is_taken_for_a_float_and_the_other_way_is_refused():
    method = changed("distill.learning_rate=1").method
    assert isinstance(method, Distillation)
    rate = method.learning_rate
    assert (rate, type(rate)) == (1.0, float)
    with pytest.raises(ConfigError, match=r"distill.updates expects int; got 10.0 \(float\)"):
        changed("distill.updates=1e1")
    with pytest.raises(ConfigError, match=r"distill.learning_rate expects float; got True \(bool\)"):
        changed("distill.learning_rate=true")


def test_none_and_literals_are_checked_against_the_annotation():
    assert changed("logging.wandb=project").logging.wandb == "project"
    assert changed("logging.wandb=project", "logging.wandb=none").logging.wandb is None
    assert changed("evaluate.checkpoint=best").evaluate.checkpoint == "best"
    for change in ("logging.tensorboard=none", "evaluate.checkpoint=first", "tasks=3", "env.options=3"):
        with pytest.raises(ConfigError, match=change.split("=")[0]):
            changed(change)


def test_later_overrides_win_and_swapping_a_plugin_drops_the_options_of_the_old_one():
    assert changed("seed=1", "seed=2").seed == 2
    assert changed("env.size=7", "env=bandit", "env.arms=3").env == Bandit(arms=3)


def test_tuple_options_reach_the_source():
    e = changed("env.size=9", "source=actor_critic", "source.hidden=(32, 16)", "source.actors=2")
    assert build(e).source_config.hidden == (32, 16)
    with pytest.raises(ConfigError, match=r"hidden expects tuple\[int, \.\.\.\]; got \(32, 'x'\)"):
        build(changed("env.size=9", "source=actor_critic", "source.hidden=(32, 'x')"))


def test_json_and_back_is_the_same_experiment():
    e = changed("seed=4", "tasks.train=9", "env.size=7", "logging.wandb=x", "distill.optimizer=muon")
    assert Experiment.from_json(e.to_json()) == e
    assert Experiment.from_json(json.loads(json.dumps(e.to_json()))) == e
    compared = Experiment.from_json(PLAIN.to_json() | {"reference": REFERENCE})
    assert compared.reference == ReferenceConfig(QLearning(discount=0.8), episodes=3)
    assert Experiment.from_json(json.loads(json.dumps(compared.to_json()))) == compared


def test_a_reference_is_overridden_by_field_and_refused_like_a_source():
    small = changed("tasks.train=9", "tasks.held_out=4")
    compared = Experiment.from_json(small.to_json() | {"reference": REFERENCE})
    more = changed("reference.episodes=5", "reference.source.discount=0.7", base=compared)
    assert more.reference == ReferenceConfig(QLearning(discount=0.7), episodes=5)
    assert build(more).reference.actors == 1
    parts = build(small)
    assert parts.reference is parts.source
    for change, message in {
        "reference.episodes=0": "reference.episodes must be at least 1; got 0",
        "reference.source.discunt=0": "unknown option of source q_learning 'discunt'. Did you mean 'discount'",
        "reference.source=q_lerning": "unknown source 'q_lerning'. Did you mean 'q_learning'",
        "reference.episode=3": "unknown field 'reference.episode'. Did you mean 'reference.episodes'",
    }.items():
        with pytest.raises(ConfigError, match=re.escape(message)):
            build(changed(change, base=compared))
    with pytest.raises(ConfigError, match=r"reference is None, which an experiment's file can change"):
        changed("reference.episodes=3")


def test_what_is_none_is_made_from_the_one_field_that_it_needs():
    turns = changed("replay.rotation.resident=64", "replay.rotation.parts=4").replay.rotation
    assert turns == RotationConfig(64, parts=4)
    with pytest.raises(ConfigError, match=r"rotation is None, which an experiment's file can change"):
        changed("replay.rotation.parts=4")
    with pytest.raises(ConfigError, match=r"replay.rotation.resident expects int; got 'all'"):
        changed("replay.rotation.resident=all")


def old_form(e: Experiment) -> dict[str, Any]:
    """Return what `to_json` gave when a plug-in was a name and the options that were set."""
    data = json.loads(json.dumps(e.to_json()))
    for plugin in (data[kind] for kind in KINDS):
        plugin["options"] = plugin.pop("config")
    data["env"]["options"] = {"size": 5}
    data["source"]["options"] = {"discount": 0.5}
    data["model"] = {"name": "transformer", "options": {}}
    return data


def test_experiments_of_before_plug_ins_were_classes_are_the_same_experiments(tmp_path, monkeypatch):
    assert Experiment.from_json(old_form(PLAIN)) == PLAIN
    named = Experiment("plain", Plugin("dark_room", {"size": 5}), Plugin("q_learning", {"discount": 0.5}))  # pyright: ignore
    assert named == PLAIN
    compared = ReferenceConfig(Plugin("q_learning", {"discount": 0.8}), episodes=3)  # pyright: ignore
    assert compared.source == QLearning(discount=0.8)
    monkeypatch.chdir(tmp_path)
    write_json(pathlib.Path("runs/plain/an_older_digest/config.json"), old_form(PLAIN))
    assert default(PLAIN) == pathlib.Path("runs/plain/an_older_digest")
    assert default(changed("env.size=6")) != pathlib.Path("runs/plain/an_older_digest")
    assert not identity.changed(old_form(PLAIN), PLAIN.to_json())
    assert identity.changed(old_form(PLAIN), changed("env.size=6").to_json()) == ["env.size (5 there, 6 here)"]
    other = old_form(PLAIN) | {"env": {"name": "dark_room", "options": {}}}
    assert identity.changed(old_form(PLAIN), other) == ["env.options.size (5 there, None here)"]


def test_a_plug_in_from_python_is_checked_like_one_from_a_file():
    for field, plugin, message in (
        ("env", "dark_room", "env expects a TaskFamily with its options, a frozen dataclass; got 'dark_room' (str)"),
        ("source", Transformer(), "source expects a SourceConfig"),
        ("model", QLearning(), "model expects a ModelConfig or PolicyConfig"),
        ("model", Transformer(layers="four"), "model transformer.layers expects int; got 'four' (str)"),  # pyright: ignore
        ("source", QLearning(explore="novell"), "unknown value of source q_learning.explore 'novell'"),  # pyright: ignore
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            build(dataclasses.replace(PLAIN, **{field: plugin}))


def test_data_with_unknown_names_or_wrong_types_is_refused():
    data = PLAIN.to_json()
    with pytest.raises(ConfigError, match=r"unknown option of method distillation 'update'. Did you mean 'updates'"):
        Experiment.from_json(data | {"method": {"name": "distillation", "options": {"update": 3}}})
    with pytest.raises(ConfigError, match=r"unknown method 'distilation'. Did you mean 'distillation'"):
        Experiment.from_json(data | {"method": {"name": "distilation"}})
    with pytest.raises(ConfigError, match=r"collect.seeds expects int; got '3'"):
        Experiment.from_json(data | {"collect": {"seeds": "3"}})


OTHERS = {"env": "dark_room_hard", "source": "ucb", "model": "lstm", "method": "dpt"}
APART = ("mesh", "logging", "evaluate", "reference")  # a trained model may be evaluated again, differently


def leaves(data, where=()):
    for name, value in data.items():
        yield from leaves(value, (*where, name)) if isinstance(value, dict) else [(*where, name)]


def test_equal_experiments_have_equal_digests_and_what_shapes_the_model_counts():
    same = [PLAIN, Experiment.from_json(PLAIN.to_json()), changed("seed=3", "seed=0")]
    ints = changed("source.discount=1"), changed("source.discount=1.0")
    assert len({digest(e) for e in same}) == 1
    assert ints[0] == ints[1]
    assert digest(ints[0]) == digest(ints[1])
    digests, shaping = {digest(PLAIN)}, [p for p in leaves(PLAIN.to_json()) if p[0] not in APART]
    for path in leaves(PLAIN.to_json()):
        data = PLAIN.to_json()
        inner = data
        for name in path[:-1]:
            inner = inner[name]
        old = inner[path[-1]]
        literals = {
            "start": "corner",
            "reward": "once",
            "explore": "novel",
            "layout": "triple",
            "positions": "absolute",
            "norm": "post",
            "action_head": "binned",
            "activation": "gelu",
            "attention": "fused",
            "memory": "episode",
            "gate": "gru",
            "value_head": True,
            "compute_dtype": "bfloat16",
            "pixel_channels": [8],
            "episode_length": 9,
            "optimizer": "muon",
            "checkpoint": "best",
            "wandb": "x",
            "reference": REFERENCE,
            "used": 9,
            "prompt": 0.5,
            "temperature": 0.5,
            "best": 0.5,
            "rotation": {"resident": 64},
            "skip_updates": 2,
            "reward_unit": 0.5,
            "trained": 3,
            "preferences": True,
            "features": 64,
        }
        if path[-1] == "name" and path[0] in OTHERS:
            inner["config"] = {}
        literal = OTHERS[path[0]] if path[-1] == "name" and path[0] in OTHERS else literals.get(path[-1])
        inner[path[-1]] = literal or (not old if isinstance(old, bool) else old * 2 or 1)
        assert (digest(Experiment.from_json(data)) == digest(PLAIN)) == (path[0] in APART), path
        digests.add(digest(Experiment.from_json(data)))
    assert len(digests) == 1 + len(shaping)


def test_experiments_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAIN.seed = 1  # pyright: ignore[reportAttributeAccessIssue]


def scales(path: pathlib.Path) -> list[str]:
    """Return the scales that an experiment file defines."""
    found = []
    for scale in SCALES:
        try:
            load_any(str(path), scale)
        except ConfigError as error:
            assert "has no scale" in str(error)  # noqa: PT017
        else:
            found.append(scale)
    return found


def test_there_are_experiments():
    assert FILES
    assert {path.parent.name for path in FILES} <= set(experiments.known())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_every_experiment_loads_at_every_scale(path):
    skip_without(path)
    assert {"cpu", "smoke"} <= set(scales(path))
    for scale in scales(path):
        e = load_any(path.parent.name, scale)
        assert e == load_any(str(path), scale) == load_any(str(path.parent), scale)
        assert e.name == path.parent.name
        assert type(e).from_json(e.to_json()) == e


@pytest.mark.parametrize(
    "scale", [s if s in ("cpu", "smoke") else pytest.param(s, marks=pytest.mark.slow) for s in SCALES]
)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_every_experiment_builds_at_every_scale(path, scale):
    skip_without(path)
    if scale in scales(path):
        e = load_any(path.parent.name, scale)
        for of_one in build_members(e).components.values() if isinstance(e, Mixture) else [build(e)]:
            assert of_one.split.held_out


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_every_experiment_states_its_claim_command_and_variant(path):
    text = docstring(path.parent.name)
    for word in ("Claim ", "Command ", "Variant "):
        assert f"\n{word}" in text
    assert f"ad-jax run {path.parent.name}" in text


def test_an_experiment_in_the_current_directory_comes_first(tmp_path, monkeypatch):
    text = FILES[0].read_text()
    for name in ("mine", FILES[0].parent.name):
        (tmp_path / "experiments" / name).mkdir(parents=True)
        (tmp_path / "experiments" / name / "config.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert "mine" in experiments.known()
    assert load("mine") == load(str(FILES[0]))
    assert experiments.find(FILES[0].parent.name).is_relative_to(tmp_path)
