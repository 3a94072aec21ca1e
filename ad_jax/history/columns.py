"""What lies on the devices of every step of a history, by name, and the batch that windows of it become.

Only this module knows the names: subsampling, residents and rotation take whatever they are given. The two flags that
end an episode share a byte, so that both reach the devices in the room of one.

    observation, action, reward, ends   always; `ends` adds 1 where the environment ended the episode, 2 where the time
                                        limit did
    next_observation, preferences       where a method asks for them
    channels                            those that a method prepares
"""

from collections.abc import Callable, Collection, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from ad_jax.errors import ConfigError, unknown
from ad_jax.types import Array, Batch, Histories, Spec, Steps, Transition

TERMINATED, TRUNCATED = 1, 2  # in `ends`
NEXT = "next_observation"
PREFERENCES = "preferences"
STORED = {NEXT: "what each action led to before any reset", PREFERENCES: "what the source held of each action"}
NEEDS = ("reward", "terminated", "truncated", *STORED)  # what a method can ask for of a step, beside its action
ALWAYS = ("observation", "action", "reward", "ends")
RESERVED = frozenset((*ALWAYS, *NEEDS))  # no channel has such a name


def check_needs(needs: Collection[str], held: Collection[str]) -> None:
    """Raise ConfigError where a method asks for what histories do not hold.

    Args:
        needs: the names that it asks for.
        held: which of `STORED`, what is stored on request alone, is there.
    """
    for name in needs:
        if name not in NEEDS:
            raise unknown("field of a step in the method's needs", name, NEEDS)
        if name in STORED and name not in held:
            raise ConfigError(
                f"the method learns from {name}, {STORED[name]}, which is stored on request: set collect.{name}=true, "
                "and collect in a new directory"
            )


def of(transition: Transition, action_dtype: DTypeLike) -> dict[str, np.ndarray]:
    """Return what lies on the devices of every step, `[H, T, ...]` by name, whatever the method is.

    Args:
        transition: `[H, T, ...]`.
        action_dtype: what holds an action, or "none".
    """
    t = transition
    ends = TERMINATED * np.asarray(t.terminated, np.uint8) + TRUNCATED * np.asarray(t.truncated, np.uint8)
    action = np.asarray(t.action).astype(action_dtype, copy=False)
    return {"observation": np.asarray(t.observation), "action": action, "reward": np.asarray(t.reward), "ends": ends}


def asked_for(histories: Histories, needs: Collection[str]) -> dict[str, np.ndarray]:
    """Return what a method that `needs` more makes lie beside it, `[H, T, ...]` by name.

    Raises:
        ConfigError: if the histories do not hold it.
    """
    held = {name: x for name in STORED if (x := getattr(histories.transition, name)) is not None}
    check_needs(needs, held)
    return {name: np.asarray(x) for name, x in held.items() if name in needs}


def none(spec: Spec) -> dict[str, float]:
    """Return what stands in the columns of the "none" step before the first; 0 in those that are not named."""
    return {"action": spec.action.none}


def shapes(spec: Spec, reward_dtype: DTypeLike, needs: Collection[str] = ()) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shape and dtype of one step in each column, without a method's channels."""
    found: dict[str, tuple[tuple[int, ...], DTypeLike]] = {
        "observation": (spec.shape, spec.observation_dtype),
        "action": (spec.action.shape, spec.action.dtype_with_none),
        "reward": ((), reward_dtype),
        "ends": ((), np.uint8),
    }
    found |= {NEXT: found["observation"]} if NEXT in needs else {}
    found |= {PREFERENCES: ((spec.num_actions,), np.float32)} if PREFERENCES in needs else {}
    return {name: jax.ShapeDtypeStruct(shape, np.dtype(dtype)) for name, (shape, dtype) in found.items()}


def batch(
    windows: Mapping[str, Array],
    spec: Spec,
    render: Callable[[Array], Array],
    inputs: Collection[str],
    needs: Collection[str],
) -> Batch:
    """Return the batch of windows of the columns.

    Args:
        windows: `[B, 1 + L, ...]` by name; the first step is the one before the batch's.
        spec: of the observations as they are stored.
        render: what the model sees of one of them.
        inputs: which channels go to the model; the others are targets.
        needs: which fields of the step are targets, too.
    """
    before = {name: x[:, :-1] for name, x in windows.items()}
    now = {name: x[:, 1:] for name, x in windows.items()}

    def see(name: str) -> jax.Array:
        return jax.vmap(jax.vmap(render))(now[name].astype(spec.compute_dtype))

    channels = {name: _computed(x) for name, x in now.items() if name not in RESERVED}
    steps = Steps(
        observation=see("observation"),
        prev_action=before["action"].astype(spec.action.compute_dtype),
        prev_reward=before["reward"].astype(jnp.float32),
        prev_done=before["ends"] != 0,
        extra={name: x.astype(jnp.float32) for name, x in channels.items() if name in inputs},
    )
    known = {
        "reward": lambda: now["reward"].astype(jnp.float32),
        "terminated": lambda: now["ends"] & TERMINATED != 0,
        "truncated": lambda: now["ends"] & TRUNCATED != 0,
        NEXT: lambda: see(NEXT),
        PREFERENCES: lambda: now[PREFERENCES].astype(jnp.float32),
    }
    targets = {"action": now["action"].astype(spec.action.compute_dtype)} | {name: known[name]() for name in needs}
    return Batch(steps, targets | {name: x for name, x in channels.items() if name not in inputs})


def _computed(x: jax.Array) -> jax.Array:
    """Return a channel in the dtype that programs compute in: bool, int32 or float32."""
    if x.dtype == jnp.bool_:
        return x
    return x.astype(jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else jnp.int32)
