"""What is read of a compiled program: collectives and products of programs that are known."""

import jax
import jax.numpy as jnp
import pytest
from helpers import mesh_of

from ad_jax.planning import hlo


def text(program: jax.stages.Compiled) -> str:
    return program.as_text() or ""


def compiled(f, *arguments, out=None, mesh=None) -> str:
    """Return the text of `f` on the shards of its arguments, which are split over all axes of `mesh`, 8 devices."""
    mesh = mesh or mesh_of(data=8)
    split = jax.P(mesh.axis_names)
    mapped = jax.shard_map(f, mesh=mesh, in_specs=split, out_specs=split if out is None else out, check_vma=False)
    return text(jax.jit(mapped).lower(*arguments).compile())


def only(program: str, kind: str) -> hlo.Collective:
    """Return the one collective of a program, which must be of that kind."""
    (found,) = hlo.read(program).collectives.found
    assert found.kind == kind
    return found


X = jax.ShapeDtypeStruct((64, 6), jnp.float32)  # a shard is [8, 6]
SHARD = 8 * 6 * 4


@pytest.mark.parametrize(
    ("kind", "f", "size", "sent"),
    [
        ("all-reduce", lambda x: jax.lax.psum(x, "data"), SHARD, 2 * SHARD * 7 / 8),
        ("all-gather", lambda x: jax.lax.all_gather(x, "data", tiled=True), 8 * SHARD, 7 * SHARD),
        ("reduce-scatter", lambda x: jax.lax.psum_scatter(x, "data", tiled=True), SHARD / 8, SHARD * 7 / 8),
        ("all-to-all", lambda x: jax.lax.all_to_all(x, "data", 0, 0, tiled=True), SHARD, SHARD * 7 / 8),
        ("collective-permute", lambda x: jax.lax.ppermute(x, "data", [(i, i ^ 1) for i in range(8)]), SHARD, SHARD),
    ],
)
def test_collectives_of_known_programs(kind, f, size, sent):
    found = only(compiled(f, X), kind)
    assert (found.times, found.bytes, found.sent) == (1, size, sent)
    assert found.group == ((0, 1) if kind == "collective-permute" else tuple(range(8)))


@pytest.mark.parametrize(
    ("axes", "group"),
    [("data", (0, 4)), ("fsdp", (0, 2)), ("tensor", (0, 1)), (("fsdp", "tensor"), (0, 1, 2, 3))],
)
def test_the_group_is_that_of_the_meshs_axes(axes, group):
    found = only(compiled(lambda x: jax.lax.psum(x, axes), X, mesh=mesh_of(2, 2, 2)), "all-reduce")
    assert found.group == group
    assert found.sent == 2 * SHARD * (len(group) - 1) / len(group)
    assert [found.crosses(node) for node in (1, 2, 4, 8)] == [group[-1] >= node for node in (1, 2, 4, 8)]


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("{{0,2},{1,3}}", (0, 2)),
        ("[2,4]<=[8]", (0, 1, 2, 3)),
        ("[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("[2,4]<=[2,2,2]T(1,0,2)", (0, 1, 4, 5)),
        ("mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        ("mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", (0, 1, 4, 5)),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", (0, 1, 2, 3)),
        ("mesh['a'=2,'b'=4] {'b':(2)2}", (0, 1)),
        ("mesh['a'=2,'b'=4] {'b':(1)2}", (0, 2)),
        ("{}", tuple(range(8))),
    ],
)
def test_groups_in_each_of_their_forms(text, group):
    program = f"""HloModule m, num_partitions=8
ENTRY %main (x: f32[4]) -> f32[4] {{
  ROOT %r = f32[4]{{0}} all-reduce(%x), channel_id=1, replica_groups={text}, use_global_device_ids=true, to_apply=%add
}}"""
    assert only(program, "all-reduce").group == group


def test_asynchronous_pairs_count_once_and_by_their_results():
    text = """
      %a = (f32[4,2]{1,0}, bf16[3]{0}) all-reduce(%x, %y), replica_groups={{0,1}}, to_apply=%add
      %b = (f32[2]{0}, f32[16]{0}) all-gather-start(%x), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
      %c = f32[16]{0} all-gather-done(%b)
      %d = ((f32[2]{0}, pred[4]{0}), (f32[4]{0}, pred[8]{0})) all-gather-start(%x, %y), replica_groups={{0,1}}
      %e = (f32[9]{0}, f32[9]{0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}
      %f = f32[9]{0} collective-permute-done(%e)
      ROOT %g = s32[] fusion(%all-reduce.1), kind=kLoop
    """
    found = hlo.read(text).collectives
    assert found.count == dict.fromkeys(hlo.KINDS, 0) | {"all-reduce": 1, "all-gather": 2, "collective-permute": 1}
    assert found.bytes["all-reduce"] == 4 * 2 * 4 + 3 * 2
    assert found.bytes["all-gather"] == 16 * 4 + 4 * 4 + 8
    assert found.bytes["collective-permute"] == 9 * 4
    assert found.sent["all-gather"] == 64 * 7 / 8 + 24 / 2


def test_a_wrapped_asynchronous_collective_counts_once():
    text = """HloModule m, num_partitions=4
%wrapped (p: f32[8]) -> f32[2] {
  %p = f32[8]{0} parameter(0)
  ROOT %r = f32[2]{0} reduce-scatter(%p), replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%add
}

ENTRY %main (x: f32[8]) -> f32[2] {
  %s = ((f32[8]{0}), f32[2]{0}) async-start(%x), calls=%wrapped
  ROOT %d = f32[2]{0} async-done(%s), calls=%wrapped
}"""
    found = only(text, "reduce-scatter")
    assert (found.times, found.bytes, found.sent) == (1, 8, 24)


def test_loops_count_as_often_as_they_turn_where_that_is_known():
    """Nested loops multiply. A count that is an argument is taken for 1."""
    weight = jax.ShapeDtypeStruct((48, 6), jnp.float32)  # a shard is [6, 6]

    def inner(x, w):
        return jax.lax.fori_loop(0, 3, lambda _, x: jax.lax.psum(jnp.tanh(x @ w), "data") / 8, x)

    nested = compiled(lambda x, w: jax.lax.fori_loop(0, 5, lambda _, x: inner(x, w), x @ w), X, weight)
    program = hlo.read(nested)
    assert program.collectives.count["all-reduce"] == 15
    assert program.collectives.bytes["all-reduce"] == 15 * SHARD
    product = 2 * 8 * 6 * 6
    assert (program.product_flops, program.product_flops_once) == (16 * product, 2 * product)
    assert program.repeats == 8
    mesh = mesh_of(data=8)
    split, whole = jax.P("data"), jax.P()
    f = jax.shard_map(
        lambda x, n: jax.lax.fori_loop(0, n, lambda _, x: jax.lax.psum(x, "data") / 8, x),
        mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False,
    )  # fmt: skip
    unknown = jax.jit(f).lower(X, jax.ShapeDtypeStruct((), jnp.int32)).compile()
    assert hlo.read(text(unknown)).collectives.count["all-reduce"] == 1


def test_products_are_those_of_the_compilers_count():
    f = jax.jit(lambda a, b: jnp.einsum("bij,bjk->bik", a, b))
    program = f.lower(jnp.ones((3, 16, 8)), jnp.ones((3, 8, 32))).compile()
    assert hlo.read(text(program)).product_flops == 2 * 3 * 16 * 8 * 32
    assert program.cost_analysis()["flops"] == 2 * 3 * 16 * 8 * 32
