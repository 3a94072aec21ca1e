"""One of several processes that SIGTERM ends takes the others along, within seconds, and says which one it was.

Training agrees on when to stop, and saves first (`training.leaving`). Everywhere else nothing is lost by ending at
once, but the others would wait in a collective until they take the one that left for dead; and a process that waits
there itself never hears of its signal, because Python's handlers run between its own instructions. So a thread listens
for both: the system writes a signal into a pipe at once, and who leaves says so in the key-value store of JAX's
coordinator. All then end with `preemption.STATUS`.
"""

import atexit
import contextlib
import os
import select
import signal
import sys
import threading
import time
from typing import Any

from ad_jax.process import distributed, preemption

LISTEN_SECONDS = 1  # between two looks at what the others say
LINGER_SECONDS = 8  # at most, until all have heard it
GOING_SECONDS = 0.5  # from a process's last word to its end, at leisure
LEAVING, GONE = "ad_jax/leaving/", "ad_jax/gone/"


def listen() -> None:
    """From now on; to be called once, after `distributed.start` and `preemption.listen`, in the main thread."""
    here = distributed.coordinator()
    if here is None:
        return
    heard, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    done = threading.Event()
    thread = threading.Thread(target=_listen, args=(*here, heard, done), daemon=True, name="shutdown")
    thread.start()

    def end() -> None:
        if not preemption.alone():  # else the thread ends this process, which JAX would have wait for the others
            done.set()
            os.write(wake, b"\0")
        thread.join()

    atexit.register(end)  # before JAX's, which takes the coordinator down


def _listen(client: Any, me: int, count: int, heard: int, done: threading.Event) -> None:
    """Until `done`, or until somebody leaves."""
    with contextlib.suppress(Exception):  # of a coordinator that is gone: JAX ends this process and says why
        while not done.is_set():
            if select.select([heard], [], [], LISTEN_SECONDS)[0] and signal.SIGTERM in os.read(heard, 256):
                preemption.heard()
            left = _left(client)
            if left or preemption.alone():
                _leave(client, me, count, left[0] if left else me)


def _left(client: Any) -> list[int]:
    """Who is leaving: the one that began, as each of them says."""
    return [int(began) for _, began in client.key_value_dir_get(LEAVING)]


def _leave(client: Any, me: int, count: int, began: int) -> None:
    """Say so, wait until the others have heard it, and end. Nothing that waits in this process could hinder it."""
    told = f"process {began} of {count} was stopped by SIGTERM, and all of them with it"
    print(f"\nad-jax: {told}; run the same command again to go on from here", file=sys.stderr, flush=True)
    sys.stdout.flush()
    end = time.monotonic() + LINGER_SECONDS

    def say(what: str) -> None:
        client.key_value_set(f"{what}{me}", str(began))

    def wait(what: str, who: int) -> None:
        while len(client.key_value_dir_get(what)) < who and time.monotonic() < end:
            time.sleep(0.05)

    with contextlib.suppress(Exception):
        say(LEAVING)
        wait(LEAVING, count)
        if me:
            say(GONE)
        else:  # without the coordinator, which ends with the first, JAX would abort the others
            wait(GONE, count - 1)
            time.sleep(GOING_SECONDS)
    os._exit(preemption.STATUS)
