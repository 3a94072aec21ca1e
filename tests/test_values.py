"""What a family gives beyond what it states, and what is no number: named where it is produced and where it is read."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import GRID, mesh_of, numbered_histories, unused
from history_helpers import stored
from msgspec import structs
from odd_family import AT, TOLD, Odd

from ad_jax import sources, values
from ad_jax.agent import Agent
from ad_jax.envs.base import optimal_labels, spec_of, take
from ad_jax.errors import AdJaxError, ConfigError, HistoryError
from ad_jax.experiment import CollectConfig, Experiment, ReplayConfig, TaskConfig, build
from ad_jax.history import replay
from ad_jax.history.store import open_store, verify
from ad_jax.history.streaming import Rotation
from ad_jax.methods import played, reinforcement, trials
from ad_jax.models.base import Model
from ad_jax.policies import demonstrator, random
from ad_jax.policies.base import from_model
from ad_jax.process.metrics import MetricsLog
from ad_jax.run.collection import make_manifest
from ad_jax.sources.noisy_oracle import NoisyOracle
from ad_jax.stage import evaluate
from ad_jax.stage.collect import Collector, collect, learning_curve
from ad_jax.stage.rollout import make_evaluator
from ad_jax.types import Discrete, Spec

TASKS = Odd().all_tasks()
KINDS = sorted(TOLD)


def tasks_of(*numbers):
    return take(TASKS, np.array(numbers))


def rolled(family, tasks, model=None, params=None, devices=1, per_run=20):
    mesh, policy = mesh_of(devices), from_model(model) if model else random.uniform(family.num_actions)
    runner = make_evaluator(policy, family, mesh, 4, per_run)
    return evaluate.evaluate(runner, params, tasks, family.task_ids(tasks), 2, 4, family, mesh, seed=5)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluating_names_what_cannot_be(kind):
    family, devices = Odd(kind), 2 if kind == "wide" else 1
    where = rf"at step {AT} \(episode 1\) of task number 7, seed 0"
    with pytest.raises(AdJaxError, match=rf"{re.escape(TOLD[kind])}, {where}, of Odd"):
        rolled(family, tasks_of(2, 7, 4), devices=devices)


def test_evaluating_a_family_that_keeps_its_word_finds_nothing():
    np.testing.assert_array_equal(rolled(Odd("component"), tasks_of(2, 4)).returns, 5.0)


def test_evaluating_names_logits_that_are_no_numbers():
    """From the second dispatch on, in episode 3."""
    spec = spec_of(Odd())

    def decode(_, time, steps):
        bad = (time >= 12) & (jnp.arange(spec.num_actions) == 1)
        return jnp.broadcast_to(jnp.where(bad, jnp.nan, 0.0), (len(steps.prev_action), spec.num_actions)), time + 1

    model = Model(unused, unused, lambda batch: jnp.int32(0), decode, unused, 1, None)
    with pytest.raises(AdJaxError, match=r"highest logit is nan, .* at step 12 \(episode 3\) of task number 2, seed 0"):
        rolled(Odd(), tasks_of(2, 4), model, per_run=10)


def test_a_demonstration_names_a_reward_that_is_no_number(monkeypatch):
    monkeypatch.setattr(demonstrator, "EPISODES", 1)
    with pytest.raises(AdJaxError, match=r"task number 7 of Odd gave a demonstrator a reward that is no finite number"):
        demonstrator.noise_for(Odd("reward"), tasks_of(2, 7), 0.5, seed=0)


def collector_of(family, source="noisy_oracle", devices=1, chunk=4):
    made = sources.make(source).make(family)
    return Collector(family, made, 4, mesh_of(devices), chunk)


@pytest.mark.parametrize("kind", KINDS)
def test_the_source_evaluated_names_what_cannot_be(kind):
    """In the second chunk: learner 5 is the second of task 7."""
    family, tasks = Odd(kind), tasks_of(2, 4, 7)
    ids = family.task_ids(tasks)
    where = rf"at step {AT} of its history 0 \(task number 7, seed 0, actor 0\), from task family Odd"
    with pytest.raises(AdJaxError, match=f"the source itself.*{re.escape(TOLD[kind])}, {where}"):
        learning_curve(collector_of(family, devices=2), tasks, ids, 2, seed=3)


@pytest.mark.parametrize("kind", ["wide", "byte", "int8"])
def test_collecting_names_what_cannot_be_and_stores_nothing_of_its_chunk(kind, tmp_path):
    """What eight bits would have held as 44, and as 127."""
    e = Experiment(
        "odd",
        Odd(kind=kind),
        NoisyOracle(),
        tasks=TaskConfig(train=20, held_out=2),
        collect=CollectConfig(seeds=1, episodes=4, chunk_learners=1),
        replay=ReplayConfig(segment=5),
    )
    parts = build(e)
    tasks = tasks_of(2, 7, 4)
    ids = parts.family.task_ids(tasks)
    collector = Collector(parts.family, parts.source, 4, mesh_of(), 1)
    manifest = structs.replace(make_manifest(e, parts, {}), histories=3)
    with pytest.raises(
        HistoryError, match=rf"chunk 1: {re.escape(TOLD[kind])}, at step {AT} .*task number 7.*not stored"
    ):
        collect(collector, tasks, ids, e.collect, 0, str(tmp_path / "h"), manifest, MetricsLog(tmp_path, e.logging))
    assert open_store(tmp_path / "h", allow_partial=True).chunks == [0]


def test_a_form_that_is_not_stated_is_refused_before_anything_runs():
    spec = spec_of(Odd())
    step = (jnp.int32(0), jnp.float32(0))
    with pytest.raises(ConfigError, match=r"observations of int32\[3\] where observation_space says int32\[2\]"):
        values.bad(spec, np.float32, jnp.zeros(3, jnp.int32), *step)
    with pytest.raises(ConfigError, match=r"observations of float32\[2\] where observation_space says int32\[2\]"):
        values.bad(spec, np.float32, jnp.zeros(2), *step)
    with pytest.raises(ConfigError, match=r"observations of int32\[4, 4, 3\] where observation_space says uint8"):
        values.bad(Spec(Discrete(2), (4, 4, 3), None, True), np.float32, jnp.zeros((4, 4, 3), jnp.int32), *step)


REWARDS = np.array([0, 1, -1, 0.5, 127, 128, 255, 256, 2**31, -(2**31), 65504, 65536, 2049, np.nan, np.inf], np.float32)


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "uint16", "int32", "uint32", "float16", "float32", "float64"]
)
def test_a_dtype_holds_a_reward_exactly_or_not(dtype):
    """Against Python's whole numbers and NumPy's halves."""

    def exact(x: float) -> bool:
        if not np.isfinite(x):
            return False
        if dtype == "bool":
            return x in (0, 1)
        if "int" in dtype:
            return x == int(x) and np.iinfo(dtype).min <= int(x) <= np.iinfo(dtype).max
        with np.errstate(over="ignore"):
            return float(np.dtype(dtype).type(x)) == x

    assert np.asarray(values.holds(dtype, jnp.asarray(REWARDS))).tolist() == [exact(float(x)) for x in REWARDS]


def changed(histories, field, row, step, value, dtype=None):
    t = histories.transition
    x = np.array(getattr(t, field), dtype)
    x[row, step] = value
    return dataclasses.replace(histories, transition=t.replace(**{field: x}))


def test_rl2_names_what_cannot_be():
    """In the second of two updates."""
    family, config = Odd("component"), trials.Config(trial_episodes=2, trials=4)
    unroll, task = reinforcement.by_chance(family, config, 1, tasks_of(7, 9))
    found = played.cannot_be(family, unroll, task)
    number = (7, 9)[int(task[0])]
    two = jax.tree.map(lambda one, none: jnp.stack([none, one]), found, (values.nothing(()), task[0]))
    what = rf"{re.escape(TOLD['component'])}, at step {AT} .*in update 7, on task number {number} of Odd"
    with pytest.raises(AdJaxError, match=what):
        played.check_values(two, tasks_of(7, 9), family, step=5)
    played.check_values(jax.tree.map(lambda x: x[:1], two), tasks_of(7, 9), family, step=5)


def test_rl2_names_what_cannot_be_in_the_play_that_finds_its_unit():
    config = trials.Config(trial_episodes=2, trials=4)
    with pytest.raises(AdJaxError, match=rf"{TOLD['reward']}, at step {AT} in random play before update 1, on"):
        reinforcement.unit_by_chance(Odd("reward"), tasks_of(7, 9), config, seed=1)


SPOILT = {
    "action 5, outside 0..4": ("action", 5, None),
    "observation component 1 10, outside 0..8": ("observation", [3, 10], None),
    "observation component 0 -1, outside 0..8": ("observation", [-1, 0], np.int8),
    "reward nan, no finite number": ("reward", np.nan, None),
    "reward 1e+39, no finite number": ("reward", 1e39, np.float64),
}


@pytest.mark.parametrize("told", SPOILT)
def test_loading_names_what_cannot_be(told):
    field, value, dtype = SPOILT[told]
    spoilt = changed(numbered_histories(8, 20), field, 5, 7, value, dtype)
    where = r", at step 7 of history 5 \(task task-5, seed 0, actor 0\)"
    with pytest.raises(HistoryError, match=re.escape(told) + where):
        replay.load(spoilt, GRID, replay.Config(segment=5, batch=8), mesh_of())


def test_verify_names_what_cannot_be_by_history_and_step(tmp_path):
    whole = changed(changed(numbered_histories(12, 20), "action", 9, 3, 200), "observation", 9, 4, [0, 9])
    store = stored(tmp_path, changed(whole, "observation", 2, 5, [9, 0]), 4)
    lines = verify(tmp_path)
    assert len(lines) == 2
    assert "chunk 0: observation component 0 9, outside 0..8, at step 5 of history 2 (task task-2" in lines[0]
    assert "chunk 2: action 200, outside 0..4, at step 3 of history 9 (task task-9" in lines[1]
    assert "delete ledger/000002.json" in lines[1]
    turns = replay.Config(segment=5, batch=8, rotation=replay.RotationConfig(8, parts=1, every=1))
    with Rotation(store, GRID, turns, mesh_of(), 0) as residents, pytest.raises(HistoryError, match=r"history [29] \("):
        [residents.at(step) for step in range(3)]


def agent_of(spec):
    return Agent(random.uniform(spec.num_actions), {}, spec)


def test_an_agent_refuses_what_cannot_be_and_its_context_stays():
    """Its random actions are those of one that was never told."""
    wrong = {
        r"reward is nan in row 1, at step 1": ([[0, 0], [0, 0]], [0.0, np.nan], [False, False]),
        r"reward is 1e\+39 in every row": ([[0, 0], [0, 0]], 1e39, [False, False]),
        r"done to be True or False .*got \[0.0, nan\]": ([[0, 0], [0, 0]], [0.0, 0.0], [0.0, np.nan]),
        r"in 0\.\.\[8, 8\]; got 10 in row 1, component \(1,\)": ([[0, 0], [0, 10]], [0.0, 0.0], [False, False]),
        r"whole observations .*; got float64": ([[0.0, 0.0], [0.0, 1.0]], [0.0, 0.0], [False, False]),
    }
    told, untold = agent_of(GRID), agent_of(GRID)
    for agent in (told, untold):
        agent.reset(batch=2)
        agent.act([[0, 0], [1, 1]])
    for words, given in wrong.items():
        with pytest.raises(AdJaxError, match=words):
            told.act(*given)
    for _ in range(5):
        right = [[0, 0], [8, 8]], [1.0, 0.0], [False, True]
        np.testing.assert_array_equal(told.act(*right), untold.act(*right))
    real = agent_of(Spec(Discrete(2), (2, 2), None))
    with pytest.raises(AdJaxError, match=r"observation is inf in row 0, component \(1, 0\), at step 0"):
        real.act([[[0, 0], [np.inf, 0]]])


def test_an_agent_says_that_its_model_gives_no_numbers():
    def decode(params, cache, steps):
        return (jnp.full((len(steps.prev_action), 5), jnp.nan), cache)

    model = Model(unused, unused, lambda batch: jnp.int32(0), decode, unused, 1, None)
    agent = Agent(from_model(model), {}, GRID)
    with pytest.raises(AdJaxError, match=r"highest logit is nan, no finite number; row 0, at step 0"):
        agent.act([[0, 0]])


def masking(*masked):
    """Return a model that leaves out actions of three."""
    logits = jnp.where(jnp.isin(jnp.arange(3), jnp.array(masked)), -jnp.inf, 0.0)

    def decode(_, time, steps):
        return (jnp.broadcast_to(logits, (len(steps.prev_action), 3)), time + 1)

    return Model(unused, unused, lambda batch: jnp.int32(0), decode, unused, 1, None)


def test_a_model_may_mask_actions_but_not_all():
    agent = Agent(from_model(masking(0, 2)), {}, spec_of(Odd()))
    agent.reset(batch=4)
    assert agent.act([[0, 0]] * 4).tolist() == [1] * 4
    np.testing.assert_array_equal(rolled(Odd(), tasks_of(2, 4), masking(0, 2)).returns, 5.0)
    with pytest.raises(AdJaxError, match=r"logits are -inf for every action: none can be chosen; row 0, at step 0"):
        Agent(from_model(masking(0, 1, 2)), {}, spec_of(Odd())).act([[0, 0]])
    logits = jnp.array([[-np.inf, 0, 1], [-np.inf] * 3, [np.inf, 0, -np.inf], [0, np.nan, 0]], jnp.float32)
    constant = Model(unused, unused, lambda batch: (), lambda *_: (logits, ()), unused, 1, None)
    _, carry = from_model(constant).act(
        None, from_model(constant).init(4), unused, jax.random.split(jax.random.key(0), 4)
    )
    assert np.isfinite(carry.highest).tolist() == [True, False, False, False]
    first = values.First(*(np.int32(x) for x in (4, 0, 0, np.float32(-np.inf).view(np.int32))))
    assert values.told(spec_of(Odd()), np.float32, first)[0] == (
        "the model's logits are -inf for every action: none can be chosen"
    )


class Mislabeled(Odd):
    """Its label at time 2 of an odd task is no action."""

    def optimal_label(self, observation, task):
        return jnp.where((task.number % 2 == 1) & (observation[0] == 2), 3, 1)


def test_relabeling_names_a_label_that_is_no_action():
    observation = np.stack([np.tile(np.arange(5), (3, 2)), np.zeros((3, 10), int)], -1).astype(np.uint8)

    def leaves(numbers):
        return {"max_steps_in_episode": np.full(3, 5, np.int32), "number": np.array(numbers, np.int32)}

    assert (optimal_labels(Mislabeled(), observation, leaves([2, 4, 6])) == 1).all()
    with pytest.raises(ConfigError, match=r"gives 3 at step 2 of history 1 of its chunk; actions are 0\.\.2"):
        optimal_labels(Mislabeled(), observation, leaves([2, 7, 9]))
