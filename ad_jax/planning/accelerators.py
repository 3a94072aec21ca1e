"""Accelerators by name, as their makers state them, and the step time that follows from a program's counts.

The time is an estimate from peaks that no program reaches: the larger of computing and moving memory, which overlap,
and then the collectives, which here do not. A GPU's node has a fast network inside and a slower one outside.
"""

import dataclasses

from ad_jax.errors import unknown
from ad_jax.planning.hlo import Collectives


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One device. Bandwidths in bytes/s; those between devices in one direction, all links of a device together."""

    bfloat16: float  # FLOP/s, dense
    float32: float  # FLOP/s of a float32 product with JAX's default precision
    memory: float  # bytes
    bandwidth: float  # of the memory
    link: float  # to devices of the same node
    node: int  # devices that `link` joins
    network: float  # to devices of another node


# NVIDIA: data sheets of A100 (June 2021), H100 and H200 SXM. Dense figures, those with sparsity halved. float32 is
# TF32, in which XLA multiplies float32. NVLink, stated for both directions, halved. Network: one NIC a GPU, as in DGX
# A100 (200 Gb/s), DGX H100 and H200 (400 Gb/s).
# TPU: cloud.google.com/tpu/docs, pages v4, v5e, v5p. One direction of the interconnect: 2,400, 1,600 and 4,800 Gb/s.
# XLA multiplies float32 in bfloat16 unless told otherwise. A node is a pod; outside it 50 Gb/s a chip (v5p), 25 (v5e:
# 6.4 Tb/s a pod of 256); v4 is not stated and taken as v5e.
ACCELERATORS = {
    "a100-80gb": Accelerator(312e12, 156e12, 80e9, 2.039e12, 300e9, 8, 25e9),
    "h100-sxm": Accelerator(989.4e12, 494.7e12, 80e9, 3.35e12, 450e9, 8, 50e9),
    "h200-sxm": Accelerator(989.4e12, 494.7e12, 141e9, 4.8e12, 450e9, 8, 50e9),
    "tpu-v4": Accelerator(275e12, 275e12, 32 * 2**30, 1.2e12, 300e9, 4096, 3.125e9),
    "tpu-v5e": Accelerator(197e12, 197e12, 16e9, 819e9, 200e9, 256, 3.125e9),
    "tpu-v5p": Accelerator(459e12, 459e12, 95e9, 2.765e12, 600e9, 8960, 6.25e9),
}


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Estimated seconds of an update."""

    compute: float
    memory: float
    communication: float

    @property
    def total(self) -> float:
        """The larger of the first two, and the third."""
        return max(self.compute, self.memory) + self.communication


def find(name: str) -> Accelerator:
    """Return the accelerator of that name.

    Raises:
        ConfigError: if there is none; near matches are listed.
    """
    if name not in ACCELERATORS:
        raise unknown("accelerator", name, ACCELERATORS)
    return ACCELERATORS[name]


def step_time(on: Accelerator, dtype: str, flops: float, accessed: float, collectives: Collectives) -> StepTime:
    """Of a program that does `flops` in `dtype` and moves `accessed` bytes of memory on one device."""
    seconds = sum(c.times * c.sent / (on.network if c.crosses(on.node) else on.link) for c in collectives.found)
    return StepTime(flops / getattr(on, dtype), accessed / on.bandwidth, seconds)
