"""How much the suite measures: quickly, in minutes on a few CPU cores, or on an accelerator."""

import dataclasses
from collections.abc import Mapping

from ad_jax.files import Json


@dataclasses.dataclass(frozen=True)
class Case:
    """One model to distil with.

    Attributes:
        name: in the row's key.
        model: registered name of the backbone; `options` its options.
        batch: B, windows in an update; `segment` L, steps in a window.
        updates: in one timed call.
        accumulate: parts a batch is split into.
        compiles: also time compiling, cold and warm.
    """

    name: str
    model: str
    options: Mapping[str, Json]
    batch: int
    segment: int
    updates: int
    accumulate: int = 1
    compiles: bool = False
    torch: bool = True  # also in PyTorch, where that is asked for


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Everything that sets how long the suite takes."""

    rounds: int  # most timed repetitions
    budget: float  # seconds of rounds in one group, after which no further round starts
    matmul: int  # side of the large product
    small_flops: float  # FLOP in one timed call of a small product; the large one gets four times as many
    triad: int  # elements of the arrays that memory is measured with
    lanes: int  # environments side by side under the random policy
    env_steps: int  # about how many in one timed call of collecting
    q_learners: tuple[int, ...]
    ucb_learners: tuple[int, ...]
    actor_critic_learners: tuple[int, ...]
    trials: tuple[int, ...]  # of RL², side by side
    cases: tuple[Case, ...]
    rollouts: tuple[int, ...]
    rollout_steps: int  # about how many environment steps in one timed call of evaluating
    positions: tuple[float, ...]  # in windows; 1 among them
    meshes: tuple[tuple[int, int, int], ...]  # data, fsdp, tensor; of 8 devices
    attention: tuple[int, int, int, str]  # batch, steps, width, dtype
    head_widths: tuple[int, ...]
    tiny: bool = False  # only the first of the limits' small products
    acting: Case | None = None  # the model that is evaluated; None: the first of the cases
    plans: tuple[int, ...] = (1, 64)  # lifetimes side by side whose every decision is planned
    search: tuple[int, int] = (32, 10)  # of plans in a model: width of the beam, and steps
    search_steps: int = 640  # about how many decisions in one timed call of a search
    variants: tuple[Case, ...] = ()  # transformers that are trained with each attention
    beside: tuple[Case, ...] | None = None  # those that PyTorch trains, too; None: the cases
    demo: str | None = "demo"  # scale of Dark Room that is run from nothing; None: none, unless a finished one is named
    compiling: bool = True  # whether the demo's compiling is measured by itself, in two more runs


SMALL = {"layers": 4, "width": 64, "heads": 4, "window": 100}
DROPOUT = {**SMALL, "attention_dropout": 0.5}
M25 = {"layers": 8, "width": 512, "heads": 8, "mlp_width": 2048, "window": 100}
M100 = {"layers": 8, "width": 1024, "heads": 16, "mlp_width": 4096, "window": 1024, "compute_dtype": "bfloat16"}
B1 = {**M100, "layers": 20, "width": 2048, "mlp_width": 8192}

QUICK = Sizes(
    rounds=3,
    budget=1.0,
    matmul=1024,
    small_flops=1e9,
    triad=2**22,
    lanes=256,
    env_steps=50_000,
    q_learners=(64,),
    ucb_learners=(64,),
    actor_critic_learners=(1,),
    trials=(16,),
    cases=(Case("small", "transformer", {**SMALL, "layers": 2, "window": 40}, 16, 40, 3, compiles=True),),
    rollouts=(16,),
    rollout_steps=1000,
    positions=(0.5, 1, 100),
    meshes=((8, 1, 1),),
    attention=(4, 40, 64, "float32"),
    head_widths=(16,),
    plans=(4,),
    search_steps=64,
    tiny=True,
    demo=None,
    compiling=False,
)

FULL = Sizes(
    rounds=5,
    budget=10.0,
    matmul=2048,
    small_flops=5e9,
    triad=2**26,
    lanes=1024,
    env_steps=2_000_000,
    q_learners=(64, 256, 1024, 8192, 65_536),
    ucb_learners=(64, 1024),
    actor_critic_learners=(1, 16),
    trials=(64, 256),
    cases=(
        Case("small", "transformer", SMALL, 64, 100, 10, compiles=True),
        Case("small, attention dropout 0.5", "transformer", DROPOUT, 64, 100, 5),
        Case("small, 400 steps of context", "transformer", {**SMALL, "window": 400}, 16, 400, 5),
        Case("paper", "paper", {"window": 80}, 16, 80, 2),
        Case("25M", "transformer", M25, 16, 100, 2),
        Case("100M", "transformer", {**M100, "window": 100, "compute_dtype": "float32"}, 8, 100, 2, torch=False),
    ),
    rollouts=(81, 1024),
    rollout_steps=4000,
    positions=(0.5, 1, 10, 100),
    meshes=((8, 1, 1), (1, 8, 1), (4, 2, 1), (2, 2, 2)),
    attention=(64, 100, 64, "float32"),
    head_widths=(16, 32, 64),
)

ACCELERATOR = dataclasses.replace(
    FULL,
    matmul=8192,
    small_flops=2e12,
    triad=2**29,
    lanes=65_536,
    env_steps=10_000_000,
    q_learners=(1024, 8192, 65_536),
    ucb_learners=(65_536,),
    actor_critic_learners=(16, 256),
    trials=(256, 4096),
    cases=(
        *(dataclasses.replace(case, batch=64, updates=50) for case in FULL.cases),
        Case("25M bfloat16", "transformer", {**M25, "compute_dtype": "bfloat16"}, 64, 100, 50),
        Case("100M, 1024 steps, bfloat16", "transformer", M100, 16, 1024, 10),
        Case("1B, 1024 steps, bfloat16", "transformer", B1, 16, 1024, 3, accumulate=2),
    ),
    rollouts=(81, 1024, 16_384),
    rollout_steps=1_000_000,
    attention=(16, 1024, 1024, "bfloat16"),
    head_widths=(16, 32, 64, 128),
)

SMALL_CASE = Case("small", "transformer", SMALL, 64, 100, 50)
M100_CASE = Case("100M, 1024 steps, bfloat16", "transformer", M100, 16, 1024, 10)

# What is asked first of an accelerator that is there for minutes: most of the time goes to compiling.
BRIEF = dataclasses.replace(
    ACCELERATOR,
    rounds=3,
    budget=2.0,
    q_learners=(65_536,),
    ucb_learners=(),
    actor_critic_learners=(),
    cases=(M100_CASE,),
    rollouts=(1024, 16_384),
    positions=(1, 100),
    head_widths=(64, 128),
    acting=SMALL_CASE,
    variants=(M100_CASE,),
    beside=(SMALL_CASE, Case("25M", "transformer", M25, 64, 100, 20)),
    compiling=False,
)

TINY_CASE = Case("tiny", "transformer", {**SMALL, "layers": 1, "width": 16, "heads": 2, "window": 8}, 8, 8, 2)

# The same rows, to try the commands where there is none: the figures say nothing.
TRIAL = dataclasses.replace(
    BRIEF,
    rounds=1,
    budget=0.0,
    matmul=32,
    small_flops=1e5,
    triad=2**10,
    lanes=64,
    env_steps=64 * 40,
    q_learners=(64,),
    trials=(8,),
    cases=(TINY_CASE,),
    rollouts=(8,),
    rollout_steps=100,
    positions=(1, 4),
    meshes=((8, 1, 1),),
    attention=(2, 8, 16, "float32"),
    head_widths=(8,),
    plans=(2,),
    search=(4, 2),
    search_steps=16,
    acting=TINY_CASE,
    variants=(TINY_CASE,),
    beside=(TINY_CASE,),
    tiny=True,
    demo="smoke",
)
