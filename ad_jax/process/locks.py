"""Locks on files, which the system drops when their process ends, however it ends.

In: the path of a lock file. Out: whether this thread holds it now, and what the holder said of itself. A thread may
take a lock that it holds once more; another thread of the process is refused like another process. Where a file system
knows no locks, nothing is locked, and that is said.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from ad_jax.errors import ConfigError
from ad_jax.process.metrics import log


@contextlib.contextmanager
def taken(path: Path) -> Iterator[bool]:
    """Whether the lock is ours, within."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    # One object a path, with a file of its own in every thread. The file stays: all look at the same one.
    lock = filelock.FileLock(
        path, blocking=False, is_singleton=True, fallback_to_soft=False, preserve_lock_file=True, on_acquired=_sign
    )
    try:
        lock.acquire()
    except filelock.Timeout:
        yield False
        return
    except OSError as error:
        log(f"locks    {path.parent} cannot be locked ({error}): see to it that nobody else works there")
        yield True
        return
    try:
        yield True
    finally:
        if lock.lock_counter == 1:
            os.truncate(path, 0)
        lock.release()


def _sign(file: int) -> None:
    """Say in a lock file that has just been taken who we are."""
    os.ftruncate(file, 0)
    who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T %z")}
    with contextlib.suppress(OSError):  # on a full disk nobody is told who holds it; it holds
        os.write(file, json.dumps(who).encode())


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Be the only thread of all processes that works in `folder`, within.

    Raises:
        ConfigError: if another one does; names its process.
    """
    path = folder / "lock"
    with taken(path) as mine:
        if not mine:
            raise ConfigError(
                f"{folder} is in use by {holder(path)}. Wait for it, stop it, or use another directory (--dir)"
            )
        yield


def holder(path: Path) -> str:
    """Who holds a lock, as it says itself."""
    try:
        who = json.loads(path.read_text())
        mine = (who["pid"], who["host"]) == (os.getpid(), socket.gethostname())
        thread = "another thread of this process, which is " if mine else ""
        return f"{thread}process {who['pid']} on {who['host']}, since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
