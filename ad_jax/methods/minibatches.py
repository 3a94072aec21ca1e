"""Rows side by side, dealt into minibatches, and the gradient steps on these. Pure functions, for methods that act.

Letters: B rows, each a trial under way and what it did.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from ad_jax.sharding import on_batch, replicated
from ad_jax.types import PyTree


@struct.dataclass
class Learning:
    """Parameters, and their optimizer's state."""

    params: PyTree
    opt_state: PyTree


def begun_again(over: jax.Array, fresh: PyTree, going: PyTree) -> PyTree:
    """Return what is fresh in the rows that are `over [B]`, and what goes on in the others; clocks, scalars, go on."""

    def choose(new, old):
        return jnp.where(over.reshape(-1, *[1] * (old.ndim - 1)), new, old) if old.ndim else old

    return jax.tree.map(choose, fresh, going)


def dealt(tree: PyTree, minibatches: int) -> PyTree:
    """Return leaves `[B, ...]` as `[minibatches, B / minibatches, ...]`, of every device's rows as many to each; of a
    scalar, a copy for each.
    """

    def deal(x):
        if not x.ndim:
            return jnp.broadcast_to(x, (minibatches,))
        return x.reshape(-1, minibatches, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(deal, tree)


def rows_on(mesh: Mesh, tree: PyTree) -> PyTree:
    """Return the shardings of what rows hold: `[B, ...]` over the batch axes, a scalar on every device."""
    return jax.tree.map(lambda x: on_batch(mesh) if x.ndim else replicated(mesh), tree)


def gradient_steps(
    loss: Callable[[PyTree, PyTree], tuple[jax.Array, jax.Array]],
    rule: optax.GradientTransformation,
    learning: Learning,
    fed: PyTree,
    *,
    mesh: Mesh | None,
    minibatches: int,
    passes: int,
    mix: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]] | None = None,
) -> tuple[Learning, tuple[jax.Array, jax.Array, jax.Array, PyTree]]:
    """Take a gradient step on each minibatch, so many times.

    Args:
        loss: `(params, minibatch) -> (loss, a fact)`, scalars.
        rule: of the steps.
        learning: what learns.
        fed: `[B, ...]`, what a minibatch has rows of.
        mesh: whose batch axes split each minibatch; None: the rows are those of one device.
        minibatches: as many rows in each.
        passes: over all of them.
        mix: `(params after a step, how far it went) -> (params, what is told of it)`; None leaves them.

    Returns:
        What has learned, and loss, gradient norm, fact and what `mix` told of each step, `[passes, minibatches]`.
    """
    batches = dealt(fed, minibatches)

    def step(learning, batch):
        if mesh is not None:
            batch = jax.lax.with_sharding_constraint(batch, rows_on(mesh, batch))
        (value, fact), grads = jax.value_and_grad(loss, has_aux=True)(learning.params, batch)
        changes, opt_state = rule.update(grads, learning.opt_state, learning.params)
        params, told = optax.apply_updates(learning.params, changes), ()
        if mix is not None:
            params, told = mix(params, changes)
        return Learning(params, opt_state), (value, optax.tree.norm(grads), fact, told)

    def go(learning, _):
        return jax.lax.scan(step, learning, batches)

    return jax.lax.scan(go, learning, None, passes)
