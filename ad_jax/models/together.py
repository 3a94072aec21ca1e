"""Several models with one trunk: each has the layers that take its observations and give its actions to itself.

A member is an ordinary model for its own `Spec`, and stays one: nothing here looks inside. What is shared is where its
parameters lie. Those that belong to a spec (`Model.own`) stand in the shared tree under their member's name, and all
others, the trunk, once:

    block_0/..., mask_token, norm/...       the trunk
    head/NAME/..., tokens/NAME/...          of the member NAME

`view` gives a member's own tree of these, without a copy. The names stand below the parts, and not above them, so that
the leaves of a member alone lie in the order of its plain model's: what is summed over all of them, such as the norm
of a gradient, is then the same number, to the bit.
"""

import dataclasses
import re
from collections.abc import Mapping

import jax

from ad_jax.errors import ConfigError
from ad_jax.keys import a_key, number_of
from ad_jax.models.base import Model, Params
from ad_jax.sharding import Partition
from ad_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Together:
    """Members by name, each a model of one backbone with the same options.

    Raises:
        ConfigError: if there is none, the backbone does not say which parameters belong to a spec, or the trunks of two
            are not of the same shapes.
    """

    members: Mapping[str, Model]

    def __post_init__(self) -> None:
        if not self.members:
            raise ConfigError("a mixture needs at least one member that is trained")
        shapes = {name: jax.eval_shape(model.init, a_key(0)) for name, model in self.members.items()}
        first, *others = shapes
        if not self.own:
            raise ConfigError(
                "this backbone does not say which of its parameters belong to the observations and actions "
                "(Model.own), so worlds with unlike ones cannot share the others. Use model=transformer or model=lstm"
            )
        trunks = {name: _shapes(self.trunk_of(tree)) for name, tree in shapes.items()}
        for name in others:
            if odd := sorted(trunks[name].items() ^ trunks[first].items()):
                raise ConfigError(
                    f"members {first} and {name} cannot share a trunk: parameter {odd[0][0]} differs or is missing in "
                    "one. Options of the model that depend on a world must be stated, not left open"
                )

    @property
    def own(self) -> tuple[str, ...]:
        """The parts at the top of the parameters that each member has to itself."""
        return next(iter(self.members.values())).own

    def trunk_of(self, params: Params) -> Params:
        """Return what all share, of the parameters of all or of one."""
        return {name: part for name, part in params.items() if name not in self.own}

    def init(self, key: jax.Array) -> Params:
        """Return parameters of all. The key is consumed.

        The trunk is that of the member whose name comes first, and the key of each member's own layers follows from its
        name: the order of the members says nothing. One alone has its plain model's parameters.
        """
        names = sorted(self.members)
        of = {name: self.members[name].init(key_of(key, name, len(names))) for name in names}
        return self.trunk_of(of[names[0]]) | {part: {name: of[name][part] for name in names} for part in self.own}

    def view(self, params: Params, name: str) -> Params:
        """Return the parameters of the member's own model, of those of all."""
        return view(params, name, self.own)

    @property
    def partition(self) -> Partition:
        """The names of every parameter's dimensions, as each member's model has them."""
        return tuple(line for name, model in self.members.items() for line in self._lines(name, model))

    def _lines(self, name: str, model: Model) -> Partition:
        """Return a line for each parameter that the member's model knows of, by its path in the tree of all."""
        found = []
        for path, _ in jax.tree_util.tree_flatten_with_path(jax.eval_shape(model.init, a_key(0)))[0]:
            plain = jax.tree_util.keystr(path, simple=True, separator="/")
            part, _, rest = plain.partition("/")
            names = next((names for pattern, names in model.partition if re.fullmatch(pattern, plain)), None)
            if names is not None:
                found.append((re.escape(f"{part}/{name}/{rest}" if part in self.own else plain), names))
        return tuple(found)


def key_of(key: jax.Array, name: str, members: int) -> jax.Array:
    """Return a member's own key; one that is alone has the whole, so that it is its plain run."""
    return key if members == 1 else jax.random.fold_in(key, number_of(name))


def view(params: Params, name: str, own: tuple[str, ...]) -> Params:
    """Return the parameters of a member's own model; `own` are the parts that stand under members' names."""
    return {part: tree[name] if part in own else tree for part, tree in params.items()}


def _shapes(tree: PyTree) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each leaf by its path."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (leaf.shape, str(leaf.dtype)) for path, leaf in leaves
    }
