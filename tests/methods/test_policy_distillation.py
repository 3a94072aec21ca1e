"""Policy distillation: what teachers held is stored as they held it, and the student learns it, told its task."""

import jax
import numpy as np
import pytest
from helpers import LITTLE, mesh_of

from ad_jax import Agent, Run, sources
from ad_jax.envs.base import take
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.envs.leaves import task_leaves
from ad_jax.errors import AdJaxError, ConfigError
from ad_jax.experiment import build, load, override
from ad_jax.files import read_json
from ad_jax.history import store
from ad_jax.methods.policy_distillation import PolicyDistillation, flat, numbers
from ad_jax.sources import dqn
from ad_jax.stage.collect import Collector

SMOKE = override(load("dark_room", "smoke"), ["method=policy_distillation", *LITTLE, "evaluate.source_seeds=0"])
ROOM = DarkRoom(size=3, steps=4)


def lifetimes(source, episodes):
    learners = Collector(ROOM, source.make(ROOM), episodes, mesh_of(), 2, preferences=True)
    tasks = take(ROOM.all_tasks(), np.array([0, 5]))
    return jax.device_get(learners.run(0, tasks, ROOM.task_ids(tasks), 1, 0).transition)


def test_what_q_learning_held_is_its_table_of_before_each_step():
    """Replayed from nothing by the rule itself, in NumPy."""
    config = sources.make("q_learning", {"learning_rate": 0.5, "discount": 0.9})
    t = lifetimes(config, 6)
    for row in range(2):
        table = np.zeros((9, 5))
        cell = t.observation[row, 0] @ np.array([3, 1])
        reached = np.concatenate([cell[1:], cell[:1]])
        assert t.truncated[row, 0, 3]  # the first episode
        for step in range(4):
            np.testing.assert_allclose(t.preferences[row, 0, step], table[cell[step]], atol=1e-6)
            action, reward = t.action[row, 0, step], t.reward[row, 0, step]
            target = reward + 0.9 * table[reached[step]].max()
            table[cell[step], action] += 0.5 * (target - table[cell[step], action])


def test_what_dqn_held_are_the_values_that_its_actors_acted_by():
    config = dqn.DQN(actors=2, unroll=4, capacity=8, warmup=0, gradient_steps=1, sequence=2, hidden=(8,), epsilon=0.0)
    t = lifetimes(config, 2)
    np.testing.assert_array_equal(t.preferences.argmax(-1), t.action)


def test_a_source_that_holds_none_is_refused():
    with pytest.raises(ConfigError, match=r"preferences=true needs a source .* source=q_learning and source=dqn do"):
        Collector(ROOM, sources.make("noisy_oracle").make(ROOM), 4, mesh_of(), 1, preferences=True)


def test_a_task_s_numbers_are_the_same_from_the_store_and_in_the_world():
    parts = build(override(SMOKE, ["collect.preferences=true"]))
    tasks = parts.split.train
    leaves = task_leaves(tasks)
    told = np.asarray(jax.vmap(numbers)(tasks))
    np.testing.assert_array_equal(flat(dict(reversed(leaves.items()))), told)
    assert isinstance(method := parts.method, PolicyDistillation)
    assert method.task_scale == tuple(float(x) or 1.0 for x in np.abs(told).max(0))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([], r"set collect\.preferences=true"),
        (["collect.preferences=true", "method.temperature=0"], r"method.temperature must be above 0 and finite; got 0"),
        (["collect.preferences=true", "method.label_smoothing=0.1"], r"Raise method.temperature"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_compiled(changes, told):
    with pytest.raises(ConfigError, match=told):
        build(override(SMOKE, changes))


@pytest.mark.slow
def test_the_student_does_on_each_task_what_its_teacher_held_best(tmp_path):
    """From a store, told its task: it goes to goals that it was trained on, from the first episode on."""
    e = override(
        load("dark_room", "smoke"),
        [
            *("method=policy_distillation", "collect.preferences=true", "collect.episodes=60", "env.size=3"),
            *("tasks.train=6", "tasks.held_out=3", "collect.seeds=2", "source.exploration_episodes=20", "mesh.data=1"),
            *("env.steps=8", "replay.tail=0.3", "replay.keep_every=1", "replay.segment=16", "replay.batch=16"),
            *(
                "method.updates=120",
                "model.memory=episode",
                "method.learning_rate=0.01",
                "model.token_mask=0",
                "evaluate.trained=6",
            ),
            *("evaluate.episodes=2", "evaluate.source_seeds=0", "evaluate.greedy=False", "method.evaluate_every=0"),
        ],
    )
    run = Run(e, tmp_path / "run")
    run.all()
    t = store.open_store(tmp_path / "run" / "histories").read().transition
    assert t.preferences.dtype == np.float32 and t.preferences.shape[-1] == 5
    teachers = t.reward[:, -6 * 8 :].sum(1).mean() / 6  # of their last episodes, of 8 steps
    sets = read_json(run.folder / "results.json")["runs"][0]["sets"]
    trained = np.mean(sets[1]["returns"]["sampled"])
    assert trained > 0.85 * teachers > 0.6 * np.mean([task["optimal"] for task in sets[1]["tasks"]])
    with pytest.raises(AdJaxError, match="told more of its task"):
        Agent.load(run.folder)
