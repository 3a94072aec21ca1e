"""What the training loops, `distill` and `rl2`, share beside their updates: optimiser, checkpoint, finite numbers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from ad_jax.checkpoint import lineage
from ad_jax.checkpoint.checkpoint import Checkpoints
from ad_jax.checkpoint.fingerprint import without_elements
from ad_jax.errors import CheckpointError, TrainingDiverged
from ad_jax.process import distributed, preemption


def matrices(params: Any) -> Any:
    """Which parameters decay: matrices and tables, not norms and biases."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def clipped(rule: optax.GradientTransformation, clip_norm: float) -> optax.GradientTransformationExtraArgs:
    """`rule` after clipping by the global norm, under strict dtype promotion, too."""
    chain = optax.chain(optax.clip_by_global_norm(clip_norm), rule)

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an int32 power, which strict JAX refuses
            return chain.update(updates, state, params)

    return optax.GradientTransformationExtraArgs(chain.init, update)


def like(shapes: Any, shardings: Any) -> Any:
    """Shapes with their shardings: what to compile for, and to restore into.

    Raises:
        CheckpointError: naming what no checkpoint could hold, before anything is compiled.
    """
    if told := without_elements(shapes):
        raise CheckpointError(told)
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings
    )


def latest(checkpoints: Checkpoints, state_like: Any, meta: dict[str, Any]) -> tuple[int, Any, dict[str, Any]] | None:
    """Step, state and metadata of the latest checkpoint; None where there is none.

    Raises:
        CheckpointError: if it is of another architecture than `meta["architecture"]` or of another run, or all are
            damaged.
    """
    if checkpoints.latest() is None:
        return None

    def accept(found: dict[str, Any]) -> None:
        lineage.check_architecture(found, meta["architecture"], checkpoints.folder)
        lineage.check_own(found, meta, checkpoints.folder)

    return checkpoints.restore(state_like, accept)


def leaving(stopped: Callable[[], bool]) -> bool:
    """Whether a process of this run was told to stop; `stopping.deferred` then stops all of them."""
    if not any(distributed.everywhere(stopped)):
        return False
    preemption.stop()
    return True


class Bad(NamedTuple):
    """An update, counted from 1, whose loss or gradient is not finite, in words."""

    update: int
    told: str


def not_finite(loss: np.ndarray, norm: np.ndarray, step: int) -> Bad | None:
    """The first of the updates after `step` whose loss or gradient norm `[P]` is not finite; None where all are."""
    bad = np.flatnonzero(~(np.isfinite(loss) & np.isfinite(norm)))
    if not len(bad):
        return None
    update = step + int(bad[0]) + 1
    return Bad(update, f"update {update}: loss {loss[bad[0]]}, gradient norm {norm[bad[0]]}")


def skip(stage: str, bad: Bad, skipped: Sequence[int], at_most: int | None) -> list[int]:
    """What is to be left out from now on: `skipped`, and the bad update.

    Raises:
        TrainingDiverged: if that is more than `at_most`; None is 0.
    """
    if len(skipped) >= (at_most or 0):
        remedy = f"lower {stage}.learning_rate or {stage}.clip_norm; or set {stage}.skip_updates, to leave it out"
        raise TrainingDiverged(f"{bad.told}. The last good checkpoint is kept; {remedy}")
    return [*skipped, bad.update]


def until(step: int, config: Any, periods: Sequence[int], skipped: Sequence[int]) -> int:
    """Updates in one dispatch until the host has something to do: 0 where the next one is left out.

    Args:
        config: says `updates` and `updates_per_dispatch`.
        periods: every so many updates there is something; 0 is never.
    """
    ahead = [update - step - 1 for update in skipped if update > step]
    return min(config.updates_per_dispatch, config.updates - step, *ahead, *(p - step % p for p in periods if p))
