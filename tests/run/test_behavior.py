"""The look at what plug-ins do: it asks for no more than a run does, and says of what device its numbers are."""

import copy
import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from odd_family import Odd

from ad_jax.checkpoint import identity
from ad_jax.envs.base import TaskSplit, take
from ad_jax.errors import ConfigError
from ad_jax.run import behavior


@dataclasses.dataclass(frozen=True)
class SplitsOnly(Odd):
    """Tasks come from its own split alone, and nobody knows the best action."""

    def sample_tasks(self, key, n):
        raise NotImplementedError("this family has a fixed split")

    def all_tasks(self) -> Any:
        return None

    def split(self, seed, train, held_out):
        tasks = super().all_tasks()
        return TaskSplit(take(tasks, np.arange(3)), {"held_out": take(tasks, np.arange(3, 5))}, "by hand")

    def optimal_action(self, state, task):
        raise NotImplementedError


class DrawsFew(Odd):
    def sample_tasks(self, key, n):
        return take(super().all_tasks(), np.arange(5))


class DrawsNone(SplitsOnly):
    def split(self, seed, train, held_out):
        raise ValueError("this family is only ever split 3 to 2")


@pytest.mark.parametrize(("family", "numbers"), [(SplitsOnly(), range(3)), (DrawsFew(), range(5)), (DrawsNone(), [0])])
def test_tasks_are_found_whatever_a_family_can_draw(family, numbers):
    found = np.asarray(behavior._tasks(family).number)
    assert found.tolist() == np.resize(list(numbers), behavior.ROWS).tolist()


def test_a_family_that_does_not_implement_what_no_run_needs_is_looked_at():
    assert behavior.of_family(SplitsOnly())["sums"]["reward"] == [behavior.WHOLE] * behavior.ROWS


class Broken(Odd):
    def optimal_action(self, state, task):
        raise ValueError("no way there")


def test_what_fails_in_a_familys_own_code_is_told_with_its_line():
    """And so it reaches every process, instead of leaving the others waiting."""
    with pytest.raises(ConfigError, match=r"no way there \(.*test_behavior.py:\d+, in optimal_action\)"):
        behavior.of_family(Broken())


def test_another_device_or_precision_of_products_is_no_edit():
    there = behavior._recorded({}, {"logits": [1.0, 2.0]})
    here = copy.deepcopy(there)
    here["sums"]["logits"][0] = 1.5
    found = identity.difference(there, here)
    assert found is not None and found.sure
    kind, model, precision = jax.default_backend(), jax.devices()[0].device_kind, "highest"
    with jax.default_matmul_precision(precision):
        assert behavior._recorded({}, {})["platform"] == f"{kind} {model} {precision}"
        other = behavior._recorded({}, {"logits": [1.001, 2.0]})
    assert identity.difference(there, other) is None, "as TF32 rounds"
    found = identity.difference(there, other | {"sums": here["sums"]})
    assert found is not None and not found.sure
