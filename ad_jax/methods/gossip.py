"""Gossip in the place of an all-reduce: groups learn each by itself, and average their parameters with one neighbor.

A group has its own trials, parameters and optimizer. After every gradient step it sends its parameters to the next
group of a ring and takes the mean of its own and of those it is sent: as many bytes as one copy has, to one neighbor,
whatever the number of groups. What is evaluated is the average of all, which is made once an update.

How far groups are apart is bounded. With X the groups' parameters, U their changes in a step and P the mixing,
X' = P (X + U); P keeps the average and shrinks what differs from it by its second singular value, cos(pi / G) for this
ring. So the distance of X from its average is at most the `ball` b, b' = cos(pi / G) (b + |U|), which is 0 at the start
and is computed beside the distance itself, `apart`.

Source: Assran et al. 2019 (arXiv 1906.04585), whose agents mix without waiting for one another and are shown to stay
in a ball around their average. Here a group waits for its neighbor, and the bound is that of a ring in step. Letters: G
groups.
"""

import dataclasses
import functools
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ad_jax.envs.base import TaskFamily
from ad_jax.errors import ConfigError
from ad_jax.history import reward_unit
from ad_jax.keys import named_key
from ad_jax.methods.base import Learner
from ad_jax.methods.minibatches import Learning, rows_on
from ad_jax.methods.played import check_of
from ad_jax.methods.reinforcement import Parts, improved, mean_facts, spread, told_of
from ad_jax.methods.trials import Trials, begin
from ad_jax.models.base import ActorCritic
from ad_jax.sharding import GROUP, batch_devices, replicated
from ad_jax.types import Array, PyTree

if TYPE_CHECKING:
    from ad_jax.methods.rl2 import RL2


@struct.dataclass
class TrainState:
    """Everything that training carries from one update to the next."""

    params: PyTree  # the average of the groups', which is evaluated
    step: Array  # [] int32, updates done
    trials: Trials
    groups: Learning  # [G, ...]
    ball: Array  # [] float32, the groups are no farther from their average


def make(
    network: ActorCritic,
    family: TaskFamily,
    tasks: PyTree,
    config: "RL2",
    mesh: Mesh,
    unit: float = reward_unit.NONE,
) -> Learner:
    """Make the learner of groups, as `rl2.make` does that of one.

    Raises:
        ConfigError: if a number cannot be meant, or there is not a device for each group.
    """
    config.validate()
    config.check_devices(batch_devices(mesh))
    if config.gossip is None or mesh.shape[GROUP] != mesh.size:
        raise ConfigError(
            f"method.gossip={config.gossip} groups hold their parameters whole: set mesh.fsdp=1 and mesh.tensor=1; got "
            f"{dict(mesh.shape)}"
        )
    groups, optimizer = config.gossip, config.make_optimizer()
    parts = Parts(reward_unit.applied(network, unit), family, config, optimizer, unit)

    def init(seed: jax.Array, tasks: PyTree) -> TrainState:
        params = parts.network.init(named_key(seed, "params"))
        trials = begin(parts.network, family, config, named_key(seed, "rl2-start"), tasks)
        one = Learning(params, optimizer.init(params))
        every = jax.tree.map(lambda x: jnp.broadcast_to(x, (groups, *x.shape)), one)
        return TrainState(params, jnp.int32(0), spread(trials, config), every, jnp.float32(0))

    def shardings(shapes: TrainState) -> TrainState:
        everywhere, own = replicated(mesh), NamedSharding(mesh, PartitionSpec(GROUP))
        return TrainState(
            jax.tree.map(lambda _: everywhere, shapes.params),
            everywhere,
            rows_on(mesh, shapes.trials),
            jax.tree.map(lambda _: own, shapes.groups),
            everywhere,
        )

    return Learner(
        name="rl2",
        feed="tasks",
        init=init,
        update=functools.partial(update, parts, groups, mesh),
        params=lambda state: state.params,
        shardings=shardings,
        steps=config.env_steps(family),
        check=check_of(tasks, family),
        shown={"first_episode": "first_return", "last": "last_return", "entropy": "entropy", "apart": "apart"},
    )


def update(
    parts: Parts, groups: int, mesh: Mesh, state: TrainState, tasks: PyTree, key: jax.Array
) -> tuple[TrainState, dict[str, PyTree]]:
    """Return what `rl2.update` does, of each group with its part of the trials. The key is consumed.

    Returns:
        The state after it, and the metrics of `rl2.update`, means over groups; beside them the distance of the groups'
        parameters from their average, `apart`, and its bound, `ball`.
    """
    split, whole = PartitionSpec(GROUP), PartitionSpec()
    rows = jax.tree.map(lambda x: split if x.ndim else whole, state.trials)
    own = parts._replace(config=dataclasses.replace(parts.config, trials=parts.config.trials // groups))

    def of_group(learning, trials, step, tasks, key):
        mine, key = jax.tree.map(lambda x: x[0], learning), jax.random.fold_in(key, jax.lax.axis_index(GROUP))
        mix = functools.partial(with_neighbor, groups)
        learned, trials, unroll, facts = improved(own, mine, trials, step, tasks, key, mesh=None, mix=mix)
        return *jax.tree.map(lambda x: x[None], (learned, facts)), trials, unroll

    given, made = (split, rows, whole, whole, whole), (split, split, rows, split)
    go = jax.shard_map(of_group, mesh=mesh, in_specs=given, out_specs=made, check_vma=False)
    learned, facts, trials, unroll = go(state.groups, state.trials, state.step, tasks, key)
    average = jax.tree.map(lambda x: x.mean(axis=0), learned.params)
    apart = optax.tree.norm(jax.tree.map(lambda x, mean: x - mean[None], learned.params, average))
    moved, shrinking = jnp.sqrt(facts[3].sum(axis=0)).reshape(-1), math.cos(math.pi / groups)
    ball = jax.lax.scan(lambda b, by: (shrinking * (b + by), None), state.ball, moved)[0]
    metrics = mean_facts(facts[:3]) | told_of(parts.family, parts.config, state.trials, unroll)
    return TrainState(average, state.step + 1, trials, learned, ball), metrics | {"apart": apart, "ball": ball}


def with_neighbor(groups: int, params: PyTree, changes: PyTree) -> tuple[PyTree, jax.Array]:
    """Return the mean of a group's parameters and those of the group before it, and the square of how far it went."""
    ring = [(group, (group + 1) % groups) for group in range(groups)]
    sent = jax.tree.map(lambda x: jax.lax.ppermute(x, GROUP, ring), params)
    return jax.tree.map(lambda mine, other: (mine + other) / 2, params, sent), optax.tree.norm(changes) ** 2
