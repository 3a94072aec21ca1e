"""One commit's side of a comparison of two: rows of that commit's own suite, each call timed when it is asked for.

This file runs as a program, the same for every commit, whose package `ad_jax` is on PYTHONPATH. It needs no more of a
commit than the suite has had from the first on: `sizes.QUICK`, `timing.measure`, and a module with `rows(sizes)` for a
stage. `measure` is replaced by one that tells whoever asks what it could time, times what it is told to, and returns.

One JSON object a line. In: `{"module", "sizes"}` for a module's rows, `{"call": NAME}` for one call, `{"enough": true}`
when a group has been timed. Out: `{"ready": FOLDER}` of the package, `{"works": {NAME: amount}}` once all calls of a
group are warm, `{"seconds"}` of a call, and at the end `{"rows"}` or `{"failed": TEXT}`.
"""

import dataclasses
import gc
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO


class Asked:
    """What `timing.measure` is replaced by.

    Attributes:
        tell: sends an object.
        hear: waits for one.
        groups: `[(amounts, seconds)]` of the groups that have been timed for the present rows, by name of the call.
    """

    def __init__(self, tell: Callable[[dict], None], hear: Callable[[], dict]):
        self.tell, self.hear = tell, hear
        self.groups: list[tuple[dict[str, float], dict[str, list[float]]]] = []

    def __call__(self, works: Mapping, *_: object, **__: object) -> dict[str, list[float]]:
        """Time `works` as asked for; returns `{name: [seconds]}`."""
        import jax

        for work in works.values():  # compiles, touches memory
            jax.block_until_ready(work.call())
        amounts = {name: work.amount for name, work in works.items()}
        seconds: dict[str, list[float]] = {name: [] for name in works}
        self.tell({"works": amounts})
        while "call" in (asked := self.hear()):
            started = time.perf_counter()
            jax.block_until_ready(works[asked["call"]].call())
            seconds[asked["call"]].append(time.perf_counter() - started)
            self.tell({"seconds": seconds[asked["call"]][-1]})
        self.groups.append((amounts, seconds))
        return seconds

    def timed(self, value: float) -> tuple[int, str] | None:
        """Return the group and the call of a row: the one whose amount over its median seconds is the row's figure."""
        for index, (amounts, seconds) in enumerate(self.groups):
            for name, amount in amounts.items():
                if abs(amount / statistics.median(seconds[name]) - value) <= 1e-12 * abs(value):
                    return index, name
        return None


def sizes_from(data: Mapping, sizes):
    """Return a commit's own `Sizes`: what it knows of `data`, and the rest as in its quick ones."""
    known = {field.name for field in dataclasses.fields(sizes.Sizes)}

    def thawed(value):
        if isinstance(value, dict) and "model" in value:
            options = {field.name for field in dataclasses.fields(sizes.Case)}
            return sizes.Case(**{name: one for name, one in value.items() if name in options})
        return tuple(map(thawed, value)) if isinstance(value, list) else value

    return dataclasses.replace(sizes.QUICK, **{name: thawed(value) for name, value in data.items() if name in known})


def serve(inbox: TextIO, outbox: TextIO) -> None:
    """Answer until the other side closes."""

    def tell(data: dict) -> None:
        outbox.write(json.dumps(data) + "\n")
        outbox.flush()

    def hear() -> dict:
        line = inbox.readline()
        if not line:
            raise SystemExit(0)
        return json.loads(line)

    import ad_jax
    from ad_jax.bench import sizes, timing

    asked = timing.measure = Asked(tell, hear)  # before any module of rows imports it
    tell({"ready": os.path.dirname(os.path.abspath(ad_jax.__file__))})
    while True:
        wanted, asked.groups = hear(), []
        try:
            module = importlib.import_module(f"ad_jax.bench.{wanted['module']}")
            found = list(module.rows(sizes_from(wanted["sizes"], sizes)))
            rows = [{"key": row.key, "unit": row.unit, "value": row.value} for row in found]
            tell({"rows": [{**row, "timed": asked.timed(row["value"])} for row in rows]})
        except Exception as error:
            text = next(iter(str(error).strip().splitlines()), "")
            tell({"failed": f"{type(error).__name__}: {text}"})
        gc.collect()  # the next model finds the memory of this one


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the suite prints goes where errors go
    serve(sys.stdin, answers)
