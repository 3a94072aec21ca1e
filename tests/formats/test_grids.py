"""Dark grids of AD-epsilon and DICP, and Headless-AD: each guess that goes wrong, on a file in that layout."""

import itertools
import json

import numpy as np
import pytest
from history_helpers import files, refused
from public_layouts import (
    AD_EPS,
    DICP,
    ad_eps,
    dicp,
    key_to_door,
    metadata,
    room,
    save_ad_eps,
)

from ad_jax.formats.importing import import_histories
from ad_jax.history.info import info

GOALS = [(2, 6), (7, 1), (4, 4)]


def read(kind, path, out, **options):
    return import_histories(kind, [path], out, options)


def test_each_file_of_ad_eps_is_a_history_of_its_goal(tmp_path):
    """(a) Its own loader joins them all."""
    found = read("ad_eps", ad_eps(tmp_path / "d", GOALS, greedy=2.0), tmp_path / "h")
    assert found.task_ids == ["goal-2-6", "goal-7-1", "goal-4-4"]
    assert found.manifest.family["options"]["start"] == "center"
    h = found.read()
    x = room(GOALS[1], AD_EPS, 3, seed=1, greedy=2.0)
    np.testing.assert_array_equal(h.transition.observation[1], x["observation"].reshape(-1, 2))
    np.testing.assert_array_equal(h.transition.reward[1], x["reward"].reshape(-1))
    up, ours = x["action"].reshape(-1) == 1, h.transition.action[1]
    assert (ours[up] == 2).all() and up.any()
    assert h.transition.truncated.sum() == 9 and not h.transition.terminated.any()
    assert (found.returns.optimal, found.returns.final) > (0, 0)
    assert "time limit" in info(tmp_path / "h")


def test_one_metadata_file_of_ad_eps_may_be_one_history_in_pieces(tmp_path):
    """(b) `goal` is one cell then, and the files follow each other in time."""
    x = room((2, 6), AD_EPS, 4, greedy=2.0)
    (tmp_path / "d").mkdir()
    for i in range(2):
        part = {name: y[2 * i : 2 * i + 2] for name, y in x.items()}
        save_ad_eps(tmp_path / f"d/trajectories_{i}.npz", part, flat=True)
    metadata(tmp_path / "d", ["trajectories_0.npz", "trajectories_1.npz"], [2, 6])
    found = read("ad_eps", tmp_path / "d", tmp_path / "h")
    np.testing.assert_array_equal(found.read().transition.reward, x["reward"].reshape(1, -1))


def test_two_pieces_of_one_history_may_be_alike(tmp_path):
    x = room((2, 6), AD_EPS, 2, greedy=2.0)
    (tmp_path / "d").mkdir()
    for i in range(2):
        save_ad_eps(tmp_path / f"d/trajectories_{i}.npz", x, flat=True)
    metadata(tmp_path / "d", ["trajectories_0.npz", "trajectories_1.npz"], [2, 6])
    assert read("ad_eps", tmp_path / "d", tmp_path / "h").manifest.steps == 80
    assert read("headless_ad", tmp_path / "d", tmp_path / "g").manifest.steps == 80


def test_two_goals_are_not_a_key_and_its_door(tmp_path):
    """(b) Both look like two cells; the world says which it is, and its dynamics would show another."""
    folder = ad_eps(tmp_path / "d", GOALS[:2], greedy=2.0)
    assert read("ad_eps", folder, tmp_path / "h").task_ids == ["goal-2-6", "goal-7-1"]
    told = refused(lambda: read("ad_eps", folder, tmp_path / "k", env="dark_key_to_door"), "key-2-6-door-7-1")
    assert "dark_key_to_door" in told.lower() or "DarkKeyToDoor" in told
    (tmp_path / "one").mkdir()
    save_ad_eps(tmp_path / "one/trajectories_0.npz", room((2, 6), AD_EPS, 2))
    metadata(tmp_path / "one", ["trajectories_0.npz"], [[2, 6], [7, 1]])
    refused(lambda: read("ad_eps", tmp_path / "one", tmp_path / "g"), "a goal for each of 1 files", "dark_key_to_door")


def test_files_that_are_named_twice_were_overwritten(tmp_path):
    """(c) Three hex digits: at 65 goals the chance of it is about two in five."""
    folder = ad_eps(tmp_path / "d", GOALS)
    metadata(folder, ["trajectories_000.npz", "trajectories_001.npz", "trajectories_000.npz"], [list(g) for g in GOALS])
    refused(
        lambda: read("ad_eps", folder, tmp_path / "h"), "trajectories_000.npz is named more than once", "hex digits"
    )
    assert files(tmp_path / "h") == {}


def keyed(folder, key=(1, 2), door=(7, 5), swapped=False, keep_on=False, **changes):
    folder.mkdir()
    x = key_to_door(key, door, AD_EPS, 10, keep_on=keep_on)
    save_ad_eps(folder / "trajectories_00000.npz", x, flat=True, **changes)
    goal = [list(door), list(key)] if swapped else [list(key), list(door)]
    metadata(folder, ["trajectories_00000.npz"], goal)
    return x


def test_episodes_of_key_to_door_end_without_dones(tmp_path):
    """(d) They are commented out there: the door's reward ends an episode, or its 40th step."""
    x = keyed(tmp_path / "d")
    found = read("ad_eps", tmp_path / "d", tmp_path / "h", env="dark_key_to_door")
    t = found.read().transition
    assert found.task_ids == ["key-1-2-door-7-5"]
    assert t.done.sum() == 10
    earned = np.diff(np.cumsum(x["reward"])[t.done[0]], prepend=0)
    np.testing.assert_array_equal(t.terminated[0][t.done[0]], earned == 2)
    np.testing.assert_array_equal(t.reward[0], x["reward"])


def test_without_dones_a_door_that_ends_nothing_ends_no_episode(tmp_path):
    keyed(tmp_path / "d", keep_on=True)
    found = read("ad_eps", tmp_path / "d", tmp_path / "h", env="dark_key_to_door", reward="once")
    t = found.read().transition
    assert np.flatnonzero(t.done[0]).tolist() == list(range(39, 400, 40)) and not t.terminated.any()


def test_arrays_of_objects_are_refused_with_what_converts_them(tmp_path):
    """(d) Ragged episodes are pickled."""
    ragged = np.empty(2, object)
    ragged[:] = [np.zeros(3), np.zeros(5)]
    keyed(tmp_path / "d")
    np.savez(tmp_path / "d/trajectories_00000.npz", states=ragged, actions=ragged, rewards=ragged)
    refused(lambda: read("ad_eps", tmp_path / "d", tmp_path / "h", env="dark_key_to_door"), "pickle", "numpy.savez")


def test_a_goal_of_ad_eps_is_key_and_then_door(tmp_path):
    """(e) A comment there says otherwise."""
    keyed(tmp_path / "d", swapped=True)
    refused(
        lambda: read("ad_eps", tmp_path / "d", tmp_path / "h", env="dark_key_to_door"), "ey and door are in each other"
    )


def test_a_random_policy_is_told_of(tmp_path, capsys):
    """(h) The stock configuration never lowers eps."""
    folder = ad_eps(tmp_path / "d", GOALS[:1])
    save_ad_eps(folder / "trajectories_000.npz", room(GOALS[0], AD_EPS, 3), eps=np.ones((3, 20)))
    read("ad_eps", folder, tmp_path / "h")
    assert "eps is 1 at every step" in capsys.readouterr().out


WRONG = {
    "rows": ({"states": np.full((3, 20), 81.0)}, ("no cell of a grid of size=9",)),
    "half cells": ({"states": np.full((3, 20), 0.5)}, ("state 0.5",)),
    "actions": ({"actions": np.full((3, 20), 5)}, ("action 5",)),
    "ends": ({"dones": np.full((3, 20), 2)}, ("expected 0 and 1",)),
    "no ends": ({"dones": None}, ("no dones",)),
    "no rewards": ({"rewards": None}, ("without rewards",)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_of_ad_eps_that_cannot_be_is_one_error(tmp_path, name):
    changes, words = WRONG[name]
    folder = ad_eps(tmp_path / "d", GOALS[:1], **changes)
    refused(lambda: read("ad_eps", folder, tmp_path / "h"), "trajectories_000", *words)
    assert files(tmp_path / "h") == {}


def test_metadata_that_cannot_be_is_one_error(tmp_path):
    folder = ad_eps(tmp_path / "d", GOALS[:1])
    metadata(folder, ["../outside.npz"], [[2, 6]])
    refused(lambda: read("ad_eps", folder, tmp_path / "h"), "no file beside it")
    (folder / "metadata.metadata").write_text(json.dumps({"goal": [2, 6]}))
    refused(lambda: read("ad_eps", folder, tmp_path / "h"), "ordered_trajectories")
    (folder / "metadata.metadata").write_text("{")
    refused(lambda: read("ad_eps", folder, tmp_path / "h"), "damaged")


def test_headless_ads_actions_are_those_of_one_environment_each(tmp_path):
    """(a) So each history is its own task; (b) the last episode may not end."""
    for i in range(2):
        (tmp_path / f"d/tabularQ-{i}").mkdir(parents=True)
        x = {name: y.reshape(-1, *y.shape[2:])[:-5] for name, y in room((2, 6), AD_EPS, 3, seed=i).items()}
        save_ad_eps(tmp_path / f"d/tabularQ-{i}/trajectories_55.npz", x, flat=True)
        metadata(tmp_path / f"d/tabularQ-{i}", ["trajectories_55.npz"], [2, 6])
    found = read("headless_ad", tmp_path / "d", tmp_path / "h", num_actions=21, num_states=81)
    assert found.task_ids == ["tabularQ-0", "tabularQ-1"]
    assert found.manifest.family["name"] == "opaque"
    assert found.read().transition.truncated.sum() == 4
    assert "cannot be compared" in info(tmp_path / "h")


def test_folders_of_headless_ad_of_one_name_are_two_tasks(tmp_path):
    for run, goal in (("a", (2, 6)), ("b", (3, 3))):
        folder = tmp_path / f"d/{run}/tabularQ"
        folder.mkdir(parents=True)
        save_ad_eps(folder / "trajectories_0.npz", room(goal, AD_EPS, 2), flat=True)
        metadata(folder, ["trajectories_0.npz"], list(goal))
    found = read("headless_ad", tmp_path / "d", tmp_path / "h", num_actions=21, num_states=81)
    assert found.task_ids == ["a/tabularQ", "b/tabularQ"]


def test_dicp_is_time_first_and_its_groups_are_tasks(tmp_path):
    """(a) time first; (c) other actions; (b) next_states at an end is the reset's."""
    pytest.importorskip("h5py")
    dicp(tmp_path / "a.hdf5")
    found = read("dicp", tmp_path / "a.hdf5", tmp_path / "h")
    assert found.task_ids == ["goal-0-3"] * 3 + ["goal-4-4"] * 3
    x, t = room((0, 3), DICP, 4, seed=31), found.read().transition
    np.testing.assert_array_equal(t.observation[1], x["observation"].reshape(-1, 2))
    np.testing.assert_array_equal(t.action[1] == 0, x["action"].reshape(-1) == 4)
    assert t.next_observation is None
    dicp(tmp_path / "b.hdf5", moves=AD_EPS)
    refused(lambda: read("dicp", tmp_path / "b.hdf5", tmp_path / "g"), "actions 0 to 4 are")
    dicp(tmp_path / "c.hdf5", learners=4, transposed=True)
    refused(lambda: read("dicp", tmp_path / "c.hdf5", tmp_path / "g"))


def test_permuted_rooms_of_dicp_are_those_of_their_permutations(tmp_path):
    """A group's number is that of a permutation; actions keep their numbers, and the task says what they do."""
    pytest.importorskip("h5py")
    dicp(tmp_path / "a.hdf5", tasks=(1, 77), learners=2, permuted=True)
    found = read("dicp", tmp_path / "a.hdf5", tmp_path / "h", env="dark_room_permuted")
    orders = list(itertools.permutations(range(5)))
    ours = ["".join(str((1, 2, 3, 4, 0)[move]) for move in orders[number]) for number in (1, 77)]
    assert found.task_ids == [f"goal-8-8-moves-{order}" for order in ours for _ in range(2)]
    m, t = found.manifest, found.read().transition
    assert (m.family["name"], m.episode_length, m.family["options"]["start"]) == ("dark_room_permuted", 50, "corner")
    x = room((8, 8), DICP[list(orders[77])], 4, steps=50, start=(0, 0), seed=771, greedy=1.0)
    np.testing.assert_array_equal(t.action[3], x["action"].reshape(-1))
    assert found.returns.final > 0
    dicp(tmp_path / "b.hdf5", tasks=(1,), moves=AD_EPS, permuted=True)
    told = refused(lambda: read("dicp", tmp_path / "b.hdf5", tmp_path / "g", env="dark_room_permuted"), "at step")
    assert "actions 0 to 4 are" not in told  # each task has its own order
    plain = {"episode_length": 50}
    refused(lambda: read("dicp", tmp_path / "a.hdf5", tmp_path / "g", **plain), "an episode begins at (0, 0)")


def test_a_file_of_dicp_that_was_made_anew_is_read_anew(tmp_path):
    pytest.importorskip("h5py")
    dicp(tmp_path / "a.hdf5", tasks=(3,))
    before = read("dicp", tmp_path / "a.hdf5", tmp_path / "h").read().transition.action
    dicp(tmp_path / "a.hdf5", tasks=(3,), episodes=5)
    after = read("dicp", tmp_path / "a.hdf5", tmp_path / "g").read().transition.action
    assert (before.shape, after.shape) == ((3, 80), (3, 100))


def test_dicps_worlds_begin_in_the_center(tmp_path):
    """(d)"""
    pytest.importorskip("h5py")
    dicp(tmp_path / "a.hdf5")
    refused(lambda: read("dicp", tmp_path / "a.hdf5", tmp_path / "h", start="corner"), "an episode begins at (4, 4)")
    refused(lambda: read("dicp", tmp_path / "a.hdf5", tmp_path / "h", size=6), "group 40", "has 36")
