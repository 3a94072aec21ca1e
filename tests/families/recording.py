"""The raw steps of a run: every rollout that an evaluation made, and every lifetime of the source beside it.

Nothing is computed again: while `recorded()` is open, what the pipeline itself steps is written down. Its rollouts give
out a trace of each step, so a family that traces more than the run's own takes its place; the run gets its own trace
back, and no other number of it depends on it.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad_jax.envs.stepping import path_name
from ad_jax.stage import collect, evaluate, rollout
from ad_jax.types import Transition


@dataclasses.dataclass
class Rollouts:
    """What one evaluation of a set of tasks in one mode did, step by step."""

    states: dict[str, np.ndarray]  # by leaf, [T, B, ...], before each step
    action: np.ndarray  # [T, B] int32
    trace: np.ndarray  # [T, B, k] int32, of the family
    tasks: dict[str, np.ndarray]  # by leaf, [B, ...]


@dataclasses.dataclass
class Recording:
    """In the order in which the pipeline made them."""

    rollouts: list[Rollouts] = dataclasses.field(default_factory=list)
    lifetimes: list[tuple[Transition, dict[str, np.ndarray]]] = dataclasses.field(
        default_factory=list
    )  # [H, T], [H, ...]


@contextlib.contextmanager
def recorded() -> Iterator[Recording]:
    """Record what is evaluated inside, one device's worth or eight."""
    found = Recording()
    make, learning_curve, run_chunk = rollout.make_evaluator, collect.learning_curve, collect.Collector.run
    roll = evaluate.evaluate
    open_calls: list[list[np.ndarray]] = []

    def make_recording(policy, family, *args, **options):
        evaluator = make(policy, _probe(family), *args, **options)

        def run(params, rollouts, keys, tasks):
            rollouts, trace = evaluator.run(params, rollouts, keys, tasks)
            open_calls[-1].append(np.asarray(trace))
            return rollouts, trace[..., : _width(family)]

        return evaluator._replace(run=run)

    def roll_recording(evaluator, params, tasks, task_ids, seeds, episodes, family, *args, **options):
        open_calls.append([])
        curve = roll(evaluator, params, tasks, task_ids, seeds, episodes, family, *args, **options)
        raw, rows = np.concatenate(open_calls.pop()), len(task_ids) * seeds
        found.rollouts.append(_unpacked(family, raw[:, :rows], _repeated(tasks, seeds)))
        return curve

    def curve_recording(collector, tasks, task_ids, seeds, *args, **options):
        chunks = []

        def run(self, seed, tasks, task_ids, seeds, first):
            lifetime = run_chunk(self, seed, tasks, task_ids, seeds, first)
            count = min(self.chunk, len(task_ids) * seeds - first)
            steps = getattr(lifetime, "transition", lifetime)
            chunks.append(jax.tree.map(lambda x: np.asarray(x)[:count].reshape(-1, *x.shape[2:]), steps))
            return lifetime

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(collect.Collector, "run", run)
            result = learning_curve(collector, tasks, task_ids, seeds, *args, **options)
        lifetimes = jax.tree.map(lambda *parts: np.concatenate(parts), *chunks)
        found.lifetimes.append((lifetimes, _repeated(tasks, seeds * collector.source.actors)))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollout, "make_evaluator", make_recording)
        patch.setattr(evaluate, "evaluate", roll_recording)
        patch.setattr(collect, "learning_curve", curve_recording)
        yield found


def leaves_of(tree: Any) -> dict[str, np.ndarray]:
    """Return the leaves of a state or of tasks, by name."""
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _repeated(tasks: Any, times: int) -> dict[str, np.ndarray]:
    return {name: np.repeat(leaf, times, axis=0) for name, leaf in leaves_of(tasks).items()}


def _start(family: Any) -> Any:
    """Shapes of a state."""
    return jax.eval_shape(family.reset_env, jax.random.key(0), family.default_params)[1]


def _width(family: Any) -> int:
    return jax.eval_shape(family.trace, _start(family), jax.ShapeDtypeStruct((), jnp.int32)).shape[0]


def _bits(leaf: jax.Array) -> jax.Array:
    """Return a leaf as int32, to the bit where it has 32 of them."""
    real = jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.ravel(jax.lax.bitcast_convert_type(leaf, jnp.int32) if real else leaf.astype(jnp.int32))


def _probe(family: Any) -> Any:
    """Return the same family, whose trace also holds the action and the whole state."""

    def trace(self, state, action):
        parts = [family.trace(state, action), action[None], *map(_bits, jax.tree.leaves(state))]
        return jnp.concatenate([part.astype(jnp.int32) for part in parts])

    return type(type(family).__name__, (type(family),), {"trace": trace})(**family.options)


def _unpacked(family: Any, raw: np.ndarray, tasks: dict[str, np.ndarray]) -> Rollouts:
    """`raw [T, B, K]` taken apart."""
    at = _width(family)
    trace, action, states = raw[..., :at], raw[..., at], {}
    at += 1
    for path, leaf in jax.tree_util.tree_leaves_with_path(_start(family)):
        size = int(np.prod(leaf.shape))
        values = np.ascontiguousarray(raw[..., at : at + size])
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            values = values.view(np.float32)
        states[path_name(path)] = values.reshape(*raw.shape[:2], *leaf.shape)
        at += size
    return Rollouts(states, action, trace, tasks)
