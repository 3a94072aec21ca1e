"""Rotation: who is resident depends on the update alone, all are there equally often, and waiting changes nothing."""

import collections
import dataclasses
import re
import threading
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import GRID, mesh_of, numbered_histories, trainer_of
from history_helpers import stored

from ad_jax.checkpoint import checkpoint
from ad_jax.errors import ConfigError, HistoryError, TrainingDivergedError
from ad_jax.history import replay, streaming
from ad_jax.history.replay import RotationConfig
from ad_jax.history.store import HistoryStore
from ad_jax.history.streaming import Rotation
from ad_jax.methods.distillation import Distillation
from ad_jax.models.transformer import Transformer
from ad_jax.process import metrics, settings
from ad_jax.stage import train as train_lib

COUNT, STEPS, CHUNK = 52, 24, 5  # eleven chunks, the last one smaller
TURNS = RotationConfig(resident=16, parts=2, every=3, spread=2)  # 8 come and go, of 52
CONFIG = replay.Config(segment=8, batch=16, groups=4, rotation=TURNS)
TINY = Distillation(updates=20, warmup_updates=2, learning_rate=1e-2, updates_per_dispatch=4, checkpoint_every=5)
MODEL = Transformer(layers=1, width=8, heads=1, mlp_width=8, window=6).make(GRID)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> HistoryStore:
    return stored(tmp_path_factory.mktemp("rotation") / "histories", numbered_histories(COUNT, STEPS), CHUNK)


def turns(**changes) -> replay.Config:
    return dataclasses.replace(CONFIG, rotation=dataclasses.replace(TURNS, **changes))


def rotating(store, config=CONFIG, mesh=None, seed=0, **options) -> Rotation:
    return Rotation(store, GRID, config, mesh or mesh_of(), seed, **options)


def go_around(residents: Rotation) -> None:
    for step in range(0, 60, 3):
        residents.at(step)


def resident(store, config, step: int) -> list[int]:
    """Numbers of the residents of the update after `step`, ascending."""
    with rotating(store, config) as residents:
        return sorted(np.asarray(residents.at(step).history).reshape(-1).tolist())


@pytest.mark.parametrize("spread", [1, 2, 7, None])
@pytest.mark.parametrize(("size", "parts"), [(16, 2), (16, 4), (48, 3)])
def test_every_history_is_resident_equally_often(store, size, parts, spread):
    """Once around, or as often around as the parts need to come out even."""
    config = turns(resident=size, parts=parts, spread=spread)
    around = np.lcm(COUNT, size // parts) // (size // parts)
    seen, apart = collections.Counter(), 0
    with rotating(store, config) as residents:
        for period in range(around):
            seen.update(np.asarray(residents.at(period * TURNS.every).history).reshape(-1).tolist())
            apart = max(apart, max(seen.values()) - (min(seen.values()) if len(seen) == COUNT else 0))
    assert set(seen) == set(range(COUNT))
    assert set(seen.values()) == {around * size // COUNT}
    assert apart <= parts + around * size // COUNT


def test_a_resident_is_drawn_as_often_as_any_other(store):
    """Every group holds equally many, so every resident has the same chance in every update."""
    with rotating(store) as residents:
        held = residents.at(0)
        assert set(np.asarray(held.count)) == {TURNS.resident // CONFIG.groups}
        sample = jax.jit(lambda key: replay.sample(held, key, GRID, CONFIG, mesh_of()).steps.prev_reward[:, -1])
        rewards = [np.asarray(sample(jax.random.key(i))) for i in range(200)]  # each is history * 1000 + time
        times = collections.Counter((np.concatenate(rewards) // 1000).tolist())
    expected = 200 * CONFIG.batch / TURNS.resident
    assert len(times) == TURNS.resident
    assert all(abs(n - expected) < 6 * expected**0.5 for n in times.values())


def test_residents_are_the_histories_themselves(store):
    """What lies on the devices is, field by field, what `load` puts there of the same histories."""
    whole = replay.load(store.read(), GRID, dataclasses.replace(CONFIG, rotation=None), mesh_of())
    where = {int(h): (g, m) for (g, m), h in np.ndenumerate(np.asarray(whole.history)) if whole.length[g, m]}
    with rotating(store) as residents:
        for step in (0, 3, 30):
            held = residents.at(step)
            for (g, m), history in np.ndenumerate(np.asarray(held.history)):
                there = where[int(history)]
                for name in ("observation", "action", "reward", "ends", "length"):
                    np.testing.assert_array_equal(held.fields()[name][g, m], whole.fields()[name][there], name)


def test_a_part_comes_and_the_oldest_part_goes(store):
    before, same, after = (resident(store, CONFIG, step) for step in (0, 2, 3))
    assert before == same, "nothing moves between swaps"
    assert len(set(before) & set(after)) == len(set(after) - set(before)) == TURNS.resident // TURNS.parts


def test_the_residents_of_an_update_do_not_depend_on_the_way_to_it(store):
    with rotating(store) as residents:
        onward = {step: jax.device_get(residents.at(step)) for step in range(0, 60, 2)}
        for step in (58, 4, 6, 50, 0):  # back and forth, by more and by less than there are parts
            chex.assert_trees_all_equal(onward[step], jax.device_get(residents.at(step)))
    with rotating(store, seed=1) as residents:
        assert (np.asarray(residents.at(0).history) != onward[0].history).any(), "the seed draws the order"


def test_residents_are_of_all_chunks_where_shards_are_as_small(store):
    """Eleven chunks of five: a third of the collection holds three or four whole ones, or a row of nearly each."""

    def chunks(config, step):
        return {number // CHUNK for number in resident(store, config, step)}

    assert {len(chunks(turns(spread=1), step)) for step in (0, 9, 21)} < set(range(3, 7))
    assert {len(chunks(turns(spread=5), step)) for step in (0, 9, 21)} <= {10, 11}
    # Two of some, one of others.
    assert {len(chunks(turns(spread=None), step)) for step in (0, 9, 21)} <= {8, 9, 10, 11}


@pytest.mark.parametrize("axes", [(4, 1, 1), (2, 2, 2)])
def test_eight_devices_hold_what_one_holds_and_a_swap_moves_nothing_between_them(store, axes):
    with rotating(store) as one, rotating(store, mesh=mesh_of(*axes)) as many:
        for step in (0, 4, 17):
            chex.assert_trees_all_equal(*map(jax.device_get, (one.at(step), many.at(step))))
        held, part = many.at(20), many._part(3)
        text = many._insert.lower(held, part, jnp.int32(0)).compile().as_text()
        shard = held.steps["action"].addressable_shards[0].data.shape
    assert shard == (4 // (axes[0] * axes[1]), 4, 1 + STEPS)
    assert not any(name in text for name in ("all-gather", "all-to-all", "collective-permute", "all-reduce"))


def test_a_swap_is_compiled_once_and_in_place(store):
    with rotating(store) as residents:
        residents.at(0)
        compiled = residents._insert._cache_size()
        places = {residents.at(step).steps["reward"].unsafe_buffer_pointer() for step in range(0, 60, 3)}
        assert residents._insert._cache_size() == compiled
    assert len(places) == 1, "the residents are never in memory twice"


def train(folder, residents, config=TINY, updates=None, **options):
    """Return `updates` in one go, with the sizes of `config`'s schedule; the trained parameters and the log."""
    compiled = dataclasses.replace(TINY, updates_per_dispatch=config.updates_per_dispatch)  # all that a program knows
    trainer = trainer_of(MODEL, GRID, compiled, CONFIG, mesh_of(), seed=1)
    log = metrics.MetricsLog(folder, metrics.Config())
    meta = {"architecture": checkpoint.architecture_of(trainer.abstract_state.params)}
    result = train_lib.train(trainer, residents, config, folder / "checkpoints", meta, log, **options)
    return jax.device_get(result.params), (folder / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def undisturbed(store, tmp_path_factory):
    with rotating(store) as residents:
        trained = train(tmp_path_factory.mktemp("undisturbed"), residents)
        assert residents.facts()["swaps"] == (TINY.updates - 1) // TURNS.every
    return trained


class Slow:
    """A collection whose chunks come a while after training waits for them, however slow training is."""

    def __init__(self, store: HistoryStore):
        self.store, self.awaited = store, threading.Event()
        self.awaited.set()

    def __getattr__(self, name):
        return getattr(self.store, name)

    def read(self, chunks):
        assert self.awaited.wait(60)
        return self.store.read(chunks)

    def between(self, residents, monkeypatch):
        """Let chunks come only 0.06 s after `residents` are asked for others than before."""
        get = residents.at

        def at(step):
            if step and step % TURNS.every == 0:
                threading.Timer(0.06, self.awaited.set).start()
            found = get(step)
            self.awaited.clear()
            return found

        monkeypatch.setattr(residents, "at", at)


def same(trained, other) -> None:
    chex.assert_trees_all_equal(trained[0], other[0])
    assert trained[1] == other[1], "the log"


def test_a_slow_disk_changes_no_bit_and_the_waiting_is_counted(store, undisturbed, tmp_path, monkeypatch):
    slow = Slow(store)
    with rotating(slow) as residents:
        slow.between(residents, monkeypatch)
        same(undisturbed, train(tmp_path, residents))
        facts = residents.facts()
        slow.awaited.set()  # for what is read ahead and never used
    assert 0 < facts["swaps_waited"] <= facts["swaps"] == 6
    assert facts["waited_seconds"] > 0.05
    told = streaming.summary(facts, TINY.updates, 100.0)
    assert told.startswith(f"6 swaps; {facts['swaps_waited']} of 20 updates waited for histories (")


def test_what_is_read_in_time_is_not_waited_for(store):
    with rotating(store) as residents:
        for step in range(0, 30, 3):
            residents.at(step)
            while not all(future.done() for future in residents._ahead):
                time.sleep(0.001)
        facts = residents.facts()
    assert facts.pop("reading_seconds") > 0
    assert facts == {"swaps": 9, "swaps_waited": 0, "waited_seconds": 0.0}


@pytest.mark.parametrize("dispatch", [1, pytest.param(3, marks=pytest.mark.slow), 50])
def test_dispatches_of_any_length_end_alike(store, undisturbed, tmp_path, dispatch):
    config = dataclasses.replace(TINY, updates_per_dispatch=dispatch)
    with rotating(store) as residents:
        chex.assert_trees_all_equal(undisturbed[0], train(tmp_path, residents, config)[0])


def test_an_interrupted_training_goes_on_with_the_residents_that_it_had(store, undisturbed, tmp_path):
    class KilledError(Exception):
        pass

    def killed(_):
        raise KilledError

    config = dataclasses.replace(TINY, evaluate_every=13)  # dies between two checkpoints, and between two swaps
    with rotating(store) as residents, pytest.raises(KilledError):
        train(tmp_path, residents, config, evaluate=killed)
    with rotating(store) as residents:
        parameters, _ = train(tmp_path, residents, config)
    chex.assert_trees_all_equal(undisturbed[0], parameters)


def test_rolling_back_brings_the_residents_back(store, tmp_path, monkeypatch):
    """Update 14 diverges after swaps since checkpoint 10; it is left out, as in a training that never drew it."""
    config = dataclasses.replace(TINY, skip_updates=1)
    real, spoilt = train_lib.not_finite, []

    def once(loss, norm, step):
        if step < 14 <= step + len(loss) and not spoilt:
            spoilt.append(step)
            return train_lib.Bad(14, "update 14: loss nan")
        return real(loss, norm, step)

    monkeypatch.setattr(train_lib, "not_finite", once)
    with rotating(store) as residents:
        rolled_back, _ = train(tmp_path / "one", residents, config)
    assert spoilt == [12]
    monkeypatch.undo()
    until = train_lib.until
    monkeypatch.setattr(train_lib, "until", lambda step, c, periods, _: until(step, c, periods, [14]))
    with rotating(store) as residents:
        never, _ = train(tmp_path / "other", residents, config)
    chex.assert_trees_all_equal(never, rolled_back)


def test_a_diverged_update_names_histories_that_were_resident(store, tmp_path, monkeypatch):
    def bad(loss, norm, step):
        return train_lib.Bad(8, "update 8: loss nan") if step >= 6 else None

    monkeypatch.setattr(train_lib, "not_finite", bad)
    with rotating(store) as residents, pytest.raises(TrainingDivergedError, match="update 8") as error:
        train(tmp_path, residents)
    named = re.search(r"histories ([\d, ]+)", str(error.value))
    assert named is not None
    assert {int(number) for number in named[1].split(",")} <= set(resident(store, CONFIG, 7))


def test_versions_labels_tails_and_the_best_take_turns_too(tmp_path):
    base = numbered_histories(COUNT, STEPS)
    histories = dataclasses.replace(base, task_ids=[f"task-{row // 4}" for row in range(COUNT)])
    store = stored(tmp_path / "histories", histories, CHUNK)
    config = turns(resident=16, parts=2)
    config = dataclasses.replace(config, keep_every=2, phases=2, segment=4, tail=0.7, best=0.5)

    def prepare(h):
        return {"label": (h.transition.action + h.transition.observation[..., 0]) % 5}

    whole = replay.load(histories, GRID, dataclasses.replace(config, rotation=None), mesh_of(), prepare=prepare)

    def version(r, g, m):
        return (int(r.history[g, m]), *np.asarray(r.steps["reward"][g, m]).tolist())

    steps, labels = int(whole.length.max()), np.asarray(whole.steps["label"])
    there = {version(whole, *at): at for at, n in np.ndenumerate(np.asarray(whole.length)) if n}
    seen = collections.Counter()
    with rotating(store, config, prepare=prepare) as residents:
        assert residents.histories == len(there) == COUNT
        for period in range(13):  # 52 versions in parts of 8
            held = residents.at(period * TURNS.every)
            assert held.steps["reward"].shape == (4, 4, 1 + steps)
            for at_here in np.ndindex(4, 4):
                at = there[version(held, *at_here)]
                seen[version(held, *at_here)] += 1
                np.testing.assert_array_equal(np.asarray(held.steps["label"])[at_here], labels[at])
    assert seen == dict.fromkeys(there, 4)


def test_histories_of_unequal_length_are_padded_alike(tmp_path):
    base, rng = numbered_histories(COUNT, STEPS), np.random.default_rng(0)
    done = rng.random((COUNT, STEPS)) < 0.3
    transition = base.transition.replace(truncated=done)
    store = stored(tmp_path / "histories", dataclasses.replace(base, transition=transition), CHUNK)
    config = dataclasses.replace(turns(), keep_every=2, segment=1)
    length = replay.lengths(done, config)
    assert len({length[first : first + CHUNK].max() for first in range(0, COUNT, CHUNK)}) > 2
    with rotating(store, config) as residents:
        for step in (0, 12, 30):
            held = residents.at(step)
            assert held.steps["reward"].shape[2] == 1 + length.max()
            np.testing.assert_array_equal(held.length, length[np.asarray(held.history)])


def test_damage_that_comes_up_in_training_is_named_and_ends_it(tmp_path):
    store = stored(tmp_path / "histories", numbered_histories(COUNT, STEPS), CHUNK)
    with rotating(store) as residents:
        residents.at(0)
        last = residents._ring.shards[-1][0]
        file = tmp_path / "histories" / "arrays" / "reward" / "c" / str(last) / "0"
        file.write_bytes(file.read_bytes()[:-7])
        with pytest.raises(HistoryError, match=rf"arrays/reward/c/{last}/0 \(chunk {last}, reward\)"):
            go_around(residents)


def test_numbers_that_are_not_finite_are_named_by_their_place_in_the_collection(tmp_path):
    base = numbered_histories(COUNT, STEPS)
    reward = np.array(base.transition.reward)
    reward[31, 7] = np.nan
    store = stored(tmp_path, dataclasses.replace(base, transition=base.transition.replace(reward=reward)), CHUNK)
    with rotating(store) as residents, pytest.raises(HistoryError, match=r"step 7 of history 31 \(task task-31"):
        go_around(residents)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resident": 20}, r"multiple of replay.groups x replay.rotation.parts = 4 x 2; got 20. The nearest is 16"),
        ({"resident": 0}, r"positive multiple .*; got 0. The nearest is 8"),
        ({"parts": 0}, r"rotation.parts must be at least 1; got 0"),
        ({"every": 0}, r"rotation.every must be at least 1; got 0"),
        ({"spread": 0}, r"rotation.spread must be at least 1; got 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(store, changes, words):
    with pytest.raises(ConfigError, match=words):
        rotating(store, turns(**changes))
    with pytest.raises(ConfigError, match="longer than a history: after keeping"):
        rotating(store, dataclasses.replace(CONFIG, segment=STEPS + 1))


def test_the_reader_has_the_switches_of_the_package(store, monkeypatch):
    """JAX's are each thread's: what is set around the training does not reach the one that reads."""
    seen, put = [], streaming.put
    monkeypatch.setattr(streaming, "put", lambda *args: [seen.append(jax.config.jax_enable_x64), put(*args)][1])  # pyright: ignore[reportAttributeAccessIssue]
    before = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_x64", True)
    try:
        with settings.pinned(), rotating(store) as residents:
            residents.at(0)
    finally:
        jax.config.update("jax_enable_x64", before)
    assert seen and not any(seen)
