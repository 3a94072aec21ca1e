"""The command line: every kind of bad input is one clear message and exit status 2, and nothing is written."""

import contextlib
import pathlib
import subprocess

import jax
import pytest
from helpers import refused

from ad_jax import testing
from ad_jax.__main__ import main
from ad_jax.history import access, store
from ad_jax.run import pipeline

SMOKE = ("dark_room", "--scale", "smoke")


@pytest.fixture(autouse=True)
def _own_place(tmp_path, monkeypatch):
    """Run in an empty directory, and leave JAX's cache of compiled programs as it was."""
    names = ("compilation_cache_dir", "persistent_cache_min_compile_time_secs", "persistent_cache_min_entry_size_bytes")
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in names}
    monkeypatch.setenv("AD_JAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    for name, value in before.items():
        jax.config.update(name, value)


BAD = [
    (["env=dark_rom"], "unknown env 'dark_rom'. Did you mean 'dark_room' or "),
    (["source=q_lerning"], "unknown source 'q_lerning'. Did you mean 'q_learning'?"),
    (["model=transfomer"], "unknown model 'transfomer'. Did you mean 'transformer' or 'random'?"),
    (["env.siz=9"], "unknown option of env dark_room 'siz'. Did you mean 'size'?"),
    (["source.learning_rat=1"], "unknown option of source q_learning 'learning_rat'. Did you mean 'learning_rate'?"),
    (["model.widht=8"], "unknown option of model transformer 'widht'. Did you mean 'width'"),
    (["distill.update=2"], "unknown field 'distill.update'. Did you mean 'distill.updates'"),
    (["mdl.layers=2"], "unknown field 'mdl.layers'. Did you mean 'model.layers'"),
    (["env=ad_jax.envs.dark_room:DarkRom"], "cannot load env", "class of ad_jax.envs.dark_room", "'DarkRoom'"),
    (["distil.updates=2"], "unknown field 'distil.updates'. Did you mean 'distill.updates'"),
    (["seed.first=2"], "seed.first: seed is a single value"),
    (["seed"], "an override reads field=value, e.g. method.updates=2000; got 'seed'"),
    (["seed=1.5"], "seed expects int; got 1.5 (float)"),
    (["distill.updates=many"], "distill.updates expects int; got 'many' (str)"),
    (["evaluate.greedy=1"], "evaluate.greedy expects bool; got 1 (int)"),
    (["env.size=nine"], "env dark_room.size expects int; got 'nine'"),
    (["evaluate.checkpoint=lst"], "unknown value of evaluate.checkpoint 'lst'. Did you mean 'last'"),
    (["replay.segment=201"], "replay.segment=201 steps is longer than a history", "every 2th kept, make 200"),
    (["replay.batch=60"], "replay.batch must be a positive multiple of replay.groups; got batch=60, groups=8"),
    (["replay.groups=4"], "replay.groups=4 cannot be split over 8 devices"),
    (["distill.accumulate=3"], "method.accumulate=3 must divide"),
    (["distill.warmup_updates=8"], "method.warmup_updates=8 must be below method.updates=8"),
    (["collect.seeds=0"], "collect.seeds must be at least 1; got 0"),
    (["evaluate.episodes=0"], "evaluate.episodes must be at least 1; got 0"),
    (["tasks.held_out=0"], "the held-out set is empty: tasks.held_out=0"),
    (["tasks.train=0"], "at least 1 train"),
    (["tasks.train=70"], "has 81 tasks; 70 train + 16 held-out were asked for"),
    (["seed=-1"], "seed must be in [0, 2**32); got -1"),
    (["seed=4294967296"], "seed must be in [0, 2**32); got 4294967296"),
    (["tasks.split_seed=99999999999999999999"], "tasks.split_seed must be in [0, 2**32)"),
    (["mesh.fsdp=3"], "does not use up 8 device(s)"),
    (["mesh.fsdp=0"], "mesh axes must be at least 1"),
    (["source=ucb"], "ucb needs episodes of 1 step", "Try source=q_learning"),
    (["model=paper", "model.window=20"], "replay.segment=40 is longer than this model's window, 20"),
    (["model.heads=3"], "model.width must be a multiple of 2 * heads = 6; got 16"),
    (["env=no_such_package.env:Env"], "cannot load env", "no_such_package", "package.module:attribute"),
    (["model=ad_jax.models:a:b"], "cannot load model", "package.module:attribute"),
    (["source=:make"], "cannot load source", "package.module:attribute"),
]


@pytest.mark.parametrize(("changes", "parts"), [(b[0], b[1:]) for b in BAD], ids=[" ".join(b[0]) for b in BAD])
def test_a_bad_override_is_refused_before_anything_is_written(changes, parts, tmp_path, capsys):
    refused(capsys, ["run", *SMOKE, *changes, "--dir", tmp_path / "run"], *parts)
    assert not (tmp_path / "run").exists()
    assert list(pathlib.Path().iterdir()) == []


def test_an_unknown_experiment_or_scale_is_refused_with_what_is_known(tmp_path, capsys):
    refused(capsys, ["run", "dark_rom"], "unknown experiment 'dark_rom'. Did you mean 'dark_room' or ")
    refused(capsys, ["run", tmp_path / "mine.py"], "no experiment file", "mine.py")
    refused(capsys, ["run", tmp_path], "no experiment file", "config.py")
    refused(capsys, ["run", "dark_room", "--scale", "huge"], "unknown scale 'huge'. Known: cpu, demo, paper, smoke")
    refused(capsys, ["run", "dark_room", "--scale", "demmo"], "unknown scale 'demmo'. Did you mean 'demo'?")
    of_others = (
        "study() knows no scale 'demo', which another function of that file does. All of them know cpu, smoke, paper"
    )
    refused(capsys, ["reproduce", "dark_room_hard", "--scale", "demo", "--dir", tmp_path], of_others)
    assert list(pathlib.Path().iterdir()) == []


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("x = 1", "has no function `config("),
        ("config = 3", "has no function `config("),
        ("def config(scale='cpu'): return {}", "config() must return an Experiment or a Mixture; got dict"),
        ("def config(scale='cpu'): return {'cpu': 1}[0]", "cannot be loaded: KeyError: 0"),
        ("def config(): pass", "cannot be loaded: TypeError"),
        ("import no_such_package", "cannot be loaded: ModuleNotFoundError: No module named 'no_such_package'"),
        ("def config(:", "cannot be loaded: SyntaxError"),
    ],
)
def test_an_experiment_file_that_is_none_is_refused(text, part, capsys):
    pathlib.Path("mine.py").write_text(text)
    refused(capsys, ["show", "mine.py"], "mine.py", part)


def test_overrides_may_stand_before_and_after_options(capsys):
    assert main(["show", "dark_room", "seed=5", "--scale", "smoke", "env.size=7", "tasks.train=20"]) == 0
    shown = capsys.readouterr().out
    for part in ('"seed": 5', '"size": 7', '"train": 20', "DarkRoom(size=7"):
        assert part in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "dark_room", "--updates=3"],
        ["run", "dark_room", "--scale", "smoke", "--color"],
        ["histories", "verify", "here", "seed=3"],
        ["check", "dark_room", "size=5"],
        ["train"],
        [],
    ],
)
def test_words_that_mean_nothing_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_show_prints_claim_and_fields_and_writes_nothing(capsys):
    assert main(["show", *SMOKE]) == 0
    shown = capsys.readouterr().out
    for part in ("Claim", "Command", "Variant", '"updates": 8', "window=20", "exploration_episodes=200.0"):
        assert part in shown
    assert list(pathlib.Path().iterdir()) == []


@pytest.mark.parametrize("what", ["other files", "a file"])
def test_a_run_directory_that_holds_something_else_is_left_alone(what, tmp_path, capsys):
    folder = tmp_path / "mine"
    if what == "a file":
        folder.write_text("precious")
        refused(capsys, ["run", *SMOKE, "--dir", folder], "mine", "ot a directory")
        assert folder.read_text() == "precious"
    else:
        folder.mkdir()
        (folder / "thesis.tex").write_text("precious")
        refused(capsys, ["run", *SMOKE, "--dir", folder], "mine is not empty and holds no run", "--dir")
        assert [file.name for file in folder.iterdir()] == ["thesis.tex"]


def test_a_stage_whose_input_is_missing_says_which_command_makes_it(tmp_path, capsys):
    refused(capsys, ["distill", *SMOKE, "--dir", tmp_path / "run"], "run/histories", "ollect")
    refused(capsys, ["evaluate", *SMOKE, "--dir", tmp_path / "run"], "no last checkpoint", "run `ad-jax distill` first")
    refused(capsys, ["evaluate", *SMOKE, "evaluate.checkpoint=best"], "no best checkpoint")
    refused(capsys, ["report", tmp_path / "run"], "results.json")
    refused(capsys, ["histories", "info", tmp_path / "none"], "none")
    assert main(["histories", "verify", str(tmp_path / "none")]) == 2
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["config.json", "environment.json", "lock"]


def test_the_default_directory_is_the_same_for_the_same_experiment(monkeypatch, capsys):
    monkeypatch.setattr(pipeline.Run, "collect", lambda run: print(run.folder))
    for changes in ([], [], ["source.learning_rate=1.0"], ["seed=1"]):
        assert main(["collect", *SMOKE, *changes]) == 0
    first, again, same, other = capsys.readouterr().out.split("run      ")[1:]
    assert first == again == same != other
    assert f"{pathlib.Path.cwd()}/runs/dark_room/" in first


def test_interrupted_from_the_keyboard_exits_with_130_and_says_how_to_go_on(monkeypatch, tmp_path, capsys):
    def interrupt(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.Run, "all", interrupt)
    assert main(["run", *SMOKE, "--dir", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err == "\nad-jax: interrupted; run the same command again to go on from here\n"


def test_a_failing_disk_is_one_message(monkeypatch, tmp_path, capsys):
    def fail(run):
        raise OSError(28, "No space left on device", "results.tmp")

    monkeypatch.setattr(pipeline.Run, "all", fail)
    refused(capsys, ["run", *SMOKE, "--dir", tmp_path / "run"], "No space left on device: 'results.tmp'", "again")


@contextlib.contextmanager
def small_disk(path: pathlib.Path, monkeypatch):
    """Yield a file system of 300 KiB; where none may be mounted, TensorStore's answer to one after the second chunk."""
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", path], check=False, capture_output=True)
    original = store._write

    def write(kvstore, small):
        if "ledger/000001.json" in small:
            with access.named("writing ledger/000001.json"):
                raise ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device")
        original(kvstore, small)

    if done.returncode != 0:
        monkeypatch.setattr(store, "_write", write)
    try:
        yield
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", path], check=True)


def test_a_full_disk_while_collecting_keeps_the_finished_chunks(tmp_path, monkeypatch, capsys):
    disk = tmp_path / "disk"
    with small_disk(disk, monkeypatch):
        arguments = [
            "collect",
            *SMOKE,
            "collect.chunk_learners=8",
            "--dir",
            tmp_path / "run",
            "--histories",
            disk / "h",
        ]
        refused(capsys, arguments, "The disk is full", "Finished chunks are kept")
        opened = store.open_store(disk / "h", allow_partial=True)
        assert 0 < len(opened.chunks) < opened.manifest.chunks
        assert opened.verify() == []


def test_check_prints_the_checks_that_passed(monkeypatch, capsys):
    monkeypatch.setattr(testing, "check_plugin", lambda name: [f"{name} is sound"])
    assert main(["check", "bandit"]) == 0
    assert capsys.readouterr().out == "ok  bandit is sound\n"
    monkeypatch.undo()
    refused(capsys, ["check", "dark_rom"], "unknown plug-in 'dark_rom'", "'dark_room'")
