"""Replay: windows stay inside a history, subsampling keeps whole episodes, batches do not depend on the devices."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
from helpers import GRID, mesh_of, numbered_histories
from hypothesis import given, settings
from hypothesis import strategies as st

from ad_jax.errors import ConfigError, HistoryError
from ad_jax.history import replay
from ad_jax.types import Histories

SMALL = replay.Config(segment=5, batch=16, groups=8)


def drawer(histories, config, mesh):
    """`step -> batch`, in host memory."""
    resident = replay.load(histories, GRID, config, mesh)
    sample = jax.jit(lambda r, key: replay.sample(r, key, GRID, config, mesh))
    return lambda step: jax.device_get(sample(resident, jax.random.fold_in(jax.random.key(0), step)))


def draw(histories, config, mesh, step=0):
    return drawer(histories, config, mesh)(step)


def ragged(seed: int, count: int = 9, steps: int = 60) -> Histories:
    """Histories with episodes of random lengths; each reward is history * 1000 + time."""
    base, rng = numbered_histories(count, steps), np.random.default_rng(seed)
    done = rng.random((count, steps)) < 0.3
    terminated = done & (rng.random(done.shape) < 0.5)
    return dataclasses.replace(
        base, transition=base.transition.replace(terminated=terminated, truncated=done & ~terminated)
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), keep_every=st.integers(1, 3), step=st.integers(0, 1000))
def test_no_window_crosses_a_history_and_every_window_is_consecutive(seed, keep_every, step):
    histories = ragged(seed)
    config = replay.Config(keep_every=keep_every, phases=keep_every, segment=4, batch=16, groups=8)
    arrays, length = replay.subsample(histories, config)
    if length.min() < config.segment:  # subsampling left too little: refused, not padded
        with pytest.raises(ConfigError, match="longer than a history"):
            draw(histories, config, mesh_of(), step)
        return
    batch = draw(histories, config, mesh_of(), step)
    rewards = [tuple(row[:n]) for row, n in zip(arrays["reward"], length, strict=True)]
    for row in range(16):
        # Reward of step t is the previous reward of step t + 1: three consecutive ones name history and time.
        seen = batch.steps.prev_reward[row][1:]
        assert len({int(r) // 1000 for r in seen}) == 1, "one history"
        assert any(seen.tolist() == list(lifetime[i : i + 3]) for lifetime in rewards for i in range(len(lifetime))), (
            "consecutive"
        )


def test_inputs_are_the_step_before_and_targets_the_step_itself():
    batch = draw(numbered_histories(8, 20), SMALL, mesh_of())
    time = batch.steps.prev_reward[:, 1:].astype(int) % 1000 + 1  # of steps 1.. of the window
    np.testing.assert_array_equal(batch.steps.observation[:, 1:, 1], time % 9)
    np.testing.assert_array_equal(batch.targets["action"][:, 1:], time % 5)
    np.testing.assert_array_equal(batch.steps.prev_action[:, 1:], (time - 1) % 5)
    np.testing.assert_array_equal(batch.steps.prev_done[:, 1:], (time - 1) % 4 == 3)


def test_the_first_step_of_a_lifetime_has_nothing_before_it():
    config = replay.Config(segment=20, batch=8, groups=8)  # one window a history: all of it
    batch = draw(numbered_histories(8, 20), config, mesh_of())
    assert set(batch.steps.prev_action[:, 0]) == {GRID.num_actions}
    assert not batch.steps.prev_done[:, 0].any()
    np.testing.assert_array_equal(batch.steps.prev_reward[:, 0], 0)


def test_every_start_of_every_history_is_drawn():
    config = replay.Config(segment=5, batch=64, groups=8)
    batch = drawer(numbered_histories(10, 8), config, mesh_of())
    seen = {int(r) for step in range(40) for r in batch(step).steps.prev_reward[:, 1]}
    assert seen == {1000 * h + t for h in range(10) for t in range(4)}


@pytest.mark.parametrize(("keep_every", "phases"), [(1, 1), (3, 1), (3, 3), (4, 2)])
def test_subsampling_keeps_whole_episodes(keep_every, phases):
    histories = ragged(1)
    arrays, length = replay.subsample(histories, replay.Config(keep_every=keep_every, phases=phases))
    done = histories.transition.terminated | histories.transition.truncated
    assert len(length) == 9 * phases
    offsets = set()
    for row, n in enumerate(length):
        history = row % 9
        episodes, episode = [], []
        for t in range(60):
            episode.append(float(1000 * history + t))
            if done[history, t] or t == 59:
                episodes, episode = [*episodes, episode], []
        kept = arrays["reward"][row, :n].tolist()
        matching = [o for o in range(keep_every) if [r for e in episodes[o::keep_every] for r in e] == kept]
        assert len(matching) == 1, "exactly every k-th episode, whole, in order"
        offsets.add((history, matching[0]))
    assert len(offsets) == 9 * phases, "phases of one history differ"


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 4, 1), (2, 2, 2)])
def test_a_batch_is_the_same_on_one_device_and_on_eight(axes):
    histories = ragged(2, count=11)
    one, many = drawer(histories, SMALL, mesh_of()), drawer(histories, SMALL, mesh_of(*axes))
    for step in range(3):
        chex.assert_trees_all_equal(one(step), many(step))


def test_histories_are_split_and_drawing_moves_nothing_between_devices():
    mesh = mesh_of(8)
    resident = replay.load(numbered_histories(16, 20), GRID, SMALL, mesh)
    assert resident.steps["action"].addressable_shards[0].data.shape[0] == 1, "one group a device"
    sample = jax.jit(lambda r, key: replay.sample(r, key, GRID, SMALL, mesh))
    program = sample.lower(resident, jax.random.key(0)).compile().as_text()
    assert program and not any(
        name in program for name in ("all-gather", "all-to-all", "collective-permute", "all-reduce")
    )


def test_resident_arrays_are_narrow():
    resident = replay.load(numbered_histories(8, 20), GRID, SMALL, mesh_of())
    assert resident.steps["observation"].dtype == resident.steps["action"].dtype == np.uint8


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replay.Config(segment=21, batch=8), "replay.segment=21 steps is longer than a history"),
        (replay.Config(segment=5, batch=12), "positive multiple of replay.groups"),
        (replay.Config(segment=5, batch=64, groups=64), "cannot fill replay.groups=64"),
        (replay.Config(keep_every=2, phases=3), "1 <= phases <= keep_every"),
        (replay.Config(tail=0.0), "replay.tail is a share"),
        (replay.Config(tail=1.5), "replay.tail is a share"),
        (replay.Config(best=0.0), "replay.best is a share"),
        (replay.Config(best=1.5), "replay.best is a share"),
        (replay.Config(segment=5, batch=8, tail=0.2), "of the last 20% the shortest has 4. Lower"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(config, words):
    with pytest.raises(ConfigError, match=words):
        replay.load(numbered_histories(8, 20), GRID, config, mesh_of())


@pytest.mark.parametrize(("tail", "keep_every"), [(0.3, 1), (0.01, 1), (0.5, 3)])
def test_the_tail_is_the_episodes_that_end_in_the_last_steps_whole(tail, keep_every):
    histories = ragged(2)
    everything, all_lengths = replay.subsample(histories, replay.Config(keep_every=keep_every))
    arrays, lengths = replay.subsample(histories, replay.Config(tail=tail, keep_every=keep_every))
    done = histories.transition.done
    for row, (n, everywhere) in enumerate(zip(lengths, all_lengths, strict=True)):
        ends = np.flatnonzero(done[row]) + 1
        starts = [0, *ends[ends < 60]]
        first = max(start for start in starts if start == 0 or start <= (1 - tail) * 60)
        whole = everything["reward"][row, :everywhere]
        assert arrays["reward"][row, :n].tolist() == whole[whole % 1000 >= first].tolist()
    assert lengths.min() > 0 or keep_every > 1


@pytest.mark.parametrize(("field", "value"), [("reward", np.nan), ("reward", np.inf), ("observation", np.nan)])
def test_numbers_that_are_not_finite_are_refused_and_named(field, value):
    histories = numbered_histories(8, 20)
    t = histories.transition
    values = np.array(getattr(t, field), np.float32)
    values[5, 7] = value
    spoilt = dataclasses.replace(histories, transition=t.replace(**{field: values}))
    with pytest.raises(HistoryError, match=rf"{field} .* at step 7 of history 5 \(task task-5, seed 0, actor 0\)"):
        replay.load(spoilt, GRID, SMALL, mesh_of())


def test_subsampled_versions_know_the_history_that_they_are_of():
    config = replay.Config(keep_every=2, phases=2, segment=5, batch=16, groups=4, best=0.5)
    base = numbered_histories(8, 40)
    resident = replay.load(dataclasses.replace(base, task_ids=["a", "b"] * 4), GRID, config, mesh_of())
    of_rewards = resident.steps["reward"][..., 1] // 1000  # rewards are history * 1000 + time
    np.testing.assert_array_equal(np.asarray(resident.history)[:, :2], of_rewards[:, :2])
    assert sorted(np.unique(resident.history)) == [4, 5, 6, 7], "those that earn most"


@pytest.mark.parametrize(("best", "kept"), [(0.4, 2), (0.1, 1), (1.0, 4), (0.5, 2)])
def test_of_each_task_the_histories_that_end_best_are_kept(best, kept):
    """Four histories of each of three tasks. What they earn before their last tenth says the opposite."""
    base, rng = numbered_histories(12, 20), np.random.default_rng(0)
    final_return = rng.permutation(12) + 1.0
    reward = np.tile(100 - final_return[:, None], (1, 20))
    reward[:, 16:] = final_return[:, None]  # the last of five episodes, the one that ends in the last two steps
    ids = [f"task-{i}" for i in rng.permutation(np.repeat(np.arange(3), 4))]
    histories = dataclasses.replace(base, transition=base.transition.replace(reward=reward), task_ids=ids)
    config = replay.Config(segment=5, batch=3, groups=3, best=best)
    resident = replay.load(histories, GRID, config, mesh_of(1))
    expected = {x for t in set(ids) for x in sorted(final_return[[i == t for i in ids]])[-kept:]}
    assert set(np.unique(resident.steps["reward"][..., -1])) - {0.0} == expected
    assert int(resident.count.sum()) == len(expected) == 3 * kept == 3 * config.kept_of(4)
    observed = {
        int(row[-1, 0]) for group in np.asarray(resident.steps["observation"]) for row in group if row[-1].any()
    }
    assert observed == {int(np.flatnonzero(final_return == x)[0]) % 9 for x in expected}, (
        "whole histories move together"
    )


def of_lengths(lengths, steps=200):
    """Histories of reward 1 a step, whose episodes have `lengths [H]` steps each."""
    histories = numbered_histories(len(lengths), steps)
    ends = (np.arange(steps) + 1) % np.array(lengths)[:, None] == 0
    t = histories.transition.replace(reward=np.ones((len(lengths), steps), np.float32), truncated=ends)
    return dataclasses.replace(histories, transition=t, task_ids=["one"] * len(lengths))


def test_histories_are_ranked_by_their_episodes_and_not_by_reward_per_step():
    """All earn 1 a step; those are best whose last episodes are long."""
    histories = of_lengths([10, 10, 100, 100])
    t = histories.transition
    np.testing.assert_array_equal(replay.final_return(t.reward, t.done), [10, 10, 100, 100])
    config = replay.Config(segment=5, batch=2, groups=2, best=0.5)
    resident = replay.load(histories, GRID, config, mesh_of(1))
    assert sorted(np.unique(resident.history)) == [2, 3]


def test_the_end_is_what_ended_there():
    reward, done = np.arange(40.0).reshape(1, 40), np.zeros((1, 40), bool)

    def of(*ends):
        return replay.final_return(reward, np.isin(np.arange(40)[None], np.array(ends) - 1))[0]

    assert replay.final_return(reward, done)[0] == reward.sum(), "never: all that was earned"
    assert of(10, 38, 40) == (reward[0, 10:40].sum()) / 2
    assert of(10, 36, 40) == reward[0, 36:40].sum(), "the last tenth is the last four steps"
    assert of(10, 30) == reward[0, 10:30].sum(), "none there: the last one"
    assert of(30) == reward[0, :30].sum()


def test_the_tail_is_a_share_of_the_steps():
    """A learner whose episodes grow: its last tenth of 8,000 steps is 8 of its 320 episodes, and not 32."""
    lengths = [20] * 300 + [100] * 20
    histories = of_lengths([8000], 8000)
    ends = np.isin(np.arange(8000) + 1, np.cumsum(lengths))[None]
    histories = dataclasses.replace(histories, transition=histories.transition.replace(truncated=ends))
    arrays, (length,) = replay.subsample(histories, replay.Config(tail=0.1))
    assert (length, (arrays["ends"] != 0).sum()) == (800, 8)
    assert replay.subsample(histories, replay.Config(tail=0.101))[1] == [900], "the one that ends in it, whole"


def test_groups_must_divide_over_the_mesh():
    with pytest.raises(ConfigError, match=r"replay.groups=4 cannot be split over 8 devices"):
        replay.load(numbered_histories(8, 20), GRID, replay.Config(segment=5, batch=8, groups=4), mesh_of(8))
