"""Locks on files, which the system drops when their process ends, however it ends.

In: the path of a lock file. Out: whether this process holds it now, and what the holder said of itself. A process may
take a lock that it holds once more. Where a file system knows no locks, nothing is locked, and that is said.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from ad_jax.errors import ConfigError
from ad_jax.metrics import say

_held: dict[Path, int] = {}  # how often this process has taken each lock


@contextlib.contextmanager
def taken(path: Path) -> Iterator[bool]:
    """Whether the lock is ours, within."""
    path = path.absolute()
    if path in _held:
        _held[path] += 1
        try:
            yield True
        finally:
            _held[path] -= 1
        return
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
        _held[path] = 1
        try:
            yield True
        finally:
            del _held[path]
            file.truncate(0)


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Be the only process that works in `folder`, within.

    Raises:
        ConfigError: if another process does; names it.
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
        return f"process {who['pid']} on {who['host']}, since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
