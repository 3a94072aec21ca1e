"""Methods as plug-ins: the contract of each, broken ones caught, what was written before them read, one of our own."""

import dataclasses
import json
import pathlib
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import LITTLE

from ad_jax import methods
from ad_jax.__main__ import main
from ad_jax.checkpoint import checkpoint, lineage
from ad_jax.errors import ConfigError
from ad_jax.experiment import Experiment, build, load, override, plugins
from ad_jax.methods.base import Channel, Method, MethodConfig
from ad_jax.methods.distillation import Distillation
from ad_jax.methods.dpt import DPT
from ad_jax.methods.rl2 import RL2
from ad_jax.methods.supervised import Supervised, cross_entropy
from ad_jax.models.dpt import DPTModel
from ad_jax.policies.base import Policy
from ad_jax.run import directory
from ad_jax.run.pipeline import Run
from ad_jax.stage import train as train_lib
from ad_jax.testing import ContractError, check_method, check_plugin
from ad_jax.types import Steps
from examples.decision_transformer import DecisionTransformer

SMOKE = load("dark_room", "smoke")
OURS = "examples.decision_transformer:DecisionTransformer"


@pytest.mark.parametrize("name", [*methods.METHODS, pytest.param(OURS, marks=pytest.mark.slow)])
def test_every_registered_method_keeps_the_contract(name):
    assert "rows act independently" in check_method(plugins.read("method", name))


def test_the_command_checks_a_method():
    assert "updates sent together are updates sent apart" in check_plugin(OURS)


def channels(**found) -> Any:
    """Return a method that states a float32 channel and prepares `found`, arrays by name."""

    @dataclasses.dataclass(frozen=True)
    class Prepares(Supervised):
        def channels(self, family, spec):
            return {"mine": Channel("float32")}

        def make(self, setting):
            def shaped(h):
                return {name: make(h.transition.action.shape) for name, make in found.items()}

            return Method(self.learner(setting, cross_entropy(setting.model)), shaped)

    return Prepares()


@dataclasses.dataclass(frozen=True)
class OfTheOthers(Supervised):
    """Its channel is how each history stands among those that are there."""

    def channels(self, family, spec):
        return {"rank": Channel("float32")}

    def make(self, setting):
        def rank(h):
            return {"rank": np.broadcast_to(np.float32(len(h.task_ids)), h.transition.action.shape)}

        return Method(self.learner(setting, cross_entropy(setting.model)), rank)


@dataclasses.dataclass(frozen=True)
class Mixes(Distillation):
    """Every row does what the first one does."""

    def policy(self, model, mode="sampled", temperature=1.0) -> Policy:
        inner = super().policy(model, mode, temperature)

        def act(params, carry, steps, keys):
            action, carry = inner.act(params, carry, steps, keys)
            return jnp.broadcast_to(action[:1], action.shape), carry

        return inner._replace(act=act)


@dataclasses.dataclass(frozen=True)
class Silent(Distillation):
    """Does not tell its gradient's norm."""

    def make(self, setting):
        learner = super().make(setting).learner

        def update(*args):
            state, metrics = learner.update(*args)
            return state, {"loss": metrics["loss"]}

        return Method(learner._replace(update=update))


@dataclasses.dataclass(frozen=True)
class Still(Distillation):
    """Applies no gradient."""

    def make(self, setting):
        learner = super().make(setting).learner

        def update(state, *args):
            return state.replace(step=state.step + 1), learner.update(state, *args)[1]

        return Method(learner._replace(update=update))


@pytest.mark.parametrize(
    ("broken", "check", "told"),
    [
        (channels(mine=lambda shape: np.full(shape, np.nan, np.float32)), "channels are finite", "mine.*Nonfinite"),
        (OfTheOthers(), "channels follow from each history alone", "that history alone"),
        (Silent(), "updates tell their loss and gradient norm", "grad_norm"),
        (Still(), "updates sent together are updates sent apart", "parameters that an update changes"),
        (Mixes(), "rows act independently", "Nothing may mix rows"),
    ],
    ids=lambda x: x if isinstance(x, str) and " " in x else None,
)
def test_broken_methods_are_caught(broken, check, told):
    with pytest.raises(ContractError, match=told) as error:
        check_method(broken)
    assert error.value.check == check


@pytest.mark.parametrize("make", [lambda s: np.zeros(s, np.float64), lambda s: np.zeros((*s, 2), np.float32)])
def test_channels_other_than_stated_are_refused_with_both(make):
    with pytest.raises(ConfigError, match=r"states channels .*'float32', \(\)\).*and prepares"):
        check_method(channels(mine=make))


def test_what_is_no_method_is_refused():
    for name, told in (("distilation", "Did you mean 'distillation'"), ("ad_jax.types:Spec", "must be a frozen data")):
        with pytest.raises(ConfigError, match=told):
            override(SMOKE, [f"method={name}"])


def test_a_method_that_makes_its_optimizer_under_the_old_name_is_refused():
    with pytest.raises(ConfigError, match=r"Mine\.optimizer: .* `make_optimizer`"):
        type("Mine", (Distillation,), {"optimizer": lambda self: None})


def before(e: Experiment) -> dict[str, Any]:
    """Return the plain data of an experiment as it was before there was a `method`."""
    data = e.to_json()
    method = data.pop("method")
    labels = "optimal" if method["name"] == "dpt" else "source"
    distill, rl2 = dataclasses.asdict(Distillation(updates=7, warmup_updates=1)), None
    if method["name"] == "rl2":
        rl2 = {name: x for name, x in method["config"].items() if not name.startswith("evaluate_")}
    else:
        distill = method["config"]
    data["replay"] = data["replay"] | {"labels": labels}
    return json.loads(json.dumps(data | {"distill": distill, "rl2": rl2}))


@pytest.mark.parametrize("method", [SMOKE.method, DPT(updates=9, warmup_updates=2), RL2(updates=3, trials=8)])
def test_experiments_of_before_are_the_same_experiments(tmp_path, monkeypatch, method):
    e = dataclasses.replace(SMOKE, method=method)
    other = dataclasses.replace(e, method=dataclasses.replace(method, clip_norm=0.25))
    old = before(e)
    assert Experiment.from_json(old) == e
    lineage.check_own({"experiment": old}, {"experiment": e.to_json()}, "there")
    with pytest.raises(Exception, match=r"differs in method\.clip_norm \(.* there, 0.25 here\)"):
        lineage.check_own({"experiment": old}, {"experiment": other.to_json()}, "there")
    monkeypatch.chdir(tmp_path)
    folder = pathlib.Path("runs/dark_room/0123456789")  # whatever its digest was
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(old))
    assert directory.check(folder, e)
    assert directory.default(e) == folder
    assert directory.default(other) != folder


def test_the_names_of_before_are_taken_on_the_command_line():
    def changed(*changes):
        return override(SMOKE, changes).method

    assert changed("distill.updates=9") == changed("method.updates=9") == dataclasses.replace(SMOKE.method, updates=9)
    assert changed("rl2.trials=8", "rl2.updates=3") == RL2(trials=8, updates=3)
    assert changed("rl2.trials=8", "distill.updates=9") == Distillation(updates=9)
    assert changed("method=dpt", "distill.updates=9") == DPT(**{**vars(SMOKE.method), "updates": 9})
    assert changed("replay.labels=optimal") == changed("method=dpt")
    assert changed("replay.labels=optimal", "replay.labels=source") == SMOKE.method
    with pytest.raises(ConfigError, match=r"rl2=none: a method is named by method=..., e.g. method=rl2|rl2=None"):
        changed("rl2=none")
    with pytest.raises(ConfigError, match=r"unknown field 'rl2.trial'. Did you mean 'rl2.trials'"):
        changed("rl2.trial=8")
    with pytest.raises(ConfigError, match=r"replay.labels=source is of distillation and DPT; got method rl2"):
        changed("method=rl2", "replay.labels=source")


def test_another_method_keeps_how_long_to_train_where_it_is_fed_the_same():
    ours = override(SMOKE, [f"method={OURS}", "method.target=3"]).method
    assert ours == DecisionTransformer(**vars(SMOKE.method), target=3.0)
    assert override(SMOKE, ["method=rl2"]).method == RL2()
    assert (
        Experiment.from_json(json.loads(json.dumps(dataclasses.replace(SMOKE, method=ours).to_json()))).method == ours
    )


def test_a_method_of_ones_own_runs_through_every_stage_and_goes_on_after_a_kill(tmp_path, monkeypatch, capsys):
    changes = [f"method={OURS}", *LITTLE]
    arguments = ["run", "dark_room", "--scale", "smoke", *changes]
    assert main([*arguments, "--dir", str(tmp_path / "whole")]) == 0
    assert "held-out return" in capsys.readouterr().out
    _, whole, meta = checkpoint.load(tmp_path / "whole")
    assert meta["experiment"]["method"]["name"] == OURS
    assert any("extra_return_to_go" in name for name in meta["architecture"])

    class KilledError(Exception):
        pass

    read = train_lib._read

    def kill(learner, unread, past, log):
        if any(sent.first == 4 for sent in unread):
            raise KilledError
        return read(learner, unread, past, log)

    e = override(SMOKE, changes)
    run = Run(e, tmp_path / "killed", str(tmp_path / "whole/histories"))
    monkeypatch.setattr(train_lib, "_read", kill)
    with pytest.raises(KilledError):
        run.distill()
    monkeypatch.undo()
    run.distill()
    assert json.loads((tmp_path / "killed/stages.json").read_text())["distill"]["resumed_from"] == 4
    chex.assert_trees_all_equal(whole, checkpoint.load(tmp_path / "killed")[1])


def test_steps_without_extras_are_the_tree_that_checkpoints_hold():
    """Trials of RL² are in them; with extras the tree is another."""
    plain = Steps(observation=jnp.zeros(2), prev_action=jnp.ones(2), prev_reward=jnp.ones(2), prev_done=jnp.ones(2))

    def names(tree):
        return [jax.tree_util.keystr(path, simple=True) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]

    assert names(plain) == ["observation", "prev_action", "prev_reward", "prev_done"]
    more = plain.replace(extra={"goal": jnp.zeros(2)})
    assert len(names(more)) == 5
    doubled = jax.jit(lambda steps: jax.tree.map(lambda x: 2 * x, steps))
    assert doubled(plain).extra == {}
    np.testing.assert_array_equal(doubled(more).prev_action, [2, 2])


def test_a_backbone_that_cannot_see_what_a_method_adds_is_refused():
    e = override(dataclasses.replace(SMOKE, model=DPTModel(layers=1)), [f"method={OURS}"])
    with pytest.raises(ConfigError, match=r"model=dpt reads transitions.*return_to_go.*Use model=transformer"):
        build(e)


def test_a_method_without_make_says_what_is_missing():
    @dataclasses.dataclass(frozen=True)
    class Empty(MethodConfig):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty.make\(setting\) -> Method"):
        check_method(Empty())
