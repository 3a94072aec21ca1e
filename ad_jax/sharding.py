"""The device mesh and how every array lies on it; the only file that names mesh axes.

    data     batch and histories are split, parameters copied
    fsdp     batch and histories are split, and parameters and optimizer state too
    tensor   heads and MLP width are split

The same code runs on one device: a 1 x 1 x 1 mesh. Axes are `Auto`: the compiler places the collectives. A mesh may
reach over several processes; `put` and `to_host` are the way in and out then, and every process makes the same calls.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ad_jax.errors import ConfigError, unknown
from ad_jax.types import PyTree

BATCH = ("data", "fsdp")  # the axes that split batches and histories
GROUP = "data"  # the axis along which groups may learn each by itself

# Patterns of parameter paths, matched whole, each with the names of its dimensions. Pairs, so that a model is hashable.
Partition = Sequence[tuple[str, tuple[str | None, ...]]]

# What a model may name a dimension of a parameter, and the axis that splits it.
DIMENSIONS = {"embed": "fsdp", "heads": "tensor", "mlp": "tensor"}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the axes; 0 for `data` takes every device that is left."""

    data: int = 0
    fsdp: int = 1
    tensor: int = 1


def parse_mesh(text: str) -> MeshConfig:
    """Return the mesh that `"data=32,fsdp=8,tensor=4"` says; axes that are not named have size 1.

    Raises:
        ConfigError: for another form, an unknown axis (near matches are listed), one named twice, or a size below 1.
    """
    sizes = {field.name: 1 for field in dataclasses.fields(MeshConfig)}
    named = [part.partition("=") for part in text.split(",")]
    for name, equals, size in named:
        if not equals or not size.strip().isdecimal() or int(size) < 1:
            raise ConfigError(
                f"a mesh reads axis=size,..., e.g. data=32,fsdp=8,tensor=4, with sizes of at least 1; got {text!r}"
            )
        if name.strip() not in sizes:
            raise unknown("mesh axis", name.strip(), sizes)
        sizes[name.strip()] = int(size)
    if len({name.strip() for name, _, _ in named}) < len(named):
        raise ConfigError(f"a mesh names each axis once; got {text!r}")
    return MeshConfig(**sizes)


def virtual_devices(count: int) -> None:
    """Make JAX run on `count` virtual CPU devices, if it has not started yet. (gymnax starts it when imported.)

    Raises:
        ConfigError: if it has, with fewer.
    """
    try:
        jax.config.update("jax_num_cpu_devices", count)
        jax.config.update("jax_platforms", "cpu")
    except RuntimeError:
        pass  # started; it may have as many
    if len(jax.devices()) < count:
        raise ConfigError(
            f"the mesh has {count} devices, and JAX has started with {len(jax.devices())}; plan it in a process of its "
            "own, before anything else uses JAX"
        )


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Return the mesh of `config` over `devices` (default: all). Where all axes are stated, one process may leave some
    over.

    Raises:
        ConfigError: if there are not that many devices, or some are left over that should not be.
    """
    devices = jax.devices() if devices is None else devices
    if config.data < 0 or config.fsdp < 1 or config.tensor < 1:
        raise ConfigError(f"mesh axes must be at least 1 (mesh.data may be 0, for every device left); got {config}")
    rest = config.fsdp * config.tensor
    data = config.data or len(devices) // rest
    spare = len(devices) - data * rest
    if data == 0 or spare < 0 or (spare and (config.data == 0 or len({d.process_index for d in devices}) > 1)):
        raise ConfigError(
            f"mesh data x fsdp x tensor = {config.data or '?'} x {config.fsdp} x {config.tensor} does not "
            f"use up {len(devices)} device(s); choose mesh.data, mesh.fsdp and mesh.tensor whose product is "
            f"{len(devices)}"
        )
    shape = (data, config.fsdp, config.tensor)
    used = np.array(devices[: data * rest]).reshape(shape)
    return Mesh(used, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def rows_mesh(config: MeshConfig) -> Mesh:
    """Return a mesh for work that only splits rows, as collecting and evaluating do, with the same result on any.

    That of `config`, or where it does not fit the devices, all of them.

    Raises:
        ConfigError: for an axis below 1.
    """
    try:
        return make_mesh(config)
    except ConfigError:
        if min(config.data, config.fsdp - 1, config.tensor - 1) < 0:
            raise
        return make_mesh(MeshConfig())


def own_mesh(mesh: Mesh) -> Mesh:
    """Return a mesh of this process's devices, for work that needs no other process; `mesh` itself where there is only
    one.
    """
    return make_mesh(MeshConfig(), jax.local_devices()) if mesh.is_multi_process else mesh


def batch_devices(mesh: Mesh) -> int:
    """Into how many parts the mesh splits a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def on_batch(mesh: Mesh) -> NamedSharding:
    """Leading axis over the batch axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Host arrays, or arrays of one device, that every process has in full; each puts its own devices' part there."""
    if sharding.is_fully_addressable:
        return jax.tree.map(lambda x: jax.device_put(x, sharding), tree)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda part: x[part]), tree)


def to_host(x: jax.Array) -> np.ndarray:
    """Return an array in host memory, whole on every process, wherever its parts lie."""
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def param_shardings(params: PyTree, mesh: Mesh, partition: Partition) -> PyTree:
    """Return a sharding for every leaf of `params` (arrays or shapes); an axis that does not divide is dropped.

    Args:
        params: a tree of arrays or shapes.
        mesh: on which the parameters lie.
        partition: of the model; the first pattern that matches a parameter's whole path, `block_0/up/kernel`, decides.

    Raises:
        ConfigError: on a mesh that splits parameters, for one that no pattern matches, or for an unknown dimension.
    """
    splits = mesh.shape["fsdp"] * mesh.shape["tensor"] > 1

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        named = next((names for pattern, names in partition if re.fullmatch(pattern, name)), None)
        if named is None and splits:
            known = ", ".join(pattern for pattern, _ in partition) or "no parameter"
            raise ConfigError(
                f"the model's partition says nothing of parameter {name} {leaf.shape}, which mesh.fsdp and mesh.tensor "
                f"above 1 need; it knows {known}. Add a line for it, () for a copy on every device"
            )
        axes = [None if dimension is None else _axis(dimension, name) for dimension in named or ()]

        def fits(axis, size):
            return axis if axis is not None and size % mesh.shape[axis] == 0 else None

        return NamedSharding(mesh, PartitionSpec(*map(fits, axes, leaf.shape)))

    return jax.tree_util.tree_map_with_path(place, params)


def _axis(dimension: str, name: str) -> str:
    if dimension not in DIMENSIONS:
        raise unknown(f"dimension in the partition of {name}", dimension, DIMENSIONS)
    return DIMENSIONS[dimension]


def optimizer_shardings(optimizer: optax.GradientTransformation, params: PyTree, placed: PyTree, mesh: Mesh) -> PyTree:
    """Return shardings of `optimizer.init(params)`: what mirrors a parameter lies as it does, the rest is replicated.

    Args:
        optimizer: whose state is to be placed.
        params: arrays or shapes.
        placed: their shardings, of `param_shardings`.
        mesh: on which the state lies.
    """
    state = jax.eval_shape(optimizer.init, params)

    def elsewhere(leaf):
        return isinstance(leaf, optax.MaskedNode)  # Muon hands some parameters to another rule

    return optax.tree_map_params(
        optimizer,
        lambda leaf, sharding: leaf if elsewhere(leaf) else sharding,
        state,
        placed,
        transform_non_params=lambda _: replicated(mesh),
        is_leaf=elsewhere,
    )
