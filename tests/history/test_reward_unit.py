"""Rewards a thousand times as large or as small give the same model, bit for bit where the division is exact."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import GRID, mesh_of, numbered_histories, trainer_of
from history_helpers import stored
from scaled_room import ScaledRoom

from ad_jax.agent import Agent
from ad_jax.checkpoint import checkpoint
from ad_jax.envs.base import spec_of, take
from ad_jax.errors import ConfigError, HistoryError
from ad_jax.experiment import CollectConfig, EvaluateConfig, Experiment, TaskConfig
from ad_jax.files import read_json
from ad_jax.history import replay, returns, reward_unit
from ad_jax.history.store import HistoryWriter, open_store
from ad_jax.methods import reinforcement, rl2
from ad_jax.methods.distillation import Distillation
from ad_jax.models import lstm
from ad_jax.models.lstm import LSTM
from ad_jax.run.origins import Origins
from ad_jax.run.pipeline import Run
from ad_jax.sources.noisy_oracle import NoisyOracle
from ad_jax.stage.feeds import TrainingTasks
from ad_jax.stage.trainer import Trainer

SMALL = lstm.LSTM(width=8, hidden=8, mlp_width=8)
MIXED = (-1.0, 0.0, 0.5, 3.0, -20.0)


def paying(kinds, scale=1.0, count=12, steps=20):
    """Histories whose rewards are drawn from `kinds`, times `scale`."""
    drawn = np.random.default_rng(0).choice(np.array(kinds, np.float32), (count, steps))
    base = numbered_histories(count, steps)
    return dataclasses.replace(base, transition=base.transition.replace(reward=np.float32(scale) * drawn))


def unit_of(rewards):
    return reward_unit.pool([reward_unit.of_chunk(np.asarray(rewards))])


def test_the_unit_of_known_rewards():
    rng = np.random.default_rng(1)
    signs = rng.choice(np.array([-1, 0, 0, 1]), (9, 40))
    for dtype in (np.int8, np.int32, np.float16, np.float32, np.float64):
        assert unit_of(signs.astype(dtype)) == 1.0, "exactly"
    for dtype in (bool, np.uint8):
        assert unit_of(np.abs(signs).astype(dtype)) == 1.0
        assert unit_of(np.zeros((3, 4), dtype)) == 1.0, "nothing was paid"
    for size in (1e-3, 1e3, 0.3, 3e30, 1e-30):
        assert unit_of(signs.astype(np.float32) * np.float32(size)) == np.float32(size), "whatever all have in common"
    for dtype in (np.int8, np.float32, np.int64):
        few = np.array([[0, 3, -100, 0, 4]], dtype)
        assert unit_of(few) == pytest.approx(np.sqrt((9 + 10_000 + 16) / 3), rel=1e-7)
    assert unit_of(np.array([[200, 0, 0]], np.uint8)) == 200
    assert unit_of(np.array([[1e-42, 0]], np.float32)) == 1.0, "a program takes that for 0"
    with pytest.raises(HistoryError, match="not finite"):
        unit_of(np.array([[1.0, np.inf]], np.float32))


def test_chunks_in_any_order_and_an_unrecorded_ledger_give_the_same_unit(tmp_path):
    whole = paying((0.0, 0.1, -0.7, 13.0))
    sums = [reward_unit.of_chunk(whole.transition.reward[i : i + 4]) for i in range(0, 12, 4)]
    units = {reward_unit.pool(sums[i:] + sums[:i]) for i in range(3)}
    store = stored(tmp_path / "old", whole, 4)
    assert store.returns is None, "as early versions wrote them"
    manifest = store.manifest
    with HistoryWriter.open(tmp_path / "new", manifest) as writer:
        for chunk in (2, 0, 1):
            rows = replay.take(whole, np.arange(*manifest.rows(chunk)))
            writer.write(chunk, rows, returns.of_chunk(rows.transition, 2, 4, None, None))
    new = open_store(tmp_path / "new")
    assert all(new.earned(chunk)["rewards"]["nonzero"] > 0 for chunk in new.chunks)
    assert {reward_unit.of_store(store), reward_unit.of_store(new)} == units
    assert len(units) == 1


def trained(histories, unit=None):
    """Parameters after a few updates on histories, and the loss of each."""
    config, sampling = Distillation(updates=6, warmup_updates=1), replay.Config(segment=8, batch=8)
    unit = unit or unit_of(histories.transition.reward)
    model, mesh = reward_unit.applied(SMALL.make(GRID), unit), mesh_of()
    trainer = trainer_of(model, GRID, config, sampling, mesh, 3)
    resident = replay.load(histories, GRID, sampling, mesh)
    state, facts = trainer.run(trainer.init(), resident, jnp.int32(6))
    return jax.device_get((state.params, facts["loss"]))


@pytest.mark.parametrize(
    ("kinds", "scale"), [(MIXED, 2.0**-10), pytest.param((0.0, 1.0), 1000.0, marks=pytest.mark.slow)]
)
def test_training_on_scaled_rewards_is_the_same_to_the_bit(kinds, scale):
    chex.assert_trees_all_equal(trained(paying(kinds)), trained(paying(kinds, scale)))


def test_a_unit_of_one_changes_no_program():
    model = SMALL.make(GRID)
    assert reward_unit.applied(model, 1.0) is model


def run(folder, pay, cost=0.0, **more) -> Run:
    e = Experiment(
        "scaled",
        ScaledRoom(size=3, steps=4, pay=pay, cost=cost),
        NoisyOracle(noise_start=1.0, noise_end=0.5),
        LSTM(**({"width": 8, "hidden": 8, "mlp_width": 8} | more.pop("model", {}))),
        tasks=TaskConfig(train=4, held_out=2),
        collect=CollectConfig(seeds=2, episodes=8, chunk_learners=4),
        replay=replay.Config(segment=8, batch=8, **more),
        method=Distillation(updates=4, warmup_updates=1, learning_rate=0.05, evaluate_every=2, evaluate_episodes=2),
        evaluate=EvaluateConfig(episodes=3, seeds=2, greedy=False, source_seeds=0),
    )
    made = Run(e, folder)
    made.collect()
    made.distill()
    made.evaluate()
    return made


def returns_of(made: Run):
    return np.array(read_json(made.folder / "results.json")["runs"][0]["sets"][0]["returns"]["sampled"])


@pytest.mark.slow
def test_a_run_in_another_currency_is_the_same_run(tmp_path):
    """Through collecting, training with evaluation in it, evaluating, and an `Agent`."""
    one, other = run(tmp_path / "one", 1.0, 0.25), run(tmp_path / "other", 1024.0, 0.25)
    np.testing.assert_array_equal(1024 * returns_of(one), returns_of(other))
    metas, agents = [], []
    for made, pay in ((one, 1), (other, 1024)):
        _, state, meta = checkpoint.load(made.folder)
        metas.append((state["params"], meta["reward_unit"] / pay))
        agent = Agent.load(made.folder)
        agent.reset(batch=3)
        here = np.array([[0, 1], [2, 2], [1, 1]])
        paid = pay * np.array([1.0, -0.25, 1.0])
        agents.append([agent.act(here), *(agent.act(here, paid, [t % 4 == 3] * 3) for t in range(20))])
    chex.assert_trees_all_equal(*metas)
    np.testing.assert_array_equal(*agents)
    assert 0.25 < metas[0][1] < 1


@pytest.mark.slow
def test_the_unit_can_be_set_and_a_training_keeps_the_one_that_it_began_with(tmp_path, monkeypatch, capsys):
    fixed = run(tmp_path / "fixed", 8.0, reward_unit=1.0)
    assert checkpoint.load(fixed.folder)[2]["reward_unit"] == 1.0
    real, begun = Origins.of_training, run
    # As an earlier version wrote its checkpoints, which said nothing of a unit, and divided nothing.
    monkeypatch.setattr(reward_unit, "of_store", lambda store: 1.0)
    monkeypatch.setattr(Origins, "of_training", lambda *a: {k: v for k, v in real(*a).items() if k != "reward_unit"})
    old = begun(tmp_path / "old", 8.0)
    monkeypatch.undo()
    assert "reward_unit" not in checkpoint.load(old.folder)[2]
    assert "units of" not in capsys.readouterr().out
    again = Run(old.experiment, old.folder)
    again.distill()
    again.evaluate()
    assert "units of" not in capsys.readouterr().out
    np.testing.assert_array_equal(returns_of(again), returns_of(fixed))
    for unit in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ConfigError, match=r"replay.reward_unit is what rewards are divided by, above 0; got"):
            replay.Config(reward_unit=unit).validate()


@pytest.mark.slow
def test_rl2_counts_in_the_unit_that_random_actions_meet():
    """Rewards 1,024 times as large train the same network; returns are told as they are."""
    config = rl2.RL2(trial_episodes=2, trials=8, updates=2, minibatches=1, epochs=1, updates_per_dispatch=2)
    found = []
    for pay in (1.0, 1024.0):
        family = ScaledRoom(size=3, steps=4, pay=pay, cost=0.25)
        tasks = take(family.all_tasks(), np.arange(5))
        unit = reinforcement.unit_by_chance(family, tasks, config, seed=1)
        network = dataclasses.replace(SMALL, value_head=True).actor_critic(spec_of(family))
        feed = TrainingTasks(tasks, mesh_of())
        trainer = Trainer(rl2.make(network, family, tasks, config, mesh_of(), unit), feed, config, mesh_of(), 1)
        state, facts = trainer.run(trainer.init(), feed.tasks, jnp.int32(2))
        found.append(jax.device_get((state.params, facts["loss"], facts["first_return"] / pay, unit / pay)))
    chex.assert_trees_all_equal(*found)
    assert 0.25 < found[0][3] < 1
    nothing = ScaledRoom(size=3, steps=4, pay=0.0)
    assert reinforcement.unit_by_chance(nothing, tasks, config, seed=1) == 1.0
