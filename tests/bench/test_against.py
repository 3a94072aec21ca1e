"""Two commits measured in turn: whose calls are timed when, what is paired with what, and what cannot be compared."""

import dataclasses
import json
import pathlib
import subprocess
import textwrap

import pytest

from ad_jax.__main__ import main
from ad_jax.bench import against, commits, worker
from ad_jax.bench.against import Pair
from ad_jax.bench.sizes import BRIEF, FULL, QUICK
from ad_jax.errors import ConfigError

# A package `ad_jax` with a suite of two calls, which writes down who was called when, and a command.
SUITE = {
    "ad_jax/__init__.py": "",
    "ad_jax/bench/__init__.py": "",
    "ad_jax/bench/sizes.py": """
        import dataclasses
        @dataclasses.dataclass(frozen=True)
        class Case:
            name: str
        @dataclasses.dataclass(frozen=True)
        class Sizes:
            cases: tuple
            matmul: int
        QUICK = Sizes((), 0)
        """,
    "ad_jax/bench/timing.py": """
        def measure(works, rounds, budget=0.0, at_least=3):
            raise AssertionError("nobody else times")
        """,
    "ad_jax/bench/limits.py": """
        import statistics, types
        from ad_jax.bench.timing import measure
        def call(name):
            with open(LOG, "a") as file:
                file.write(SIDE + " " + name + "\\n")
        def rows(sizes):
            print("not an answer")
            works = {name: types.SimpleNamespace(call=lambda name=name: call(name), amount=6.0) for name in NAMES}
            seconds = measure(works, 1)
            for name in NAMES:
                rate = 6.0 / statistics.median(seconds[name])
                yield types.SimpleNamespace(key=f"limits/{name} {sizes.matmul}", unit="calls/s", value=rate)
        """,
    "ad_jax/__main__.py": """
        import json, sys
        rows = [{"key": "k", "value": VALUE, "best": 1.0, "unit": "s", "share": 1.0, "limit": "", "rounds": 0}]
        results = {"kind": "bench", "schema": 1, "sizes": "", "seconds": 1.0, "load": [0.0], "provenance": {}}
        open(sys.argv[-1], "w").write(json.dumps(results | {"rows": rows}))
        assert sys.argv[1:-1] == ["bench", "--quick", "--only", "scaling", "--out"], sys.argv
        """,
}


def suite(tree: pathlib.Path, log: pathlib.Path, side: str, names: list[str], value: float) -> pathlib.Path:
    """Write the package into a folder."""
    known = f"LOG, SIDE, NAMES, VALUE = {str(log)!r}, {side!r}, {names!r}, {value}\n"
    for name, text in SUITE.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(known + textwrap.dedent(text))
    return tree


def test_two_commits_take_turns_and_every_row_is_paired(tmp_path, capfd):
    """Whoever began one pair of calls is second in the next; what one side lacks is timed alone, or not there."""
    log = tmp_path / "calls"
    new = suite(tmp_path / "new", log, "new", ["a", "b"], 3.0)
    old = suite(tmp_path / "old", log, "old", ["a", "c"], 6.0)
    (new / "ad_jax/bench/reinforcing.py").write_text("from ad_jax.bench.limits import rows")
    sizes = dataclasses.replace(QUICK, budget=0.0, matmul=7)
    found = list(against.pairs((new, old), ["limits", "rl2", "scaling"], sizes, ["--quick"]))
    calls = log.read_text().splitlines()
    assert sorted(calls[:4]) == ["new a", "new b", "old a", "old c"], "all are warm before any is timed"
    first, second = ["new a", "old a", "new b", "old c"], ["old a", "new a", "new b", "old c"]
    assert calls[4 : 4 + 3 * 4] == first + second + first
    pairs = {pair.key: pair for pair in found if pair.pairs or pair.key == "k"}
    assert set(pairs) == {"limits/a 7", "k"}, "rows at the sizes of this code"
    pair = pairs["limits/a 7"]
    assert pair.pairs == 3
    assert pair.low is not None and pair.high is not None and pair.ratio is not None
    assert 0 < pair.low <= pair.ratio <= pair.high
    assert pairs["k"] == Pair("k", "s", 3.0, 6.0, 0.5), "what is counted has no pairs"
    lines = [against.line(pair) for pair in found]
    assert sum("| new |" in line for line in lines) == 3 and sum("| gone |" in line for line in lines) == 1
    assert "does not make these rows of rl2: ModuleNotFoundError" in capfd.readouterr().out


def test_what_this_code_cannot_measure_is_an_error(tmp_path):
    tree = suite(tmp_path / "tree", tmp_path / "calls", "x", ["a"], 1.0)
    with pytest.raises(ConfigError, match="rotation of this code cannot be measured: expected rows, received Module"):
        list(against.pairs((tree, tree), ["rotation"], QUICK, []))
    (tree / "ad_jax/bench/sizes.py").write_text("import nothing_of_that_name")
    with pytest.raises(ConfigError, match=r"received: the process ended with 1: .*nothing_of_that_name.*Name a commit"):
        list(against.pairs((tree, tree), ["limits"], QUICK, []))


def test_rows_are_joined_by_the_ratios_of_their_pairs():
    """Not by the ratio of their medians: 2, 1, 4 and 1, 1, 2 of which each pair is 2, 1, 2."""

    def row(key, value, timed=None):
        return {"key": key, "unit": "x/s", "value": value, "timed": timed}

    new, old = [row("a", 2.0, [0, "p"]), row("b", 3.0), row("c", 1.0)], [row("a", 1.0, [0, "p"]), row("b", 2.0)]
    rates = {(0, "p"): [[2.0, 1.0, 4.0], [1.0, 1.0, 2.0]]}
    assert list(against.joined(new, [*old, row("d", 5.0)], rates)) == [
        Pair("a", "x/s", 2.0, 1.0, 2.0, 1.5, 2.0, 3),
        Pair("b", "x/s", 3.0, 2.0, 1.5),
        Pair("c", "x/s", 1.0, None),
        Pair("d", "x/s", None, 5.0),
    ]


def test_a_row_is_of_the_call_that_its_figure_comes_from():
    asked = worker.Asked(print, dict)
    asked.groups = [({"a": 6.0, "b": 6.0}, {"a": [1.0, 2.0, 3.0], "b": [4.0, 4.0, 9.0]})]
    assert asked.timed(3.0) == (0, "a") and asked.timed(1.5) == (0, "b") and asked.timed(2.0) is None


@pytest.mark.parametrize("sizes", [FULL, BRIEF])
def test_a_stage_is_measured_part_by_part(sizes):
    """Every learner count, model and so on once, one in a group of calls, and no compiling."""
    for stage, fields in against.PARTS.items():
        parts = list(against.narrowed(stage, sizes))
        wanted = [value for field in fields if field != "cases" for value in getattr(sizes, field)]
        found = [value for part in parts for field in fields if field != "cases" for value in getattr(part, field)]
        assert found == wanted
        assert not any(case.compiles for part in parts for case in part.cases)
    assert [part.cases[0].name for part in against.narrowed("distill", sizes)] == [case.name for case in sizes.cases]
    acting = next(against.narrowed("evaluate", sizes)).cases
    assert [case.name for case in acting] == [(sizes.acting or sizes.cases[0]).name]


def test_an_older_suite_takes_the_sizes_that_it_knows(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Theirs:
        rounds: int
        cases: tuple
        lanes: int

    class Module:
        QUICK, Sizes, Case = Theirs(9, (), 5), Theirs, type(QUICK.cases[0])

    data = json.loads(json.dumps({"rounds": 2, "cases": [dataclasses.asdict(QUICK.cases[0])], "not_known": 1}))
    assert worker.sizes_from(data, Module) == Theirs(2, QUICK.cases, 5)


@pytest.fixture
def repository(tmp_path):
    """Return a repository with one commit that has a suite, tagged `suite`, and one before it that has none."""
    here = tmp_path / "repository"
    (here / "ad_jax/bench").mkdir(parents=True)
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    for name in ("none", "suite"):
        (here / ("ad_jax/bench/timing.py" if name == "suite" else "README")).write_text(name)
        for command in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", name), ("tag", name)):
            subprocess.run(("git", *command), cwd=here, check=True)
    return here


def test_a_commit_is_laid_out_and_removed(repository, tmp_path):
    (repository / "ad_jax/bench/timing.py").write_text("changed since, and not committed")
    with commits.laid_out(commits.resolve("suite", repository / "ad_jax"), repository / "ad_jax") as tree:
        assert sorted(path.name for path in tree.iterdir()) == ["README", "ad_jax"]
        assert (tree / "ad_jax/bench/timing.py").read_text() == "suite"
    assert not tree.exists()


@pytest.mark.parametrize(
    ("commit", "told"),
    [("b46aec1", "got 'b46aec1'. `git log"), ("--all", "got '--all'"), ("none", "none has none. Name a later one")],
)
def test_commits_that_cannot_be_measured_are_refused(commit, told, repository, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    assert main(["bench", f"--against={commit}", "--quick", "--out", "out.json"]) == 2
    assert told in capsys.readouterr().err
    assert not pathlib.Path("out.json").exists()


def test_a_commit_of_no_repository_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "--against", "HEAD", "--quick"]) == 2
    assert "in no git repository. Start it in a clone" in capsys.readouterr().err
    assert main(["bench", "--against", "HEAD", "--show", "x.json"]) == 2
    assert "got --show, too. Leave one of them out" in capsys.readouterr().err
