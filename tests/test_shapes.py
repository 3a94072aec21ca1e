"""Shapes and dtypes that signatures state are checked wherever a test calls them (see `conftest`)."""

import jax.numpy as jnp
import jaxtyping
import pytest
from conftest import shaped_modules

from ad_jax.sources.returns import gae


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("value", jnp.zeros((4, 2))),
        ("reward", jnp.zeros((5, 3))),
        ("next_value", jnp.zeros((5, 2), jnp.float16)),
        ("terminated", jnp.zeros((5, 2))),
        ("discount", jnp.zeros(5)),
    ],
)
def test_a_call_against_its_signature_is_an_error(name, wrong):
    number, never = jnp.zeros((5, 2)), jnp.zeros((5, 2), bool)
    right = {"reward": number, "value": number, "next_value": number, "terminated": never, "truncated": never}
    assert gae(**right, discount=0.9, trace_decay=0.8).shape == (5, 2)
    with pytest.raises(jaxtyping.TypeCheckError, match=r"returns\.gae"):
        gae(**({"discount": 0.9, "trace_decay": 0.8} | right | {name: wrong}))


def test_what_is_checked_is_found_by_itself():
    assert {"ad_jax.models.attention", "ad_jax.models.heads.binned", "ad_jax.sources.returns"} <= set(shaped_modules())
