"""What a source's transitions hold beside what all of them do, which is stored on request."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax

from ad_jax.errors import ConfigError
from ad_jax.keys import a_key
from ad_jax.sources.base import Source
from ad_jax.types import PyTree, Transition

if TYPE_CHECKING:
    from ad_jax.envs.base import TaskFamily


def check_gives(source: Source, family: "TaskFamily", asked: Mapping[str, bool]) -> None:
    """Raise ConfigError unless the source's transitions hold what is asked for of them, by name."""
    if not any(asked.values()):
        return

    def stream(key: jax.Array, task: PyTree) -> Transition:
        return source.update(key, source.init(key, task), task)[1]

    given = jax.eval_shape(stream, jax.eval_shape(lambda: a_key(0)), family.default_params)
    remedies = {
        "next_observation": "Let its update return outcome.transition(observation, action) of each step",
        "preferences": "source=q_learning and source=dqn do; one of yours returns transitions with "
        "preferences=[..., A] float32",
    }
    for name, is_asked in asked.items():
        if is_asked and getattr(given, name) is None:
            raise ConfigError(
                f"collect.{name}=true needs a source whose transitions hold {name}; this one's hold None. "
                f"{remedies[name]}, or leave the option out"
            )
