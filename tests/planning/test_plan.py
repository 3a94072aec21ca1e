"""A plan says what a real update takes: bytes of real arrays, memory of a real run, collectives that do not grow."""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import chex
import jax
import numpy as np
import pytest
from helpers import mesh_of, numbered_histories, refused, trainer_of

from ad_jax.__main__ import main
from ad_jax.errors import ConfigError
from ad_jax.experiment import Experiment, build, load, override
from ad_jax.history import replay
from ad_jax.keys import named_key
from ad_jax.methods import supervised
from ad_jax.planning import accelerators, cost, plan
from ad_jax.planning.hlo import Collective, Collectives
from ad_jax.sharding import MeshConfig, parse_mesh
from ad_jax.text import si

H100 = accelerators.find("h100-sxm")
ONE = MeshConfig(1, 1, 1)


def small(*changes: str) -> Experiment:
    """Dark Room with a model of one layer, every matrix of which can be split."""
    sizes = ["layers=1", "width=32", "heads=4", "mlp_width=128", "token_mask=0.0"]
    return override(load("dark_room", "smoke"), [*(f"model.{size}" for size in sizes), *changes])


@pytest.fixture(scope="module")
def planned():
    """Plans by mesh and changes, each compiled once."""
    kept = {}

    def get(mesh: MeshConfig, *changes: str) -> plan.Plan:
        if (mesh, changes) not in kept:
            kept[mesh, changes] = plan.plan(small(*changes), mesh)
        return kept[mesh, changes]

    return get


def held(tree, device) -> int:
    """Bytes that a device holds of real arrays."""
    return sum(s.data.nbytes for x in jax.tree.leaves(tree) for s in x.addressable_shards if s.device == device)


def real(e: Experiment, mesh):
    """Return a real state, and histories of the collection's sizes with made-up contents, on the devices of `mesh`."""
    p = build(e)
    trainer = trainer_of(p.model, p.spec, e.method, e.replay, mesh, e.seed, p.family.render)
    h = numbered_histories(e.tasks.trained * e.collect.seeds, e.collect.episodes * p.family.episode_length, 20)
    h.transition = h.transition.replace(reward=h.transition.reward.astype(p.family.reward_dtype))
    return trainer.init(), replay.load(h, p.spec, e.replay, mesh)


@pytest.mark.parametrize("shape", [(2, 2, 2), pytest.param((1, 1, 1), marks=pytest.mark.slow)], ids=str)
def test_state_histories_and_cache_are_the_bytes_of_real_shards(planned, shape):
    found = planned(MeshConfig(*shape))
    mesh = mesh_of(*shape)
    state, histories = real(found.experiment, mesh)
    assert found.count == sum(x.size for x in jax.tree.leaves(state.params))
    for device in mesh.devices.flat:
        assert held(state.params, device) == found.params
        assert held((state.opt_state, state.step), device) == found.optimizer
        assert held(histories, device) == found.replay
    names = held(histories.history, mesh.devices.flat[0])  # for errors alone: no update reads them
    assert found.arguments == found.params + found.optimizer + found.replay - names + 4, (
        "nothing else goes in but the seed"
    )
    assert found.gradients == found.params
    cache = build(found.experiment).model.init_cache(32 // (shape[0] * shape[1]))  # 16 tasks, 2 seeds
    assert found.cache == sum(x.nbytes for x in jax.tree.leaves(cache))


def resident(field: str) -> int:
    """Bytes of this process by /proc/self/status: VmRSS now, VmHWM the most so far."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux counts a process's pages")
def test_a_real_update_takes_the_memory_that_was_planned():
    """The process grows by the temporary memory while an update runs, and by what a first run loads."""
    e = small("replay.batch=128", "model.width=64", "replay.segment=80", "model.layers=2")
    state, histories = real(e, mesh_of())
    seed = np.uint32(e.seed)
    like, _, program = plan.compile_update(e, build(e), mesh_of())
    chex.assert_trees_all_equal_shapes(state, like)
    memory = program.memory_analysis()
    assert (
        memory.argument_size_in_bytes == held((state, histories.replace(history=None)), jax.devices()[0]) + seed.nbytes
    )
    jax.block_until_ready((state, histories))
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the most so far is what is there now
    before = resident("VmRSS")
    _, metrics = jax.block_until_ready(program(state, histories, seed))
    grown = resident("VmHWM") - before
    assert 1.2 < float(metrics["loss"]) < 2.5, "about log 5: it was an update"
    assert memory.temp_size_in_bytes > 5e7
    assert 0.9 < grown / memory.temp_size_in_bytes < 1.4


@pytest.mark.slow
def test_bytes_sent_by_a_device_do_not_grow_with_the_data_axis(planned):
    """Weak scaling: as many rows for each device, so only the ring's (n - 1) / n may change."""
    sent = {}
    for n in (2, 4, 8):
        found = planned(MeshConfig(n, 1, 1), f"replay.groups={n}", f"replay.batch={2 * n}")
        assert {kind for kind, count in found.collectives.count.items() if count} == {"all-reduce"}
        assert found.collectives.bytes["all-reduce"] == pytest.approx(found.gradients, rel=0.01), "each gradient once"
        sent[n] = sum(found.collectives.sent.values()) / ((n - 1) / n)
    assert sent[2] == sent[4] == sent[8]


@pytest.mark.slow
def test_recomputing_accumulating_and_sharding_show_in_the_plan(planned):
    """Less memory each, of what it is for; recomputing costs a forward pass, and parts of a batch cost nothing."""
    sizes = ("model.layers=3", "replay.batch=64")
    as_is = planned(ONE, *sizes)
    again, parts = planned(ONE, *sizes, "model.remat=True"), planned(ONE, *sizes, "distill.accumulate=4")
    assert again.temporary < 0.8 * as_is.temporary
    assert 1.15 < again.flops / as_is.flops < 1.35
    assert parts.temporary < 0.5 * as_is.temporary
    assert parts.flops == pytest.approx(as_is.flops, rel=0.05), "the loop over parts is counted"
    assert parts.gradients == 2 * as_is.gradients
    for p in (as_is, parts):
        assert 0.8 < p.model_flops / p.flops < 1.25
    whole, split = planned(MeshConfig(8, 1, 1), "replay.groups=8", "replay.batch=16"), planned(MeshConfig(2, 2, 2))
    assert split.params + split.optimizer < 0.4 * (whole.params + whole.optimizer)
    lines = plan.table({"as planned": as_is, "remat=True": again}, H100)
    assert [line.split()[0] for line in lines] == ["setting", "as", "remat=True"]
    assert si(again.temporary, "B") in lines[2]


def test_alternatives_are_the_other_settings():
    e = small("replay.batch=64", "distill.accumulate=2")
    others: Any = plan.alternatives(e, MeshConfig(2, 4, 1))
    assert list(others) == ["remat=True", "accumulate=8", "fsdp=1, data=8"]
    assert others["remat=True"][0].model.remat
    assert others["accumulate=8"][0].method.accumulate == 8
    assert others["fsdp=1, data=8"] == (e, MeshConfig(8, 1, 1))
    assert "accumulate=12" not in plan.alternatives(small("distill.accumulate=2"), ONE), "2 rows are not 8 parts"
    assert list(plan.alternatives(override(e, ["model=dpt"]), ONE)) == ["accumulate=8"], "dpt cannot recompute"


@pytest.mark.parametrize("name", ["transformer", pytest.param("paper", marks=pytest.mark.slow)])
def test_a_model_that_recomputes_is_the_same_function(name):
    """With all its random parts: masks and dropout are drawn from the same keys the second time."""
    drops = ["model.token_mask=0.3", "model.dropout=0.1", "model.attention_dropout=0.2"]
    e = override(small(), [f"model.name={name}", "model.layers=2", "model.window=40", *drops])
    plain, again = build(e), build(override(e, ["model.remat=True"]))
    params = plain.model.init(named_key(0, "params"))
    _, histories = real(e, mesh_of())
    draw = jax.jit(lambda held, key: replay.sample(held, key, plain.spec, e.replay, mesh_of()))
    batch = draw(histories, named_key(0, "batch"))

    def gradient(model):  # the key is an argument: what is drawn from a constant would be drawn while compiling
        f = jax.jit(lambda p, b, key: supervised.gradient(supervised.cross_entropy(model), p, b, key))
        return f(params, batch, named_key(0, "model"))

    (loss, grads), (loss_again, grads_again) = gradient(plain.model), gradient(again.model)
    assert float(loss) == pytest.approx(float(loss_again), rel=1e-6)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(grads_again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    text = str(jax.make_jaxpr(lambda p: again.model.apply(p, batch.steps, named_key(0, "model")))(params))
    assert text.count("remat") + text.count("checkpoint") >= 2, "each block"


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("100m", 99.1e6),
        pytest.param("1b", 1.007e9, marks=pytest.mark.slow),
        pytest.param("8b", 8.054e9, marks=pytest.mark.slow),
    ],
)
def test_sizes_are_what_they_are_called(size, count):
    e: Any = plan.sized(load("dark_room"), size)
    parameters = cost.count(e, build(e)).parameters
    assert parameters == pytest.approx(count, rel=1e-3)
    fewer: Any = plan.sized(load("dark_room"), size, ["model.layers=3", "seed=2"])
    assert (fewer.model.layers, fewer.seed) == (3, 2)
    assert fewer.model.width == e.model.width
    with pytest.raises(ConfigError, match=r"unknown size '8B'. Did you mean '8b'"):
        plan.sized(e, "8B")
    with pytest.raises(ConfigError, match=r"unknown option of model lstm 'heads'"):
        build(plan.sized(e, size, ["model=lstm"]))


def test_a_batch_is_fitted_to_a_mesh_that_its_groups_do_not_divide():
    config = replay.Config(batch=64, groups=8)
    assert plan.fitted(config, 4) == config
    assert plan.fitted(config, 256) == dataclasses.replace(config, batch=2048, groups=256)


def test_the_estimated_time_by_hand():
    on = accelerators.Accelerator(100.0, 10.0, 1e3, 50.0, 5.0, 4, 2.0)
    sent = Collectives((Collective("all-gather", 8, (0, 1), 3), Collective("all-reduce", 8, (0, 4), 1)))
    took = accelerators.step_time(on, "bfloat16", 300.0, 50.0, sent)
    assert took == accelerators.StepTime(3.0, 1.0, 3 * 4 / 5 + 8 / 2)
    assert took.total == 3 + 2.4 + 4
    assert accelerators.step_time(on, "float32", 300.0, 50.0, Collectives(())).total == 30


BAD = [
    (["--on", "h100"], "unknown accelerator 'h100'. Did you mean 'h100-sxm'"),
    (["--mesh", "data=2,fspd=4"], "unknown mesh axis 'fspd'. Did you mean 'fsdp'"),
    (["--mesh", "32x8x4"], "a mesh reads axis=size,..., e.g. data=32,fsdp=8,tensor=4"),
    (["--mesh", "data=0"], "with sizes of at least 1; got 'data=0'"),
    (["--mesh", "data=2,data=4"], "a mesh names each axis once"),
    (["--mesh", "data=16"], "the mesh has 16 devices, and JAX has started with 8", "in a process of its own"),
    (["--size", "7b"], "unknown size '7b'. Did you mean '8b'"),
    (["model=lstm", "--size", "8b"], "unknown option of model lstm 'heads'"),
    (["model=explorer"], "a plan is of training on histories; dark_room trains nothing"),
    (["tasks.train=1", "collect.seeds=1", "--mesh", "data=8"], "1 histories cannot fill 8 groups"),
]


@pytest.mark.parametrize(("words", "parts"), [(b[0], b[1:]) for b in BAD], ids=[" ".join(b[0]) for b in BAD])
def test_what_cannot_be_planned_is_refused_before_anything_is_compiled(words, parts, capsys, monkeypatch):
    monkeypatch.setattr(plan, "compile_update", lambda *_: pytest.fail("compiled"))
    refused(capsys, ["plan", "dark_room", "--scale", "smoke", *words], *parts)


def test_a_mesh_is_read_as_it_is_written():
    assert parse_mesh("data=32,fsdp=8,tensor=4") == MeshConfig(32, 8, 4)
    assert parse_mesh("tensor=2, data=3") == MeshConfig(3, 1, 2)
    assert parse_mesh("fsdp=8") == MeshConfig(1, 8, 1)


def test_the_command_prints_the_plan(capsys, planned, monkeypatch):
    found = planned(MeshConfig(2, 2, 2))
    monkeypatch.setattr(plan, "plan", lambda e, mesh: found)
    words = ["plan", "dark_room", "--scale", "smoke", "--mesh", "data=2,fsdp=2,tensor=2", "--on", "tpu-v5p"]
    assert main([*words, "--compare"]) == 0
    shown = capsys.readouterr().out
    for part in (
        f"{found.count:,} parameters on 8 devices, mesh 2 x 2 x 2",
        f"parameters       {si(found.params, 'B')}",
        f"{si(found.peak, 'B')}: fits tpu-v5p's 95 GB",
        "Estimated on tpu-v5p",
        "remat=True",
        "fsdp=1, data=4",
    ):
        assert part in shown


@pytest.mark.slow
def test_a_thousand_devices_are_planned_without_them(tmp_path):
    """In a process of its own, with one layer of the largest model; parameters are split 32 ways."""
    words = ["plan", "dark_room", "--mesh", "data=32,fsdp=8,tensor=4", "--size", "8b", "model.layers=1"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-m", "ad_jax", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "201,474,053 parameters on 1,024 devices, mesh 32 x 8 x 4" in done.stdout
