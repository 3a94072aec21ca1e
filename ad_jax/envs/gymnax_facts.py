"""What is known of gymnax's environments before one of them is run: which are refused, and what their parameters do.

A parameter is a task only where the agent can come to know it: where what is seen, earned or ended depends on it, and
through the parameters, not through a copy in the state. Both are read from the program of a step (its jaxpr), for any
environment; what cannot be read there stands in `REFUSED`. `docs/envs/gymnax.md` lists every environment of gymnax.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import jax

from ad_jax.errors import ConfigError
from ad_jax.keys import a_key
from ad_jax.types import PyTree

REFUSED = {  # environment's name: why no task family can be made of it
    "MetaMaze-misc": "its goal is drawn anew in each episode, and whoever reaches it is put on a random cell and ends "
    "the episode only where that is the goal by chance (1 in 65); use dark_room, whose goal is the task",
    "SimpleBandit-bsuite": "each pull is an episode of its own and draws all arms anew, so that nothing can be learned "
    "of them; use the family bandit, whose arms are the task",
    "MNISTBandit-bsuite": "it downloads its pictures, and draws another one for each episode of one step",
}

DERIVED: dict[str, dict[str, Callable[[PyTree], PyTree]]] = {  # environment's name: parameter: computed from the others
    "CartPole-v1": {
        "total_mass": lambda p: p.masscart + p.masspole,
        "polemass_length": lambda p: p.masspole * p.length,
    }
}


def check_step(module: ModuleType) -> None:
    """Raise ConfigError where `gymnax.environments.environment` is not that of gymnax 1.x: a fork may overwrite it."""
    if "final_observation" not in inspect.getsource(module.Environment.step):
        raise ConfigError(
            f"expected gymnax 1.x, whose step gives six values and info['final_observation']; {module.__file__} is of "
            "another kind. A fork has overwritten gymnax's files (stable-gymnax does; popgym-arcade brings it), or an "
            "old version is installed. Run pip uninstall stable-gymnax, then pip install --force-reinstall --no-deps "
            "'gymnax>=1.0.1,<2'"
        )


@dataclasses.dataclass(frozen=True)
class Acting:
    """What the parameters of an environment do.

    Attributes:
        idle: those on which nothing depends that an agent sees, earns or is ended by.
        copied: those that a reset copies to the state, by the state's leaf, and that no step reads.
    """

    idle: frozenset[str]
    copied: Mapping[str, str]

    def objection(self, name: str) -> str | None:
        """Why parameter `name` makes no tasks, or None."""
        if name in self.idle:
            return "nothing that an agent sees or earns depends on it"
        if name in self.copied:
            return (
                f"a reset copies it into the state ({self.copied[name]}), and steps read that copy; a task stands in "
                "the parameters alone"
            )
        return None


def acting(
    reset: Callable[..., PyTree], step: Callable[..., PyTree], action: PyTree, values: Mapping[str, PyTree]
) -> Acting:
    """Return what parameters `values` do in an environment.

    Args:
        reset: `(values, key) -> seen, state`.
        step: `(values, key, state, action) -> seen, state`, where `seen` is all that is learned from.
        action: shape and dtype of one.
        values: the parameters by name, as arrays.
    """
    key = a_key(0)
    state = jax.eval_shape(reset, values, key)[1]
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    started, stepped = _trace(reset, values, key), _trace(step, values, key, state, action)
    offset = len(values) + 1  # where the leaves of the state begin among a step's inputs

    def inside(outputs):
        return [used for used, _ in outputs[len(outputs) - len(paths) :]]

    def outside(outputs):
        return frozenset().union(*(used for used, _ in outputs[: len(outputs) - len(paths)]))

    # Leaves of the state that something depends on which is seen, now or later.
    matter: frozenset[int] = frozenset()
    while True:
        used = outside(stepped).union(*(inside(stepped)[leaf] for leaf in matter))
        grown = frozenset(leaf for leaf in range(len(paths)) if offset + leaf in used)
        if grown <= matter:
            break
        matter |= grown
    begun = outside(started).union(*(inside(started)[leaf] for leaf in matter))
    copies = {place: paths[i] for i, (_, place) in reversed([*enumerate(started[len(started) - len(paths) :])])}
    names = sorted(values)  # as JAX orders the leaves of a dictionary
    return Acting(
        idle=frozenset(name for i, name in enumerate(names) if i not in used | begun),
        copied={name: f"state{copies[i]}" for i, name in enumerate(names) if i in copies and i not in used},
    )


def _trace(call: Callable[..., PyTree], *args: PyTree) -> list[tuple[frozenset[int], int | None]]:
    """Of each output of `call`: the inputs that it depends on, and the one that it is a plain copy of, if any."""
    closed = jax.make_jaxpr(call)(*args)
    inputs = [(frozenset({i}), i) for i in range(len(closed.jaxpr.invars))]
    return _follow(closed.jaxpr, inputs)


def _follow(jaxpr: Any, inputs: Sequence[tuple[frozenset[int], int | None]]) -> list[tuple[frozenset[int], int | None]]:
    nothing = (frozenset[int](), None)
    known = dict(zip(map(id, jaxpr.invars), inputs, strict=True))

    def of(var):
        return known.get(id(var), nothing)  # constants and literals depend on nothing

    for equation in jaxpr.eqns:
        given = [of(var) for var in equation.invars]
        inner = [
            x for x in equation.params.values() if hasattr(x, "eqns") or hasattr(getattr(x, "jaxpr", None), "eqns")
        ]
        inner = [getattr(x, "jaxpr", x) for x in inner]
        calls = len(inner) == 1 and equation.primitive.name not in ("while", "scan", "cond")
        if calls and len(inner[0].invars) == len(given) and len(inner[0].outvars) == len(equation.outvars):
            found = _follow(inner[0], given)
        else:  # a loop or a choice: each of its outputs may depend on all that goes in
            used = frozenset[int]().union(*(depends for depends, _ in given))
            plain = equation.primitive.name in COPYING and equation.outvars[0].aval.size == 1
            found = [(used, given[0][1] if plain else None)] * len(equation.outvars)
        known |= zip(map(id, equation.outvars), found)
    return [of(var) for var in jaxpr.outvars]


COPYING = {"broadcast_in_dim", "convert_element_type", "copy", "copy_p", "reshape", "squeeze", "stop_gradient"}
