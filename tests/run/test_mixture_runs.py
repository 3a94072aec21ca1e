"""One model over several families from collecting to its page: resumed, on several devices, held out, and alone."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from helpers import files, refused
from small_worlds import ARMS, POINT, ROOM, WORLDS, of

from ad_jax import Agent, History, MixtureRun, Run, write_histories
from ad_jax.__main__ import main
from ad_jax.checkpoint import checkpoint
from ad_jax.errors import AdJaxError, ConfigError, OtherCheckpointError
from ad_jax.experiment import Member, override_mixture
from ad_jax.files import read_json
from ad_jax.history.opaque import Opaque
from ad_jax.keys import named_key
from ad_jax.models.together import view
from ad_jax.types import Discrete, Spec


def params_in(folder):
    return jax.device_get(checkpoint.load(folder)[1]["params"])


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Return a run of two families and a third that is held out, from start to end."""
    run = MixtureRun(WORLDS, tmp_path_factory.mktemp("worlds") / "run")
    run.all()
    return run


def test_every_family_is_collected_evaluated_and_reported(worlds):
    page = (worlds.folder / "report" / "index.html").read_text()
    for name in WORLDS.members:
        own = worlds.folder / "members" / name
        results = read_json(own / "results.json")
        (of_one,) = results["runs"]
        assert np.shape(of_one["sets"][0]["returns"]["sampled"]) == (2, 1, 2)
        assert of_one["stages"].keys() >= {"collect", "distill", "evaluate"}
        assert (own / "report" / "index.html").is_file()
        assert f"members/{name}/report" in page
        assert (worlds.folder / "report" / f"curve-{name}.png").is_file()
    assert page.count("data:image/png") == 3
    assert page.count("only its own layers were fitted") == 1


def test_runs_of_other_members_are_not_pooled(worlds, tmp_path, capsys):
    assert main(["report", str(worlds.folder), "--out", str(tmp_path / "page")]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in WORLDS.members)
    assert "worlds: one model, 3 families" in (tmp_path / "page" / "index.html").read_text()
    shutil.copytree(worlds.folder / "members" / "room", tmp_path / "other" / "members" / "room")
    refused(capsys, ["report", worlds.folder, tmp_path / "other"], "has the members room", "arms, point, room")
    refused(capsys, ["report", worlds.folder, tmp_path], "is no run of a mixture")


def test_an_agent_acts_in_one_of_the_families(worlds):
    seen = {"room": [[1, 1]], "point": np.zeros((1, 4)), "arms": [0]}
    for name in WORLDS.members:
        agent = Agent.load(worlds.folder, env=name)
        action = agent.act(np.asarray(seen[name], agent.spec.observation_dtype))
        assert action.shape == (1, *agent.spec.action.shape)
    with pytest.raises(ConfigError, match="env=NAME, of room, point"):
        Agent.load(worlds.folder)
    with pytest.raises(ConfigError, match="Did you mean 'room'"):
        Agent.load(worlds.folder, env="rom")
    with pytest.raises(ConfigError, match="Leave it out"):
        Agent.load(worlds.folder / "members" / "arms", env="arms")


def test_a_family_that_is_held_out_is_fitted_to_a_trunk_that_stays(worlds):
    whole, fitted = params_in(worlds.folder), params_in(worlds.folder / "members" / "arms")
    assert "arms" not in whole["head"]
    trunk = {part: tree for part, tree in whole.items() if part not in ("head", "tokens")}
    assert_same(trunk, {part: fitted[part] for part in trunk})
    born = worlds.parts.components["arms"].model.init(named_key(WORLDS.seed, "params"))
    assert np.abs(fitted["head"]["kernel"] - born["head"]["kernel"]).max() > 1e-4
    assert np.abs(fitted["tokens"]["action"]["embedding"] - born["tokens"]["action"]["embedding"]).max() > 1e-4


def test_a_family_that_is_held_out_is_added_to_a_trained_model(worlds, tmp_path):
    shutil.copytree(worlds.folder, tmp_path / "run")
    more = (*WORLDS.members.values(), Member(ROOM, name="again", held_out=True))
    histories = {name: str(worlds.folder / "members" / name / "histories") for name in WORLDS.members}
    run = MixtureRun(of(*more), tmp_path / "run", histories | {"again": histories["room"]})
    run.collect()
    run.distill()
    assert_same(params_in(run.folder), params_in(worlds.folder))
    assert checkpoint.load(run.folder / "members" / "again")[0] == 4
    assert "again" in read_json(run.folder / "config.json")["envs"]
    with pytest.raises(ConfigError, match="another experiment"):  # the trunk was not trained on it
        MixtureRun(of(*WORLDS.members.values(), Member(POINT, name="third")), tmp_path / "run")


def test_layers_that_were_begun_on_other_histories_are_not_gone_on_with(worlds, tmp_path):
    shutil.copytree(worlds.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "members" / "arms" / "checkpoints" / "steps" / "4")
    shutil.rmtree(tmp_path / "run" / "members" / "arms" / "histories")
    other = str(tmp_path / "other")
    lived = Run(dataclasses.replace(ARMS, name="arms", seed=5), tmp_path / "lived", other)
    lived.collect()
    with pytest.raises(OtherCheckpointError, match="other histories"):
        MixtureRun(WORLDS, tmp_path / "run", {"arms": other}).distill()
    run = MixtureRun(WORLDS, tmp_path / "run", {"arms": other}, redo=True)
    run.distill()
    assert checkpoint.load(run.folder / "members" / "arms")[0] == 4


def test_layers_of_another_trunk_are_refused(worlds, tmp_path):
    shutil.copytree(worlds.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "steps" / "4")
    for step in (tmp_path / "run" / "members" / "arms" / "checkpoints" / "steps").glob("4"):
        shutil.rmtree(step)
    run = MixtureRun(WORLDS, tmp_path / "run")
    run._can_train = lambda: False  # the trunk is that of update 2 now
    with pytest.raises(AdJaxError, match="another trunk"):
        run.distill()


def test_what_is_done_is_not_done_again(worlds):
    before = files(worlds.folder / "checkpoints") | files(worlds.folder / "members" / "arms" / "checkpoints")
    again = MixtureRun(WORLDS, worlds.folder)
    again.collect()
    again.distill()
    after = files(worlds.folder / "checkpoints") | files(worlds.folder / "members" / "arms" / "checkpoints")
    assert before == after
    with pytest.raises(ConfigError, match="another experiment"):
        MixtureRun(override_mixture(WORLDS, ["envs.point.weight=2"]), worlds.folder)


def test_a_resumed_mixture_ends_with_the_same_bits(worlds, tmp_path):
    """Killed after two of its four updates, and while the layers of a third family were fitted."""
    folder = tmp_path / "run"
    shutil.copytree(worlds.folder, folder)
    shutil.rmtree(folder / "checkpoints" / "steps" / "4")
    shutil.rmtree(folder / "members" / "arms" / "checkpoints" / "steps" / "4")
    assert checkpoint.load(folder)[0] == 2
    MixtureRun(WORLDS, folder).distill()
    for where in (".", "members/arms"):
        assert checkpoint.load(folder / where)[0] == 4
        assert_same(params_in(folder / where), params_in(worlds.folder / where))


@pytest.mark.parametrize(
    "mesh",
    [pytest.param(["mesh.data=8"], marks=pytest.mark.slow), ["mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2"]],
    ids=str,
)
def test_eight_devices_train_a_mixture_like_one(worlds, tmp_path, mesh):
    histories = {name: str(worlds.folder / "members" / name / "histories") for name in WORLDS.members}
    run = MixtureRun(override_mixture(WORLDS, mesh), tmp_path / "run", histories)
    run.collect()
    run.distill()
    for where in (".", "members/arms"):
        one, eight = params_in(worlds.folder / where), params_in(run.folder / where)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4), one, eight)


def test_a_mixture_of_one_is_the_plain_run_to_the_bit(worlds, tmp_path):
    histories = str(worlds.folder / "members" / "point" / "histories")
    plain = Run(dataclasses.replace(WORLDS.member("point"), name="plain"), tmp_path / "plain", histories)
    plain.collect()
    plain.distill()
    run = MixtureRun(of(Member(POINT, weight=7.0)), tmp_path / "one", {"point": histories})
    run.collect()
    run.distill()
    assert_same(params_in(plain.folder), view(params_in(run.folder), "point", ("head", "tokens")))
    plain.evaluate()
    run.evaluate()
    returns = [
        read_json(f / "results.json")["runs"][0]["sets"][0]["returns"] for f in (plain.folder, run.runs["point"].folder)
    ]
    assert returns[0] == returns[1]


def test_histories_that_changed_under_a_training_are_refused_or_trained_on_anew(worlds, tmp_path):
    shutil.copytree(worlds.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "steps" / "4")
    other = of(dataclasses.replace(ROOM, name="room"), Member(POINT, weight=3.0), Member(ARMS, held_out=True))
    run = MixtureRun(other, tmp_path / "run")
    (chunk,) = (run.folder / "members" / "room" / "histories" / "ledger").iterdir()
    assert chunk.is_file()
    meta = run.runs["room"].origins.of_run() | {"histories": "others"}
    with pytest.raises(OtherCheckpointError, match="other histories"):
        run._checkpoints({"room": type("Store", (), {"fingerprint": meta["histories"]})()})  # pyright: ignore


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Return a collection of somebody's log, whose tasks are ids."""
    rng, done = np.random.default_rng(0), np.arange(1, 17) % 4 == 0
    given = [
        History(rng.normal(size=(16, 3)), rng.integers(0, 4, 16), rng.normal(size=16), truncated=done, task_id=str(i))
        for i in range(8)
    ]
    place = tmp_path_factory.mktemp("log") / "h"
    write_histories(place, given, Spec(Discrete(4), (3,), None))
    return str(place)


@pytest.mark.parametrize("held_out", [False, True])
def test_a_member_whose_tasks_are_ids_is_trained_and_not_evaluated(log, worlds, tmp_path, capsys, held_out):
    """The place of the others' histories is none of its own, and nothing is collected there."""
    mine = Member(dataclasses.replace(ROOM, name="log", env=Opaque(log)), held_out=held_out)
    shutil.copytree(worlds.folder / "members" / "room" / "histories", tmp_path / "place" / "room")
    run = MixtureRun(of(ROOM, mine), tmp_path / "run", str(tmp_path / "place"))
    run.all()
    assert run.runs["log"].histories == log
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["room"]
    told = capsys.readouterr().out
    assert "evaluate log: its tasks are ids" in told and "Discrete(n=4)" in told
    assert "members/room/report" in (run.folder / "report" / "index.html").read_text()
    agent = Agent.load(run.folder / "members" / "log") if held_out else Agent.load(run.folder, env="log")
    assert agent.act(np.zeros((1, 3), np.float32)).shape == (1,)


def test_a_mixture_that_cannot_be_evaluated_at_all_is_refused_before_it_is_trained(log, tmp_path):
    run = MixtureRun(of(dataclasses.replace(ROOM, name="log", env=Opaque(log))), tmp_path / "run")
    for stage in (run.all, run.evaluate):
        with pytest.raises(ConfigError, match=r"no member can be evaluated.*ad-jax distill.*Agent\.load"):
            stage()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_opaque_tasks_are_learned_from_their_own_collection_alone(log, tmp_path):
    e = dataclasses.replace(ROOM, name="log", env=Opaque(log))
    with pytest.raises(ConfigError, match=r"opaque tasks are those of env\.histories.*Leave --histories out"):
        Run(e, tmp_path / "run", str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="opaque tasks are those"):
        MixtureRun(of(e), tmp_path / "mixed", {"log": str(tmp_path / "other")})
    assert not (tmp_path / "other").exists()
    assert Run(e, tmp_path / "run", f"{log}/").histories == log
