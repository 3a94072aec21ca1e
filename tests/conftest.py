"""Strict JAX for every test: 8 virtual CPU devices, rank promotion raises, dtype promotion is strict."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Most of a test's time is compiling; without LLVM's optimisation that takes a quarter less, and fusion stays as it is.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
