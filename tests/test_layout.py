"""The shape of the code: how long files are, and that importing costs nothing.

Who may import whom stands in pyproject.toml (import-linter), and `make check` looks.
"""

import ast
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import urllib.parse
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder

import ad_jax
from ad_jax import experiment

PACKAGE = pathlib.Path(ad_jax.__file__).parent
TESTS = pathlib.Path(__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_experiments" not in path.parts)


def unit(path: pathlib.Path) -> str:
    """Return the module's name, or its folder's."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parse(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def axis_names(tree: ast.AST) -> list[int]:
    """Lines that name a mesh axis: "fsdp" or "tensor" anywhere, "data" in a mesh's shape or a partition."""

    def text(node):
        return node.value if isinstance(node, ast.Constant) else None

    nodes: list[Any] = list(ast.walk(tree))  # those that are asked for their line have one
    lines = [node.lineno for node in nodes if text(node) in ("fsdp", "tensor")]
    for node in nodes:
        shape = isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "shape"
        called = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
        if shape or called in ("PartitionSpec", "P", "Mesh", "psum", "pmean", "all_gather", "axis_index"):
            lines += [inner.lineno for inner in ast.walk(node) if text(inner) == "data"]  # pyright: ignore[reportAttributeAccessIssue]
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
    """Return calls at import that would make an array or ask for a device."""
    calls = [ast.unparse(node.func) for node in outside_functions(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if call.startswith(("jnp.", "jax.numpy.", "jax.random.", "jax.device", "jax.local"))]


def test_no_module_makes_an_array_when_it_is_imported():
    assert {path.name: made for path in MODULES if (made := made_at_import(parse(path)))} == {}
    for line in ("X = jnp.zeros(3)", "class A:\n    x = jnp.int32(0)", "def f(x=jax.random.key(0)): pass"):
        assert made_at_import(ast.parse(line)), line
    assert not made_at_import(ast.parse("def f():\n    return jnp.zeros(3)"))


def test_no_file_is_longer_than_400_lines():
    files = [*MODULES, *TESTS.rglob("*.py"), *TESTS.parent.glob("experiments/**/*.py")]
    lengths = {path.name: len(path.read_text().splitlines()) for path in files}
    assert len(lengths) > 30
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def imported_tests(tree: ast.AST) -> list[str]:
    """Return what a test file takes from other test files; `from .` would make a second copy of a helper."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found += ["." * node.level] if node.level else [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name for name in found if name == "." or any(part.startswith("test_") for part in name.split("."))]


def test_tests_import_no_tests():
    """What two test files share is a module beside `helpers.py`."""
    assert {path.name: found for path in TESTS.rglob("*.py") if (found := imported_tests(parse(path)))} == {}
    for line in ("import test_a", "from test_a import b", "from tests import test_a", "from .helpers import a"):
        assert imported_tests(ast.parse(line)), line
    assert not imported_tests(ast.parse("from ad_jax.testing import check_env"))


def test_the_folders_of_tests_are_those_of_the_package():
    folders = {path.parent.name for path in TESTS.rglob("test_*.py")} - {TESTS.name}
    assert len(folders) > 10
    assert folders <= {path.parent.name for path in MODULES}


def test_at_most_twelve_files_lie_at_the_top():
    """A folder holds what belongs together; at the top lies only what everybody stands on."""
    assert len(list(PACKAGE.glob("*.py"))) <= 12


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
    assert {
        "ad_jax.models.transformer",
        "ad_jax.stage.train",
        "ad_jax.checkpoint.checkpoint",
        "ad_jax.history.store",
    } <= set(done)


def test_importing_a_family_loads_of_gymnax_what_is_used_alone(tmp_path):
    """Its environments, what they draw with and gymnasium's own are there when they are used."""
    code = """
import sys
import ad_jax.envs.dark_room
unused = "gymnax.registration", "gymnax.environments.misc", "gymnasium.envs", "matplotlib", "pandas", "scipy.stats"
assert not (early := set(unused) & set(sys.modules)), early
import ad_jax.envs.gymnax_adapter, gymnasium, gymnax
from gymnax import make
assert "FourRooms-misc" in gymnax.registered_envs and make is gymnax.registration.make
assert not (early := {"pandas", "scipy.stats"} & set(sys.modules)), early
assert {"misc", "Pong"} <= set(dir(gymnax.environments))
assert gymnasium.make("CartPole-v1").action_space == gymnasium.spaces.Discrete(2)
try:
    gymnax.nothing
except AttributeError as error:
    assert "'gymnax' has no attribute 'nothing'" in str(error), error
import seaborn
assert callable(seaborn.color_palette) and "pandas" in sys.modules
"""
    python(code, tmp_path)


def test_public_names_exist():
    assert len(ad_jax.__all__) > 5
    for name in ad_jax.__all__:
        assert getattr(ad_jax, name) is not None
    assert dir(ad_jax) == sorted([*ad_jax.__all__, "__version__"])
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


def test_the_wheel_carries_every_experiments_config_and_no_results():
    """A name such as `dark_room` must work for those who have only installed the package."""
    root = TESTS.parent
    carried = {file.distribution_path for file in WheelBuilder(str(root)).recurse_included_files()}
    configs = {f"ad_jax/_experiments/{path.parent.name}/config.py" for path in root.glob("experiments/*/config.py")}
    assert len(configs) > 10
    assert {path for path in carried if "_experiments" in path} == configs
    ours = [path for path in root.glob("ad_jax/**/*") if path.is_file() and "__pycache__" not in path.parts]
    assert carried - configs == {str(path.relative_to(root)) for path in ours}
    assert "ad_jax/py.typed" in carried


def lazy_names() -> tuple[dict[str, str], dict[str, str]]:
    """Return what `ad_jax/__init__.py` tells a type checker to import, and what it imports when a name is used."""
    tree = parse(PACKAGE / "__init__.py")
    (checked,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imported = {
        (alias.asname or alias.name).lstrip("_"): f"{node.module}:{alias.name}"
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return imported, {name: place if ":" in place else f"{place}:{name}" for name, place in ad_jax._PUBLIC.items()}


def test_editors_are_told_of_the_names_that_are_there():
    imported, lazy = lazy_names()
    assert imported == lazy
    assert ad_jax.__all__ == list(lazy)


def test_the_version_is_the_installed_one():
    assert ad_jax.__version__ == importlib.metadata.version("ad_jax")
