"""A distilled learner as a thing to use: `agent = Agent.load(path)`, `agent.reset(batch)`, `action = agent.act(...)`.

It learns in its context and never by gradient. The cache, the previous actions and the random keys are inside; the
model and its options come from the checkpoint, so nothing else needs to be known.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax import checkpoint, models
from ad_jax.errors import AdJaxError
from ad_jax.evaluate import Mode, choose
from ad_jax.keys import named_key
from ad_jax.models.base import Model
from ad_jax.types import Spec, Steps


class Agent:
    """A batch of in-context learners with frozen parameters.

    Args:
        model, params, spec: as in a checkpoint; `Agent.load` finds them.
        mode: `"sampled"` or `"greedy"` actions.
    """

    def __init__(self, model: Model, params: Any, spec: Spec, mode: Mode = "sampled"):
        self.model, self.params, self.spec, self.mode = model, params, spec, mode
        self._decode = jax.jit(model.decode, donate_argnums=1)
        self._choose = jax.jit(functools.partial(choose, mode=mode))
        self.reset()

    @classmethod
    def load(cls, path: str | Path, which: str = "last", mode: Mode = "sampled") -> "Agent":
        """The agent of a run directory or checkpoint folder.

        Raises:
            CheckpointError: if there is no readable checkpoint.
        """
        _, state, meta = checkpoint.load(Path(path), which)
        spec = Spec.from_json(meta["spec"])
        config = models.make_config(meta["model"]["name"], meta["model"]["options"])
        return cls(models.make(meta["model"]["name"], config, spec), state["params"], spec, mode)

    def reset(self, batch: int = 1, seed: int = 0) -> None:
        """Forget everything: `batch` new lives. (Not at the end of an episode: the context spans episodes.)"""
        self._cache, self._time = self.model.init_cache(batch), 0
        self._action = np.full(batch, self.spec.num_actions, np.int32)
        self._keys = jax.vmap(functools.partial(jax.random.fold_in, named_key(seed, "agent")))(jnp.arange(batch))

    def act(self, observation: Any, reward: Any = None, done: Any = None) -> np.ndarray:
        """Actions for the current observations.

        Args:
            observation: `[batch, *O]`; after an episode ended, the new episode's first.
            reward: `[batch]`, what the last actions earned; None (zero) on the first call.
            done: `[batch]` bool, whether the last actions ended an episode; None (False) on the first call.

        Returns:
            `[batch]` int32.

        Raises:
            AdJaxError: if shapes do not fit the spec, or reward and done are missing after the first call.
        """
        batch = len(self._action)
        observation = np.asarray(observation, np.float32 if self.spec.values is None else np.int32)
        if observation.shape != (batch, *self.spec.shape):
            raise AdJaxError(
                f"act expects observations of shape {(batch, *self.spec.shape)} (batch, then one observation); "
                f"got {observation.shape}. reset(batch=...) sets the batch"
            )
        if self._time and (reward is None or done is None):
            raise AdJaxError(
                "act needs reward and done of the last action on every call after the first: "
                "they are what the agent learns from"
            )
        per_row = lambda x, dtype: np.broadcast_to(np.asarray(0 if x is None else x, dtype), (batch,))
        steps = Steps(observation, self._action, per_row(reward, np.float32), per_row(done, bool))
        logits, self._cache = self._decode(self.params, self._cache, steps)
        keys = jax.vmap(jax.random.fold_in, (0, None))(self._keys, self._time)
        self._action, self._time = np.asarray(self._choose(logits, keys)), self._time + 1
        return self._action
