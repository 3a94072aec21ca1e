"""What the tests of outside libraries' adapters share: they skip where their library is not installed."""

import importlib.util
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad_jax.envs import OUTSIDE
from ad_jax.envs.base import TaskFamily, advance, reset
from ad_jax.envs.outside.libraries import named
from ad_jax.types import PyTree


def missing(extra: str | None) -> str | None:
    """Return why tests of an extra's adapters cannot run here, or None."""
    library = named(extra)
    if importlib.util.find_spec(library.module) is not None:
        return None
    return f"declared missing dependency: {library.package} (make test-adapters has it)"


def needs(extra: str) -> list[pytest.MarkDecorator]:
    """Return marks for a file of tests of an extra's adapters; what the libraries warn of is not ours to mend."""
    ignored = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "UserWarning")]
    return [pytest.mark.skipif(missing(extra) is not None, reason=str(missing(extra))), *ignored]


def skip_without(config: pathlib.Path) -> None:
    """Skip the test where an experiment's file uses an adapter whose library is not installed."""
    used = re.findall(r"ad_jax\.envs\.outside\.(\w+) import", config.read_text())
    for module in used:
        cls = next(name for name in OUTSIDE.values() if name.startswith(f"ad_jax.envs.outside.{module}:"))
        extra = {"minigrid": "xland"}.get(module, module)
        if why := missing(extra):
            pytest.skip(f"{why}, for {cls}")


def lived(family: TaskFamily, task: PyTree, actions: np.ndarray, seed: int = 0) -> tuple[np.ndarray, PyTree, PyTree]:
    """Return observations, states and outcomes `[T, ...]` of a lifetime of given actions `[T]`."""

    def step(carry, x):
        action, key = x
        observation, state, outcome = advance(family, key, carry[1], action, task)
        return (observation, state), (*carry, outcome)

    keys = jax.random.split(jax.random.key(seed), len(actions) + 1)
    run = jax.jit(lambda keys, actions: jax.lax.scan(step, reset(family, keys[0], task), (actions, keys[1:]))[1])
    return run(keys, jnp.asarray(actions))


def random_actions(family: TaskFamily, steps: int, seed: int = 0) -> np.ndarray:
    """Return random actions `[steps, *A]`."""
    return family.action_spec.sample(np.random.default_rng(seed), (steps,))


def first_task(family: TaskFamily, seed: int = 0) -> PyTree:
    """Return one drawn task."""
    return jax.tree.map(lambda x: x[0], family.sample_tasks(jax.random.key(seed), 1))
