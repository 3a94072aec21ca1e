"""Several processes over loopback: what they write is what one process writes, and one's failure stops all of them.

Each runs on one CPU device unless a test says otherwise: with two devices a process, dispatches that nobody waits for
can deadlock in the CPU's collectives.
"""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import time

import chex
import numpy as np
import pytest
from helpers import files, refused
from process_helpers import (
    MAIN,
    RUN,
    SECONDS,
    SMALL,
    WORKER,
    assert_equal_evaluation,
    assert_equal_parameters,
    assert_same_histories,
    copied,
    finish,
    free_port,
    launch,
    metrics,
    options,
    results,
    run,
)

from ad_jax.checkpoint import checkpoint
from ad_jax.errors import ConfigError
from ad_jax.history import store
from ad_jax.process import distributed, preemption


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
    """Where the processes run: not the repository."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def one(place) -> pathlib.Path:
    """Return a run of one process with two devices."""
    run(place, 1, "run", *RUN, *SMALL, "--dir", "one", devices=2)
    return place / "one"


@pytest.fixture(scope="module")
def two(place) -> tuple[pathlib.Path, list[subprocess.CompletedProcess]]:
    """Return a run of two processes with one device each, and what they printed."""
    done = run(place, 2, "run", *RUN, *SMALL, "--dir", "two")
    return place / "two", done


# Two processes.


def test_two_processes_write_the_histories_of_one_byte_for_byte(one, two):
    """Learners are keyed by task and seed, and chunks are those of the configuration, whoever runs them."""
    assert_same_histories(one, two[0])
    assert store.verify(two[0] / "histories") == []
    assert "52 of 130 learners are left to the other processes" in two[1][0].stdout
    assert results(two[0])["stages"]["collect"]["env_steps"] == 65 * 2 * 20 * 20
    assert metrics(two[0], "collect") == metrics(one, "collect"), "also of the chunks that the other one collected"
    assert len(metrics(one, "collect")) == 5


def test_two_processes_train_like_one_with_as_many_devices_bit_for_bit(one, two):
    """The sum over two devices has one order, and is the same in memory and over the network."""
    assert_equal_parameters(one, two[0], atol=0)
    stages = ("distill", "in_context", "evaluate/held_out/sampled")
    assert len(metrics(one, *stages)) == 4 + 2 + 4
    assert metrics(one, *stages) == metrics(two[0], *stages)


@pytest.mark.slow
def test_histories_take_turns_in_two_processes_as_in_one(one):
    """Each process reads all of them, and keeps on its device the share of each part that its groups draw from."""
    turns = ("replay.rotation.resident=32", "replay.rotation.parts=4", "replay.rotation.every=2", "mesh.data=2")
    command = ("distill", *RUN, *SMALL, "distill.evaluate_every=0", *turns, "--histories", str(one / "histories"))
    place, told = one.parent, {}
    for folder, count, devices in (("turns-one", 1, 2), ("turns-two", 2, 1)):
        told[folder] = run(place, count, *command, "--dir", folder, devices=devices)[0].stdout
        assert "3 swaps; " in told[folder]
    assert_equal_parameters(place / "turns-one", place / "turns-two", 0)
    assert metrics(place / "turns-one", "distill") == metrics(place / "turns-two", "distill")


def test_two_processes_evaluate_like_one(one, two):
    """The same parameters to the bit, so the same rollouts, paths and curve of the source."""
    assert results(two[0])["sets"] == results(one)["sets"]
    assert results(two[0])["provenance"]["processes"] == 2
    assert "processes" not in results(one)["provenance"]


def test_only_the_first_process_talks(two):
    first, second = (done.stdout for done in two[1])
    assert "report   " in first
    assert [line for line in second.splitlines() if "[Gloo]" not in line] == []


@pytest.mark.slow
def test_one_process_goes_on_where_two_were_stopped(two):
    """Equal to 1e-6 and not to the bit: one device sums the whole batch, two sum halves of it first."""
    folder = copied(two[0], "two_then_one")
    run(two[0].parent, 1, "run", *RUN, *SMALL, "--dir", folder.name)
    trained = results(folder)["stages"]["distill"]  # the facts of the training that ended it
    assert (trained["updates"], trained["resumed_from"]) == (8, 4)
    assert_equal_parameters(folder, two[0], atol=1e-6)
    assert_equal_evaluation(folder, two[0])


@pytest.mark.slow
def test_two_processes_go_on_where_one_was_stopped_with_parameters_split_between_them(one):
    """A checkpoint of other processes on another mesh; its rollouts are those that one process made of it."""
    folder = copied(one, "one_then_two")
    done = run(one.parent, 2, "run", *RUN, *SMALL, "mesh.fsdp=2", "--dir", folder.name)
    assert "going on from update 4" in done[0].stdout
    assert_equal_parameters(folder, one, atol=1e-6)
    assert_equal_evaluation(folder, one)


@pytest.fixture(scope="module")
def met(place) -> tuple[list[dict], list[str]]:
    """Return what each of two processes saw of the other, and all that each printed."""
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
            assert unread[which].startswith("DamagedCheckpointError: process 1 of 2: cannot read checkpoint"), unread
            assert f"steps/{step}: injected at {step}. If it is damaged" in unread[which]
        assert unread["full"].startswith(
            "CheckpointError: process 1 of 2: cannot write a checkpoint: the disk is full: a checkpoint needs 56 bytes"
        )
    warned = [line for line in printed[0].splitlines() if line.startswith("warning")]
    assert ["injected at 2" in warned[0], "1 arrays hold other bits" in warned[2]] == [True, True]
    assert all("going on from the one before" in line for line in warned)
    assert len(warned) == 3


# Stopped, or in each other's way.


@pytest.mark.slow
def test_sigterm_to_one_of_two_saves_in_both_and_a_second_run_beside_them_is_refused(two):
    """Both save the same step, where none was due, and end with 75; the same command again ends with equal bits."""
    place, folder = two[0].parent, pathlib.Path(shutil.copytree(two[0], two[0].parent / "stopped"))
    shutil.rmtree(folder / "checkpoints")
    command = ("distill", *RUN, *SMALL, "--dir", "stopped", "--processes")
    first, second = options(2)
    started = launch(place, [(*MAIN, *command, first), (WORKER, "signaled", "distill", *command, second)])
    try:
        wait_for(place / "reached", started)
        before, began = states(folder), time.monotonic()
        refused = finish(launch(place, [(*MAIN, *command, option) for option in options(2)]))
        print(f"refused after {time.monotonic() - began:.0f} s")
        assert states(folder) == before, "no file is touched"
        for process in refused:
            assert process.returncode == 2, process.stderr
            assert f"is in use by process {started[0].pid} on " in process.stderr
        (place / "go").touch()
        assert_both_stop(started, "stopped by SIGTERM")
    finally:
        (place / "go").touch()
        finish(started)
    assert sorted(path.name for path in (folder / "checkpoints/steps").iterdir()) == ["2"], "4 and 8 were due"
    done = run(place, 2, *command[:-1])
    assert "going on from update 2" in done[0].stdout
    assert_equal_parameters(folder, two[0], atol=0)
    assert metrics(folder, "distill", "in_context") == metrics(two[0], "distill", "in_context")


@pytest.mark.slow
def test_sigterm_to_one_that_waits_while_collecting_ends_the_other_too(place):
    """The one with the signal waits in a collective, the other is busy elsewhere: neither could know by itself."""
    command = ("collect", *RUN, *SMALL, "--dir", "torn", "--processes")
    first, second = options(2)
    works = [(WORKER, "busy", "collect", *command, first), (WORKER, "signaled", "collect", *command, second)]
    started = launch(place, works)
    assert_both_stop(started, "process 1 of 2 was stopped by SIGTERM, and all of them with it")
    assert len(list((place / "torn/histories/ledger").iterdir())) < 5


def assert_both_stop(started: list[subprocess.Popen], told: str) -> None:
    """From the signal to the end of both, which end with 75 and say why."""
    done = finish(started)
    ended = time.time()
    for process in done:
        assert process.returncode == preemption.STATUS, process.stderr
        assert told in process.stderr
    seconds = ended - max(float(at) for one in done for at in re.findall(r"stopped at ([\d.]+)", one.stdout))
    print(f"both ended {seconds:.1f} s after the signal")
    assert seconds < 60, "where nobody tells, 100 until it is taken for dead, or more"


def states(folder: pathlib.Path) -> dict[str, tuple[bytes, int]]:
    return {name: (content, (folder / name).stat().st_mtime_ns) for name, content in files(folder).items()}


def wait_for(path: pathlib.Path, started: list[subprocess.Popen]) -> None:
    end = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < end
        assert [process.poll() for process in started] == [None] * len(started)
        time.sleep(0.1)


# Without others.


WRONG = ("", "2", "Auto", "host,0/2", "host:1", "host:1,2/2", "host:1,0/0", "host:1,-1/2", "host:70000,0/2")


@pytest.mark.parametrize("option", WRONG)
def test_an_option_that_cannot_be_meant_is_refused(option):
    with pytest.raises(ConfigError, match=r"'auto' or HOST:PORT,RANK/COUNT .*127.0.0.1:29500,1/2"):
        distributed.start(option)


def test_an_address_where_nobody_listens_is_named(monkeypatch):
    monkeypatch.setattr(distributed, "JOIN_SECONDS", 0.1)
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ConfigError, match=f"nobody listens at {address} after 0.1 seconds .*rank 0 there"):
        distributed.start(f"{address},1/2")


def test_auto_without_a_scheduler_is_refused_before_anything_is_made(place):
    """And the command line says so."""
    command = ("collect", *RUN, "--dir", "nowhere", "--processes", "auto")
    (done,) = finish(launch(place, [(*MAIN, *command)]))
    assert done.returncode == 2, done.stderr
    assert "ad-jax: --processes auto: cannot join" in done.stderr
    assert "SLURM, Open MPI, Kubernetes" in done.stderr
    assert not (place / "nowhere").exists()


def test_one_process_is_a_plain_call(capsys, tmp_path):
    assert (distributed.index(), distributed.count(), distributed.is_first()) == (0, 1, True)
    marker = object()
    assert distributed.on_first(lambda: marker) is marker
    assert distributed.everywhere(lambda: marker) == [marker]
    distributed.check_equal("marker", marker)
    refused(capsys, ["collect", *RUN, "--dir", tmp_path / "new", "--processes", "host:1"], "RANK/COUNT")


REINFORCED = """
import dataclasses

from ad_jax.experiment import load
from ad_jax.methods.rl2 import RL2
from ad_jax.models.lstm import LSTM


def config(scale):
    model = LSTM(hidden=8, width=8, mlp_width=8, value_head=True)
    method = RL2(updates=2, trials=8, trial_episodes=4)
    return dataclasses.replace(load("dark_room", "smoke"), model=model, method=method)
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
def test_sigterm_to_the_first_of_two_while_evaluating_ends_the_other_too(two):
    """The first one carries the words: it goes last."""
    place, folder = two[0].parent, pathlib.Path(shutil.copytree(two[0], two[0].parent / "unrated"))
    shutil.rmtree(folder / "evaluation")
    command = ("evaluate", *RUN, *SMALL, "--dir", "unrated", "--processes")
    first, second = options(2)
    works = [(WORKER, "signaled", "evaluate/held_out/sampled", *command, first), (*MAIN, *command, second)]
    assert_both_stop(launch(place, works), "process 0 of 2 was stopped by SIGTERM, and all of them with it")
    run(place, 2, *command[:-1])
    assert results(folder)["sets"] == results(two[0])["sets"]


@pytest.mark.slow
def test_rl2_in_two_processes_trains_like_one_with_as_many_devices(place):
    (place / "reinforced.py").write_text(REINFORCED)
    command = ("distill", "reinforced.py")
    run(place, 1, *command, "--dir", "rl2_one", devices=2)
    run(place, 2, *command, "--dir", "rl2_two")
    (_, state, meta), (_, other, other_meta) = (checkpoint.load(place / name) for name in ("rl2_one", "rl2_two"))
    assert meta == other_meta
    chex.assert_trees_all_equal(state, other)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["collect", "distill"])
def test_when_one_dies_the_others_stop_and_name_it_and_one_alone_goes_on(one, place, stage):
    """With as many devices to the same bits; with one device to 1e-6, because it sums the whole batch at once."""
    lost, name = 20, f"dying_{stage}"
    first, second = ((*RUN, *SMALL, "--dir", name, "--processes", option) for option in options(2))
    works = [(WORKER, "lost", str(lost), "run", *first), (WORKER, "dying", str(lost), stage, "run", *second)]
    started = launch(place, works)
    started[1].wait(SECONDS)
    died = time.monotonic()
    survivor, dead = finish(started)
    seconds = time.monotonic() - died
    print(f"{stage}: the other stopped {seconds:.1f} s after, with a limit of {lost}")
    assert dead.returncode == -signal.SIGKILL
    assert seconds < 3 * lost
    assert survivor.returncode not in (0, None)
    # As JAX words it, by which of its threads is the first to hear of it.
    assert re.search(r"Task 1 heartbeat timeout|stopped sending heartbeats\):\s*1\b", survivor.stderr)
    shutil.copytree(place / name, place / f"{name}_alone")
    for folder, devices, atol in ((name, 2, 0), (f"{name}_alone", 1, 1e-6)):
        (done,) = run(place, 1, "run", *RUN, *SMALL, "--dir", folder, devices=devices)
        assert ("going on from update 4" in done.stdout) == (stage == "distill")
        assert_same_histories(one, place / folder)
        assert_equal_parameters(one, place / folder, atol)
    logged = ("collect", "distill", "in_context")
    assert metrics(place / name, *logged) == metrics(one, *logged), "of those that were killed, too"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["collect", "distill"])
def test_where_one_died_two_go_on_to_the_same_bits(one, place, stage):
    name = f"died_{stage}"
    command = ("run", *RUN, *SMALL, "--dir", name)
    (dead,) = finish(launch(place, [(WORKER, "dying", "20", stage, *command)], devices=2))
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    done = run(place, 2, *command)
    assert ("learners are on disk already" if stage == "collect" else "going on from update 4") in done[0].stdout
    assert_same_histories(one, place / name)
    assert_equal_parameters(one, place / name, atol=0)
    logged = ("collect", "distill", "in_context")
    assert metrics(place / name, *logged) == metrics(one, *logged)
    assert results(place / name)["sets"] == results(one)["sets"]
