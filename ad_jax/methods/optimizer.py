"""Optimizers of the methods: AdamW or Muon after clipping by the global norm, and which parameters decay."""

from typing import Literal

import jax
import optax

from ad_jax.types import PyTree

Rule = Literal["adamw", "muon"]
# optax's own, to be given for each of its five iterations: they are a loop in the program then, else five copies for
# every matrix, which take half as long again to compile.
NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315


def matrices(params: PyTree) -> PyTree:
    """Say which parameters decay: matrices and tables do, norms and biases do not. A tree of bools like `params`."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def clipped(rule: optax.GradientTransformation, clip_norm: float) -> optax.GradientTransformationExtraArgs:
    """Return `rule` after clipping by the global norm; it also runs under strict dtype promotion."""
    chain = optax.chain(optax.clip_by_global_norm(clip_norm), rule)

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **_: object) -> tuple[PyTree, PyTree]:
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an int32 power, which strict JAX refuses
            return chain.update(updates, state, params)

    return optax.GradientTransformationExtraArgs(chain.init, update)


def falling(
    learning_rate: float, steps: int, epsilon: float, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
    """Return Adam after global-norm clipping, on a rate that falls linearly to 0 after so many gradient steps."""
    rate = optax.linear_schedule(learning_rate, 0.0, steps)
    return clipped(optax.adamw(rate, eps=epsilon, weight_decay=weight_decay, mask=matrices), clip_norm)


def warmed_up(
    name: Rule,
    learning_rate: float,
    warmup_updates: int,
    updates: int,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    weight_decay: float = 0.01,
    clip_norm: float = 1.0,
) -> optax.GradientTransformation:
    """Return AdamW or Muon after global-norm clipping, on a linear warm-up and a cosine to 0 at the last update."""
    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_updates, updates)
    if name == "muon":
        iterations = (NEWTON_SCHULZ,) * 5
        rule = optax.contrib.muon(rate, iterations, weight_decay=weight_decay, adam_b1=b1, adam_b2=b2)
    else:
        rule = optax.adamw(rate, b1, b2, weight_decay=weight_decay, mask=matrices)
    return clipped(rule, clip_norm)
