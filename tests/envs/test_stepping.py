"""The types of a family's reset and step are pinned in one place, so that `check` and a run agree."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import odd_families
import pytest
from helpers import mesh_of, refused

from ad_jax.__main__ import main
from ad_jax.checkpoint import checkpoint
from ad_jax.envs.base import advance, optimal_labels, reset, take
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.envs.leaves import as_data, from_data, task_leaves, tasks_of
from ad_jax.errors import ConfigError
from ad_jax.experiment import build, load, override
from ad_jax.history import store
from ad_jax.policies import random
from ad_jax.run.pipeline import Run
from ad_jax.sources.q_learning import QLearning
from ad_jax.stage import evaluate
from ad_jax.stage.collect import Collector, as_histories
from ad_jax.stage.rollout import make_evaluator
from ad_jax.testing import check_env
from ad_jax.testing.base import ContractError, types_of

CHANGES = ("tasks.train=6", "tasks.held_out=2", "collect.episodes=40", "collect.chunk_learners=8")
LESS = ("model.layers=1", "distill.updates=2", "distill.warmup_updates=1", "distill.evaluate_every=0")
SMOKE = ("dark_room", "--scale", "smoke", *CHANGES, *LESS, "evaluate.greedy=False", "evaluate.source_seeds=0")
BROKEN = {
    "NarrowsItsState": r"state\.place of step_env is float32\[\]; expected int32\[\]",
    "ForgetsInfo": r"step_env gives tuple of 4; expected \(observation, state, reward, terminated, info\)",
    "SaysOneForTrue": r"terminated is float32\[\]; expected bool\[\]",
    "PaysInARow": r"the reward is float32\[1\]; expected float32\[\]",
    "SeesFractions": r"step_env's observation is float32\[\]; expected int32\[\]",
    "GrowsItsState": r"step_env gives a state of another structure",
    "WordInATask": r"task leaf pay is str; expected an array or a number",
    "Misspelled": r"NameError: name 'acton' is not defined \(.*odd_families.py:\d+, in step_env\)",
}


@pytest.fixture(params=[odd_families.Odd(), odd_families.NumPyNumbers()], ids=lambda family: family.name)
def family(request):
    return request.param


def test_whatever_a_family_returns_a_loop_can_carry_it(family):
    task = take(family.sample_tasks(jax.random.key(0), 2), 0)
    start = jax.eval_shape(lambda: reset(family, jax.random.key(0), task))
    after = jax.eval_shape(lambda *args: advance(family, *args), jax.random.key(0), start[1], jnp.int32(0), task)
    assert types_of(after[:2], weak=True) == types_of(start, weak=True)
    assert "weak" not in "".join(types_of(after, weak=True))
    outcome = after[2]
    assert (outcome.reward.dtype, outcome.terminated.dtype, outcome.truncated.dtype) == (jnp.float32, bool, bool)


def test_check_passes_what_runs(family):
    assert "step_env keeps the shapes and dtypes of reset_env" in check_env(family)


def test_evaluation_of_a_weakly_typed_family_is_compiled_once(family, caplog):
    tasks = family.sample_tasks(jax.random.key(0), 3)
    runner = make_evaluator(random.uniform(family.num_actions), family, mesh_of(2), 6, 2 * family.episode_length)
    with jax.log_compiles():
        evaluate.evaluate(runner, {}, tasks, family.task_ids(tasks), 2, 6, family, mesh_of(2), 0)
    assert sum("Compiling jit(run)" in record.message for record in caplog.records) == 1


def test_tuples_and_half_precision_in_tasks_come_back_from_a_store(tmp_path):
    e = override(load("dark_room", "smoke"), [*CHANGES, *LESS, "env=odd_families:Odd"])
    Run(e, tmp_path).collect()
    histories = store.open_store(tmp_path / "histories").read()
    assert {name: x.dtype.name for name, x in histories.tasks.items()} == {
        "max_steps_in_episode": "int32",
        "good.0": "int32",
        "good.1.too": "int32",
        "pay": "float32",
    }
    family, split = odd_families.Odd(), build(e).split
    by_id = dict(zip(family.task_ids(split.train), range(6), strict=True))
    rows = [by_id[name] for name in histories.task_ids]
    np.testing.assert_array_equal(histories.tasks["pay"], np.asarray(split.train.pay, np.float32)[rows])
    np.testing.assert_array_equal(histories.tasks["good.1.too"], np.asarray(split.train.good[1]["too"])[rows])
    labels = optimal_labels(family, histories.transition.observation, histories.tasks)
    expected = np.where(histories.tasks["pay"] > 0.3, histories.tasks["good.0"], histories.tasks["good.1.too"])
    np.testing.assert_array_equal(labels, np.broadcast_to(expected[:, None], labels.shape))


def test_a_random_key_in_a_task_comes_back_from_a_store(tmp_path):
    e = override(load("dark_room", "smoke"), [*CHANGES, *LESS, "env=odd_families:KeyInATask"])
    Run(e, tmp_path).collect()
    held = store.open_store(tmp_path / "histories").read().tasks
    assert (held["pay"].dtype, held["pay"].shape[1:]) == (np.uint32, (2,))
    family, split = odd_families.KeyInATask(), build(e).split
    back = tasks_of(family, task_leaves(split.train))
    chex.assert_trees_all_equal_dtypes(back, split.train)
    assert family.task_ids(back) == family.task_ids(split.train)
    again = from_data(family, as_data(split.train))
    assert family.task_ids(again) == family.task_ids(split.train)
    assert {tuple(row) for row in held["pay"]} == {tuple(row) for row in task_leaves(split.train)["pay"]}


def test_a_family_whose_tasks_hold_random_keys_passes_the_check():
    check_env(odd_families.KeyInATask())


@pytest.mark.slow
def test_a_family_of_odd_types_goes_through_every_stage(tmp_path, capsys):
    command = ["run", *SMOKE, "env=odd_families:Odd", "replay.labels=optimal", "--dir", str(tmp_path / "run")]
    assert main(command) == 0
    assert "held-out return" in capsys.readouterr().out


def test_keys_in_a_state_are_saved_with_rl2s_trials_and_come_back(tmp_path):
    state = {"key": jax.random.split(jax.random.key(3), 8), "x": jnp.arange(3), "rbg": jax.random.key(1, impl="rbg")}
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {"architecture": {}})
        checkpoints.manager.wait_until_finished()
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        _, back, _ = checkpoints.restore(like)
    chex.assert_trees_all_equal_dtypes(back, state)
    for name in ("key", "rbg"):
        np.testing.assert_array_equal(jax.random.key_data(back[name]), jax.random.key_data(state[name]))
    assert checkpoint.load(tmp_path)[1]["key"].shape == (8, 2)


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_allowed_is_named_by_check_and_by_a_run_alike(name, tmp_path, capsys):
    broken = getattr(odd_families, name)()
    with pytest.raises(ConfigError, match=BROKEN[name]):
        build(dataclasses.replace(load("dark_room", "smoke"), env=broken))
    with pytest.raises(ContractError, match=BROKEN[name]):
        check_env(broken)
    told = refused(capsys, ["run", *SMOKE, f"env=odd_families:{name}", "--dir", tmp_path / "run"])
    assert re.search(BROKEN[name], told)
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_casts_change_no_bits():
    """Of families whose types were right before: the loops of collecting are what they were."""
    family, tasks = DarkRoom(), DarkRoom().all_tasks()
    source = QLearning().make(family)
    learners = Collector(family, source, 3, mesh_of(1), 2)
    lifetime = learners.run(0, tasks, family.task_ids(tasks), 1, 0)
    transition = as_histories(lifetime, tasks, family.task_ids(tasks), 1, 0, 2).transition
    key, task = jax.random.key(5), take(tasks, 7)
    observation, state = family.reset_env(key, task)
    plain = family.step_env(key, state, jnp.int32(1), task)
    np.testing.assert_array_equal(reset(family, key, task)[0], observation)
    key_step, _ = jax.random.split(key)
    stepped = advance(family, key, state, jnp.int32(1), task)[2]
    again = family.step_env(key_step, state, jnp.int32(1), task)
    chex.assert_trees_all_equal((stepped.next_observation, stepped.next_state), again[:2])
    assert plain[0].shape == transition.observation.shape[2:]
