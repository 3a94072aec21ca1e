"""The peers, what each is compared in, and how much work both sides do in one call."""

from collections.abc import Mapping
from typing import NamedTuple

from ad_jax.files import JsonObject


class Peer(NamedTuple):
    """Somebody else's code.

    Attributes:
        environment: the name of its environment, and of the file of pinned packages here that it is made from.
        worker: the one of `programs` that runs there.
        checkout: `(address, commit)` of a repository that is no package, or None.
    """

    environment: str
    worker: str
    checkout: tuple[str, str] | None = None


class Work(NamedTuple):
    """One line of the table.

    Attributes:
        unit: of the figures.
        amount: what one call does, in the unit.
        peers: who does the same.
        sizes: of the work, read by our worker and by theirs; `kind` says what it is.
    """

    unit: str
    amount: float
    peers: tuple[str, ...]
    sizes: JsonObject


AD_EPS = ("https://github.com/corl-team/ad-eps", "8db090addf56c43e5f60a5ffaacbabfd8ca74118")
TRAJECTORY_TRANSFORMER = (
    "https://github.com/jannerm/trajectory-transformer",
    "8834a6ed04ceeab8fdb9465e145c6e041c05d71b",
)
DIFFUSER = ("https://github.com/jannerm/diffuser", "7ea422860cc0106e5ca5949d980f04b799d5462c")

PEERS: Mapping[str, Peer] = {
    "rejax": Peer("rejax", "rejax_worker.py"),
    "torch": Peer("torch", "torch_worker.py"),
    "torch_compile": Peer("torch", "torch_worker.py"),
    "ad_eps": Peer("ad_eps", "ad_eps_worker.py", AD_EPS),
    "trajectory_transformer": Peer("planners", "trajectory_transformer_worker.py", TRAJECTORY_TRANSFORMER),
    "diffuser": Peer("planners", "diffuser_worker.py", DIFFUSER),
}


def works(quick: bool) -> dict[str, Work]:
    """Every line of the table; `quick`, calls do less of the same."""
    learners, updates = 16, 4 if quick else 16
    ppo: JsonObject = {
        "kind": "ppo", "learners": learners, "env_steps": 4096 * updates, "envs": 64, "unroll": 64, "epochs": 4,
        "minibatches": 4, "hidden": [64, 64], "learning_rate": 3e-4, "entropy_cost": 0.01, "max_grad_norm": 0.5,
    }  # fmt: skip
    dqn: JsonObject = {
        "kind": "dqn", "learners": learners, "env_steps": 2500 if quick else 10_000, "envs": 10, "capacity": 10_000,
        "warmup": 1000, "batch": 100, "gradient_steps": 1, "hidden": [64, 64], "learning_rate": 5e-4,
        "target_steps": 500, "max_grad_norm": 10.0,
    }  # fmt: skip
    model: JsonObject = {"layers": 4, "width": 64, "heads": 4, "window": 100}
    training: JsonObject = {
        "kind": "training",
        "model": model,
        "batch": 64,
        "segment": 100,
        "updates": 2 if quick else 10,
    }
    searching: JsonObject = {
        "kind": "searching", "model": model, "beam": 32, "horizon": 10, "expand": 2, "bins": 81,
        "decisions": 1 if quick else 8,
    }  # fmt: skip
    # Its network halves the plan twice, and with a width of 24 a pass has 7.7 MFLOP for 8.9 of ours.
    denoising: JsonObject = {
        "kind": "denoising", "model": model, "lifetimes": 4 if quick else 64, "passes": 20, "plans": 20, "horizon": 24,
        "dim": 24,
    }  # fmt: skip
    acting: JsonObject = {"kind": "acting", "model": model, "rollouts": 81, "steps": 40 if quick else 100}
    return {
        "PPO, CartPole-v1, 16 learners": Work("env steps/s", learners * ppo["env_steps"], ("rejax",), ppo),
        "DQN, CartPole-v1, 16 learners": Work("env steps/s", learners * dqn["env_steps"], ("rejax",), dqn),
        "training, 4 layers of width 64, batch 64 x 100": Work(
            "positions/s", 64 * 100 * training["updates"], ("torch", "torch_compile"), training
        ),
        "planning by beam search, 32 x 10 steps, 1 lifetime": Work(
            "decisions/s", searching["decisions"], ("trajectory_transformer",), searching
        ),
        f"planning by diffusion, 20 passes, {denoising['lifetimes']} lifetimes": Work(
            "decisions/s", denoising["lifetimes"] * denoising["plans"], ("diffuser",), denoising
        ),
        "acting in context, 81 rollouts, window 100": Work(
            "env steps/s", 81 * acting["steps"], ("ad_eps",), acting
        ),
    }  # fmt: skip
