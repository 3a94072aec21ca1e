"""The shape of the code: who imports whom, how long files are, and that importing costs nothing."""

import ast
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import tomllib
import urllib.parse

import pytest

import ad_jax
from ad_jax import experiment

PACKAGE = pathlib.Path(ad_jax.__file__).parent
TESTS = pathlib.Path(__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_experiments" not in path.parts)

BASE = {"errors", "keys", "places", "plugins", "reward_unit", "settings", "types", "values"}
REPORT = {
    "figures",
    "bootstrap",
    "lifetimes",
    "numerals",
    "report",
    "report_checks",
    "report_input",
    "report_page",
    "report_pool",
    "report_schema1",
    "study_figures",
    "study_page",
    "study_text",
}
TOOLS = {"checkpoint", "metrics", "processes", "provenance", "sharding"}
PLUGINS = {"envs", "models", "sources"}
STAGES = {"collect", "distill", "evaluate", "report", "rl2"}

# What each module, or folder of plug-ins, may import of this package besides itself. A new one needs a line here.
MAY_IMPORT = {
    "__init__": set(),  # public names are imported when they are used
    "__main__": {
        "accelerators",
        "bench",
        "command_line",
        "cost",
        "errors",
        "experiment",
        "farewell",
        "history_info",
        "history_store",
        "listing",
        "metrics",
        "pipeline",
        "plan",
        "processes",
        "provenance",
        "report",
        "reproduce",
        "sharding",
        "stopping",
        "study",
        "testing",
    },
    "pipeline": BASE
    | TOOLS
    | STAGES
    | {"collection", "curves", "envs.base", "experiment", "history_store", "locks", "models.lstm"}
    | {"cost", "lineage", "origins", "processes", "replay", "rotation", "run_directory", "seal"},
    "curves": BASE
    | {"models.base"}
    | {"collect", "envs.base", "evaluate", "experiment", "prompts", "run_directory"}
    | {"identity", "lifetimes", "lineage", "metrics", "numerals", "origins", "processes", "seal", "sharding"},
    "command_line": BASE | {"provenance"},
    "listing": PLUGINS | {"experiment"},
    "untrusted": set(),
    "seal": set(),
    "behavior": BASE | {"envs.base", "models", "sources"},
    "lineage": {"errors", "identity", "metrics"},
    "origins": {"behavior", "checkpoint", "experiment", "fingerprint", "processes"},
    "identity": {"errors"},
    "run_directory": {"errors", "experiment", "identity", "numerals", "untrusted"},
    "experiment": BASE
    | PLUGINS
    | {"collect", "distill", "evaluate", "prompts", "replay", "rl2", "metrics", "sharding"},
    "collect": BASE
    | {"envs", "sources", "history_returns", "history_store", "lifetimes", "sharding", "metrics", "processes"},
    "distill": BASE | {"replay", "models", "sharding", "checkpoint", "memory", "metrics", "stopping", "training"},
    "rl2": BASE | {"envs.base", "models", "sharding", "checkpoint", "metrics", "stopping", "training", "trials"},
    "rotation": BASE | {"history_store", "metrics", "processes", "replay", "sharding", "thinning"},
    "training": {"checkpoint", "errors", "fingerprint", "lineage", "processes", "stopping"},
    "stopping": set(),
    "memory": set(),
    "farewell": {"processes", "stopping"},
    "writers": {"processes"},
    "locks": {"errors", "metrics"},
    "trials": BASE | {"envs.base", "models"},
    "evaluate": BASE | {"envs", "models", "prompts", "sharding", "checkpoint", "metrics"},
    "prompts": BASE | {"envs.base", "normalized"},
    "normalized": set(),
    "collection": {"collect", "errors", "experiment", "history_store", "identity", "lineage", "metrics", "provenance"},
    "claims": {"errors", "normalized", "numerals", "report", "report_input"},
    "study": {"claims", "errors", "experiment"},
    "reproduce": BASE
    | REPORT
    | {"claims", "experiment", "identity", "lineage", "locks", "metrics", "origins", "pipeline", "run_directory"}
    | {"study", "study_page"},
    "cost": BASE | {"collect", "distill", "envs.base", "experiment", "models", "replay", "rl2", "rotation"},
    "accelerators": {"errors", "hlo"},
    "hlo": set(),
    "plan": {
        "accelerators",
        "cost",
        "distill",
        "errors",
        "experiment",
        "hlo",
        "replay",
        "sharding",
        "training",
    },
    "bench": BASE
    | TOOLS
    | PLUGINS
    | {"collect", "hlo", "cost", "distill", "evaluate", "history_store", "replay", "rl2", "rotation"},
    "agent": BASE | {"behavior", "checkpoint", "lineage", "models", "evaluate"},
    "testing": BASE | PLUGINS,
    "envs": BASE,
    "sources": BASE | {"envs.base"},
    "models": BASE | {"envs.bandit", "envs.dark_room", "envs.grid"},  # whose limits there are, and which they know
    "history_access": {"errors", "places"},
    "history_info": {"history_access", "history_ledger", "history_store"},
    "history_store": BASE | {"history_access", "history_ledger", "history_returns", "sharding"},
    "history_ledger": BASE | {"history_access", "history_returns"},
    "history_returns": BASE | {"normalized", "numerals"},
    "replay": BASE | {"sharding", "thinning"},
    "thinning": {"types"},
    **dict.fromkeys(TOOLS, BASE),
    "checkpoint": BASE | {"fingerprint", "lineage", "metrics", "processes", "writers"},
    "fingerprint": set(),
    "metrics": BASE | {"processes"},
    **dict.fromkeys(REPORT, REPORT | {"errors", "identity", "normalized", "seal", "untrusted"}),
    "values": {"errors", "types"},
    **{name: {"errors"} for name in ("places", "plugins", "reward_unit")},
    **{name: set() for name in BASE - {"places", "plugins", "reward_unit", "values"}},
}


def unit(path: pathlib.Path) -> str:
    """The module's name, or its folder's."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> list[str]:
    """Dotted names of everything that is imported, wherever in the file: `a.b` for `from a import b`."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
    return names


def parse(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def forbidden(name: str, tree: ast.AST) -> list[str]:
    """The imports of this package that module or folder `name` may not have."""
    own = [imported for imported in imports(tree) if imported.split(".")[0] in ("ad_jax", "")]
    allowed = [f"ad_jax.{other}." for other in MAY_IMPORT[name] | {name}]
    return [imported for imported in own if not any(f"{imported}.".startswith(prefix) for prefix in allowed)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_in_the_direction_of_the_architecture(path):
    assert forbidden(unit(path), parse(path)) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("distill", "from ad_jax.envs.base import take"),
        ("distill", "import ad_jax.sources.ucb"),
        ("evaluate", "from ad_jax import collect"),
        ("evaluate", "def f():\n    from ad_jax import history_store"),
        ("sources", "from ad_jax.envs.dark_room import DarkRoom"),
        ("models", "from ..envs import base"),
        ("report", "from ad_jax import sharding"),
        ("types", "from ad_jax.errors import AdJaxError"),
    ],
)
def test_a_wrong_import_would_be_found(name, line):
    assert forbidden(name, ast.parse(line))


def test_every_module_has_a_rule_and_every_rule_a_module():
    assert {unit(path) for path in MODULES} == MAY_IMPORT.keys()


def test_stages_do_not_import_each_other():
    for stage in STAGES:
        assert not MAY_IMPORT[stage] & (STAGES - {stage})


def test_the_agent_takes_only_the_choice_of_actions_from_evaluating():
    taken = [name for name in imports(parse(PACKAGE / "agent.py")) if name.startswith("ad_jax.evaluate")]
    assert set(taken) <= {"ad_jax.evaluate.choose", "ad_jax.evaluate.Mode"}


@pytest.mark.parametrize("name", sorted(REPORT))
def test_the_report_needs_only_the_standard_library_numpy_and_matplotlib(name):
    roots = {imported.split(".")[0] for imported in imports(parse(PACKAGE / f"{name}.py"))}
    assert roots <= sys.stdlib_module_names | {"ad_jax", "numpy", "matplotlib"}


def axis_names(tree: ast.AST) -> list[int]:
    """Lines that name a mesh axis: "fsdp" or "tensor" anywhere, "data" in a mesh's shape or a partition."""
    text = lambda node: node.value if isinstance(node, ast.Constant) else None
    lines = [node.lineno for node in ast.walk(tree) if text(node) in ("fsdp", "tensor")]
    for node in ast.walk(tree):
        shape = isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "shape"
        called = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
        if shape or called in ("PartitionSpec", "P", "Mesh", "psum", "pmean", "all_gather", "axis_index"):
            lines += [inner.lineno for inner in ast.walk(node) if text(inner) == "data"]
    return lines


def test_only_sharding_names_mesh_axes():
    naming = {unit(path) for path in MODULES if axis_names(parse(path))}
    assert naming == {"sharding"}
    for line in ('mesh.shape["data"]', 'P(("data", None))', 'x = "fsdp"', 'jax.lax.psum(x, "data")'):
        assert axis_names(ast.parse(line)), line


def outside_functions(node: ast.AST):
    """Everything that runs when a module is imported: no bodies of functions, but their defaults and decorators."""
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, ast.FunctionDef | ast.Lambda):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child
                yield from outside_functions(child)


def made_at_import(tree: ast.AST) -> list[str]:
    """Calls at import that would make an array or ask for a device."""
    calls = [ast.unparse(node.func) for node in outside_functions(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if call.startswith(("jnp.", "jax.numpy.", "jax.random.", "jax.device", "jax.local"))]


def test_no_module_makes_an_array_when_it_is_imported():
    assert {path.name: made for path in MODULES if (made := made_at_import(parse(path)))} == {}
    for line in ("X = jnp.zeros(3)", "class A:\n    x = jnp.int32(0)", "def f(x=jax.random.key(0)): pass"):
        assert made_at_import(ast.parse(line)), line
    assert not made_at_import(ast.parse("def f():\n    return jnp.zeros(3)"))


def test_no_file_is_longer_than_400_lines():
    files = [*MODULES, *TESTS.glob("*.py"), *TESTS.parent.glob("experiments/**/*.py")]
    lengths = {path.name: len(path.read_text().splitlines()) for path in files}
    assert len(lengths) > 30
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def python(code: str, cwd: pathlib.Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_and_asking_for_help_import_no_jax(tmp_path):
    code = """
import sys, ad_jax
from ad_jax.__main__ import main
for words in ([], ["run"], ["collect"], ["show"], ["report"], ["histories", "verify"], ["check"]):
    try:
        main([*words, "--help"])
    except SystemExit as stop:
        assert stop.code == 0
heavy = {"jax", "numpy", "flax", "gymnax", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    shown = python(code, tmp_path)
    for word in ("collect", "distill", "evaluate", "report", "field=value", "--scale", "--histories"):
        assert word in shown


def test_importing_a_module_starts_no_backend(tmp_path):
    """Except where gymnax is imported, which makes arrays by itself."""
    code = """
import importlib, pkgutil, sys
import ad_jax, jax
from jax._src import xla_bridge
sys.modules["gymnax"] = None
done = []
for found in pkgutil.walk_packages(ad_jax.__path__, "ad_jax.", onerror=lambda name: None):
    if "_experiments" in found.name:
        continue
    try:
        importlib.import_module(found.name)
    except ImportError as error:
        assert "gymnax" in str(error), error
    else:
        done.append(found.name)
    assert not xla_bridge.backends_are_initialized(), found.name
print(*done)
"""
    done = python(code, tmp_path).split()
    assert {"ad_jax.models.transformer", "ad_jax.distill", "ad_jax.checkpoint", "ad_jax.history_store"} <= set(done)


def test_public_names_exist():
    assert len(ad_jax.__all__) > 5
    for name in ad_jax.__all__:
        assert getattr(ad_jax, name) is not None
    assert dir(ad_jax) == sorted(ad_jax.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Agnet'"):
        _ = ad_jax.Agnet


def test_the_package_under_test_is_the_installed_one(monkeypatch, tmp_path):
    """Installed as a wheel: in site-packages, not the source tree nearby. Installed to be edited: where pip says."""
    distribution = importlib.metadata.distribution("ad_jax")
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        assert pathlib.Path(urllib.parse.urlparse(origin["url"]).path) / "ad_jax" == PACKAGE
    else:
        assert pathlib.Path(str(distribution.locate_file("ad_jax"))).resolve() == PACKAGE.resolve()
    monkeypatch.chdir(tmp_path)
    assert set(experiment.known()) >= {path.parent.name for path in TESTS.parent.glob("experiments/*/config.py")}


def test_the_wheel_carries_every_experiments_config():
    """A name such as `dark_room` must work for those who have only installed the package."""
    root = TESTS.parent
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    carried = set(wheel["force-include"])
    assert carried == {str(path.relative_to(root)) for path in root.glob("experiments/*/config.py")}
