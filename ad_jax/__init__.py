"""ad_jax: in-context reinforcement learning by Algorithm Distillation, in JAX from end to end.

The public names, in the order data flows. Each is imported when it is first used, so `import ad_jax` is instant and
touches no device. Editors and type checkers, which run nothing, read the imports under `TYPE_CHECKING`.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `as`: these are public
    from ad_jax.agent import Agent as Agent
    from ad_jax.envs.bandit import Bandit as Bandit
    from ad_jax.envs.base import TaskFamily as TaskFamily
    from ad_jax.envs.base import TaskSplit as TaskSplit
    from ad_jax.envs.dark_key_to_door import DarkKeyToDoor as DarkKeyToDoor
    from ad_jax.envs.dark_room import DarkRoom as DarkRoom
    from ad_jax.envs.dark_room_hard import DarkRoomHard as DarkRoomHard
    from ad_jax.envs.dark_room_permuted import DarkRoomPermuted as DarkRoomPermuted
    from ad_jax.envs.gymnax_adapter import Gymnax as Gymnax
    from ad_jax.envs.outside.brax import Brax as Brax
    from ad_jax.envs.outside.craftax import Craftax as Craftax
    from ad_jax.envs.outside.craftax import CraftaxClassic as CraftaxClassic
    from ad_jax.envs.outside.jumanji import Jumanji as Jumanji
    from ad_jax.envs.outside.minigrid import MiniGrid as MiniGrid
    from ad_jax.envs.outside.navix import Navix as Navix
    from ad_jax.envs.outside.pgx import Pgx as Pgx
    from ad_jax.envs.outside.playground import Playground as Playground
    from ad_jax.envs.outside.xland import XLand as XLand
    from ad_jax.envs.point_mass import PointMass as PointMass
    from ad_jax.envs.random_mdp import RandomMDP as RandomMDP
    from ad_jax.envs.watermaze import Watermaze as Watermaze
    from ad_jax.errors import AdJaxError as AdJaxError
    from ad_jax.experiment import CollectConfig as CollectConfig
    from ad_jax.experiment import EvaluateConfig as EvaluateConfig
    from ad_jax.experiment import Experiment as Experiment
    from ad_jax.experiment import Member as Member
    from ad_jax.experiment import MeshConfig as MeshConfig
    from ad_jax.experiment import Mixture as Mixture
    from ad_jax.experiment import Plugin as Plugin
    from ad_jax.experiment import ReplayConfig as ReplayConfig
    from ad_jax.experiment import TaskConfig as TaskConfig
    from ad_jax.experiment import load as _load_experiment
    from ad_jax.experiment import load_mixture as load_mixture
    from ad_jax.experiment import override as override
    from ad_jax.history.foreign import History as History
    from ad_jax.history.store import open_store as open_store
    from ad_jax.history.write import write_histories as write_histories
    from ad_jax.methods.actor_learner import ActorLearner as ActorLearner
    from ad_jax.methods.decision_transformer import DecisionTransformer as DecisionTransformer
    from ad_jax.methods.diffuser import Diffuser as Diffuser
    from ad_jax.methods.distillation import Distillation as Distillation
    from ad_jax.methods.dpt import DPT as DPT
    from ad_jax.methods.gato import Gato as Gato
    from ad_jax.methods.multi_game_dt import MultiGameDT as MultiGameDT
    from ad_jax.methods.offline_distillation import OfflineDistillation as OfflineDistillation
    from ad_jax.methods.on_policy_distillation import OnPolicyDistillation as OnPolicyDistillation
    from ad_jax.methods.policy_distillation import PolicyDistillation as PolicyDistillation
    from ad_jax.methods.rl2 import RL2 as RL2
    from ad_jax.methods.tap import TAP as TAP
    from ad_jax.methods.trajectory_transformer import TrajectoryTransformer as TrajectoryTransformer
    from ad_jax.models.base import Model as Model
    from ad_jax.models.dpt import DPTModel as DPTModel
    from ad_jax.models.lstm import LSTM as LSTM
    from ad_jax.models.transformer import Paper as Paper
    from ad_jax.models.transformer import Transformer as Transformer
    from ad_jax.policies.base import Policy as Policy
    from ad_jax.run.mixture import MixtureRun as MixtureRun
    from ad_jax.run.pipeline import Run as Run
    from ad_jax.sources.actor_critic import ActorCritic as ActorCritic
    from ad_jax.sources.base import Source as Source
    from ad_jax.sources.dqn import DQN as DQN
    from ad_jax.sources.noisy_oracle import NoisyOracle as NoisyOracle
    from ad_jax.sources.ppo import PPO as PPO
    from ad_jax.sources.primal_dual import PrimalDual as PrimalDual
    from ad_jax.sources.q_learning import QLearning as QLearning
    from ad_jax.sources.ucb import UCB as UCB

    load_experiment = _load_experiment
    __version__: str

# The same for who runs the code, in the order data flows: `module`, or `module:name` where it has another name there.
_PUBLIC = {
    "TaskFamily": "ad_jax.envs.base",
    "TaskSplit": "ad_jax.envs.base",
    "Source": "ad_jax.sources.base",
    "Model": "ad_jax.models.base",
    "Policy": "ad_jax.policies.base",
    "Experiment": "ad_jax.experiment",
    "Member": "ad_jax.experiment",
    "Mixture": "ad_jax.experiment",
    "Bandit": "ad_jax.envs.bandit",
    "DarkKeyToDoor": "ad_jax.envs.dark_key_to_door",
    "DarkRoom": "ad_jax.envs.dark_room",
    "DarkRoomHard": "ad_jax.envs.dark_room_hard",
    "DarkRoomPermuted": "ad_jax.envs.dark_room_permuted",
    "Gymnax": "ad_jax.envs.gymnax_adapter",
    "PointMass": "ad_jax.envs.point_mass",
    "RandomMDP": "ad_jax.envs.random_mdp",
    "Watermaze": "ad_jax.envs.watermaze",
    "Brax": "ad_jax.envs.outside.brax",
    "Craftax": "ad_jax.envs.outside.craftax",
    "CraftaxClassic": "ad_jax.envs.outside.craftax",
    "Jumanji": "ad_jax.envs.outside.jumanji",
    "MiniGrid": "ad_jax.envs.outside.minigrid",
    "Navix": "ad_jax.envs.outside.navix",
    "Pgx": "ad_jax.envs.outside.pgx",
    "Playground": "ad_jax.envs.outside.playground",
    "XLand": "ad_jax.envs.outside.xland",
    "ActorCritic": "ad_jax.sources.actor_critic",
    "DQN": "ad_jax.sources.dqn",
    "NoisyOracle": "ad_jax.sources.noisy_oracle",
    "PPO": "ad_jax.sources.ppo",
    "PrimalDual": "ad_jax.sources.primal_dual",
    "QLearning": "ad_jax.sources.q_learning",
    "UCB": "ad_jax.sources.ucb",
    "DPTModel": "ad_jax.models.dpt",
    "LSTM": "ad_jax.models.lstm",
    "Paper": "ad_jax.models.transformer",
    "Transformer": "ad_jax.models.transformer",
    "TaskConfig": "ad_jax.experiment",
    "CollectConfig": "ad_jax.experiment",
    "ReplayConfig": "ad_jax.experiment",
    "ActorLearner": "ad_jax.methods.actor_learner",
    "DecisionTransformer": "ad_jax.methods.decision_transformer",
    "Diffuser": "ad_jax.methods.diffuser",
    "Distillation": "ad_jax.methods.distillation",
    "DPT": "ad_jax.methods.dpt",
    "Gato": "ad_jax.methods.gato",
    "MultiGameDT": "ad_jax.methods.multi_game_dt",
    "OfflineDistillation": "ad_jax.methods.offline_distillation",
    "OnPolicyDistillation": "ad_jax.methods.on_policy_distillation",
    "PolicyDistillation": "ad_jax.methods.policy_distillation",
    "RL2": "ad_jax.methods.rl2",
    "TAP": "ad_jax.methods.tap",
    "TrajectoryTransformer": "ad_jax.methods.trajectory_transformer",
    "EvaluateConfig": "ad_jax.experiment",
    "MeshConfig": "ad_jax.experiment",
    "load_experiment": "ad_jax.experiment:load",
    "load_mixture": "ad_jax.experiment",
    "override": "ad_jax.experiment",
    "Run": "ad_jax.run.pipeline",
    "MixtureRun": "ad_jax.run.mixture",
    "open_store": "ad_jax.history.store",
    "History": "ad_jax.history.foreign",
    "write_histories": "ad_jax.history.write",
    "Agent": "ad_jax.agent",
    "AdJaxError": "ad_jax.errors",
    "Plugin": "ad_jax.experiment",  # of experiments' files of before
}

__all__ = [*_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from ad_jax.process.provenance import version

        return version()
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ad_jax' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
