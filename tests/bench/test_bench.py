"""The throughput suite: its counts are right, its reference is the same function, its files are read and compared."""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import GRID, mesh_of

from ad_jax import envs, models, sources
from ad_jax.__main__ import main
from ad_jax.bench import (
    attending,
    collecting,
    count,
    distilling,
    end_to_end,
    evaluating,
    limits,
    rows,
    scaling,
    suite,
    timing,
)
from ad_jax.bench.rows import Row
from ad_jax.bench.sizes import BRIEF, QUICK, TRIAL, Case
from ad_jax.bench.uncached import uncached
from ad_jax.envs.base import spec_of
from ad_jax.errors import ConfigError
from ad_jax.planning import transformer
from ad_jax.policies.base import from_model
from ad_jax.sources import actor_critic, networks
from ad_jax.sources.base import SourceConfig
from ad_jax.stage.rollout import make_evaluator
from ad_jax.testing import check_source

MODEL = {"layers": 2, "width": 16, "heads": 2, "mlp_width": 32, "window": 8}
TINY = dataclasses.replace(
    QUICK,
    rounds=1,
    budget=0.0,
    matmul=32,
    small_flops=1e5,
    triad=2**10,
    lanes=8,
    env_steps=64 * 40,
    cases=(Case("tiny", "transformer", {**MODEL, "layers": 1}, 8, 8, 2, compiles=True),),
    rollouts=(8,),
    positions=(1, 4),
    ucb_learners=(),
    attention=(2, 8, 16, "float32"),
    head_widths=(8,),
    meshes=((8, 1, 1),),
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AD_JAX_CACHE", str(tmp_path / "cache"))


def built(name, options):
    """Return the config, the model and shapes of its parameters."""
    config: Any = models.make(name, options).bind(envs.make("dark_room", {}))
    model = config.make(GRID)
    return config, model, jax.eval_shape(model.init, jax.random.key(0))


@pytest.mark.slow
def test_every_row_has_a_figure_and_a_share_of_a_limit(tmp_path, capsys):
    held = {name: jax.config.values[name] for name in distilling.CACHE_OPTIONS}
    done = suite.run(tmp_path / "results.json", quick=True, sizes=TINY)
    assert {name: jax.config.values[name] for name in held} == held
    printed = capsys.readouterr().out
    read = rows.load(tmp_path / "results.json")
    assert read["rows"] == [Row(**row) for row in done["rows"]]
    assert read["provenance"]["jax"] == jax.__version__
    keys = [row.key for row in read["rows"]]
    assert len(set(keys)) == len(keys)
    assert {key.split("/")[0] for key in keys} == set(suite.STAGES) - {"demo"}
    for row in read["rows"]:
        numbers = [row.value, row.best, *([] if row.share is None else [row.share]), *row.facts.values()]
        assert all(math.isfinite(number) for number in numbers), row
        assert row.value > 0 and (row.share is None or row.share > 0) and row.unit and row.limit, row
        assert row.share is None or row.share <= 1 or not row.rounds, row
        assert row.key in printed
    assert main(["bench", "--show", str(tmp_path / "results.json")]) == 0
    shown = capsys.readouterr().out
    assert all(f"| {key} " in shown for key in keys)
    assert "jax " + jax.__version__ in shown


def test_flop_of_a_training_step_by_hand():
    config, _, params = built("transformer", MODEL)
    weights = 2 * (4 * 16 * 16 + 2 * 16 * 32)  # two layers: query, key, value, out; up, down
    head = 16 * 5
    assert transformer.matmul_params(params) == (weights, head)
    attention = 12 * 6 * 16 * 2  # segment 6 is shorter than the window
    assert transformer.train_flops(params, config, GRID, 3, 6) == 3 * 6 * (6 * (weights + head) + attention)
    attention = 12 * 8 * 16 * 2  # segment 40 is longer
    assert transformer.train_flops(params, config, GRID, 3, 40) == 3 * 40 * (6 * (weights + head) + attention)


def test_flop_of_three_tokens_a_step_by_hand():
    config, _, params = built("paper", {**MODEL, "window": 20})
    weights, head = 2 * (4 * 16 * 16 + 2 * 16 * 32), 16 * 5
    tokens, seen = 3 * 3 * 20, 3 * 20
    expected = tokens * (6 * weights + 12 * seen * 16 * 2) + 3 * 20 * 6 * head
    assert transformer.train_flops(params, config, GRID, 3, 20) == expected


@pytest.mark.parametrize("name", ["transformer", "paper"])
def test_flop_of_a_training_step_against_the_compilers_count(name):
    """The compiler also counts what is no product, and leaves out what the mask lets the program skip."""
    options = {"layers": 2, "width": 64, "heads": 2, "mlp_width": 256, "window": 32}
    config, model, params = built(name, options)
    batch = jax.tree.map(jnp.asarray, histories_batch(4, 32))

    def loss(params):
        return model.apply(params, batch).sum()

    found = jax.jit(jax.grad(loss)).lower(params).compile().cost_analysis()["flops"]
    assert 0.75 < found / transformer.train_flops(params, config, GRID, 4, 32) < 1.3


def histories_batch(batch, length):
    """Return steps `[batch, length]` of zeros."""
    none = np.zeros((batch, length), np.int32)
    from ad_jax.types import Steps

    observation = np.zeros((batch, length, 2), np.int32)
    reward, done = none.astype(np.float32), none.astype(bool)
    return Steps(observation=observation, prev_action=none, prev_reward=reward, prev_done=done)


def test_flop_of_actor_critic_against_the_compilers_count():
    by_hand = 10 * (18 * 128 + 2 * 128 * 128 + 128 * 6) - 2 * 18 * 128
    assert count.actor_critic_flops(18, (128, 128, 128), 5) == by_hand
    family = envs.make("dark_room", {})
    config: Any = sources.make("actor_critic", {"actors": 16, "unroll": 16})
    stream = jax.eval_shape(
        lambda key, task: config.make(family).update(key, config.make(family).init(key, task), task),
        jax.random.key(0),
        family.default_params,
    )[1]
    params = networks.init_network(jax.random.key(0), 18, config.hidden, 5)
    gradient = jax.jit(lambda p, s, r: jax.grad(actor_critic.loss)(p, config, spec_of(family), s, r))
    found = gradient.lower(params, stream, stream.observation).compile().cost_analysis()["flops"]
    acting = 2 * (by_hand + 2 * 18 * 128) / 10
    assert 0.9 < found / (256 * (by_hand - acting)) < 1.2


def test_flop_of_rl2_by_hand():
    _, _, params = built("lstm", {"width": 4, "hidden": 6, "mlp_width": 3, "layers": 2, "value_head": True})
    layers = 4 * 6 * (4 + 6) + 4 * 6 * (6 + 6)
    assert count.rl2_flops(params, 3) == (2 + 6 * 3) * (layers + 6 * 3 + 3 * 3 + 3 * (5 + 1))


def test_cost_of_a_decoded_step_by_hand():
    config, _, params = built("transformer", MODEL)
    weights, head = 2 * (4 * 16 * 16 + 2 * 16 * 32), 16 * 5
    flops, read = count.decode_cost(params, config, 7)
    assert flops == 7 * (2 * (weights + head) + 4 * 8 * 16 * 2)
    assert read == 7 * 2 * 2 * 8 * 16 * 4 + 4 * (weights + head)


def test_data_parallel_training_reduces_every_gradient_once():
    """A gradient that was reduced twice, or a batch that moved between devices, would show as bytes."""
    found = scaling.row((8, 1, 1), TINY)
    assert found.share == pytest.approx(1, abs=0.02)
    assert set(found.facts) == {"count", "all-reduce count", "all-reduce bytes"}


@pytest.mark.parametrize("context", [None, 2 * 7 + 1])
def test_the_uncached_evaluator_is_the_cached_one(context):
    """Within a window whatever its context; far past it with the steps that layers see through one another."""
    family, (_, model, _) = envs.make("dark_room", {"size": 5, "steps": 6}), built("transformer", MODEL)
    model = models.make("transformer", MODEL).make(spec_of(family))
    params = model.init(jax.random.key(1))
    steps = 8 if context is None else 40
    keys, tasks = jax.random.split(jax.random.key(2), 5), jax.tree.map(lambda x: x[:5], family.all_tasks())
    traces, returns = [], []
    for one in (model, uncached(model, spec_of(family), context)):
        evaluator = make_evaluator(from_model(one), family, mesh_of(), 3, steps)
        rollouts, trace = evaluator.run(params, evaluator.start(keys, tasks), keys, tasks)
        traces.append(np.asarray(trace))
        returns.append(np.asarray(rollouts.returns))
    np.testing.assert_array_equal(*traces)
    np.testing.assert_array_equal(*returns)
    assert len(np.unique(traces[0])) > 2


@pytest.mark.slow
def test_an_uncached_context_of_one_window_is_another_function_past_it():
    """Or the test above could not fail."""
    spec, config = GRID, models.make("transformer", MODEL)
    model = config.make(spec)
    params = model.init(jax.random.key(1))
    full, short = uncached(model, spec, 15), uncached(model, spec)
    caches = [full.init_cache(1), short.init_cache(1)]
    gaps = []
    for t in range(20):
        observation = jnp.array([[t % 9, (t * 5) % 9]], jnp.int32)
        step = jax.tree.map(jnp.asarray, histories_batch(1, 1))
        step = dataclasses.replace(jax.tree.map(lambda x: x[:, 0], step), observation=observation)
        (a, caches[0]), (b, caches[1]) = full.decode(params, caches[0], step), short.decode(params, caches[1], step)
        gaps.append(float(jnp.abs(a - b).max()))
    assert max(gaps[:8]) < 1e-5 < max(gaps[9:])


def test_the_random_policy_is_a_source():
    class Uniform(SourceConfig):
        def make(self, family):
            return limits.random_source(family, 20)

    check_source(jax.tree_util.register_static(Uniform)(), envs.make("dark_room", {}))


def test_everything_is_timed_once_a_round_and_in_turn():
    calls = []
    works = {name: timing.Work(lambda name=name: calls.append(name), 1.0) for name in "ab"}
    seconds = timing.measure(works, rounds=4)
    assert calls == ["a", "b"] * 5  # one round to warm up
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 4, "b": 4}
    assert len(timing.measure(works, rounds=9, budget=0.0)["a"]) == 3


def test_a_rate_and_its_share():
    row = rows.rate("a/b", "steps/s", 10.0, [2.0, 1.0, 4.0], "c", 30.0, [1.0, 1.0, 1.05], peak_bytes=7.0)
    assert (row.value, row.best, row.rounds, row.facts) == (5.0, 10.0, 3, {"peak_bytes": 7.0})
    assert row.share == pytest.approx(10 / 30 * 0.5)
    assert rows.rate("a", "x/s", 1.0, [1.0], "ours, same rounds", 30.0, [1.0], 60.0).share == 2.0, "no limit"
    for limit in ("limits/peak float32", "random policy, same width", evaluating.ROOFLINE):
        above = rows.rate("a", "x/s", 1.0, [1.0], limit, 30.0, [1.0], 60.0)
        assert above.share is None, "nothing is faster than its limit, which was not measured beside it"


def test_rounds_that_were_disturbed_say_nothing():
    """Those in which the limit took a tenth longer than in its fastest; where too few are left, the row says so."""
    limit, taken = [1.0, 1.09, 1.3, 1.0, 2.0], [2.0, 2.18, 1.3, 2.0, 2.0]
    assert timing.share(limit, taken, limit) == pytest.approx(0.5)
    assert rows.rate("a", "x/s", 1.0, taken, "c", 1.0, limit).share == pytest.approx(0.5)
    lost = rows.rate("a", "x/s", 1.0, [2.0, 2.0, 2.0], "c", 1.0, [1.0, 1.2, 1.2])
    assert lost.share is None
    assert "| disturbed |" in rows.table([lost])
    assert "| 1.000 | - |" in rows.compare([lost], [lost])


def test_comparing_prints_ratios_and_what_is_missing(tmp_path, capsys):
    def make(key, value, share):
        return dataclasses.asdict(Row(key, value, value, "steps/s", share, "it", 1))

    origin = {"device": "d", "processor": "p", "cpu_cores": 2, "jax": "0", "commit": "c"}
    head = {
        "kind": "bench",
        "schema": rows.SCHEMA,
        "sizes": "quick",
        "seconds": 1.0,
        "load": [0.0],
        "provenance": origin,
    }
    new = {**head, "rows": [make("a", 30.0, 0.6), make("b", 1.0, 1.0)]}
    old = {**head, "rows": [make("a", 20.0, 0.3), make("c", 1.0, 1.0)]}
    for name, results in (("new", new), ("old", old)):
        (tmp_path / name).write_text(json.dumps(results))
    assert main(["bench", "--show", str(tmp_path / "new"), "--compare", str(tmp_path / "old")]) == 0
    shown = capsys.readouterr().out
    assert "| a | 30 | 20 | steps/s | 1.500 | 2.000 |" in shown
    assert "only in the new results: b" in shown
    assert "missing from the new results: c" in shown


@pytest.mark.parametrize(
    "text", [None, "{", "[]", '{"schema": 1}', '{"kind": "bench", "schema": 1, "rows": [{"key": 1}]}']
)
def test_files_that_are_no_results_are_refused(text, tmp_path, capsys):
    path = tmp_path / "old.json"
    if text is not None:
        path.write_text(text)
    assert main(["bench", "--only", "limits", "--compare", str(path), "--out", str(tmp_path / "out.json")]) == 2
    assert str(path) in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_shares_of_a_finished_demo(tmp_path):
    stages = {
        "collect": {"seconds": 20.0, "compile_seconds": 5.0, "env_steps": 1},
        "distill": {"seconds": 60.0, "compile_seconds": 5.0},
        "evaluate": {"seconds": 10.0},
    }
    returns = [[[0.0] * 9 + [16.0]], [[0.0] * 9 + [14.0]]]
    (tmp_path / "stages.json").write_text(json.dumps(stages))
    (tmp_path / "results.json").write_text(json.dumps({"runs": [{"sets": [{"returns": {"sampled": returns}}]}]}))
    found = {row.key: row for row in end_to_end.read(tmp_path)}
    assert found["end to end/distill"].share == 0.65
    assert found["end to end/whole"].value == 100.0
    assert found["end to end/whole"].facts == {"held_out_return": 15.0, "compile_seconds": 10.0}
    assert next(end_to_end.read(tmp_path, wall=130.0)).share == pytest.approx(25 / 130)
    with pytest.raises(ConfigError, match="no finished run"):
        list(end_to_end.read(tmp_path / "nowhere"))


@pytest.mark.slow
def test_compiling_again_reads_what_was_kept(tmp_path):
    cold, warm = end_to_end.compile_rows(tmp_path, ("dark_room", "--scale", "smoke"))
    assert cold.share == 1.0
    assert 0 < warm.value < cold.value
    with pytest.raises(RuntimeError, match="no_such_option"):
        list(end_to_end.compile_rows(tmp_path / "other", ("dark_room", "no_such_option=1")))


def test_what_is_written_is_a_whole_collection(tmp_path):
    from ad_jax.history import store as history_store

    s = collecting.setting("ucb", "bandit", 64, 64 * 20)
    work = collecting.to_disk(s, tmp_path)
    work.call()
    assert history_store.verify(str(tmp_path / "1/histories")) == []
    store = history_store.open_store(str(tmp_path / "1/histories"))
    assert store.manifest.histories * store.manifest.steps == work.amount


def test_pytorch_trains_a_model_of_the_same_size():
    """All parameters but the mask embedding, which nothing uses without token masking."""
    pytest.importorskip("torch", exc_type=ImportError)
    from ad_jax.bench import torch_reference

    (row,) = torch_reference.rows(TINY)
    ours = sum(x.size for x in jax.tree.leaves(built("transformer", TINY.cases[0].options)[2]))
    assert row.facts["torch_parameters"] == ours - MODEL["width"]
    assert row.value > 0


def test_without_pytorch_it_is_said_at_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "ad_jax.bench.torch_reference", raising=False)
    assert main(["bench", "--torch", "--out", str(tmp_path / "out.json")]) == 2
    assert "pip install 'ad_jax[torch]'" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_what_a_gpu_is_asked_first_is_tried_at_sizes_of_its_own():
    """Each field of the trial is set where it would take an accelerator; the rows are those of the same stages."""
    left = {f.name for f in dataclasses.fields(TRIAL) if getattr(TRIAL, f.name) == getattr(BRIEF, f.name)}
    assert left == {"ucb_learners", "actor_critic_learners", "compiling"}
    assert suite.chosen(False, brief=True) == ("trial", TRIAL)
    assert max(case.batch * case.segment for case in (*TRIAL.cases, *TRIAL.variants)) <= 64


def test_each_model_is_trained_with_each_attention():
    names = [(case.name, case.options["attention"]) for case in attending.variants(BRIEF.variants)]
    (case,) = BRIEF.variants
    assert names == [(f"{case.name}, {kind}", kind) for kind in ("banded", "fused")]


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_from_its_first_row_to_its_last(tmp_path):
    """On a CPU, at sizes that say nothing; and one that is cut off has what it measured until then."""
    script = pathlib.Path(__file__).parents[2] / "experiments/speed/gpu.sh"
    known = {"PYTHON": sys.executable, "PACKAGES": str(tmp_path / "none"), "TRIAL": "1"}

    def run(folder, *options, **more):
        command = [str(script), str(tmp_path / folder), *options]
        environment = {**os.environ, **known, **more}
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = run("whole")
    assert done.returncode == 0, done.stderr
    written = sorted((tmp_path / "whole").iterdir(), key=lambda path: path.stat().st_mtime)
    assert [path.stem for path in written][:5] == ["demo", "distill", "collect", "evaluate", "attention"]
    keys = {path.stem: [row.key for row in rows.load(path)["rows"]] for path in written}
    assert keys["demo"][-1] == "end to end/whole" and keys["distill"] == ["distill/tiny/8x8"]
    assert keys["attention"][-2:] == ["distill/tiny, banded/8x8", "distill/tiny, fused/8x8"]
    none = run("late", LIMIT="0")
    assert none.returncode == 124 and "no time is left for" in none.stderr
    assert not (tmp_path / "late").exists()
    one = run("one", "--quick", "--only", "scaling")
    assert one.returncode == 0, one.stderr
    assert [row.key for row in rows.load(tmp_path / "one/bench.json")["rows"]] == ["scaling/mesh 8 x 1 x 1"]
