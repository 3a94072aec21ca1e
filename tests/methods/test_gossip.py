"""Gossip: the program is a loop over groups, they stay in their ball, what is sent and evaluated, what is refused."""

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
from ad_jax.errors import ConfigError
from ad_jax.methods import gossip, rl2
from ad_jax.methods.reinforcement import Parts, improved
from ad_jax.models.lstm import LSTM
from ad_jax.planning import hlo
from ad_jax.planning.residents import tree_bytes
from ad_jax.stage.feeds import TrainingTasks
from ad_jax.stage.trainer import Trainer

ROOM = envs.make("dark_room", {"size": 3, "steps": 4, "start": "random"})
TASKS = ROOM.split(0, 7, 2).train
MODEL = LSTM(width=8, hidden=12, mlp_width=8, value_head=True)
NETWORK = MODEL.actor_critic(seen_spec_of(ROOM))
GROUPS = rl2.RL2(
    gossip=8, trial_episodes=2, unroll_episodes=1, trials=16, updates=4, minibatches=2, updates_per_dispatch=2,
    checkpoint_every=4,
)  # fmt: skip


def trainer_of(config: rl2.RL2 = GROUPS, mesh: Any = None) -> Trainer:
    mesh, make = mesh or mesh_of(8, 1, 1), gossip.make if config.gossip else rl2.make
    return Trainer(make(NETWORK, ROOM, TASKS, config, mesh), TrainingTasks(TASKS, mesh), config, mesh, seed=1)


@pytest.fixture(scope="module")
def trained():
    """One trainer of eight groups for every test that needs no other; it compiles once."""
    trainer: Any = trainer_of()
    trainer.compiled = lambda _: trainer.run
    return trainer


def test_the_program_is_a_loop_over_groups_and_a_mean_with_the_one_before():
    config = dataclasses.replace(GROUPS, gossip=4, minibatches=1, epochs=1, trials=8)
    train = trainer_of(config, mesh_of(4, 1, 1))
    start = jax.device_get(train.init())
    state, facts = train.run(train.init(), train.feed.tasks, jnp.int32(1))
    small = dataclasses.replace(config, trials=2)
    parts = Parts(NETWORK, ROOM, small, config.make_optimizer(), 1.0)

    @jax.jit
    def alone(learning, trials, key):
        return improved(parts, learning, trials, jnp.int32(0), TASKS, key, mesh=None)

    found, tasks = [], []
    for group in range(4):
        learning = jax.tree.map(lambda x: x[group], start.groups)  # noqa: B023
        rows = jax.tree.map(lambda x: x[2 * group : 2 * group + 2], start.trials)  # noqa: B023
        learned, trials, *_ = alone(learning, rows, jax.random.fold_in(train.key(0), group))
        found.append(jax.device_get(learned.params))
        tasks.append(trials.task)
    mixed = [jax.tree.map(lambda x, y: (x + y) / 2, found[g], found[g - 1]) for g in range(4)]
    held = jax.device_get(state.groups.params)
    for group in range(4):
        chex.assert_trees_all_close(jax.tree.map(lambda x: x[group], held), mixed[group], atol=2e-4)  # noqa: B023
    np.testing.assert_array_equal(state.trials.task, np.concatenate(tasks))
    chex.assert_trees_all_close(jax.device_get(state.params), jax.tree.map(lambda x: x.mean(0), held), atol=1e-6)
    # One step from where they were together: what is left of how far they went apart is within the ball.
    assert 0 < float(facts["apart"][0]) <= float(facts["ball"][0])


def test_groups_differ_and_stay_within_their_ball(trained):
    state, apart, ball = trained.init(), [], []
    for _ in range(2):
        state, facts = trained.run(state, trained.feed.tasks, jnp.int32(2))
        apart += np.asarray(facts["apart"]).tolist()
        ball += np.asarray(facts["ball"]).tolist()
    assert (np.array(apart) > 0).all()
    assert (np.array(apart) <= np.array(ball)).all()
    held = jax.device_get(state.groups.params)
    off = jax.tree.map(lambda x: ((x - x.mean(0)) ** 2).sum(), held)
    np.testing.assert_allclose(apart[-1], np.sqrt(sum(jax.tree.leaves(off))), rtol=1e-3)
    assert not state.groups.params["head"]["kernel"].sharding.is_fully_replicated
    chex.assert_trees_all_equal(trained.learner.params(state), state.params)


def test_a_copy_goes_to_one_neighbor_in_the_place_of_an_all_reduce(trained):
    """Bytes of the program's collectives: of all gradient steps of an update, and of the average once."""

    def sent(trainer):
        lowered = jax.jit(trainer.learner.update).lower(
            trainer.abstract_state, trainer.feed.tasks, jax.eval_shape(lambda: trainer.key(0))
        )
        return hlo.read(str(lowered.compile().as_text())).collectives

    ours, plain = sent(trained), sent(trainer_of(dataclasses.replace(GROUPS, gossip=None)))
    one = tree_bytes(trained.abstract_state.params)
    steps, beside = GROUPS.epochs * GROUPS.minibatches, 4096  # bytes of scalars, and of what cannot be
    assert ours.bytes["collective-permute"] == steps * one
    assert one <= ours.bytes["all-reduce"] <= one + beside
    assert plain.bytes["all-reduce"] >= steps * one
    assert plain.bytes["collective-permute"] < beside
    assert ours.sent["collective-permute"] < 0.6 * plain.sent["all-reduce"]


@pytest.mark.slow  # test_rl2.py does as much for one group
def test_resumed_after_every_update_it_ends_bit_equal(trained, tmp_path):
    found = resumed(trained, GROUPS, tmp_path)
    assert found[0][0] == found[1][0] == 4
    chex.assert_trees_all_equal(found[0][1], found[1][1])


@pytest.mark.parametrize(
    ("gossip", "mesh", "told"),
    [
        (1, (8, 1, 1), r"method.gossip must be at least 2; got 1"),
        (
            4,
            (8, 1, 1),
            r"method.gossip=4 groups learn on a device each: set mesh.data=4, or .*over 8",
        ),
        (8, (1, 1, 1), r"set mesh.data=8.*over 1"),
        (8, (4, 2, 1), r"hold their parameters whole: set mesh.fsdp=1 and mesh.tensor=1; got .*'fsdp': 2"),
    ],
)
def test_a_mesh_without_a_device_for_each_group_is_refused(gossip, mesh, told):
    with pytest.raises(ConfigError, match=told):
        trainer_of(dataclasses.replace(GROUPS, gossip=gossip), mesh_of(*mesh))


@pytest.mark.slow
def test_gossip_learns_what_one_group_learns_in_as_many_steps():
    """3 x 3 cells: the average of eight groups ends near the return of the all-reduce."""
    family = envs.make("dark_room", {"size": 3, "steps": 5})
    table, mesh, ends = family.all_tasks(), mesh_of(8, 1, 1), []
    network = dataclasses.replace(MODEL, width=16, hidden=32, mlp_width=32).actor_critic(seen_spec_of(family))
    for groups in (None, 8):
        config = rl2.RL2(
            gossip=groups, trial_episodes=8, trials=64, updates=120, minibatches=2, learning_rate=5e-3,
            updates_per_dispatch=120, discount=0.95, reward_scale=0.2,
        )  # fmt: skip
        make = gossip.make if groups else rl2.make
        train = Trainer(make(network, family, table, config, mesh), TrainingTasks(table, mesh), config, mesh, seed=1)
        _, facts = train.run(train.init(), train.feed.tasks, jnp.int32(120))
        ends.append(np.asarray(facts["last_return"])[-10:].mean())
    assert ends[1] > 0.85 * ends[0]
