"""Learning histories on disk: what was written is read bit for bit, and damage of every kind is detected and named."""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorstore as ts

from ad_jax import history_ledger, history_store
from ad_jax.errors import HistoryError
from ad_jax.history_store import SCHEMA, HistoryWriter, Manifest, info, open_store, verify
from ad_jax.types import Histories, Spec, Transition

REAL = Spec(3, (2, 3), None)
WIDE = Spec(300, (), (70_000,))
LEAVES = {"goal": {"shape": [2], "dtype": "int32"}, "wind": {"shape": [], "dtype": "float32"}}


def manifest(**changes) -> Manifest:
    """Three chunks, the last one smaller."""
    plain = Manifest(
        family={"name": "dark_room", "options": {"size": 9}},
        source={"name": "q_learning", "config": {"rate": 0.1}, "actors": 2},
        spec=Spec(5, (2,), (9, 9)),
        task_leaves=LEAVES,
        reward_dtype="float32",
        histories=10,
        steps=12,
        episode_length=4,
        chunk_histories=4,
        provenance={"seed": 3, "versions": {"jax": "0.10"}, "statistics": {"mean_return": 0.5}},
    )
    return dataclasses.replace(plain, **changes)


def histories(m: Manifest, chunk: int) -> Histories:
    """Random bits for a chunk, NaNs and negative zeros included."""
    rng, (first, end) = np.random.default_rng(chunk), m.rows(chunk)

    def bits(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        raw = rng.integers(0, 256, (end - first, *shape, dtype.itemsize), np.uint8)
        return (raw % 2).astype(bool)[..., 0] if dtype.kind == "b" else raw.view(dtype)[..., 0]

    arrays = {field: bits(*kind) for field, kind in m.fields.items()}
    transition = Transition(**{name: arrays[name] for name in history_ledger.TRANSITION})
    tasks = {name: arrays[f"task/{name}"] for name in m.task_leaves}
    ids = [f"dark_room:{row // 2}" for row in range(first, end)]
    return Histories(transition, tasks, ids, arrays["seed_index"], arrays["actor"])


def collect(url, m: Manifest, chunks=None) -> None:
    """Write what is not finished, as `collect` does."""
    with HistoryWriter.open(url, m) as writer:
        for chunk in range(m.chunks) if chunks is None else chunks:
            if chunk not in writer.finished:
                writer.write(chunk, histories(m, chunk))


def assert_same(found: Histories, m: Manifest, chunks=None) -> None:
    """Equal to the bit: shapes, dtypes, bytes and ids."""
    parts = [histories(m, chunk) for chunk in (range(m.chunks) if chunks is None else chunks)]
    wanted = [history_store._arrays(part) for part in parts]
    arrays = history_store._arrays(found)
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
    """The message of the HistoryError that `call` must raise, which must contain every name."""
    with pytest.raises(HistoryError) as error:
        call()
    for name in names:
        assert name in str(error.value), f"{name!r} is not in: {error.value}"
    return str(error.value)


def flip(file: pathlib.Path, position: int, mask: int = 0x10) -> None:
    raw = bytearray(file.read_bytes())
    raw[position] ^= mask
    file.write_bytes(raw)


@pytest.fixture(scope="module")
def master(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("histories") / "master"
    collect(path, manifest())
    return path


@pytest.fixture
def store(master, tmp_path) -> pathlib.Path:
    """A finished collection that a test may damage."""
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
    leaf=st.sampled_from(sorted(history_ledger.DTYPES)),
    reward=st.sampled_from(sorted(history_ledger.DTYPES)),
    provenance=st.dictionaries(st.text(), st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text()),
)
def test_round_trip_property(rows, chunk, steps, shape, leaf, reward, provenance):
    m = manifest(
        histories=rows,
        chunk_histories=chunk,
        steps=steps,
        spec=Spec(2, tuple(shape), None),
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
    assert SCHEMA == 1
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


@pytest.mark.parametrize("way", ["exit", "kill"])
def test_a_killed_writer_leaves_whole_chunks_and_resumes_to_the_same_bytes(master, tmp_path, way):
    path = tmp_path / "x"
    done = subprocess.run([sys.executable, "-c", KILLED, __file__, path, way], check=False, capture_output=True)
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
        ({"provenance": {"seed": 3}}, "provenance.versions is only there"),
        ({"spec": REAL}, "spec.num_actions is 5 there, 3 here"),
        ({"steps": 13}, "steps is 12 there, 13 here"),
        ({"chunk_histories": 5}, "chunk_histories"),
        ({"reward_dtype": "float16"}, "reward_dtype"),
        ({"task_leaves": {}}, "task_leaves.goal is only there"),
        ({"family": {"name": "dark_room", "options": {"size": 8}}}, "family.options.size"),
    ],
)
def test_another_manifest_is_refused(store, changes, name):
    before = files(store)
    refused(lambda: HistoryWriter.open(store, manifest(**changes)), name, "another manifest")
    assert files(store) == before


# Damage.

KINDS = [
    ("manifest.json", ["manifest.json"]),
    ("ledger/000001.json", ["ledger/000001.json", "only chunk 1"]),
    ("arrays/reward/zarr.json", ["arrays/reward/zarr.json"]),
    ("arrays/task/goal/zarr.json", ["arrays/task/goal/zarr.json"]),
    ("arrays/observation/c/1/0/0", ["arrays/observation/c/1/0/0", "ledger/000001.json", "only chunk 1"]),
    ("arrays/truncated/c/2/0", ["arrays/truncated/c/2/0", "only chunk 2"]),
    ("arrays/task/wind/c/0", ["arrays/task/wind/c/0", "only chunk 0"]),
    ("arrays/actor/c/2", ["arrays/actor/c/2", "only chunk 2"]),
]


@pytest.mark.parametrize(("name", "named"), KINDS)
@pytest.mark.parametrize("damage", ["flip first", "flip middle", "flip last", "cut", "cut one byte", "empty", "longer"])
def test_damage_is_detected_and_named(store, name, named, damage):
    file = store / name
    raw = file.read_bytes()
    place = {"flip first": 0, "flip middle": len(raw) // 2, "flip last": len(raw) - 1}
    cut = {"cut": raw[: len(raw) // 2], "cut one byte": raw[:-1], "empty": b"", "longer": raw + b"\0"}
    if damage in place:
        flip(file, place[damage])
    else:
        file.write_bytes(cut[damage])
    refused(lambda: open_store(store).read(), *named)
    assert all(any(part in problem for problem in verify(store)) for part in named)
    if "/c/" in name:  # the other chunks are sound, and the remedy in the message is one
        chunk = int(named[-1][-1])
        others = [other for other in range(3) if other != chunk]
        assert_same(open_store(store).read(others), manifest(), others)
        (store / f"ledger/{chunk:06d}.json").unlink()
        collect(store, manifest())
        assert_same(open_store(store).read(), manifest())
    else:
        refused(lambda: HistoryWriter.open(store, manifest()), *named)


@pytest.mark.parametrize(("name", "named"), KINDS)
def test_missing_files_are_detected_on_open_and_named(store, master, name, named):
    (store / name).unlink()
    if name.startswith("ledger"):
        named = ["chunks 1 of 3 are not in the ledger"]
    refused(lambda: open_store(store), *named)
    if "ledger" not in name:
        refused(lambda: open_store(store, allow_partial=True), *named)
    else:
        assert_same(open_store(store, allow_partial=True).read(), manifest(), [0, 2])
    if "/c/" in name:
        (store / f"ledger/{int(named[-1][-1]):06d}.json").unlink()
    if name != "manifest.json":
        collect(store, manifest())
        assert files(store) == files(master)


def test_all_zero_chunks_are_files_too(tmp_path):
    """Zarr may leave out a chunk of fill values; then a lost file could not be told from zeros."""
    m = manifest(histories=4)
    zeros = histories(m, 0)
    for array in history_store._arrays(zeros).values():
        array[...] = 0
    with HistoryWriter.open(tmp_path, m) as writer:
        writer.write(0, zeros)
    for field in m.fields:
        file = tmp_path / history_ledger.array_key(m, field, 0)
        opened, raw = open_store(tmp_path), file.read_bytes()
        file.unlink()
        refused(lambda: open_store(tmp_path), f"{file.relative_to(tmp_path)} is missing")
        refused(opened.read, str(file.relative_to(tmp_path)))  # lost after the store was opened
        file.write_bytes(raw)


def test_sound_files_in_the_wrong_place_are_detected(store, tmp_path):
    """Every checksum inside the file is right; only the ledger knows that it belongs elsewhere."""
    for name in ("arrays/action/c/{}/0", "ledger/00000{}.json"):
        here, there = store / name.format(0), store / name.format(1)
        raw = here.read_bytes()
        shutil.copy(there, here)
        refused(lambda: open_store(store).read(), name.format(0), "only chunk 0")
        here.write_bytes(raw)
    assert verify(store) == []
    collect(tmp_path / "other", manifest(provenance={"seed": 4}))
    shutil.copy(tmp_path / "other/ledger/000001.json", store / "ledger/000001.json")
    refused(lambda: open_store(store), "ledger/000001.json is not of this chunk of this collection", "collection")
    shutil.copy(store / "ledger/000000.json", store / "ledger/000003.json")
    refused(lambda: open_store(store), "ledger/000003.json is of no chunk")


def test_verify_lists_every_fault(store):
    seen = []
    assert open_store(store).verify(lambda done, total: seen.append((done, total))) == []
    assert seen == [(1, 3), (2, 3), (3, 3)]
    opened = open_store(store)
    flip(store / "arrays/action/c/0/0", 9)
    shutil.copy(store / "arrays/reward/c/1/0", store / "arrays/reward/c/2/0")
    problems = opened.verify()
    assert len(problems) == 2
    assert "arrays/action/c/0/0" in problems[0]
    assert "arrays/reward/c/2/0" in problems[1]
    flip(store / "arrays/reward/c/0/0", 9)
    assert len(opened.verify()) == 3  # two in one chunk
    shutil.copy(store / "arrays/reward/c/1/0", store / "arrays/reward/c/0/0")
    (store / "ledger/000001.json").write_bytes(b"{}")
    (store / "arrays/actor/zarr.json").unlink()
    problems = verify(store)
    assert len(problems) == 5
    assert all(
        any(name in problem for problem in problems)
        for name in (
            "arrays/action/c/0/0",
            "arrays/reward/c/0/0",
            "arrays/reward/c/2/0",
            "ledger/000001.json",
            "arrays/actor/zarr.json",
        )
    )
    refused(lambda: open_store(store), "ledger/000001.json", "arrays/actor/zarr.json")


def test_any_flipped_byte_is_an_error_or_harmless(store):
    """Random flips over all files, each file as likely as another: nothing wrong may be read."""
    rng, names, detected = random.Random(0), sorted(files(store)), 0
    for _ in range(150):
        file = store / rng.choice(names)
        raw = file.read_bytes()
        flip(file, rng.randrange(len(raw)), 1 << rng.randrange(8))
        message = None
        try:
            assert_same(open_store(store).read(), manifest())
        except HistoryError as error:
            message = str(error)
        assert message is None or str(file.relative_to(store)) in message
        detected += message is not None
        file.write_bytes(raw)
    assert detected > 140
    assert verify(store) == []


# Manifests that must not be believed.


def forge(path: pathlib.Path, **changes) -> None:
    """A manifest with a right checksum and wrong contents."""
    content = manifest().to_json()
    for name, value in changes.items():
        part, _, leaf = name.rpartition("__")
        (content[part] if part else content)[leaf] = value
    path.mkdir(exist_ok=True)
    (path / "manifest.json").write_bytes(history_ledger.seal(content))


def test_another_schema_is_named(store):
    forge(store, schema=SCHEMA + 1)
    for call in (open_store, info, lambda url: HistoryWriter.open(url, manifest())):
        refused(lambda call=call: call(store), "manifest.json", f"schema version {SCHEMA + 1}", f"reads {SCHEMA}")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"histories": 10**30}, "histories"),
        ({"histories": 2**40, "chunk_histories": 1}, "number of chunks"),
        ({"steps": 2**39}, "observation (lower chunk_histories)"),
        ({"chunk_histories": 2**39}, "lower chunk_histories"),
        ({"task_leaves": {"goal": {"shape": [2**30, 2**30], "dtype": "int32"}}}, "task/goal"),
        ({"task_leaves": {"goal": {"shape": [1] * 40, "dtype": "int32"}}}, "task_leaves.goal.shape"),
        ({"task_leaves": {"../../x": {"shape": [], "dtype": "int32"}}}, "../../x"),
        ({"task_leaves": {"a/b": {"shape": [], "dtype": "int32"}}}, "a/b"),
        ({"task_leaves": {"goal": {"shape": [-1], "dtype": "int32"}}}, "task_leaves.goal.shape"),
        ({"task_leaves": {"goal": {"shape": [], "dtype": "object"}}}, "'object'"),
        ({"task_leaves": {"goal": {}}}, "shape"),
        ({"task_leaves": 3}, "field"),
        ({"reward_dtype": "O"}, "'O'"),
        ({"reward_dtype": ["float32"]}, "field"),
        ({"steps": 0}, "steps"),
        ({"steps": True}, "steps"),
        ({"steps": "12"}, "steps"),
        ({"spec__values": [9]}, "spec.values"),
        ({"spec__values": [9, 2**80]}, "spec.values"),
        ({"spec__shape": [10**9, 10**9]}, "spec"),
        ({"spec__num_actions": 0}, "spec.num_actions"),
        ({"spec": None}, "field"),
        ({"family": []}, "family"),
        ({"extra": 1}, "extra"),
    ],
)
def test_absurd_manifests_are_errors_and_not_allocations(tmp_path, changes, name):
    forge(tmp_path / "x", **changes)
    for call in (open_store, info):
        refused(lambda call=call: call(tmp_path / "x"), "manifest.json", name)


def test_a_large_claim_without_a_ledger_allocates_nothing(tmp_path):
    m = manifest(histories=10**9, chunk_histories=10**6)
    HistoryWriter.open(tmp_path, m)
    refused(lambda: open_store(tmp_path), "chunks 0, 1, 2", "(1000 in all) of 1000")
    found = open_store(tmp_path, allow_partial=True).read()
    assert found.transition.observation.shape == (0, 12, 2)


def test_a_manifest_that_is_no_json_is_refused(tmp_path):
    for provenance in ({"x": float("nan")}, {"x": object()}):
        refused(lambda p=provenance: HistoryWriter.open(tmp_path, manifest(provenance=p)), "manifest")
    assert files(tmp_path) == {}
    HistoryWriter.open(tmp_path, manifest(provenance={"split": (1, 2)}))
    HistoryWriter.open(tmp_path, manifest(provenance={"split": [1, 2]}))


def test_a_ledger_entry_with_a_right_checksum_and_wrong_contents_is_refused(store):
    file = store / "ledger/000001.json"
    good = history_ledger.unseal(file.read_bytes(), "", "")
    stored = good["stored_bytes"]
    for changes in (
        {"task_ids": [0] * 4},
        {"task_ids": ["a"] * 10**5},
        {"content": {}},
        {"stored_bytes": dict.fromkeys(stored, "x")},
        {"first": 0},
        {"end": 10**12},
        {"extra": 1},
    ):
        file.write_bytes(history_ledger.seal(good | changes))
        message = refused(lambda: open_store(store), "ledger/000001.json", "only chunk 1")
        assert len(message) < 2000


# Full disks and descriptions.


@contextlib.contextmanager
def small_disk(path: pathlib.Path):
    """A file system of 256 KiB, or None where none may be mounted."""
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", path], check=False, capture_output=True)
    try:
        yield path if done.returncode == 0 else None
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", path], check=True)


def test_a_full_disk_is_named_and_finished_chunks_are_kept(tmp_path, monkeypatch):
    m = manifest(histories=64, steps=2000, chunk_histories=2)
    with small_disk(tmp_path / "disk") as path:
        if path is None:  # no right to mount: let the file system's answer come from TensorStore's place
            path = tmp_path / "plain"
            original = history_store._write

            def write(kvstore, small):
                if "ledger/000002.json" in small:
                    with history_ledger.named("writing ledger/000002.json"):
                        raise ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device")
                original(kvstore, small)

            monkeypatch.setattr(history_store, "_write", write)
        refused(lambda: collect(path, m), "disk is full", "Finished chunks are kept", "writing ")
        opened = open_store(path, allow_partial=True)
        assert 0 < len(opened.chunks) < m.chunks
        assert_same(opened.read(), m, opened.chunks)
        assert opened.verify() == []


def test_info_describes_finished_partial_and_damaged_collections(store, tmp_path):
    text = info(store)
    size = sum(len(raw) for name, raw in files(store).items() if "/c/" in name)
    wanted = ["dark_room", '"size": 9', "q_learning", "actors: 2", "10 of 10 x 12 steps", "tasks         5", "float32"]
    wanted += [
        "3 of 3 finished",
        f"{size:,} bytes",
        f"{size / 120:.3g} bytes per step",
        "mean_return",
        "seed          3",
    ]
    for part in [*wanted, "[2] uint8", "versions"]:
        assert part in text, f"{part!r} is not in:\n{text}"
    assert "PROBLEMS" not in text
    collect(tmp_path / "part", manifest(), [1])
    assert "4 of 10 x 12 steps" in info(tmp_path / "part")
    assert "1 of 3 finished" in info(tmp_path / "part")
    HistoryWriter.open(tmp_path / "none", manifest())
    assert "0 of 3 finished" in info(tmp_path / "none")
    (store / "ledger/000001.json").write_bytes(b"{}")
    assert "PROBLEMS      1, the first: ledger/000001.json is damaged" in info(store)


def test_relative_paths_and_home(master, monkeypatch):
    monkeypatch.chdir(master.parent)
    assert_same(open_store("master").read(), manifest())
    monkeypatch.setenv("HOME", str(master.parent))
    assert_same(open_store("~/master").read(), manifest())
    assert not os.path.exists("~")
