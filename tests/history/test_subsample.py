"""Subsampling in place: the bits of the plain way, chunk by chunk, and not much more memory than what it makes."""

import dataclasses
import tracemalloc

import jax
import numpy as np
import pytest
from helpers import GRID, mesh_of
from history_helpers import stored
from hypothesis import given, settings
from hypothesis import strategies as st

from ad_jax.history import replay, subsample
from ad_jax.types import Histories, Transition, narrowest


def histories(seed: int, count: int = 13, steps: int = 50, ends: float = 0.3) -> Histories:
    """Random ones, with episodes of random lengths, of a few tasks."""
    rng = np.random.default_rng(seed)
    done = rng.random((count, steps)) < ends
    terminated = done & (rng.random(done.shape) < 0.5)

    def numbers(high, *shape):
        return rng.integers(0, high, (count, steps, *shape)).astype(np.uint8)

    transition = Transition(numbers(9, 2), numbers(5), numbers(7).astype(np.float32), terminated, done & ~terminated)
    ids = [f"task-{i}" for i in rng.integers(0, 3, count)]
    zeros = np.zeros(count, np.int32)
    return Histories(transition, {"goal": np.zeros((count, 2), np.int32)}, ids, zeros, zeros)


def channels(found: Histories) -> dict[str, np.ndarray]:
    """Return what a method could prepare: a label and two numbers for each step, that follow from the observations."""
    observation = found.transition.observation
    return {"label": (observation.sum(-1) % 5).astype(np.uint8), "half": observation.astype(np.float32) / 2}


def kept_of(whole: Histories, config: replay.Config) -> np.ndarray:
    return replay.select(replay.final_return(whole.transition.reward, whole.transition.done), whole.task_ids, config)


def plainly(whole: Histories, config: replay.Config, prepare: replay.Prepare | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of a `Replay` by sorting the steps of all histories, copy after copy."""
    kept = kept_of(whole, config)
    whole = replay.take(whole, kept)
    t = whole.transition
    done = t.done
    ends = (t.terminated + 2 * t.truncated).astype(np.uint8)
    fields = {"observation": t.observation, "action": t.action.astype(narrowest(5)), "reward": t.reward, "ends": ends}
    fields |= {} if prepare is None else prepare(whole)
    episode = np.cumsum(done, axis=1) - done
    tail = episode >= done[:, : config.first_step(done.shape[1])].sum(1, keepdims=True)
    offsets = [config.keep_every - 1 - phase * config.keep_every // config.phases for phase in range(config.phases)]
    masks = [tail & (episode % config.keep_every == offset) for offset in offsets]
    longest = max(int(mask.sum(1).max()) for mask in masks)
    orders = [np.argsort(~mask, axis=1, kind="stable")[:, :longest] for mask in masks]
    rows = {}
    for name, x in fields.items():

        def at(order, x=x):
            return np.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), 1)

        steps = np.concatenate([at(order) for order in orders])
        none = np.full_like(steps[:, :1], 5 if name == "action" else 0)
        rows[name] = np.concatenate([none, steps], axis=1)
    rows["length"] = np.concatenate([mask.sum(1).astype(np.int32) for mask in masks])
    rows["history"] = np.tile(kept.astype(np.int32), config.phases)
    return rows


def dealt(rows: dict[str, np.ndarray], groups: int) -> dict[str, np.ndarray]:
    count = len(rows["length"])
    each = -(-count // groups)
    padded = {n: np.concatenate([x, np.zeros((each * groups - count, *x.shape[1:]), x.dtype)]) for n, x in rows.items()}
    arrays = {name: x.reshape(each, groups, *x.shape[1:]).swapaxes(0, 1) for name, x in padded.items()}
    counts = np.array([len(range(group, count, groups)) for group in range(groups)], np.int32)
    return arrays | {"count": counts, "group": np.arange(groups, dtype=np.int32)}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert (found[name].dtype, found[name].shape) == (x.dtype, x.shape), name
        assert np.ascontiguousarray(found[name]).tobytes() == np.ascontiguousarray(x).tobytes(), name


CONFIGS = st.builds(
    lambda keep, phases, tail, best, groups: replay.Config(
        keep_every=keep,
        phases=min(keep, phases),
        tail=tail,
        best=best,
        groups=groups,
        segment=1,
        batch=8,
    ),
    *(st.sampled_from(x) for x in ((1, 2, 3), (1, 2, 3), (1.0, 0.5), (None, 0.4), (1, 4, 8))),
)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    config=CONFIGS,
    prepare=st.sampled_from([None, channels]),
    ends=st.sampled_from([0.1, 0.3, 0.9]),
    block=st.sampled_from([4, 99]),
)
def test_the_bits_are_those_of_sorting_everything(seed, config, prepare, ends, block):
    whole = histories(seed, ends=ends)
    expected = plainly(whole, config, prepare)
    if expected["length"].min() < 1 or len(expected["length"]) < config.groups:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subsample, "BLOCK", block)
        assert_same(replay.gather(subsample.Whole(whole), GRID, config, prepare), dealt(expected, config.groups))
        kept = kept_of(whole, config)
        rows = replay.rows_of(replay.take(whole, kept), kept, GRID, config, prepare)  # what a rotation makes of a piece
    assert_same(rows, expected)


@pytest.mark.parametrize(
    ("options", "prepare"),
    [({}, None), ({"keep_every": 3, "phases": 3}, None), ({"keep_every": 2, "best": 0.4, "tail": 0.7}, channels)],
)
@pytest.mark.parametrize("chunk", [3, 5, 13])
def test_chunk_by_chunk_is_all_at_once(tmp_path, options, prepare, chunk):
    whole, config = histories(1), replay.Config(segment=1, batch=8, groups=4, **options)
    store = stored(tmp_path, whole, chunk)
    expected = dealt(plainly(whole, config, prepare), 4)
    assert_same(replay.gather(store, GRID, config, prepare), expected)
    there = replay.put_there(replay.gather(store, GRID, config, prepare), mesh_of(4))
    at_once = replay.load(whole, GRID, config, mesh_of(4), prepare)
    for name, x in expected.items():
        np.testing.assert_array_equal(there.fields()[name], x)
        np.testing.assert_array_equal(at_once.fields()[name], x)
    assert len(there.steps["action"].addressable_shards) == 4


@pytest.mark.parametrize("phases", [1, 8])
def test_gathering_takes_little_more_memory_than_it_gives(tmp_path, phases):
    """Beside what comes out there is a chunk, and what finds the episodes of a few histories."""
    whole = histories(0, count=256, steps=2000, ends=0.05)
    store = stored(tmp_path, whole, 32)
    raw = sum(x.nbytes for x in jax.tree.leaves(whole.transition))
    config = replay.Config(keep_every=8, phases=phases, segment=1, batch=8)
    tracemalloc.start()
    try:
        fields = replay.gather(store, GRID, config)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    out = sum(x.nbytes for x in fields.values())
    counted = subsample.BLOCK * 2000 * (8 * 3 + phases + 2)  # three times int64, and a mask for each phase
    assert peak < out + raw / 8 + counted + 2e5


def test_the_host_lets_go_of_what_is_on_the_devices():
    fields = replay.gather(subsample.Whole(histories(0)), GRID, replay.Config(segment=1, batch=8))
    resident = replay.put_there(fields, mesh_of())
    assert fields == {}
    assert {field.name for field in dataclasses.fields(resident)} - {"label"} == {
        name for name, x in vars(resident).items() if x is not None
    }
