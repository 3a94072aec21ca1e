"""A collection that is larger than the devices' memory takes turns there, while training goes on.

All versions of all histories stand in a ring. The residents are an arc of it, and after every so many updates the
arc moves on by a part: the part that was there longest makes room, in its place, for the next one. So

    part q      holds places [q n, (q + 1) n) of the ring, n = resident / parts, and lies in block q mod parts;
    update u    learns from parts p .. p + parts - 1, p = u // every, counted from 0

and who is resident depends on the seed and the number of the update alone: not on how fast anything is read, nor on
where a run was interrupted. Once around, every history was resident for as many updates as every other.

A collection lies task by task, so a few of its chunks are a few of its tasks, and a model that follows them around
learns badly (experiments/LOG.md). The ring therefore goes through all chunks `spread` times, each time in another
order that the seed draws, and takes another shard of each: every so-many-th of its histories, with all their versions.
Where the residents are a `spread`-th of the collection or more, they are of all its tasks at any time.

A thread reads, checks and subsamples the parts ahead and puts them on the devices. Where training comes to a swap and
the part is not there yet, it waits, and that is counted.
"""

import collections
import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ad_jax.files import JsonObject
from ad_jax.history.replay import (
    Config,
    Prepare,
    Replay,
    Residents,
    RotationConfig,
    check_values,
    gather,
    put_there,
    rows_of,
    take,
)
from ad_jax.history.ring import Ring
from ad_jax.history.store import HistoryStore
from ad_jax.history.subsample import deal
from ad_jax.process import distributed, settings
from ad_jax.process.metrics import log
from ad_jax.sharding import batch_devices, on_batch, put
from ad_jax.types import Spec

AHEAD = 2  # parts that are being read, or wait on the devices for their swap


class Rotation:
    """The residents of a collection by update; a context manager, which ends the reading.

    Attributes:
        period: updates between swaps.
        histories: how many take turns, each subsampled version counted.
    """

    def __init__(
        self,
        store: HistoryStore,
        spec: Spec,
        config: Config,
        mesh: Mesh,
        seed: int,
        prepare: Prepare | None = None,
    ):
        """Look through the collection once, at where episodes end (and with `config.best` at the rewards).

        Raises:
            ConfigError: if a subsampled history is shorter than a window, or there are fewer than groups.
            HistoryError: naming the chunk and field that is damaged.
        """
        config.validate(batch_devices(mesh))
        assert config.rotation is not None
        self._store, self._spec, self._config, self._mesh, self._prepare = store, spec, config, mesh, prepare
        self._rotation: RotationConfig = config.rotation
        self.period, self._part_size = self._rotation.every, self._rotation.resident // self._rotation.parts
        self._ring = Ring(store, config, seed)
        self.histories = len(self._ring.shard)
        self._replay, self._began, self._next = None, 0, 0  # the residents, their first part, and the one to come
        self._ahead: collections.deque[Future] = collections.deque()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="rotation")
        self._shard: tuple[int, dict[str, np.ndarray]] = (-1, {})  # the reader's: the last shard, subsampled
        self._insert: Any = jax.jit(_insert, donate_argnums=0, out_shardings=on_batch(mesh))
        self._swaps, self._waits, self._waited, self._reading = 0, 0, 0.0, 0.0

    def at(self, step: int) -> Replay:
        """Return the residents of the update after `step`.

        They are updated in place from call to call; an earlier step than before is found by reading anew.

        Raises:
            HistoryError: if what has to come is damaged, on all processes.
        """
        first, parts = step // self.period, self._rotation.parts
        if self._replay is None or not first <= self._next <= first + parts:
            self._begin(first)
        while self._next < first + parts:
            filled = self._replay is not None and self._next >= self._began + parts
            part = self._take(counted=filled)
            if self._replay is None:
                self._replay = self._empty(part)
            slot = self._next % parts * (self._part_size // self._config.groups)
            self._replay, self._next = self._insert(self._replay, part, jnp.int32(slot)), self._next + 1
        assert self._replay is not None
        return self._replay

    def facts(self) -> dict[str, float]:
        """Return how many swaps there were, how many training waited for, how long, and how long the reader worked."""
        return {
            "swaps": self._swaps,
            "swaps_waited": self._waits,
            "waited_seconds": self._waited,
            "reading_seconds": self._reading,
        }

    def close(self) -> None:
        """End the reading."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> "Rotation":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, first: int) -> None:
        """Fill the residents anew, from part `first` on."""
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._replay, self._next, self._began = None, first, first

    def _take(self, counted: bool) -> dict[str, jax.Array]:
        """Return the next part, on the devices; the one after it is asked for."""
        while len(self._ahead) <= AHEAD:
            self._ahead.append(self._reader.submit(self._part, self._next + len(self._ahead)))
        future = self._ahead.popleft()
        late, started = not future.done(), time.monotonic()
        part = distributed.together(future.result)
        if counted:
            self._swaps += 1
            self._waits += late
            self._waited += late * (time.monotonic() - started)
        return part

    def _empty(self, part: dict[str, jax.Array]) -> Replay:
        """Room for the residents, of the kind of `part`."""
        groups = self._config.groups
        each = self._rotation.resident // groups

        def zeros() -> Replay:
            arrays = {name: jnp.zeros((groups, each, *x.shape[2:]), x.dtype) for name, x in part.items()}
            full = jnp.full((groups,), each, jnp.int32)
            return Replay.of(arrays | {"count": full, "group": jnp.arange(groups, dtype=jnp.int32)})

        return jax.jit(zeros, out_shardings=on_batch(self._mesh))()

    @settings.pinned()  # the reader's own: JAX's switches are each thread's
    def _part(self, number: int) -> dict[str, jax.Array]:
        """Return a part of the ring, dealt to the groups and put on the devices. The reader's."""
        started = time.monotonic()
        places = np.arange(number * self._part_size, (number + 1) * self._part_size) % self.histories
        numbers, rows = self._ring.shard[places], self._ring.row[places]
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))  # of what is of one shard each
        shards = []
        for start, end in zip(starts, [*starts[1:], len(places)]):
            subsampled = self._subsampled(int(numbers[start]))
            shards.append({name: x[rows[start:end]] for name, x in subsampled.items()})
        whole = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
        part = put({name: deal(x, self._config.groups) for name, x in whole.items()}, on_batch(self._mesh))
        self._reading += time.monotonic() - started
        return part

    def _subsampled(self, shard: int) -> dict[str, np.ndarray]:
        """Return a shard's rows as they are resident, all as long as the longest history of the collection. The
        reader's.
        """
        if self._shard[0] != shard:
            self._shard = (-1, {})  # before the next one is read: memory holds one
            chunk, kept = self._ring.shards[shard]
            histories = self._store.read([chunk])
            numbers = np.arange(*self._store.manifest.rows(chunk))
            check_values(histories, self._spec, numbers)
            rows = rows_of(take(histories, kept), numbers[kept], self._spec, self._config, self._prepare)
            self._shard = shard, {name: _fit(name, x, 1 + self._ring.longest) for name, x in rows.items()}
        return self._shard[1]


@contextlib.contextmanager
def residents(
    store: HistoryStore,
    spec: Spec,
    config: Config,
    mesh: Mesh,
    seed: int,
    prepare: Prepare | None = None,
) -> Iterator[Residents]:
    """Yield a collection to train on: in turns where `config.rotation` asks for that, and else all of it at once.

    Raises:
        ConfigError, HistoryError: as `Rotation` and `replay.load`.
    """
    if config.rotation is not None:
        with distributed.together(lambda: Rotation(store, spec, config, mesh, seed, prepare)) as rotation:
            if rotation.histories > config.rotation.resident:
                log(f"distill  {rotation.histories} histories take turns, {config.rotation.resident} at a time")
                yield rotation
                return
        log(f"distill  nothing rotates: replay.rotation.resident holds all {rotation.histories} histories")
    started = time.monotonic()
    config.validate(batch_devices(mesh))
    gathered = distributed.together(
        lambda: gather(store, spec, config, prepare)
    )  # whole, in the memory of each process
    loaded = put_there(gathered, mesh)
    log(f"distill  {store.manifest.histories} histories loaded in {time.monotonic() - started:.1f} s")
    yield loaded


def _insert(replay: Replay, part: dict[str, jax.Array], slot: jax.Array) -> Replay:
    """`replay` with `part [G, n, ...]` in the places `[slot, slot + n)` of each group. Nothing leaves its device."""
    held = replay.fields()

    def at(name, x):
        return jax.lax.dynamic_update_slice_in_dim(held[name], x, slot, axis=1)

    return Replay.of(held | {name: at(name, x) for name, x in part.items()})


def _fit(name: str, x: np.ndarray, steps: int) -> np.ndarray:
    """`[H, T, ...]` with T cut or padded to `steps`; what has no time axis stays as it is."""
    if name in ("length", "history"):
        return x
    return np.pad(x[:, :steps], [(0, 0), (0, max(0, steps - x.shape[1])), *[(0, 0)] * (x.ndim - 2)])


def summary(facts: JsonObject, updates: int, seconds: float) -> str:
    """Return what rotating came to, for people."""
    waits, waited = facts["swaps_waited"], facts["waited_seconds"]
    return (
        f"{facts['swaps']} swaps; {waits} of {updates} updates waited for histories ({waits / updates:.2%}), "
        f"{waited:.1f} s in all ({waited / max(seconds, 1e-9):.2%} of the time); the reader worked "
        f"{facts['reading_seconds'] / max(seconds, 1e-9):.0%} of the time"
    )
