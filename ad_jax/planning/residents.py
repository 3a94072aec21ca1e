"""What an experiment's histories are on the devices: how many rows, of which shapes, in how many bytes."""

import math
from collections.abc import Mapping

import jax
import numpy as np

from ad_jax.experiment import Components, Experiment
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.history.replay import Replay, lengths
from ad_jax.history.streaming import AHEAD
from ad_jax.stage.collect import lifetime_updates
from ad_jax.types import PyTree


def versions(e: Experiment, p: Components) -> int:
    """How many histories are trained on, each subsampled version counted."""
    learned = e.tasks.trained if p.method.feed == "histories" else 0
    return learned * e.replay.kept_of(e.collect.seeds * p.source.actors) * e.replay.phases


def replay_shapes(e: Experiment, p: Components) -> Replay:
    """Shapes of the experiment's histories on the devices, where all episodes have full length."""
    steps = lifetime_updates(p.source, p.family, e.collect.episodes) * p.source.steps_per_update
    one = p.method.columns(p.family, p.spec)
    return subsampled(one, versions(e, p), steps, p.family.episode_length, e.replay)


def resident_bytes(e: Experiment, p: Components) -> int:
    """Bytes of the histories on the devices; where they take turns, with the parts that are on their way."""
    turns, shapes = e.replay.rotation, tree_bytes(replay_shapes(e, p))
    if turns is None or turns.resident >= versions(e, p):
        return shapes
    return shapes + (1 + AHEAD) * shapes // turns.parts


def tree_bytes(tree: PyTree) -> int:
    """Bytes of all arrays, or shapes, of a tree."""
    return sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


def subsampled(one: Mapping[str, PyTree], rows: int, steps: int, episode: int, config: ReplayConfig) -> Replay:
    """Shapes of the `replay.Replay` of `rows` subsampled histories whose episodes all have full length.

    Rows of 1 + T' steps, T' those of the kept episodes of the longest phase; the shapes of one step are `one`, by name.
    Rows are padded to a multiple of the groups.
    """
    done = np.arange(1, steps + 1) % episode == 0
    kept = int(lengths(done[None], config).max())
    at_once = rows if config.rotation is None else min(rows, config.rotation.resident)
    groups, each = config.groups, -(-at_once // config.groups)

    def stored(dtype, *shape):
        return jax.ShapeDtypeStruct((groups, each, 1 + kept, *shape), np.dtype(dtype))

    def number(*shape):
        return jax.ShapeDtypeStruct((groups, *shape), np.dtype(np.int32))

    return Replay(
        {name: stored(x.dtype, *x.shape) for name, x in one.items()},
        length=number(each),
        history=number(each),
        count=number(),
        group=number(),
    )
