"""What it costs to look for NaN, infinity and values that are not as stated, as a share of the stage that looks.

    python experiments/speed/finite.py

Each round times the stage and its check in turn, or the stage with its check and without, so that what else the machine
does slows both. Printed is the median over the rounds of the share, with its 95 % interval by bootstrap. Three minutes
on two CPU cores.
"""

import sys
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ad_jax import values
from ad_jax.bench import collecting, distilling, evaluating
from ad_jax.bench.sizes import Case
from ad_jax.bench.timing import Work, measure
from ad_jax.history import replay
from ad_jax.methods import base, distillation
from ad_jax.policies.base import from_model
from ad_jax.stage.rollout import make_evaluator
from ad_jax.stage.train import not_finite
from ad_jax.types import Discrete, Spec

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 31
SMALL = Case("small", "transformer", {"layers": 4, "width": 64, "heads": 2, "window": 100}, 16, 100, 10)
CALLS = 20  # of a check in one timing: it is short


def never(spec, dtype, observation, action, *_):
    return jnp.zeros(action.shape, jnp.bool_)  # looks at nothing


def told(what: str, share: np.ndarray) -> None:
    """Print a share in per cent."""
    drawn = np.random.default_rng(0).choice(share, (10_000, len(share)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    print(f"{what:64}{np.median(share):8.3%}  ({low:.3%} to {high:.3%}, {len(share)} rounds)", flush=True)


def share_of(what: str, check, stage) -> None:
    """Print how long `check` takes, as a share of `stage`, which does not do it."""

    def many():
        return [check() for _ in range(CALLS)] and None

    seconds = measure({"check": Work(many, 1), "stage": Work(stage, 1)}, ROUNDS)
    told(what, np.array(seconds["check"]) / CALLS / np.array(seconds["stage"]))


def share_within(what: str, looking, blind) -> None:
    """Print by how much a compiled stage is slower than the same one that does not look."""
    seconds = measure({"looking": Work(looking, 1), "blind": Work(blind, 1)}, ROUNDS)
    told(what, np.array(seconds["looking"]) / np.array(seconds["blind"]) - 1)


def collecting_a_chunk(source: str, env: str) -> None:
    """Time a chunk of lifetimes, in memory."""

    def lifetimes():
        return collecting.in_memory(collecting.setting(source, env, 256, 2_000_000)).call

    with mock.patch.object(values, "look_through", lambda spec, dtype, first, *_: first):
        blind = lifetimes()
    share_within(f"collect {source} on {env}: a chunk, in memory", lifetimes(), blind)


def evaluating_a_dispatch(rollouts: int) -> None:
    """Time a window of steps of the small transformer in Dark Room."""
    s = evaluating.setting(SimpleNamespace(cases=[SMALL]))

    def rolling(change):
        policy = change(from_model(s.model))
        run = evaluating.Rolling(s, make_evaluator(policy, s.family, s.mesh, 4, 100), rollouts)
        run()
        return run

    def unseen(policy):
        return policy._replace(highest=lambda carry: None)

    with mock.patch.object(values, "impossible", never):
        blind = rolling(unseen)
    share_within(f"evaluate: 100 steps of {rollouts} rollouts", rolling(lambda policy: policy), blind)


def evaluating_counted(rollouts: int) -> None:
    """Count what the look adds to a compiled step, where a clock on a shared machine cannot tell."""
    s = evaluating.setting(SimpleNamespace(cases=[SMALL]))

    def cost(policy):
        run = evaluating.Rolling(s, make_evaluator(policy, s.family, s.mesh, 4, 100), rollouts)
        lowered = run.evaluator.run.lower(run.params, run.rollouts, run.keys, run.tasks)
        return lowered.compile().cost_analysis()

    whole = cost(from_model(s.model))
    with mock.patch.object(values, "impossible", never):
        less = cost(from_model(s.model)._replace(highest=lambda carry: None))
    for what in ("flops", "bytes accessed"):
        name = f"evaluate: {rollouts} rollouts, {what}"
        print(f"{name:64}{whole[what] / less[what] - 1:8.3%}  (counted)", flush=True)


def loading(what: str, floats: bool) -> None:
    """`replay.load` of random histories; rewards are floats, the observations may be."""
    spec = Spec(Discrete(5), (4,), (9,) * 4)
    histories = distilling.random_histories(1024, 400, spec)
    seen = histories.transition
    histories.transition = seen.replace(reward=seen.reward.astype(np.float32))
    if floats:
        histories.transition = histories.transition.replace(observation=seen.observation.astype(np.float32))
        spec = Spec(Discrete(5), (4,), None)
    sampling, mesh = replay.Config(segment=100), collecting.make_mesh(collecting.MeshConfig())

    def stage():
        with mock.patch.object(values, "wrong", return_value=None):
            return replay.load(histories, spec, sampling, mesh)

    share_of(f"load histories, {what}", lambda: values.wrong(histories, spec), stage)


def distilling_a_dispatch() -> None:
    """Time the look at what came to the host; count the gradient's norm, which clipping takes too, in the program."""
    s = distilling.setting(SMALL)
    tree = SimpleNamespace(**vars(optax.tree) | {"norm": lambda grads: 0.0})  # not of clipping, which keeps its own

    def program():
        return s.trainer.lower(s.resident)

    whole = program().compile()
    with mock.patch.object(base, "optax", SimpleNamespace(**vars(optax) | {"tree": tree})):
        s.trainer.loop.clear_cache()
        less = program().compile()
    for what in ("flops", "bytes accessed"):
        more = whole.cost_analysis()[what] / less.cost_analysis()[what] - 1
        print(f"{'distill: the gradient norm, of the update, ' + what:64}{more:8.3%}  (counted)", flush=True)
    held = {"state": s.trainer.init()}

    def dispatch():
        held["state"], *rest = whole(held["state"], s.resident, jnp.int32(10), s.trainer.seed)
        return rest

    values = np.ones(distillation.Distillation().updates_per_dispatch, np.float32)
    share_of("distill: the host's look, of 10 updates", lambda: not_finite(values, values, 0), dispatch)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    distilling_a_dispatch()
    collecting_a_chunk("q_learning", "dark_room")
    collecting_a_chunk("ucb", "bandit")
    evaluating_counted(81)
    evaluating_a_dispatch(16)
    evaluating_a_dispatch(81)
    evaluating_a_dispatch(128)
    loading("rewards are floats", floats=False)
    loading("rewards and 4 observations are floats", floats=True)
