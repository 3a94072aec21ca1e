"""A small Dark Room, small models of it, and policies that are written down."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from helpers import unused

from ad_jax import envs
from ad_jax.envs.base import spec_of, take
from ad_jax.models.base import Model
from ad_jax.models.transformer import Paper, Transformer

ROOM = envs.make("dark_room", {"size": 5, "steps": 6})
SPEC = spec_of(ROOM)
TASKS = take(ROOM.all_tasks(), np.array([0, 7, 12, 24]))
IDS = ROOM.task_ids(TASKS)
SMALL: dict[str, Any] = {"layers": 2, "width": 16, "heads": 2, "mlp_width": 32}
MODELS = {
    "streaming": Transformer(**SMALL, window=7).make(SPEC),
    "paper": Paper(**SMALL, window=14, episode_length=6, embedding_scale=1.0).make(SPEC),
}


def scripted(policy) -> Model:
    """Return a "model" whose logits all but force `policy(steps [B]) -> action [B]`; it has no memory but the steps."""

    def decode(params, cache, steps):
        return 1e4 * jax.nn.one_hot(policy(steps), SPEC.num_actions), cache

    return Model(unused, unused, lambda batch: jnp.int32(0), decode, unused, 1, None)
