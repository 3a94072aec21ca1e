"""`ad-jax bench --peers`: two programs in turn, peers that are not there, names, and the table; no real peer is run."""

import json
import sys

import pytest

from ad_jax.__main__ import main
from ad_jax.bench.peers import install, run
from ad_jax.bench.peers.known import PEERS, Peer, Work, works
from ad_jax.errors import ConfigError

WORK = Work("steps/s", 100.0, ("rejax", "torch", "ad_eps"), {"kind": "nothing"})
# Says that a call has taken what its work says it takes, ten times as long the first time.
FAKE = """
import json, sys
from serving import serve

def make(work):
    print("what a library prints")
    calls = []
    def call():
        calls.append(1)
        if len(calls) == work.get("fails_at"):
            raise RuntimeError("no memory")
        return {"seconds": work["seconds"] * (10 if len(calls) == 1 else 1), "flops": 7}
    return call, {"library": "1.2"}

serve(make)
"""


@pytest.fixture
def fake(tmp_path):
    """`fake(seconds, **more)`: a program that takes so many seconds a call."""
    (tmp_path / "fake_worker.py").write_text(FAKE)

    def program(seconds, **more):
        command = [sys.executable, str(tmp_path / "fake_worker.py"), json.dumps({"seconds": seconds, **more})]
        return run.Program(command, {"PYTHONPATH": str(install.HERE / "programs")})

    return program


def measured(fake, others):
    def other(name, work):
        if isinstance(others[name], Exception):
            raise others[name]
        return others[name]

    return run.line("work", WORK, WORK.peers, lambda work: fake(0.5), other, budget=0.0)


def test_peers_take_turns_with_ours_and_those_that_fail_are_left_out_with_the_reason(fake):
    others = {
        "rejax": fake(1.0),
        "torch": install.MissingError("not installed: ERROR: No matching distribution"),
        "ad_eps": fake(1.0, fails_at=1),
    }
    line = measured(fake, others)
    cell = line.cells["rejax"]
    assert (line.ours, cell.value, cell.ratio, cell.low, cell.high, cell.pairs) == (200, 100, 2, 2, 2, 3)
    assert (line.first, cell.first) == (5, 10)
    assert cell.facts == {"flops": 7, "library": "1.2"}
    assert line.failed["torch"].startswith("not installed:")
    assert line.failed["ad_eps"] == "does not run: RuntimeError: no memory"
    table = run.table([line], WORK.peers)
    assert "2.00 (2.00 to 2.00; 100)" in table
    assert "0.50" in next(row for row in table.splitlines() if "first call" in row)
    assert "| not installed " in table
    assert "torch: not installed: ERROR: No matching distribution" in table


def test_a_peer_that_stops_halfway_is_left_out_and_the_rest_goes_on(fake):
    line = measured(fake, {"rejax": fake(1.0, fails_at=3), "torch": fake(0.25), "ad_eps": fake(2.0)})
    assert "no memory" in line.failed["rejax"]
    assert {name: cell.ratio for name, cell in line.cells.items()} == {"torch": 0.5, "ad_eps": 4}


def test_our_own_failure_is_an_error(fake):
    with pytest.raises(ConfigError, match="our side of 'work' does not run: RuntimeError: no memory"):
        run.line("work", WORK, ["rejax"], lambda work: fake(1.0, fails_at=1), lambda name, work: fake(1.0))


def test_an_unknown_peer_suggests_what_is_near(capsys):
    assert main(["bench", "--peers", "rejaks"]) == 2
    assert "unknown peer 'rejaks'. Did you mean 'rejax'?" in capsys.readouterr().err
    assert run.chosen([]) == [*PEERS]
    assert run.chosen(["torch", "rejax"]) == ["rejax", "torch"]


def test_other_measurements_are_not_mixed_with_those_of_peers(capsys):
    assert main(["bench", "--peers", "--torch"]) == 2
    assert "bench --peers measures others beside ours; got --torch" in capsys.readouterr().err


def test_what_cannot_be_cloned_or_installed_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("AD_JAX_PEERS", str(tmp_path / "cache"))
    with pytest.raises(install.MissingError, match=r"^not cloned: .*nowhere"):
        install.installed(Peer("torch", "torch_worker.py", (str(tmp_path / "nowhere"), "0" * 40)))
    monkeypatch.setattr(install, "HERE", tmp_path)
    (tmp_path / "odd.txt").write_text("a package that cannot be named so\n")
    with pytest.raises(install.MissingError, match=r"^not installed: "):
        install.installed(Peer("odd", "odd_worker.py"))


def test_every_line_names_known_peers_and_every_peer_has_its_files():
    for quick in (True, False):
        lines = works(quick)
        assert {name for work in lines.values() for name in work.peers} == set(PEERS)
    for peer in PEERS.values():
        assert (install.HERE / "programs" / peer.worker).is_file()
        assert all("==" in pin for pin in (install.HERE / f"{peer.environment}.txt").read_text().split())
