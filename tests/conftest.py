"""Strict JAX for every test: 8 virtual CPU devices, rank promotion raises, dtype promotion is strict.

One cache of compiled programs serves the whole run, its workers and the processes that tests start: most of a test's
time is compiling, and many tests compile the same program.
"""

import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# Most of a test's time is compiling; without LLVM's optimisation that takes a quarter less, and fusion stays as it is.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
# Workers inherit the folder from the process that starts them; that process removes it at the end.
OWN_CACHE = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    OWN_CACHE = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="ad_jax_tests_")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="module", autouse=True)
def _programs_leave_memory():
    """Drop a file's compiled programs from memory at its end; the next file finds on disk what it shares with it."""
    yield
    jax.clear_caches()


def pytest_unconfigure() -> None:
    """Remove the cache, if this process made it."""
    if OWN_CACHE:
        shutil.rmtree(OWN_CACHE, ignore_errors=True)
