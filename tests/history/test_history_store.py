"""Learning histories on disk: what was written is read bit for bit, however it was written and interrupted."""

import contextlib
import dataclasses
import hashlib
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

import history_helpers
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorstore as ts
from history_helpers import (
    KILLED,
    REAL,
    WIDE,
    assert_same,
    collect,
    files,
    histories,
    manifest,
    refused,
)

from ad_jax.history import manifest as manifest_
from ad_jax.history import store as history_store
from ad_jax.history.info import info
from ad_jax.history.store import SCHEMA, HistoryWriter, open_store, verify
from ad_jax.types import Discrete, Spec


@pytest.fixture(scope="module")
def master(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("histories") / "master"
    collect(path, manifest())
    return path


@pytest.fixture
def store(master, tmp_path) -> pathlib.Path:
    """Return a finished collection that a test may damage."""
    return pathlib.Path(shutil.copytree(master, tmp_path / "a store"))


# What is written is read.


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"histories": 8},
        {"histories": 3, "chunk_histories": 64},
        {"chunk_histories": 1},
        {"spec": REAL, "reward_dtype": "float64"},
        {"spec": WIDE, "reward_dtype": "int8", "task_leaves": {}},
        {"reward_dtype": "float16", "task_leaves": {"map": {"shape": [3, 2, 2], "dtype": "bool"}}},
        {"next_observation": True, "spec": WIDE},
        {"steps": 1, "task_leaves": {"inner.key": {"shape": [2], "dtype": "uint64"}}},
    ],
)
def test_round_trip_is_exact(tmp_path, changes):
    m = manifest(**changes)
    collect(tmp_path / "x", m)
    opened = open_store(tmp_path / "x")
    assert opened.manifest == m
    assert opened.chunks == list(range(m.chunks))
    assert_same(opened.read(), m)
    assert opened.task_ids == opened.read().task_ids
    assert opened.verify() == verify(tmp_path / "x") == []


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(
    rows=st.integers(1, 7),
    chunk=st.integers(1, 9),
    steps=st.integers(1, 9),
    shape=st.lists(st.integers(1, 3), max_size=3),
    leaf=st.sampled_from(sorted(manifest_.DTYPES)),
    reward=st.sampled_from(sorted(manifest_.DTYPES)),
    provenance=st.dictionaries(st.text(), st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text()),
)
def test_round_trip_property(rows, chunk, steps, shape, leaf, reward, provenance):
    m = manifest(
        histories=rows,
        chunk_histories=chunk,
        steps=steps,
        spec=Spec(Discrete(2), tuple(shape), None),
        reward_dtype=reward,
        task_leaves={"leaf": {"shape": shape, "dtype": leaf}},
        provenance=provenance,
    )
    with tempfile.TemporaryDirectory() as path:
        collect(path, m)
        assert open_store(path).manifest == m
        assert_same(open_store(path).read(), m)


def test_chunks_can_be_read_apart_and_in_any_order(store):
    opened = open_store(store)
    assert_same(opened.read([2, 0]), manifest(), [2, 0])
    refused(lambda: opened.read([1, 7]), "chunks 7 are not finished", "0, 1, 2")


def test_url_kinds_share_one_path(tmp_path):
    m = manifest()
    for url in ("memory://bucket/a b", f"file://{tmp_path}/x/"):
        refused(lambda url=url: open_store(url), "no learning histories", "manifest.json")
        collect(url, m, [0, 2])
        refused(lambda url=url: open_store(url), "chunks 1 of 3")
        collect(url, m)
        assert_same(open_store(url).read(), m)
    collect(tmp_path / "y", m)
    assert files(tmp_path / "x") == files(tmp_path / "y")
    refused(lambda: open_store("nowhere://x"), "nowhere://x", "gs://")


def test_arrays_are_plain_zarr(store):
    """Another reader needs nothing of ours, and every array has the checksum codec."""
    for field in manifest().fields:
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store / "arrays" / field) + "/"}}
        array = ts.open(spec).result()
        assert [codec["name"] for codec in array.spec().to_json()["metadata"]["codecs"]] == ["bytes", "zstd", "crc32c"]
        wanted = [history_store._arrays(histories(manifest(), chunk))[field] for chunk in range(3)]
        assert array.read().result().tobytes() == np.concatenate(wanted).tobytes()


def test_the_bytes_of_schema_1_are_frozen(store):
    """Old collections are compared with these bytes on open. If this fails on purpose, raise SCHEMA with it."""
    assert SCHEMA == 2  # which collections of Discrete actions are not
    whole = hashlib.sha256()
    for name, raw in files(store).items():
        if name == "manifest.json" or name.endswith("zarr.json"):
            whole.update(raw)
    assert whole.hexdigest() == "8140ed6eb2ea666ecaf3dbf4c41bd977f9a2866d04d09d89226c86cc07dca22d"
    assert manifest().checksum == "sha256:b3dd07983ab086669180d2e6d35c7dfe723f906978977b0d07d70bc2993bee67"


# Writing: order, reuse, checks, interruption.


def test_bytes_do_not_depend_on_order_or_on_the_number_of_writers(master, tmp_path):
    collect(tmp_path / "x", manifest(), [2, 1, 0])
    for chunk in (1, 0, 2):
        collect(tmp_path / "y", manifest(), [chunk])
    assert files(tmp_path / "x") == files(tmp_path / "y") == files(master)


def test_at_most_two_chunks_are_in_flight_and_arrays_may_be_reused(tmp_path):
    m = manifest()
    writer = HistoryWriter.open(tmp_path / "x", m)
    for chunk in range(3):
        given = histories(m, chunk)
        writer.write(chunk, given)
        for array in history_store._arrays(given).values():
            array[...] = 0
        assert writer.finished == ({0} if chunk == 2 else set())
    refused(lambda: open_store(tmp_path / "x"), "chunks 1, 2 of 3")
    writer.flush()
    assert writer.finished == {0, 1, 2}
    assert_same(open_store(tmp_path / "x").read(), m)


def test_an_error_inside_the_block_finishes_nothing(tmp_path):
    m = manifest()

    def stopped() -> None:
        with HistoryWriter.open(tmp_path / "x", m) as writer:
            writer.write(0, histories(m, 0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert open_store(tmp_path / "x", allow_partial=True).chunks == []


def test_write_refuses_what_does_not_fit(tmp_path):
    m = manifest()
    writer = HistoryWriter.open(tmp_path / "x", m)
    before = files(tmp_path / "x")
    good = histories(m, 0)

    def change(**changes):
        return dataclasses.replace(good, **changes)

    step = good.transition
    wide = change(transition=step.replace(reward=step.reward.astype(np.float64)))
    short = change(transition=step.replace(action=step.action[:, :-1]))
    refused(lambda: writer.write(0, wide), "chunk 0, reward", "expected float32[4, 12]", "got float64[4, 12]")
    refused(lambda: writer.write(0, short), "chunk 0, action", "expected uint8[4, 12]", "got uint8[4, 11]")
    refused(lambda: writer.write(0, change(tasks={"goal": good.tasks["goal"]})), "chunk 0", "task/wind")
    refused(lambda: writer.write(0, change(tasks=good.tasks | {"odd": good.actor})), "chunk 0", "task/odd")
    refused(lambda: writer.write(0, change(task_ids=good.task_ids[1:])), "chunk 0", "expected 4 task ids")
    refused(lambda: writer.write(0, change(task_ids=[1, 2, 3, 4])), "chunk 0", "strings")
    refused(lambda: writer.write(2, good), "chunk 2, observation", "[2, 12, 2]")
    refused(lambda: writer.write(3, good), "chunk 3 does not exist", "3 chunks")
    refused(lambda: writer.write(-1, good), "chunk -1 does not exist")
    writer.flush()
    assert files(tmp_path / "x") == before
    writer.write(0, good)
    refused(lambda: writer.write(0, good), "chunk 0 is already written")
    writer.flush()
    refused(lambda: writer.write(0, good), "chunk 0 is already written")


@pytest.mark.parametrize("way", ["exit", "kill"])
def test_a_killed_writer_leaves_whole_chunks_and_resumes_to_the_same_bytes(master, tmp_path, way):
    path = tmp_path / "x"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, history_helpers.__file__, path, way], check=False, capture_output=True
    )
    assert done.returncode == (9 if way == "exit" else -signal.SIGKILL), done.stderr.decode()
    assert (path / "arrays/action/c/2/0").exists()
    refused(lambda: open_store(path), "chunks 1, 2 of 3 are not in the ledger", "Run collect again")
    partial = open_store(path, allow_partial=True)
    assert_same(partial.read(), manifest(), [0])
    assert partial.verify() == []
    # Whatever an interrupted write left of an unfinished chunk must not matter.
    (path / "arrays/action/c/2/0").write_bytes(b"torn")
    (path / "arrays/reward/c/1/0").unlink()
    collect(path, manifest())
    assert files(path) == files(master)


def test_interrupted_before_any_small_file_resumes_to_the_same_bytes(master, tmp_path, monkeypatch):
    """Stop the writer at each of its small files in turn: manifest, metadata, ledger entries."""
    original, stops = history_store._write, 0
    for stop in range(100):
        written = []

        def write(kvstore, small, stop=stop, written=written):
            for name, value in small.items():
                if len(written) == stop:
                    raise KeyboardInterrupt
                original(kvstore, {name: value})
                written.append(name)

        path = tmp_path / str(stop)
        with monkeypatch.context() as patch:
            patch.setattr(history_store, "_write", write)
            with contextlib.suppress(KeyboardInterrupt):
                collect(path, manifest())
        if len(written) < stop:
            break
        stops += 1
        collect(path, manifest())
        assert files(path) == files(master), f"after {written}"
    assert stops == 1 + len(manifest().fields) + manifest().chunks + 1  # the last one stops at nothing


def test_foreign_directories_are_refused_and_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.png").write_bytes(b"cat")
    before = files(tmp_path)
    refused(lambda: HistoryWriter.open(tmp_path, manifest()), "no collection", "photos/cat.png", str(tmp_path))
    refused(lambda: open_store(tmp_path), "no learning histories", str(tmp_path))
    refused(lambda: HistoryWriter.open(tmp_path / "photos/cat.png", manifest()), "cat.png")
    (tmp_path / "photos/manifest.json").write_text('{"name": "an app"}')
    before = files(tmp_path)
    for call in (open_store, info, lambda url: HistoryWriter.open(url, manifest())):
        refused(lambda call=call: call(tmp_path / "photos"), "manifest.json is damaged")
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        (
            {"provenance": {"seed": 4, "versions": {"jax": "0.10"}, "statistics": {"mean_return": 0.5}}},
            "provenance.seed",
        ),
        ({"provenance": {"seed": 3}}, "provenance.versions ({'jax': '0.10'} there, None here)"),
        ({"spec": REAL}, "spec.num_actions (5 there, 3 here)"),
        ({"steps": 13}, "steps (12 there, 13 here)"),
        ({"chunk_histories": 5}, "chunk_histories"),
        ({"reward_dtype": "float16"}, "reward_dtype"),
        ({"task_leaves": {}}, "task_leaves.goal ("),
        ({"family": {"name": "dark_room", "options": {"size": 8}}}, "family.options.size"),
    ],
)
def test_another_manifest_is_refused(store, changes, name):
    before = files(store)
    refused(lambda: HistoryWriter.open(store, manifest(**changes)), name, "another manifest")
    assert files(store) == before
