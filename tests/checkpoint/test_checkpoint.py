"""Checkpoints: damage is never read as data, training goes on from the one before, fingerprints see every bit."""

import collections
import gc
import json
import random
import shutil

import chex
import faults
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import files, mesh_of
from jax.sharding import NamedSharding, PartitionSpec

from ad_jax.checkpoint import checkpoint
from ad_jax.checkpoint import saved as saved_lib
from ad_jax.checkpoint.fingerprint import fingerprint, hash_of
from ad_jax.errors import CheckpointError, DamagedCheckpointError
from ad_jax.stage import trainer

# Orbax leaves coroutines behind where a read fails. They go in the test that left them, and not in a later one.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

STATE = {
    "w": jnp.arange(4096, dtype=jnp.float32).reshape(64, 64),
    "deep": ({"n": jnp.int32(7)}, jnp.arange(5, dtype=jnp.uint8)),
    "half": jnp.ones((3, 2), jnp.bfloat16),
    "flags": jnp.array([True, False, True]),
}
WHOLE = {name: STATE[name] for name in ("w", "half", "flags")}
META = {"architecture": {"w": [64, 64]}, "loss": float("nan"), "note": "x"}
LIKE = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), STATE)


@pytest.fixture(autouse=True)
def _tidy():
    yield
    gc.collect()


def save(folder, *steps):
    with checkpoint.Checkpoints(folder, keep=5) as checkpoints:
        for step in steps:
            checkpoints.save(step, STATE | {"step": jnp.int32(step)}, META)


def restore(folder, architecture=None):
    with checkpoint.Checkpoints(folder, keep=5) as checkpoints:
        step = jax.ShapeDtypeStruct((), jnp.int32, sharding=STATE["w"].sharding)

        def accept(meta):
            return architecture and checkpoint.check_architecture(meta, architecture, folder)

        return checkpoints.restore(LIKE | {"step": step}, accept)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    save(folder, 3, 8)
    return folder


@pytest.fixture
def two(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "two")


def test_a_checkpoint_comes_back_with_its_plain_data_and_nothing_of_ours(saved):
    for step, state, meta in (restore(saved, META["architecture"]), checkpoint.load(saved)):
        assert step == 8
        assert int(state["step"]) == 8
        assert meta.keys() == META.keys()
        np.testing.assert_array_equal(state["w"], STATE["w"])


def test_a_damaged_latest_checkpoint_is_put_aside_and_the_one_before_is_used(two, capsys):
    shutil.rmtree(two / "steps/8/state")
    step, state, _ = restore(two)
    assert (step, int(state["step"])) == (3, 3)
    assert "going on from the one before" in capsys.readouterr().out
    assert (two / "damaged/8/meta").is_dir(), "nothing is deleted"
    save(two, 8)  # what is trained anew
    assert restore(two)[0] == 8


@pytest.mark.parametrize("broken", [3, 8])
def test_damage_to_orbaxs_own_notes_stops_nobody(two, broken):
    """What no result depends on: when a step was written. Neither opening nor falling back reads it."""
    (two / f"steps/{broken}/_CHECKPOINT_METADATA").write_text('{"commit_timestamp_nsecs": "soon"}')
    assert restore(two)[0] == checkpoint.load(two)[0] == 8
    shutil.rmtree(two / "steps/8/state")
    assert restore(two)[0] == 3


def test_where_all_are_damaged_that_is_an_error(two):
    for step in (3, 8):
        shutil.rmtree(two / f"steps/{step}/state")
    with pytest.raises(DamagedCheckpointError, match="steps/3"):
        restore(two)


def test_another_architecture_is_no_damage(two):
    with pytest.raises(CheckpointError, match="another architecture") as caught:
        restore(two, {"w": [2]})
    assert not isinstance(caught.value, DamagedCheckpointError)
    assert not (two / "damaged").exists()


def test_changed_plain_data_is_detected(two):
    (path,) = (two / "steps/8/meta").glob("metadata")
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"note": "y"}))
    with pytest.raises(DamagedCheckpointError, match="its plain data has checksum"):
        checkpoint.load(two)


def test_checkpoints_of_schema_1_are_read_and_a_2_that_says_1_is_not(two):
    (path,) = (two / "steps/8/meta").glob("metadata")
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"schema": 1}))
    with pytest.raises(DamagedCheckpointError):
        checkpoint.load(two)
    path.write_text(json.dumps({name: x for name, x in data.items() if name not in saved_lib.OWN} | {"schema": 1}))
    assert checkpoint.load(two)[2].keys() == META.keys()


def test_arrays_that_read_well_and_are_others_are_detected(two, tmp_path):
    """What no file format can see: the bytes of another state under this one's name."""
    save(tmp_path / "other", 8)
    with checkpoint.Checkpoints(tmp_path / "other", keep=5) as checkpoints:
        checkpoints.save(9, STATE | {"step": jnp.int32(8), "w": STATE["w"].at[63, 63].add(1)}, META)
    shutil.rmtree(two / "steps/8/state")
    shutil.copytree(tmp_path / "other/steps/9/state", two / "steps/8/state")
    with pytest.raises(DamagedCheckpointError, match=r"1 arrays hold other bits than were saved: w "):
        checkpoint.load(two)


def outcome(folder, fault) -> str:
    """Return what loading gives: "detected", named, or "harmless"; other bits or another error fail the test."""
    try:
        step, state, meta = checkpoint.load(folder)
    except DamagedCheckpointError as error:
        named = "steps/8" in str(error)
        return "detected" if named else pytest.fail(f"{fault.kind} of {list(fault.files)}: not named in: {error}")
    assert (step, int(state["step"])) == (8, 8), fault
    assert json.dumps(meta, sort_keys=True) == json.dumps(META, sort_keys=True)
    chex.assert_trees_all_equal({name: state[name] for name in ("w", "half", "flags")}, WHOLE)
    return "harmless"


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_fault_is_detected_and_named_or_harmless(two, count):
    folder = two / "steps/8"
    sound, rng, seen = files(folder), random.Random(count), collections.Counter()
    for _ in range(count):
        fault = faults.draw(rng, sound)
        fault.apply(folder)
        try:
            seen[fault.kind, outcome(two, fault)] += 1
        finally:
            faults.restore(folder, sound) if files(folder).keys() - sound.keys() else fault.undo(folder, sound)
    detected = sum(n for (_, result), n in seen.items() if result == "detected")
    print(f"{count} faults: {detected} detected and named, {count - detected} harmless, 0 silent; {dict(seen)}")
    assert {kind for kind, _ in seen} == faults.KINDS.keys()
    assert detected > 0.3 * count


def plain_hash(values):
    """Return the same in Python's whole numbers."""

    def mix(x):
        x = ((x ^ (x >> 16)) * 0x85EBCA6B) % 2**32
        x = ((x ^ (x >> 13)) * 0xC2B2AE35) % 2**32
        return x ^ (x >> 16)

    bits = values.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[values.itemsize]).reshape(-1)
    return sum(mix(int(x) ^ mix(i + 1)) for i, x in enumerate(bits)) % 2**32


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint8, bool, np.float16])
def test_the_fingerprint_is_what_it_says(dtype):
    values = np.random.default_rng(0).integers(0, 2 if dtype is bool else 100, (7, 3)).astype(dtype)
    assert fingerprint({"x": values}) == {"x": plain_hash(values)}
    assert fingerprint({"x": jnp.asarray(values)}) == {"x": plain_hash(values)}


def test_blocks_do_not_change_the_fingerprint(monkeypatch):
    values, place = np.arange(100, dtype=np.float32), np.arange(100, dtype=np.uint32)
    whole = hash_of(values, place)
    monkeypatch.setattr("ad_jax.checkpoint.fingerprint.BLOCK", 7)
    assert hash_of(values, place) == whole


@pytest.mark.parametrize("spec", [("data",), (None, "data"), (("data", "fsdp"), "tensor"), ()])
def test_the_fingerprint_does_not_depend_on_the_sharding(spec):
    mesh = mesh_of(2, 2, 2)
    sharded = jax.device_put(STATE["w"], NamedSharding(mesh, PartitionSpec(*spec)))
    assert fingerprint({"w": sharded}) == fingerprint({"w": STATE["w"]})


def test_the_fingerprint_sees_every_bit_and_where_it_is():
    values = np.zeros(64, np.float32)
    seen = {fingerprint(values)[""]}
    for at in range(64):
        for bit in range(0, 32, 5):
            changed = values.copy()
            changed.view(np.uint32)[at] ^= np.uint32(1 << bit)
            seen.add(fingerprint(changed)[""])
    assert len(seen) == 1 + 64 * 7


def test_an_array_without_elements_is_refused_by_name_before_anything_is_written(tmp_path):
    state = STATE | {"norm": {"mean": jnp.zeros((0, 3))}}
    words = r"norm/mean of the training state has no elements \(shape \(0, 3\)\).*Leave it out"
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match=words):
            checkpoints.save(1, state, META)
        with pytest.raises(CheckpointError, match=words):
            checkpoints.save_best(1, state, META)
        assert checkpoints.latest() is None
    with pytest.raises(CheckpointError, match=words):
        trainer.abstract_state(state, state)


def test_a_better_one_of_an_earlier_step_replaces_the_best_checkpoint(tmp_path, monkeypatch):
    """A training that has gone back, from a damaged checkpoint or none, comes to an earlier step with other numbers."""

    def steps():
        return sorted(path.name for path in (tmp_path / "best").iterdir())

    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        for step, note, left in ((8, "x", ["8"]), (2, "x", ["2"]), (2, "y", ["2"]), (9, "y", ["9"])):
            checkpoints.save_best(step, STATE, META | {"note": note})
            assert steps() == left
            assert checkpoint.load(tmp_path, "best")[2]["note"] == note
        shutil.copytree(tmp_path / "best/9", tmp_path / "best/3")  # killed before the one before was deleted
        kept = (tmp_path / "best/9/state").stat().st_ino
        checkpoints.save_best(9, STATE, META | {"note": "y"})
        assert steps() == ["9"]
        assert (tmp_path / "best/9/state").stat().st_ino == kept, "the same is not written again"

        def killed(*_):
            raise RuntimeError("killed")

        monkeypatch.setattr(saved_lib, "read_back", killed)
        with pytest.raises(CheckpointError, match="killed"):
            checkpoints.save_best(4, STATE, META | {"note": "z"})
        assert checkpoint.load(tmp_path, "best")[0] == 4, "not one of the training that was gone back from"


def test_looking_for_the_best_checkpoint_waits_for_nobody(tmp_path, monkeypatch):
    """The first process looks alone: a manager that writes would wait for the others in `restore`."""
    opened, real = [], saved_lib.open_alone
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_best(8, STATE, META)
        monkeypatch.setattr(saved_lib, "open_alone", lambda folder: opened.append(folder) or real(folder))
        checkpoints.save_best(8, STATE, META)
    assert opened == [tmp_path / "best"]
