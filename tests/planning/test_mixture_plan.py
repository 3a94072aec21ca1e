"""The plan of a mixture: what is counted of its members, and what its one program takes."""

import jax
import pytest
from small_worlds import WORLDS

from ad_jax.errors import ConfigError
from ad_jax.experiment import build_members
from ad_jax.planning import mixture, plan
from ad_jax.planning.accelerators import ACCELERATORS
from ad_jax.sharding import MeshConfig


def test_a_plan_counts_all_members_in_one_program():
    found = mixture.mixture_plan(WORLDS, MeshConfig(data=2, fsdp=2))
    parts = build_members(WORLDS)
    assert found.count == sum(x.size for x in jax.tree.leaves(jax.eval_shape(parts.together.init, jax.random.key(0))))
    assert found.params < 4 * found.count, "some are split"
    assert found.flops > 0
    assert "batches of room 8 x 8, point 8 x 8 steps" in "\n".join(
        plan.lines(found, "h100-sxm", ACCELERATORS["h100-sxm"])
    )


def test_costs_are_told_by_family_and_of_the_trunk():
    lines = mixture.cost_lines(WORLDS)
    assert [line.split()[0] for line in lines[1:4]] == ["room", "point", "arms"]
    assert "held out" in lines[3]
    parts = build_members(WORLDS)
    trunk = parts.together.trunk_of(parts.components["room"].params)
    assert f"{sum(x.size for x in jax.tree.leaves(trunk)):,} parameters of the trunk" in lines[-1]


def test_an_unknown_size_is_refused():
    with pytest.raises(ConfigError, match="unknown size"):
        plan.sizes_of("9b", [])
