"""Files that somebody else may have written are data: reading them gives a value or a documented error."""

import ast
import copy
import json
import pathlib
import resource
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import pytest
from history_helpers import collect, manifest, refused
from report_helpers import results

import ad_jax
from ad_jax.envs.dark_room import DarkRoom
from ad_jax.errors import AdJaxError, ConfigError, HistoryError
from ad_jax.experiment import Experiment
from ad_jax.files import DEEPEST, parse, read_json
from ad_jax.history import ledger, sealed
from ad_jax.history.info import info
from ad_jax.history.store import HistoryWriter, open_store, verify
from ad_jax.models.transformer import Transformer
from ad_jax.report import report
from ad_jax.report.report import ReportError
from ad_jax.report.results import gather
from ad_jax.run.directory import claim
from ad_jax.sources.q_learning import QLearning
from ad_jax.study import page

SMALL = {"histories": 2, "chunk_histories": 1, "steps": 2, "task_leaves": {}}
FUZZED = 50  # inputs that each reader meets in the default suite; 2,000 in the slow one
CLAIM = {
    **dict.fromkeys(("text", "paper", "statistic", "rule", "note"), "x"),
    **dict.fromkeys(("value", "low", "high"), 0.5),
    "holds": True,
}
STUDY = {"schema": 1, "study": "x", "title": "x", "scale": "cpu", "seeds": 3, "claims": [CLAIM], "arms": {}}
EXPERIMENT = Experiment("x", DarkRoom(), QLearning(), Transformer())


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> pathlib.Path:
    """Return a finished collection; a test puts back what it changes."""
    path = tmp_path_factory.mktemp("hostile") / "store"
    collect(path, manifest(**SMALL))
    return path


# Code is never read from data.


FORBIDDEN = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "yaml", "joblib"}


def dangers(tree: ast.AST) -> list[str]:
    """Every way of a module to turn data into code."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [name for name in names if name.split(".")[0] in FORBIDDEN]
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            bare = isinstance(node.func, ast.Name)
            if (bare and name in ("eval", "exec", "compile", "__import__")) or "pickle" in name:
                found.append(name)
            found += [str(k.arg) for k in node.keywords if k.arg in ("allow_pickle", "shell")]
    return found


def test_no_module_turns_data_into_code():
    modules = sorted(pathlib.Path(ad_jax.__file__).parent.rglob("*.py"))
    assert len(modules) > 50
    assert {str(path): found for path in modules if (found := dangers(ast.parse(path.read_text())))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from yaml import load",
        "eval('1')",
        "exec(x)",
        "np.load(f, allow_pickle=True)",
        "jnp.unpickle(x)",
    ],
)
def test_a_danger_would_be_found(line):
    assert dangers(ast.parse(line))


# Bounds: sizes, depth, digits, paths.


LARGE = {
    "10^15 histories": {"histories": 10**15},
    "10^15 chunks": {"histories": 10**15, "chunk_histories": 1},
    "a chunk of 2^64 bytes": {"chunk_histories": 2**30, "histories": 2**30, "steps": 2**32},
    "a product that overflows": {"task_leaves": {"x": {"shape": [2**32, 2**32], "dtype": "int8"}}},
}
UNNAMED = ["..", ".", "", "../x", "a/../b", "/etc/x", "a\0b", "a..b", "a\\b", "a b", "\u202e", "x" * 10**5 + "/"]
ALLOCATING = """
import resource, sys
from ad_jax.errors import HistoryError
from ad_jax.history.store import open_store
resource.setrlimit(resource.RLIMIT_AS, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 2**33, -1))
try:
    open_store(sys.argv[1], allow_partial=True).read()
except HistoryError as error:
    print("refused:", error)
# The most since the process began: ru_maxrss would be that of the one that started it, where that was larger.
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def forge(path: pathlib.Path, **changes) -> pathlib.Path:
    """Return a manifest with a right checksum and other contents."""
    path.mkdir(exist_ok=True)
    (path / "manifest.json").write_bytes(sealed.seal(manifest(**SMALL).to_json() | changes))
    return path


@pytest.mark.parametrize("kind", LARGE)
def test_a_claim_of_any_size_is_an_error_and_no_allocation(tmp_path, kind):
    path = forge(tmp_path / "x", **LARGE[kind])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for call in (open_store, info, lambda url: open_store(url, allow_partial=True)):
        refused(lambda call=call: call(path), "manifest.json")
    assert verify(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**14  # KiB


def test_a_chunk_that_claims_gigabytes_is_not_believed(tmp_path):
    """Within the limits of a manifest, a forged ledger and forged arrays: at most one chunk's bytes, then an error."""
    m = manifest(**SMALL | {"steps": 2**28})
    path = tmp_path / "x"
    HistoryWriter.open(path, m)
    content = dict.fromkeys(m.fields, "crc32:00000000")
    entry = ledger.Entry.of(m, 0, ["a"], content, dict.fromkeys(m.fields, 3)).to_json()
    (path / "ledger").mkdir()
    (path / "ledger/000000.json").write_bytes(sealed.seal(entry))
    for field in m.fields:
        file = path / ledger.array_key(m, field, 0)
        file.parent.mkdir(parents=True)
        file.write_bytes(b"zzz")
    done = subprocess.run([sys.executable, "-c", ALLOCATING, path], capture_output=True, text=True, check=True)
    assert "refused:" in done.stdout
    assert int(done.stdout.splitlines()[-1]) < 2**20  # KiB


@pytest.mark.parametrize("name", UNNAMED)
def test_no_name_in_a_manifest_leaves_its_directory(tmp_path, name):
    leaf = {"shape": [], "dtype": "int8"}
    path = forge(tmp_path / "x", task_leaves={name: leaf})
    before = sorted(tmp_path.rglob("*"))
    for call in (open_store, info, lambda url: HistoryWriter.open(url, manifest(**SMALL, provenance={}))):
        assert len(refused(lambda call=call: call(path), "manifest.json", "task_leaves: expected")) < 1000
    refused(
        lambda: HistoryWriter.open(tmp_path / "y", manifest(**SMALL | {"task_leaves": {name: leaf}})),
        "task_leaves: expected",
    )
    assert sorted(tmp_path.rglob("*")) == before


TEXTS = [
    "",
    "{",
    "[" * 10**5,
    '{"a":' * 990 + "1" + "}" * 990,
    "[]",
    "1",
    '"x"',
    "\0",
    "\ufeff{}",
    "1" * 5000,
    "{'a': 1}",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_what_is_no_object_is_refused_by_every_reader(store, tmp_path, text):
    for name in ("results.json", "config.json"):
        (tmp_path / name).write_text(text)
    (tmp_path / "study").mkdir()
    (tmp_path / "study/claims.json").write_text(text)
    for name in ("manifest.json", "ledger/000001.json"):
        sound = (store / name).read_bytes()
        (store / name).write_text(text)
        refused(lambda: open_store(store), name)
        (store / name).write_bytes(sound)
    with pytest.raises(ReportError, match=r"results\.json"):
        report.load([tmp_path])
    with pytest.raises(ConfigError, match=r"config\.json"):
        read_json(tmp_path / "config.json")
    with pytest.raises(ConfigError, match=r"config\.json"):
        claim(tmp_path, EXPERIMENT)
    with pytest.raises(AdJaxError, match=r"claims\.json"):
        page.load(tmp_path, ["study"])
    with pytest.raises(ConfigError, match=r"is damaged"):
        read_json(tmp_path)  # a folder


def test_depth_and_digits_have_bounds():
    def deep(n):
        return "[" * n + "]" * n

    assert parse(deep(DEEPEST)) is not None
    assert parse('{"a": [' + str(2**63) + ", -9, 1.5, null]}") == {"a": [2**63, -9, 1.5, None]}
    for text in (deep(DEEPEST + 2), deep(10**5), '{"a":' * 200 + "1" + "}" * 200, "1" * 20, f"[-{10**19}]"):
        with pytest.raises(ValueError, match=r"deep|digits"):
            parse(text)


def test_equal_keys_and_numbers_that_are_none_do_not_pass_a_seal(store):
    sound = (store / "manifest.json").read_bytes()
    for old, new in ((b'"steps": 2', b'"steps": 2,\n  "steps": 2'), (b'"steps": 2', b'"steps": NaN')):
        assert old in sound
        (store / "manifest.json").write_bytes(sound.replace(old, new))
        refused(lambda: open_store(store), "manifest.json is damaged")
    (store / "manifest.json").write_bytes(sound)


ODD = [
    {"provenance": {"statistics": [1, 2]}},
    {"provenance": {"statistics": "x", "\x1b[2J": "\ud800"}},
    {"family": {"name": "\x1b[2J\ud800"}, "source": {"name": None, "config": [], "actors": "\x1b"}},
    {"family": {}, "source": {}},
]


@pytest.mark.parametrize("changes", ODD)
def test_info_describes_odd_manifests_in_characters_that_print(tmp_path, changes):
    assert info(forge(tmp_path / "x", **changes)).replace("\n", "").isprintable()


def test_absurd_numbers_in_a_ledger_are_refused(store):
    file = store / "ledger/000000.json"
    sound = file.read_bytes()
    good = sealed.unseal(sound, "", "")
    tenths = {"episodes": [10**400] * 10, "earned": [1.0] * 10}
    last = {"episodes": [1, 1], "earned": [1.0, 1.0]}
    earned = {**tenths, "last_by_actor": last, "optimal": None, "random": None}
    for changes in ({"stored_bytes": dict.fromkeys(good["stored_bytes"], 10**400)}, {"returns": earned}):
        file.write_bytes(sealed.seal(good | changes))
        refused(lambda: open_store(store), "ledger/000000.json")
        assert "PROBLEMS" in info(store)
    file.write_bytes(sound)


# Fuzzing: sound files with something else in one place, and files that are nothing of ours.


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**25), 10**25) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def mutated(draw, sound):
    """`sound` with a value replaced, removed or added at a random place; or something else altogether."""
    if draw(st.integers(0, 9)) == 0:
        return draw(JSON)
    data = copy.deepcopy(sound)
    for _ in range(draw(st.integers(1, 3))):
        node = data
        while True:
            places = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not places:
                break
            place = draw(st.sampled_from(places))
            if isinstance(node[place], dict | list) and node[place] and draw(st.integers(0, 3)):
                node = node[place]
                continue
            if draw(st.booleans()):
                node[place] = draw(JSON)
            else:
                del node[place]
            break
    return data


def fuzz_manifest(store, tmp, data):
    content = data.draw(mutated(manifest(**SMALL).to_json()))
    try:
        raw = sealed.seal(content)
    except ValueError:  # a NaN, which no seal holds
        raw = json.dumps({"content": content, "checksum": "sha256:"}).encode()
    tmp.joinpath("manifest.json").write_bytes(raw)
    _only(HistoryError, lambda: open_store(tmp, allow_partial=True).read())
    _only(HistoryError, lambda: info(tmp))
    assert isinstance(verify(tmp), list)


def fuzz_ledger(store, tmp, data):
    file = store / "ledger/000000.json"
    sound = file.read_bytes()
    content = data.draw(mutated(sealed.unseal(sound, "", "")))
    try:
        file.write_bytes(sealed.seal(content))
    except ValueError:
        return
    try:
        _only(HistoryError, lambda: open_store(store).read())
        _only(HistoryError, lambda: info(store))
        assert isinstance(verify(store), list)
    finally:
        file.write_bytes(sound)


def fuzz_results(store, tmp, data):
    tmp.joinpath("results.json").write_text(json.dumps(data.draw(mutated(results()))))
    _only(ReportError, lambda: gather(report.load([tmp])))


def fuzz_config(store, tmp, data):
    tmp.joinpath("config.json").write_text(json.dumps(data.draw(mutated(EXPERIMENT.to_json()))))
    _only(ConfigError, lambda: Experiment.from_json(read_json(tmp / "config.json")))
    _only(ConfigError, lambda: claim(tmp, EXPERIMENT))


def fuzz_claims(store, tmp, data):
    tmp.joinpath("study").mkdir(exist_ok=True)
    tmp.joinpath("study/claims.json").write_text(json.dumps(data.draw(mutated(STUDY))))
    _only(AdJaxError, lambda: page.load(tmp, ["study"]))


def fuzz_bytes(store, tmp, data):
    raw = data.draw(st.binary(max_size=60))
    (tmp / "study").mkdir(exist_ok=True)
    for name in ("manifest.json", "results.json", "config.json", "study/claims.json"):
        tmp.joinpath(name).write_bytes(raw)
    _only(HistoryError, lambda: open_store(tmp))
    _only(ReportError, lambda: report.load([tmp]))
    _only(ConfigError, lambda: Experiment.from_json(read_json(tmp / "config.json")))
    _only(AdJaxError, lambda: page.load(tmp, ["study"]))


def _only(expected: type[Exception], call) -> None:
    """Nothing but the documented error comes out, and it has a message."""
    try:
        call()
    except expected as error:
        message = str(error)
        if not message or len(message) > 20_000:
            pytest.fail(f"a message of {len(message)} characters")


READERS = [fuzz_manifest, fuzz_ledger, fuzz_results, fuzz_config, fuzz_claims, fuzz_bytes]


@pytest.mark.parametrize("count", [FUZZED, pytest.param(2_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("reader", READERS)
def test_only_documented_errors_come_out(store, tmp_path, reader, count):
    tried = []

    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),  # pyright: ignore[reportArgumentType]  # their class iterates by a metaclass
    )
    @hypothesis.given(data=st.data())
    def run(data):
        tried.append(1)
        reader(store, tmp_path, data)

    run()
    print(f"{reader.__name__}: {len(tried)} inputs")
    assert len(tried) >= 0.9 * count
