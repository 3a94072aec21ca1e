"""Dark rooms of RA-DT: each guess that goes wrong, on a file in that layout."""

import json
from typing import Any

import numpy as np
from history_helpers import refused
from public_layouts import RA_DT, ra_dt, ra_dt_episodes, room

from ad_jax.formats.importing import import_histories
from ad_jax.history.info import info


def read(kind, path, out, **options):
    return import_histories(kind, [path], out, options)


def test_names_of_ra_dt_are_turned_around_and_compared_with_rewards(tmp_path):
    """(a) A name holds (column, row), observations (row, column); (e) other actions."""
    found = read("ra_dt", ra_dt(tmp_path / "d"), tmp_path / "h")
    assert sorted(found.task_ids) == ["goal-2-7", "goal-5-1"]
    x = room((2, 7), RA_DT, 3, size=10, steps=100, start=(0, 0), greedy=2.0)
    row = found.task_ids.index("goal-2-7")
    t = found.read().transition
    np.testing.assert_array_equal(t.observation[row], x["observation"].reshape(-1, 2))
    np.testing.assert_array_equal(t.action[row] == 0, x["action"].reshape(-1) == 4)
    folder = ra_dt(tmp_path / "e", goals=((2, 7),))
    (folder / "[0,0]_[7,2].npz").rename(folder / "[0,0]_[2,7].npz")
    refused(lambda: read("ra_dt", folder, tmp_path / "g"), "rewards come in [[2, 7]]", "goal is [7, 2]")


def test_next_observations_of_ra_dt_are_not_the_last_of_an_episode(tmp_path):
    """(b) They are what the reset gave, so they are not stored."""
    found = read("ra_dt", ra_dt(tmp_path / "d"), tmp_path / "h")
    assert found.read().transition.next_observation is None
    assert not found.manifest.provenance["imported"]["terminal_observation"]


def test_a_last_step_of_ra_dt_that_pays_leads_nobody_knows_where(tmp_path):
    """(g) The last episode may not end; what follows its last step is not in the file."""
    folder = ra_dt(tmp_path / "d", goals=((0, 1),))
    x = {name: y[:200] for name, y in np.load(folder / "[0,0]_[1,0].npz").items()}
    x["observations"][-1], x["actions"][-1], x["rewards"][-1], x["dones"][-1] = (0, 0), 1, 1, False
    x["observations"][-2], x["actions"][-2], x["rewards"][-2] = (0, 0), 4, 0
    x["observations"][-3], x["actions"][-3], x["rewards"][-3] = (0, 1), 3, 0
    x["observations"][-4], x["actions"][-4], x["rewards"][-4] = (0, 1), 4, 1
    keep = np.r_[0:100, 100:102, 196:200]
    start = {"observations": [(0, 0), (0, 0)], "actions": [[4], [1]], "rewards": [0, 1]}
    for name, y in start.items():
        x[name][100:102] = y
    np.savez(folder / "[0,0]_[1,0].npz", **{name: y[keep] for name, y in x.items()})
    found = read("ra_dt", folder, tmp_path / "h")
    assert found.task_ids == ["goal-0-1"] and found.read().transition.reward[0, -1] == 1


def test_rewards_of_ra_dt_to_which_a_value_was_added_are_refused(tmp_path):
    """(c)"""
    rewards = np.zeros(300, np.float32)
    rewards[99] = 0.37
    folder = ra_dt(tmp_path / "d", rewards=rewards)
    refused(lambda: read("ra_dt", folder, tmp_path / "h"), "reward 0.37 at step 99", "value estimate")


def test_files_of_one_episode_each_follow_their_numbers(tmp_path):
    """(h) Unless episode_trjids.json says otherwise."""
    place = ra_dt_episodes(tmp_path / "d")
    x = room((2, 7), RA_DT, 12, size=10, steps=100, start=(0, 0), greedy=1.0)
    found = read("ra_dt", place, tmp_path / "h")
    np.testing.assert_array_equal(found.read().transition.reward[0], x["reward"].reshape(-1))
    (place / "episode_trjids.json").write_text(json.dumps({str(i): 11 - i for i in range(12)}))
    turned = read("ra_dt", place, tmp_path / "g")
    np.testing.assert_array_equal(turned.read().transition.reward[0], x["reward"][::-1].reshape(-1))
    (place / "episode_trjids.json").write_text(json.dumps({"0": 0}))
    refused(lambda: read("ra_dt", place, tmp_path / "f"), "episode_trjids.json says no number of")


def test_two_episodes_may_be_alike(tmp_path):
    """As those of a policy that has converged are. Two tasks that are copies are one that was written twice."""
    place = ra_dt_episodes(tmp_path / "d")
    (place / "10.npz").write_bytes((place / "11.npz").read_bytes())
    t = read("ra_dt", place, tmp_path / "h").read().transition
    np.testing.assert_array_equal(t.action[0, 1000:1100], t.action[0, 1100:])
    folder = ra_dt(tmp_path / "e", goals=((2, 7),))
    (folder / "[0,0]_[1,1].npz").write_bytes((folder / "[0,0]_[7,2].npz").read_bytes())
    refused(lambda: read("ra_dt", folder, tmp_path / "g"), "once more, byte for byte")


def test_episodes_that_were_sorted_by_return_are_refused(tmp_path):
    """(h) Sorting puts the lowest first. A few that only rise, or those that only fall, may well be in time."""
    place = ra_dt_episodes(tmp_path / "d", episodes=40, by_return=True)
    refused(lambda: read("ra_dt", place, tmp_path / "h"), "sort_by_return", "never fall", "in_time=true")
    read("ra_dt", place, tmp_path / "h", in_time=True)
    (place / "episode_trjids.json").write_text(json.dumps({str(i): 39 - i for i in range(40)}))
    read("ra_dt", place, tmp_path / "g")
    few = ra_dt_episodes(tmp_path / "e", by_return=True)
    read("ra_dt", few, tmp_path / "f")
    for i in range(12):  # numbers from the highest on
        (few / f"{i}.npz").rename(few / f"{23 - i}.npz")
    read("ra_dt", few, tmp_path / "k")


def test_pickled_buffers_are_refused(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/buffer.pkl").write_bytes(b"")
    refused(lambda: read("ra_dt", tmp_path / "d", tmp_path / "h"), "pickle", "numpy.savez")


def test_records_of_ra_dt_are_read_and_a_dict_is_refused(tmp_path):
    """`.npy` files lay beside the others and were passed over."""
    folder = ra_dt(tmp_path / "d")
    expected = read("ra_dt", folder, tmp_path / "h").read().transition
    for path in folder.iterdir():
        with np.load(path) as held:
            records = np.rec.fromarrays(
                [held[name] for name in held.files if name != "next_observations"],
                dtype=[
                    (name, held[name].dtype, held[name].shape[1:]) for name in held.files if name != "next_observations"
                ],
            )
        np.save(path.with_suffix(".npy"), np.asarray(records))
        path.unlink()
    found = read("ra_dt", folder, tmp_path / "g").read().transition
    np.testing.assert_array_equal(found.observation, expected.observation)
    np.testing.assert_array_equal(found.action, expected.action)
    np.save(folder / "[0,0]_[1,1].npy", np.array({"observations": 0}))
    refused(lambda: read("ra_dt", folder, tmp_path / "f"), "[0,0]_[1,1].npy", "pickle", "numpy.savez")
    np.save(folder / "[0,0]_[1,1].npy", np.zeros(3))
    refused(lambda: read("ra_dt", folder, tmp_path / "f"), "[0,0]_[1,1].npy", "records with a field for each array")


def test_episodes_of_ra_dt_in_other_files_are_refused_by_name(tmp_path):
    place = ra_dt_episodes(tmp_path / "d")
    (place / "12.hdf5").write_bytes(b"")
    refused(lambda: read("ra_dt", place, tmp_path / "h"), "12.hdf5", "Save each as .npz")


def test_files_of_data_that_are_passed_over_are_told_of(tmp_path, capsys):
    folder = ra_dt(tmp_path / "d", goals=((2, 7),))
    (folder / "b.parquet").write_bytes(b"")
    (folder / "notes.txt").write_text("none of the data")
    read("ra_dt", folder, tmp_path / "h")
    told = capsys.readouterr().out
    assert "not read, for they are no part of ra_dt" in told and "b.parquet" in told and "notes.txt" not in told


def test_a_grid_of_ra_dt_that_is_not_square_is_opaque(tmp_path):
    """No family here has it: its tasks are ids, its goals and cells are still looked at."""
    folder = tmp_path / "d"
    folder.mkdir()
    cells = np.array([[0, 0], [0, 1], [0, 30], [1, 30], [1, 30]], np.float32)
    held: dict[str, Any] = {"actions": np.array([1, 1, 2, 4, 4])[:, None], "rewards": np.array([0.0, 0, 1, 1, 1])}
    held |= {"observations": cells, "dones": np.array([False] * 4 + [True])}
    np.savez(folder / "[0,0]_[30,1].npz", **held)
    refused(lambda: read("ra_dt", folder, tmp_path / "h", size=20), "[0.0, 30.0] at step 2", "20 x 20", "columns")
    found = read("ra_dt", folder, tmp_path / "h", size=20, columns=40)
    assert found.task_ids == ["goal-1-30"]
    m = found.manifest
    assert (m.family["name"], m.spec.values, m.episode_length) == ("opaque", (20, 40), 800)
    assert found.read().transition.action.tolist() == [[3, 3, 1, 0, 0]]
    assert "no world here has 20 x 40 cells" in info(tmp_path / "h")


def test_key_to_door_of_ra_dt_is_refused_by_its_name(tmp_path):
    folder = ra_dt(tmp_path / "d", goals=((2, 7),))
    (folder / "[0,0]_[7,2].npz").rename(folder / "[0,0]_[2,0]_[7,2].npz")
    refused(lambda: read("ra_dt", folder, tmp_path / "h"), "Key-to-Door", "npz")
