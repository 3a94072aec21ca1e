"""What is read of files before the first history is: names and shapes, and numbers where nothing else says them."""

import importlib.util
import zipfile
from typing import Any

import numpy as np
import pytest
from history_helpers import files, refused
from public_layouts import AD_EPS, ad_eps, dicp, icrl4aht, metadata, ra_dt, room, save_ad_eps, vintix, watermaze, xland

from ad_jax.formats import kept
from ad_jax.formats.base import library
from ad_jax.formats.importing import format_of, import_histories
from ad_jax.formats.zipped import Zipped

H5 = importlib.util.find_spec("h5py") is not None


def headless(folder, episodes=3):
    folder.mkdir(parents=True)
    save_ad_eps(folder / "trajectories_0.npz", room((2, 6), AD_EPS, episodes), flat=True)
    metadata(folder, ["trajectories_0.npz"], [2, 6])
    return folder


def plain(folder, episodes=3):
    folder.mkdir()
    lived = room((2, 6), AD_EPS, episodes)
    x: dict[str, Any] = {name: y.reshape(1, -1, *y.shape[2:]) for name, y in lived.items()}
    np.savez(folder / "a.npz", **{name: x[name] for name in ("observation", "action", "reward", "done")})
    return folder


MADE = {
    "ad_eps": (lambda place: ad_eps(place, [(2, 6)]), {}),
    "ra_dt": (lambda place: ra_dt(place), {}),
    "headless_ad": (headless, {"num_actions": 21, "num_states": 81}),
    "npz": (plain, {"num_actions": 5, "values": (9, 9)}),
    "dicp": (lambda place: dicp(place), {}),
    "icrl4aht": (lambda place: icrl4aht(place), {"num_actions": 6}),
    "ad_eps_watermaze": (lambda place: watermaze(place), {}),
    "vintix": (lambda place: vintix(place), {"low": -1.0, "high": 1.0}),
    "xland": (lambda place: xland(place), {}),
}
IN_H5 = ("ad_eps_watermaze", "dicp", "icrl4aht", "vintix", "xland")


@pytest.mark.parametrize("kind", MADE)
def test_where_counts_are_given_no_array_is_read_before_its_history_is(tmp_path, monkeypatch, kind):
    if kind in IN_H5 and not H5:
        pytest.skip("needs h5py")
    make, options = MADE[kind]
    place = tmp_path / ("a.hdf5" if kind in IN_H5 and kind != "vintix" else "d")
    make(place)
    read, whole = [], Zipped.read
    monkeypatch.setattr(Zipped, "read", lambda self, name, row: read.append(name) or whole(self, name, row))
    if kind in IN_H5:
        dataset = library("h5py").Dataset
        taken = dataset.__getitem__
        monkeypatch.setattr(dataset, "__getitem__", lambda self, *at: read.append(self.name) or taken(self, *at))
    found = format_of(kind, options).open([place])
    assert read == []
    found.streams[0].read()
    assert read
    kept.close()


def damaged(path, member):
    """Overwrite bytes of a member, beyond those that are read with its header."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(member)
    raw = bytearray(path.read_bytes())
    at = info.header_offset + 30 + len(member) + info.compress_size // 2
    raw[at : at + 40] = bytes(40)
    path.write_bytes(raw)


def test_damage_that_is_met_before_the_first_history_is_named_too(tmp_path):
    """Where the largest state or action is looked for."""
    folder = headless(tmp_path / "d", episodes=90)
    damaged(folder / "trajectories_0.npz", "actions.npy")
    refused(lambda: import_histories("headless_ad", [folder], tmp_path / "h", {}), "trajectories_0", "cannot be read")
    log = plain(tmp_path / "e", episodes=90)
    damaged(log / "a.npz", "action.npy")
    refused(lambda: import_histories("npz", [log], tmp_path / "h", {}), "a.npz", "cannot be read")
    assert not (tmp_path / "h").exists() or files(tmp_path / "h") == {}


def test_who_has_actions_that_never_differ_is_asked_for_their_bounds(tmp_path):
    folder = plain(tmp_path / "d")
    x: dict[str, Any] = dict(np.load(folder / "a.npz"))
    x["action"] = np.zeros((*x["reward"].shape, 2))
    np.savez(folder / "a.npz", **x)
    refused(lambda: import_histories("npz", [folder], tmp_path / "h", {}), "component 0", "say low= and high=")
    import_histories("npz", [folder], tmp_path / "h", {"low": -1.0, "high": 1.0})


@pytest.mark.skipif(not H5, reason="needs h5py")
def test_bounds_are_found_in_more_files_than_are_kept_open(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "MOST", 1)
    for i in range(3):
        vintix(tmp_path / f"d/task-{i}", seed=i)
    found = import_histories("vintix", [tmp_path / "d"], tmp_path / "h", {})
    action: Any = found.manifest.spec.action
    done = found.read().transition.action
    np.testing.assert_array_equal(action.bounds, (done.min(axis=(0, 1)), done.max(axis=(0, 1))))
