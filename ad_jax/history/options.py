"""Options of what of the histories is trained on, checked against each other and against a mesh."""

import dataclasses
import math

from ad_jax.errors import ConfigError
from ad_jax.history.reward_unit import check_unit


@dataclasses.dataclass(frozen=True)
class RotationConfig:
    """How the histories of a collection that is larger than the devices' memory take turns there (`rotation`)."""

    resident: int  # histories on the devices at a time, over all of them; each subsampled version counts
    parts: int = 8  # the residents are swapped one such part at a time
    every: int = 50  # updates from one swap to the next
    # Pieces of each chunk, resident apart: more tasks at a time, for as many readings of the chunk on the way round.
    spread: int | None = (
        None  # None: as many as the collection is larger than the residents; they are of all tasks then
    )

    def validate(self, groups: int) -> None:
        """Raise ConfigError where a number cannot be meant."""
        for name in ("parts", "every", "spread"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"replay.rotation.{name} must be at least 1; got {getattr(self, name)}")
        if self.resident < 1 or self.resident % (groups * self.parts):
            raise ConfigError(
                "replay.rotation.resident must be a positive multiple of replay.groups x replay.rotation.parts = "
                f"{groups} x {self.parts}; got {self.resident}. The nearest is {self.fitted(groups).resident}"
            )

    def fitted(self, groups: int) -> "RotationConfig":
        """With the nearest number of residents that so many groups can share."""
        whole = groups * self.parts
        return dataclasses.replace(self, resident=max(1, round(self.resident / whole)) * whole)


@dataclasses.dataclass(frozen=True)
class Config:
    """What of the histories is trained on."""

    tail: float = 1.0  # share of each history's steps that is kept, its end; a small one is expert distillation
    keep_every: int = 1  # k: keep every k-th episode
    phases: int = 1  # how many of the k subsampled versions of each history are kept
    segment: int = 160  # L, steps in a training window
    batch: int = 64  # B, windows in an update
    best: float | None = None  # share of each task's histories that is kept, those that end best; None is all
    # What the model's rewards are divided by; None: the size of the rewards of these histories; 1: as they are.
    reward_unit: float | None = None
    groups: int = 8  # G; must be a multiple of the devices that split the batch, and divide the batch
    rotation: RotationConfig | None = None  # None: all histories are on the devices at once

    def validate(self, split: int = 1) -> None:
        """Raise ConfigError where sizes do not fit each other, or a mesh that splits batches `split` ways."""
        if self.keep_every < 1 or not 1 <= self.phases <= self.keep_every:
            raise ConfigError(
                "replay needs keep_every >= 1 and 1 <= phases <= keep_every; "
                f"got keep_every={self.keep_every}, phases={self.phases}"
            )
        if not 0 < self.tail <= 1:
            raise ConfigError(f"replay.tail is a share of each history, above 0 and at most 1; got {self.tail}")
        if self.best is not None and not 0 < self.best <= 1:
            raise ConfigError(
                f"replay.best is a share of each task's histories, above 0 and at most 1; got {self.best}"
            )
        check_unit("replay", self.reward_unit)
        if self.segment < 1 or self.batch < 1 or self.groups < 1 or self.batch % self.groups:
            raise ConfigError(
                f"replay.batch must be a positive multiple of replay.groups; "
                f"got batch={self.batch}, groups={self.groups}, segment={self.segment}"
            )
        if self.groups % split:
            raise ConfigError(
                f"replay.groups={self.groups} cannot be split over {split} devices (mesh data x fsdp); "
                f"set replay.groups to a multiple of {split}, or train on fewer devices: "
                f"mesh.data={math.gcd(self.groups, split)} mesh.fsdp=1"
            )
        if self.rotation is not None:
            self.rotation.validate(self.groups)

    def first_step(self, steps: int) -> int:
        """Of a history of `steps`, the first that belongs to the tail: kept are the episodes that end in it, whole."""
        return min(math.floor((1 - self.tail) * steps + 1e-9), steps - 1)

    def kept_of(self, histories: int) -> int:
        """How many of a task's histories are kept: at least one."""
        return math.ceil((self.best or 1.0) * histories - 1e-9)
