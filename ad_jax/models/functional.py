"""From an nnx module to the pure functions of the contract. Apart from it, which needs no flax."""

from collections.abc import Callable
from typing import TypeVar

import jax
from flax import nnx

from ad_jax.keys import a_key
from ad_jax.models.base import Params

M = TypeVar("M")


def functional(build: Callable[[jax.Array], M]) -> tuple[Callable[..., Params], Callable[[Params], M]]:
    """`init` of a Model, and `params -> module`, from `build`: `key -> nnx.Module`, whose state is parameters alone."""
    graph, _ = nnx.split(nnx.eval_shape(lambda: build(a_key(0))))

    def init(key: jax.Array) -> Params:
        return nnx.to_pure_dict(nnx.split(build(key))[1])

    return init, lambda params: nnx.merge(graph, params)
