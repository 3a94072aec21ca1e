"""Rulesets of XLand-MiniGrid made without its downloads, in its own encoding: a goal, rules, and what lies around.

A ruleset without rules is of the kind of its benchmark `trivial`: the goal is to stand before an object, to hold it, or
to put two objects side by side, among objects that do not matter. With `rules` > 0 the object of the goal is not there
at first. It is made by a chain of that many rules, of which each turns an object into the next one of the chain: when
it is held, when the agent moves beside it, or when it is put beside a partner. Every object of a ruleset is another
kind in another color, so each ruleset can be solved; objects are drawn from all 60 that can be picked up.

Source: Nikulin et al. 2023 (arXiv 2312.12044), section 2; the encodings are those of xminigrid 0.9.3, `core/goals.py`
and `core/rules.py`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.types import Array

TILES = {3: "ball", 4: "square", 5: "pyramid", 7: "key", 11: "hexagon", 12: "star"}  # what can be picked up
COLORS = {  # all but "empty" and black, which is the floor's
    1: "red",
    2: "green",
    3: "blue",
    4: "purple",
    5: "yellow",
    6: "gray",
    8: "orange",
    9: "white",
    10: "brown",
    11: "pink",
}
HOLD, NEAR, TOGETHER = 1, 3, 4  # goals: hold the object, stand before it, put it beside another
HELD, APPROACHED, JOINED = 1, 2, 3  # rules: when the object is held, approached, put beside another
GOALS = {"hold": HOLD, "near": NEAR, "together": TOGETHER}


class Rulesets(NamedTuple):
    """Rulesets as the library encodes them, uint8."""

    goal: Array  # [..., 5]: which goal, then kind and color of one object or two
    rules: Array  # [..., R, 7]: which rule, then kind and color of its objects and of what it makes; R >= 1
    init_tiles: Array  # [..., K, 2]: kind and color of what lies around at the start


def drawn(key: jax.Array, n: int, goals: tuple[str, ...], rules: int, distractors: int) -> Rulesets:
    """Draw n rulesets: goals and rules of each kind alike, objects without repetition. The key is consumed.

    Args:
        key: what decides.
        n: how many.
        goals: of the kinds `GOALS`, of which each ruleset has one.
        rules: length of the chain that leads to the object of the goal.
        distractors: how many objects lie around beside those that a goal or a rule could need.
    """

    def one(key):
        key_objects, key_goal, key_rules = jax.random.split(key, 3)
        objects = _objects(key_objects, 2 + 2 * rules + distractors)
        chain, partners, others = objects[: rules + 1], objects[rules + 1 : 2 * rules + 2], objects[2 * rules + 2 :]
        kinds = np.array([GOALS[goal] for goal in goals], np.uint8)
        kind = jnp.asarray(kinds)[jax.random.randint(key_goal, (), 0, len(kinds), jnp.int32)]
        partner = jnp.where(kind == TOGETHER, partners[0], jnp.zeros_like(partners[0]))
        goal = jnp.concatenate([kind[None], chain[0], partner])
        ways = jax.random.randint(key_rules, (rules,), HELD, JOINED + 1, jnp.int32)
        # A rule makes object i of the chain of object i + 1; only that of two objects names a partner.
        made = [_rule(way, chain[i + 1], partners[i + 1], chain[i]) for i, way in enumerate(ways)]
        steps = jnp.stack(made) if made else jnp.zeros((1, 7), jnp.uint8)
        return Rulesets(goal, steps, jnp.concatenate([chain[-1:], partners, others]))

    return jax.vmap(one)(jax.random.split(key, n))


def _objects(key: jax.Array, count: int) -> jax.Array:
    """Draw different objects, `[count, 2]` uint8."""
    every = np.array([(tile, color) for tile in TILES for color in COLORS], np.uint8)
    return jnp.asarray(every)[jax.random.permutation(key, len(every))[:count]]


def _rule(way: jax.Array, source: jax.Array, partner: jax.Array, product: jax.Array) -> jax.Array:
    """Encode a rule, `[7]` uint8."""
    nothing = jnp.zeros_like(partner)
    joined = way == JOINED
    return jnp.concatenate(
        [
            way.astype(jnp.uint8)[None],
            source,
            jnp.where(joined, partner, product),
            jnp.where(joined, product, nothing),
        ]
    )


def in_words(goal: Array, rules: Array) -> str:
    """Say a goal `[5]` and rules `[R, 7]` of this module in words."""

    def thing(pair):
        return f"the {COLORS[int(pair[1])]} {TILES[int(pair[0])]}"

    kind, *rest = np.asarray(goal).tolist()
    a, b = rest[:2], rest[2:4]
    sentences = [
        {HOLD: f"hold {thing(a)}", NEAR: f"stand before {thing(a)}"}.get(kind) or f"put {thing(a)} beside {thing(b)}"
    ]
    for way, *rest in np.asarray(rules).tolist():
        a, b, c = rest[:2], rest[2:4], rest[4:6]
        if way == JOINED:
            sentences.append(f"{thing(a)} beside {thing(b)} makes {thing(c)}")
        elif way:
            sentences.append(f"{thing(a)}, {'held' if way == HELD else 'approached'}, turns into {thing(b)}")
    return "; ".join(sentences)
