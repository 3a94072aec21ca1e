"""XLand-100B, Vintix, ICRL4AHT, OmniRL and Minari: each guess that goes wrong, on a file in that layout."""

import importlib.util
import json

import numpy as np
import pytest
from history_helpers import files, refused
from public_layouts import icrl4aht, omnirl, vintix, watermaze, xland

from ad_jax.errors import ConfigError
from ad_jax.formats.base import library
from ad_jax.formats.files_h5 import row
from ad_jax.formats.importing import import_histories
from ad_jax.history.info import info
from ad_jax.types import Box, Discrete, Spec

pytestmark = pytest.mark.skipif(importlib.util.find_spec("h5py") is None, reason="needs h5py")


def read(kind, path, out, **options):
    return import_histories(kind, [path], out, options)


def test_groups_of_xland_are_learners_in_natural_order(tmp_path):
    """(c, d, e) A group's number is not its ruleset's, "10" comes after "2", its rows are one learner's actors."""
    held = xland(tmp_path / "a.hdf5", groups=3, order=[2, 10, 1])
    found = read("xland", tmp_path / "a.hdf5", tmp_path / "h")
    ids = [f"XLand-MiniGrid-R1-9x9:medium_1m_v2:{ruleset}" for ruleset in (1002, 1000, 1001)]
    assert found.task_ids == [task for task in ids for _ in range(4)]
    h = found.read()
    np.testing.assert_array_equal(h.transition.observation[:4], held[2]["states"])
    np.testing.assert_array_equal(h.transition.reward[4:8], held[0]["rewards"])
    assert h.transition.reward.dtype == np.float16
    assert h.actor.tolist() == [0, 1, 2, 3] * 3
    assert found.manifest.source["actors"] == 4
    assert found.manifest.spec == Spec(Discrete(6), (5, 5), (156,) * 25)


def test_success_and_time_limit_of_xland_are_told_apart_by_the_reward(tmp_path):
    (held, _) = xland(tmp_path / "a.hdf5")
    t = read("xland", tmp_path / "a.hdf5", tmp_path / "h").read().transition
    paid = held["dones"] & (held["rewards"] > 0)
    np.testing.assert_array_equal(t.terminated[:4], paid)
    np.testing.assert_array_equal(t.truncated[:4], held["dones"] & ~paid)
    assert paid.any() and (held["dones"] & ~paid).any()


def test_a_benchmark_of_which_nobody_knows_the_version_is_refused(tmp_path):
    """(b) Ids mean other tasks from 0.9.2 on."""
    xland(tmp_path / "a.hdf5", benchmark="trivial-21k")
    refused(lambda: read("xland", tmp_path / "a.hdf5", tmp_path / "h"), "trivial_21k", "0.9.2", "benchmark=NAME_vN")
    found = read("xland", tmp_path / "a.hdf5", tmp_path / "h", benchmark="trivial_21k_v1")
    assert found.task_ids[0] == "XLand-MiniGrid-R1-9x9:trivial_21k_v1:1000"


def test_states_of_fourteen_colors_are_refused(tmp_path):
    """(a) Before 0.7.0 a state was tile * 14 + color."""
    xland(tmp_path / "a.hdf5", groups=1, rows=1, states=np.full((1, 60, 5, 5), 12 * 14 + 13, np.uint8))
    refused(lambda: read("xland", tmp_path / "a.hdf5", tmp_path / "h"), "state 181", "14 colors")
    assert files(tmp_path / "h") == {}


def test_the_longest_episode_of_xland_can_be_said(tmp_path):
    """That of the first history is not always the longest of all, and the error asks for the option."""
    late = np.zeros((4, 60), bool)
    late[0, 9::10] = late[1:, 29::30] = True
    xland(tmp_path / "a.hdf5", groups=1, dones=late)
    refused(lambda: read("xland", tmp_path / "a.hdf5", tmp_path / "h"), "30 steps", "at most 10", "episode_length")
    found = read("xland", tmp_path / "a.hdf5", tmp_path / "h", episode_length=30)
    assert found.manifest.episode_length == 30


def test_what_xlands_source_remembers_and_its_labels_are_is_recorded(tmp_path):
    """(f, h, i) A recurrent policy that is never reset; labels of it; action 0 is an action."""
    held = xland(tmp_path / "a.hdf5")
    found = read("xland", tmp_path / "a.hdf5", tmp_path / "h")
    said = found.manifest.provenance["imported"]
    assert "never reset" in said["memory"] and "expert_actions" in said["labels"]
    assert not said["terminal_observation"]
    assert (found.read().transition.action == 0).sum() == sum((x["actions"] == 0).sum() for x in held)
    assert "never reset" in info(tmp_path / "h")


def test_a_cut_file_of_hdf5_is_named(tmp_path):
    xland(tmp_path / "a.hdf5")
    (tmp_path / "b.hdf5").write_bytes((tmp_path / "a.hdf5").read_bytes()[:5000])
    refused(lambda: read("xland", tmp_path / "b.hdf5", tmp_path / "h"), "b.hdf5", "it is cut")
    xland(tmp_path / "c.hdf5", rewards=np.zeros((4, 59), np.float16))
    refused(lambda: read("xland", tmp_path / "c.hdf5", tmp_path / "h"), "c.hdf5[0]: rewards")
    refused(lambda: read("dicp", tmp_path / "a.hdf5", tmp_path / "h"))


PACKED = [{"compression": "gzip"}, {"compression": "lzf"}, {"compression": "gzip", "shuffle": True}]


@pytest.mark.parametrize("packed", PACKED)
def test_a_row_is_what_h5py_reads(tmp_path, packed):
    """Whatever packs it, chunks that no row fills and chunks that were never written included."""
    x = np.random.default_rng(0).integers(0, 99, (3, 50, 2)).astype(np.int16)
    with library("h5py").File(tmp_path / "a.hdf5", "w") as file:
        file.create_dataset("x", data=x, chunks=(1, 16, 2), **packed)
        file.create_dataset("unwritten", (3, 50, 2), np.int16, chunks=(1, 16, 2), **packed)
        file["unwritten"][1, 20:30] = x[1, 20:30]
        file.create_dataset("wide", data=x, chunks=(2, 16, 2), **packed)
    with library("h5py").File(tmp_path / "a.hdf5") as file:
        for name in ("x", "unwritten", "wide"):
            for number in range(3):
                np.testing.assert_array_equal(row(file[name], number), file[name][number])


def test_a_chunk_that_is_damaged_is_named(tmp_path):
    xland(tmp_path / "a.hdf5", groups=1, rows=2)
    with library("h5py").File(tmp_path / "a.hdf5") as file:
        at = file["0/states"].id.get_chunk_info(0)
    raw = bytearray((tmp_path / "a.hdf5").read_bytes())
    raw[at.byte_offset + 40 : at.byte_offset + 60] = bytes(20)
    (tmp_path / "a.hdf5").write_bytes(raw)
    refused(lambda: read("xland", tmp_path / "a.hdf5", tmp_path / "h"), "a.hdf5[0], row", "cannot be read")
    assert files(tmp_path / "h") == {}


def test_groups_of_vintix_follow_their_first_step(tmp_path):
    """(a) HDF5 lists "20-24" before "5-9"; (b) the number after the dash is the last step's, or the one after it."""
    folder = vintix(tmp_path / "reach-v2", pieces=(5, 15, 10))
    found = read("vintix", folder, tmp_path / "h")
    assert found.task_ids == ["reach-v2"]
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(found.read().transition.observation[0], rng.normal(size=(30, 3)).astype(np.float32))


def test_episodes_of_vintix_begin_where_step_num_is_zero(tmp_path):
    """(c) There is no done, nobody knows why an episode ended, and the last one is cut."""
    found = read("vintix", vintix(tmp_path / "a", episode=7), tmp_path / "h")
    t = found.read().transition
    assert np.flatnonzero(t.truncated[0]).tolist() == [6, 13, 20, 27]
    assert not t.terminated.any()
    assert found.manifest.provenance["imported"]["termination"] == "not known"
    assert found.manifest.episode_length == 7


def test_vintix_is_raw_and_its_demonstrators_do_not_learn(tmp_path):
    """(d, e, f), and the labels of Vintix II are not what was done."""
    found = read("vintix", vintix(tmp_path / "a", labels=True), tmp_path / "h", low=-1.0, high=1.0)
    said = found.manifest.provenance["imported"]
    assert "demonstrator_actions" in said["labels"]
    assert any("raw" in note for note in said["notes"]) and any("no algorithm" in note for note in said["notes"])
    assert found.manifest.spec.action == Box((2,), -1.0, 1.0)


def test_a_gap_in_vintix_is_named(tmp_path):
    h5py = library("h5py")
    folder = vintix(tmp_path / "a", pieces=(10, 10, 10))
    with h5py.File(folder / "trajectory_0.h5", "a") as file:
        del file["10-19"]
    refused(lambda: read("vintix", folder, tmp_path / "h"), "group 20-29 does not begin at step 10")
    folder = vintix(tmp_path / "b")
    with h5py.File(folder / "trajectory_0.h5", "a") as file:
        file["0-19/step_num"][3] = 9
    refused(lambda: read("vintix", folder, tmp_path / "h"), "step_num is 9 after 2 at step 3")


def test_the_watermaze_of_ad_eps_is_opaque_and_its_pictures_are_turned(tmp_path):
    """Channels come first there; a goal is the group's own; an end that pays is told from the time limit."""
    held = watermaze(tmp_path / "d/data.hdf5")
    found = read("ad_eps_watermaze", tmp_path / "d", tmp_path / "h", episode_length=6)
    assert found.task_ids == ["goal-320.5--100", "goal--7-401.25"]
    assert found.manifest.spec == Spec(Discrete(8), (4, 5, 3), None, pixels=True)
    t = found.read().transition
    np.testing.assert_array_equal(t.observation[1], held[1]["obs"].transpose(0, 2, 3, 1))
    assert np.flatnonzero(t.terminated[0]).tolist() == [3, 12] and np.flatnonzero(t.truncated[0]).tolist() == [9]
    assert "DeepMind Lab's" in info(tmp_path / "h")


def test_a_watermaze_that_ends_within_an_episode_is_refused(tmp_path):
    """Each is whole there, so that the limit is another, or the file is cut."""
    watermaze(tmp_path / "a.hdf5", lengths=(6, 6))
    path = tmp_path / "a.hdf5"
    refused(lambda: read("ad_eps_watermaze", path, tmp_path / "h", episode_length=5), "last 2 steps end no episode")
    watermaze(tmp_path / "b.hdf5", action=np.zeros(3, int))
    refused(lambda: read("ad_eps_watermaze", tmp_path / "b.hdf5", tmp_path / "h"), "b.hdf5[0]", "13", "3 and 13")


def test_streams_of_icrl4aht_are_read_and_their_ends_doubted(tmp_path):
    """(a) A done may be the end of a recording; (b) streams may be selected; (c) labels; (d) action 0 is an action."""
    held = icrl4aht(tmp_path / "a.hdf5")
    found = read("icrl4aht", tmp_path / "a.hdf5", tmp_path / "h")
    np.testing.assert_array_equal(found.read().transition.action[1], held[1]["actions"])
    assert found.task_ids == ["kitchen-0", "kitchen-1"]
    assert found.manifest.spec.action == Discrete(6)
    said = found.manifest.provenance["imported"]
    assert said["termination"] == "not known" and "expert_actions" in said["labels"]
    assert any("end of a recording" in note for note in said["notes"])
    icrl4aht(tmp_path / "b.hdf5", version=2)
    refused(lambda: read("icrl4aht", tmp_path / "b.hdf5", tmp_path / "g"), "schema_version 2, expected 1")


def test_records_of_one_name_in_two_folders_are_two_tasks(tmp_path):
    folders = [omnirl(tmp_path / run / "record-0", seed=seed) for seed, run in enumerate("ab")]
    found = import_histories("omnirl", folders, tmp_path / "h", {})
    assert found.task_ids == ["a/record-0", "b/record-0"]


def test_folders_of_one_name_are_two_tasks(tmp_path):
    """So are groups of one number, where no attribute says what the task is."""
    folders = [vintix(tmp_path / run / "reach-v2", seed=seed) for seed, run in enumerate("ab")]
    assert import_histories("vintix", folders, tmp_path / "h", {"low": -1.0, "high": 1.0}).task_ids == [
        "a/reach-v2",
        "b/reach-v2",
    ]
    paths = [tmp_path / "a.hdf5", tmp_path / "b.hdf5"]
    for seed, path in enumerate(paths):
        icrl4aht(path, streams=1, seed=seed)
        with library("h5py").File(path, "a") as file:
            del file["0"].attrs["task_id"]
    assert import_histories("icrl4aht", paths, tmp_path / "g", {}).task_ids == ["a.hdf5/0", "b.hdf5/0"]


def test_two_records_of_omnirl_may_have_one_array_alike(tmp_path):
    """Where nothing is ever earned, rewards are."""
    for seed in range(2):
        folder = omnirl(tmp_path / f"record-{seed}", seed=seed)
        np.save(folder / "rewards.npy", np.zeros(9, np.float32))
    assert len(read("omnirl", tmp_path, tmp_path / "h").task_ids) == 2


def test_the_rows_of_ends_in_omnirl_are_no_steps(tmp_path):
    """(a) One row more at each end, (b) which says that it ended."""
    folder = omnirl(tmp_path / "record-0", episodes=(4, 3, 4))
    found = read("omnirl", folder, tmp_path / "h", num_states=16)
    t = found.read().transition
    assert t.action.shape == (1, 11)
    assert np.flatnonzero(t.truncated[0]).tolist() == [3, 6, 10]
    assert found.manifest.spec == Spec(Discrete(5), (), (16,))
    assert int(t.action.max()) == 4


def test_omnirls_labels_are_what_was_done_and_its_prompts_no_text(tmp_path):
    """(c, d, e)"""
    found = read("omnirl", omnirl(tmp_path / "record-0"), tmp_path / "h")
    said = found.manifest.provenance["imported"]
    assert "what was done" in said["labels"] and "between episodes" in said["memory"]
    refused(lambda: read("omnirl", tmp_path / "record-0", tmp_path / "g", num_actions=9), "no row has action 9")
    np.save(tmp_path / "record-0/rewards.npy", np.array([None, 1]))
    refused(lambda: read("omnirl", tmp_path / "record-0", tmp_path / "g"), "pickle")


def minari(folder, episodes=(4, 3), jpeg=False, still=False, acts=None):
    """Write a dataset by Minari's own storage."""
    try:
        library("minari")
    except ConfigError as error:
        pytest.skip(str(error))
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer  # pyright: ignore[reportMissingImports]
    from minari.dataset.minari_storage import MinariStorage  # pyright: ignore[reportMissingImports]

    data = folder / "data"
    data.mkdir(parents=True)
    shape, dtype = ((40, 40, 3), np.uint8) if jpeg else ((2,), np.float32)
    seen = spaces.Box(0, 255, shape, dtype) if jpeg else spaces.Box(-9, 9, shape, dtype)
    storage = MinariStorage.new(data, seen, acts or spaces.Discrete(3), data_format="hdf5")
    buffers, rng = [], np.random.default_rng(0)
    for number, steps in enumerate(episodes):
        flags = np.arange(1, steps + 1) == steps
        observation = (rng.random((steps + 1, *shape)) * 9 * (not still)).astype(dtype)
        acted, paid = rng.integers(0, 3, (steps, *(acts.shape if acts else ()))), rng.normal(size=steps)
        ends = {"terminations": flags & (number % 2 == 0), "truncations": flags & (number % 2 == 1)}
        buffers.append(EpisodeBuffer(observations=observation, actions=acted, rewards=paid, **ends))
    storage.update_episodes(buffers)
    return buffers


def test_a_dataset_of_minari_is_one_history_with_its_last_observations(tmp_path):
    buffers = minari(tmp_path / "d", episodes=tuple([3] * 12))
    found = read("minari", tmp_path / "d", tmp_path / "h")
    t = found.read().transition
    assert t.action.shape == (1, 36)
    for name, field in (("observation", slice(-1)), ("next_observation", slice(1, None))):
        expected = np.concatenate([buffer.observations[field] for buffer in buffers])
        np.testing.assert_array_equal(getattr(t, name)[0], expected)
    assert t.terminated.sum() == t.truncated.sum() == 6
    assert found.manifest.spec == Spec(Discrete(3), (2,), None)
    assert found.manifest.next_observation


def test_datasets_of_one_name_in_two_namespaces_are_two_tasks(tmp_path):
    for namespace, episodes in (("mine", (4, 3)), ("yours", (3, 4))):
        minari(tmp_path / namespace / "log-v0", episodes)
    found = read("minari", tmp_path, tmp_path / "h")
    assert found.task_ids == ["mine/log-v0", "yours/log-v0"]


@pytest.mark.parametrize("still", [False, True])
def test_pictures_that_minari_has_encoded_are_refused(tmp_path, still):
    """Also those of one size, which lie there as if each were a vector of so many numbers."""
    pytest.importorskip("PIL")
    minari(tmp_path / "d", jpeg=True, still=still)
    refused(lambda: read("minari", tmp_path / "d", tmp_path / "h"), "JPEG", "jpeg_encoding=False")


def test_a_dataset_that_lost_an_episode_is_named(tmp_path):
    minari(tmp_path / "d")
    meta = json.loads((tmp_path / "d/data/metadata.json").read_text())
    (tmp_path / "d/data/metadata.json").write_text(json.dumps(meta | {"total_episodes": 3}))
    refused(lambda: read("minari", tmp_path / "d", tmp_path / "h"), "says 3, and 2 are there")
    (tmp_path / "d/data/metadata.json").write_text(json.dumps(meta | {"data_format": "arrow"}))
    refused(lambda: read("minari", tmp_path / "d", tmp_path / "h"), "'arrow', expected hdf5")


def test_an_episode_of_minari_ends_where_the_next_begins(tmp_path):
    """Also where neither flag says so, which its storage lets pass: two episodes would be one."""
    minari(tmp_path / "d", episodes=(4, 3, 5))
    library("minari")
    with library("h5py").File(tmp_path / "d/data/main_data.hdf5", "a") as file:
        for flag in ("terminations", "truncations"):
            file["episode_1"][flag][...] = False
    t = read("minari", tmp_path / "d", tmp_path / "h").read().transition
    assert np.flatnonzero(t.done[0]).tolist() == [3, 6, 11]
    assert np.flatnonzero(t.truncated[0]).tolist() == [6]


def test_actions_of_minari_in_several_parts_are_refused(tmp_path):
    spaces = pytest.importorskip("gymnasium").spaces
    minari(tmp_path / "d", acts=spaces.MultiDiscrete([3, 3]))
    refused(lambda: read("minari", tmp_path / "d", tmp_path / "h"), "MultiDiscrete", "Box or Discrete")
