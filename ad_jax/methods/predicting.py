"""What methods share that predict whole steps, and plan in what they predict: tokens, their bounds, and refusals."""

import dataclasses
import math
from typing import ClassVar, Self

import numpy as np

from ad_jax.envs.base import TaskFamily, seen_spec_of
from ad_jax.errors import ConfigError
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.methods.base import Channel
from ad_jax.methods.returns_to_come import returns_after
from ad_jax.methods.supervised import Supervised
from ad_jax.models.heads import check_takes_head
from ad_jax.models.step_tokens import Grid, Tokens
from ad_jax.types import Histories, Spec

CHANNEL = "return_after"
LARGEST = 4.0  # reward, in the unit that rewards are counted in: the root mean square of those that are not 0


@dataclasses.dataclass(frozen=True)
class Predicting(Supervised):
    """Options of how steps are predicted."""

    discount: float = 0.99  # of rewards a step later, in the return to come and in plans
    bins: int = 65  # points of the grid of rewards, of returns, and of each component of real observations
    hidden: int = 64  # of the network of each token of a step
    action_weight: float = 5.0  # of actions in the loss, beside 1 for each other token
    reward_bounds: tuple[float, float] | None = None  # in the run's unit of rewards; None: 4 units, and 0 or -4
    return_bounds: tuple[float, float] | None = None  # of the return to come, likewise; None: such rewards all episode
    observation_bounds: tuple[float, ...] | None = None  # of real observations: each component's largest size, or one

    needs: ClassVar[tuple[str, ...]] = ("reward", "terminated", "truncated")

    def validate(self, sampling: ReplayConfig) -> None:
        """Raise ConfigError where a number cannot be meant."""
        super().validate(sampling)
        self.at_least("bins", 2)
        self.at_least("hidden", 1)
        if self.label_smoothing:
            raise ConfigError(f"method.label_smoothing must be 0 where plans are made; got {self.label_smoothing}")
        if not 0 < self.discount <= 1:
            raise ConfigError(f"method.discount must be above 0 and at most 1; got {self.discount}")
        if not 0 < self.action_weight < math.inf:
            raise ConfigError(f"method.action_weight must be above 0 and finite; got {self.action_weight}")
        for name in ("reward_bounds", "return_bounds"):
            low, high = getattr(self, name) or (0.0, 1.0)
            if not -math.inf < low < high < math.inf:
                raise ConfigError(f"method.{name} must be two finite numbers, the lower first; got ({low}, {high})")
        if not all(0 < bound < math.inf for bound in self.observation_bounds or ()):
            raise ConfigError(f"method.observation_bounds must be above 0 and finite; got {self.observation_bounds}")

    def check_family(self, family: TaskFamily) -> None:
        """Raise ConfigError where observations are none that can be predicted component by component."""
        super().check_family(family)
        spec = seen_spec_of(family)
        if spec.pixels:
            raise ConfigError(
                f"{self.title} predicts the components of the next observation one by one, and those of {family.name} "
                f"are pictures {list(spec.shape)}. Use method=distillation"
            )
        bounds = self.observation_bounds
        if spec.values is not None and bounds is not None:
            raise ConfigError(
                f"method.observation_bounds is for real observations; those of {family.name} are whole numbers. Leave "
                "it out"
            )
        if spec.values is None and (bounds is None or len(bounds) not in (1, spec.size)):
            raise ConfigError(
                f"method.observation_bounds must say how large each of the {spec.size} components of an observation of "
                f"{family.name} gets, in 1 or {spec.size} numbers, because real ones are predicted on a grid; got "
                f"{bounds}. E.g. method.observation_bounds=(1.0,)"
            )

    def check_model(self, name: str, model_config: object) -> None:
        """Raise ConfigError where a model cannot have another head than its actions'."""
        check_takes_head(self.title, name, model_config)

    def channels(self, family: TaskFamily, spec: Spec) -> dict[str, Channel]:
        """Return what comes after each step in its episode, a target of the loss."""
        return {CHANNEL: Channel("float32")}

    def prepare(self, histories: Histories) -> dict[str, np.ndarray]:
        """Return the channel of histories."""
        t = histories.transition
        return {CHANNEL: returns_after(t.reward, t.done, self.discount)}

    def bounded(self, family: TaskFamily) -> Self:
        """Return the options with the bounds of rewards and returns, where they are left open."""
        signed = family.reward_dtype.kind not in "ub"
        reward = (-LARGEST if signed else 0.0, LARGEST) if self.reward_bounds is None else self.reward_bounds
        steps = float(np.sum(self.discount ** np.arange(family.episode_length)))
        found = (min(0.0, reward[0]) * steps, max(0.0, reward[1]) * steps)
        returns = found if self.return_bounds is None else self.return_bounds
        return dataclasses.replace(self, reward_bounds=reward, return_bounds=returns)

    def tokens(self, spec: Spec) -> Tokens:
        """Return the tokens of a step.

        Raises:
            ConfigError: if bounds are left open: `bind` knows them.
        """
        if self.reward_bounds is None or self.return_bounds is None:
            raise ConfigError("a model needs method.reward_bounds and method.return_bounds; set both, or bind(family)")
        bounds = (self.observation_bounds or ()) if spec.values is None else ()
        every = bounds * spec.size if len(bounds) == 1 else bounds
        return Tokens(
            spec,
            Grid(*self.reward_bounds, self.bins),
            Grid(*self.return_bounds, self.bins),
            tuple(Grid(-bound, bound, self.bins) for bound in every),
            self.hidden,
        )


def check_plans(*, beam: int | None, horizon: int | None, expand: int | None) -> None:
    """Raise ConfigError where there would be no plan; None is left open."""
    for name, given in (("beam", beam), ("horizon", horizon), ("expand", expand)):
        if given is not None and given < 1:
            raise ConfigError(f"method.acting.{name} must be at least 1; got {given}")


def plans_of(*, beam: int | None, horizon: int | None, expand: int | None) -> tuple[int, int, int]:
    """Return how plans are made.

    Raises:
        ConfigError: if it is left open: `bind` knows it.
    """
    if beam is None or horizon is None or expand is None:
        raise ConfigError("a policy needs method.acting.beam, .horizon and .expand; set them, or bind(family)")
    return beam, horizon, expand
