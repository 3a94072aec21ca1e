"""What a method is to the training loop: a `Learner`, pure functions over a state that the loop jits and donates.

`supervised` makes a learner of a loss on windows of histories. Everything about an actual run (checkpoints, going back,
updates left out, stopping, progress) is the loop's, in `ad_jax.stage.train`, and exists once.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from ad_jax.keys import named_key
from ad_jax.sharding import optimiser_shardings, param_shardings, replicated
from ad_jax.types import Array, Batch

Feed = Literal["histories", "tasks", "nothing"]
Metrics = dict[str, Any]  # float32 scalars by name, `loss` and `grad_norm` among them
Loss = Callable[[Any, Batch, jax.Array], jax.Array]


@struct.dataclass
class TrainState:
    """Everything that supervised training carries from one update to the next."""

    params: Any
    opt_state: Any
    step: Array  # [] int32, updates done; with the seed, the whole state of the batch sampler


class Learner(NamedTuple):
    """All that the training loop knows of a method.

    Attributes:
        name: of the random numbers, of the records in metrics.jsonl and of the progress lines.
        feed: what an update learns from: windows drawn from learning histories, the training tasks, or nothing.
        init: `(seed, tasks) -> state`. Every random number is keyed by the seed and a name. `tasks` is None unless the
            learner is fed tasks. The state has a field `step`, `[]` int32, the number of updates done.
        update: `(state, batch or tasks, key) -> (state, metrics)`: one update, pure; the key is consumed.
        params: `state -> params`, what is evaluated.
        shardings: `shapes of the state -> shardings`, how it lies on the mesh from its birth.
        steps: of experience in one update, for rates.
        check: `(metrics [P] on the host, updates before them) -> metrics`: raises for what cannot be, and takes out
            what is no number to log; None takes them as they are.
        shown: what progress lines show, by label, of the metrics.
    """

    name: str
    feed: Feed
    init: Callable[[int, Any], Any]
    update: Callable[[Any, Any, jax.Array], tuple[Any, Metrics]]
    params: Callable[[Any], Any]
    shardings: Callable[[Any], Any]
    steps: int
    check: Callable[[Metrics, int], Metrics] | None = None
    shown: Mapping[str, str] = {"loss": "loss"}


def supervised(
    loss: Loss,
    init: Callable[[jax.Array], Any],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    steps: int,
    accumulate: int = 1,
    groups: int = 1,
    name: str = "distill",
) -> Learner:
    """Make a learner of a loss on windows of histories.

    Args:
        loss: `(params, batch [B, L], key) -> []` float32; the key is consumed.
        init: `key -> params`, a model's.
        steps: in a batch, B x L.
        accumulate: parts that a batch is split into, one after another; saves memory.
        groups: of the histories, see `ad_jax.history.replay`; every part takes rows of each.
        name: as of the `Learner`.
    """

    def start(seed: int, _: Any) -> TrainState:
        params = init(named_key(seed, "params"))
        return TrainState(params, optimizer.init(params), jnp.int32(0))

    def update(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        value, grads = gradient(loss, state.params, batch, key, accumulate, groups)
        changes, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, changes)
        told = {"loss": value, "grad_norm": optax.tree.norm(grads)}
        return TrainState(params, opt_state, state.step + 1), told

    def shardings(shapes: TrainState) -> TrainState:
        of_optimizer = optimiser_shardings(optimizer, shapes.params, mesh)
        return TrainState(param_shardings(shapes.params, mesh), of_optimizer, replicated(mesh))

    return Learner(name, "histories", start, update, lambda state: state.params, shardings, steps)


def gradient(
    loss: Loss, params: Any, batch: Batch, key: jax.Array, accumulate: int = 1, groups: int = 1
) -> tuple[jax.Array, Any]:
    """Return loss and gradient of a batch, in `accumulate` parts. The key is consumed."""
    value_and_grad = jax.value_and_grad(loss)
    if accumulate == 1:
        return value_and_grad(params, batch, key)

    # Every part takes rows of every group, so that each device works on each part from its own rows.
    def split(x):
        return x.reshape(groups, accumulate, -1, *x.shape[1:]).swapaxes(0, 1).reshape(accumulate, -1, *x.shape[1:])

    def add(total, part):
        index, piece = part
        return jax.tree.map(jnp.add, total, value_and_grad(params, piece, jax.random.fold_in(key, index))), None

    zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(add, zero, (jnp.arange(accumulate, dtype=jnp.int32), jax.tree.map(split, batch)))
    return jax.tree.map(lambda x: x / accumulate, total)
