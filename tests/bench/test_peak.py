"""The limits of arithmetic: they do what they count, and the peak is the best of them."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from ad_jax.bench import limits, peak, timing
from ad_jax.bench.sizes import QUICK

TINY = dataclasses.replace(QUICK, rounds=1, budget=0.0, matmul=32, small_flops=1e5, triad=2**10)


def test_a_limit_does_the_products_that_it_counts():
    """One product in the loop and none beside it: another one would halve the measured peak of a large product."""
    jaxpr = str(jax.make_jaxpr(lambda x, w: peak._products(x, w, 3))(jnp.ones((4, 2)), jnp.ones((2, 2))))
    assert jaxpr.count("dot_general") == 1
    assert peak.matmul(4, 2, 6, flops=500).amount == 5 * 2 * 4 * 2 * 6


def test_multiply_adds_are_as_many_as_are_counted():
    jaxpr = jax.make_jaxpr(lambda x: peak._multiply_adds(x, 3))(jnp.ones(4))
    (loop,) = [e.params["jaxpr"].jaxpr for e in jaxpr.jaxpr.eqns if e.primitive.name == "scan"]
    adds = [e for e in loop.eqns if e.primitive.name == "add" and e.outvars[0].aval.shape == (4,)]
    assert len(adds) == peak.CHAINS * peak.DEPTH
    each = 2 * peak.LANES * peak.CHAINS * peak.DEPTH
    assert peak.multiply_adds(2.6 * each * peak.cores()).amount == 3 * each * peak.cores()


def test_the_peak_is_the_fastest_of_what_there_is(monkeypatch):
    """And the rows of it say which, on how many cores, with which instructions."""
    made = {f"limits/{name}": timing.Work(lambda: None, amount) for name, amount in (("slow", 1.0), ("fast", 1e15))}
    monkeypatch.setattr(peak, "candidates", lambda *_: {key: lambda work=work: work for key, work in made.items()})
    peak.fastest.cache_clear()
    try:
        assert peak.peak(TINY) is made["limits/fast"]
    finally:
        peak.fastest.cache_clear()
    monkeypatch.undo()
    found = list(limits.arithmetic(TINY, "float32"))
    assert {row.limit for row in found[1:]} == {found[0].key} == {"limits/peak float32"}
    assert found[0].facts == {"cores": peak.cores(), "vector_bits": peak.vectors()[1]}
    assert f", {peak.cores()} cores with {peak.vectors()[0]}" in found[0].limit
    kinds = [key.split("/")[1].split(" float")[0] for key in (row.key for row in found)]
    assert kinds == ["peak", "matmul", "multiply-adds", "library matmul", "matmul"]
    wider = peak.candidates(8, 1e3, jnp.dtype("bfloat16"))
    assert {*peak.candidates(8, 1e3, jnp.dtype("float32"))} < {*wider} == {*wider, "limits/matmul bfloat16 8"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("flags\t: fpu avx avx2 avx512f\n", ("AVX-512", 512)),
        ("model name\t: avx512f\nflags\t: fpu avx avx2\n", ("AVX2", 256)),
        ("Features\t: fp asimd\n", ("NEON", 128)),
    ],
)
def test_vector_instructions_are_named(text, found, tmp_path):
    (tmp_path / "cpuinfo").write_text(text)
    assert peak.vectors(tmp_path / "cpuinfo") == found
    assert peak.vectors(tmp_path / "none")[1] == 0
