"""Studies: every one builds at every scale; keys of pieces; a whole one from nothing, killed, shared, redone."""

import dataclasses
import fcntl
import json
import pathlib
import time

import pytest
from helpers import refused

from ad_jax import study
from ad_jax.__main__ import main
from ad_jax.errors import AdJaxError, ConfigError
from ad_jax.experiment import Experiment, TaskConfig, build, load, override
from ad_jax.files import read_json, write_json
from ad_jax.run.pipeline import Run
from ad_jax.study import ORDER, Arm, Study, reproduce
from ad_jax.study import page as study_page
from ad_jax.study import text as study_text
from ad_jax.study.claims import Claim, at_least, at_most, quantity
from ad_jax.study.keys import changes, collected_by, key, trained_by
from ad_jax.study.workshop import Workshop

ROOT = pathlib.Path(__file__).parents[2]
TINY = override(
    load("dark_room", "smoke"),
    [
        *("tasks.train=10", "tasks.held_out=3", "env.size=5", "mesh.data=1"),
        *("model.layers=1", "method.evaluate_every=0", "evaluate.greedy=False"),
    ],
)
CLAIMS = (
    Claim("it ends somewhere", "not in the paper", quantity("final", "plain"), at_least(-1)),
    Claim("it ends above the sky", "nor this", quantity("final", "shown") - quantity("final", "plain"), at_least(99)),
)


# What `dark_room` said of its plug-ins, and the keys of its pieces, before those were classes.
SAID = {
    "env": {"size": 9, "steps": 20, "start": "center", "reward": "every_step"},
    "source": {"learning_rate": 1.0, "discount": 0.9, "exploration_episodes": 200.0, "explore": "novel"},
    "model": {"layers": 4, "width": 64, "heads": 2, "window": 80, "token_mask": 0.3},
}
KEYS = {"curve": "d479482c7125", "model": "adb28dcdfd99", "histories": "3ba89fd5cd38"}


def tiny(name="tiny") -> Study:
    """Two arms that share their models, which one of them evaluates with a demonstration."""
    shown = override(TINY, ["evaluate.prompt=0.5", "evaluate.source_seeds=0"])
    return Study(name, "A tiny study", {"plain": Arm(TINY), "shown": Arm(shown, seeds=1)}, CLAIMS, seeds=2)


@pytest.mark.parametrize("scale", ["cpu", "smoke", pytest.param("paper", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", study.known())
def test_every_study_loads_and_builds_at_every_scale(name, scale):
    found = study.load(name, scale)
    assert found.name == name
    for arm in found.arms:
        assert [e.seed for e in found.runs(arm)] == list(range(found.arms[arm].seeds or found.seeds))
    for arm in list(found.arms) if scale == "smoke" else [*found.arms][:: max(1, len(found.arms) - 1)]:
        build(found.runs(arm)[0])  # the ends of a sweep stand for what is between
    figures_3_to_7 = ORDER.index("context_length") + 1
    if name in ORDER and scale == "cpu":
        assert found.seeds >= (3 if ORDER.index(name) < figures_3_to_7 else 2)


def test_the_papers_studies_come_first_in_its_order():
    assert [name for name in study.known() if name in ORDER] == [name for name in ORDER if name in study.known()]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"arms": {}}, "at least one arm"),
        ({"claims": ()}, "one claim"),
        ({"figure": "sweep"}, "no arm says its x"),
        ({"claims": (Claim("", "", quantity("final", "plane"), at_most(1)),)}, "plain"),
    ],
)
def test_a_study_that_cannot_be_is_refused(change, part):
    with pytest.raises(ConfigError, match=part):
        dataclasses.replace(tiny(), **change)


def test_an_experiment_without_a_study_says_so(capsys):
    refused(capsys, ["reproduce", "gymnax_cartpole"], "has no function `study")
    refused(capsys, ["reproduce", "dark_rooom"], "dark_room")


def test_a_key_tells_what_was_changed_and_nothing_else():
    assert changes(TINY)["tasks"] == {"train": 10, "held_out": 3, "split_seed": 9}
    assert "mesh" not in changes(override(TINY, ["mesh.data=0"]))
    assert key(TINY) == key(override(TINY, ["mesh.fsdp=1", "replay.tail=1"]))
    assert key(TINY) != key(override(TINY, ["seed=1"]))
    assert changes(dataclasses.replace(TINY, tasks=TaskConfig())).get("tasks") is None


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("evaluate.episodes=5", (True, True)),
        ("name=other", (True, True)),
        ("method.updates=9", (True, False)),
        ("model.layers=2", (True, False)),
        ("replay.tail=0.9", (True, False)),
        ("collect.episodes=30", (False, False)),
        ("source.discount=0.5", (False, False)),
        ("tasks.used=9", (False, False)),
        ("seed=1", (False, False)),
    ],
)
def test_pieces_are_shared_by_whatever_makes_the_same_of_them(change, same):
    other = override(TINY, [change])
    assert (
        key(collected_by(TINY)) == key(collected_by(other)),
        key(trained_by(TINY)) == key(trained_by(other)),
    ) == same
    assert key(TINY) != key(other)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a study from nothing, stopped once on the way; how often each stage ran, and the pieces' times."""
    folder, calls = tmp_path_factory.mktemp("made"), []

    def counted(stage, original):
        def call(run):
            calls.append(stage)
            if calls.count("evaluate") == 2 and stage == "evaluate" and "stopped" not in calls:
                calls.append("stopped")
                raise KeyboardInterrupt
            return original(run)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for stage in ("collect", "distill", "evaluate"):
            patch.setattr(Run, stage, counted(stage, getattr(Run, stage)))

        def work():
            return reproduce.reproduce([tiny()], folder / "work", folder / "out", "smoke", ["tiny"])

        with pytest.raises(KeyboardInterrupt):
            work()
        page = work()
        first = list(calls)
        before = {path: path.stat().st_mtime_ns for path in (folder / "work").rglob("*") if path.is_file()}
        work()
    return folder, page, first, calls[len(first) :], before


def test_each_model_is_trained_once_however_many_curves_use_it(made):
    folder, _, first, _, _ = made
    assert first.count("collect") == first.count("distill") == 2  # seeds
    assert first.count("evaluate") == 4  # three curves, one of them stopped at and taken up again
    assert len(list((folder / "work/models").glob("*/trained.json"))) == 2
    assert len(list((folder / "work/curves").glob("*/results.json"))) == 3


def test_pieces_of_before_plug_ins_were_classes_are_found_by_their_old_keys(tmp_path):
    e = load("dark_room")
    for kind, one in (("curve", e), ("model", trained_by(e))):
        data = one.to_json() | {name: {"name": one.to_json()[name]["name"], "options": x} for name, x in SAID.items()}
        write_json(tmp_path / f"{kind}s" / KEYS[kind] / "config.json", data)
    workshop = Workshop(tmp_path)
    assert {kind: getattr(workshop, kind)(e).name for kind in KEYS} == KEYS
    other = dataclasses.replace(e, seed=1)
    assert workshop.curve(other) == tmp_path / "curves" / key(other)


def test_what_is_there_is_not_done_again(made):
    folder, _, _, again, before = made
    assert again == []
    after = {path: path.stat().st_mtime_ns for path in (folder / "work").rglob("*") if path.is_file()}
    assert after == before


def test_a_shared_model_gives_the_curve_of_its_own_run(made, tmp_path):
    folder = made[0]
    Run(TINY, tmp_path / "alone").all()
    alone = json.loads((tmp_path / "alone/results.json").read_text())["runs"][0]
    shared = json.loads((Workshop(folder / "work").curve(TINY) / "results.json").read_text())["runs"][0]
    assert shared["sets"] == alone["sets"]
    assert set(shared["stages"]) == set(alone["stages"]) == {"collect", "distill", "evaluate"}
    prompted = json.loads((Workshop(folder / "work").curve(tiny().runs("shown")[0]) / "results.json").read_text())
    assert prompted["runs"][0]["sets"][0]["prompt"]["episodes"] == 4


def test_verdicts_are_written_with_what_decided_them(made):
    folder = made[0]
    data = json.loads((folder / "out/tiny/claims.json").read_text())
    assert [claim["holds"] for claim in data["claims"]] == [True, False]
    for claim, rule in zip(data["claims"], CLAIMS):
        assert rule.rule.holds(claim["low"], claim["high"]) == claim["holds"]
    assert data["arms"]["plain"]["changes"] == json.loads(json.dumps(changes(TINY)))
    assert data["arms"]["plain"]["seeds"] == [0, 1]
    assert data["arms"]["shown"]["prompts"][0]["share"] == 0.5
    assert data["arms"]["plain"]["statistics"]["held_out"]["rows"][-1]["seed"] == "all"
    assert len(data["arms"]["plain"]["trained"]) == 2
    assert (folder / "out/tiny/claims.png").read_bytes()[:4] == b"\x89PNG"


def test_the_page_shows_every_claim_beside_its_figure(made):
    page = made[1].read_text()
    assert "1 of 2 claims hold, in 1 studies." in page
    assert page.count("data:image/png;base64") == 1
    assert "<script" not in page
    assert "http://" not in page
    text = (made[0] / "out/claims.md").read_text()
    assert "it ends above the sky" in text
    assert "**does not hold**" in text
    assert "![A tiny study](tiny/claims.png)" in text


def test_a_study_s_own_page_has_its_claims_and_every_curve(made):
    text = (made[0] / "out/tiny/README.md").read_text()
    assert "| it ends above the sky |" in text
    assert "![A tiny study](claims.png)" in text
    curves = [line for line in text.splitlines() if line.startswith(("| plain |", "| shown |"))]
    assert {line.split(" | ")[0] for line in curves} == {"| plain", "| shown"}
    assert all(line.count("|") == len(study_text.COLUMNS) + 1 for line in curves)


def test_a_piece_that_another_process_is_at_is_left_to_it(tmp_path):
    workshop = Workshop(tmp_path)
    for piece in (workshop.model(TINY), workshop.histories(TINY)):
        piece.parent.mkdir(exist_ok=True)
        with piece.with_suffix(".lock").open("w") as file:  # as another process would: a lock belongs to the open file
            fcntl.flock(file, fcntl.LOCK_EX)
            assert not workshop.make(TINY)
            assert not workshop.done(TINY)


def test_an_arm_learns_from_the_model_of_another_which_is_trained_first(tmp_path):
    """And a set of training tasks is evaluated beside the held-out ones."""
    student = override(TINY, ["method=offline_distillation", "evaluate.trained=2", "evaluate.source_seeds=0"])
    arms = {"plain": Arm(TINY), "taught": Arm(student, taught_by="plain")}
    claims = (Claim("it ends", "not in the paper", quantity("final", "taught", set="trained"), at_least(-1)),)
    of = Study("taught", "Taught", arms, claims, seeds=2)
    e, teacher = of.runs("taught")[1], of.teacher("taught", 1)
    assert teacher is not None and teacher == of.runs("plain")[1]
    workshop = Workshop(tmp_path)
    assert workshop.make(e, teacher)
    assert read_json(workshop.model(teacher) / "trained.json")
    assert not workshop.done(teacher)  # its curve is another piece
    ran = Experiment.from_json(read_json(workshop.curve(e) / "config.json"))
    assert ran.method.taught_by() == str(workshop.model(teacher))
    assert e.method.taught_by() == f"models/{key(trained_by(teacher))}"  # the same wherever pieces are kept
    sets = read_json(workshop.curve(e) / "results.json")["runs"][0]["sets"]
    assert [(s["name"], len(s["tasks"])) for s in sets] == [("held_out", 3), ("trained", 2)]
    seen = {task["id"] for task in sets[1]["tasks"]}
    assert seen < set(build(TINY).family.task_ids(build(TINY).split.train))


def test_training_tasks_that_are_not_there_are_not_evaluated():
    with pytest.raises(ConfigError, match=r"evaluate.trained=11 is more than the 10 tasks that are trained on"):
        build(override(TINY, ["evaluate.trained=11"]))
    with pytest.raises(ConfigError, match=r"evaluate.trained must be at least 1, or None for no such set; got 0"):
        build(override(TINY, ["evaluate.trained=0"]))


def test_an_arm_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    """The curves are empty files here: only who is tried, in which order, and what is said is looked at."""
    tried, finished = [], []

    def make(workshop, e, teacher, mixture):
        assert teacher is mixture is None
        tried.append((e.evaluate.prompt is not None, e.seed))
        if tried[-1] == (False, 0):
            raise ConfigError("no such thing")
        workshop.curve(e).mkdir(parents=True)
        (workshop.curve(e) / "results.json").touch()
        return True

    monkeypatch.setattr(Workshop, "make", make)
    monkeypatch.setattr(reproduce, "finish", lambda study, *_: finished.append(study.name))
    claims = (Claim("it ends", "not in the paper", quantity("final", "shown"), at_least(-1)),)
    whole = Study("whole", "Whole", {"shown": tiny().arms["shown"]}, claims)
    with pytest.raises(AdJaxError, match=r"1 runs failed(?s:.*)tiny, plain, seed 0: no such thing"):
        reproduce.reproduce([tiny(), whole], tmp_path, tmp_path, "cpu", [])
    assert tried == [(False, 0), (False, 1), (True, 0)]
    assert finished == ["whole"]


def test_work_grows_with_what_is_trained_and_evaluated():
    weights = reproduce.work(TINY)
    assert weights["model"] > 0
    more = reproduce.work(override(TINY, ["distill.updates=16", "evaluate.episodes=8"]))
    assert more["model"] == 2 * weights["model"]
    assert more["curve"] == 2 * weights["curve"]


def test_time_left_is_measured_over_all_pieces(tmp_path, monkeypatch):
    workshop = Workshop(tmp_path)
    progress = reproduce.Progress(workshop, tiny().runs("plain"))
    assert progress.line() == "0% of the work is done"
    first = tiny().runs("plain")[0]
    for folder, name in ((workshop.model(first), "trained.json"), (workshop.curve(first), "results.json")):
        folder.mkdir(parents=True)
        (folder / name).touch()
    started = progress.started
    monkeypatch.setattr(time, "monotonic", lambda: started + 3700)
    assert progress.line() == "50% of the work is done, about 1 h 01 min left"


def test_damaged_claims_are_named(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/claims.json").write_text("{")
    with pytest.raises(AdJaxError, match=r"tiny/claims\.json is damaged"):
        study_page.write(tmp_path, ["tiny"])


def test_text_of_a_claim_cannot_leave_its_place_on_the_page(made, tmp_path):
    data = json.loads((made[0] / "out/tiny/claims.json").read_text())
    data["claims"][0]["text"] = "<script>alert(1)</script>"
    for name, content in (("claims.json", json.dumps(data).encode()), ("claims.png", b"x")):
        (tmp_path / "tiny").mkdir(exist_ok=True)
        (tmp_path / "tiny" / name).write_bytes(content)
    assert "<script>" not in study_page.write(tmp_path, ["tiny"]).read_text()


@pytest.mark.slow
def test_reproduce_from_the_command_line(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "experiments" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.py").write_text(
        '"""Mine."""\n'
        "from ad_jax.study.claims import Claim, at_least, quantity\n"
        "from ad_jax.experiment import load, override\n"
        "from ad_jax.study import Arm, Study\n"
        'def config(scale="cpu"):\n'
        '    small = ["tasks.train=10", "tasks.held_out=2", "evaluate.greedy=False", "evaluate.source_seeds=0"]\n'
        '    return override(load("dark_room", "smoke"), small)\n'
        'def study(scale="cpu"):\n'
        '    claim = Claim("it runs", "-", quantity("final", "AD"), at_least(0))\n'
        '    return Study("mine", "Mine", {"AD": Arm(config(scale))}, [claim], seeds=1)\n'
    )
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "mine", "--scale", "smoke"]) == 0
    assert "mine: 1 of 1 claims hold" in capsys.readouterr().out
    assert (tmp_path / "runs/reproduce/smoke/page/claims.html").exists()
    assert "mine" in study.known()
