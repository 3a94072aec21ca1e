"""Positions per second of training, model FLOP against the peak, and what a step's time goes to.

Histories are random: what is learned changes nothing in the time. The share is by `planning.transformer` against the
peak (`peak.py`) in float32, or in bfloat16 where the model computes in it.
"""

import contextlib
import gc
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from ad_jax import envs, models
from ad_jax.bench.peak import peak
from ad_jax.bench.rows import Row, rate
from ad_jax.bench.sizes import Case, Sizes
from ad_jax.bench.timing import Work, measure, paired
from ad_jax.envs.base import spec_of
from ad_jax.history import replay
from ad_jax.keys import a_key
from ad_jax.methods.base import Setting
from ad_jax.methods.distillation import Distillation
from ad_jax.planning.transformer import train_flops
from ad_jax.process.metrics import log
from ad_jax.sharding import MeshConfig, make_mesh
from ad_jax.stage.feeds import Windows
from ad_jax.stage.trainer import Trainer
from ad_jax.types import Histories, Spec, Transition

HISTORIES, WINDOWS = 256, 4  # histories to sample from, and how many windows long each is
UPDATES_PER_DISPATCH = Distillation().updates_per_dispatch
CACHE_OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


class Trained(NamedTuple):
    """A model and everything that one trains it with."""

    trainer: Trainer
    resident: replay.Replay
    sampling: replay.Config
    spec: Spec
    model_config: Any  # of the backbone
    mesh: Mesh


def setting(case: Case, mesh: Mesh | None = None) -> Trained:
    """Return the trainer of `case` on Dark Room's spec, on all devices by default."""
    family = envs.make("dark_room", {})
    spec, mesh = spec_of(family), mesh if mesh is not None else make_mesh(MeshConfig())
    config = models.make(case.model, case.options).bind(family)
    sampling = replay.Config(segment=case.segment, batch=case.batch)
    resident = replay.load(random_histories(HISTORIES, WINDOWS * case.segment, spec), spec, sampling, mesh)
    training, model = Distillation(updates=10**6, accumulate=case.accumulate), config.make(spec)
    learner = training.make(Setting(family, model, config, spec, spec, None, sampling, mesh)).learner
    trainer = Trainer(learner, Windows(spec, sampling, mesh), training, mesh, 0)
    return Trained(trainer, resident, sampling, spec, config, mesh)


def random_histories(count: int, steps: int, spec: Spec, episode: int = 20) -> Histories:
    """Histories of uniform noise; integer observations only."""
    rng = np.random.default_rng(0)
    done = np.tile(np.arange(steps) % episode == episode - 1, (count, 1))
    observation = np.stack([rng.integers(0, n, (count, steps)) for n in spec.values or ()], axis=-1)
    transition = Transition(
        observation.reshape(count, steps, *spec.shape).astype(spec.observation_dtype),
        rng.integers(0, spec.num_actions, (count, steps)).astype(spec.action_dtype),
        rng.integers(0, 2, (count, steps)).astype(np.uint8),
        np.zeros_like(done),
        done,
    )
    zeros = np.zeros(count, np.int32)
    return Histories(transition, {}, [""] * count, zeros, zeros)


def compiled(s: Trained) -> jax.stages.Compiled:
    """Return the training loop as a program."""
    return s.trainer.lower(s.resident).compile()


class Training:
    """A state that goes on from call to call. A call runs updates and fetches their losses, as stage 2 does."""

    def __init__(self, s: Trained, program: jax.stages.Compiled):
        self.state, self.resident, self.seed = s.trainer.init(), s.resident, s.trainer.seed
        self.program = program

    def __call__(self, updates: int) -> None:
        """Run `updates` updates, at most `UPDATES_PER_DISPATCH`."""
        self.state, metrics = self.program(self.state, self.resident, jnp.int32(updates), self.seed)
        jax.device_get(metrics)


def sampler(s: Trained, updates: int) -> Work:
    """Return the batches of `updates` updates and nothing else, in one loop on the device. Amount: batches."""

    def body(i, total):
        batch = replay.sample(s.resident, jax.random.fold_in(a_key(0), i), s.spec, s.sampling, s.mesh)
        return total + sum(leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves(batch))

    run = jax.jit(lambda: jax.lax.fori_loop(0, updates, body, jnp.float32(0)))
    return Work(run, float(updates))


def rows(sizes: Sizes) -> Iterator[Row]:
    """One row a model; one that the device has no memory for is left out, and said to be."""
    for case in sizes.cases:
        try:
            yield row(case, sizes)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            log(f"distill/{case.name} is left out: not enough memory. {str(error).splitlines()[0]}")
        gc.collect()  # the state and the histories of a large model leave the device


def row(case: Case, sizes: Sizes) -> Row:
    """Throughput of `case`.

    Its facts: `flop_per_s` and `of_best_peak` (share of the peak's fastest round); shares of a step, at
    `UPDATES_PER_DISPATCH` updates a dispatch: `sampling_share` and `host_share` (what a dispatch costs beyond its
    updates); `peak_bytes` of the program's arguments, outputs and temporaries.
    """
    facts = dict(zip(("compile_cold_seconds", "compile_warm_seconds"), compile_seconds(case))) if case.compiles else {}
    s = setting(case)
    program = compiled(s)
    training, dtype = Training(s, program), jnp.dtype(s.model_config.compute_dtype)
    many = max(2, min(case.updates, UPDATES_PER_DISPATCH))
    positions = float(case.batch * case.segment)
    works = {
        "many": Work(lambda: training(many), many * positions),
        "one": Work(lambda: training(1), positions),
        "peak": peak(sizes, dtype),
        "sample": sampler(s, UPDATES_PER_DISPATCH),
    }
    seconds = measure(works, sizes.rounds, sizes.budget)
    flops = train_flops(s.trainer.abstract_state.params, s.model_config, s.spec, case.batch, case.segment)
    update = statistics.median((a - b) / (many - 1) for a, b in zip(seconds["many"], seconds["one"], strict=True))
    dispatch = max(0.0, statistics.median(seconds["one"]) - update)
    per_dispatch = dispatch + UPDATES_PER_DISPATCH * update
    facts |= {
        "flop_per_s": many * flops / statistics.median(seconds["many"]),
        "of_best_peak": many * flops / min(seconds["many"]) / (works["peak"].amount / min(seconds["peak"])),
        "ms_per_update": 1e3 * statistics.median(seconds["many"]) / many,
        "sampling_share": paired(seconds["sample"], seconds["many"]) * many / UPDATES_PER_DISPATCH,
        "host_share": dispatch / per_dispatch,
        "peak_bytes": peak_bytes(program),
        "parameters": float(sum(x.size for x in jax.tree.leaves(s.trainer.abstract_state.params))),
    }
    return rate(
        f"distill/{case.name}/{case.batch}x{case.segment}", "positions/s", works["many"].amount, seconds["many"],
        f"limits/peak {dtype}", works["peak"].amount, seconds["peak"], many * flops, **facts,
    )  # fmt: skip


def peak_bytes(program: jax.stages.Compiled) -> float:
    """Most memory that a compiled program needs at once, by its own account; NaN where it gives none."""
    try:
        m = program.memory_analysis()
    except NotImplementedError:
        m = None
    if m is None:
        return float("nan")
    return float(m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes - m.alias_size_in_bytes)


def compile_seconds(case: Case) -> tuple[float, float]:
    """Seconds from a trainer to its program, tracing included: with an empty cache of programs, and with a full one."""
    with tempfile.TemporaryDirectory() as folder, programs_kept_in(folder):
        taken = []
        for _ in range(2):
            s = setting(case)
            started = time.perf_counter()
            compiled(s)
            taken.append(time.perf_counter() - started)
    return taken[0], taken[1]


@contextlib.contextmanager
def programs_kept_in(folder: str) -> Iterator[None]:
    """JAX keeps compiled programs in `folder`; afterwards where it did before."""
    before = {name: jax.config.values[name] for name in CACHE_OPTIONS}
    try:
        for name, value in zip(CACHE_OPTIONS, (folder, 0.0, -1), strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
