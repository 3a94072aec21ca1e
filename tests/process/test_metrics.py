"""What stages tell: JSON lines that resume cleanly, sinks, progress lines, and what a run records of where it ran."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import types
from typing import Any

import pytest

from ad_jax.errors import ConfigError
from ad_jax.process import metrics, provenance
from ad_jax.process.metrics import Config, MetricsLog, Progress
from ad_jax.text import short


def records(log: MetricsLog) -> list[tuple]:
    return [(r["stage"], r["step"]) for r in map(json.loads, log.path.read_text().splitlines())]


def test_a_record_is_one_line_of_json(tmp_path):
    log = MetricsLog(tmp_path, Config())
    log.write("distill", 3, {"loss": 1, "grad_norm": 0.5})
    log.write("collect", 0, {"learners": 8})
    lines = log.path.read_text().splitlines()
    assert json.loads(lines[0]) == {"stage": "distill", "step": 3, "loss": 1.0, "grad_norm": 0.5}
    assert len(lines) == 2


def test_forgetting_drops_only_later_records_of_the_stage_and_a_torn_line(tmp_path):
    log = MetricsLog(tmp_path, Config())
    log.forget_after("distill", 0)
    assert not log.path.exists()
    for stage, step in (("collect", 9), ("distill", 2), ("distill", 4), ("distill", 6), ("evaluate", 5)):
        log.write(stage, step, {"x": 1})
    with log.path.open("a") as file:
        file.write('{"stage": "distill", "st')
    log.forget_after("distill", 4)
    assert records(log) == [("collect", 9), ("distill", 2), ("distill", 4), ("evaluate", 5)]
    log.write("distill", 6, {"x": 1})
    assert records(log)[-1] == ("distill", 6)
    log.forget_after("distill", 0)
    assert records(log) == [("collect", 9), ("evaluate", 5)]


def test_a_stage_is_completed_where_it_stands_and_only_what_was_missing_is_told(tmp_path):
    log, told = MetricsLog(tmp_path, Config()), []
    log.sinks.append(lambda stage, step, values: told.append((stage, step, values)))
    for stage, step in (("first", 0), ("collect", 0), ("collect", 2), ("distill", 2)):
        log.write(stage, step, {"x": 1})
    with log.path.open("a") as file:
        file.write('{"stage": "coll')
    told.clear()
    whole = {step: {"x": 1 + step} for step in range(4)}
    log.complete("collect", whole)
    order = [("first", 0), *(("collect", step) for step in range(4)), ("distill", 2)]
    assert records(log) == order
    assert told == [("collect", 1, {"x": 2.0}), ("collect", 3, {"x": 4.0})]
    before = log.path.stat().st_mtime_ns
    log.complete("collect", whole)
    assert (log.path.stat().st_mtime_ns, len(told)) == (before, 2)


@pytest.mark.parametrize(
    ("package", "config"), [("tensorboard", Config(tensorboard=True)), ("wandb", Config(wandb="project"))]
)
def test_a_sink_whose_package_is_missing_names_the_extra(package, config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # what Python itself does to make an import fail
    for call in (config.validate, lambda: MetricsLog(tmp_path, config)):
        with pytest.raises(ConfigError, match=rf"pip install 'ad_jax\[{package}\]'"):
            call()
    assert list(tmp_path.iterdir()) == []


class FakeWriter:
    """As TensorBoard's event file writer."""

    def __init__(self, folder):
        self.folder, self.events, self.flushed = folder, [], 0

    def add_event(self, event):
        self.events.append(event)

    def flush(self):
        self.flushed += 1


@pytest.fixture
def tensorboard(monkeypatch) -> list[FakeWriter]:
    """Return a stand-in for the package; returns the writers that are made."""
    writers = []

    def record(**fields):
        return types.SimpleNamespace(**fields)

    summary = types.SimpleNamespace(Summary=type("Summary", (types.SimpleNamespace,), {"Value": staticmethod(record)}))
    parts = {
        "compat.proto": {"event_pb2": types.SimpleNamespace(Event=record), "summary_pb2": summary},
        "summary.writer.event_file_writer": {"EventFileWriter": lambda f: writers.append(FakeWriter(f)) or writers[-1]},
    }
    names = ("compat", "compat.proto", "summary", "summary.writer", "summary.writer.event_file_writer")
    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    for name in names:
        module = types.ModuleType(f"tensorboard.{name}")
        vars(module).update(parts.get(name, {}))
        monkeypatch.setitem(sys.modules, f"tensorboard.{name}", module)
    return writers


def test_tensorboard_gets_every_number_at_once(tensorboard, tmp_path):
    log = MetricsLog(tmp_path, Config(tensorboard=True))
    log.write("distill", 7, {"loss": 2, "grad_norm": 0.5})
    (writer,) = tensorboard
    (event,) = writer.events
    assert writer.folder == str(tmp_path / "tensorboard")
    assert event.step == 7
    assert {v.tag: v.simple_value for v in event.summary.value} == {"distill/loss": 2.0, "distill/grad_norm": 0.5}
    assert writer.flushed == 1
    assert records(log) == [("distill", 7)], "JSON lines are always written"


def test_tensorboard_itself_can_read_what_was_written(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra ad_jax[tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # pyright: ignore[reportMissingImports]

    MetricsLog(tmp_path, Config(tensorboard=True)).write("distill", 7, {"loss": 2})
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("distill/loss")
    assert [(event.step, event.value) for event in found] == [(7, 2.0)]


def test_wandb_gets_every_number_under_an_id_that_resumes(monkeypatch, tmp_path):
    started, logged = [], []
    fake: Any = types.ModuleType("wandb")
    fake.init = lambda **options: started.append(options) or types.SimpleNamespace(log=logged.append)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for experiment in ("dark_room", "dark_room", "bandit"):
        MetricsLog(tmp_path, Config(wandb="project"), experiment).write("distill", 7, {"loss": 2})
    assert logged == [{"distill/loss": 2.0, "distill/step": 7}] * 3
    assert (started[0]["project"], started[0]["resume"]) == ("project", "allow")
    ids = [options["id"] for options in started]
    assert ids[0] == ids[1] != ids[2], "one run directory is one W&B run, and experiments do not share one"


class Clock:
    """A clock that only moves when told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(metrics.time, "monotonic", lambda: self.now)

    def wait(self, seconds):
        self.now += seconds


def test_progress_has_rate_and_eta_without_the_compile_time(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    bar = Progress("distil", 100, "updates", done=20, seconds=5, scale=10)
    clock.wait(50)  # compiling
    bar.note("compiled in 50 s")
    clock.wait(10)
    bar.update(40, loss=0.4123, in_context_return=15.0)
    line = capsys.readouterr().out.splitlines()[-1]
    # 20 updates in 10 seconds, 10 steps each; 60 are left.
    assert line == "distil   40/100 updates  20 steps/s  loss 0.412  in context return 15  eta 0:30"


def test_progress_is_throttled_and_prints_the_end(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    bar = Progress("collect", 10, "learners", seconds=5)
    for done in range(1, 11):
        clock.wait(2)
        bar.update(done)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["3/10", "6/10", "9/10", "10/10"]
    assert "eta 0:14" in lines[0]
    assert "eta" not in lines[-1]


def test_progress_at_the_first_instant_does_not_divide_by_zero(monkeypatch, capsys):
    Clock(monkeypatch)
    Progress("collect", 10, "learners", done=10).update(10, reward=float("nan"), note="all there")
    assert "10/10 learners  0 steps/s  reward nan  note all there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.4123, "0.412"), (16.26, "16.3"), (49_230, "49.2k"), (6e6, "6.0M"), (2.5e9, "2.5G"), (-3, "-3")],
)
def test_numbers_are_short(value, text):
    assert short(value) == text


def test_a_run_records_versions_device_and_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts = provenance.collect()
    assert facts["commit"] is None, "outside a checkout there is none"
    assert facts["device"] == "cpu x8"
    assert facts["ad_jax"] == provenance.version()
    assert json.loads(json.dumps(facts)) == facts

    def git(*words):
        return subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], check=True, capture_output=True, text=True
        )

    (tmp_path / "file").write_text("1")
    for words in (["init"], ["add", "file"], ["commit", "-m", "first"]):
        git(*words)
    assert provenance.commit() is None, "somebody else's repository"
    (tmp_path / "ad_jax/process").mkdir(parents=True)
    (tmp_path / "ad_jax/process/provenance.py").write_text("")
    git("add", "ad_jax")
    git("commit", "-m", "second")
    head = git("rev-parse", "--short=12", "HEAD").stdout.strip()
    assert provenance.commit() == head
    (tmp_path / "file").write_text("2")
    assert provenance.commit() == head + "+"


WATCHED = """
from ad_jax.process.metrics import Progress, log
bar = Progress("distill", 100, "updates", seconds=0)
bar.printed = 0
bar.update(40, loss=0.5)
log("a line [meanwhile]")
bar.printed = 0
bar.update(60, loss=0.4)
if {finish}:
    bar.update(100, loss=0.3)
else:
    raise SystemExit("stopped")
"""


@pytest.mark.parametrize("finish", [True, False])
def test_on_a_terminal_a_bar_stands_below_the_lines(finish):
    """And is gone afterwards, the cursor shown, however the process ends."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    code = WATCHED.format(finish=finish)
    with subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # of a terminal that nobody writes to any more
            while part := os.read(ours, 4096):
                shown += part
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert "━" in text
    assert "40/100 updates" in text
    assert "\ra line [meanwhile]\r\n" in text
    assert ("\rdistill  100/100 updates" if finish else "\rstopped\r\n") in text
    assert shown.rpartition(b"\x1b[2K")[2].startswith(b"distill  100/100" if finish else b"")  # the bar is gone
    assert "━" not in shown.rpartition(b"\x1b[2K")[2].decode()
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l")
