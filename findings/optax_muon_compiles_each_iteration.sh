#!/usr/bin/env bash
# optax: Muon compiles every Newton-Schulz iteration of every matrix, unless its coefficients are given five times.
#
# Expectation  ns_steps=5 iterations of one rule are a loop: a program that holds the rule once for each matrix, as many
#              matrix products as one iteration has, and that compiles as quickly for 5 steps as for 1.
# Behavior     with the default ns_coeffs, three numbers, the loop is unrolled while tracing (so that vmap composes, a
#              comment says): products and compile time grow with ns_steps times the number of matrices. With the same
#              three numbers given ns_steps times, a 5 x 3 tuple, the iterations are a scan: a fifth of the products,
#              two thirds of the compile time, and the same numbers. The documentation of ns_coeffs names both forms, as
#              values; that they are different programs it does not say.
# Why it is    in a small model most of a cold start is compiling, and Muon's part of it can be had for less by writing
# worth it     one argument differently.
# Version      optax 0.2.8, jax 0.10.2, Python 3.11, Linux x86-64.
# Source       optax/contrib/_muon.py, orthogonalize_via_newton_schulz.
# Seen         12 matrices, three coefficients: 180 products, 9.0 CPU s to compile
#              the same five times over:        36 products, 5.5 CPU s; the same update: True
#
# Exits 0 only while it holds (at least four times the products in what is compiled, and the same update to rounding).
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check optax==0.2.8 jax==0.10.2

JAX_PLATFORMS=cpu "$place/venv/bin/python" - <<'PYTHON'
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

RULE = (3.4445, -4.7750, 2.0315)  # optax's default
params = {f"matrix_{i}": jnp.ones((24 + i, 64)) for i in range(12)}
grads = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.shape[0]), p.shape), params)


def measured(coefficients):
    rule = optax.contrib.muon(0.02, ns_coeffs=coefficients)
    state = rule.init(params)
    lowered = jax.jit(rule.update).lower(grads, state, params)
    started = time.process_time()
    compiled = lowered.compile()
    seconds = time.process_time() - started
    products = len(re.findall(r"= \S+ dot\(", compiled.as_text()))
    return products, seconds, compiled(grads, state, params)[0]


few, many = measured((RULE,) * 5), measured(RULE)
same = all(np.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(jax.tree.leaves(few[2]), jax.tree.leaves(many[2])))
print(f"12 matrices, three coefficients: {many[0]} products, {many[1]:.1f} CPU s to compile")
print(f"the same five times over:        {few[0]} products, {few[1]:.1f} CPU s; the same update: {same}")
raise SystemExit(0 if many[0] >= 4 * few[0] and same else 1)
PYTHON
