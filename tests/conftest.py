"""Strict JAX for every test: 8 virtual CPU devices, rank promotion raises, dtype promotion is strict.

One cache of compiled programs serves the whole run, its workers and the processes that tests start, and the runs after
it: most of a test's time is compiling, and many tests compile the same program.
"""

import contextlib
import dataclasses
import functools
import gc
import hashlib
import importlib.util
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Hashable

os.environ["JAX_PLATFORMS"] = "cpu"
# Most of a test's time is compiling; without LLVM's optimization that takes a quarter less, and fusion stays as it is.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    # A tenth to a third less again: several small loops compile faster than one that is fused as code.
    + " --xla_cpu_use_fusion_emitters=false"
    # And a third less: a program in one piece instead of 32, which are compiled side by side on other cores.
    + " --xla_cpu_parallel_codegen_split_count=1"
)
# Each once, though a worker inherits them: programs are kept by what the flags say, and by how often.
os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys(os.environ["XLA_FLAGS"].split()))


def kept_programs() -> pathlib.Path:
    """Return the folder of compiled programs that this run shares with those before; a new one where none can be kept.

    Compiled code fits the features of one processor, so each kind of processor has its own.
    """
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        kind = "".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))
        base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        folder = base / "ad_jax" / "tests" / hashlib.sha256(kind.encode()).hexdigest()[:12]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # no such file, no home, not ours to write
        return pathlib.Path(tempfile.mkdtemp("", "ad_jax_tests_"))


# Workers and other processes inherit the folder from the one that starts them.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(kept_programs())
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Nobody reads from which line an operation of a program came; to write that down is an eighth of lowering it.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402
from jax._src import lru_cache  # noqa: E402


def shaped_modules() -> list[str]:
    """Return the modules of ad_jax that state shapes and dtypes in their signatures."""
    (root,) = map(pathlib.Path, importlib.util.find_spec("ad_jax").submodule_search_locations or ())
    files = (path for path in root.rglob("*.py") if "from jaxtyping import" in path.read_text())
    return [".".join(path.relative_to(root.parent).with_suffix("").parts) for path in files]


# Every call of such a function is checked, while a program is traced or at once, in every test.
jaxtyping.install_import_hook(shaped_modules(), "beartype.beartype")

from ad_jax.process import memory  # noqa: E402
from ad_jax.run.origins import Origins  # noqa: E402

# For examples/, behind the installed package: ad_jax itself is not taken from the source tree.
sys.path.append(str(pathlib.Path(__file__).parents[1]))

gc.set_threshold(50_000)  # importing and tracing make many objects and little garbage

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def put_whole(self: lru_cache.LRUCache, key: str, value: bytes) -> None:
    """Add a compiled program to the cache, or nothing: JAX writes in place, and workers that import the same modules
    side by side have read halves.
    """
    entry = self.path / f"{key}-cache"
    if not entry.exists():
        begun = entry.with_name(f"{entry.name}.{os.getpid()}")
        begun.write_bytes(value)
        os.replace(begun, entry)  # whoever else has written it meanwhile


lru_cache.LRUCache.put = put_whole


def as_it_stands(plugin: object) -> tuple[object, ...]:
    """Return what tells a plug-in from others, and from itself before a test edited its class; unsure, from all."""
    text = repr(plugin)
    if plugin is None:
        return (None,)
    if not dataclasses.is_dataclass(plugin) or " at 0x" in text or "..." in text:  # others may read the same
        return (object(),)
    of_classes = (value for kind in type(plugin).__mro__ for value in vars(kind).values())
    return text, *(value for value in of_classes if isinstance(value, Hashable))


def looked_at_once(name: str) -> None:
    """Keep what `Origins` has found of a plug-in: a fifth of the time of many tests, which use the same ones."""
    look, found = vars(Origins)[name].func, {}

    def kept(self: Origins) -> object:
        e, p = self.experiment, self.components
        of = {"family": (), "source": (e.source,), "reference": (e.source, e.reference and e.reference.source)}
        key = sum(map(as_it_stands, (p.family, *of[name])), ())
        if key not in found:
            found[key] = look(self)
        return found[key]

    replaced = functools.cached_property(kept)
    replaced.__set_name__(Origins, name)
    setattr(Origins, name, replaced)


for look in ("family", "source", "reference"):
    looked_at_once(look)


# Nothing is given back within a stage: that searches all that was ever traced for garbage. It is where much is held.
give_back, memory.give_back = memory.give_back, lambda: None

ENOUGH = 3 << 29  # bytes that a worker may take before it forgets what it has compiled; no test adds half a GB
allowed = ENOUGH


def resident() -> int:
    """Return the bytes of memory that this process takes."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pytest_runtest_logfinish() -> None:
    """Drop compiled programs where they take much memory; tests find on disk what they share with those before."""
    global allowed
    if resident() > allowed:
        jax.clear_caches()
        give_back()
        allowed = max(ENOUGH, resident() + ENOUGH // 2)


# Files that take longest, which workers begin with, so that they end together (see `--dist loadfile` in the Makefile).
LONGEST = (
    "process/test_processes.py",
    "models/test_models.py",
    "study/test_study.py",
    "run/test_pipeline.py",
    "methods/test_methods.py",
    "methods/test_rl2.py",
    "envs/test_envs.py",
    "test_readme.py",
    "stage/test_distill.py",
    "stage/test_evaluate.py",
    "run/test_worlds.py",
    "run/test_keys.py",
    "run/test_in_memory.py",
    "planning/test_cost.py",
    "planning/test_plan.py",
    "bench/test_bench.py",
    "test_values.py",
    "process/test_settings.py",
    "sources/test_sources.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of long files first."""
    place = {pathlib.Path(__file__).parent / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_collection_finish() -> None:
    """Leave what collecting has made out of every search for garbage; each training makes two by itself."""
    gc.collect()
    gc.freeze()


MONTH = 30 * 24 * 3600  # seconds after which a program is compiled again: those of before are not kept for ever


def pytest_unconfigure() -> None:
    """Remove a cache that cannot be kept, and from one that is what is old; a worker leaves that to the first."""
    folder = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    if folder.name.startswith("ad_jax_tests_"):
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.parts[-3:-1] == ("ad_jax", "tests"):
        for entry in folder.iterdir():
            with contextlib.suppress(OSError):  # another run may be at it
                if entry.stat().st_mtime < time.time() - MONTH:
                    entry.unlink()
