"""A task stands on one side of a split, and there once: anything else is refused before anything is collected."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad_jax import envs, load_experiment, override
from ad_jax.envs.bandit import Bandit
from ad_jax.envs.base import take
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.errors import ConfigError
from ad_jax.experiment import build
from ad_jax.keys import a_key
from ad_jax.testing import ContractError, check_env


@dataclasses.dataclass(frozen=True)
class ListsGoalsTwice(DarkRoom):
    """Rows 2 and 5 of the table are one task, and so are 3 and 7."""

    def all_tasks(self):
        rows = np.arange(self.size**2)
        rows[5], rows[7] = 2, 3
        return take(super().all_tasks(), rows)


@dataclasses.dataclass(frozen=True)
class NamesRowsOnly(DarkRoom):
    """Goals of one row share an id, though they are different tasks."""

    def task_ids(self, tasks):
        return [f"row-{row}" for row in np.asarray(tasks.goal)[:, 0]]


@dataclasses.dataclass(frozen=True)
class NamesCopies(ListsGoalsTwice):
    """Ids differ, the tasks do not: a held-out task may be one that was trained on."""

    def task_ids(self, tasks):
        return [f"task-{i}" for i in range(len(tasks.goal))]


@dataclasses.dataclass(frozen=True)
class SplitsItself(DarkRoom):
    """Its own split: what `rows` says, of the table."""

    train: tuple[int, ...] = (0, 1, 2)
    near: tuple[int, ...] = (3, 4)
    far: tuple[int, ...] = (5,)

    def split(self, seed, train, held_out):
        split = super().split(seed, train, held_out)

        def rows(numbers):
            return take(self.all_tasks(), np.array(numbers))

        held_out = {"near": rows(self.near), "far": rows(self.far)}
        return dataclasses.replace(split, train=rows(self.train), held_out=held_out)


@dataclasses.dataclass(frozen=True)
class DrawsNumbers(DarkRoom):
    """Goals are drawn among `many`, so that some come twice."""

    many: int = 64

    def all_tasks(self) -> Any:
        return None

    def sample_tasks(self, key, n):
        goal = np.asarray(jax.random.bits(key, (n,))) % self.many
        goals = np.stack([goal // 8, goal % 8], 1).astype(np.int32)
        tasks: Any = take(super().all_tasks(), np.zeros(n, int))
        return tasks.replace(goal=goals)


def experiment(family, **options):
    """Return an experiment on a family of this file."""
    e = load_experiment("dark_room", "smoke")
    changes = [f"env={__name__}:{family.__name__}", "env.size=4", "env.steps=4"]
    return override(e, [*changes, "tasks.train=6", "tasks.held_out=3", *(f"{k}={v}" for k, v in options.items())])


def test_a_table_that_lists_a_task_twice_is_refused_with_its_rows():
    with pytest.raises(ConfigError) as refused:
        ListsGoalsTwice(size=4).split(0, 6, 3)
    told = str(refused.value)
    assert "rows 2, 5" in told and "rows 3, 7" in told, "every pair is named"
    assert "all_tasks" in told and "once" in told
    with pytest.raises(ConfigError, match="rows 2, 5"):
        build(experiment(ListsGoalsTwice))
    with pytest.raises(ContractError, match="once"):
        check_env(ListsGoalsTwice(size=4, steps=4))


def test_copies_are_refused_though_their_ids_differ():
    with pytest.raises(ConfigError, match="rows 2, 5"):
        build(experiment(NamesCopies))


def test_one_id_for_different_tasks_is_refused():
    with pytest.raises(ConfigError, match=r"task_ids.*'row-0'.*rows 0, 1, 2, 3"):
        build(experiment(NamesRowsOnly))


@pytest.mark.parametrize(
    ("rows", "where"),
    [
        ({"train": (0, 1, 0)}, "task 0 of the training set and task 2 of the training set"),
        ({"near": (3, 4, 4)}, "task 1 of the set near and task 2 of the set near"),
        ({"far": (1,)}, "task 1 of the training set and task 0 of the set far"),
    ],
)
def test_a_familys_own_split_is_looked_at_too(rows, where):
    own = SplitsItself(size=4, **rows)
    told = [f"env.{name}={list(value)}" for name, value in rows.items()]
    with pytest.raises(ConfigError, match=re.escape(where)):
        build(override(experiment(SplitsItself), told))
    build(experiment(SplitsItself))  # as it is
    assert own.split(0, 1, 1).kind


def test_tasks_that_are_not_used_need_not_be_unseen():
    """Of the training tasks the first `tasks.used` are trained on; a copy further back hurts nobody."""
    e = override(experiment(SplitsItself), ["env.train=[0, 1, 5]", "tasks.used=2", "tasks.train=3"])
    assert len(build(e).split.train.goal) == 2


def test_held_out_sets_may_share_tasks():
    build(override(experiment(SplitsItself), ["env.far=[3, 4]"]))


def test_tasks_that_are_drawn_twice_are_drawn_again():
    """A large set of a finite distribution has some; the first draw keeps its order, and its bits where it has none."""
    family = DrawsNumbers()
    split = family.split(3, 40, 20)
    ids = family.task_ids(split.train) + family.task_ids(split.held_out["held_out"])
    assert len(ids) == len(set(ids)) == 60
    first = family.task_ids(family.sample_tasks(jax.random.fold_in(a_key(3), 0x5B117), 60))
    once = list(dict.fromkeys(first))
    assert len(once) < 60, "this test is of draws that repeat"
    assert ids[: len(once)] == once
    with pytest.raises(ConfigError, match=r"gives 50 different tasks in 9 draws of 60 each; a split of 60 was asked"):
        DrawsNumbers(many=50).split(3, 40, 20)
    large = DrawsNumbers(many=2**30)
    one = large.sample_tasks(jax.random.fold_in(a_key(3), 0x5B117), 60)
    two = large.split(3, 40, 20)
    assert jnp.array_equal(one.goal, jnp.concatenate([two.train.goal, two.held_out["held_out"].goal]))


def test_a_drawn_table_without_copies_is_as_before():
    """The split of every committed experiment is what it was: rows by a permutation that the seed fixes."""
    room = DarkRoom()
    split = room.split(9, 65, 16)
    ids = room.task_ids(split.train) + room.task_ids(split.held_out["held_out"])
    assert len(set(ids)) == 81
    assert len(set(Bandit().task_ids(Bandit().split(0, 32, 8).train))) == 32
    assert envs.make("dark_room", {}).split(9, 65, 16).kind == "by row"
    assert jnp.array_equal(split.train.goal, room.split(9, 65, 16).train.goal)
