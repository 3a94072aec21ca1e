"""What a run costs: the counts are those of a real collection, of real arrays and of the compiler."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import GRID, mesh_of, numbered_histories, trainer_of
from outside_helpers import skip_without

from ad_jax import envs, models
from ad_jax.__main__ import main
from ad_jax.envs.base import seen_spec_of, spec_of
from ad_jax.experiment import Mixture, ReferenceConfig, build, docstring, find, known, load, load_any, override
from ad_jax.history import columns, replay
from ad_jax.history import store as history_store
from ad_jax.history.streaming import Rotation
from ad_jax.methods.distillation import Distillation
from ad_jax.planning import cost, residents, transformer
from ad_jax.planning.mixture import cost_lines
from ad_jax.run.pipeline import Run
from ad_jax.sources.actor_critic import ActorCritic
from ad_jax.stage.collect import Collector
from ad_jax.text import si
from ad_jax.types import Steps

TINY = {"layers": 1, "width": 16, "heads": 2, "mlp_width": 32}
STEPS = ("transformer", {"layers": 2, "width": 32, "heads": 2, "mlp_width": 64, "window": 40}, "dark_room", {})
POOL = {"height": 24, "width": 32}
PICTURES = ("paper", {**TINY, "window": 50, "pixel_channels": [8, 16], "pixel_width": 32}, "watermaze", POOL)
PATCHES = {**TINY, "window": 20, "pixel_channels": [8, 16], "pixel_kernel": 4, "pixel_stride": 4, "pixel_width": 32}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Dark Room at smoke scale, really collected: its run, its histories and what was counted before."""
    run = Run(override(load("dark_room", "smoke"), ["collect.episodes=9"]), tmp_path_factory.mktemp("cost") / "run")
    counted = cost.count(run.experiment, run.components)
    run.collect()
    return run, history_store.open_store(run.histories), counted


def nbytes(tree) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def test_histories_are_as_many_bytes_as_were_counted(smoke):
    run, store, counted = smoke
    transition = store.read().transition
    assert (len(transition.action), transition.action.size) == (counted.histories, counted.env_steps)
    assert nbytes(transition) == counted.disk_bytes
    assert json.loads((run.folder / "stages.json").read_text())["collect"]["env_steps"] == counted.env_steps
    arrays = pathlib.Path(run.histories) / "arrays"
    files = sum(
        f.stat().st_size for name in transition.__dict__ for f in (arrays / name).rglob("c/**/*") if f.is_file()
    )
    assert 0.05 * counted.disk_bytes < files < counted.disk_bytes, "compressed"
    resident = replay.load(store.read(), run.components.spec, run.experiment.replay, mesh_of(8))
    assert nbytes(resident) == counted.resident_bytes
    e = override(run.experiment, ["replay.best=0.5"])  # of two learners of each task
    fewer = cost.count(e, build(e))
    assert nbytes(replay.load(store.read(), run.components.spec, e.replay, mesh_of(8))) == fewer.resident_bytes
    assert fewer.resident_bytes < 0.6 * counted.resident_bytes


def test_residents_of_a_rotation_are_as_many_bytes_as_were_counted(smoke):
    run, store, counted = smoke
    e = override(run.experiment, ["replay.rotation.resident=16", "replay.rotation.parts=2"])
    with Rotation(store, run.components.spec, e.replay, mesh_of(8), e.seed) as rotation:
        assert rotation.histories == residents.versions(e, run.components) > 16
        there = nbytes(rotation.at(0))
    assert there == residents.tree_bytes(residents.replay_shapes(e, run.components))
    # Two parts are read ahead, and one is on its way in.
    assert cost.count(e, run.components).resident_bytes == there * 5 // 2
    e = override(e, ["replay.rotation.resident=1600"])
    assert cost.count(e, run.components).resident_bytes == counted.resident_bytes, "nothing rotates"


@pytest.mark.parametrize("options", [{"keep_every": 3, "phases": 3}, {"keep_every": 2, "groups": 4}, {}])
def test_resident_bytes_of_padded_rows_and_of_a_last_episode_that_was_cut(options):
    config = replay.Config(segment=3, batch=8, **options)
    histories = numbered_histories(9, 22)  # episodes of 4 steps
    counted = residents.tree_bytes(
        residents.subsampled(columns.shapes(GRID, np.float32), 9 * config.phases, 22, 4, config)
    )
    assert nbytes(replay.load(histories, GRID, config, mesh_of())) == counted


@pytest.mark.parametrize("accumulate", [1, 2])
def test_state_batch_and_cache_are_as_many_bytes_as_were_counted(smoke, accumulate):
    run, store, _ = smoke
    e, p = override(run.experiment, [f"method.accumulate={accumulate}", "model.window=15"]), run.components
    p, counted = build(e), cost.count(e, build(e))
    trainer = trainer_of(p.model, p.spec, e.method, e.replay, mesh_of(), e.seed)
    state = trainer.init()
    assert counted.parameters == sum(x.size for x in jax.tree.leaves(state.params))
    assert counted.state_bytes == nbytes((state.params, state.opt_state)) + accumulate * nbytes(state.params)
    resident = replay.load(store.read(), p.spec, e.replay, mesh_of())
    draw = jax.jit(lambda r, k: replay.sample(r, k, p.spec, e.replay, mesh_of()))
    assert nbytes(draw(resident, jax.random.key(0))) == counted.batch_bytes
    assert nbytes(p.model.init_cache(16 * e.evaluate.seeds)) == counted.cache_bytes
    assert (counted.rollouts, counted.refill_bytes) == (16 * 2, 0)
    assert counted.rollout_steps == 2 * 16 * 2 * 4 * 20, "sampled and greedy, tasks, seeds, episodes, steps"
    prompted = dataclasses.replace(e, evaluate=dataclasses.replace(e.evaluate, prompt=0.5, prompt_episodes=3))
    assert cost.count(prompted, p).rollout_steps == 2 * 16 * 2 * (4 + 3) * 20


def built(name, options, env, env_options):
    """Return the family, the config, the model and shapes of its parameters."""
    family = envs.make(env, env_options)
    config: Any = models.make(name, options).bind(family)
    model = config.make(seen_spec_of(family))
    return family, config, model, jax.eval_shape(model.init, jax.random.key(0))


@pytest.mark.parametrize("model", [PICTURES[:2], ("transformer", PATCHES)], ids=["convolutions", "patches"])
def test_flop_of_pictures_against_the_compilers_count(model):
    """The compiler also counts what is no product, and leaves out what a convolution multiplies with its padding."""
    name, options = model
    family, config, model, params = built(name, options, "watermaze", POOL)
    seen = seen_spec_of(family)
    layers = transformer.picture_layers(config, seen)
    assert params["tokens"]["encoder"]["dense"]["kernel"].shape[0] == layers[-1].pooled
    none = jnp.zeros((1, 8), jnp.int32)
    steps = Steps(
        observation=jnp.zeros((1, 8, *seen.shape), jnp.uint8),
        prev_action=none,
        prev_reward=none.astype(jnp.float32),
        prev_done=none.astype(bool),
    )

    def loss(params):
        return model.apply(params, steps).sum()

    found = jax.jit(jax.grad(loss)).lower(params).compile().cost_analysis()["flops"]
    counted = transformer.train_flops(params, config, seen, 1, 8)
    assert counted > 1.5 * transformer.train_flops(params, config, GRID, 1, 8), "the pictures are most of it"
    assert 0.75 < found / counted < 1.3


@pytest.mark.parametrize(
    ("case", "batch", "segment", "accumulate"),
    [
        pytest.param(STEPS, 16, 80, 1, id="one token a step"),
        pytest.param(PICTURES, 8, 50, 2, id="pictures in two parts", marks=pytest.mark.slow),
    ],
)
def test_memory_of_training_is_within_a_factor_of_2_of_the_compilers(case, batch, segment, accumulate):
    family, config, model, params = built(*case)
    spec, seen, sampling = spec_of(family), seen_spec_of(family), replay.Config(segment=segment, batch=batch, groups=1)
    training = Distillation(accumulate=accumulate, updates=200)
    trainer = trainer_of(model, spec, training, sampling, mesh_of(), 0, family.render)
    long, rows = (1, 4, 1 + 2 * segment), (1, 4)

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype)

    resident = replay.Replay(
        {name: array(x.dtype, *long, *x.shape) for name, x in columns.shapes(spec, "uint8").items()},
        array("int32", *rows),
        array("int32", *rows),
        array("int32", 1),
        array("int32", 1),
    )
    found = trainer.lower(resident).compile().memory_analysis()
    gradients = residents.tree_bytes(params) * accumulate
    pictures = batch * segment * seen.size * seen.compute_dtype.itemsize
    counted = transformer.activation_bytes(config, seen, batch // accumulate, segment) + gradients + pictures
    assert 0.5 < counted / found.temp_size_in_bytes < 2


@pytest.mark.parametrize(
    ("options", "env", "env_options"),
    [({"pixel_channels": [32, 8], "pixel_width": 32}, "watermaze", POOL), ({"mlp_width": 512}, "dark_room", {})],
    ids=["pictures", "numbers"],
)
def test_memory_of_refilling_a_cache_is_within_a_factor_of_2_of_the_compilers(options, env, env_options):
    family, config, model, params = built("paper", {**TINY, "layers": 2, "window": 50, **options}, env, env_options)
    seen, rows = seen_spec_of(family), 16
    cache = jax.eval_shape(lambda: model.init_cache(rows))

    def one(dtype, *shape):
        return jax.ShapeDtypeStruct((rows, *shape), dtype)

    steps = Steps(
        observation=one(seen.compute_dtype, *seen.shape),
        prev_action=one("int32"),
        prev_reward=one("float32"),
        prev_done=one("bool"),
    )
    found = jax.jit(model.decode).lower(params, cache, steps).compile().memory_analysis()
    counted = residents.tree_bytes(cache) + transformer.encoding_bytes(config, seen, rows)
    assert 0.5 < counted / found.temp_size_in_bytes < 2


def test_a_backbone_of_another_kind_is_counted_as_far_as_it_is_known():
    e = load("dark_room", "smoke")
    parts = build(e)
    whole, other = cost.count(e, parts), cost.count(e, dataclasses.replace(parts, model_config=object()))
    assert (other.update_flops, other.activation_bytes, other.training_bytes, other.refill_bytes) == (None,) * 4
    assert (other.parameters, other.state_bytes, other.cache_bytes) == (
        whole.parameters,
        whole.state_bytes,
        whole.cache_bytes,
    )
    assert "FLOP not counted" in other.lines()[1]


def test_the_curves_of_a_reference_are_counted_by_its_own_lifetime(smoke):
    run, _, counted = smoke
    plain = run.experiment
    e = dataclasses.replace(plain, reference=ReferenceConfig(ActorCritic(actors=3, unroll=7), 5))
    p = build(e)
    lifetimes = [
        collector.steps * collector.source.actors
        for collector in (
            Collector(p.family, p.source, plain.collect.episodes, mesh_of(), 1),
            Collector(p.family, p.reference, 5, mesh_of(), 1),
        )
    ]
    compared = cost.count(e, p)
    times = 16 * e.evaluate.source_seeds
    assert (counted.source_steps, compared.source_steps) == (times * lifetimes[0], times * lifetimes[1])
    assert lifetimes[0] != lifetimes[1]
    assert "of the source's own curves" in counted.lines()[2]
    assert "of the reference's own curves" in compared.lines()[2]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (999.6, "1 kB"), (12_345, "12.3 kB"), (1e9, "1 GB"), (4.567e17, "457 PB")],
)
def test_numbers_are_printed_with_three_digits(value, text):
    assert si(value, "B") == text


def test_show_ends_with_what_the_run_costs(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AD_JAX_CACHE", str(tmp_path / "cache"))
    assert main(["show", "dark_room", "--scale", "smoke", "tasks.train=10"]) == 0
    e = override(load("dark_room", "smoke"), ["tasks.train=10"])
    lines = cost.count(e, build(e)).lines()
    assert capsys.readouterr().out.splitlines()[-3:] == lines
    assert lines[0].startswith("collect  8,000 environment steps in 20 histories; 48 kB on disk")
    assert [line.split()[0] for line in lines] == ["collect", "distill", "evaluate"]


@pytest.mark.parametrize("name", known())
def test_the_papers_scale_is_stated_as_it_is_counted(name):
    skip_without(find(name))
    e = load_any(name, "paper")
    if isinstance(e, Mixture):
        assert f"Paper    {cost_lines(e)[-1]}" in docstring(name)
        return
    counted = cost.count(e, build(e))
    readme = (pathlib.Path(__file__).parents[2] / "experiments" / "README.md").read_text()
    assert counted.table_row(f"[{name}]({name}/config.py)") in readme, "experiments/README.md, Paper scale"
    assert f"\n{counted.paper_line()}" in docstring(name), "the docstring of the experiment's config.py"


MEASURED = {  # peak of `ad-jax distill dark_room --scale demo` with overrides, GB (experiments/LOG.md)
    (): 0.80,
    ("collect.seeds=50", "collect.episodes=500"): 0.76,
    ("collect.seeds=50", "collect.episodes=500", "replay.phases=1"): 0.80,
}


@pytest.mark.parametrize("overrides", MEASURED, ids=len)
def test_the_memory_of_the_process_is_stated_as_it_was_measured(overrides):
    e = override(load("dark_room"), list(overrides))
    counted = cost.count(e, build(e))
    assert 1 / 1.5 < counted.process_bytes["distill"] / (1e9 * MEASURED[overrides]) < 1.5
    assert f"the whole process about {cost.estimate(counted.process_bytes['distill'])}" in counted.lines()[1]
