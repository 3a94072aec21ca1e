"""Rollouts of a policy in B lifetimes at once: environment, policy and its carry run inside one scan.

The only thing that grows is what the policy carries. Rollouts are split over the mesh's batch axes.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from ad_jax import values
from ad_jax.envs.base import TaskFamily, advance, reset, spec_of
from ad_jax.models.base import first_steps, follow
from ad_jax.policies.base import Carry, Policy
from ad_jax.policies.demonstrator import Prompt, demonstrate
from ad_jax.sharding import on_batch, replicated
from ad_jax.types import PyTree, Steps


@struct.dataclass
class Rollouts:
    """B rollouts under way. Every array leaf is `[B, ...]` or a scalar."""

    carry: Carry  # of the policy
    steps: Steps  # [B], what the policy sees next, its observation as yet unrendered
    env_state: PyTree
    episode: jax.Array  # [B] int32, episodes finished
    returns: jax.Array  # [B, E + 1] float32; the last column takes what comes after episode E
    lengths: jax.Array  # [B, E + 1] int32, environment steps of each episode so far; the last column likewise
    time: jax.Array  # [] int32, environment steps done
    impossible: jax.Array  # [B] bool, whether anything that was seen, done or earned so far cannot be


class Evaluator(NamedTuple):
    """Compiled rollouts of one policy on one family.

    Attributes:
        start: `(keys [B], tasks [B]) -> Rollouts`.
        run: `(params, rollouts, keys [B], tasks [B]) -> (rollouts, trace [steps, B, k])`: `steps_per_run` more
            environment steps of each rollout. The rollouts are donated; the keys are not consumed: step t of a rollout
            uses `fold_in(key, t)`, so results do not depend on the batch or on where a run was cut.
        explain: `(params, rollouts, first, keys, tasks) -> (rollouts, first)`: the same steps, and the first value of
            each rollout that cannot be. `run` says only whether there is one, because finding out which took up to a
            tenth of its time (`experiments/speed/finite.py`).
        steps_per_run: environment steps of each rollout in one `run`.
    """

    start: Callable[..., Rollouts]
    run: Callable[..., tuple[Rollouts, jax.Array]]
    explain: Callable[..., tuple[Rollouts, values.First]]
    steps_per_run: int


def make_evaluator(
    policy: Policy,
    family: TaskFamily,
    mesh: Mesh,
    episodes: int,
    steps_per_run: int,
    prompt: Prompt | None = None,
) -> Evaluator:
    """Return an `Evaluator` that counts the first `episodes` episodes; in a prompt's the policy only looks."""
    spec = spec_of(family)
    rows, one = on_batch(mesh), replicated(mesh)

    def place(tree):
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, rows if x.ndim else one), tree)

    def start(keys, tasks):
        batch = len(keys)

        def begin(key, task):
            return reset(family, jax.random.fold_in(key, 2**31), task)

        observation, env_state = jax.vmap(begin)(keys, tasks)
        steps = first_steps(observation, spec.action)
        returns, lengths = (jnp.zeros((batch, episodes + 1), dtype) for dtype in (jnp.float32, jnp.int32))
        counters = jnp.zeros((batch,), jnp.int32), returns, lengths, jnp.int32(0), jnp.zeros((batch,), jnp.bool_)
        return place(Rollouts(policy.init(batch), steps, env_state, *counters))

    def step(params, keys, tasks, rollouts):
        """One step of each rollout, what its trace shows, and what is to be looked at."""
        seen = rollouts.steps.replace(observation=jax.vmap(family.render)(rollouts.steps.observation))
        if policy.tell is not None:
            told = jax.vmap(functools.partial(policy.tell, family))(tasks, rollouts.steps.observation)
            seen = seen.replace(extra=seen.extra | told)
        key = jax.vmap(jax.random.fold_in, (0, None))(keys, rollouts.time)
        key_action, key_env = jnp.moveaxis(jax.vmap(jax.random.split)(key), 1, 0)
        if prompt is None:
            action, carry = policy.act(params, rollouts.carry, seen, key_action)
        else:
            key_action, key_prompt = jnp.moveaxis(jax.vmap(jax.random.split)(key_action), 1, 0)
            action, carry = policy.act(params, rollouts.carry, seen, key_action)
            show = jax.vmap(functools.partial(demonstrate, family, prompt.noise))
            shown = show(key_prompt, rollouts.env_state, tasks)
            prompted = (rollouts.episode < prompt.episodes).reshape(-1, *(1,) * (action.ndim - 1))
            action = jnp.where(prompted, shown, action)
        trace = jax.vmap(family.trace)(rollouts.env_state, action)
        observation, env_state, outcome = jax.vmap(functools.partial(advance, family))(
            key_env, rollouts.env_state, action, tasks
        )
        at = jnp.arange(len(keys), dtype=jnp.int32), jnp.minimum(rollouts.episode, episodes)
        returns, lengths = rollouts.returns.at[at].add(outcome.reward), rollouts.lengths.at[at].add(1)
        shown = rollouts.steps.observation, action, outcome.reward, policy.highest(carry)
        impossible = rollouts.impossible | values.impossible(spec, family.reward_dtype, *shown)
        steps = follow(observation, action, outcome)
        episode = rollouts.episode + outcome.done.astype(jnp.int32)
        after = Rollouts(carry, steps, env_state, episode, returns, lengths, rollouts.time + 1, impossible)
        return after, trace, shown

    def run(params, rollouts, keys, tasks):
        def body(rollouts, _):
            return step(params, keys, tasks, rollouts)[:2]

        rollouts, trace = jax.lax.scan(body, rollouts, None, steps_per_run)
        return place(rollouts), trace

    def explain(params, rollouts, first, keys, tasks):
        def body(carry, _):
            before, first = carry
            rollouts, _, shown = step(params, keys, tasks, before)
            return (rollouts, values.look(spec, family.reward_dtype, first, before.time, before.episode, *shown)), None

        (rollouts, first), _ = jax.lax.scan(body, (rollouts, first), None, steps_per_run)
        return place(rollouts), first

    return Evaluator(jax.jit(start), jax.jit(run, donate_argnums=1), jax.jit(explain), steps_per_run)
