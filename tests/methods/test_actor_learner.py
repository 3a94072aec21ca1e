"""Actor-Learner Distillation: who acts, who learns from what, at which ratio, and what is saved as the model."""

import ast
import dataclasses
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import mesh_of, resumed

from ad_jax import envs
from ad_jax.envs.base import seen_spec_of, spec_of
from ad_jax.errors import ConfigError
from ad_jax.experiment import Experiment, TaskConfig, build, load, override
from ad_jax.history import replay
from ad_jax.methods import trials
from ad_jax.methods.actor_learner import ActorLearner, Parts, acting, off_policy_advantages
from ad_jax.methods.base import Setting
from ad_jax.methods.rl2 import RL2
from ad_jax.models.base import unroll_of
from ad_jax.models.lstm import LSTM
from ad_jax.models.transformer import Transformer
from ad_jax.planning import cost, residents
from ad_jax.run.directory import digest
from ad_jax.stage.feeds import feed_of
from ad_jax.stage.trainer import Trainer

ROOM = envs.make("dark_room", {"size": 3, "steps": 4, "start": "random"})
TASKS, SPEC = ROOM.split(0, 7, 2).train, seen_spec_of(ROOM)
ACTOR = LSTM(width=8, hidden=12, mlp_width=8, value_head=True)
LEARNER = Transformer(layers=1, width=8, heads=1, mlp_width=8, window=6, gate="gru", value_head=True)
SMALL = ActorLearner(
    learner=LEARNER, trial_episodes=2, unroll_episodes=1, trials=16, updates=4, minibatches=2, epochs=1,
    distillations=3, updates_per_dispatch=4, checkpoint_every=4,
)  # fmt: skip


def trainer_of(config: ActorLearner = SMALL, devices: Any = (1, 1, 1)) -> Trainer:
    mesh = mesh_of(*devices)
    s = Setting(ROOM, ACTOR.make(SPEC), ACTOR, spec_of(ROOM), SPEC, TASKS, replay.Config(), mesh)
    return Trainer(config.make(s).learner, feed_of(config, s), config, mesh, 1)


@pytest.fixture(scope="module")
def trained():
    """One trainer for every test that needs no other; it compiles once."""
    trainer: Any = trainer_of()
    trainer.compiled = lambda _: trainer.run
    return trainer


def counts(state: Any) -> set[int]:
    """How many gradient steps an optimizer's state has counted."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {int(leaf) for path, leaf in leaves if jax.tree_util.keystr(path).endswith(".count")}


def test_advantages_of_who_acted_are_those_of_rl2_and_of_another_those_of_v_trace():
    rng, config = np.random.default_rng(0), dataclasses.replace(SMALL, discount=0.9, trace_decay=0.7)
    reward, value = rng.normal(size=(2, 3, 8)).astype(np.float32)
    ahead, ratio = rng.normal(size=3).astype(np.float32), np.exp(rng.normal(size=(3, 8))).astype(np.float32)
    same = off_policy_advantages(reward, value, jnp.asarray(ahead), jnp.ones((3, 8)), config)
    expected = trials.advantages(jnp.asarray(reward), jnp.asarray(value), jnp.asarray(ahead), config)
    chex.assert_trees_all_close(same, (expected, expected), rtol=1e-5)
    advantage, short = off_policy_advantages(reward, value, jnp.asarray(ahead), jnp.asarray(ratio), config)
    error = reward + 0.9 * np.concatenate([value[:, 1:], ahead[:, None]], 1) - value
    held = np.minimum(ratio, 1)
    for s in range(8):  # the sum as it is published: what comes counts as far as all before it would have been done
        total = sum(
            0.9 ** (t - s) * np.prod(0.7 * held[:, s:t], axis=1) * held[:, t] * error[:, t] for t in range(s, 8)
        )
        np.testing.assert_allclose(short[:, s], total, rtol=1e-4)
        later = short[:, s + 1] if s < 7 else 0
        np.testing.assert_allclose(advantage[:, s], error[:, s] + 0.9 * 0.7 * later, rtol=1e-4, atol=1e-6)


def test_the_actor_acts_and_the_learner_stands_still():
    """What is done is what the LSTM decodes; the learner's memory is what it was until it looks at the whole."""
    parts = Parts(ACTOR.actor_critic(SPEC), LEARNER.actor_critic(SPEC), ROOM, *2 * (SMALL.make_optimizer(),))
    plays, params = acting(parts), parts.actor.init(jax.random.key(0))
    start = trials.begin(plays, ROOM, SMALL, jax.random.key(1), TASKS)
    unroll, after, _ = trials.roll(plays, ROOM, SMALL, params, start, TASKS, jax.random.key(2))
    logits, _ = unroll_of(ACTOR.make(SPEC))(params, parts.actor.init_cache(16), unroll.steps)
    np.testing.assert_allclose(unroll.log_prob, trials.log_prob_of(logits, unroll.action), atol=1e-5)
    chex.assert_trees_all_equal(after.cache.learner, start.cache.learner)
    assert np.asarray(after.cache.actor[0].cell).any()


def test_each_takes_its_gradient_steps_and_both_remember_their_trials(trained):
    state = trained.init()
    for update in range(1, 4):
        state, _ = trained.run(state, trained.feed.tasks, jnp.int32(1))
        assert counts(state.learner.opt_state) == {2 * update}
        assert counts(state.opt_state) == {3 * 2 * update}
        held = state.trials
        np.testing.assert_array_equal(held.cache.learner.age, 4 * np.asarray(held.age))
        assert int(held.cache.learner.time) == 4 * update
        assert (np.asarray(held.cache.actor[0].cell).any(axis=1) == (np.asarray(held.age) > 0)).all()


def test_what_the_learner_would_do_and_expect_is_what_the_actor_learns():
    """A learner that does not learn, with strong opinions: the actor comes near it, and so do its values."""
    config = dataclasses.replace(
        SMALL, learning_rate=0.0, updates=60, updates_per_dispatch=60, distillations=8, actor_learning_rate=1e-2,
        actor_value_cost=1.0,
    )  # fmt: skip
    train = trainer_of(config)
    state = train.init()
    head = jax.tree.map(lambda x: 20 * x, state.learner.params["head"])
    before = jax.device_get(state.learner.params | {"head": head})
    state = state.replace(learner=state.learner.replace(params=jax.device_put(before)))
    state, found = train.run(state, train.feed.tasks, jnp.int32(60))
    apart, loss = (np.asarray(found[name]) for name in ("divergence", "loss"))
    assert np.isfinite(loss).all()
    assert apart[-10:].mean() < 0.25 * apart[0]
    chex.assert_trees_all_equal(jax.device_get(state.learner.params), before)


def test_eight_devices_train_like_one(trained):
    one, facts = trained.run(trained.init(), trained.feed.tasks, jnp.int32(2))
    other = trainer_of(devices=(4, 2, 1))
    many, others = other.run(other.init(), other.feed.tasks, jnp.int32(2))
    chex.assert_trees_all_equal(one.trials.steps, many.trials.steps)
    chex.assert_trees_all_close(*jax.device_get((facts, others)), rtol=1e-3, atol=1e-4)
    assert not many.trials.cache.learner.keys[0].sharding.is_fully_replicated


def test_resumed_after_every_update_it_ends_bit_equal_and_the_actor_is_the_model(trained, tmp_path):
    found = resumed(trained, SMALL, tmp_path)
    assert found[0][0] == found[1][0] == 4
    chex.assert_trees_all_equal(found[0][1], found[1][1])
    actor = jax.eval_shape(ACTOR.make(SPEC).init, jax.random.key(0))
    chex.assert_trees_all_equal_shapes(found[0][1].params, actor)
    assert "block_0" in found[0][1].learner.params


def experiment(method: ActorLearner = SMALL, **changes: Any) -> Experiment:
    return dataclasses.replace(load("dark_room", "smoke"), **{"model": ACTOR, "method": method, **changes})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"distillations": 0}, r"method.distillations must be at least 1; got 0"),
        ({"learner_pull": -1.0}, r"method.learner_pull must be at least 0; got -1.0"),
        ({"trial_episodes": 0}, r"method.trial_episodes must be at least 1; got 0"),
        ({"learner": dataclasses.replace(LEARNER, value_head=None)}, r"method.learner.value_head must be True.*None"),
        ({"learner": dataclasses.replace(LEARNER, dropout=0.1)}, r"where method.learner.dropout=0.1 does nothing"),
        ({"learner": dataclasses.replace(LEARNER, heads=3)}, r"method.learner, whose options are those of .*heads"),
    ],
)
def test_what_cannot_be_is_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        build(experiment(dataclasses.replace(SMALL, **changes)))


def test_an_actor_without_a_value_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"method=actor_learner trains a policy with a value: set model=lstm"):
        build(experiment(model=LSTM()))


def test_the_learner_s_options_are_set_one_by_one_and_are_of_the_run():
    e = override(load("dark_room", "smoke"), ["method=actor_learner", "method.learner.layers=3"])
    assert isinstance(e.method, ActorLearner)
    assert e.method.learner == dataclasses.replace(ActorLearner().learner, layers=3)
    assert Experiment.from_json(e.to_json()) == e
    assert digest(e) != digest(override(e, ["method.learner.layers=4"]))
    with pytest.raises(ConfigError, match=r"'method.learner.layer'. Did you mean 'method.learner.layers'"):
        override(e, ["method.learner.layer=3"])


def test_the_learner_is_counted_in_the_memory(trained):
    e = experiment(env=ROOM, tasks=TaskConfig(train=7, held_out=2))
    state = trained.abstract_state
    both = state.params, state.opt_state, state.params, state.learner.params, state.learner
    assert cost.count(e, build(e)).state_bytes == residents.tree_bytes(both)


def test_the_page_names_every_option_that_rl2_has_not():
    page = (Path(__file__).parents[2] / "docs/actor_learner.md").read_text()
    cells = [[cell.strip() for cell in line.split("|")] for line in page.splitlines() if line.startswith("| `")]
    told = {
        cell[1].strip("`"): ast.literal_eval(cell[2].strip("`")) for cell in cells if cell[1].strip("`") != "learner"
    }
    own = {field.name for field in dataclasses.fields(ActorLearner)} - {field.name for field in dataclasses.fields(RL2)}
    assert told == {name: getattr(ActorLearner(), name) for name in own - {"learner"}}


@pytest.mark.slow
def test_the_actor_learns_to_find_a_cell_and_to_go_there_at_once():
    """3 x 3 cells, 8 episodes of 5 steps a trial: later episodes earn more than the first."""
    family = envs.make("dark_room", {"size": 3, "steps": 5})
    table, spec, mesh = family.all_tasks(), seen_spec_of(family), mesh_of()
    actor = LSTM(width=16, hidden=32, mlp_width=32, value_head=True)
    learner = Transformer(layers=2, width=32, heads=2, mlp_width=64, window=40, gate="gru", value_head=True)
    config = ActorLearner(
        learner=learner, trial_episodes=8, trials=64, updates=120, updates_per_dispatch=120, learning_rate=2e-3,
        discount=0.95, reward_scale=0.2,
    )  # fmt: skip
    s = Setting(family, actor.make(spec), actor, spec_of(family), spec, table, replay.Config(), mesh)
    train = Trainer(config.make(s).learner, feed_of(config, s), config, mesh, 0)
    _, found = train.run(train.init(), train.feed.tasks, jnp.int32(120))
    first, last = (np.asarray(found[name])[-10:].mean() for name in ("first_return", "last_return"))
    assert last > 1.3 * first
    assert last > 0.7 * family.optimal_return(table).mean()
