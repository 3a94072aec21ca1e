"""Diffuser: plans of observations are denoised as a whole, and inverse dynamics says how to follow them.

Trained on windows of histories inside one episode; asked afterwards for anything that a plan can be given: a goal that
no history was rewarded for, waypoints, a return. Whole observations are planned by masked diffusion, real ones by
Gaussian diffusion; where what is seen is a picture, what the family's `coordinates` say of the state.

    ad-jax run dark_room method=diffuser method.acting.goal=task
    ad-jax evaluate dark_room method=diffuser method.acting.goal=8,8 method.acting.waypoints=((0,8),)

Sources: Janner et al. 2022 (arXiv 2205.09991); Ajay et al. 2023 (Decision Diffuser, arXiv 2211.15657) for actions by
inverse dynamics and returns without a classifier; `models/diffusion.py` states those of the two processes.
`docs/diffuser.md` says what differs.
"""

import dataclasses
import math
from typing import ClassVar, Literal, Self

import jax
import numpy as np

from ad_jax.envs.base import TaskFamily, spec_of
from ad_jax.errors import ConfigError
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.methods.base import Channel, Method, Setting
from ad_jax.methods.goals import COORDINATES, check_goal, coordinates_shape, goals_of, number_of_goals, told
from ad_jax.methods.plans import RETURN, loss_of
from ad_jax.methods.returns_to_come import check_target, returns_to_go
from ad_jax.methods.supervised import Supervised
from ad_jax.models import denoiser
from ad_jax.models.base import Model, ModelConfig
from ad_jax.models.diffusion import LARGEST, Entries, Gaussian, Masked
from ad_jax.models.transformer import Transformer
from ad_jax.policies import denoised
from ad_jax.policies.base import Mode, Policy
from ad_jax.types import Histories, PyTree, Spec

HORIZON = 32  # entries of a plan at most, where an episode is longer and nothing else is asked for

Goal = tuple[float | None, ...]  # an observation, or coordinates; None where a number may be anything


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a trained model is asked for, and how it plans. No part of training."""

    goal: Literal["task"] | Goal | None = None  # "task": that of each task, as its family names it; None: none
    waypoints: tuple[Goal, ...] = ()  # to be reached before it, in this order
    legs: int | None = None  # with goal="task": how many observations a task is to reach; None: as the family says
    target: float | None = None  # return of every episode; None: no return is asked for
    guidance: float = 1.5  # with a target: 1 is the conditional plan, above 1 more than that, 0 the unconditional one
    denoising_steps: int = 20  # for a plan from nothing
    warm_steps: int | None = 5  # of them, for a plan that starts from the one before; None: none does
    replan_every: int = 4  # steps that a plan is followed, where the observations stay in it
    temperature: float = 1.0  # of the plan's entries; real ones: of the noise on the way
    haste: float | None = 0.05  # quantile of the steps that histories took to a goal; None: it is the last entry
    tolerance: float = 0.1  # real observations: how far from a plan's entry or a goal is there


@dataclasses.dataclass(frozen=True)
class Diffuser(Supervised):
    """Options of the diffuser."""

    horizon: int | None = None  # H, observations of a plan; None: those of an episode, at most 32
    return_dropout: float = 0.25  # share of the plans that are learned without their return
    return_scale: float | None = None  # what returns are divided by; None: the best return of the training tasks
    observation_scale: float = 1.0  # what real observations are divided by, so that they are about 1
    acting: Asked = Asked()

    title: ClassVar[str] = "Diffuser"

    def validate(self, sampling: ReplayConfig) -> None:
        """Raise ConfigError where a number cannot be meant."""
        super().validate(sampling)
        a = self.acting
        if self.label_smoothing:
            raise ConfigError(f"method.label_smoothing={self.label_smoothing} has no meaning for plans: set it to 0")
        if self.horizon is not None:
            self.at_least("horizon", 2)
        self._check_segment(sampling)
        if not 0 <= self.return_dropout <= 1:
            raise ConfigError(f"method.return_dropout is a share, 0 to 1; got {self.return_dropout}")
        for name in ("return_scale", "observation_scale"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise ConfigError(f"method.{name} must be above 0 and finite; got {value}")
        for name in ("denoising_steps", "replan_every"):
            if getattr(a, name) < 1:
                raise ConfigError(f"method.acting.{name} must be at least 1; got {getattr(a, name)}")
        if a.warm_steps is not None and not 1 <= a.warm_steps <= a.denoising_steps:
            raise ConfigError(
                f"method.acting.warm_steps must be from 1 to denoising_steps={a.denoising_steps}, or None: every plan "
                f"from nothing; got {a.warm_steps}"
            )
        if a.haste is not None and not 0 < a.haste < 1:
            raise ConfigError(f"method.acting.haste is a share of histories, above 0 and below 1; got {a.haste}")
        for name in ("temperature", "tolerance"):
            if not 0 < getattr(a, name) < math.inf:
                raise ConfigError(f"method.acting.{name} must be above 0 and finite; got {getattr(a, name)}")
        for name in ("target", "guidance"):
            if getattr(a, name) is not None and not math.isfinite(getattr(a, name)):
                raise ConfigError(f"method.acting.{name} must be a finite number; got {getattr(a, name)}")
        if a.waypoints and not isinstance(a.goal, tuple):
            raise ConfigError(
                "method.acting.waypoints lie on the way to method.acting.goal, which must be an observation then; got "
                f"{a.goal}"
            )

    def _check_segment(self, sampling: ReplayConfig) -> None:
        if self.horizon is not None and self.horizon > sampling.segment:
            raise ConfigError(
                f"a plan of {self.horizon} observations (method.horizon) is learned on windows of replay.segment="
                f"{sampling.segment}: raise the one or lower the other"
            )

    def check_devices(self, split: int, sampling: ReplayConfig) -> None:
        """Raise ConfigError where a batch cannot be split over so many devices, or a window holds no plan."""
        super().check_devices(split, sampling)
        self._check_segment(sampling)

    def check_model(self, name: str, model_config: object) -> None:
        """Raise ConfigError where a model is no transformer, whose options the denoiser takes."""
        if not isinstance(model_config, Transformer):
            raise ConfigError(
                f"method=diffuser makes its denoiser of a transformer's options, and model={name} has others. Use "
                "model=transformer"
            )

    def check_family(self, family: TaskFamily) -> None:
        """Raise ConfigError where there is nothing to plan, or nothing that is known here to plan it by."""
        super().check_family(family)
        if family.episode_length < 2:
            raise ConfigError(
                f"method=diffuser plans what is seen in an episode, and those of {family.name} have one step. Use "
                "method=distillation"
            )
        if coordinates_shape(family) is not None:
            return
        spec = spec_of(family)
        if spec.pixels or type(family).render is not TaskFamily.render:
            raise ConfigError(
                f"method=diffuser plans numbers, and what is seen of {family.name} are pictures. Define its "
                "coordinates(observation), the state as real numbers"
            )
        if spec.values is not None and math.prod(spec.values) > LARGEST:
            many = f"{math.prod(spec.values):,}"
            raise ConfigError(
                f"method=diffuser has a logit for each of the {many} observations of {family.name}, at most "
                f"{LARGEST:,}. Define its coordinates(observation), the same as real numbers"
            )

    def bind(self, family: TaskFamily, tasks: PyTree) -> Self:
        """Return the options with the plan's length and the scale of returns, where they are left open.

        Raises:
            ConfigError: for a target that no training task can earn, a goal outside of the world, or one of each task
                where the family names none.
        """
        best, a = family.optimal_return(tasks), self.acting
        if a.target is not None and best is not None:
            check_target(a.target, best, family)
        legs = a.legs
        if a.goal == "task":
            legs = number_of_goals(family)
        elif a.goal is not None:
            for name, goal in (*(("waypoints", x) for x in a.waypoints), ("goal", a.goal)):
                check_goal(f"method.acting.{name}", goal, family)
        scale = self.return_scale
        if scale is None:
            scale = 1.0 if best is None else float(np.max(np.abs(best))) or 1.0
        horizon = min(family.episode_length, HORIZON) if self.horizon is None else self.horizon
        asked = dataclasses.replace(a, legs=legs)
        return dataclasses.replace(self, horizon=horizon, return_scale=scale, acting=asked)

    def channels(self, family: TaskFamily, spec: Spec) -> dict[str, Channel]:
        """Return the return to go, and the coordinates where the family has some."""
        found, channels = coordinates_shape(family), {RETURN: Channel("float32")}
        return channels if found is None else channels | {COORDINATES: Channel("float32", found, seen=True)}

    def model(self, config: ModelConfig, spec: Spec) -> Model:
        """Return denoiser, inverse dynamics and arrival for plans of the horizon that `bind` found."""
        self.check_model(type(config).__name__.lower(), config)
        assert isinstance(config, Transformer)
        if self.horizon is None:
            raise ConfigError("a model needs method.horizon; set it, or bind(family)")
        return denoiser.make(config, spec, self.entries(spec), self.horizon)

    def entries(self, spec: Spec) -> Entries:
        """Return what a plan is made of, of what is seen."""
        for name, shape in spec.extra:
            if name == COORDINATES:
                return Gaussian(math.prod(shape), name)
        if spec.values is not None:
            return Masked(spec.values)
        return Gaussian(spec.size, scale=self.observation_scale)

    def make(self, setting: Setting) -> Method:
        """Make the method for a setting."""
        family, bound = setting.family, self.bind(setting.family, setting.tasks)
        bound._check_segment(setting.sampling)
        look = jax.jit(jax.vmap(jax.vmap(family.coordinates)))

        def prepare(histories: Histories) -> dict[str, np.ndarray]:
            t = histories.transition
            found = {RETURN: returns_to_go(t.reward, t.done) / np.float32(bound.return_scale)}
            if any(name == COORDINATES for name, _ in setting.seen_spec.extra):
                found[COORDINATES] = np.asarray(look(t.observation.astype(setting.spec.compute_dtype)))
            return found

        return Method(self.learner(setting, loss_of(setting.model.parts, self.return_dropout)), prepare)

    def policy(self, model: Model, mode: Mode = "sampled", temperature: float = 1.0) -> Policy:
        """Return the policy that plans as `acting` asks.

        Raises:
            ConfigError: if a scale or the number of goals is left open: `bind` knows them.
        """
        a = self.acting
        if self.return_scale is None or (a.goal == "task" and a.legs is None):
            raise ConfigError("a policy needs method.return_scale and the number of goals of a task: bind(family)")
        planning = denoised.Planning(
            a.denoising_steps, a.warm_steps, a.replan_every, a.temperature, a.haste, a.tolerance, a.guidance
        )
        entries = model.parts.entries
        goals, count = goals_of(a.goal, a.waypoints, a.legs, entries)
        policy = denoised.from_parts(model, planning, goals, count, a.target, self.return_scale, mode, temperature)
        tells = a.goal == "task", isinstance(entries, Gaussian) and entries.name == COORDINATES
        return policy._replace(tell=told(*tells)) if any(tells) else policy
