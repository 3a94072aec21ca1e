"""Several processes over loopback: what they write is what one process writes, and one's failure stops all of them.

Each runs on one CPU device unless a test says otherwise: with two devices a process, dispatches that nobody waits for
can deadlock in the CPU's collectives.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from helpers import files, refused

from ad_jax import checkpoint, history_store, processes
from ad_jax.errors import ConfigError

WORKER = str(pathlib.Path(__file__).with_name("process_worker.py"))
MAIN = ("-m", "ad_jax")
RUN = ("dark_room", "--scale", "smoke")
# Little to compile; evaluated is the best checkpoint, so that a copied one can be evaluated by other processes.
SMALL = (
    "model.layers=1",
    "distill.evaluate_episodes=2",
    "evaluate.greedy=False",
    "evaluate.source_seeds=1",
    "evaluate.checkpoint=best",
)
SECONDS = 600  # after which a process is killed: a hang; on a quiet machine none takes 30


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
    """Where the processes run: not the repository."""
    return tmp_path_factory.mktemp("elsewhere")


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def launch(place: pathlib.Path, commands: list[tuple[str, ...]], devices: int = 1) -> list[subprocess.Popen]:
    """Start Python once for each command, on CPU devices of its own."""
    keep = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and "SLURM" not in name}
    flags = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
    root = str(pathlib.Path(processes.__file__).parent.parent)  # the package under test, wherever it is
    env = keep | {"XLA_FLAGS": flags, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
    env |= {"AD_JAX_CACHE": str(place / "cache"), "MPLCONFIGDIR": str(place / "cache")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen([sys.executable, *command], cwd=place, env=env, **pipes) for command in commands]


def finish(started: list[subprocess.Popen], seconds: float = SECONDS) -> list[subprocess.CompletedProcess]:
    """Wait for all of them, and kill whoever is left: a hang is a failure, not a hang of the tests."""
    end = time.monotonic() + seconds
    try:
        outputs = [process.communicate(timeout=max(end - time.monotonic(), 0.1)) for process in started]
    finally:
        for process in started:
            process.kill()
    return [subprocess.CompletedProcess(p.args, p.returncode, *out) for p, out in zip(started, outputs, strict=True)]


def options(count: int) -> list[str]:
    """`--processes` for each of `count` processes."""
    port = free_port()
    return [f"127.0.0.1:{port},{rank}/{count}" for rank in range(count)]


def run(place, count: int, *command: str, devices: int = 1) -> list[subprocess.CompletedProcess]:
    """The same command in `count` processes, all of which succeed."""
    ranks = [("--processes", option) for option in options(count)] if count > 1 else [()]
    done = finish(launch(place, [(*MAIN, *command, *rank) for rank in ranks], devices))
    for process in done:
        assert process.returncode == 0, process.stderr
    return done


@pytest.fixture(scope="module")
def one(place) -> pathlib.Path:
    """A run of one process with two devices."""
    run(place, 1, "run", *RUN, *SMALL, "--dir", "one", devices=2)
    return place / "one"


@pytest.fixture(scope="module")
def two(place) -> tuple[pathlib.Path, list[subprocess.CompletedProcess]]:
    """A run of two processes with one device each, and what they printed."""
    done = run(place, 2, "run", *RUN, *SMALL, "--dir", "two")
    return place / "two", done


def assert_same_histories(folder: pathlib.Path, other: pathlib.Path) -> None:
    here, there = files(folder / "histories"), files(other / "histories")
    assert here.keys() == there.keys()
    assert [name for name in here if here[name] != there[name]] == []
    assert history_store.open_store(folder / "histories").manifest.chunks == 5


def results(folder: pathlib.Path) -> dict:
    (one,) = json.loads((folder / "results.json").read_text())["runs"]
    return one


def metrics(folder: pathlib.Path, *stages: str) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["stage"] in stages]


def assert_equal_parameters(folder: pathlib.Path, other: pathlib.Path, atol: float) -> None:
    """The whole training state of the last checkpoint, optimiser included."""
    (step, state, meta), (other_step, other_state, other_meta) = map(checkpoint.load, (folder, other))
    assert step == other_step == 8
    assert meta["architecture"] == other_meta["architecture"]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=atol), state, other_state)


def copied(source: pathlib.Path, name: str) -> pathlib.Path:
    """A copy that was stopped after update 4, and whose rollouts are still to be done."""
    folder = pathlib.Path(shutil.copytree(source, source.parent / name))
    shutil.rmtree(folder / "checkpoints/steps/8")
    (folder / "evaluation/held_out-sampled.json").unlink()
    return folder


# Two processes.


def test_two_processes_write_the_histories_of_one_byte_for_byte(one, two):
    """Learners are keyed by task and seed, and chunks are those of the configuration, whoever runs them."""
    assert_same_histories(one, two[0])
    assert history_store.verify(two[0] / "histories") == []
    assert "52 of 130 learners are left to the other processes" in two[1][0].stdout
    assert results(two[0])["stages"]["collect"]["env_steps"] == 65 * 2 * 20 * 20


def test_two_processes_train_like_one_with_as_many_devices_bit_for_bit(one, two):
    """The sum over two devices has one order, and is the same in memory and over the network."""
    assert_equal_parameters(one, two[0], atol=0)
    stages = ("distill", "in_context", "evaluate/held_out/sampled")
    assert len(metrics(one, *stages)) == 4 + 2 + 4
    assert metrics(one, *stages) == metrics(two[0], *stages)


def test_two_processes_evaluate_like_one(one, two):
    """The same parameters to the bit, so the same rollouts, paths and curve of the source."""
    assert results(two[0])["sets"] == results(one)["sets"]
    assert results(two[0])["provenance"]["processes"] == 2
    assert "processes" not in results(one)["provenance"]


def test_only_the_first_process_talks(two):
    first, second = (done.stdout for done in two[1])
    assert "report   " in first
    assert [line for line in second.splitlines() if "[Gloo]" not in line] == []


def test_one_process_goes_on_where_two_were_stopped(two):
    """Equal to 1e-6 and not to the bit: one device sums the whole batch, two sum halves of it first."""
    folder = copied(two[0], "two_then_one")
    run(two[0].parent, 1, "run", *RUN, *SMALL, "--dir", folder.name)
    assert results(folder)["stages"]["distill"] == results(two[0])["stages"]["distill"]
    assert_equal_parameters(folder, two[0], atol=1e-6)
    assert_equal_evaluation(folder, two[0])


def test_two_processes_go_on_where_one_was_stopped_with_parameters_split_between_them(one):
    """A checkpoint of other processes on another mesh; its rollouts are those that one process made of it."""
    folder = copied(one, "one_then_two")
    done = run(one.parent, 2, "run", *RUN, *SMALL, "mesh.fsdp=2", "--dir", folder.name)
    assert "going on from update 4" in done[0].stdout
    assert_equal_parameters(folder, one, atol=1e-6)
    assert_equal_evaluation(folder, one)


def assert_equal_evaluation(folder, other):
    """Of one checkpoint, the best, which is a copy."""
    assert files(folder / "checkpoints/best") == files(other / "checkpoints/best")
    assert results(folder)["sets"] == results(other)["sets"]


@pytest.fixture(scope="module")
def met(place) -> tuple[list[dict], list[str]]:
    """What each of two processes saw of the other, and all that each printed."""
    (place / "foreign").mkdir()
    (place / "foreign/file").touch()
    done = finish(launch(place, [(WORKER, "meet", option, str(place)) for option in options(2)]))
    for process in done:
        assert process.returncode == 0, process.stderr
    return [json.loads(process.stdout.splitlines()[-1]) for process in done], [process.stdout for process in done]


def test_what_one_process_does_by_itself_ends_on_all_or_on_none(met):
    seen = [dict(one) for one in met[0]]
    assert [one.pop("who") for one in seen] == [[0, 2, True], [1, 2, False]]
    assert [one.pop("together") for one in seen] == [0, 1]
    assert [one.pop("own") for one in seen] == [[0], [1]]
    assert [one.pop("mine") for one in seen] == np.arange(24).reshape(2, 4, 3).tolist()
    differs = [one.pop("other experiment") for one in seen]
    assert "process 1 has another run than process 0; it differs in experiment.seed (1 there, 0 here)" in differs[0]
    assert "process 0 has another run than process 1; it differs in experiment.seed (0 there, 1 here)" in differs[1]
    assert seen[0] == seen[1]
    common = seen[0]
    assert common["everywhere"] == [{"index": 0, "long": ""}, {"index": 1, "long": "x" * 1000}]
    assert common["on_first"] == "from 0"
    assert common["all"] and common["keys"]
    assert common["history error"] == "HistoryError: process 1 of 2: the disk is full"
    assert common["os error"] == "AdJaxError: process 1 of 2: no such device"
    assert common["first fails"] == "HistoryError: process 0 of 2: gone"
    assert "is not empty and holds no run" in common["foreign"]
    assert common["after"] == [0, 1], "and they are still in step"


def test_a_checkpoint_that_one_process_alone_cannot_read_is_damaged_for_all(met):
    """Both fall back to the one before, with the same bits; where none is left, both end with the same error."""
    seen, printed = met
    for one in seen:
        unread = one["checkpoints"]
        assert unread["latest unread"] == unread["other bits"] == "1, 1, equal, aside: ['2']"
        assert unread["loaded whole"] == "2, 2, equal, aside: []"
        for which, step in (("none read", 1), ("loaded", 2)):
            assert unread[which].startswith("DamagedCheckpoint: process 1 of 2: cannot read checkpoint"), unread
            assert f"steps/{step}: injected at {step}. If it is damaged" in unread[which]
        assert unread["full"].startswith(
            "CheckpointError: process 1 of 2: the disk is full: a checkpoint needs 56 bytes, 3"
        )
    warned = [line for line in printed[0].splitlines() if line.startswith("warning")]
    assert ["injected at 2" in warned[0], "1 arrays hold other bits" in warned[2]] == [True, True]
    assert all("going on from the one before" in line for line in warned)
    assert len(warned) == 3


# Without others.


WRONG = ("", "2", "Auto", "host,0/2", "host:1", "host:1,2/2", "host:1,0/0", "host:1,-1/2", "host:70000,0/2")


@pytest.mark.parametrize("option", WRONG)
def test_an_option_that_cannot_be_meant_is_refused(option):
    with pytest.raises(ConfigError, match=r"'auto' or HOST:PORT,RANK/COUNT .*127.0.0.1:29500,1/2"):
        processes.start(option)


def test_an_address_where_nobody_listens_is_named(monkeypatch):
    monkeypatch.setattr(processes, "JOIN_SECONDS", 0.1)
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ConfigError, match=f"nobody listens at {address} after 0.1 seconds .*rank 0 there"):
        processes.start(f"{address},1/2")


def test_auto_without_a_scheduler_is_refused_before_anything_is_made(place):
    """And the command line says so."""
    command = ("collect", *RUN, "--dir", "nowhere", "--processes", "auto")
    (done,) = finish(launch(place, [(*MAIN, *command)]))
    assert done.returncode == 2, done.stderr
    assert "ad-jax: --processes auto: cannot join" in done.stderr
    assert "SLURM, Open MPI, Kubernetes" in done.stderr
    assert not (place / "nowhere").exists()


def test_one_process_is_a_plain_call(capsys, tmp_path):
    assert (processes.index(), processes.count(), processes.is_first()) == (0, 1, True)
    marker = object()
    assert processes.on_first(lambda: marker) is marker
    assert processes.everywhere(lambda: marker) == [marker]
    processes.check_equal("marker", marker)
    refused(capsys, ["collect", *RUN, "--dir", tmp_path / "new", "--processes", "host:1"], "RANK/COUNT")


REINFORCED = """
import dataclasses

from ad_jax.experiment import Plugin, load
from ad_jax.rl2 import Config


def config(scale):
    model = Plugin("lstm", {"hidden": 8, "width": 8, "mlp_width": 8, "value_head": True})
    rl2 = Config(updates=2, trials=8, trial_episodes=4)
    return dataclasses.replace(load("dark_room", "smoke"), model=model, rl2=rl2)
"""

# Slow: four processes, RL², and one that dies.


@pytest.mark.slow
def test_four_processes_on_a_mesh_of_all_axes_are_like_one(one, place):
    """Histories to the byte; parameters to 1e-6, because tensor axes sum in another order."""
    run(place, 4, "run", *RUN, *SMALL, "mesh.fsdp=2", "mesh.tensor=2", "--dir", "four")
    assert_same_histories(one, place / "four")
    assert_equal_parameters(one, place / "four", atol=1e-6)
    assert results(place / "four")["sets"][0]["source"] == results(one)["sets"][0]["source"]


@pytest.mark.slow
def test_rl2_in_two_processes_trains_like_one_with_as_many_devices(place):
    (place / "reinforced.py").write_text(REINFORCED)
    command = ("distill", "reinforced.py")
    run(place, 1, *command, "--dir", "rl2_one", devices=2)
    run(place, 2, *command, "--dir", "rl2_two")
    (_, state, meta), (_, other, other_meta) = (checkpoint.load(place / name) for name in ("rl2_one", "rl2_two"))
    assert meta == other_meta
    jax.tree.map(np.testing.assert_array_equal, state, other)


@pytest.mark.slow
def test_when_one_dies_the_others_stop_and_name_it_and_one_alone_goes_on(one, place):
    lost = 20
    first, second = ((*RUN, *SMALL, "--dir", "dying", "--processes", option) for option in options(2))
    started = launch(
        place,
        [
            (WORKER, "lost", str(lost), "run", *first),
            (WORKER, "dying", str(lost), "run", *second),
        ],
    )
    started[1].wait(SECONDS)
    died = time.monotonic()
    survivor, dead = finish(started)
    assert dead.returncode == -signal.SIGKILL
    assert time.monotonic() - died < 3 * lost
    assert survivor.returncode not in (0, None)
    # As JAX words it, by which of its threads is the first to hear of it.
    assert re.search(r"Task 1 heartbeat timeout|stopped sending heartbeats\):\s*1\b", survivor.stderr)
    run(place, 1, "run", *RUN, *SMALL, "--dir", "dying")
    assert_same_histories(one, place / "dying")
    assert_equal_parameters(one, place / "dying", atol=1e-6)
