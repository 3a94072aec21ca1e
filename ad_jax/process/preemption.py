"""SIGTERM, which schedulers send before they take a machine away: training saves a checkpoint first, then stops.

The command ends with status 75 (`EX_TEMPFAIL` of sysexits.h, "try again later"), which schedulers can be told to
requeue on. Everywhere else nothing is lost by stopping at once: what is finished is on disk already.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

STATUS = 75  # of a command that was stopped and can go on


class Preempted(KeyboardInterrupt):
    """SIGTERM came. Like Ctrl-C, it is nobody's mistake, and nothing but the command line should catch it."""


class _Signal:
    """Whether SIGTERM came, whether it has to wait, and whether all processes of this run know of it."""

    def __init__(self) -> None:
        self.came, self.deferred, self.agreed = False, 0, False

    def __call__(self, number: int, frame: object) -> None:
        self.came = True
        if not self.deferred:
            raise Preempted


_signal = _Signal()


def listen() -> Callable[[], None]:
    """From now on SIGTERM raises `Preempted` in the main thread; returns what undoes that."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None  # Python takes signals in the main thread alone
    _signal.came = _signal.agreed = False
    before = signal.signal(signal.SIGTERM, _signal)

    def undo() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)

    return undo


def stop() -> None:
    """As if SIGTERM had come, to this process or another: all of this run stop now."""
    _signal.agreed = True
    _signal(signal.SIGTERM, None)


def heard() -> None:
    """SIGTERM came, though the main thread may be held up and not know of it yet."""
    _signal.came = True


def alone() -> bool:
    """Whether this process stops at once, and no other of this run knows."""
    return _signal.came and not _signal.deferred and not _signal.agreed


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM waits: ask the callable whether it came, save, and leave; leaving raises `Preempted` then."""
    _signal.deferred += 1
    try:
        yield lambda: _signal.came
    finally:
        _signal.deferred -= 1
    if _signal.came and not _signal.deferred:
        raise Preempted
