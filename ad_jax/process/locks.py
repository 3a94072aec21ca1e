"""Locks on files, which the system drops when their process ends, however it ends.

In: the path of a lock file. Out: whether this thread holds it now, and what the holder said of itself. A thread may
take a lock that it holds once more; another thread of the process is refused like another process. Where a file system
knows no locks, nothing is locked against other processes, and that is said.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ad_jax.errors import ConfigError
from ad_jax.process.metrics import say

_held: dict[Path, int] = {}  # which thread of this process has each lock
_looking = threading.Lock()  # held while `_held` is looked at and changed


@contextlib.contextmanager
def taken(path: Path) -> Iterator[bool]:
    """Whether the lock is ours, within."""
    path, me = path.resolve(), threading.get_ident()
    with _looking:
        owner = _held.get(path)
        if owner is None:
            _held[path] = me
    if owner is not None:
        yield owner == me
        return
    try:
        with _locked(path) as ours:
            if not ours:
                _release(path)
            yield ours
    finally:
        _release(path)


def _release(path: Path) -> None:
    """Forget that this thread has the lock, where it does."""
    with _looking:
        if _held.get(path) == threading.get_ident():
            del _held[path]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether this process has the file, within; it says there who it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            say(f"locks    {path.parent} cannot be locked ({error}): see to it that no other process works there")
        file.truncate(0)
        who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T %z")}
        with contextlib.suppress(OSError):  # on a full disk nobody is told who holds it; it holds
            os.write(file.fileno(), json.dumps(who).encode())
        try:
            yield True
        finally:
            file.truncate(0)


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
