"""Values as a task family states them: looked at where they are produced, and again where they are read.

A family states how many values each component of an observation takes, how many actions there are, and the dtype that
holds every reward. What it then gives is believed nowhere: a second component of 10 in `Box(0, 8)` would be read from
another component's embedding, a 300 stored in 8 bits would be 44, and one NaN would be in a context for good. So the
compiled programs that step environments look at every value. Collecting carries the `First` value of each row that
cannot be. Evaluating, whose steps are short, carries only whether there was one, and finds out which by doing the same
again. The host looks once a dispatch and tells it in words; and `wrong` looks through histories that were stored by
somebody else. Nothing is wrapped, clipped or replaced.

Real observations have no bounds here: those that are stated are wrong in several public environments, nothing is stored
or embedded by them, and only NaN and infinity have no meaning to a network. Real actions have: whoever acts keeps them
inside their `Box`, to rounding, and what was done is what is stored.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from numpy.typing import DTypeLike

from ad_jax.errors import ConfigError
from ad_jax.types import Array, Box, Discrete, Histories, PyTree, Spec

NOTHING = -1
ROUNDING = 1e-6  # of a bound of an action, relative: a few roundings in float32
REMEDY = {
    "observation": "Mend what reset_env and step_env give, or state the range that it has in observation_space "
    "(`Discrete(n)` is 0..n-1, `Box(0, n)` is 0..n)",
    "action": "Mend who acts: a source's actions and a family's optimal_action are in 0..A-1, or inside their Box "
    "(squash or clip them there before they are done)",
    "reward": "Mend step_env, or widen reward_dtype to one that holds every reward exactly",
    "logits": "The parameters or the observations are too large for the model's arithmetic: see the checkpoint's loss, "
    "and scale the observations to about 1",
}


class First(struct.PyTreeNode):
    """The first value of each row that cannot be. Every leaf is `[...]` int32."""

    place: Array  # among the values of a step: components of the observation, action, reward, highest; or NOTHING
    step: Array
    episode: Array
    bits: Array  # of the value: it itself, or the bits of a float32


def nothing(shape: tuple[int, ...]) -> First:
    """Of rows `shape` that are all as stated."""
    return First(*(jnp.full(shape, fill, jnp.int32) for fill in (NOTHING, 0, 0, 0)))


def check_form(spec: Spec, observation: Array, action: Array, lead: int) -> None:
    """Raise ConfigError unless `observation` and `action`, after `lead` axes, have the spec's shape and kind."""
    kind = observation.dtype.kind
    fits = observation.dtype == np.uint8 if spec.pixels else spec.values is None or kind in "iub"
    if observation.shape[lead:] != spec.shape or not fits:
        raise ConfigError(
            f"observations of {observation.dtype}{list(observation.shape[lead:])} where observation_space says "
            f"{spec.compute_dtype}{list(spec.shape)}. Mend what reset_env and step_env give, or state what it is"
        )
    real = jnp.issubdtype(action.dtype, jnp.floating)
    if action.shape[lead:] != spec.action.shape or real != isinstance(spec.action, Box):
        raise ConfigError(
            f"actions of {action.dtype}{list(action.shape[lead:])} where action_space says "
            f"{spec.action.compute_dtype}{list(spec.action.shape)}. Mend who acts, or state what it is"
        )


def bad(
    spec: Spec, reward_dtype: DTypeLike, observation: Array, action: Array, reward: Array
) -> tuple[list[Array], list[Array]]:
    """Of steps `[...]`: whether each of their values cannot be, and its bits, in parts `[..., n]`, in order of place.

    Args:
        spec: what observations and actions can be.
        reward_dtype: the dtype that holds every reward exactly.
        observation: `[..., *O]`; pictures are not looked at, because their dtype holds nothing else.
        action: `[..., *A]`.
        reward: `[...]`.
    """
    check_form(spec, observation, action, reward.ndim)
    wrong, values = [], []
    if not spec.pixels:
        flat = observation.reshape(*reward.shape, spec.size)
        if spec.values is None:
            wrong.append(~jnp.isfinite(flat))
        else:
            flat = flat.astype(jnp.int32)
            most = jnp.asarray(spec.values, jnp.int32).reshape((1,) * reward.ndim + (-1,))
            wrong.append((flat < 0) | (flat >= most))
        values.append(flat)
    action = action.reshape(*reward.shape, spec.action.size)
    wrong += [no_action(spec.action, action), ~holds(reward_dtype, reward)[..., None]]
    values += [action, reward[..., None]]
    return wrong, [_bits(x) for x in values]


def no_action(stated: Discrete | Box, action: Array) -> Array:
    """Whether each component of actions `[..., n]` is none that is stated; bounds hold to float32's rounding."""
    if isinstance(stated, Discrete):
        return (action < 0) | (action >= stated.n)
    low, high = stated.bounds
    slack = ROUNDING * np.maximum(np.abs(low), np.abs(high))

    def each(bound):
        return bound.reshape((1,) * (action.ndim - 1) + (-1,))

    return ~((action >= each(low - slack)) & (action <= each(high + slack)))  # NaN is on neither side


def holds(dtype: DTypeLike, reward: Array) -> Array:
    """Whether `dtype` holds each reward exactly; NaN and infinity it never does."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return (reward == 0) | (reward == 1)
    if np.issubdtype(dtype, np.integer):
        # A float32 is not compared with the largest integer, which it may not hold, but with the power of two after it.
        low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max + 1)
        return (reward >= low) & (reward < high) & (reward == jnp.floor(reward))
    finite = jnp.isfinite(reward)
    return finite if dtype.itemsize >= 4 else finite & (reward.astype(dtype).astype(reward.dtype) == reward)


def look(
    spec: Spec,
    reward_dtype: DTypeLike,
    first: First,
    step: Array,
    episode: Array,
    observation: Array,
    action: Array,
    reward: Array,
    highest: Array | None = None,
) -> First:
    """`first [...]`, or what this step of rows `[...]` shows where nothing was found before.

    Args:
        spec: as of `bad`.
        reward_dtype: as of `bad`.
        first: `[...]`, what was found before.
        step: `[...]` or `[]` int32, which step of its lifetime this is, from 0 on.
        episode: `[...]` int32, which episode of its lifetime this is, from 0 on; 0 where none are counted.
        observation: as of `bad`.
        action: as of `bad`.
        reward: as of `bad`.
        highest: `[...]` float32, what the policy that acted says of the step, if anything.
    """
    wrong, values = bad(spec, reward_dtype, observation, action, reward)
    if highest is not None:  # after everything else of the step
        wrong, values = [*wrong, ~jnp.isfinite(highest)[..., None]], [*values, _bits(highest)[..., None]]
    place, value = _first(jnp.concatenate(wrong, axis=-1), jnp.concatenate(values, axis=-1))
    found = place < sum(part.shape[-1] for part in wrong)
    new = (first.place == NOTHING) & found
    found = First(place, step, episode, value)
    return jax.tree.map(lambda now, before: jnp.where(new, now, before), found, first)


def impossible(
    spec: Spec, reward_dtype: DTypeLike, observation: Array, action: Array, reward: Array, highest: Array | None = None
) -> Array:
    """Whether anything of steps `[...]` cannot be, `[...]` bool; arguments are as of `look`."""
    wrong, _ = bad(spec, reward_dtype, observation, action, reward)
    found = functools.reduce(jnp.logical_or, (part.any(axis=-1) for part in wrong))
    return found if highest is None else found | ~jnp.isfinite(highest)


def look_through(spec: Spec, reward_dtype: DTypeLike, first: First, step: Array, transitions: PyTree) -> First:
    """Return the same for transitions `[U, actors, ...]` of which the first is step `step` of `first [actors]`."""
    t = transitions
    hit = impossible(spec, reward_dtype, t.observation, t.action, t.reward)  # [U, actors]
    at = jnp.argmax(hit, axis=0)

    def pick(x):
        return jnp.take_along_axis(x, at.reshape(1, -1, *(1,) * (x.ndim - 2)), axis=0)[0]

    observation, action, reward = pick(t.observation), pick(t.action), pick(t.reward)
    step = step + at.astype(jnp.int32)
    return look(spec, reward_dtype, first, step, jnp.zeros_like(first.episode), observation, action, reward)


def told(spec: Spec, reward_dtype: DTypeLike, first: First) -> tuple[str, str]:
    """Return what was found, one row, in words, and which field of `REMEDY` it is. Numbers of `first` are NumPy's."""
    place, bits = int(first.place), np.asarray(first.bits, np.int32)
    size = 0 if spec.pixels else spec.size
    number = float(bits.view(np.float32))
    if place < size:
        whole = spec.values is not None
        where = "" if spec.shape == () else f" component {_component(spec, place)}"
        value = str(int(bits)) if whole else str(number)
        return f"observation{where} is {value}, {_stated(spec, place)}", "observation"
    if place < size + spec.action.size:
        component, bounds = _action(spec.action, place - size)
        value = int(bits) if isinstance(spec.action, Discrete) else number
        return f"action{component} is {value}, {bounds if math.isfinite(number) else NOT_FINITE}", "action"
    if place == size + spec.action.size:
        why = f"{np.dtype(reward_dtype).name} (reward_dtype) cannot hold it" if math.isfinite(number) else NOT_FINITE
        return f"reward is {number:.9g}, {why}", "reward"
    return no_choice(number), "logits"


def no_choice(highest: float) -> str:
    """Why a policy had nothing to choose, in words; `highest` is as of `ad_jax.policies.base.Policy`."""
    if highest == -math.inf:
        return "the model's logits are -inf for every action: none can be chosen"
    return f"the model's highest logit is {highest}, {NOT_FINITE}"


NOT_FINITE = "no finite number"


def wrong(histories: Histories, spec: Spec, numbers: np.ndarray | None = None) -> str | None:
    """Return the first value of stored histories that cannot be, in words; None where all are as `spec` states.

    Args:
        histories: as stored, `[H, T]`.
        spec: what observations and actions can be.
        numbers: what the histories are called there, `[H]`; default 0..H-1.
    """
    if where := histories.not_finite(numbers):
        return where
    found = []
    action = np.asarray(histories.transition.action)
    action = action.reshape(*action.shape[:2], spec.action.size)
    if isinstance(spec.action, Box):
        bad = no_action(spec.action, action)
        at = tuple(map(int, np.unravel_index(int(bad.argmax()), bad.shape))) if bad.any() else None
    else:
        at = _outside(action, np.array([spec.action.n]))
    if at is not None:
        component, bounds = _action(spec.action, at[2])
        found.append((at[:2], f"action{component} {action[at]}, {bounds}"))
    for field in ("observation", "next_observation"):
        observation = getattr(histories.transition, field)
        if spec.values is None or observation is None:
            continue
        flat = np.asarray(observation).reshape(*action.shape[:2], spec.size)
        if (at := _outside(flat, np.array(spec.values))) is not None:
            where = "" if spec.shape == () else f" component {_component(spec, at[2])}"
            found.append((at[:2], f"{field}{where} {flat[at]}, {_stated(spec, at[2])}"))
    if not found:
        return None
    (row, step), what = min(found)
    return f"{what}, at step {step} of {histories.name(row, numbers)}"


def _outside(x: np.ndarray, most: np.ndarray) -> tuple[int, ...] | None:
    """Where `x [H, T, n]` is first outside 0..most-1 `[n]`; the quickest looks first, because all are mostly in."""
    if x.size == 0 or (x.dtype.kind == "u" and np.iinfo(x.dtype).max < most.min()):
        return None
    if x.max() < most.min() and (x.dtype.kind == "u" or x.min() >= 0):
        return None
    bad = (x < 0) | (x >= most)
    return tuple(map(int, np.unravel_index(int(bad.argmax()), bad.shape))) if bad.any() else None


def _stated(spec: Spec, place: int) -> str:
    return NOT_FINITE if spec.values is None else f"outside 0..{spec.values[place] - 1}"


def _action(stated: Discrete | Box, place: int) -> tuple[str, str]:
    """Which component of an action that is, and what it is outside of, in words."""
    if isinstance(stated, Discrete):
        return "", f"outside 0..{stated.n - 1}"
    low, high = (bound.reshape(-1)[place] for bound in stated.bounds)
    return f" component {_component(stated, place)}" if stated.shape else "", f"outside {low:g}..{high:g}"


def _component(spec: Spec | Box, place: int) -> str:
    """Return the index of a component in a shape."""
    index = np.unravel_index(place, spec.shape)
    return str(int(index[0])) if len(index) == 1 else str(tuple(map(int, index)))


def _first(wrong: Array, bits: Array) -> tuple[Array, Array]:
    """Where in each row `[..., n]` is the first wrong value, or n, and its bits, or 0: `[...]` int32 both.

    Two reductions, which fuse into the loop around them; an argmax and a gather by it would not.
    """
    places = jax.lax.broadcasted_iota(jnp.int32, wrong.shape, wrong.ndim - 1)
    place = jnp.where(wrong, places, wrong.shape[-1]).min(axis=-1)
    return place, jnp.where(places == place[..., None], bits, 0).sum(axis=-1, dtype=jnp.int32)


def _bits(x: Array) -> Array:
    """Of values: they themselves as int32, or the bits of float32."""
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
    return x.astype(jnp.int32)
