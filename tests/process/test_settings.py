"""JAX's global switches change no number: keys name their implementation, arrays their types, stages pin the rest."""

import ast
import json
import pathlib
import subprocess
import sys

import jax
import pytest
import settings_worker

import ad_jax
from ad_jax import envs

PACKAGE = pathlib.Path(ad_jax.__file__).parent
# Programs that run beside other libraries, in their environments, name what those do by default.
APART = {"_experiments", "programs"}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if not APART.intersection(path.parts))
SWITCHES = {  # within which nothing may change
    "rbg keys": lambda: jax.default_prng_impl("rbg"),
    "64 bits": lambda: jax.enable_x64(True),
    "bits dealt as before": lambda: jax.threefry_partitionable(False),
    "promotion": lambda: jax.numpy_dtype_promotion("standard"),
    "NaN": lambda: jax.debug_nans(True),
    "precision": lambda: jax.default_matmul_precision("highest"),
}
QUICK = ("dark room, q learning", "bandit, ucb")
NEEDED = {"uniform": 3, "normal": 3, "gumbel": 3, "randint": 5, "bits": 3}  # arguments, of which the last is a dtype


def quick() -> dict:
    made = {name: settings_worker.lived(*settings_worker.WORLDS[name], chunks=(2,)) for name in QUICK}
    return made | {"transformer": settings_worker.learned("transformer")}


@pytest.fixture(scope="module")
def usual() -> dict:
    return quick()


@pytest.mark.parametrize("switch", [s if s == "64 bits" else pytest.param(s, marks=pytest.mark.slow) for s in SWITCHES])
def test_a_switch_changes_no_history_no_model_and_no_return(switch, usual):
    with SWITCHES[switch]():
        assert quick() == usual


@pytest.mark.parametrize("switch", ["rbg keys", "64 bits"])
@pytest.mark.parametrize("name", settings_worker.WORLDS)
def test_a_family_gives_the_same_tasks_also_outside_of_every_stage(name, switch):
    family, options, *_ = settings_worker.WORLDS[name]
    usual = settings_worker.split(family, options)
    with SWITCHES[switch]():
        assert settings_worker.split(family, options) == usual


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        ["jax_default_prng_impl=rbg"],
        ["jax_enable_x64=True"],
        ["jax_threefry_partitionable=False", "jax_debug_nans=True", "jax_default_matmul_precision=highest"],
        ["jax_numpy_rank_promotion=raise", "jax_numpy_dtype_promotion=strict"],
    ],
    ids=" ".join,
)
def test_processes_with_other_switches_make_the_same(changes, every_usual):
    found = made_by(changes)
    if "jax_threefry_partitionable=False" in changes:  # which stages pin, and a call of a family alone does not
        assert found.pop("split").keys() == every_usual["split"].keys()
        every_usual = {name: x for name, x in every_usual.items() if name != "split"}
    assert found == every_usual


@pytest.fixture(scope="module")
def every_usual() -> dict:
    return made_by([])


def made_by(changes: list[str]) -> dict:
    worker = str(pathlib.Path(settings_worker.__file__))
    command = [sys.executable, worker, *changes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def unnamed(tree: ast.AST) -> list[str]:
    """Return calls whose result depends on a switch: keys of no stated implementation, numbers of no stated type."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function, given = ast.unparse(node.func), {keyword.arg for keyword in node.keywords}
        draw = function.removeprefix("jax.random.") if function.startswith("jax.random.") else ""
        bare_key = draw in ("key", "PRNGKey") and "impl" not in given
        untyped = draw in NEEDED and len(node.args) < NEEDED[draw] and "dtype" not in given
        untyped |= function in ("jnp.arange", "jnp.linspace") and "dtype" not in given
        if bare_key or untyped:
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_keys_and_random_numbers_are_named(path):
    assert unnamed(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    "line", ["jax.random.key(0)", "jax.random.uniform(key)", "jax.random.randint(key, (), 0, 5)", "jnp.arange(n)"]
)
def test_what_is_not_named_would_be_found(line):
    assert unnamed(ast.parse(line))


def test_every_family_and_every_source_is_among_the_worlds():
    from ad_jax import sources

    assert {world[0] for world in settings_worker.WORLDS.values()} >= set(envs.FAMILIES) - {"dark_room_hard"}
    assert {world[2] for world in settings_worker.WORLDS.values()} == set(sources.SOURCES)
