"""What the training loops, `distill` and `rl2`, share beside their updates: optimiser, checkpoint, finite numbers."""

from typing import Any

import jax
import numpy as np
import optax

from ad_jax.checkpoint import Checkpoints
from ad_jax.errors import TrainingDiverged


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
    """Shapes with their shardings: what to compile for, and to restore into."""
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings
    )


def latest(checkpoints: Checkpoints, state_like: Any, meta: dict[str, Any]) -> tuple[int, Any, dict[str, Any]] | None:
    """Step, state and metadata of the latest checkpoint; None where there is none.

    Raises:
        CheckpointError: if it is of another architecture than `meta["architecture"]`, or all are damaged.
    """
    return None if checkpoints.latest() is None else checkpoints.restore(state_like, meta["architecture"])


def check_finite(stage: str, loss: np.ndarray, norm: np.ndarray, step: int) -> None:
    """Raises TrainingDiverged where loss or gradient norm `[P]`, of the updates after `step`, are not finite."""
    bad = np.flatnonzero(~(np.isfinite(loss) & np.isfinite(norm)))
    if len(bad):
        raise TrainingDiverged(
            f"update {step + int(bad[0]) + 1}: loss {loss[bad[0]]}, gradient norm {norm[bad[0]]}. The last "
            f"good checkpoint is kept; lower {stage}.learning_rate or {stage}.clip_norm"
        )
