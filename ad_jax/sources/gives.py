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


def check_gives(source: Source, family: "TaskFamily", asked: Mapping[str, bool], features: int | None = None) -> None:
    """Raise ConfigError unless the source's transitions hold what is asked for of them.

    Args:
        source: whose transitions they are.
        family: on which it learns.
        asked: names of fields, and whether they are asked for.
        features: how many are asked for; None for none.
    """
    asked = {**asked, "features": features is not None}
    if not any(asked.values()):
        return

    def stream(key: jax.Array, task: PyTree) -> Transition:
        return source.update(key, source.init(key, task), task)[1]

    given = jax.eval_shape(stream, jax.eval_shape(lambda: a_key(0)), family.default_params)
    remedies = {
        "next_observation": "Let its update return outcome.transition(observation, action) of each step",
        "preferences": "source=q_learning and source=dqn do; one of yours returns transitions with "
        "preferences=[..., A] float32",
        "features": "source=dqn does; one of yours returns transitions with features=[..., F] float32, F as asked for",
    }
    told = dict.fromkeys(asked, "true") | {"features": str(features)}
    for name, is_asked in asked.items():
        if is_asked and getattr(given, name) is None:
            raise ConfigError(
                f"collect.{name}={told[name]} needs a source whose transitions hold {name}; this one's hold None. "
                f"{remedies[name]}, or leave the option out"
            )
    if features is not None and given.features is not None and given.features.shape[-1] != features:
        raise ConfigError(
            f"collect.features={features} is how many features of each step are stored, and this source has "
            f"{given.features.shape[-1]}. Set it to that, or change the source's last layer"
        )
