"""Signals and locks, each in this process: when a stop is taken, what waits, who holds what."""

import fcntl
import os
import signal

import pytest
from small_disks import small_files

from ad_jax.errors import ConfigError
from ad_jax.process import locks, preemption
from ad_jax.process.preemption import Preempted


@pytest.fixture
def listening():
    undo = preemption.listen()
    yield
    undo()


def stop():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.usefixtures("listening")
def test_sigterm_stops_at_once_where_nothing_has_to_be_saved():
    with pytest.raises(Preempted):
        stop()


@pytest.mark.usefixtures("listening")
def test_deferred_it_is_told_and_stops_on_leaving():
    seen = []

    def work():
        with preemption.deferred() as stopped:
            seen.append(stopped())
            stop()
            with preemption.deferred():  # the outer one decides
                pass
            seen.append(stopped())

    with pytest.raises(Preempted):
        work()
    assert seen == [False, True]


@pytest.mark.usefixtures("listening")
def test_alone_is_one_that_stops_at_once_and_has_not_agreed_on_it_with_the_others():
    def work():
        with preemption.deferred() as stopped:
            preemption.heard()  # as a thread hears it while the main thread waits
            assert stopped()
            assert not preemption.alone(), "it will ask the others"

    assert not preemption.alone()
    with pytest.raises(Preempted):
        work()
    assert preemption.alone(), "they did not know of it"
    with pytest.raises(Preempted):
        preemption.stop()
    assert not preemption.alone(), "now they do"
    preemption.listen()()
    assert not preemption.alone()


@pytest.mark.usefixtures("listening")
def test_an_error_matters_more_than_the_stop():
    def work():
        with preemption.deferred():
            stop()
            raise ConfigError("this")

    with pytest.raises(ConfigError, match="this"):
        work()


def test_afterwards_sigterm_does_what_it_did():
    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append(True))
    try:
        preemption.listen()()
        stop()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [True]


def test_a_lock_is_one_process_s_and_may_be_taken_twice(tmp_path):
    path = tmp_path / "a" / "lock"
    with locks.taken(path) as mine, locks.taken(path) as again:
        assert mine
        assert again
        with path.open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert f"process {os.getpid()} on " in locks.holder(path)
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with locks.taken(path) as mine:
            assert not mine
        with pytest.raises(ConfigError, match=r"a is in use by another process\. Wait"), locks.only_one(path.parent):
            pass


def test_on_a_full_disk_a_lock_holds_and_says_nothing(tmp_path):
    with small_files(0), locks.taken(tmp_path / "lock") as mine:
        assert mine
        assert locks.holder(tmp_path / "lock") == "another process"
    with locks.taken(tmp_path / "lock"):
        assert f"process {os.getpid()} on " in locks.holder(tmp_path / "lock")


def test_where_locks_are_unknown_the_work_goes_on_and_that_is_said(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with locks.taken(tmp_path / "lock") as mine:
        assert mine
    assert "cannot be locked" in capsys.readouterr().out
