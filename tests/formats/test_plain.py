"""Plain arrays in npz, HDF5 and Parquet: one's own logs, and what an export writes, equal to the bit."""

import json
import sys
import zipfile
from typing import Any

import numpy as np
import pytest
from history_helpers import files, histories, manifest, refused
from msgspec import structs
from public_layouts import AD_EPS, room

from ad_jax.errors import ConfigError
from ad_jax.formats import base
from ad_jax.formats.importing import export_histories, import_histories
from ad_jax.history import store as history_store
from ad_jax.history.store import HistoryWriter, open_store
from ad_jax.types import Box, Discrete, Spec

KINDS = ("npz", "hdf5", "parquet")
NEEDS = {"npz": "numpy", "hdf5": "h5py", "parquet": "pyarrow", "xland": "h5py", "minari": "minari"}  # skipped without


def needs(kind: str) -> None:
    try:
        base.library(NEEDS[kind])
    except ConfigError as error:
        pytest.skip(str(error))


def arrays(rows=3, steps=12) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    done = np.broadcast_to(np.arange(1, steps + 1) % 4 == 0, (rows, steps))
    return {
        "observation": rng.integers(0, [5, 9], (rows, steps, 2)),
        "action": rng.integers(0, 4, (rows, steps)),
        "reward": rng.normal(size=(rows, steps)),
        "done": done,
        "task_id": np.array([f"machine-{i}" for i in range(rows)]),
    }


def save(kind: str, folder, x: dict[str, Any]):
    """One file of a kind, as somebody writes a log."""
    path = folder / f"log.{kind}"
    if kind == "npz":
        np.savez(path, **x)
    elif kind == "hdf5":
        h5py = base.library("h5py")
        with h5py.File(path, "w") as file:
            for name, y in x.items():
                file[name] = y.astype("S") if y.dtype.kind == "U" else y
    else:
        pa, pq = base.library("pyarrow"), base.library("pyarrow.parquet")
        rows, steps = x["reward"].shape
        columns = {"history": np.repeat(np.arange(rows), steps)}
        for name, y in x.items():
            flat = np.repeat(y, steps, axis=0) if y.ndim == 1 else y.reshape(rows * steps, *y.shape[2:])
            if flat.ndim == 2:
                columns |= {f"{name}.{i}": flat[:, i] for i in range(flat.shape[1])}
            else:
                columns[name] = flat
        pq.write_table(pa.table(columns), path, row_group_size=5)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_ones_own_log_is_read(tmp_path, kind):
    needs(kind)
    x = arrays()
    found = import_histories(kind, [save(kind, tmp_path, x)], tmp_path / "h", {})
    assert found.manifest.spec == Spec(Discrete(4), (2,), (5, 9))
    h = found.read()
    for name in ("observation", "action"):
        np.testing.assert_array_equal(getattr(h.transition, name), x[name])
    np.testing.assert_array_equal(h.transition.reward, x["reward"].astype(np.float32))
    np.testing.assert_array_equal(h.transition.truncated, x["done"])
    assert not h.transition.terminated.any()
    assert h.task_ids == ["machine-0", "machine-1", "machine-2"]
    said = found.manifest.provenance
    assert said["imported"]["termination"] == "not known"
    assert list(said["files"]) == [f"log.{kind}"] and len(said["files"][f"log.{kind}"]) == 64


def test_an_end_that_is_no_time_limit_is_a_termination(tmp_path):
    """A log with `done` and `truncated` says both."""
    x = arrays()
    x["truncated"] = x["done"] & (np.arange(12) < 6)
    h = import_histories("npz", [save("npz", tmp_path, x)], tmp_path / "h", {}).read()
    np.testing.assert_array_equal(h.transition.truncated, x["truncated"])
    np.testing.assert_array_equal(h.transition.terminated, x["done"] & ~x["truncated"])


def filled(folder, **changes):
    """Return a collection with every kind of field, and two chunks."""
    m = manifest(histories=4, chunk_histories=2, **changes)
    m = structs.replace(m, source=m.source | {"actors": 1})
    with HistoryWriter.open(folder, m) as writer:
        for chunk in range(m.chunks):
            h = histories(m, chunk)
            h.transition.truncated[:, -1], h.transition.terminated[:, -1] = True, False
            h.transition.truncated[:, 3::4] |= ~h.transition.terminated[:, 3::4]
            for told in (h.transition.preferences, h.transition.features):
                if told is not None:
                    told[...] = np.nan_to_num(told)
            if m.next_observation:  # what one sees next, where the episode goes on
                on = ~h.transition.done[:, :-1]
                h.transition.next_observation[:, :-1][on] = h.transition.observation[:, 1:][on]
            tasks = {name: np.nan_to_num(leaf) if leaf.dtype.kind == "f" else leaf for name, leaf in h.tasks.items()}
            h.tasks.update(tasks)
            writer.write(chunk, h)
    return open_store(folder)


OPAQUE = {"name": "opaque", "options": {}}
EXPORTED = {
    "whole": {"family": OPAQUE, "spec": Spec(Discrete(5), (2,), (9, 9)), "reward_dtype": "uint8"},
    "real": {"family": OPAQUE, "spec": Spec(Box((2,), -1.0, 1.0), (2, 3), None), "next_observation": True},
    "number": {"family": OPAQUE, "spec": Spec(Discrete(300), (), (70_000,)), "reward_dtype": "float16"},
    "picture": {
        "family": OPAQUE,
        "spec": Spec(Discrete(3), (4, 5, 3), None, pixels=True),
        "preferences": True,
        "features": 4,
    },
    "cells": {"family": OPAQUE, "spec": Spec(Discrete(6), (5, 5), (156,) * 25), "reward_dtype": "float16"},
}
PAIRS = [(kind, name) for kind in KINDS for name in EXPORTED] + [("xland", "cells")]
PAIRS += [("minari", name) for name in EXPORTED if name != "cells"]


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_an_export_is_imported_equal_to_the_bit(tmp_path, kind, name):
    needs(kind)
    made = filled(tmp_path / "h", **EXPORTED[name])
    out = tmp_path / f"out.{kind}"
    export_histories(kind, tmp_path / "h", out, {})
    back = import_histories(kind, [out], tmp_path / "back", {})
    for field in ("family", "spec", "task_leaves", "reward_dtype", "histories", "steps", "episode_length"):
        assert getattr(back.manifest, field) == getattr(made.manifest, field), field
    before, after = history_store._arrays(made.read()), history_store._arrays(back.read())
    assert before.keys() == after.keys()
    for field, x in before.items():
        assert (x.dtype, x.shape, x.tobytes()) == (after[field].dtype, after[field].shape, after[field].tobytes()), (
            field
        )
    assert back.task_ids == made.task_ids
    refused_config(lambda: export_histories(kind, tmp_path / "h", out, {}), "already")


def refused_config(call, *words):
    with pytest.raises(ConfigError) as error:
        call()
    assert all(word in str(error.value) for word in words), error.value


def test_a_layout_that_cannot_hold_them_says_so(tmp_path):
    pytest.importorskip("h5py")
    filled(tmp_path / "h", **EXPORTED["real"])
    refused_config(lambda: export_histories("xland", tmp_path / "h", tmp_path / "x", {}), "npz or hdf5")
    refused_config(lambda: export_histories("dicp", tmp_path / "h", tmp_path / "x", {}), "read alone", "npz")
    refused_config(lambda: export_histories("npzz", tmp_path / "h", tmp_path / "x", {}), "'npz'")
    assert not (tmp_path / "x").exists()


def test_a_log_of_a_family_is_checked_and_turned(tmp_path):
    x = room((2, 6), AD_EPS, 5, greedy=2.0)
    flat = {name: y.reshape(1, -1, *y.shape[2:]) for name, y in x.items()}
    held: dict[str, Any] = {name: flat[name] for name in ("action", "reward", "done")}
    held |= {"observation": flat["observation"][..., ::-1], "task/goal": np.array([[2, 6]])}
    np.savez(tmp_path / "a.npz", **held)
    options = {"env": "dark_room"}
    told = refused(lambda: import_histories("npz", [tmp_path / "a.npz"], tmp_path / "h", options), "goal-2-6")
    assert "bservations are (column, row)" in told and "actions=(0, 2, 3, 1, 4)" in told
    mended = options | {"actions": (0, 2, 3, 1, 4), "flip": True}
    found = import_histories("npz", [tmp_path / "a.npz"], tmp_path / "h", mended)
    assert found.task_ids == ["goal-2-6"]
    np.testing.assert_array_equal(found.read().transition.observation, flat["observation"])


def test_actions_are_renamed_in_everything_that_is_of_them(tmp_path):
    """What the source held of each action goes where the action goes, and as many are stated as the names need."""
    x = arrays() | {"action": np.array([[0, 1, 1] * 4] * 3), "preferences": np.ones((3, 12, 2)) * [0.25, 0.75]}
    np.savez(tmp_path / "a.npz", **x)
    found = import_histories("npz", [tmp_path / "a.npz"], tmp_path / "h", {"actions": (1, 0)})
    t = found.read().transition
    np.testing.assert_array_equal(t.action, 1 - x["action"])
    np.testing.assert_array_equal(t.preferences, np.ones((3, 12, 2)) * [0.75, 0.25])
    refused(
        lambda: import_histories("npz", [tmp_path / "a.npz"], tmp_path / "g", {"actions": (1, 1), "num_actions": 2}),
        "preferences",
        "another name each",
    )
    np.savez(tmp_path / "b.npz", **without(x, "preferences"))
    wide = import_histories("npz", [tmp_path / "b.npz"], tmp_path / "w", {"actions": (2, 4)})
    assert wide.manifest.spec.action == Discrete(5)


def test_observations_are_turned_with_their_values(tmp_path):
    x = arrays()
    np.savez(tmp_path / "a.npz", **x)
    found = import_histories("npz", [tmp_path / "a.npz"], tmp_path / "h", {"flip": True})
    assert found.manifest.spec.values == (9, 5)
    np.testing.assert_array_equal(found.read().transition.observation, x["observation"][..., ::-1])
    np.savez(tmp_path / "b.npz", **x | {"observation": x["observation"][..., 0]})  # time would be turned around
    refused(lambda: import_histories("npz", [tmp_path / "b.npz"], tmp_path / "g", {"flip": True}), "flip", "[]")


def test_options_are_read_as_words_and_checked(tmp_path):
    assert base.options_of(["steps=8", "env=dark_room", "env.size=5", "flip=true"]) == {
        "steps": 8,
        "env": "dark_room",
        "options": {"size": 5},
        "flip": True,
    }
    refused_config(lambda: base.options_of(["steps"]), "field=value")
    np.savez(tmp_path / "a.npz", **arrays())
    refused_config(lambda: import_histories("npz", [tmp_path / "a.npz"], tmp_path / "h", {"step": 3}), "'steps'")
    refused_config(lambda: import_histories("npz", [tmp_path / "a.npz"], tmp_path / "h", {"steps": "x"}), "steps")


def without(x, *names):
    return {name: y for name, y in x.items() if name not in names}


BAD = {
    "plural": (lambda x: without(x, "observation") | {"observations": x["observation"]}, ("'observation'",)),
    "no ends": (lambda x: without(x, "done"), ("where episodes end", "terminated")),
    "no actions": (lambda x: without(x, "action"), ("without action",)),
    "counted ends": (lambda x: x | {"done": x["done"].astype(int) * 2}, ("expected 0 and 1",)),
    "another length": (lambda x: x | {"action": x["action"][:, :5]}, ("[3, 12, ...]", "[3, 5]")),
    "nan": (lambda x: x | {"reward": np.where(x["done"], np.nan, 0.0)}, ("nan", "step 3 of history 0")),
    "objects": (lambda x: x | {"reward": np.array([[1, 2], [3]], dtype=object)}, ("pickle", "numpy.savez")),
}


@pytest.mark.parametrize("name", BAD)
def test_a_log_that_cannot_be_is_one_error(tmp_path, name):
    change, words = BAD[name]
    np.savez(tmp_path / "a.npz", **change(arrays()))
    refused(lambda: import_histories("npz", [tmp_path / "a.npz"], tmp_path / "h", {}), *words)
    assert files(tmp_path / "h") == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_file_is_named(tmp_path, kind):
    needs(kind)
    path = save(kind, tmp_path, arrays())
    path.write_bytes(path.read_bytes()[:-60])
    refused(lambda: import_histories(kind, [path], tmp_path / "h", {}), f"log.{kind}", "again")
    assert files(tmp_path / "h") == {}


def test_a_member_that_is_damaged_is_named(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **arrays(rows=40))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        at = archive.getinfo("reward.npy").header_offset
    raw = bytearray((tmp_path / "a.npz").read_bytes())
    raw[at + 400 : at + 600] = bytes(200)
    (tmp_path / "a.npz").write_bytes(raw)
    refused(lambda: import_histories("npz", [tmp_path / "a.npz"], tmp_path / "h", {}), "a.npz", "CRC-32")
    assert files(tmp_path / "h") == {}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_beyond_the_beginning_of_an_array_is_named(tmp_path, save):
    """What is read of it first is whole: the error comes with a later row."""
    save(tmp_path / "a.npz", **arrays(rows=20, steps=4000))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        at, size = (lambda x: (x.header_offset, x.compress_size))(archive.getinfo("reward.npy"))
    raw = bytearray((tmp_path / "a.npz").read_bytes())
    raw[at + size // 2 : at + size // 2 + 200] = bytes(200)
    (tmp_path / "a.npz").write_bytes(raw)
    refused(lambda: import_histories("npz", [tmp_path / "a.npz"], tmp_path / "h", {}), "a.npz, row", "cannot be read")
    assert files(tmp_path / "h") == {}


def test_files_that_are_there_twice_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays())
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes())
    refused(lambda: import_histories("npz", [tmp_path], tmp_path / "h", {}), "b.npz is a.npz once more")
    refused(lambda: import_histories("npz", [tmp_path / "a.npz"] * 2, tmp_path / "h", {}), "twice")
    refused(lambda: import_histories("npz", [tmp_path / "c.npz"], tmp_path / "h", {}), "c.npz is not there")


def test_equal_histories_are_imported_where_they_are_meant(tmp_path):
    x: dict[str, Any] = {name: np.concatenate([y, y]) for name, y in arrays(rows=1).items()}
    np.savez(tmp_path / "a.npz", **x)
    path = [tmp_path / "a.npz"]
    refused(lambda: import_histories("npz", path, tmp_path / "h", {}), "history 1 is history 0", "allow_duplicates")
    found = import_histories("npz", path, tmp_path / "h", {"allow_duplicates": True})
    assert found.task_ids == ["machine-0", "machine-0"]
    np.savez(tmp_path / "one.npz", **arrays(rows=1))
    (tmp_path / "two.npz").write_bytes((tmp_path / "one.npz").read_bytes())
    both = [tmp_path / "one.npz", tmp_path / "two.npz"]
    refused(lambda: import_histories("npz", both, tmp_path / "g", {}), "once more, byte for byte", "allow_duplicates")
    assert import_histories("npz", both, tmp_path / "g", {"allow_duplicates": True}).task_ids == ["machine-0"] * 2


@pytest.mark.parametrize("kind", ["npz", "xland"])
def test_files_that_say_unlike_things_are_not_one_collection(tmp_path, kind):
    """What the first said held for all: its family, or what its actions are."""
    needs(kind)
    filled(tmp_path / "h", **EXPORTED["cells"])
    filled(tmp_path / "g", **EXPORTED["cells"] | {"episode_length": 6})
    paths = [tmp_path / f"{name}.{kind}" for name in "hg"]
    for path in paths:
        export_histories(kind, tmp_path / path.stem, path, {})
    refused(
        lambda: import_histories(kind, paths, tmp_path / "x", {}),
        f"h.{kind} and g.{kind} disagree about what they hold",
    )


def test_histories_of_several_lengths_are_cut_where_it_is_asked_for(tmp_path):
    for name, steps in (("a", 12), ("b", 16), ("c", 20)):
        x: dict[str, Any] = {n: y[0] for n, y in arrays(steps=steps).items()}
        np.savez(tmp_path / f"{name}.npz", **x)
    told = refused(lambda: import_histories("npz", [tmp_path], tmp_path / "h", {}), "12, 16, 20", "steps=12")
    assert "a.npz" in told
    found = import_histories("npz", [tmp_path], tmp_path / "h", {"steps": 16})
    assert found.read().transition.action.shape == (2, 16)
    refused(lambda: import_histories("npz", [tmp_path], tmp_path / "g", {"steps": 21}), "the longest has 20")


def test_groups_of_hdf5_are_read_in_natural_order(tmp_path):
    h5py = pytest.importorskip("h5py")
    x = arrays(rows=11)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for row in range(11):
            group = file.create_group(str(row))
            for name in ("observation", "action", "reward", "done"):
                group[name] = x[name][row]
            group.attrs["task_id"] = f"task-{row}"
    found = import_histories("hdf5", [tmp_path / "a.h5"], tmp_path / "h", {})
    assert found.task_ids == [f"task-{row}" for row in range(11)]
    np.testing.assert_array_equal(found.read().transition.action, x["action"])


def test_steps_of_parquet_that_are_not_in_order_are_refused(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"history": [0, 0, 1, 1, 0, 0], "observation": np.zeros(6), "action": [0, 1] * 3, "reward": np.zeros(6)}
    pq.write_table(pa.table(columns | {"done": [False, True] * 3}), tmp_path / "a.parquet")
    refused(lambda: import_histories("parquet", [tmp_path / "a.parquet"], tmp_path / "h", {}), "history 0 comes back")
    pq.write_table(pa.table(columns | {"history": [0, 0, 1, 1, 2, None]}), tmp_path / "a.parquet")
    refused(lambda: import_histories("parquet", [tmp_path / "a.parquet"], tmp_path / "h", {}), "missing in some rows")
    pq.write_table(pa.table({"observation": np.zeros(6)}), tmp_path / "b.parquet")
    refused(lambda: import_histories("parquet", [tmp_path / "b.parquet"], tmp_path / "h", {}), "column `history`")


def test_lists_of_unlike_lengths_are_refused(tmp_path):
    """Also where they have as many numbers in all as lists of one length would."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"history": [0] * 3, "observation": [[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]], "action": [0, 1, 0]}
    pq.write_table(pa.table(columns | {"reward": [0.0] * 3, "done": [False, False, True]}), tmp_path / "a.parquet")
    refused(lambda: import_histories("parquet", [tmp_path / "a.parquet"], tmp_path / "h", {}), "unlike lengths")


def test_rows_are_read_in_any_order(tmp_path):
    from ad_jax.formats.zipped import Zipped

    x = np.arange(60).reshape(5, 4, 3)
    np.savez_compressed(tmp_path / "a.npz", x=x, y=np.asfortranarray(x[:, :, 0]))
    held = Zipped(tmp_path / "a.npz")
    for row in (2, 3, 0, 4, 4, 1):
        np.testing.assert_array_equal(held.read("x", row), x[row])
        np.testing.assert_array_equal(held.read("y", row), x[row, :, 0])


def test_what_an_export_says_is_plain_data(tmp_path):
    filled(tmp_path / "h", **EXPORTED["whole"])
    export_histories("npz", tmp_path / "h", tmp_path / "out.npz", {})
    with np.load(tmp_path / "out.npz") as found:
        assert json.loads(str(found["about"]))["actors"] == 1
        assert found["observation"].shape == (4, 12, 2)


def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    refused_config(lambda: base.library("h5py"), "pip install 'ad_jax[hdf5]'")
