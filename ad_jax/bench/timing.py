"""Wall-clock timing: warm up, wait for the device, several rounds, and calls that are compared take turns."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

DISTURBED = 1.1  # times its fastest round: what a limit takes at most in a quiet one


class Work(NamedTuple):
    """Something to time.

    Attributes:
        call: does it once; what it returns is waited for.
        amount: what one call does, in the caller's unit (FLOP, bytes, environment steps, positions).
    """

    call: Callable[[], object]
    amount: float


def measure(
    works: Mapping[str, Work], rounds: int, budget: float = float("inf"), at_least: int = 3
) -> dict[str, list[float]]:
    """Seconds of each call in each round, `{name: [rounds]}`.

    Every call runs once before any is timed (to compile, to touch memory). Then each round runs all of them in turn.

    Args:
        works: what to time, by name.
        rounds: most rounds.
        budget: seconds after which no further round starts, once `at_least` are done.
        at_least: rounds that are done whatever they cost.
    """
    for work in works.values():
        jax.block_until_ready(work.call())
    seconds: dict[str, list[float]] = {name: [] for name in works}
    began = time.perf_counter()
    for done in range(rounds):
        if done >= at_least and time.perf_counter() - began > budget:
            break
        for name, work in works.items():
            started = time.perf_counter()
            jax.block_until_ready(work.call())
            seconds[name].append(time.perf_counter() - started)
    return seconds


def paired(over: list[float], under: list[float]) -> float:
    """Median over rounds of `over / under`: a ratio in which what slows a whole round cancels."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def share(over: list[float], under: list[float], limit: list[float], times: float = 1.0) -> float | None:
    """Return the median of `times * over / under` over the quiet rounds; None where there are too few of them.

    A round in which `limit` took a tenth longer than in its fastest was disturbed, by whatever else the machine did,
    and the limit perhaps more than what it limits: its ratio says nothing.

    Args:
        over: seconds of each round.
        under: the same of what it is compared with.
        limit: seconds that the limit took in the same rounds.
        times: what the ratio is multiplied by.
    """
    quiet = [i for i, seconds in enumerate(limit) if seconds <= DISTURBED * min(limit)]
    if len(quiet) < min(2, len(limit)):
        return None
    return times * paired([over[i] for i in quiet], [under[i] for i in quiet])
