"""The mesh and the partition rules: where each parameter lies, and what is said when axes do not fit the devices."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import mesh_of

from ad_jax import models
from ad_jax.errors import ConfigError
from ad_jax.models.transformer import PARTITION
from ad_jax.sharding import (
    MeshConfig,
    batch_devices,
    make_mesh,
    on_batch,
    optimizer_shardings,
    param_shardings,
    replicated,
    rows_mesh,
)
from ad_jax.types import Discrete, Spec


def specs(shardings):
    return jax.tree.map(lambda sharding: tuple(sharding.spec), shardings)


def shapes(**named):
    """Parameters of a nested dict by path with `__` for a level."""
    tree = {}
    for name, shape in named.items():
        *outer, last = name.split("__")
        inner = tree
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return tree


@pytest.mark.parametrize("config", [MeshConfig(9), MeshConfig(4, 4), MeshConfig(0, 3), MeshConfig(0, 9)])
def test_axes_that_do_not_use_up_the_devices_are_refused(config):
    remedy = r"does not use up 8 device\(s\); choose mesh.data, mesh.fsdp and mesh.tensor whose product is 8"
    with pytest.raises(ConfigError, match=remedy):
        make_mesh(config)
    assert rows_mesh(config).devices.shape == (8, 1, 1)


@pytest.mark.parametrize(("config", "shape"), [(MeshConfig(3), (3, 1, 1)), (MeshConfig(2, 1, 2), (2, 1, 2))])
def test_stated_axes_may_leave_devices_over(config, shape):
    for mesh in (make_mesh(config), rows_mesh(config)):
        assert mesh.devices.shape == shape
        assert list(mesh.devices.flat) == jax.devices()[: mesh.size]


def test_devices_of_other_processes_may_not_be_left_over():
    devices = [types.SimpleNamespace(process_index=i // 2, id=i) for i in range(4)]
    with pytest.raises(ConfigError, match=r"does not use up 4 device\(s\)"):
        make_mesh(MeshConfig(2), devices)


@pytest.mark.parametrize("config", [MeshConfig(-1, -8), MeshConfig(0, 0), MeshConfig(0, 1, -1)])
def test_axes_below_one_are_refused(config):
    with pytest.raises(ConfigError, match="mesh axes must be at least 1"):
        make_mesh(config)
    with pytest.raises(ConfigError, match="mesh axes must be at least 1"):
        rows_mesh(config)


@pytest.mark.parametrize(
    ("config", "shape", "parts"),
    [(MeshConfig(), (8, 1, 1), 8), (MeshConfig(0, 2, 2), (2, 2, 2), 4), (MeshConfig(1, 1, 8), (1, 1, 8), 1)],
)
def test_data_takes_the_devices_that_are_left(config, shape, parts):
    mesh = make_mesh(config)
    assert mesh.devices.shape == shape
    assert batch_devices(mesh) == parts
    rows = jax.device_put(np.arange(16), on_batch(mesh))
    assert {shard.data.shape for shard in rows.addressable_shards} == {(16 // parts,)}
    assert jax.device_put(np.arange(16), replicated(mesh)).sharding.is_fully_replicated


def test_every_line_of_a_partition_places_its_parameters():
    tree = shapes(
        block_0__query__kernel=(4, 4),
        block_0__key__kernel=(4, 4),
        block_0__value__kernel=(4, 4),
        block_0__up__kernel=(4, 8),
        block_0__out__kernel=(4, 4),
        block_0__down__kernel=(8, 4),
        tokens__action__embedding=(6, 4),
        head__kernel=(4, 6),
        head__bias=(6,),
        norm__scale=(4,),
    )
    block = {
        **{name: {"kernel": ("fsdp", "tensor")} for name in ("query", "key", "value", "up")},
        **{name: {"kernel": ("tensor", "fsdp")} for name in ("out", "down")},
    }
    assert specs(param_shardings(tree, mesh_of(2, 2, 2), PARTITION)) == {
        "block_0": block,
        "tokens": {"action": {"embedding": (None, "fsdp")}},
        "head": {"kernel": ("fsdp", None), "bias": ()},
        "norm": {"scale": ()},
    }


def test_an_axis_that_does_not_divide_is_dropped():
    tree = shapes(up__kernel=(6, 8), value__kernel=(8, 6), out__kernel=(3, 5))
    partition = (("(up|value)/kernel", ("embed", "mlp")), ("out/kernel", ("mlp", "embed")))
    placed = specs(param_shardings(tree, mesh_of(1, 4, 2), partition))
    assert placed == {
        "up": {"kernel": (None, "tensor")},
        "value": {"kernel": ("fsdp", "tensor")},
        "out": {"kernel": (None, None)},
    }


@pytest.mark.parametrize("rule", [optax.adamw(1e-3), optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))])
def test_optimizer_state_lies_as_its_parameters_do(rule):
    mesh, tree = mesh_of(2, 2, 2), shapes(block_0__up__kernel=(4, 8), norm__scale=(4,))
    placed = jax.tree_util.tree_leaves_with_path(
        optimizer_shardings(rule, tree, param_shardings(tree, mesh, PARTITION), mesh)
    )
    found = {jax.tree_util.keystr(path): tuple(sharding.spec) for path, sharding in placed}
    kernels = {name: spec for name, spec in found.items() if "'up'" in name}
    assert len(kernels) == 2, "both moments"
    assert set(kernels.values()) == {("fsdp", "tensor")}
    assert {spec for name, spec in found.items() if name not in kernels} == {()}


def test_a_parameter_without_a_line_is_refused_where_parameters_are_split():
    tree = shapes(block_0__up__kernel=(4, 8), block_0__sideways__kernel=(4, 8))
    assert specs(param_shardings(tree, mesh_of(8, 1, 1), PARTITION))["block_0"]["sideways"] == {"kernel": ()}
    for mesh in (mesh_of(4, 2, 1), mesh_of(4, 1, 2)):
        with pytest.raises(ConfigError, match=r"says nothing of parameter block_0/sideways/kernel \(4, 8\)"):
            param_shardings(tree, mesh, PARTITION)


def test_an_unknown_dimension_is_refused_with_near_matches():
    with pytest.raises(ConfigError, match=r"dimension in the partition of up/kernel 'embd'\. Did you mean 'embed'"):
        param_shardings(shapes(up__kernel=(4, 8)), mesh_of(2, 2, 2), [(".*", ("embd", "mlp"))])


SPECS = {
    "grid": Spec(Discrete(5), (2,), (9, 9)),
    "numbers": Spec(Discrete(3), (4,), None),
    "pixels": Spec(Discrete(4), (9, 12, 3), None, pixels=True),
}
BACKBONES = {
    "transformer": ("transformer", {}),
    "gated transformer with a value": ("transformer", {"gate": "gru", "value_head": True}),
    "paper": ("paper", {"episode_length": 5}),
    "lstm with a value": ("lstm", {"value_head": True, "numeric_observations": True}),
    "dpt": ("dpt", {"numeric_observations": True}),
}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_says_where_each_of_its_parameters_lies(backbone, spec):
    """What is split is most of the numbers; what is copied, a table's or a matrix's worth of them at most."""
    name, options = BACKBONES[backbone]
    model = models.make(name, options).make(SPECS[spec])
    assert hash(model) is not None, "a model may be a static argument"
    params = jax.eval_shape(model.init, jax.random.key(0))
    placed = param_shardings(params, mesh_of(2, 2, 2), model.partition)
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(placed), strict=True)
    block = {leaf.size for leaf, sharding in leaves if leaf.ndim == 2 and not any(sharding.spec)}
    assert max(block, default=0) < 64 * 64 or spec == "pixels"
