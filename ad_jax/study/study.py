"""A study: the experiments behind one figure of the paper, as arms, and the claims that they decide.

A study's file is an experiment's, with a second function: `def study(scale: str = "cpu") -> Study`. An arm is an
experiment without its seed; arms of different studies that train the same model share it. The claims and their rules
stand in the file before anything is run.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from ad_jax import experiment as experiments
from ad_jax.errors import ConfigError, unknown
from ad_jax.experiment import Experiment, Mixture
from ad_jax.files import Json
from ad_jax.study.claims import Claim, Quantity, statistics_of
from ad_jax.study.keys import key, mixed_key, taught_from, trained_by

# The paper's figures, then its appendix, then what is not its own.
ORDER = (
    "bandit_adversarial",
    "dark_room",
    "dark_room_hard",
    "dark_key_to_door",
    "watermaze",
    "prompted",
    "single_stream",
    "context_length",
    "number_of_tasks",
    "label_smoothing",
    "token_masking",
    "model_size",
    "lstm_backbone",
    "subsampling",
    "noise_distillation",
    "dpt",
)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One curve of a study: an experiment, trained once for every seed."""

    experiment: Experiment
    x: float | None = None  # where it stands on the axis of a sweep
    group: str = ""  # arms of a sweep that one line joins, or curves that one panel shows
    seeds: int | None = None  # None: the study's
    shown: bool = True  # in the figure; claims are decided of all
    taught_by: str | None = None  # the arm whose model, of the same seed, is the method's teacher
    of: tuple[Mixture, str] | None = None  # the mixture whose model this is, and its member that the experiment is of


@dataclasses.dataclass(frozen=True)
class Study:
    """What is run, and what is claimed of it."""

    name: str
    title: str
    arms: Mapping[str, Arm]
    claims: Sequence[Claim]
    seeds: int = 3  # training seeds 0, 1, ... of every arm
    figure: Literal["curves", "sweep"] = "curves"
    axis: str = ""  # of a sweep: what x is
    log: bool = True  # of a sweep: a logarithmic axis
    sets: Sequence[str] = ()  # sets of tasks that are drawn; default the first

    def __post_init__(self) -> None:
        """Raise ConfigError for a claim about an arm that is not there, or an arm that cannot be drawn."""
        if not self.arms or not self.claims or self.seeds < 1:
            raise ConfigError(f"study {self.name} needs at least one arm, one claim and one seed")
        for claim in self.claims:
            for name in arms_of(claim.quantity):
                if name not in self.arms:
                    raise unknown(f"arm of study {self.name}", name, self.arms)
        for arm in self.arms.values():
            if arm.of is not None and arm.of[1] not in arm.of[0].members:
                raise unknown(f"member of {arm.of[0].name}, of which an arm is,", arm.of[1], arm.of[0].members)
            if arm.taught_by is not None and arm.taught_by not in self.arms:
                raise unknown(f"teacher in study {self.name}", arm.taught_by, self.arms)
        if self.figure == "sweep" and all(arm.x is None for arm in self.arms.values()):
            raise ConfigError(f"study {self.name} is drawn as a sweep, but no arm says its x")

    def runs(self, arm: str) -> list[Experiment]:
        """Return the arm's experiment with each of its seeds."""
        seeds = range(self.arms[arm].seeds or self.seeds)
        return [self._taught(arm, self._seeded(arm, seed)) for seed in seeds]

    def _seeded(self, arm: str, seed: int) -> Experiment:
        """Return an arm's experiment with a seed: of a mixture's member, by a name that tells of which mixture."""
        e, of = self.arms[arm].experiment, self.mixture(arm, seed)
        if of is None:
            return dataclasses.replace(e, seed=seed)
        return dataclasses.replace(e, seed=seed, name=f"{of[0].name}-{mixed_key(of[0])}-{of[1]}")

    def mixture(self, arm: str, seed: int) -> tuple[Mixture, str] | None:
        """Return the mixture whose model an arm is, with that seed, and the member; None for other arms."""
        of = self.arms[arm].of
        return None if of is None else (dataclasses.replace(of[0], seed=seed), of[1])

    def _taught(self, arm: str, e: Experiment) -> Experiment:
        """Return an arm's experiment with its teacher, if any, by the name that a workshop keeps it under."""
        teacher = self.teacher(arm, e.seed)
        return e if teacher is None else taught_from(e, f"models/{key(trained_by(teacher))}")

    def teacher(self, arm: str, seed: int) -> Experiment | None:
        """Return the experiment whose model an arm learns from, with the same seed; None where there is none."""
        by = self.arms[arm].taught_by
        return None if by is None else self._seeded(by, seed)


def arms_of(quantity: Quantity) -> list[str]:
    """Return the arms that a quantity is about."""
    return [one.arm for one in statistics_of(quantity)]


def load(name_or_path: str, scale: str = "cpu") -> Study:
    """Return the study of an experiment's file.

    Raises:
        ConfigError: if there is no such file, or it has no study.
    """
    path = experiments.find(name_or_path)
    found: Json = experiments.call(path, "study", scale)
    if not isinstance(found, Study):
        raise ConfigError(f"{path}: study() must return a Study; got {type(found).__name__}")
    return found


def known() -> list[str]:
    """Names of the experiments that have a study: the paper's in its order, then others by name."""
    names = [name for name in experiments.known() if "def study(" in experiments.find(name).read_text()]
    return sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
