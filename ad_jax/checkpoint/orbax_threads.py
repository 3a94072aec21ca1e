"""Orbax's writing threads, where a write failed: said once, and no process waits for them at its end."""

import contextlib
import logging
import threading
import warnings

from ad_jax.process import distributed

# A thread that fails logs a traceback; what failed is raised as well, and told once.
logging.getLogger("absl").addFilter(lambda record: record.levelno < logging.ERROR or "orbax" not in record.pathname)


def release() -> None:
    """End the threads that wait for a folder that could not be made; to be called when all others have ended.

    Python waits for them at its end, and they for five minutes. Of several processes, those of the others may wait for
    the same folder, and nothing is touched.
    """
    stuck = [thread for thread in threading.enumerate() if type(thread).__name__ == "_SignalingThread"]
    if not stuck or distributed.count() > 1:
        return
    with contextlib.suppress(ImportError, AttributeError):  # no public interface: with another Orbax it takes minutes
        from orbax.checkpoint._src.futures.future import set_signals

        # What they were to write is never begun, which Python remarks on.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        for thread in stuck:
            thread.cancel()  # pyright: ignore[reportAttributeAccessIssue]  # awake, it writes nothing
        for thread in stuck:
            set_signals(thread._receive_signals, operation_id=thread._operation_id)  # pyright: ignore[reportAttributeAccessIssue]
            threading.Thread.join(thread, 10)
