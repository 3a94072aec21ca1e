"""Small collections of learning histories with random contents, and what their tests ask of them."""

import pathlib
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from ad_jax.errors import HistoryError
from ad_jax.history import ledger, store
from ad_jax.history.replay import take
from ad_jax.history.store import HistoryStore, HistoryWriter, Manifest, open_store
from ad_jax.types import Box, Discrete, Histories, Spec, Transition

REAL = Spec(Discrete(3), (2, 3), None)
WIDE = Spec(Discrete(300), (), (70_000,))
OBSERVED = ("observation", "next_observation")
# A writer that dies with one chunk in the ledger and two whose arrays alone are there: HELPERS URL exit|kill.
KILLED = """
import os, pathlib, runpy, signal, sys
t = runpy.run_path(sys.argv[1])
m = t["manifest"]()
writer = t["HistoryWriter"].open(sys.argv[2], m)
for chunk in range(m.chunks):
    writer.write(chunk, t["histories"](m, chunk))
for futures, *_ in writer._pending.values():  # every array file is there, two ledger entries are not
    for future in futures.values():
        future.result()
os._exit(9) if sys.argv[3] == "exit" else os.kill(os.getpid(), signal.SIGKILL)
"""
LEAVES: dict[str, Any] = {"goal": {"shape": [2], "dtype": "int32"}, "wind": {"shape": [], "dtype": "float32"}}


def manifest(**changes) -> Manifest:
    """Three chunks, the last one smaller."""
    plain = Manifest(
        family={"name": "dark_room", "options": {"size": 9}},
        source={"name": "q_learning", "config": {"rate": 0.1}, "actors": 2},
        spec=Spec(Discrete(5), (2,), (9, 9)),
        task_leaves=LEAVES,
        reward_dtype="float32",
        histories=10,
        steps=12,
        episode_length=4,
        chunk_histories=4,
        provenance={"seed": 3, "versions": {"jax": "0.10"}, "statistics": {"mean_return": 0.5}},
    )
    return structs.replace(plain, **changes)


def histories(m: Manifest, chunk: int) -> Histories:
    """Random bits for a chunk, negative zeros included; NaNs in tasks alone, where nothing is learned from them."""
    rng, (first, end) = np.random.default_rng(chunk), m.rows(chunk)

    def bits(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        raw = rng.integers(0, 256, (end - first, *shape, dtype.itemsize), np.uint8)
        return (raw % 2).astype(bool)[..., 0] if dtype.kind == "b" else raw.view(dtype)[..., 0]

    arrays = {field: bits(*kind) for field, kind in m.fields.items()}
    most: dict[str, Any] = {"action": m.spec.num_actions} if isinstance(m.spec.action, Discrete) else {}
    most |= {} if m.spec.values is None else dict.fromkeys(OBSERVED, np.reshape(m.spec.values, m.spec.shape))
    for field in ("observation", "action", "reward", *(["next_observation"] if m.next_observation else [])):
        arrays[field] = possible(arrays[field], most.get(field))
    if isinstance(m.spec.action, Box):
        arrays["action"] = np.clip(arrays["action"], *m.spec.action.bounds)
    transition = Transition(*(arrays.get(name) for name in ledger.TRANSITION))
    tasks = {name: arrays[f"task/{name}"] for name in m.task_leaves}
    ids = [f"dark_room:{row // 2}" for row in range(first, end)]
    return Histories(transition, tasks, ids, arrays["seed_index"], arrays["actor"])


def possible(x: np.ndarray, most=None) -> np.ndarray:
    """`x` below `most`, or finite as float32; what is not is a negative zero."""
    if most is not None:
        return (x % most).astype(x.dtype)
    return np.where(np.abs(x) <= np.finfo(np.float32).max, x, -0.0).astype(x.dtype) if x.dtype.kind == "f" else x


def collect(url, m: Manifest, chunks=None) -> None:
    """Write what is not finished, as `collect` does."""
    with HistoryWriter.open(url, m) as writer:
        for chunk in range(m.chunks) if chunks is None else chunks:
            if chunk not in writer.finished:
                writer.write(chunk, histories(m, chunk))


def stored(url, whole: Histories, chunk: int, **changes) -> HistoryStore:
    """Given histories as a collection in chunks of so many. Their spec is that of Dark Room, unless `changes` say."""
    count, steps = whole.transition.action.shape
    leaves = {name: {"shape": list(x.shape[1:]), "dtype": x.dtype.name} for name, x in whole.tasks.items()}
    m = manifest(histories=count, steps=steps, chunk_histories=chunk, task_leaves=leaves, **changes)
    with HistoryWriter.open(url, m) as writer:
        for number in range(m.chunks):
            writer.write(number, take(whole, np.arange(*m.rows(number))))
    return open_store(url)


def assert_same(found: Histories, m: Manifest, chunks=None) -> None:
    """Equal to the bit: shapes, dtypes, bytes and ids."""
    parts = [histories(m, chunk) for chunk in (range(m.chunks) if chunks is None else chunks)]
    wanted = [store._arrays(part) for part in parts]
    arrays = store._arrays(found)
    assert arrays.keys() == m.fields.keys()
    for field, (shape, dtype) in m.fields.items():
        expected = np.concatenate([part[field] for part in wanted])
        assert arrays[field].dtype == dtype
        assert arrays[field].shape == expected.shape == (len(found.task_ids), *shape)
        assert arrays[field].tobytes() == expected.tobytes(), field
    assert found.task_ids == [task_id for part in parts for task_id in part.task_ids]


def files(path: pathlib.Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def refused(call, *names: str) -> str:
    """Return the message of the HistoryError that `call` must raise, which must contain every name."""
    with pytest.raises(HistoryError) as error:
        call()
    for name in names:
        assert name in str(error.value), f"{name!r} is not in: {error.value}"
    return str(error.value)


def flip(file: pathlib.Path, position: int, mask: int = 0x10) -> None:
    raw = bytearray(file.read_bytes())
    raw[position] ^= mask
    file.write_bytes(raw)
