"""A distilled learner as a thing to use: `agent = Agent.load(path)`, `agent.reset(batch)`, `action = agent.act(...)`.

It learns in its context and never by gradient. The policy's carry, the previous actions and the random keys are inside;
the model and its options come from the checkpoint, so nothing else needs to be known.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ad_jax import values
from ad_jax.errors import AdJaxError, ConfigError
from ad_jax.files import Json
from ad_jax.keys import named_key
from ad_jax.methods.base import MethodConfig
from ad_jax.policies.base import Carry, Mode, Policy
from ad_jax.process import settings
from ad_jax.registry import build
from ad_jax.run import frozen
from ad_jax.types import Box, PyTree, Spec, Steps


class Agent:
    """A batch of in-context learners with frozen parameters.

    Args:
        policy: what acts; of a sequence model, `policies.base.from_model`.
        params: its parameters; `Agent.load` finds these and the policy.
        spec: of what it sees and does.
    """

    def __init__(self, policy: Policy, params: PyTree, spec: Spec):
        if policy.tell is not None:
            raise AdJaxError(
                "this policy is told more of its task at each step than it sees, which evaluation knows and an Agent "
                'does not. Where that is the goal of the task, give one: Agent.load(path, acting={"goal": (3, 4)})'
            )
        self.policy, self.params, self.spec = policy, params, spec
        self._act = jax.jit(self._decide, donate_argnums=1)
        self.reset()

    @classmethod
    @settings.pinned()
    def load(
        cls,
        path: str | Path,
        which: str = "last",
        mode: Mode = "sampled",
        temperature: float = 1.0,
        acting: Mapping[str, Json] | None = None,
        env: str | None = None,
    ) -> "Agent":
        """Return the agent of a run directory or checkpoint folder.

        Args:
            path: of either.
            which: `"last"` or `"best"`, of the checkpoints that were kept.
            mode: `"sampled"` or `"greedy"` actions.
            temperature: of sampled actions, above 0; below 1 the likelier ones gain.
            acting: what the method is asked for, in the place of what the run asked: options of `method.acting`, such
                as `{"goal": (3, 4)}` of a diffuser.
            env: where one model was trained on several families, the one to act in, by its name in the mixture.

        Raises:
            AdJaxError: if `mode`, `temperature`, `acting` or `env` cannot be, or the method's code cannot be loaded.
            CheckpointError: if there is no readable checkpoint, or the model's code does something else since.
        """
        found = frozen.load(path, which, env)
        method = found.method if acting is None else _asked(found.method, acting)
        return cls(method.policy(found.model, mode, temperature), found.params, found.spec)

    @settings.pinned()
    def reset(self, batch: int = 1, seed: int = 0) -> None:
        """Forget everything: `batch` new lifetimes. (Not at the end of an episode: the context spans episodes.)"""
        if batch < 1:
            raise AdJaxError(f"reset expects a batch of at least 1; got {batch}")
        self._carry, self._time = self.policy.init(batch), 0
        none = self.spec.action  # what was done before the first step
        self._action = np.full((batch, *none.shape), none.none, none.compute_dtype)
        rows = jnp.arange(batch, dtype=jnp.int32)
        self._keys = jax.vmap(functools.partial(jax.random.fold_in, named_key(seed, "agent")))(rows)

    @settings.pinned()
    def act(self, observation: ArrayLike, reward: ArrayLike | None = None, done: ArrayLike | None = None) -> np.ndarray:
        """Actions for the current observations.

        Args:
            observation: `[batch, *O]`; after an episode ended, the new episode's first.
            reward: `[batch]`, what the last actions earned; None (zero) on the first call.
            done: `[batch]` bool, whether the last actions ended an episode; None (False) on the first call.

        Returns:
            `[batch]` int32; of a Box `[batch, *S]` float32, inside it.

        Raises:
            AdJaxError: if observation, reward or done is not what the spec says or not finite, which leaves the context
                as it was; if reward and done are missing after the first call; or if the model's logits
                are NaN, +inf, or -inf for every action of a row, or an action in a Box is outside it.
        """
        observation = self._checked(observation)
        if self._time and (reward is None or done is None):
            raise AdJaxError(
                "act needs reward and done of the last action on every call after the first: "
                "they are what the agent learns from"
            )
        steps = Steps(
            observation=observation,
            prev_action=self._action,
            prev_reward=self._per_row("reward", reward),
            prev_done=self._per_row("done", done) != 0,
        )
        keys = jax.vmap(jax.random.fold_in, (0, None))(self._keys, self._time)
        action, self._carry, highest = self._act(self.params, self._carry, steps, keys)
        if highest is not None:
            self._check(np.asarray(highest))
        action = np.asarray(action)
        self._check_inside(action)
        self._action, self._time = action, self._time + 1
        return action

    def _decide(
        self, params: PyTree, carry: Carry, steps: Steps, keys: jax.Array
    ) -> tuple[jax.Array, Carry, jax.Array | None]:
        action, carry = self.policy.act(params, carry, steps, keys)
        return action, carry, self.policy.highest(carry)

    def _check(self, highest: np.ndarray) -> None:
        """Raise AdJaxError for the first row of a step whose policy had nothing to choose; `highest` is `[B]`."""
        if len(rows := np.flatnonzero(~np.isfinite(highest))):
            raise AdJaxError(
                f"{values.no_choice(float(highest[rows[0]]))}; row {rows[0]}, at step {self._time}. "
                f"{values.REMEDY['logits']}. reset() forgets this context"
            )

    def _check_inside(self, action: np.ndarray) -> None:
        """Raise AdJaxError for the first row whose action `[batch, *S]` is none of a Box."""
        if isinstance(box := self.spec.action, Box):
            outside = values.no_action(box, action.reshape(len(action), box.size))
            if outside.any():
                row = int(np.argwhere(outside)[0][0])
                raise AdJaxError(
                    f"the policy's action {action[row].tolist()} for row {row}, at step {self._time}, is outside "
                    f"{box}. {values.REMEDY['action']}"
                )

    def _checked(self, observation: ArrayLike) -> np.ndarray:
        """Return the observations as the spec has them, or an AdJaxError that says how they are not."""
        given, expected = np.asarray(observation), (len(self._action), *self.spec.shape)
        if given.shape != expected:
            raise AdJaxError(
                f"act expects observations of shape {expected} (batch, then one observation); "
                f"got {given.shape}. reset(batch=...) sets the batch"
            )
        if self.spec.values is None and not self.spec.pixels:
            return self._finite("observation", given)
        flat, most = given.reshape(len(given), -1), np.array(256 if self.spec.pixels else self.spec.values)
        whole = np.issubdtype(given.dtype, np.integer)
        if not (whole and np.all((flat >= 0) & (flat < most))):
            row, place = np.argwhere((flat < 0) | (flat >= most))[0] if whole else (0, 0)
            index = tuple(map(int, np.unravel_index(place, self.spec.shape)))
            found = (
                f"{flat[row, place]} in row {row}" + (f", component {index}" if index else "") if whole else given.dtype
            )
            raise AdJaxError(f"act expects whole observations in 0..{(most - 1).tolist()}; got {found}")
        return given.astype(self.spec.compute_dtype)

    def _finite(self, name: str, given: np.ndarray) -> np.ndarray:
        """Numbers `[batch, ...]` as float32; an AdJaxError that names the row of one that is none."""
        with np.errstate(over="ignore"):
            numbers = given.astype(np.float32)
        if not (finite := np.isfinite(numbers)).all():
            at = tuple(map(int, np.argwhere(~finite)[0]))
            row = f"row {at[0]}" + (f", component {at[1:]}" if at[1:] else "") if at else "every row"
            raise AdJaxError(
                f"act expects finite numbers: {name} is {given[at]} in {row}, at step {self._time}. It was not added "
                "to the context, from which it would never go away: mend where it comes from"
            )
        return numbers

    def _per_row(self, name: str, value: ArrayLike | None) -> np.ndarray:
        """`[batch]` float32; None and single numbers are for every row."""
        given = np.asarray(0 if value is None else value)
        shape = (len(self._action),)
        if given.shape not in ((), shape):
            raise AdJaxError(f"act expects {name} of shape {shape}; got {given.shape}")
        if name == "done" and not np.isin(given, (0, 1)).all():
            raise AdJaxError(f"act expects done to be True or False (1 or 0) in each row; got {given.tolist()}")
        return np.broadcast_to(self._finite(name, given), shape)


def _asked(method: MethodConfig, acting: Mapping[str, Json]) -> MethodConfig:
    """Return a method that is asked for something else.

    Raises:
        ConfigError: for an option that it does not have, with near matches, or a value of the wrong type.
    """
    held = getattr(method, "acting", None)
    if held is None:
        raise ConfigError(f"acting={dict(acting)}: {type(method).__name__} is asked for nothing when it acts. Leave it")
    return dataclasses.replace(method, **{"acting": build("method.acting", type(held), vars(held) | dict(acting))})
