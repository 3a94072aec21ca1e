"""What all contract checks share: the error, the runner, and comparisons.

A check is a function that raises: `require` inside it, `run_checks` around it.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import jax
import numpy as np
from gymnax.environments import spaces

from ad_jax.envs.spaces import Space
from ad_jax.envs.stepping import is_key, narrow
from ad_jax.errors import AdJaxError, told
from ad_jax.process import settings
from ad_jax.types import Discrete, PyTree, Spec
from ad_jax.values import no_action

S = TypeVar("S")

TOLERANCE = 1e-5  # two orders of summation may differ by this much, relatively or absolutely


class ContractError(AdJaxError):
    """A plug-in that breaks its contract; `check` names the promise that is broken."""

    def __init__(self, subject: str, check: str, expected: str, received: str, remedy: str):
        super().__init__(
            f"{subject} fails the check {check!r}: expected {expected}; received {received}. {remedy}".rstrip()
        )
        self.check = check


class BrokenError(Exception):
    """Expected, received, remedy."""


def require(holds: object, expected: str, received: object, remedy: str) -> None:
    """Raise unless `holds`; the words complete "expected ...; received .... remedy"."""
    if not holds:
        raise BrokenError(expected, str(received), remedy)


@contextlib.contextmanager
def promised(expected: str, remedy: str) -> Iterator[None]:
    """Raise as `require` does where an assertion of chex fails within; its first line says what was received."""
    try:
        yield
    except AssertionError as error:
        if not str(error).startswith("[Chex]"):  # a plug-in's own
            raise
        said = str(error).splitlines()[0].rstrip(".,: ")
        received = re.sub(r"^\[Chex\]\s*(Assertion \w+ failed:\s*)?(Error in .*?:\s*)?", "", said)
        raise BrokenError(expected, received, remedy) from None


@settings.pinned()
def run_checks(subject: str, checks: Mapping[str, Callable[[S], None]], sample: S) -> list[str]:
    """Run `checks` by name on `sample`.

    Returns:
        The names, all passed.

    Raises:
        ContractError: for the first that fails.
    """
    for name, check in checks.items():
        try:
            check(sample)
        except BrokenError as broken:
            raise ContractError(subject, name, *broken.args) from None
        except AdJaxError as error:
            raise ContractError(subject, name, "no error", str(error), "") from error
        except Exception as error:
            remedy = "With --traceback you see all of it."
            raise ContractError(subject, name, "no error", told(error), remedy) from error
    return list(checks)


def same(a: PyTree, b: PyTree) -> bool:
    """Equal structure, shapes and integers; reals to rounding."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    for x, y in zip(map(bits, jax.tree.leaves(a)), map(bits, jax.tree.leaves(b))):
        real = np.issubdtype(x.dtype, np.inexact)
        if x.shape != y.shape or not (np.allclose(x, y, TOLERANCE, TOLERANCE) if real else np.array_equal(x, y)):
            return False
    return True


def bits(x: PyTree) -> np.ndarray:
    """Return a leaf as NumPy has it: of random keys, their data."""
    return np.asarray(jax.random.key_data(x) if isinstance(x, jax.Array) and is_key(x) else x)


def types_of(tree: PyTree, weak: bool = False) -> list[str]:
    """Dtype and shape of every leaf, by path; with `weak`, also whether the dtype is weak."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.eval_shape(lambda: tree) if _concrete(tree) else tree)

    def mark(leaf):
        return "weak " if weak and leaf.weak_type else ""

    return [f"{jax.tree_util.keystr(path)} {mark(leaf)}{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves]


def _concrete(tree: PyTree) -> bool:
    return not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))


def check_space(space: Space, x: np.ndarray, what: str) -> None:
    """Every row of `x` is in the gymnax `space`, with its shape and kind of dtype."""
    require(
        x.shape[1:] == tuple(space.shape), f"{what} of shape {tuple(space.shape)}", x.shape[1:], "Correct the space."
    )
    both = narrow(space.dtype), x.dtype
    require(both[0] == both[1], f"{what} of dtype {both[0]}", both[1], "Correct the space, or cast.")

    def bound(given):
        return np.asarray(given, both[0])  # 0.1 is another number in 32 bits

    low, high = (0, space.n - 1) if isinstance(space, spaces.Discrete) else (bound(space.low), bound(space.high))
    inside = np.all((x >= low) & (x <= high))
    require(inside, f"{what} in {space}", f"values from {x.min()} to {x.max()}", "Correct the space.")


def joined(x: np.ndarray) -> np.ndarray:
    """Return `[lifetimes, steps, ...]` as `[lifetimes * steps, ...]`, also of an array that holds nothing."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def check_actions(spec: Spec, action: np.ndarray, remedy: str) -> None:
    """All of `action [..., *S]` are actions of `spec`."""
    stated = f"0..{spec.action.n - 1}" if isinstance(spec.action, Discrete) else str(spec.action)
    inside = not np.any(no_action(spec.action, action.reshape(-1, spec.action.size)))
    require(inside, f"actions in {stated}", f"actions from {action.min()} to {action.max()}", remedy)


def check_episodes(terminated: np.ndarray, truncated: np.ndarray, length: int) -> None:
    """Streams `[..., T]` end their episodes at `length`, or before it by termination."""
    require(not np.any(terminated & truncated), "one reason for an end", "both", "Truncated excludes terminated.")
    steps, remedy = terminated.shape[-1], "Count every step in `time`, from 0 at reset; leave is_truncated alone."
    for ends, cut in zip(terminated.reshape(-1, steps), truncated.reshape(-1, steps)):
        at = np.flatnonzero(ends | cut)
        lengths = np.diff(at, prepend=-1)  # of the complete episodes
        last = steps - 1 - (at[-1] if len(at) else -1)  # steps of the episode that goes on
        received = f"lengths {sorted(set(lengths.tolist()))}, then {last} steps without an end"
        fit = np.all(lengths <= length) and np.all(lengths[cut[at]] == length) and last < length
        require(fit, f"episodes of at most {length} steps, truncated there and not before", received, remedy)
