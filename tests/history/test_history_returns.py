"""What a collection's source earned: what a plain count over the histories that are read back gives."""

import hashlib
import pathlib
from typing import Any

import collect_helpers
import history_helpers
import jax
import numpy as np
import pytest
from helpers import mesh_of
from history_helpers import files, histories, manifest, refused

from ad_jax import sources
from ad_jax.__main__ import main
from ad_jax.history import sealed
from ad_jax.history.info import info
from ad_jax.history.returns import check, of_chunk, pool
from ad_jax.history.store import HistoryWriter, open_store
from ad_jax.text import number
from ad_jax.types import Transition

FAMILY, TASKS = collect_helpers.PARTS.family, collect_helpers.TASKS
ACTORS = 3


def ragged(seed: int, rows=12, steps=57, longest=9) -> Transition:
    """Histories whose episodes have all lengths up to `longest` and end for both reasons; whole rewards."""
    rng = np.random.default_rng(seed)
    terminated, truncated = np.zeros((2, rows, steps), bool)
    for row in range(rows):
        ends = np.cumsum(rng.integers(1, longest + 1, steps))
        for end in ends[ends <= steps] - 1:
            (terminated if rng.random() < 0.5 else truncated)[row, end] = True
    reward = rng.integers(-100, 100, (rows, steps)).astype(np.int8)
    nothing = np.zeros((rows, steps), np.uint8)
    return Transition(nothing, nothing, reward, terminated, truncated)


def plain(t: Transition, row: int) -> list[tuple[int, float]]:
    """Tenth and return of the finished episodes of one history, the plain way."""
    steps, total, found = t.reward.shape[1], 0.0, []
    tenths = [k for k, part in enumerate(np.array_split(np.arange(steps), 10)) for _ in part]
    for time in range(steps):
        total += float(t.reward[row, time])
        if t.terminated[row, time] or t.truncated[row, time]:
            found.append((tenths[time], total))
            total = 0.0
    return found


def mean(values) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None


def plain_by_tenth(t: Transition, rows) -> list[float | None]:
    found = [one for row in rows for one in plain(t, row)]
    return [mean(value for tenth, value in found if tenth == k) for k in range(10)]


@pytest.mark.parametrize(("seed", "steps", "longest"), [(0, 57, 9), (1, 200, 9), (2, 57, 50), (3, 57, 57), (4, 7, 3)])
def test_an_episode_counts_in_the_tenth_it_ends_in(seed, steps, longest):
    """Also where a border cuts it, where it is longer than a tenth, and where there are fewer steps than tenths."""
    t = ragged(seed, steps=steps, longest=longest)
    chunk = of_chunk(t, ACTORS, longest, None, None)
    found = pool([chunk], [12])
    assert found.by_tenth == plain_by_tenth(t, range(12))
    assert found.final == found.by_tenth[-1]
    assert sum(chunk["episodes"]) == sum(len(plain(t, row)) for row in range(12)) > 0
    best = [(plain_by_tenth(t, range(actor, 12, ACTORS))[-1], actor) for actor in range(ACTORS)]
    value, actor = max((pair for pair in best if pair[0] is not None), default=(None, None))
    assert found.best_actor == (None if actor is None else (actor, value))


def test_pooled_chunks_are_the_whole():
    t, optimal, random = ragged(5), np.arange(12.0) + 1, np.arange(12.0) / 8

    def part(a, b):
        return of_chunk(jax.tree.map(lambda x: x[a:b], t), 3, 9, optimal[a:b], random[a:b])

    whole: Any = pool([part(0, 12)], [12])
    assert pool([part(0, 6), part(6, 9), part(9, 12)], [6, 3, 3]) == whole
    last = [sum(tenth == 9 for tenth, _ in plain(t, row)) for row in range(12)]
    assert whole.optimal == pytest.approx(np.average(optimal, weights=last)), "of the episodes that `final` is of"
    assert whole.random == pytest.approx(np.average(random, weights=last))
    assert whole.share(whole.final) == (whole.final - whole.random) / (whole.optimal - whole.random)
    assert pool([part(0, 6), None], [6, 6]) is pool([], []) is None


def test_what_is_not_known_or_has_no_share_is_left_out():
    t = ragged(6)
    unknown = pool([of_chunk(t, 1, 9, None, None)], [12])
    assert (unknown.optimal, unknown.random, unknown.share(3.0), unknown.best_actor) == (None,) * 4
    assert unknown.facts() == {"source_return": unknown.final}
    assert "optimum not known" in dict(unknown.lines())["at the end"]
    costs: Any = pool([of_chunk(t, 1, 9, np.full(12, -100.0), np.full(12, -200.0))], [12])
    assert costs.facts()["share_of_optimal"] == (costs.final + 200) / 100
    assert "% of the way from random" in dict(costs.lines())["at the end"]
    equal = pool([of_chunk(t, 1, 9, np.full(12, 2.0), np.full(12, 2.0))], [12])
    assert equal.share(2.0) is None and "%" not in dict(equal.lines())["at the end"]
    endless = t.replace(terminated=np.zeros_like(t.terminated), truncated=np.zeros_like(t.terminated))
    none = pool([of_chunk(endless, 3, 57, None, None)], [12])
    assert (none.by_tenth, none.best_actor) == ([None] * 10, None)
    broken = t.replace(reward=np.where(t.reward > 90, np.nan, t.reward))
    assert any(x is None for x in of_chunk(broken, 1, 9, None, None)["earned"]), "JSON knows no NaN"


# Through the ledger.


def direct(h, actors: int) -> tuple:
    """From histories that were read back."""
    everyone = range(len(h.task_ids))
    rows = {task_id: i for i, task_id in enumerate(collect_helpers.IDS)}

    def known(values):
        return float(np.mean([values[rows[task_id]] for task_id in h.task_ids]))

    last = [plain_by_tenth(h.transition, [row for row in everyone if h.actor[row] == k])[-1] for k in range(actors)]
    return (
        plain_by_tenth(h.transition, everyone),
        known(FAMILY.optimal_return(TASKS)),
        known(FAMILY.random_return(TASKS)),
        None if actors == 1 else max(last),  # pyright: ignore[reportArgumentType]  # None raises
    )


@pytest.fixture(scope="module", params=["q_learning", "actor_critic"])
def collector(request):
    """Of one actor, and of three whose unrolls do not divide an episode."""
    if request.param == "q_learning":
        return collect_helpers.collector_of(mesh_of(), 4)
    config = sources.make("actor_critic", collect_helpers.ACTORS)
    return collect_helpers.collector_of(mesh_of(), 4, config.make(FAMILY))


@pytest.fixture(scope="module")
def collected(collector, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("returns")
    collect_helpers.run(folder, collector)
    return folder / "h"


def test_the_returns_are_those_of_the_histories_that_are_read_back(collector, collected):
    store = open_store(collected)
    found, actors = store.returns, collector.source.actors
    by_tenth, optimal, random, best = direct(store.read(), actors)
    assert found.by_tenth == by_tenth
    assert found.final == by_tenth[-1] > 0
    assert found.optimal == pytest.approx(optimal, rel=1e-12)
    assert found.random == pytest.approx(random, rel=1e-12)
    assert (found.best_actor is None) == (best is None) == (actors == 1)
    if best is not None:
        assert found.best_actor[1] == best >= found.final


def test_resumed_and_other_chunks_give_the_same_returns(collector, collected, tmp_path, monkeypatch):
    whole, original = open_store(collected).returns, HistoryWriter.write

    def stop_before_the_last(writer, chunk, *rest):
        if chunk == 2:
            writer.flush()
            raise KeyboardInterrupt
        original(writer, chunk, *rest)

    monkeypatch.setattr(HistoryWriter, "write", stop_before_the_last)
    with pytest.raises(KeyboardInterrupt):
        collect_helpers.run(tmp_path, collector)
    part = open_store(tmp_path / "h", allow_partial=True)
    assert part.returns.by_tenth == plain_by_tenth(part.read().transition, range(8 * collector.source.actors))
    monkeypatch.undo()
    collect_helpers.run(tmp_path, collector)
    assert files(tmp_path / "h") == files(collected)
    assert open_store(tmp_path / "h").returns == whole
    other = collect_helpers.collector_of(mesh_of(), 64, collector.source)
    collect_helpers.run(tmp_path / "other", other)
    found = open_store(tmp_path / "other/h").returns
    assert found.by_tenth == whole.by_tenth
    assert found.best_actor == whole.best_actor


def test_writers_side_by_side_give_the_same_returns(tmp_path):
    """Two open the collection before either has finished a chunk; neither sees the other's."""
    m, path = manifest(), tmp_path / "x"
    chunks = [of_chunk(ragged(k, rows=m.rows(k)[1] - m.rows(k)[0]), 2, 9, None, None) for k in range(3)]
    one, other = HistoryWriter.open(path, m), HistoryWriter.open(path, m)
    for writer, chunk in ((one, 2), (other, 1), (one, 0)):
        writer.write(chunk, histories(m, chunk), chunks[chunk])
        writer.flush()
    assert open_store(path).returns == pool(chunks, [4, 4, 2])


def test_collections_of_earlier_versions_open_and_say_that_nothing_was_recorded(tmp_path):
    """Their ledger is what is written without returns: this is the digest of what the version before wrote."""
    history_helpers.collect(tmp_path / "old", manifest())
    ledger = b"".join(raw for name, raw in files(tmp_path / "old").items() if name.startswith("ledger"))
    assert hashlib.sha256(ledger).hexdigest() == "88826a6f542c40c5adca3bc15d8964df9b1434a4ea0ea725f8a5174b5fc3bb0a"
    assert open_store(tmp_path / "old").returns is None
    assert open_store(tmp_path / "old").verify() == []
    assert "at the end    not recorded: an earlier version" in info(tmp_path / "old")
    (tmp_path / "old/ledger/000001.json").unlink()
    with HistoryWriter.open(tmp_path / "old", manifest()) as writer:  # gone on with by this version
        writer.write(1, histories(manifest(), 1), of_chunk(ragged(0, rows=4), 2, 9, None, None))
    assert open_store(tmp_path / "old").returns is None
    assert "not recorded" in info(tmp_path / "old")


def test_returns_of_another_form_are_refused(tmp_path):
    m = manifest()
    good = of_chunk(ragged(0, rows=4), 2, 9, np.ones(4), None)
    check(good, 2, "good")
    wrong = [
        good | {"optimal": "x"},
        good | {"optimal": float("inf")},
        good | {"earned": good["earned"][1:]},
        good | {"episodes": [-1] * 10},
        good | {"episodes": [0.5] * 10},
        good | {"last_by_actor": {"episodes": [1], "earned": [1.0]}},
        good | {"last_by_actor": []},
        good | {"extra": 1},
        {},
        7,
    ]
    with HistoryWriter.open(tmp_path, m) as writer:
        for bad in wrong:
            refused(lambda bad=bad: writer.write(0, histories(m, 0), bad), "chunk 0", "returns")
        writer.write(0, histories(m, 0), good)
    file = tmp_path / "ledger/000000.json"
    entry = sealed.unseal(file.read_bytes(), "", "")
    for bad in [*wrong, None]:
        if bad != wrong[1]:  # no JSON
            file.write_bytes(sealed.seal(entry | {"returns": bad}))
            refused(lambda: open_store(tmp_path, allow_partial=True), "ledger/000000.json", "only chunk 0")


# In words.


def test_info_says_how_far_the_source_came(collector, collected, capsys):
    assert main(["histories", "info", str(collected)]) == 0
    shown = capsys.readouterr().out
    found: Any = open_store(collected).returns
    percent = f"{100 * (found.final - found.random) / (found.optimal - found.random):.0f} % of the way from random"
    wanted = (
        f"at the end    mean return per episode {number(found.final)} of {number(found.optimal)} possible ({percent})"
    )
    assert f"{wanted}; random policy {number(found.random)}\n" in shown
    assert "by tenth      " + " ".join(map(number, found.by_tenth)) in shown
    assert ("best actor" in shown) == (collector.source.actors > 1)
    if found.best_actor:
        assert f"best actor    {number(found.best_actor[1])} (" in shown
        assert f" % of the way from random), actor {found.best_actor[0]} of 0 to 2\n" in shown


def test_info_of_a_collection_without_a_chunk_has_nothing_to_log(tmp_path):
    HistoryWriter.open(tmp_path, manifest())
    assert "at the end    -\n" in info(tmp_path)


def test_a_source_that_is_optimal_has_all_of_its_optimum_whatever_its_episodes_last():
    """Twelve episodes of 5 steps at 1.0 beside one of 60 at 0.2: of both, the optimum of the same episodes."""
    done, reward = np.zeros((2, 60), bool), np.zeros((2, 60), np.float32)
    done[0, 4::5] = done[1, 59] = True
    reward[0, 4::5], reward[1, 59] = 1.0, 0.2
    nothing = np.zeros((2, 60), np.uint8)
    t = Transition(nothing, nothing, reward, done, np.zeros_like(done))
    found = pool([of_chunk(t, 1, 60, np.array([1.0, 0.2]), np.zeros(2))], [2])
    assert found.share(found.final) == pytest.approx(1.0)
