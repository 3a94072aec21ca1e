"""RL², the baseline without histories: a policy with a memory trained by reinforcement over trials of several episodes.

A trial is one task, played for `trial_episodes` episodes. The LSTM's state, or what the transformer's window holds,
survives the ends of episodes inside a trial and is empty at the start of the next one, for which another training task
is drawn; what is maximized is the discounted return of the whole trial. So the policy is paid for learning the task
inside its state, and frozen it goes through `evaluate` like any other model. Stands in the place of collecting and
distilling. Input: a family, its training tasks and a model with a value head. Output: checkpoints and metrics. Knows
neither sources nor histories.

Source: Duan et al. 2016 (arXiv 1611.02779) and Wang et al. 2016 (arXiv 1611.05763), as the baseline of Laskin et al.
2022 (arXiv 2210.14215). The gradient is that of clipped policy optimization (Schulman et al. 2017, arXiv 1707.06347,
equations 7 and 9) through time, advantages are generalized (Schulman et al. 2016, arXiv 1506.02438, equation 16). With
a transformer and `model.gate=gru` it is GTrXL (Parisotto et al. 2019, arXiv 1910.06764). Differences from these stand
in docs/rl2.md.

Letters: B trials side by side, L steps of each in an update.
"""

import dataclasses
import functools
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from ad_jax.envs.base import TaskFamily
from ad_jax.errors import ConfigError
from ad_jax.history import reward_unit
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.keys import named_key
from ad_jax.methods import gossip
from ad_jax.methods.base import Learner, Method, Setting
from ad_jax.methods.minibatches import Learning, rows_on
from ad_jax.methods.played import check_of
from ad_jax.methods.reinforcement import Parts, Reinforcement, improved, mean_facts, spread, told_of
from ad_jax.methods.trials import Config, Trials, begin
from ad_jax.models.base import ActorCritic, ModelConfig
from ad_jax.sharding import batch_devices, optimizer_shardings, param_shardings, replicated
from ad_jax.types import Array, PyTree


@struct.dataclass
class TrainState:
    """Everything that training carries from one update to the next."""

    params: PyTree
    opt_state: PyTree
    step: Array  # [] int32, updates done
    trials: Trials


@dataclasses.dataclass(frozen=True)
class RL2(Reinforcement):
    """Options of RL²."""

    # Groups of devices that learn each by itself and average parameters with one neighbor; None: all learn as one.
    gossip: int | None = None

    title: ClassVar[str] = "RL²"
    called: ClassVar[str] = "rl2"

    def validate(self, sampling: Any = None) -> None:
        """Raise ConfigError where a number cannot be meant."""
        super().validate(sampling)
        if self.gossip is not None:
            self.at_least("gossip", 2)

    def check_devices(self, split: int, sampling: ReplayConfig | None = None) -> None:
        """Raise ConfigError unless every minibatch has as many trials on each device, and each group has its device."""
        super().check_devices(split, sampling)
        if self.gossip not in (None, split):
            raise ConfigError(
                f"method.gossip={self.gossip} groups learn on a device each: set mesh.data={self.gossip}, or "
                f"method.gossip=None; the mesh splits the batch over {split}"
            )

    def make(self, setting: Setting) -> Method:
        """Make the method for a setting."""
        s, config = setting, cast(ModelConfig, setting.model_config)
        make_learner = make if self.gossip is None else gossip.make
        return Method(make_learner(config.actor_critic(s.seen_spec), s.family, s.tasks, self, s.mesh, s.unit))


def make(
    network: ActorCritic,
    family: TaskFamily,
    tasks: PyTree,
    config: Config,
    mesh: Mesh,
    unit: float = reward_unit.NONE,
) -> Learner:
    """Make the learner of one network, family and configuration, which is fed the training tasks.

    Args:
        network: the policy and its value, which are trained.
        family: whose tasks the trials are of.
        tasks: on which something that cannot be is named.
        config: how to train.
        mesh: whose batch axes split the trials; the parameters lie on it, too.
        unit: of the rewards that the network sees and that are learned from.

    Raises:
        ConfigError: if a number cannot be meant, or the trials cannot be split over the mesh.
    """
    config.validate()
    config.check_devices(batch_devices(mesh))
    network, optimizer = reward_unit.applied(network, unit), config.make_optimizer()

    def init(seed: jax.Array, tasks: PyTree) -> TrainState:
        params = network.init(named_key(seed, "params"))
        trials = begin(network, family, config, named_key(seed, "rl2-start"), tasks)
        return TrainState(params, optimizer.init(params), jnp.int32(0), spread(trials, config))

    def shardings(shapes: TrainState) -> TrainState:
        placed = param_shardings(shapes.params, mesh, network.partition)
        return TrainState(
            placed,
            optimizer_shardings(optimizer, shapes.params, placed, mesh),
            replicated(mesh),
            rows_on(mesh, shapes.trials),
        )

    return Learner(
        name="rl2",
        feed="tasks",
        init=init,
        update=functools.partial(update, Parts(network, family, config, optimizer, unit), mesh),
        params=lambda state: state.params,
        shardings=shardings,
        steps=config.env_steps(family),
        check=check_of(tasks, family),
        shown={"first_episode": "first_return", "last": "last_return", "entropy": "entropy"},
    )


def update(
    parts: Parts, mesh: Mesh, state: TrainState, tasks: PyTree, key: jax.Array
) -> tuple[TrainState, dict[str, PyTree]]:
    """Return some steps of every trial, the gradient steps on them, and new trials where some are over. The key is
    consumed.

    Returns:
        The state after it, and as float32 scalars: loss, gradient norm and entropy, means over the gradient steps, and
        the mean return of the first and of the last episode of a trial, over the trials that began and ended here;
        beside them what `cannot_be`.
    """
    learning = Learning(state.params, state.opt_state)
    learned, trials, unroll, facts = improved(parts, learning, state.trials, state.step, tasks, key, mesh=mesh)
    metrics = mean_facts(facts[:3]) | told_of(parts.family, parts.config, state.trials, unroll)
    return TrainState(learned.params, learned.opt_state, state.step + 1, trials), metrics
