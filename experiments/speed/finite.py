"""What it costs to look for NaN and infinity, as a share of the stage that looks: python experiments/speed/finite.py

Each round times the stage and its check in turn, so that what else the machine does slows both. Printed is the median
over the rounds of the share, with its 95 % interval by bootstrap. Two minutes on two CPU cores.
"""

import sys
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ad_jax import collect, distill, history_returns, replay, training
from ad_jax.bench import collecting, distilling
from ad_jax.bench.sizes import Case
from ad_jax.bench.timing import Work, measure
from ad_jax.types import Histories, Spec

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 31
CALLS = 20  # of a check in one timing: it is short


def told(what: str, share: np.ndarray) -> None:
    """Print a share in per cent."""
    drawn = np.random.default_rng(0).choice(share, (10_000, len(share)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    print(f"{what:64}{np.median(share):8.3%}  ({low:.3%} to {high:.3%}, {len(share)} rounds)", flush=True)


def share_of(what: str, check, stage) -> None:
    """Print how long `check` takes, as a share of `stage`, which does not do it."""
    many = lambda: [check() for _ in range(CALLS)] and None
    seconds = measure({"check": Work(many, 1), "stage": Work(stage, 1)}, ROUNDS)
    told(what, np.array(seconds["check"]) / CALLS / np.array(seconds["stage"]))


def collecting_a_chunk(source: str, env: str) -> None:
    """A chunk from its first step to what is recorded of it, without the disk."""
    s = collecting.setting(source, env, 256, 2_000_000)
    life = collecting.in_memory(s).call
    seeds = s.learners.chunk // collecting.TASKS
    rows = lambda x: collect.as_histories(x, s.tasks, s.ids, seeds, 0, s.learners.chunk)

    def stage():
        histories = rows(life())
        return history_returns.of_chunk(
            histories.transition, s.learners.source.actors, s.family.episode_length, None, None
        )

    share_of(f"collect {source} on {env}: a chunk, without the disk", rows(life()).not_finite, stage)


def loading(what: str, floats: bool) -> None:
    """`replay.load` of random histories; rewards are floats, the observations may be."""
    histories, spec = distilling.random_histories(1024, 400, Spec(5, (4,), (9,) * 4)), Spec(5, (4,), (9,) * 4)
    seen = histories.transition
    histories.transition = seen.replace(reward=seen.reward.astype(np.float32))
    if floats:
        histories.transition = histories.transition.replace(observation=seen.observation.astype(np.float32))
        spec = Spec(5, (4,), None)
    sampling, mesh = replay.Config(segment=100), collecting.make_mesh(collecting.MeshConfig())

    def stage():
        with mock.patch.object(Histories, "not_finite", return_value=None):
            return replay.load(histories, spec, sampling, mesh)

    share_of(f"load histories, {what}", histories.not_finite, stage)


def distilling_a_dispatch() -> None:
    """The look at what came to the host; and the gradient's norm, which clipping takes too, counted in the program."""
    s = distilling.setting(
        Case("small", "transformer", {"layers": 4, "width": 64, "heads": 2, "window": 100}, 16, 100, 10)
    )
    tree = SimpleNamespace(**vars(optax.tree) | {"norm": lambda grads: 0.0})  # not of clipping, which keeps its own
    program = lambda: s.trainer.run.lower(s.trainer.like, s.resident, jnp.int32(1))
    whole = program().compile()
    with mock.patch.object(distill, "optax", SimpleNamespace(**vars(optax) | {"tree": tree})):
        s.trainer.run.clear_cache()
        less = program().compile()
    for what in ("flops", "bytes accessed"):
        more = whole.cost_analysis()[what] / less.cost_analysis()[what] - 1
        print(f"{'distill: the gradient norm, of the update, ' + what:64}{more:8.3%}  (counted)", flush=True)
    held = {"state": s.trainer.init()}

    def dispatch():
        held["state"], *rest = whole(held["state"], s.resident, jnp.int32(10))
        return rest

    values = np.ones(distill.Config().updates_per_dispatch, np.float32)
    share_of("distill: the host's look, of 10 updates", lambda: training.not_finite(values, values, 0), dispatch)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    distilling_a_dispatch()
    collecting_a_chunk("q_learning", "dark_room")
    collecting_a_chunk("ucb", "bandit")
    loading("rewards are floats", floats=False)
    loading("rewards and 4 observations are floats", floats=True)
