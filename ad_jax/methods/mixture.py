"""One trunk trained on several families: every update goes down the weighted mean of the members' losses.

A batch is drawn in fixed shares. Each member gives its own windows to every update, as many and as long as its own
`replay` says, and its loss counts by its share of the weights. That is, in expectation, a batch whose windows are drawn
from the members by weight, without the spread of drawing which: every parameter has a gradient in every update, also
those that only one member has, whose moments in the optimizer would else go stale. Each member's part of the program
has its own static shapes, so no window is padded to another's length, and one program serves all updates.

The trunk may then be held fast, and a family that was never trained on be given the layers that it needs (`fitted`).
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from ad_jax.errors import ConfigError
from ad_jax.keys import named_key
from ad_jax.methods.base import Learner, Metrics
from ad_jax.methods.supervised import Loss, Supervised, TrainState, gradient
from ad_jax.models.base import Model, Params
from ad_jax.models.together import Together
from ad_jax.sharding import optimizer_shardings, param_shardings, replicated
from ad_jax.types import Batch, PyTree


class Part(NamedTuple):
    """What a member gives to an update."""

    loss: Loss  # of the parameters of its own model
    share: float  # of its weight in that of all
    groups: int  # of its histories
    steps: int  # in its batch


def part_of(learner: Learner, groups: int, share: float = 1.0) -> Part:
    """Return what a member gives to an update, of its own method's learner.

    Raises:
        ConfigError: if its method says that it mixes, and has no loss of its own.
    """
    if learner.loss is None:
        raise ConfigError(f"method {learner.name} says that it mixes, and its learner states no loss (Learner.loss)")
    return Part(learner.loss, share, groups, learner.steps)


def mixed(config: Supervised, together: Together, parts: Mapping[str, Part], mesh: Mesh) -> Learner:
    """Make the learner of all members.

    Its `update` is fed the batch of each member, by name, with the key of its model.

    Args:
        config: how to train.
        together: the members' models.
        parts: of the same members.
        mesh: on which parameters and the optimizer's state lie.
    """
    optimizer, names = config.make_optimizer(), sorted(parts)

    def start(seed: jax.Array, _: PyTree) -> TrainState:
        params = together.init(named_key(seed, "params"))
        return TrainState(params, optimizer.init(params), jnp.int32(0))

    def of_member(name: str, params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, Params]:
        def loss(params, batch, key):
            return parts[name].loss(together.view(params, name), batch, key)

        return gradient(loss, params, batch, key, config.accumulate, parts[name].groups)

    def update(
        state: TrainState, fed: Mapping[str, tuple[Batch, jax.Array]], _: jax.Array
    ) -> tuple[TrainState, Metrics]:
        found = {name: of_member(name, state.params, *fed[name]) for name in names}
        weighted = [
            jax.tree.map(lambda x, share=parts[name].share: jnp.float32(share) * x, found[name]) for name in names
        ]
        value, grads = weighted[0]
        for more, further in weighted[1:]:
            value, grads = value + more, jax.tree.map(jnp.add, grads, further)
        changes, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, changes)
        told = {"loss": value, "grad_norm": optax.tree.norm(grads)} | {f"loss_{n}": x for n, (x, _) in found.items()}
        return TrainState(params, opt_state, state.step + 1), told

    def shardings(shapes: TrainState) -> TrainState:
        placed = param_shardings(shapes.params, mesh, together.partition)
        return TrainState(placed, optimizer_shardings(optimizer, shapes.params, placed, mesh), replicated(mesh))

    steps = sum(part.steps for part in parts.values())
    return Learner("distill", "histories", start, update, lambda state: state.params, shardings, steps)


def fitted(config: Supervised, model: Model, part: Part, mesh: Mesh) -> Learner:
    """Make the learner of the layers that belong to one family alone, on a trunk that stays as it is, to the bit.

    The trunk's parameters are what its `init` is given in the place of tasks; they have no gradient and no state in the
    optimizer.

    Args:
        config: how to train.
        model: of the family.
        part: what is learned from; its share says nothing.
        mesh: on which parameters and the optimizer's state lie.
    """
    optimizer = config.make_optimizer()

    def own(params: Params) -> Params:
        return {name: params[name] for name in model.own}

    def start(seed: jax.Array, trunk: Params) -> TrainState:
        params = model.init(named_key(seed, "params")) | trunk
        return TrainState(params, optimizer.init(own(params)), jnp.int32(0))

    def update(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        def loss(layers, batch, key):
            return part.loss(state.params | layers, batch, key)

        layers = own(state.params)
        value, grads = gradient(loss, layers, batch, key, config.accumulate, part.groups)
        changes, opt_state = optimizer.update(grads, state.opt_state, layers)
        params = state.params | optax.apply_updates(layers, changes)
        return TrainState(params, opt_state, state.step + 1), {"loss": value, "grad_norm": optax.tree.norm(grads)}

    def shardings(shapes: TrainState) -> TrainState:
        placed = param_shardings(shapes.params, mesh, model.partition)
        held = optimizer_shardings(optimizer, own(shapes.params), own(placed), mesh)
        return TrainState(placed, held, replicated(mesh))

    return Learner("distill", "histories", start, update, lambda state: state.params, shardings, part.steps)
