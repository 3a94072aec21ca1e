"""Several processes that are one run: how they start, who does what only one may do, and what all are told of it.

In: `--processes`, or the scheduler's environment. Each process drives its own devices, and a run directory that all of
them see is where they meet. The first process writes the small files and talks to the terminal; all of them collect,
train and evaluate. Without `start` there is one process, and every function here is a plain call.

What a process does by itself goes through `together`, `everywhere` or `on_first`, which end on all processes or on
none: where one of them fails, all raise its error, so that nobody waits for somebody who is gone.
"""

import itertools
import json
import re
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from ad_jax import errors
from ad_jax.errors import AdJaxError, ConfigError
from ad_jax.files import Json, JsonObject

JOIN_SECONDS = 300  # to wait for the others at the start
LOST_SECONDS = 100  # a process that was silent for so long is taken for dead, and the others stop
ADDRESS = re.compile(r"([^\s,]+:(\d+)),(\d+)/(\d+)")

T = TypeVar("T")


def start(option: str | None) -> None:
    """Join the other processes; to be called before anything else of JAX is, and before `Run` is imported.

    Args:
        option: None for one process; `"auto"` for what JAX finds in the scheduler's environment (SLURM, Open MPI,
            Kubernetes, Cloud TPU); or `"HOST:PORT,RANK/COUNT"`: where the first process listens, which one this is,
            counted from 0, and how many there are.

    Raises:
        ConfigError: if the option is neither, if JAX finds no scheduler, or if nobody listens at the address. Where the
            first process listens and others do not come, JAX ends it after `JOIN_SECONDS`, and names them.
    """
    if option is None:
        return
    where = {} if option == "auto" else _address(option)
    if where.get("process_id"):
        _wait_for(where["coordinator_address"])  # JAX would abort without an exception
    import jax

    # Its handler takes SIGTERM away from Python, and a process that waits for another could not be ended.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **where,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=LOST_SECONDS,
            shutdown_timeout_seconds=LOST_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        remedy = "start all of them alike, each with a RANK of its own; from Python, before `Run` is imported"
        if not where:
            remedy = (
                "expected a scheduler that JAX knows: SLURM, Open MPI, Kubernetes with JobSet, Cloud TPU. Without one, "
                "say where the processes are: --processes HOST:PORT,RANK/COUNT"
            )
        raise ConfigError(f"--processes {option}: cannot join the other processes: {error}; {remedy}") from error


def index() -> int:
    """Which process this is, counted from 0."""
    return _jax().process_index() if _started() else 0


def count() -> int:
    """How many processes there are."""
    return _jax().process_count() if _started() else 1


def is_first() -> bool:
    """Whether this process writes the small files and talks to the terminal."""
    return index() == 0


def coordinator() -> tuple[Any, int, int] | None:
    """Return what JAX's processes say things to each other by, this process's number and how many there are; None for
    one.

    It has no public name in JAX; Orbax, for one, reaches for it, too.
    """
    if not _started():
        return None
    state = _jax()._src.distributed.global_state
    return state.client, state.process_id, state.num_processes


def everywhere(call: Callable[[], T]) -> list[T]:
    """`call()` of every process, in their order, on every process. No collectives inside `call`.

    Args:
        call: gives plain data that JSON can hold.

    Raises:
        AdJaxError: of the kind, and with the message, of the first process whose call failed.
    """
    if count() == 1:
        return [call()]
    try:
        mine = {"value": call()}
    except (AdJaxError, OSError) as error:
        mine = {"error": type(error).__name__, "message": str(error)}
    answers = _exchange(mine)
    for number, answer in enumerate(answers):
        if "error" in answer:
            kind = getattr(errors, answer["error"], AdJaxError)
            raise kind(f"process {number} of {len(answers)}: {answer['message']}")
    return [answer["value"] for answer in answers]


def on_first(call: Callable[[], T]) -> T:
    """`call()` of the first process alone, as plain data, on every process; raises on all as `everywhere` does."""
    return everywhere(call if is_first() else cast(Callable[[], T], lambda: None))[0]


def together(call: Callable[[], T]) -> T:
    """Return this process's own `call()`, of any kind, once all have theirs; raises on all as `everywhere` does."""
    kept: list[T] = []
    everywhere(lambda: kept.append(call()))
    return kept[0]


def check_equal(what: str, value: Json) -> None:
    """Raise ConfigError unless every process has the same `value`, plain data."""
    for number, other in enumerate(everywhere(lambda: value)):
        if changed := errors.differences(other, json.loads(json.dumps(value))) if count() > 1 else []:
            raise ConfigError(
                f"process {number} has another {what} than process {index()}; it differs in {', '.join(changed[:6])}. "
                "Start every process with the same command"
            )


def _jax() -> Any:
    import jax

    return jax


def _started() -> bool:
    """Whether there is more than this process. Imports nothing: without JAX nobody has joined."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def _address(option: str) -> JsonObject:
    """Return the arguments of `jax.distributed.initialize`."""
    found = ADDRESS.fullmatch(option)
    port, rank, number = map(int, found.groups()[1:]) if found else (0, 0, 0)
    if not found or not (0 < port < 2**16 and rank < number):
        raise ConfigError(
            f"--processes expects 'auto' or HOST:PORT,RANK/COUNT with RANK from 0 to COUNT - 1; got {option!r}. For "
            "two processes on one machine: 127.0.0.1:29500,0/2 and 127.0.0.1:29500,1/2"
        )
    return {"coordinator_address": found[1], "num_processes": number, "process_id": rank}


def _wait_for(address: str) -> None:
    """Return once somebody listens at `address`."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            if time.monotonic() > end:
                raise ConfigError(
                    f"--processes: nobody listens at {address} after {JOIN_SECONDS} seconds ({error}); expected the "
                    "process of rank 0 there. Start it, and let every process name the same reachable address"
                ) from error
            time.sleep(0.5)
        else:
            return


def _exchange(mine: Json) -> list[Json]:
    """Everybody's plain data, by process."""
    import numpy as np
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(mine).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([len(text)], np.int32)).reshape(-1)
    # One program for each power of two, not for each length.
    longest = next(2**power for power in itertools.count(8) if 2**power >= sizes.max())
    padded = np.zeros(longest, np.uint8)
    padded[: len(text)] = text
    texts = multihost_utils.process_allgather(padded).reshape(len(sizes), longest)
    return [json.loads(text[:size].tobytes()) for text, size in zip(texts, sizes)]
