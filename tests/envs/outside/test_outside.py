"""What all adapters of outside libraries share, on a library made up here; and the libraries that are not installed."""

import dataclasses
import importlib
import importlib.util
import pathlib
import re
import sys
import types
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import spaces
from outside_helpers import first_task, lived

from ad_jax import envs
from ad_jax.__main__ import main
from ad_jax.envs import gymnax_facts
from ad_jax.envs.base import spec_of
from ad_jax.envs.outside import libraries
from ad_jax.envs.outside.libraries import Library
from ad_jax.envs.outside.observations import row, space_of
from ad_jax.envs.outside.tasks import KeyTask, LeafTask
from ad_jax.errors import ConfigError
from ad_jax.registry import resolve
from ad_jax.testing import check_env
from ad_jax.types import Discrete


class Seen(NamedTuple):
    """What the made-up library shows."""

    cell: jax.Array  # [] int32 of 6
    door: dict[str, jax.Array]  # [] bool each
    mask: jax.Array  # [2] bool


@struct.dataclass
class Corridor:
    """State of a corridor of 6 cells with a door that a level's key places; walking costs."""

    key: jax.Array
    cell: jax.Array
    door: jax.Array


@struct.dataclass
class Physics:
    """Parameters of the corridor."""

    price: jax.Array | float = 0.25
    unread: jax.Array | float = 1.0
    cells: int = 6


@dataclasses.dataclass(frozen=True)
class Levels(KeyTask):
    """The door is the task."""

    library = Library("xland", "made-up", "json", "1.0")
    refused: ClassVar = {"far": "it is on the moon"}
    env_id: str = "near"
    steps: int = 5

    def known(self):
        return ["near", "far"]

    def make(self):
        return jnp.int32(6)  # an array of the library's: it must not stay in a caller's trace

    def begin(self, key, task):
        return Corridor(key, jnp.int32(0), 1 + jax.random.randint(self.level_key(task), (), 0, 5))

    def move(self, key, inner, action, task):
        cell = jnp.clip(inner.cell + 2 * action - 1, 0, self.inner - 1)
        here = cell == inner.door
        return inner.replace(cell=cell, key=key), here * 2, here * 1.0 > 0  # whole rewards, as some libraries have

    def look(self, inner, task):
        return Seen(inner.cell, {"seen": inner.cell == inner.door}, jnp.array([True, False]))

    def values(self):
        return Seen(6, {"seen": None}, None)  # pyright: ignore[reportArgumentType]

    def actions(self):
        return spaces.Discrete(2)


@dataclasses.dataclass(frozen=True)
class Prices(LeafTask):
    """What a step costs is the task."""

    library = Library("xland", "made-up", "json", "1.0")
    env_id: str = "near"
    steps: int = 5
    vary: Any = dataclasses.field(default_factory=lambda: {"price": (0.5, 2.0, "log")})

    def make(self):
        return Physics()

    def parameters(self):
        return self.inner

    def begin(self, key, task):
        return jax.random.uniform(key, (2,))

    def move(self, key, inner, action, task):
        after = inner + action
        return after, -self.scaled(task).price * jnp.abs(action).sum(), jnp.any(jnp.abs(after) > 3)

    def look(self, inner, task):
        return {"place": inner, "far": jnp.abs(inner) > 1}

    def actions(self):
        return spaces.Box(-1.0, 1.0, (2,))


@pytest.mark.parametrize("family", [Levels(), Levels(levels=4), Prices()], ids=repr)
def test_what_adapters_share_keeps_the_contract(family):
    check_env(family)


def test_an_observation_of_whole_numbers_is_one_row_in_the_trees_order():
    family = Levels()
    assert spec_of(family).values == (6, 2, 2, 2)  # cell, seen, mask
    task = first_task(family)
    observation, state, _ = lived(family, task, np.ones(4, np.int32))
    assert observation.dtype == np.int32
    np.testing.assert_array_equal(observation[:, 0], state.inner.cell)
    np.testing.assert_array_equal(observation[:, 1], state.inner.cell == state.inner.door)
    np.testing.assert_array_equal(observation[:, 2:], [[1, 0]] * 4)


def test_one_leaf_of_real_numbers_makes_the_row_real():
    spec = spec_of(Prices())
    assert (spec.shape, spec.values, spec.compute_dtype) == ((4,), None, np.float32)
    observation = lived(Prices(), first_task(Prices()), np.zeros((2, 2), np.float32))[0]
    assert set(np.unique(observation[:, :2])) <= {0.0, 1.0}  # "far" comes before "place"


def shape(dtype, *dims):
    return jax.ShapeDtypeStruct(dims, dtype)


def test_the_rule_of_observations():
    picture = space_of("f", shape(np.uint8, 4, 5, 3))
    assert (picture.shape, picture.dtype, picture.high) == ((4, 5, 3), np.uint8, 255)
    given = jnp.zeros((4, 5, 3), jnp.uint8)
    assert row(given, picture) is given
    view = space_of("f", shape(np.uint8, 4, 5, 2), np.array([13, 12]))
    assert view.shape == (40,)
    np.testing.assert_array_equal(np.asarray(view.high), [12, 11] * 20)
    unknown = space_of("f", {"a": shape(np.int32, 2), "b": shape(bool)})  # nobody says how many values "a" takes
    assert (unknown.shape, unknown.dtype) == ((3,), np.float32)
    wide = space_of("f", shape(np.int32, 100), 1000)  # 100,000 rows of a table
    assert (wide.shape, wide.dtype) == ((100,), np.float32)
    for seen, words in (
        (shape(np.complex64, 2), "real numbers"),
        ((), "no components"),
        (shape(np.int8, 0), "no comp"),
    ):
        with pytest.raises(ConfigError, match=words):
            space_of("f", seen)


def test_the_time_limit_is_ours_and_truncates():
    task = first_task(Levels())
    outcome = lived(Levels(), task, np.zeros(12, np.int32))[2]  # walks against the wall
    assert np.flatnonzero(outcome.truncated).tolist() == [4, 9]
    assert not outcome.terminated.any()


def test_rewards_and_flags_are_cast_and_the_terminal_observation_is_kept():
    task = first_task(Levels())
    observation, _, outcome = lived(Levels(), task, np.ones(12, np.int32))
    assert (outcome.reward.dtype, outcome.terminated.dtype) == (np.float32, bool)
    ends = np.flatnonzero(outcome.terminated)
    assert len(ends) > 0
    assert np.all(np.asarray(outcome.reward)[ends] == 2)
    assert np.all(np.asarray(outcome.next_observation)[ends, 1] == 1)  # the door, before any reset
    assert np.all(np.asarray(observation)[ends[:-1] + 1, 0] == 0)  # and then a start
    assert np.all(np.diff(ends) == ends[0] + 1)  # the same door in each episode


def test_levels_can_be_counted():
    table: Any = Levels(levels=4).all_tasks()
    assert np.asarray(table.values["level"]).tolist() == [0, 1, 2, 3]
    assert Levels(levels=4).task_ids(table)[3] == "level-3"
    assert Levels().all_tasks() is None
    drawn = Levels(levels=4).sample_tasks(jax.random.key(0), 400).values["level"]
    assert np.all(np.bincount(np.asarray(drawn)) > 60)
    with pytest.raises(ConfigError, match=r"env.levels must be at least 1; got 0"):
        Levels(levels=0)


def test_factors_are_those_of_the_range_and_multiply_the_librarys_number():
    family = Prices()
    tasks = family.sample_tasks(jax.random.key(0), 500)
    factor = np.asarray(tasks.values["price"])
    assert factor.min() >= 0.5 and factor.max() <= 2.0 and 0.4 < np.mean(factor < 1) < 0.6
    task = jax.tree.map(lambda x: x[0], tasks)
    reward = lived(family, task, np.ones((1, 2), np.float32))[2].reward
    np.testing.assert_allclose(reward, -0.25 * 2 * factor[0], rtol=1e-6)
    assert Prices(vary={"price": [0.5, 2]}) == Prices(vary={"price": (0.5, 2.0)})
    assert len({Prices(), Prices(vary={"price": (0.5, 1.0)})}) == 2  # families are hashed


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Levels(env_id="neer"), "unknown environment of made-up 'neer'. Did you mean 'near'"),
        (lambda: Levels(env_id="far"), "env.env_id='far': it is on the moon"),
        (lambda: Levels(steps=0), "env.steps must be at least 1; got 0"),
        (lambda: Prices(vary={}), "env.vary is empty"),
        (lambda: Prices(vary={"prize": (1, 2)}), "unknown parameter of near 'prize'. Did you mean 'price'"),
        (lambda: Prices(vary={"cells": (1, 2)}), "unknown parameter of near 'cells'"),
        (lambda: Prices(vary={"unread": (1, 2)}), "cannot vary in near: nothing that an agent sees"),
        (lambda: Prices(vary={"price": (2, 1)}), r"expects numbers \[low, high\]"),
        (lambda: Prices(vary={"price": (0.0, 1.0, "log")}), "needs a low bound above 0"),
    ],
)
def test_what_cannot_be_meant_is_named(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


@dataclasses.dataclass(frozen=True)
class Absent(Levels):
    """Its library is not installed, or lacks something."""

    module: str = "no_such_library"

    def make(self):
        return importlib.import_module(self.module)


def test_a_missing_library_is_one_error_with_the_line_that_brings_it():
    with pytest.raises(
        ConfigError, match=r"no_such_library, which made-up needs, is not installed for \S+; pip install "
    ):
        Absent()
    absent = dataclasses.make_dataclass("Bare", [], bases=(Absent,), frozen=True)
    absent.library = Library("xland", "made-up", "no_such_library", "1.0")
    with pytest.raises(ConfigError, match=r"made-up is not installed for \S+; pip install 'ad_jax\[xland\]' brings it"):
        absent()


def test_every_adapter_is_found_by_name_and_imports_no_library():
    before = set(sys.modules)
    for name, where in envs.OUTSIDE.items():
        cls = resolve("env", name, envs.OUTSIDE)
        assert issubclass(cls, KeyTask | LeafTask) or name == "xland", where
        assert cls.library in libraries.LIBRARIES
    assert not {library.module for library in libraries.LIBRARIES} & (set(sys.modules) - before)


def test_info_says_what_is_installed_and_what_cannot_be(capsys, monkeypatch):
    monkeypatch.setattr(libraries, "version", lambda library: "0.9.1" if library.package == "xminigrid" else None)
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert f"jax {jax.__version__}" in shown
    assert "xminigrid    0.9.1 (tested with 0.9.3)" in shown
    assert "navix        not installed; pip install 'ad_jax[navix]'" in shown
    assert "kinetix-env  cannot live beside the pinned jax" in shown


def test_versions_are_those_of_the_installed_packages():
    assert libraries.version(Library(None, "jax", "jax", "")) == jax.__version__
    assert libraries.version(Library(None, "no-such-package", "none", "")) is None


FORK = '''
class Environment:
    def step(self, key, state, action, params=None):
        """As gymnax had it before 1.0, and as a fork writes over it."""
        return obs, state, reward, done, info
'''


def test_a_fork_that_overwrites_gymnaxs_files_is_named_with_the_remedy(tmp_path):
    file = tmp_path / "environment.py"
    file.write_text(FORK)
    spec = importlib.util.spec_from_file_location("faked_environment", file)
    assert spec is not None and spec.loader is not None
    fork = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fork)
    assert isinstance(fork, types.ModuleType)
    with pytest.raises(ConfigError, match=r"environment.py is of another kind. A fork .*pip uninstall stable-gymnax"):
        gymnax_facts.check_step(fork)
    gymnax_facts.check_step(importlib.import_module("gymnax.environments.environment"))


def test_spec_is_discrete():
    assert spec_of(Levels()).action == Discrete(2)


def test_the_page_names_every_adapter_version_and_test():
    root = pathlib.Path(__file__).parents[3]
    page = (root / "docs/envs/outside.md").read_text()
    assert not [name for name in envs.OUTSIDE if f"| `{name}` |" not in page]
    for library in libraries.LIBRARIES:
        assert f"{library.package} {library.tested}" in page or library.alone
        assert library.alone or f"{library.package}=={library.tested}" in page_of_versions(root)
    tests = "".join(file.read_text() for file in (root / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", page)
    assert len(named) > 20
    assert not [name for name in named if f"def {name}(" not in tests]
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page) if "://" not in link]
    assert not [link for link in links if not (root / "docs/envs" / link).exists()]


def page_of_versions(root):
    return (root / "constraints-adapters.txt").read_text().lower()
