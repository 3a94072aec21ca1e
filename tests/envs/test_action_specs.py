"""Action specs: discrete or real-valued actions, from gymnax spaces to the store and to what is trained on."""

import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from helpers import mesh_of
from history_helpers import assert_same, collect, manifest, refused

from ad_jax.envs.spaces import action_from
from ad_jax.errors import ConfigError
from ad_jax.history import replay
from ad_jax.history.store import Manifest, open_store, verify
from ad_jax.models.base import empty_steps, first_steps
from ad_jax.types import Box, Discrete, Spec

ARM = Box((2,), -1.0, (2.0, 3.0))
REAL = Spec(ARM, (3,), None)
OLD = Path(__file__).parents[1] / "data" / "collection_schema_1.zip"


def test_a_box_is_plain_data_however_it_is_given():
    same = Box((2,), (-1.0, -1.0), (2.0, 3.0))
    assert same == ARM and hash(ARM) == hash(same)
    assert ARM.low == (-1.0, -1.0) and ARM.size == 2 and ARM.dtype == np.float32
    low, high = Box((2, 1), (0, 1), (2, 3)).bounds
    np.testing.assert_array_equal(low, np.array([[0], [1]], np.float32))
    assert high.shape == (2, 1) and high.dtype == np.float32


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (((2,), -np.inf, 1.0), ("finite bounds", "low=", "tanh")),
        (((2,), 0.0, (1.0, 1e39)), ("finite bounds", "high=")),
        (((2,), (0.0, 1.0), 1.0), ("low < high", "component 1")),
        (((2,), (0.0, 0.0, 0.0), 1.0), ("1 or 2 numbers", "received 3")),
        (((0,), 0.0, 1.0), ("at least 1 component",)),
    ],
)
def test_a_box_that_cannot_be_is_refused(given, words):
    with pytest.raises(ConfigError) as error:
        Box(*given)
    assert all(word in str(error.value) for word in words), error.value


def test_specs_are_plain_data_and_those_of_discrete_actions_keep_their_form():
    assert Spec(Discrete(5), (2,), (9, 9)).to_json() == {"num_actions": 5, "shape": [2], "values": [9, 9]}
    assert REAL.to_json() == {
        "shape": [3],
        "values": None,
        "action": {"shape": [2], "low": [-1.0, -1.0], "high": [2.0, 3.0]},
    }
    for spec in (REAL, Spec(Discrete(5), (4, 4, 3), None, pixels=True), Spec(Box((), 0.0, 1.0), (), (7,))):
        assert Spec.from_json(spec.to_json()) == spec


def test_who_counts_actions_hears_that_there_is_no_number_of_them():
    assert Spec(Discrete(5), (), None).num_actions == 5
    with pytest.raises(ConfigError, match=r"num_actions: expected Discrete.*Box.*source=ppo"):
        _ = REAL.num_actions


def test_gymnax_spaces_become_action_specs():
    assert action_from("x", spaces.Discrete(4)) == Discrete(4)
    assert action_from("x", spaces.Box(-2.0, 2.0, (1,))) == Box((1,), -2.0, 2.0)
    each = spaces.Box(jnp.array([0.0, 1.0]), jnp.array([2.0, 3.0]), (2,))
    assert action_from("x", each) == Box((2,), (0.0, 1.0), (2.0, 3.0))
    for space, words in (
        (spaces.Box(-jnp.inf, jnp.inf, (2,)), ("x: ", "finite bounds")),
        (spaces.Box(0, 5, (2,), jnp.int32), ("x: ", "float32", "int32")),
        (spaces.Dict({"a": spaces.Discrete(2)}), ("x: ", "Discrete or a Box", "Dict")),
    ):
        with pytest.raises(ConfigError) as error:
            action_from("x", space)
        assert all(word in str(error.value) for word in words), error.value


def test_a_lifetime_begins_without_a_previous_action():
    seen = jnp.zeros((4, 3), jnp.float32)
    real, whole = first_steps(seen, ARM).prev_action, first_steps(seen, Discrete(5)).prev_action
    assert real.shape == (4, 2) and real.dtype == jnp.float32 and not real.any()
    assert whole.shape == (4,) and whole.dtype == jnp.int32 and (whole == 5).all()
    assert empty_steps(REAL, 2, 7).prev_action.shape == (2, 7, 2)


# The store.


def test_a_collection_that_an_earlier_version_wrote_is_read_and_keeps_its_bytes(tmp_path):
    zipfile.ZipFile(OLD).extractall(tmp_path / "old")
    m = manifest(histories=3, chunk_histories=2)
    found = open_store(tmp_path / "old")
    assert found.manifest == m
    assert verify(tmp_path / "old") == []
    assert_same(found.read(), m)
    collect(tmp_path / "new", m)
    for path in (tmp_path / "old").rglob("*.json"):
        assert (tmp_path / "new" / path.relative_to(tmp_path / "old")).read_bytes() == path.read_bytes(), path


def test_actions_in_a_box_are_stored_as_they_are(tmp_path):
    m = manifest(spec=REAL)
    collect(tmp_path / "x", m)
    assert_same(open_store(tmp_path / "x").read(), m)
    assert open_store(tmp_path / "x").manifest == m and verify(tmp_path / "x") == []


def test_a_manifest_states_one_kind_of_actions():
    data = manifest(spec=REAL).to_json()
    assert data["schema"] == 2 and Manifest.from_json(data).spec == REAL
    for spec, words in (
        ({"num_actions": 5}, ("spec", "num_actions", "action", "both")),
        ({"action": None}, ("spec", "num_actions", "action", "neither")),
        ({"action": data["spec"]["action"] | {"low": [0.0, float("inf")]}}, ("spec.action", "finite")),
        ({"action": data["spec"]["action"] | {"low": [5.0, 0.0]}}, ("spec.action", "low < high")),
        ({"action": data["spec"]["action"] | {"shape": [2**40]}}, ("spec.action", "numbers for low")),
    ):
        refused(lambda spec=spec: Manifest.from_json(data | {"spec": data["spec"] | spec}), *words)


# What is trained on.


def test_windows_hold_the_actions_and_begin_a_lifetime_with_zeros(tmp_path):
    m = manifest(spec=REAL)
    collect(tmp_path / "x", m)
    histories, mesh = open_store(tmp_path / "x").read(), mesh_of()
    options = replay.Config(segment=12, batch=8, groups=4)
    draw = jax.jit(lambda held, key: replay.sample(held, key, REAL, options, mesh))
    batch = draw(replay.load(histories, REAL, options, mesh), jax.random.key(0))
    before, action = np.asarray(batch.steps.prev_action), np.asarray(batch.targets["action"])
    assert before.shape == action.shape == (8, 12, 2) and before.dtype == action.dtype == np.float32
    np.testing.assert_array_equal(before[:, 0], 0)
    np.testing.assert_array_equal(before[:, 1:], action[:, :-1])
    stored = {row.tobytes() for row in np.asarray(histories.transition.action)}
    assert all(row.tobytes() in stored for row in action)
