"""Training on a collection that is larger than what is resident, against the same training on the residents alone.

Histories are random, and lie in a temporary directory: its reading comes from the page cache, but decompressing,
checking, subsampling and the way to the device are all there.
"""

import dataclasses
import tempfile
from collections.abc import Iterator

from ad_jax.bench.distilling import HISTORIES, Trained, Training, compiled, random_histories, setting
from ad_jax.bench.rows import Row, rate
from ad_jax.bench.sizes import Sizes
from ad_jax.bench.timing import Work, measure
from ad_jax.history.replay import RotationConfig
from ad_jax.history.store import HistoryStore, HistoryWriter, Manifest, open_store
from ad_jax.history.streaming import Rotation

TIMES, CHUNK = 8, 64  # how much larger the collection is than what is resident; histories in a chunk
SWAPS = 8  # in one timed call, so that few of its parts are read in other calls' time


def rows(sizes: Sizes) -> Iterator[Row]:
    """One row: swaps in quick succession, an eighth of the residents each.

    Its facts: `waited_share`, swaps that training waited for, and `reading_share`, the time that the reader was at
    work: 1 is the limit, from which on training waits.
    """
    case = sizes.cases[0]
    s = setting(case)
    program = compiled(s)
    with tempfile.TemporaryDirectory() as folder:
        store = stored(folder, s, 4 * case.segment)
        turns = dataclasses.replace(s.sampling, rotation=RotationConfig(HISTORIES, every=max(1, case.updates // 4)))
        with Rotation(store, s.spec, turns, s.mesh, 0) as rotation:
            whole, turning, done = Training(s, program), Training(s, program), [0]

            def still() -> None:
                for _ in range(SWAPS):
                    whole(rotation.period)

            def onward() -> None:
                for _ in range(SWAPS):
                    turning.resident, done[0] = rotation.at(done[0]), done[0] + rotation.period
                    turning(rotation.period)

            amount = float(SWAPS * rotation.period * case.batch * case.segment)
            works = {"whole": Work(still, amount), "turns": Work(onward, amount)}
            seconds, facts = measure(works, sizes.rounds, sizes.budget), rotation.facts()
    yield rate(
        f"rotation/{case.name}/{case.batch}x{case.segment}, {TIMES} times the residents", "positions/s",
        amount, seconds["turns"], "the same, all resident", amount, seconds["whole"],
        waited_share=facts["swaps_waited"] / max(1, facts["swaps"]),
        reading_share=facts["reading_seconds"] / (sum(seconds["turns"]) + sum(seconds["whole"])),
    )  # fmt: skip


def stored(folder: str, s: Trained, steps: int) -> HistoryStore:
    """Return a collection of random histories, chunk by chunk."""
    count = TIMES * HISTORIES
    with HistoryWriter.open(
        folder,
        Manifest(
            family={"name": "dark_room", "options": {}},
            source={"name": "random", "config": {}, "actors": 1},
            spec=s.spec,
            task_leaves={},
            reward_dtype="uint8",
            histories=count,
            steps=steps,
            episode_length=20,
            chunk_histories=CHUNK,
            provenance={},
        ),
    ) as writer:
        for chunk in range(count // CHUNK):
            writer.write(chunk, random_histories(CHUNK, steps, s.spec))
    return open_store(folder)
