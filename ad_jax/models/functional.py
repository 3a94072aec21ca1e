"""From an nnx module to the pure functions of the contract. Apart from it, which needs no flax."""

from collections.abc import Callable
from typing import TypeVar

import jax
from flax import nnx

from ad_jax.keys import a_key
from ad_jax.models.base import Params

M = TypeVar("M")


def functional(build: Callable[[jax.Array], M]) -> tuple[Callable[..., Params], Callable[[Params], M]]:
    """`init` of a Model, and `params -> module`, from `build`: `key -> nnx.Module`, whose state is parameters alone.

    `build` is traced once, here: JAX keeps that with `init`, for all who ask it for shapes or put it in their programs.
    """

    @jax.jit
    def split(key: jax.Array):
        graph, state = nnx.split(build(key))
        return graph, nnx.to_pure_dict(state)

    graph, _ = jax.eval_shape(lambda: split(a_key(0)))
    return lambda key: split(key)[1], lambda params: nnx.merge(graph, params)
