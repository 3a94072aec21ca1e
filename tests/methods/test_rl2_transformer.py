"""RL² with GTrXL: acting is decoding, each row's window begins with its trial, it resumes, eight devices are one."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import mesh_of, resumed

from ad_jax import envs
from ad_jax.envs.base import seen_spec_of
from ad_jax.methods import rl2, trials
from ad_jax.models.base import unroll_of
from ad_jax.models.transformer import Transformer
from ad_jax.stage.feeds import TrainingTasks
from ad_jax.stage.trainer import Trainer

ROOM = envs.make("dark_room", {"size": 3, "steps": 4, "start": "random"})
TASKS = ROOM.split(0, 7, 2).train
MODEL = Transformer(layers=2, width=8, heads=2, mlp_width=8, window=6, gate="gru", value_head=True)
SPEC = seen_spec_of(ROOM)
NETWORK = MODEL.actor_critic(SPEC)
PARTS = rl2.RL2(
    trial_episodes=2, unroll_episodes=1, trials=16, updates=4, minibatches=2, updates_per_dispatch=2, checkpoint_every=4
)


def trainer_of(mesh: Any = None) -> Trainer:
    mesh = mesh or mesh_of()
    return Trainer(rl2.make(NETWORK, ROOM, TASKS, PARTS, mesh), TrainingTasks(TASKS, mesh), PARTS, mesh, seed=1)


@pytest.fixture(scope="module")
def trained():
    """One trainer for every test that needs no other; it compiles once."""
    trainer: Any = trainer_of()
    trainer.compiled = lambda _: trainer.run
    return trainer


def test_acting_is_decoding_the_stream_of_a_whole_trial():
    """Of more steps than the window has; what the loss then looks at are the same logits and values."""
    params, config = jax.jit(NETWORK.init)(jax.random.key(3)), dataclasses.replace(PARTS, unroll_episodes=None)

    @jax.jit
    def go(params):
        start = trials.begin(NETWORK, ROOM, config, jax.random.key(0), TASKS)
        unroll, _, _ = trials.roll(NETWORK, ROOM, config, params, start, TASKS, jax.random.key(1))
        decode = unroll_of(MODEL.make(SPEC)._replace(unroll=None))
        logits, _ = decode(params, MODEL.make(SPEC).init_cache(16), unroll.steps)
        return unroll, logits, NETWORK.segment(params, NETWORK.init_cache(16), unroll.steps)

    unroll, decoded, (logits, values, _) = go(params)
    assert unroll.reward.shape == (16, 8)
    np.testing.assert_allclose(unroll.log_prob, trials.log_prob_of(decoded, unroll.action), atol=1e-5)
    np.testing.assert_allclose(logits, decoded, atol=1e-5)
    np.testing.assert_allclose(unroll.value, values, atol=1e-5)


def test_a_trial_s_window_crosses_its_episodes_and_begins_with_it(trained):
    """Trials of two episodes, an episode of four steps an update, half of the trials ending after each."""
    state = trained.init()
    for update in range(3):
        before = np.asarray(state.trials.age)
        state, _ = trained.run(state, trained.feed.tasks, jnp.int32(1))
        held = state.trials
        np.testing.assert_array_equal(held.age, 1 - before)
        np.testing.assert_array_equal(held.cache.age, 4 * np.asarray(held.age))
        assert int(held.cache.time) == 4 * (update + 1), "one clock for all"


def test_eight_devices_train_like_one(trained):
    one, facts = trained.run(trained.init(), trained.feed.tasks, jnp.int32(2))
    other = trainer_of(mesh_of(4, 2, 1))
    many, others = other.run(other.init(), other.feed.tasks, jnp.int32(2))
    chex.assert_trees_all_equal(one.trials.steps, many.trials.steps)
    chex.assert_trees_all_close(*jax.device_get((facts, others)), rtol=1e-3, atol=1e-5)
    # Adam divides by the gradient's size: where that is nearly zero, rounding is a large part of it.
    chex.assert_trees_all_close(*jax.device_get((one.params, many.params)), rtol=0, atol=3e-4)
    assert not many.trials.cache.keys[0].sharding.is_fully_replicated


@pytest.mark.slow  # as test_rl2.py does for the LSTM
def test_resumed_after_every_update_it_ends_bit_equal(trained, tmp_path):
    found = resumed(trained, PARTS, tmp_path)
    assert found[0][0] == found[1][0] == 4
    chex.assert_trees_all_equal(found[0][1], found[1][1])
