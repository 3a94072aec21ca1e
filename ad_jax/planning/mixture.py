"""What an update of a mixture takes of each device: the plan of all members together, compiled as one program.

In: a mixture and a mesh that need not be there. Out: lines, as of one experiment's plan. Figures are the sum over the
members where they have their own (histories, caches, the model's products), and the program's for the rest.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import cast

import jax

from ad_jax.experiment import Member, Mixture, build_members, override_mixture
from ad_jax.methods.mixture import mixed, part_of
from ad_jax.methods.supervised import Supervised
from ad_jax.planning import cost, plan, residents
from ad_jax.planning.accelerators import Accelerator
from ad_jax.planning.plan import Plan
from ad_jax.sharding import MeshConfig, batch_devices, make_mesh
from ad_jax.stage.feeds import Windows, feed_of
from ad_jax.stage.mixed import MixedWindows
from ad_jax.stage.trainer import Trainer
from ad_jax.text import aligned, si


@dataclasses.dataclass(frozen=True)
class MixedPlan(Plan):
    """A plan of several members; `experiment` is the first of them, and `each` says what all of them feed."""

    each: str = ""

    @property
    def fed(self) -> str:
        """What an update learns from, in words."""
        return self.each


def mixture_plan(mixture: Mixture, mesh_config: MeshConfig) -> MixedPlan:
    """Compile one update of `mixture` for a mesh, whose `data` must not be 0; raises as `plan.plan`."""
    mesh = make_mesh(mesh_config, jax.devices()[: mesh_config.data * mesh_config.fsdp * mesh_config.tensor])
    split = batch_devices(mesh)
    m = _fitted(mixture, split)
    parts = build_members(m)
    trained = {name: (parts.experiments[name], parts.components[name]) for name in m.trained}
    settings = {name: p.setting(e, mesh) for name, (e, p) in trained.items()}
    learners = {name: p.method.make(settings[name]).learner for name, (_, p) in trained.items()}
    config = cast(Supervised, m.method)
    given = {
        name: part_of(learner, settings[name].sampling.groups, m.shares[name]) for name, learner in learners.items()
    }
    feeds = {name: cast(Windows, feed_of(config, setting)) for name, setting in settings.items()}
    trainer = Trainer(mixed(config, parts.together, given, mesh), MixedWindows(feeds), config, mesh, m.seed)
    started = time.monotonic()
    shapes = {name: residents.replay_shapes(e, p) for name, (e, p) in trained.items()}
    state, replay, program = plan.compiled(trainer, shapes, mesh)
    seconds = time.monotonic() - started
    counted = {name: cost.count(e, p) for name, (e, p) in trained.items()}
    caches = [
        residents.tree_bytes(jax.eval_shape(lambda p=p, n=n: p.model.init_cache(-(-counted[n].rollouts // split))))
        for n, (_, p) in trained.items()
    ]
    flops = [one.update_flops for one in counted.values()]
    first, components = next(iter(trained.values()))
    batches = (f"{name} {e.replay.batch:,} x {e.replay.segment}" for name, (e, _) in trained.items())
    return MixedPlan(
        first,
        mesh_config,
        sum(x.size for x in jax.tree.leaves(state.params)),
        cache=max(caches),
        model_flops=sum(x for x in flops if x is not None) if all(flops) else None,
        dtype=getattr(components.model_config, "compute_dtype", "float32"),
        seconds=seconds,
        each=f"batches of {', '.join(batches)} steps",
        **plan.measured(state, replay, program, config.parts),
    )


def sized(mixture: Mixture, size: str | None, changes: Sequence[str]) -> Mixture:
    """Return the mixture with a model of a size of `plan.SIZES`, and overridden by `changes`, which win over it."""
    return override_mixture(override_mixture(mixture, changes), plan.sizes_of(size, changes))


def planned(m: Mixture, mesh: MeshConfig, name: str, on: Accelerator, compare: bool = False) -> list[str]:
    """Return the lines of a plan, for people.

    Args:
        m: what is planned.
        mesh: its axes.
        name: of the accelerator.
        on: its limits.
        compare: also with each of recomputing, parts of a batch and sharded state changed.
    """
    plans: dict[str, Plan] = {"as planned": mixture_plan(m, mesh)}
    lines = plan.lines(plans["as planned"], name, on)
    if compare:
        for what, (changed, other) in _alternatives(m, mesh).items():
            plans[what] = mixture_plan(changed, other)
        lines += ["", *plan.table(plans, on)]
    return lines


def _alternatives(m: Mixture, mesh: MeshConfig) -> dict[str, tuple[Mixture, MeshConfig]]:
    """Other settings of what saves memory, by what they change."""
    others, parts = {}, 4 * m.method.parts
    if hasattr(m.model, "remat"):
        remat = not getattr(m.model, "remat")  # noqa: B009  # of a transformer; others have none
        others[f"remat={remat}"] = override_mixture(m, [f"model.remat={remat}"]), mesh
    replays = [member.experiment.replay for member in _fitted(m, mesh.data * mesh.fsdp).trained.values()]
    if all(replay.batch // replay.groups % parts == 0 for replay in replays):
        others[f"accumulate={parts}"] = override_mixture(m, [f"method.accumulate={parts}"]), mesh
    if mesh.fsdp > 1:
        split = mesh.data * mesh.fsdp
        others[f"fsdp=1, data={split}"] = m, dataclasses.replace(mesh, data=split, fsdp=1)
    return others


def _fitted(m: Mixture, split: int) -> Mixture:
    """Return the mixture with as many groups as devices, where the groups of a member cannot be split over them."""

    def member(one: Member) -> Member:
        replay = plan.fitted(one.experiment.replay, split)
        return dataclasses.replace(one, experiment=dataclasses.replace(one.experiment, replay=replay))

    return dataclasses.replace(m, envs=tuple(map(member, m.members.values())))


def cost_lines(mixture: Mixture) -> list[str]:
    """Return what a mixture costs, counted from its members: a row each, and what all share. Nothing is compiled."""
    parts = build_members(mixture)
    rows = [("family", "share", "env. steps", "on disk", "on device", "batch", "own parameters", "FLOP an update")]
    shapes = {name: p.params for name, p in parts.components.items()}
    own, total, flops = parts.together.own, 0, 0.0
    for name, e in parts.experiments.items():
        one = cost.count(e, parts.components[name])
        mine = sum(x.size for part in own for x in jax.tree.leaves(shapes[name][part]))
        share = f"{mixture.shares[name]:.2f}" if name in mixture.shares else "held out"
        flop = "unknown" if one.update_flops is None else si(one.update_flops, "FLOP")
        sizes = si(one.disk_bytes, "B"), si(one.resident_bytes, "B"), f"{e.replay.batch} x {e.replay.segment}"
        rows.append((name, share, f"{one.env_steps / 1e6:,.1f} M", *sizes, f"{mine:,}", flop))
        total, flops = total + mine, flops + (one.update_flops or 0.0) * (name in mixture.shares)
    first = next(iter(parts.components.values()))
    trunk = sum(x.size for x in jax.tree.leaves(parts.together.trunk_of(first.params)))
    updates = mixture.method.updates
    told = f"{trunk:,} parameters of the trunk, {total:,} of the families' own"
    if flops:
        told += f"; {si(flops, 'FLOP')} an update, {si(flops * updates, 'FLOP')} in {updates:,}"
    return [*("  ".join(row).rstrip() for row in aligned(rows)), told]
