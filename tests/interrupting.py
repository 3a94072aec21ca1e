"""The command line, which sends itself a signal at a definite call: `interrupting.py PLACE COUNT SIGNAL ARGUMENT...`.

The call runs first, so that what it started (an asynchronous write, say) is under way when the signal comes.
"""

import os
import signal
import sys

from ad_jax.__main__ import main
from ad_jax.checkpoint.checkpoint import Checkpoints
from ad_jax.history.store import HistoryWriter
from ad_jax.process.metrics import MetricsLog
from ad_jax.report import report
from ad_jax.run import curves

PLACES = {
    "writing histories": (HistoryWriter, "write"),
    "saving a checkpoint": (Checkpoints, "save"),
    "saving the best": (Checkpoints, "save_best"),
    "writing metrics": (MetricsLog, "write"),
    "evaluating": (curves.Curves, "part"),
    "writing the report": (report, "write"),
}


def interrupt(place: str, count: int, number: int) -> None:
    """Arrange for signal `number` at the `count`-th call of `place`."""
    owner, name = PLACES[place]
    original, calls = getattr(owner, name), []

    def call(*args, **options):
        result = original(*args, **options)
        calls.append(name)
        if len(calls) == count:
            os.kill(os.getpid(), number)
        return result

    setattr(owner, name, call)


if __name__ == "__main__":
    # A shell starts what runs in its background with SIGINT ignored, and Python keeps it so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupt(sys.argv[1], int(sys.argv[2]), getattr(signal, sys.argv[3]))
    sys.exit(main(sys.argv[4:]))
