"""What one training update takes of each device of a mesh that need not be there: compiled for it, nothing allocated.

The update is that of `Trainer`, lowered from shapes and compiled for as many virtual CPU devices. The program is the
same for every device, so compiling takes no longer for a thousand than for eight.

Exact (counted from shapes and shardings): parameters, optimizer, gradients, histories, cache, and what goes in.
The CPU compiler's: temporary memory, FLOP, bytes moved, collectives. It partitions as on any backend, but it widens
bfloat16 to float32 (also in collectives), fuses less, and leaves an all-reduce of which each device keeps a part where
others make a reduce-scatter: its figures are rather too high than too low. A step time follows, see `accelerators`.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from ad_jax.errors import ConfigError, unknown
from ad_jax.experiment import Components, Experiment, build, override
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.history.replay import Replay
from ad_jax.methods.supervised import TrainState
from ad_jax.planning import cost, hlo, residents
from ad_jax.planning.accelerators import Accelerator, StepTime, step_time
from ad_jax.planning.hlo import Collectives
from ad_jax.sharding import MeshConfig, batch_devices, make_mesh, on_batch, replicated
from ad_jax.stage.feeds import feed_of
from ad_jax.stage.trainer import Trainer, abstract_state
from ad_jax.text import aligned, si
from ad_jax.types import PyTree

# Width, and heads of width 64 or 128, of Brown et al. 2020 (arXiv 2005.14165, table 2.1); an MLP of 4 widths. As many
# layers as make the number of parameters: tables of tokens as large as theirs do not exist here.
SIZES = {
    "100m": {"layers": 14, "width": 768, "heads": 12, "mlp_width": 3072, "compute_dtype": "bfloat16"},
    "1b": {"layers": 20, "width": 2048, "heads": 16, "mlp_width": 8192, "compute_dtype": "bfloat16"},
    "8b": {"layers": 40, "width": 4096, "heads": 32, "mlp_width": 16384, "compute_dtype": "bfloat16"},
}
# The program is not run, so what only makes its code faster is left out. The order is that of least memory, as on
# accelerators; a CPU's own order is one of most work side by side, in which recomputing saves nothing.
OPTIONS = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """One update on one device. Bytes are exact down to `cache`, and the CPU compiler's from `arguments` on."""

    experiment: Experiment  # with the batch as it was fitted to the mesh
    mesh: MeshConfig
    count: int  # parameters of the whole model
    params: int
    optimizer: int  # with the number of the update
    gradients: int  # twice where parts are added up; inside `temporary`
    replay: int
    cache: int  # of evaluating the largest held-out set; not in memory while training
    arguments: int
    temporary: int
    flops: float
    accessed: float
    model_flops: float | None  # of the model's products, see `transformer.train_flops`
    dtype: str
    collectives: Collectives
    seconds: float  # of lowering and compiling

    @property
    def fed(self) -> str:
        """What an update learns from, in words."""
        replay = self.experiment.replay
        return f"batch {replay.batch:,} x {replay.segment} steps"

    @property
    def peak(self) -> int:
        """Bytes of an update: what goes in, in whose place the new state comes out, and what is temporary."""
        return self.arguments + self.temporary

    def time(self, on: Accelerator) -> StepTime:
        """Return an estimate."""
        return step_time(on, self.dtype, self.flops, self.accessed, self.collectives)


def sizes_of(size: str | None, changes: Sequence[str]) -> list[str]:
    """Return the changes that make a model of a size of `SIZES`, and those of the model again, which win over it.

    Raises:
        ConfigError: for an unknown size; near matches are listed.
    """
    if size is None:
        return []
    if size not in SIZES:
        raise unknown("size", size, SIZES)
    sizes = [f"model.{name}={value}" for name, value in SIZES[size].items()]
    return [*sizes, *(change for change in changes if change.removeprefix("--").startswith("model."))]


def sized(experiment: Experiment, size: str | None, changes: Sequence[str] = ()) -> Experiment:
    """Return the experiment with a model of a size of `SIZES`, and overridden by `changes`, which win over the size.

    The model must take a transformer's options; `experiment.build` refuses another.

    Raises:
        ConfigError: for an unknown size (near matches are listed), and what `experiment.override` refuses.
    """
    return override(override(experiment, changes), sizes_of(size, changes))


def plan(experiment: Experiment, mesh_config: MeshConfig) -> Plan:
    """Compile one update of `experiment` for a mesh of `mesh_config`, whose `data` must not be 0.

    Raises:
        ConfigError: for what `experiment.build` refuses, for a model that is not distilled, or where there are fewer
            devices, or fewer histories than devices that split them.
    """
    count = mesh_config.data * mesh_config.fsdp * mesh_config.tensor
    mesh = make_mesh(mesh_config, jax.devices()[:count])
    split = batch_devices(mesh)
    e = dataclasses.replace(experiment, replay=fitted(experiment.replay, split))
    p = build(e)
    if p.method.feed != "histories":
        by = f"by {p.method.title}" if p.trained else "nothing"
        raise ConfigError(f"a plan is of training on histories; {e.name} trains {by}")
    counted = cost.count(e, p)
    rows = residents.versions(e, p)
    if rows < e.replay.groups:
        raise ConfigError(
            f"{rows} histories cannot fill {e.replay.groups} groups, which the devices share; raise tasks.train or "
            "collect.seeds, or lower the mesh's data x fsdp"
        )
    started = time.monotonic()
    state, replay, program = compile_update(e, p, mesh)
    seconds = time.monotonic() - started
    rollouts = -(-counted.rollouts // split)
    return Plan(
        e,
        mesh_config,
        counted.parameters,
        cache=residents.tree_bytes(jax.eval_shape(lambda: p.model.init_cache(rollouts))),
        model_flops=counted.update_flops,
        dtype=getattr(p.model_config, "compute_dtype", "float32"),
        seconds=seconds,
        **measured(state, replay, program, p.method.parts),
    )


def measured(state: TrainState, replay: PyTree, program: Any, parts: int) -> dict[str, Any]:
    """Return what shapes with shardings and a compiled update say of one device."""
    memory, costs, text = program.memory_analysis(), program.cost_analysis(), hlo.read(program.as_text())
    return {
        "params": on_device(state.params),
        "optimizer": on_device((state.opt_state, state.step)),
        "gradients": on_device(state.params) * (1 if parts == 1 else 2),
        "replay": on_device(replay),
        "arguments": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "flops": costs["flops"] * text.repeats,
        "accessed": costs["bytes accessed"] * text.repeats,
        "collectives": text.collectives,
    }


def compile_update(e: Experiment, p: Components, mesh: Mesh) -> tuple[TrainState, Replay, Any]:
    """Shapes of the state and of the histories, with shardings, and an update, compiled.

    It takes `(state, replay, seed)`. The program is that of `Trainer.update`; the state is donated.
    """
    setting = p.setting(e, mesh)
    trainer = Trainer(p.method.make(setting).learner, feed_of(p.method, setting), p.method, mesh, e.seed)
    return compiled(trainer, residents.replay_shapes(e, p), mesh)


def compiled(trainer: Trainer, replay: PyTree, mesh: Mesh) -> tuple[TrainState, PyTree, Any]:
    """Return the same of a trainer and the shapes of what lies on the devices."""
    replay = abstract_state(replay, jax.tree.map(lambda _: on_batch(mesh), replay))
    number = replicated(mesh)
    update = jax.jit(trainer.update, donate_argnums=0, out_shardings=(trainer.shardings, number))
    return (
        trainer.abstract_state,
        replay,
        update.lower(trainer.abstract_state, replay, trainer.seed).compile(compiler_options=dict(OPTIONS)),
    )


def fitted(replay: ReplayConfig, split: int) -> ReplayConfig:
    """With as many groups as devices, of as many rows as before, where the groups cannot be split over the devices."""
    if replay.groups % split == 0:
        return replay
    turns = None if replay.rotation is None else replay.rotation.fitted(split)
    return dataclasses.replace(replay, groups=split, batch=replay.batch // replay.groups * split, rotation=turns)


def on_device(tree: PyTree) -> int:
    """Bytes on one device of arrays, or shapes with shardings."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def alternatives(e: Experiment, mesh: MeshConfig) -> dict[str, tuple[Experiment, MeshConfig]]:
    """Other settings of what saves memory, by what they change: recomputing, parts of a batch, sharded state."""
    split = mesh.data * mesh.fsdp
    config, others = build(dataclasses.replace(e, replay=fitted(e.replay, split))).model_config, {}
    if hasattr(config, "remat"):
        others[f"remat={not config.remat}"] = override(e, [f"model.remat={not config.remat}"]), mesh
    parts, rows = 4 * e.method.parts, e.replay.batch // e.replay.groups
    if rows % parts == 0 and hasattr(e.method, "accumulate"):
        others[f"accumulate={parts}"] = override(e, [f"method.accumulate={parts}"]), mesh
    if mesh.fsdp > 1:
        others[f"fsdp=1, data={split}"] = e, dataclasses.replace(mesh, data=split, fsdp=1)
    return others


def lines(p: Plan, name: str, on: Accelerator) -> list[str]:
    """For people."""
    e, took = p.experiment, p.time(on)
    devices = p.mesh.data * p.mesh.fsdp * p.mesh.tensor
    share = "" if p.model_flops is None else f" ({p.model_flops / devices / p.flops:.0%} are the model's products)"
    rest = max(p.temporary - p.gradients, 0)
    fits = "fits" if p.peak <= on.memory else "does not fit"
    rows = [
        f"{p.count:,} parameters on {devices:,} devices, mesh {p.mesh.data} x {p.mesh.fsdp} x {p.mesh.tensor} "
        f"(data x fsdp x tensor); {p.fed} in {e.method.parts} "
        f"part(s); {p.dtype}; compiled in {p.seconds:.0f} s",
        "",
        "One device, exact",
        f"  parameters       {si(p.params, 'B')}",
        f"  optimizer        {si(p.optimizer, 'B')}",
        f"  histories        {si(p.replay, 'B')}",
        f"  gradients        {si(p.gradients, 'B')}",
        f"  cache            {si(p.cache, 'B')}, in evaluating only",
        "",
        "One device, one update, as the CPU compiler has it",
        f"  activations etc. {si(rest, 'B')}, beside the gradients",
        f"  at the peak      {si(p.peak, 'B')}: {fits} {name}'s {si(on.memory, 'B')}",
        f"  computing        {si(p.flops, 'FLOP')}{share}",
        f"  memory moved     {si(p.accessed, 'B')}",
    ]
    for kind, times in p.collectives.count.items():
        if times:
            size, sent = p.collectives.bytes[kind], p.collectives.sent[kind]
            rows.append(f"  {kind:<18} {times:,}, {si(size, 'B')}; sent around a ring {si(sent, 'B')}")
    return [
        *rows,
        "",
        f"Estimated on {name}: {si(took.total, 's') if took.total >= 1 else si(took.total * 1e3, 'ms')} an update "
        f"= max(computing {took.compute * 1e3:.3g} ms, memory {took.memory * 1e3:.3g} ms) "
        f"+ collectives {took.communication * 1e3:.3g} ms, each at the maker's peak, collectives not overlapped",
    ]


def table(plans: dict[str, Plan], on: Accelerator) -> list[str]:
    """Return a line a setting: what each option changes."""
    heads = ("setting", "state", "temporary", "peak", "FLOP", "sent", "estimated")
    rows: list[tuple[str, ...]] = [heads]
    for name, p in plans.items():
        sent = sum(p.collectives.sent.values())
        values = (si(p.params + p.optimizer, "B"), si(p.temporary, "B"), si(p.peak, "B"), si(p.flops, "FLOP"))
        rows.append((name, *values, si(sent, "B"), f"{p.time(on).total * 1e3:.3g} ms"))
    return ["  ".join(row).rstrip() for row in aligned(rows)]
