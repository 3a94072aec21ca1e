"""Learning histories on disk: damage of every kind is detected and named, and nothing absurd is believed."""

import contextlib
import os
import pathlib
import random
import shutil
import subprocess

import pytest
from history_helpers import (
    assert_same,
    collect,
    files,
    flip,
    histories,
    manifest,
    refused,
)

from ad_jax.errors import HistoryError
from ad_jax.history import access, ledger, sealed
from ad_jax.history import store as history_store
from ad_jax.history.info import info
from ad_jax.history.store import SCHEMA, HistoryWriter, open_store, verify


@pytest.fixture(scope="module")
def master(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("histories") / "master"
    collect(path, manifest())
    return path


@pytest.fixture
def store(master, tmp_path) -> pathlib.Path:
    """Return a finished collection that a test may damage."""
    return pathlib.Path(shutil.copytree(master, tmp_path / "a store"))


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
        file = tmp_path / ledger.array_key(m, field, 0)
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
    """Write a manifest with a right checksum and wrong contents."""
    content = manifest().to_json()
    for name, value in changes.items():
        part, _, leaf = name.rpartition("__")
        (content[part] if part else content)[leaf] = value
    path.mkdir(exist_ok=True)
    (path / "manifest.json").write_bytes(sealed.seal(content))


def test_another_schema_is_named(store):
    forge(store, schema=SCHEMA + 1)
    for call in (open_store, info, lambda url: HistoryWriter.open(url, manifest())):
        refused(lambda call=call: call(store), "manifest.json", f"schema version {SCHEMA + 1}", f"reads {SCHEMA}")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"histories": 10**30}, "histories"),
        ({"histories": 2**40, "chunk_histories": 1}, "number of chunks"),
        ({"steps": 2**39}, "observation (lower collect.chunk_learners)"),
        ({"chunk_histories": 2**39}, "lower collect.chunk_learners"),
        ({"task_leaves": {"goal": {"shape": [2**30, 2**30], "dtype": "int32"}}}, "task/goal"),
        ({"task_leaves": {"goal": {"shape": [1] * 40, "dtype": "int32"}}}, "task_leaves.goal.shape"),
        ({"task_leaves": {"../../x": {"shape": [], "dtype": "int32"}}}, "../../x"),
        ({"task_leaves": {"a/b": {"shape": [], "dtype": "int32"}}}, "a/b"),
        ({"task_leaves": {"goal": {"shape": [-1], "dtype": "int32"}}}, "task_leaves.goal.shape"),
        ({"task_leaves": {"goal": {"shape": [], "dtype": "object"}}}, "'object'"),
        ({"task_leaves": {"goal": {}}}, "shape"),
        ({"task_leaves": 3}, "task_leaves: expected object, received 3"),
        ({"reward_dtype": "O"}, "'O'"),
        ({"reward_dtype": ["float32"]}, "reward_dtype: expected str"),
        ({"steps": 0}, "steps"),
        ({"steps": True}, "steps"),
        ({"steps": "12"}, "steps"),
        ({"spec__values": [9]}, "spec.values"),
        ({"spec__values": [9, 2**80]}, "spec.values"),
        ({"spec__shape": [10**9, 10**9]}, "spec"),
        ({"spec__pixels": True}, "spec.pixels"),
        ({"spec__pixels": 1}, "spec.pixels"),
        ({"spec__num_actions": 0}, "spec.num_actions"),
        ({"spec": None}, "spec: expected object, received None"),
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
    good = sealed.unseal(file.read_bytes(), "", "")
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
        file.write_bytes(sealed.seal(good | changes))
        message = refused(lambda: open_store(store), "ledger/000001.json", "only chunk 1")
        assert len(message) < 2000


# Full disks and descriptions.


@contextlib.contextmanager
def small_disk(path: pathlib.Path):
    """Yield a file system of 256 KiB, or None where none may be mounted."""
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
                    with access.named("writing ledger/000002.json"):
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
