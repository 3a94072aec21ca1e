"""The contract of a policy: rows apart, one key a row, nothing but keys is random, at home in a compiled loop."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.keys import a_key
from ad_jax.policies.base import Policy
from ad_jax.testing.base import check_actions, require, run_checks, types_of
from ad_jax.testing.model import random_steps
from ad_jax.types import PyTree, Spec, Steps

ROWS = 3  # lifetimes side by side in every check
EPISODES = 3  # of each


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the checks work on."""

    policy: Policy
    spec: Spec
    params: PyTree
    steps: Steps  # [ROWS, T], a random stream
    others: Steps  # another one
    keys: jax.Array  # [ROWS, T]
    episode_length: int
    roll: Callable[..., jax.Array]  # `scanned(policy)`

    def act(self, steps: Steps | None = None, keys: jax.Array | None = None) -> np.ndarray:
        """Actions `[ROWS, T]` for a stream, in one scan."""
        own = self.steps if steps is None else steps, self.keys if keys is None else keys
        return np.asarray(self.roll(self.params, *own))


def scanned(policy: Policy) -> Callable[..., jax.Array]:
    """Return a program `(params, steps [B, T], keys [B, T]) -> actions [B, T]`, from empty contexts on."""

    def roll(params, steps, keys):
        def step(carry, x):
            action, carry = policy.act(params, carry, *x)
            return carry, action

        time_first = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (steps, keys))
        return jax.lax.scan(step, policy.init(len(keys)), time_first)[1].swapaxes(0, 1)

    return jax.jit(roll)


def check_policy(
    policy: Policy,
    spec: Spec,
    *,
    episode_length: int,
    params: PyTree = None,
    greedy: bool = False,
    episodic: bool = False,
) -> list[str]:
    """Run every check of the policy contract on random streams of a few lifetimes.

    Args:
        policy: built for `spec`.
        spec: what it sees and does.
        episode_length: steps between the episode boundaries of the streams.
        params: its parameters; those of a policy that is not trained are an empty dict.
        greedy: whether it draws nothing, so that no key changes an action.
        episodic: whether it starts anew at the end of an episode. An in-context learner does not.

    Returns:
        The names of the checks, all passed.

    Raises:
        ContractError: for the first check that fails.
    """
    length = EPISODES * episode_length + 1
    streams = (random_steps(spec, ROWS, length, episode_length, seed) for seed in (0, 1))
    keys = jax.random.split(a_key(2), (ROWS, length))
    params = {} if params is None else params
    steps, others = streams
    sample = Sample(policy, spec, params, steps, others, keys, episode_length, scanned(policy))
    checks = {
        "act gives actions [B] and a carry like the one of init": _shapes,
        "actions are in range": _range,
        "a carry can be donated": _donated,
        "the same keys give the same actions, in a scan and step by step": _scan,
        "rows of a batch do not affect one another": _rows,
        "a row acts alike wherever it is in the batch": _places,
        "a row's action is drawn with its own key": _keys,
    }
    checks |= {"no key changes a greedy action": _greedy} if greedy else {}
    checks |= {"it starts anew at the end of an episode": _episodic} if episodic else {}
    return run_checks("policy", checks, sample)


def _shapes(s: Sample) -> None:
    carry, now = jax.eval_shape(lambda: s.policy.init(ROWS)), jax.tree.map(lambda x: x[:, 0], s.steps)
    leads = [leaf for leaf in jax.tree.leaves(carry) if leaf.ndim and leaf.shape[0] != ROWS]
    require(not leads, f"scalars or [{ROWS}, ...] in the carry", leads[:3], "Put the batch first.")
    action, after = jax.eval_shape(s.policy.act, s.params, carry, now, s.keys[:, 0])
    found = f"{action.dtype}{list(action.shape)}"
    stated = f"{s.spec.action.compute_dtype}{[ROWS, *s.spec.action.shape]}"
    require(found == stated, f"actions {stated}", found, "One action a row; cast it.")
    alike = types_of(after, weak=True) == types_of(carry, weak=True)
    received = sorted(set(types_of(after, weak=True)) ^ set(types_of(carry, weak=True)))
    require(alike, "a carry of the same shapes and dtypes", received, "Cast what init and act carry alike.")
    highest = jax.eval_shape(s.policy.highest, carry)
    fits = highest is None or (highest.shape, highest.dtype) == ((ROWS,), jnp.float32)
    require(fits, f"highest to be None or float32[{ROWS}]", highest, "Say of each row what it chose from.")


def _range(s: Sample) -> None:
    check_actions(s.spec, s.act(), "Choose among the spec's actions.")


def _donated(s: Sample) -> None:
    leaves = [x for x in jax.tree.leaves(s.policy.init(ROWS)) if isinstance(x, jax.Array)]
    once = len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)
    require(once, "an array of its own for each leaf of the carry", "one array twice", "Make each leaf by itself.")


def _scan(s: Sample) -> None:
    step, carry, actions = jax.jit(s.policy.act), s.policy.init(ROWS), []
    for t in range(s.keys.shape[1]):
        now = jax.tree.map(lambda x: x[:, t], s.steps)  # noqa: B023
        action, carry = step(s.params, carry, now, s.keys[:, t])
        actions.append(np.asarray(action))
    same = np.array_equal(np.stack(actions, axis=1), s.act())
    remedy = "Keep what is known of a lifetime in the carry, and draw with the keys alone."
    require(same, "the same actions", "others", remedy)


def _rows(s: Sample) -> None:
    before = s.act()
    for row in range(ROWS):  # all others see another stream
        mine = np.arange(ROWS) == row
        mixed = jax.tree.map(functools.partial(_where, mine), s.steps, s.others)
        same = np.array_equal(s.act(mixed)[row], before[row])
        require(same, f"the same actions in row {row}", "others", "Compute each row by itself: vmap a rule of one.")


def _places(s: Sample) -> None:
    turned = s.act(jax.tree.map(lambda x: x[::-1], s.steps), s.keys[::-1])
    remedy = "A row does not know its number: draw with its key alone."
    require(np.array_equal(turned[::-1], s.act()), "the same actions with the rows in another order", "others", remedy)


def _keys(s: Sample) -> None:
    before, others = s.act(), jax.random.split(a_key(3), s.keys.shape)
    for row in range(ROWS):  # all others have other keys
        keys = jnp.where(jnp.arange(ROWS, dtype=jnp.int32)[:, None] == row, s.keys, others)
        same = np.array_equal(s.act(keys=keys)[row], before[row])
        remedy = "jax.vmap the draw over the keys."
        require(same, f"the same actions in row {row} when only other rows' keys change", "others", remedy)


def _greedy(s: Sample) -> None:
    same = np.array_equal(s.act(), s.act(keys=jax.random.split(a_key(3), s.keys.shape)))
    require(same, "the same actions with other keys", "others", "Take the best action, and draw nothing.")


def _episodic(s: Sample) -> None:
    whole, start = s.act(), s.episode_length
    rest = s.act(jax.tree.map(lambda x: x[:, start:], s.steps), s.keys[:, start:])
    same = np.array_equal(whole[:, start:], rest)
    require(same, "what an empty context does", "other actions", "Where prev_done, put the carry of init back.")


def _where(mine: np.ndarray, own: PyTree, other: PyTree) -> np.ndarray:
    return np.where(mine.reshape(-1, *(1,) * (own.ndim - 1)), own, other)
