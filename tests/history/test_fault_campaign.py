"""Random single faults over a collection of histories: each is detected and named, or harmless; none is silent.

Harmless is what reads bit for bit as before: a file beside ours, a swap of equal files, or an array file that differs
only in the rows that pad the last chunk, which no read returns.
"""

import collections
import pathlib
import random

import faults
import pytest
from history_helpers import assert_same, collect, files, manifest

from ad_jax.errors import HistoryError
from ad_jax.history.store import open_store, verify

SMALL = {"histories": 5, "chunk_histories": 2, "steps": 3, "task_leaves": {"goal": {"shape": [2], "dtype": "int32"}}}


def names_it(message: str, fault: faults.Fault) -> bool:
    """Whether one of the files that a fault touched is in the message; a lost ledger entry is a chunk not collected."""
    for name in fault.files:
        chunk = int(name.removeprefix("ledger/").removesuffix(".json")) if name.startswith("ledger/0") else None
        if name in message or (chunk is not None and f"chunks {chunk} of 3 are not in the ledger" in message):
            return True
    return False


def outcome(path: pathlib.Path, fault: faults.Fault) -> str:
    """Return what reading gives: "detected" by name, or "harmless"; wrong data or another error is a failure of the
    test.
    """
    try:
        found = open_store(path).read()
    except HistoryError as error:
        message = str(error)
        if not names_it(message, fault):
            pytest.fail(f"{fault.kind} of {list(fault.files)}: not named in: {message}")
        return "detected"
    assert_same(found, manifest(**SMALL))
    return "harmless"


def campaign(path: pathlib.Path, count: int, seed: int) -> collections.Counter:
    """Outcomes of `count` faults by kind."""
    collect(path, manifest(**SMALL))
    sound, rng, seen = files(path), random.Random(seed), collections.Counter()
    for _ in range(count):
        fault = faults.draw(rng, sound)
        fault.apply(path)
        try:
            result = outcome(path, fault)
        finally:
            fault.undo(path, sound)
        seen[fault.kind, result] += 1
    assert files(path) == sound
    assert verify(path) == []
    return seen


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_fault_is_detected_and_named_or_harmless(tmp_path, record_property, count):
    seen = campaign(tmp_path / "x", count, seed=count)
    assert {kind for kind, _ in seen} == faults.KINDS.keys()
    assert sum(seen.values()) == count
    detected = sum(n for (_, result), n in seen.items() if result == "detected")
    record_property("detected", detected)
    print(f"{count} faults: {detected} detected and named, {count - detected} harmless, 0 silent; {dict(seen)}")
    assert detected > 0.85 * count
    assert seen["flip", "harmless"] == seen["cut", "harmless"] == seen["delete", "harmless"] == 0


def test_a_reader_that_checks_nothing_would_fail_the_campaign(tmp_path, monkeypatch):
    """The campaign can fail: without the content checksums it finds what is read in another's place."""
    monkeypatch.setattr("ad_jax.history.store._crc", lambda array: "crc32:00000000")
    with pytest.raises(AssertionError):
        campaign(tmp_path / "x", 400, seed=400)
