"""One trunk and each member's own layers: where parameters lie, and that a member's model stays what it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import mesh_of, unused

from ad_jax.errors import ConfigError
from ad_jax.keys import a_key
from ad_jax.models.base import Model
from ad_jax.models.lstm import LSTM
from ad_jax.models.together import Together
from ad_jax.models.transformer import Transformer
from ad_jax.sharding import param_shardings
from ad_jax.testing import check_model
from ad_jax.types import Box, Discrete, Spec

SPECS = {
    "grid": Spec(Discrete(5), (2,), (4, 4)),
    "arms": Spec(Discrete(3), (), (1,)),
    "table": Spec(Box((2,), -1.0, 1.0), (4,), None),
}
CONFIGS = {
    "transformer": Transformer(layers=1, width=8, heads=2, mlp_width=8, window=5),
    "lstm": LSTM(width=8, hidden=8, mlp_width=8),
}


def together(kind: str = "transformer", names=tuple(SPECS)) -> Together:
    return Together({name: CONFIGS[kind].make(SPECS[name]) for name in names})


def sizes(tree) -> dict[str, int]:
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x.size for p, x in jax.tree.leaves_with_path(tree)}


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_trunk_is_there_once_and_each_member_has_its_own_layers(kind):
    found = together(kind)
    params = found.init(a_key(0))
    plain = {name: sizes(model.init(a_key(0))) for name, model in found.members.items()}
    trunk = {path: n for path, n in plain["grid"].items() if path.split("/")[0] not in found.own}
    own = {
        path.replace("/", f"/{name}/", 1): n
        for name, of_one in plain.items()
        for path, n in of_one.items()
        if path not in trunk
    }
    assert sizes(params) == trunk | own
    for name in SPECS:
        assert sizes(found.view(params, name)) == plain[name]


def test_the_order_of_members_says_nothing():
    some, others = together(), together(names=tuple(reversed(SPECS)))
    jax.tree.map(np.testing.assert_array_equal, some.init(a_key(3)), others.init(a_key(3)))
    first = some.init(a_key(3))["head"]
    assert not np.array_equal(first["grid"]["kernel"][:, :3], first["arms"]["kernel"]), "each has a key of its own"


def test_one_alone_has_the_parameters_of_its_plain_model_in_their_order():
    alone = together(names=("table",))
    params, plain = alone.init(a_key(1)), alone.members["table"].init(a_key(1))
    for mine, its in zip(jax.tree.leaves(params), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(mine, its)


@pytest.mark.parametrize("name", SPECS)
def test_each_member_of_a_mixture_keeps_the_contract_of_models(name):
    """`apply` equals `decode` with its own view of the parameters of all."""
    found = together()
    model = found.members[name]
    mine = model._replace(init=lambda key: found.view(found.init(key), name))
    assert len(check_model(mine, SPECS[name], episode_length=4)) > 5


def test_parameters_of_all_are_split_as_those_of_each():
    found, mesh = together(), mesh_of(2, 2, 2)
    shapes = jax.eval_shape(lambda: found.init(a_key(0)))
    placed = param_shardings(shapes, mesh, found.partition)
    for name, model in found.members.items():
        mine = found.view(placed, name)
        assert mine == param_shardings(jax.eval_shape(lambda m=model: m.init(a_key(0))), mesh, model.partition)
    split = [x for x in jax.tree.leaves(placed) if not x.is_fully_replicated]
    assert len(split) > 6


def test_a_backbone_that_does_not_say_what_is_its_own_is_refused():
    silent = Model(lambda key: {"w": jnp.zeros(3)}, unused, unused, unused, unused, 1, None)
    with pytest.raises(ConfigError, match=r"Model.own.*model=transformer or model=lstm"):
        Together({"some": silent})
    with pytest.raises(ConfigError, match="at least one member"):
        Together({})


def test_trunks_of_other_shapes_are_refused_by_the_parameter():
    wide = Transformer(layers=1, width=16, heads=2, mlp_width=8, window=5).make(SPECS["arms"])
    with pytest.raises(ConfigError, match="members grid and arms cannot share a trunk: parameter block_0"):
        Together({"grid": together().members["grid"], "arms": wide})
