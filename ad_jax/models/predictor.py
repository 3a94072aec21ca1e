"""A backbone that predicts whole steps: its outputs, the networks of a step's tokens, and how it goes on from them."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import jax
from flax import nnx

from ad_jax.models import step_tokens
from ad_jax.models.base import Model
from ad_jax.models.branches import Branches, branches_of
from ad_jax.models.functional import functional
from ad_jax.models.step_tokens import StepTokens, Tokens
from ad_jax.sharding import Partition
from ad_jax.types import PyTree

M = TypeVar("M")


class Predictor(NamedTuple):
    """What a model plans with, beside its outputs.

    Attributes:
        tokens: what the tokens of a step are; rewards and returns are in the model's own unit.
        network: `params -> StepTokens`.
        branches: of the backbone, whose rewards are in that unit, too.
    """

    tokens: Tokens
    network: Callable[[PyTree], StepTokens]
    branches: Branches


def with_tokens(inner: Model, tokens: Tokens) -> Model:
    """Return a backbone with the networks of a step's tokens, whose `parts` plan."""
    model, network = beside(inner, "step_tokens", lambda rngs: StepTokens(tokens, rngs=rngs), step_tokens.PARTITION)
    return model._replace(parts=Predictor(tokens, network, cast(Branches, model.branches)))


def beside(
    inner: Model, name: str, build: Callable[[nnx.Rngs], M], partition: Partition
) -> tuple[Model, Callable[[PyTree], M]]:
    """Return a backbone whose parameters hold those of another module, too, and `params -> that module`.

    Args:
        inner: the backbone.
        name: of the module among the parameters.
        build: makes it.
        partition: of its parameters, whose paths begin with `name`.
    """
    init, network = functional(lambda key: build(nnx.Rngs(key)))
    ways = branches_of(inner)

    def of(params: PyTree) -> PyTree:
        return {key: x for key, x in params.items() if key != name}

    def within(function: Any) -> Any:
        return function and (lambda params, *arguments: function(of(params), *arguments))

    model = inner._replace(
        init=lambda key: inner.init(key) | {name: init(jax.random.fold_in(key, 1))},
        apply=lambda params, steps, key=None: inner.apply(of(params), steps, key),
        decode=within(inner.decode),
        unroll=within(inner.unroll),
        branches=Branches(ways.start, within(ways.decode), ways.take),
        partition=(*inner.partition, *partition),
    )
    return model, lambda params: network(params[name])
