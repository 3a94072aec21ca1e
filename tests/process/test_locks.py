"""Who may work in a directory: one thread of one process, as often as it likes."""

import threading

import pytest

from ad_jax.errors import ConfigError
from ad_jax.process import locks


def in_a_thread(call):
    """Return what `call()` gives or raises in another thread."""
    found = []

    def run():
        try:
            found.append(call())
        except ConfigError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    return found[0]


def ours(path) -> bool:
    with locks.taken(path) as mine:
        return mine


def test_a_second_thread_is_refused_like_a_second_process(tmp_path):
    def work():
        with locks.only_one(tmp_path):
            return True

    with locks.only_one(tmp_path), locks.only_one(tmp_path):  # a run's stage inside the whole run
        error = in_a_thread(work)
        assert isinstance(error, ConfigError)
        assert "in use by another thread of this process" in str(error)
    assert in_a_thread(work) is True


def test_the_lock_is_held_until_the_outermost_is_left(tmp_path):
    path = tmp_path / "piece.lock"
    with locks.taken(path) as mine:
        assert mine
        assert ours(path)
        assert not in_a_thread(lambda: ours(path))
    assert in_a_thread(lambda: ours(path))


def test_one_that_was_refused_leaves_the_lock_to_the_other(tmp_path):
    path = tmp_path / "piece.lock"
    with locks.taken(path):
        assert not in_a_thread(lambda: ours(path))
        assert not in_a_thread(lambda: ours(path))
    with pytest.raises(RuntimeError), locks.taken(path):
        raise RuntimeError
    assert ours(path)


def test_two_ways_to_a_directory_are_one(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    with locks.only_one(tmp_path), locks.only_one(tmp_path / "link"):
        assert not in_a_thread(lambda: ours(tmp_path / "link" / "lock"))
