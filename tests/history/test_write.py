"""Histories of somebody else's become a collection: bit for bit, killed and gone on with, or one error and nothing."""

import dataclasses
import itertools
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from history_helpers import files, refused
from public_layouts import AD_EPS, key_to_door, room

from ad_jax.envs.dark_key_to_door import DarkKeyToDoor
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.history import store, write
from ad_jax.history.foreign import History, Origin
from ad_jax.history.info import info
from ad_jax.history.write import write_histories
from ad_jax.types import Box, Discrete, Spec

SPEC = Spec(Discrete(4), (3,), None)
OURS = np.array([0, 2, 3, 1, 4])  # of AD_EPS
LIMIT = {"max_steps_in_episode": np.int32(20)}


def one(number: int, steps: int = 12, **changes) -> History:
    rng = np.random.default_rng(number)
    done = np.arange(1, steps + 1) % 4 == 0
    held: dict[str, Any] = {
        "observation": rng.normal(size=(steps, 3)),
        "action": rng.integers(0, 4, steps),
        "reward": rng.normal(size=steps),
        "truncated": done,
        "task_id": f"task-{number // 2}",
        "seed_index": number % 2,
    }
    return History(**(held | changes))


def lived(goal=(2, 6), turn=(0, 1), seed=0, **changes) -> History:
    """Return a history of Dark Room, whose cells are `turn`ed."""
    x = {name: y.reshape(-1, *y.shape[2:]) for name, y in room(goal, AD_EPS, 6, seed=seed, greedy=2.0).items()}
    held: dict[str, Any] = {
        "observation": x["observation"][:, list(turn)],
        "action": OURS[x["action"]],
        "reward": x["reward"],
    }
    held |= {"truncated": x["done"], "task": LIMIT | {"goal": np.array(goal)}}
    return History(**(held | changes))


@pytest.fixture
def small(monkeypatch):
    """Chunks of two histories."""
    monkeypatch.setattr(write, "CHUNK", 2 * 12 * (3 * 4 + 1 + 4 + 2) + 40)


def test_what_an_iterator_gives_is_what_is_read(tmp_path, small):
    found = write_histories(tmp_path / "h", map(one, range(5)), SPEC, count=5)
    assert found.manifest.chunks == 3
    h = found.read()
    for i in range(5):
        given = one(i)
        np.testing.assert_array_equal(h.transition.observation[i], np.asarray(given.observation, np.float32))
        np.testing.assert_array_equal(h.transition.action[i], given.action)
        np.testing.assert_array_equal(h.transition.truncated[i], given.truncated)
    assert h.task_ids == ["task-0", "task-0", "task-1", "task-1", "task-2"]
    assert h.seed_index.tolist() == [0, 1, 0, 1, 0]
    assert not h.transition.terminated.any()
    assert found.returns is not None
    assert found.verify() == []


def test_what_is_known_of_them_is_recorded(tmp_path):
    origin = Origin("mine", {"a.log": "12ab"}, memory="across episodes", notes=("two machines",))
    write_histories(tmp_path / "h", [one(0)], SPEC, origin=origin)
    held = json.loads((tmp_path / "h/manifest.json").read_text())["content"]
    assert held["source"] == {"name": "imported", "config": {"format": "mine"}, "actors": 1}
    assert held["family"] == {"name": "opaque", "options": {}}
    said = held["provenance"]["imported"]
    assert (said["memory"], said["termination"], said["terminal_observation"]) == ("across episodes", "as given", False)
    assert held["provenance"]["files"] == {"a.log": "12ab"}
    assert "across episodes" in info(tmp_path / "h")


KILLED = """
import itertools, os, sys
sys.path[:0] = sys.argv[2:4]
import test_write as t
from ad_jax.history import write
write.CHUNK = 2 * 12 * 19 + 40
def until(last):
    for i in range(last):
        yield t.one(i)
    writer.flush()
    os._exit(9)
opened = write.HistoryWriter.open
def remembered(*args):
    global writer
    writer = opened(*args)
    return writer
write.HistoryWriter.open = remembered
write.write_histories(sys.argv[1], until(5), t.SPEC, count=7)
"""


def test_a_killed_import_goes_on_to_the_same_bytes(tmp_path, small):
    here = str(pathlib_of(__file__))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), here, str(pathlib_of(here))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 9, done.stderr
    assert len(list((tmp_path / "killed/ledger").iterdir())) == 2
    drawn = []

    def counted(number):
        drawn.append(number)
        return one(number)

    def reading(first):
        return map(counted, range(first, 7))

    write_histories(tmp_path / "killed", reading, SPEC, count=7)
    assert drawn == [0, 4, 5, 6]  # the first says what all are like
    write_histories(tmp_path / "whole", map(one, range(7)), SPEC, count=7)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def pathlib_of(path):
    import pathlib

    return pathlib.Path(path).parent


def test_a_finished_import_is_read_and_not_written(tmp_path):
    write_histories(tmp_path / "h", [one(0)], SPEC)
    before = files(tmp_path / "h")
    write_histories(tmp_path / "h", [one(0)], SPEC)
    assert files(tmp_path / "h") == before
    refused(lambda: write_histories(tmp_path / "h", [one(0, 16)], SPEC), "another manifest", "steps")


BAD = {
    "nan": (lambda: one(3, observation=np.full((12, 3), np.nan)), ("observation", "step 0", "history 3")),
    "action": (lambda: one(3, action=np.full(12, 4)), ("action 4", "outside 0..3", "history 3")),
    "negative": (lambda: one(3, action=np.full(12, -1)), ("cannot hold -1", "step 0", "history 3")),
    "infinite": (lambda: one(3, reward=np.full(12, 1e39)), ("reward", "no finite number", "history 3")),
    "shape": (lambda: one(3, observation=np.zeros((12, 2))), ("[12, 3]", "[12, 2]", "history 3")),
    "length": (lambda: one(3, 16), ("[12, 3]", "[16, 3]", "history 3")),
    "objects": (lambda: one(3, reward=np.array([None] * 12)), ("pickle", "numpy.savez", "history 3")),
    "copy": (lambda: dataclasses.replace(one(1), task_id="x"), ("history 3 is history 1 once more",)),
    "endless": (lambda: one(3, truncated=np.zeros(12, bool)), ("no episode ends", "history 3")),
    "long": (lambda: one(3, truncated=np.arange(12) == 11), ("12 steps", "at most 4", "episode_length")),
    "tail": (lambda: one(3, truncated=np.arange(12) == 3), ("episode 1 has 8 steps and no end", "at most 4")),
    "no task": (lambda: one(3, task_id=None), ("task_id", "history 3")),
    "leaf": (lambda: one(3, task={"goal": np.zeros(2)}), ("goal", "history 3")),
    "text": (lambda: one(3, action=np.array(["a"] * 12)), ("expected numbers", "history 3")),
}


@pytest.mark.parametrize("name", BAD)
def test_input_that_cannot_be_is_one_error_and_nothing_stays(tmp_path, small, name):
    bad, words = BAD[name]
    given = itertools.chain(map(one, range(3)), [bad()], map(one, range(4, 6)))
    refused(lambda: write_histories(tmp_path / "h", given, SPEC, count=6, episode_length=4), *words)
    assert files(tmp_path / "h") == {}
    write_histories(tmp_path / "h", map(one, range(6)), SPEC, count=6, episode_length=4)


@pytest.mark.parametrize("count", [3, 5])
def test_another_number_of_histories_is_told_before_anything_is_written(tmp_path, small, count):
    """Of what has a length, and, where there are more, of what reads from a number on."""
    refused(lambda: write_histories(tmp_path / "h", [one(i) for i in range(4)], SPEC, count=count), f"expected {count}")
    assert not (tmp_path / "h").exists()


def test_more_histories_than_a_reader_says_are_told_before_anything_is_written(tmp_path, small):
    refused(lambda: write_histories(tmp_path / "h", lambda i: map(one, range(i, 4)), SPEC, count=3), "expected 3")
    assert not (tmp_path / "h").exists()


@pytest.mark.parametrize("given", [4, 6])
def test_another_number_of_histories_leaves_the_chunks_that_were_complete(tmp_path, small, given):
    refused(lambda: write_histories(tmp_path / "h", map(one, range(given)), SPEC, count=5), "expected 5", "kept")
    assert sorted(x.name for x in (tmp_path / "h/ledger").iterdir()) == ["000000.json", "000001.json"]
    write_histories(tmp_path / "h", map(one, range(5)), SPEC, count=5)
    write_histories(tmp_path / "whole", map(one, range(5)), SPEC, count=5)
    assert files(tmp_path / "h") == files(tmp_path / "whole")


def test_where_no_chunk_was_complete_nothing_stays(tmp_path):
    refused(lambda: write_histories(tmp_path / "h", map(one, range(4)), SPEC, count=3), "expected 3")
    assert files(tmp_path / "h") == {}


def test_the_call_itself_is_checked(tmp_path):
    place = tmp_path / "h"
    refused(lambda: write_histories(place, iter([one(0)]), SPEC), "count")
    refused(lambda: write_histories(place, [], SPEC), "none")
    refused(lambda: write_histories(place, [one(0)]), "a spec or a family")
    refused(lambda: write_histories(place, [one(0)], SPEC, family=DarkRoom()), "not both")
    assert not place.exists()


def test_equal_histories_are_stored_where_they_are_meant(tmp_path):
    found = write_histories(tmp_path / "h", [one(0), one(0)], SPEC, allow_duplicates=True)
    assert len(found.task_ids) == 2


def test_real_actions_are_stored_in_their_box(tmp_path):
    spec = Spec(Box((2,), -1.0, 1.0), (3,), None)
    acted = np.random.default_rng(0).uniform(-1, 1, (12, 2))
    found = write_histories(tmp_path / "h", [one(0, action=acted)], spec).read()
    np.testing.assert_array_equal(found.transition.action[0], acted.astype(np.float32))
    refused(lambda: write_histories(tmp_path / "g", [one(0, action=2 * acted)], spec), "action component", "outside")


def test_whole_numbers_that_float32_does_not_hold_are_refused(tmp_path):
    seen = np.full((12, 3), 2**24, np.int64)
    write_histories(tmp_path / "h", [one(0, observation=seen)], SPEC)
    refused(lambda: write_histories(tmp_path / "g", [one(0, observation=seen + 1)], SPEC), "16777217", "observation")


def test_histories_of_a_family_have_its_tasks_and_its_returns(tmp_path):
    found = write_histories(tmp_path / "h", [lived(), lived((8, 1), seed=1)], family=DarkRoom())
    assert found.task_ids == ["goal-2-6", "goal-8-1"]
    assert found.manifest.family["name"] == "dark_room"
    assert found.manifest.reward_dtype == "uint8"
    returns: Any = found.returns
    assert returns.optimal > returns.random > 0
    assert found.verify() == []


OTHERWISE = {
    "cells": (lambda: lived(turn=(1, 0)), ("observations are (column, row)",)),
    "goal": (lambda: lived(task=LIMIT | {"goal": np.array([6, 2])}), ("cells of the task are (column, row)",)),
    "actions": (
        lambda: lived(action=np.argsort(OURS)[np.asarray(lived().action)]),
        ("the actions 0 to 4 are stay, up",),
    ),
    "start": (lambda: moved_start(), ("an episode begins at (4, 5)",)),
    "reward": (lambda: lived(reward=np.zeros(120)), ("earns 0",)),
}


def moved_start() -> History:
    x = lived()
    observation = np.array(x.observation)
    observation[20] = (4, 5)
    return dataclasses.replace(x, observation=observation)


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_is_otherwise_than_in_the_family_is_found_and_named(tmp_path, name):
    made, words = OTHERWISE[name]
    told = refused(lambda: write_histories(tmp_path / "h", [made()], family=DarkRoom()), "goal-", "at step")
    assert all(word.lower() in told.lower() for word in words), told
    assert files(tmp_path / "h") == {}


def keyed(key=(1, 2), door=(7, 5), swapped=False) -> History:
    x = key_to_door(key, door, AD_EPS, 12)
    paid = np.cumsum(x["reward"])
    terminated, since, earned = np.zeros(len(paid), bool), 0, 0.0
    truncated = terminated.copy()
    for step, reward in enumerate(x["reward"]):
        since, earned = since + 1, earned + reward
        if earned == 2 or since == 40:
            (terminated if earned == 2 else truncated)[step] = True
            since, earned = 0, 0.0
    cells = (door, key) if swapped else (key, door)
    task = {"max_steps_in_episode": np.int32(40), "key": np.array(cells[0]), "door": np.array(cells[1])}
    return History(x["observation"], OURS[x["action"]], x["reward"], terminated, truncated, task=task)


def test_key_and_door_in_each_others_place_are_named(tmp_path):
    family = DarkKeyToDoor(steps=40, start="random", reward="terminate")
    found = write_histories(tmp_path / "h", [keyed()], family=family)
    assert found.task_ids == ["key-1-2-door-7-5"]
    refused(
        lambda: write_histories(tmp_path / "g", [keyed(swapped=True)], family=family), "ey and door are in each other"
    )


def test_the_collection_is_one_like_any_other(tmp_path):
    write_histories(tmp_path / "h", [one(0)], SPEC)
    assert store.verify(tmp_path / "h") == []
