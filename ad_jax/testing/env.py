"""The contract of a task family, as checks."""

import dataclasses
import functools
import json
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.envs.base import TaskFamily, advance, num_tasks, reset, seen_spec_of, source_view, spec_of, take
from ad_jax.envs.stepping import check_task, check_types, is_key
from ad_jax.keys import a_key
from ad_jax.registry import build
from ad_jax.testing.base import (
    bits,
    check_episodes,
    check_space,
    joined,
    promised,
    require,
    run_checks,
    same,
    types_of,
)
from ad_jax.testing.env_observed import observed
from ad_jax.testing.env_returns import episode_return, optimal_actions, random_returns
from ad_jax.testing.env_steps import actions_of, best_actions, one_program, starts
from ad_jax.types import PyTree

SMALL = 64  # observations with more components than this are sampled sparingly
RENDERED = 64  # observations that are rendered in several ways


def check_env(family: TaskFamily) -> list[str]:
    """Check a task family. Takes seconds.

    Returns:
        The names of the checks, all passed.

    Raises:
        ContractError: for the first check that fails.
    """
    return run_checks(repr(family), CHECKS, _Sample(family))


def _lifetime(family: TaskFamily, keys: jax.Array, actions: np.ndarray, task: PyTree) -> dict[str, PyTree]:
    """Return a lifetime of given actions `[T]`, from keys `[T + 1]`: arrays `[T, ...]`."""

    def step(carry, x):
        action, key = x
        observation, state, outcome = advance(family, key, carry[1], action, task)
        record = {"observation": carry[0], "state": carry[1], "outcome": outcome}
        return (observation, state), record | {"trace": family.trace(carry[1], action)}

    return jax.lax.scan(step, reset(family, keys[0], task), (jnp.asarray(actions), keys[1:]))[1]


@dataclasses.dataclass
class _Sample:
    """A family, a few of its tasks, and a lifetime of random actions on each; made when first asked for."""

    family: TaskFamily

    @functools.cached_property
    def small(self) -> bool:
        return spec_of(self.family).size <= SMALL

    @functools.cached_property
    def tasks(self) -> PyTree:
        return self.family.sample_tasks(a_key(0), 64 if self.small else 8)

    @functools.cached_property
    def steps(self) -> int:
        return max(512 if self.small else 128, 2 * self.family.episode_length + 1)  # at least 1,000 over the tasks

    @functools.cached_property
    def episodes(self) -> tuple[int, int, int]:
        """How many tasks, episodes of each, and steps to simulate, where returns are compared."""
        tasks, steps = 8, self.family.episode_length
        return tasks, int(np.clip(400_000 // (tasks * steps), 256, 8192)), steps

    @functools.cached_property
    def play(self) -> Callable[..., jax.Array]:
        """`episode_return` of keys `[n, E, T + 1]` and actions `[n, E, T]` on n tasks: `[n, E]`."""
        return jax.jit(jax.vmap(jax.vmap(lambda *args: episode_return(self.family, *args), (0, 0, None))))

    @functools.cached_property
    def live(self) -> Callable[[PyTree], dict[str, PyTree]]:
        """A lifetime on a task; keys and actions are the same for all, so that they differ through the task alone."""
        keys = jax.random.split(a_key(1), self.steps + 1)
        actions = actions_of(self)
        return lambda task: _lifetime(self.family, keys, actions, task)

    @functools.cached_property
    def lifetimes(self) -> dict[str, PyTree]:
        """`[N, steps, ...]`."""
        lifetimes = jax.jit(jax.vmap(self.live))(self.tasks)
        return jax.tree.map(lambda x: x if is_key(x) else np.asarray(x), lifetimes)


def _declared(s: _Sample) -> None:
    family = s.family
    require(
        isinstance(family, TaskFamily), "a TaskFamily", type(family).__name__, "Subclass ad_jax.envs.base.TaskFamily."
    )
    own = vars(type(family)).get("__dataclass_params__")  # of this class, not of one it inherits from
    frozen = own is not None and own.frozen
    require(
        frozen, "a frozen dataclass", type(family).__name__, "Decorate it with @dataclasses.dataclass(frozen=True)."
    )
    again = build(family.name, type(family), json.loads(json.dumps(family.options)))
    require(again == family and hash(again) == hash(family), repr(family), repr(again), "Keep state in options only.")
    whole = isinstance(family.episode_length, int) and family.episode_length >= 1
    require(whole, "a positive int episode_length", family.episode_length, "It is static.")
    spec_of(family)


def _tasks(s: _Sample) -> None:
    check_task(s.family, s.family.default_params)
    family, n = s.family, num_tasks(s.tasks)
    table = family.all_tasks()
    one = jax.eval_shape(lambda: family.default_params)
    empty = [jax.tree_util.keystr(path) for path, x in jax.tree_util.tree_leaves_with_path(one) if 0 in x.shape]
    require(not empty, "tasks whose every leaf has elements", f"none in task{', task'.join(empty)}", "Leave them out.")
    for tasks, count in [(s.tasks, n)] + ([] if table is None else [(table, num_tasks(table))]):
        rows = jax.eval_shape(lambda params, n=count: jax.tree.map(lambda x: jnp.stack([x] * n), params), one)
        require(
            jax.tree.structure(tasks) == jax.tree.structure(one) and types_of(tasks) == types_of(rows),
            f"{count} tasks {types_of(rows)}",
            types_of(tasks),
            "Stack every leaf of default_params.",
        )
        require(
            np.all(np.asarray(tasks.max_steps_in_episode) == family.episode_length),
            f"max_steps_in_episode == episode_length == {family.episode_length} in every task",
            np.unique(tasks.max_steps_in_episode),
            "Set it from episode_length.",
        )
    again, other = family.sample_tasks(a_key(0), n), family.sample_tasks(a_key(1), n)
    require(same(again, s.tasks), "the same tasks from the same key", "others", "Use no randomness but the key's.")
    single = table is not None and num_tasks(table) == 1
    require(single or not same(other, s.tasks), "other tasks from another key", "the same", "Use the key.")


def _task_ids(s: _Sample) -> None:
    table = s.family.all_tasks()
    tasks = s.tasks if table is None else jax.tree.map(lambda a, b: jnp.concatenate([a, b]), s.tasks, table)
    ids, rows = s.family.task_ids(tasks), [bits(leaf) for leaf in jax.tree.leaves(tasks)]
    require(len(ids) == num_tasks(tasks) and all(isinstance(i, str) for i in ids), "one string a task", ids[:3], "")
    contents = [b"".join(row[i].tobytes() for row in rows) for i in range(len(ids))]
    pairs = len(set(zip(ids, contents)))
    require(
        len(set(ids)) == len(set(contents)) == pairs,
        f"{len(set(contents))} ids for as many different tasks",
        f"{len(set(ids))} ids",
        "Make the id from every leaf that differs between tasks.",
    )
    if table is not None:
        require(
            len(set(contents)) == num_tasks(table),
            "all_tasks to list each task once, sampled ones included",
            f"{len(set(contents))} different tasks, {num_tasks(table)} rows",
            "",
        )
    back = s.family.task_ids(take(tasks, slice(None, None, -1)))
    require(back[::-1] == ids, "an id that depends on its task alone", "one that depends on its place", "")


def _types(s: _Sample) -> None:
    """Ask what a run asks, too: `reset` and `advance` name what cannot be used."""
    check_types(s.family)
    task, key = take(s.tasks, 0), a_key(0)
    action = jnp.asarray(s.family.action_spec.one)
    start = jax.eval_shape(lambda: reset(s.family, key, task))
    after = jax.eval_shape(lambda: advance(s.family, key, reset(s.family, key, task)[1], action, task))[:2]
    require(
        types_of(after, weak=True) == types_of(start, weak=True),
        f"what reset_env gives, {types_of(start, weak=True)}",
        types_of(after, weak=True),
        "Cast what step_env returns.",
    )


def _spaces(s: _Sample) -> None:
    x = s.lifetimes["observation"]
    check_space(s.family.observation_space(take(s.tasks, 0)), x.reshape(-1, *x.shape[2:]), "observations")


def _renders(s: _Sample) -> None:
    """Training and acting render the same step in different batches, so not a bit of it may depend on the batch."""
    seen_spec_of(s.family)
    if type(s.family).render is TaskFamily.render:  # it shows what is stored
        return
    stored = s.lifetimes["observation"][:, : 2 * RENDERED].reshape(-1, *s.lifetimes["observation"].shape[2:])
    picked = jnp.asarray(stored[np.linspace(0, len(stored) - 1, RENDERED).astype(int)])
    together = np.asarray(jax.jit(jax.vmap(s.family.render))(picked))
    alone = jax.jit(lambda observation: s.family.render(observation))
    one_by_one = np.stack([np.asarray(alone(observation)) for observation in picked])
    in_a_scan = np.asarray(jax.jit(lambda x: jax.lax.scan(lambda _, o: (None, s.family.render(o)), None, x)[1])(picked))
    for how, pictures in (("one by one", one_by_one), ("in a scan", in_a_scan)):
        require(
            np.array_equal(together, pictures),
            f"the same bits in a batch and {how}",
            f"{np.mean(together != pictures):.2%} of the numbers differ",
            "Compute pictures in whole numbers.",
        )


def _rewards(s: _Sample) -> None:
    reward = s.lifetimes["outcome"].reward
    with promised("finite rewards", ""):
        chex.assert_tree_all_finite(reward)
    stored = reward.astype(s.family.reward_dtype).astype(np.float32)
    require(
        np.array_equal(stored, reward),
        f"rewards that {s.family.reward_dtype} holds exactly",
        reward[stored != reward][:3],
        "Widen reward_dtype.",
    )


def _episodes(s: _Sample) -> None:
    outcome = s.lifetimes["outcome"]
    check_episodes(outcome.terminated, outcome.truncated, s.family.episode_length)


def _no_copies(s: _Sample) -> None:
    """Check for copies of a task's leaves, which go stale when a leaf is changed; what never differs is a copy."""

    def paths(tree):
        return [(jax.tree_util.keystr(p), bits(x)) for p, x in jax.tree_util.tree_leaves_with_path(tree)]

    varying = [(path, leaf) for path, leaf in paths(s.tasks) if not np.all(leaf == leaf[:1])]
    for i, (path, leaf) in enumerate(varying):
        for other, x in varying[i + 1 :]:
            require(
                not np.array_equal(x, leaf), "each fact of a task stored once", f"task{path} = task{other}", "Drop one."
            )
        for other, x in paths(s.lifetimes["state"]):
            copied = x.shape[2:] == leaf.shape[1:] and np.all(x == leaf[:, None])
            require(
                not copied, "the task in its params alone", f"state{other} = task{path}", "Read it from the params."
            )


def _task_matters(s: _Sample) -> None:
    outcome = s.lifetimes["outcome"]
    seen = [s.lifetimes["observation"], outcome.reward, outcome.terminated, outcome.truncated]
    differ = any(not np.array_equal(x, np.broadcast_to(x[:1], x.shape)) for x in seen)
    require(
        differ or len(set(s.family.task_ids(s.tasks))) == 1,
        "some of the sampled tasks to differ to the eye",
        f"the same {s.steps} steps on {num_tasks(s.tasks)} tasks",
        "Take the task from the params; draw nothing of it in reset_env.",
    )


def _batches(s: _Sample) -> None:
    live = jax.jit(s.live)
    for i in (0, num_tasks(s.tasks) - 1):
        alone, batched = live(take(s.tasks, i)), take(s.lifetimes, i)
        require(same(alone, batched), "vmap over tasks to equal one at a time", f"another lifetime of task {i}", "")


def _traces(s: _Sample) -> None:
    traced = []

    def first_step(family, key, task):
        traced.append(family)
        _, state = reset(family, key, task)
        return advance(family, key, state, jnp.asarray(family.action_spec.one), task)

    stepped, again = jax.jit(first_step, static_argnums=0), type(s.family)(**s.family.options)
    for i, family in enumerate((s.family, again)):
        stepped.eval_shape(family, a_key(i), take(s.tasks, i))
    require(len(traced) == 1, "1 trace for two tasks and an equal family", f"{len(traced)}", "Keep the task in leaves.")


def _splits(s: _Sample) -> None:
    family, table = s.family, s.family.all_tasks()
    count = 8 if table is None else num_tasks(table)
    if count < 2:
        return
    n = min(4, count // 2)
    split = family.split(0, n, n)
    train = set(family.task_ids(split.train))
    require(
        isinstance(split.kind, str) and split.kind and split.held_out, "a kind and an evaluation set", split.kind, ""
    )
    for name, tasks in split.held_out.items():
        held_out = set(family.task_ids(tasks))
        require(len(held_out) == len(train) == n, f"{n} tasks a set", f"{len(train)} train, {len(held_out)} {name}", "")
        require(
            not held_out & train, f"no task of {name!r} in train", held_out & train, "Draw them together, then divide."
        )
    again = family.split(0, n, n)
    require(
        same(again.train, split.train) and same(dict(again.held_out), dict(split.held_out)),
        "one split a seed",
        "two",
        "Derive every key from the seed.",
    )
    others = [set(family.task_ids(family.split(seed, n, n).train)) for seed in range(1, 5)]
    require(any(other != train for other in others), "other splits for other seeds", "the same", "Use the seed.")
    for sizes in [(0, 1), (1, 0)] + ([] if table is None else [(count, 1)]):
        try:
            family.split(0, *sizes)
        except ValueError:
            continue
        require(False, f"ValueError from split(seed, train={sizes[0]}, held_out={sizes[1]})", "a split", "")


def _labels(s: _Sample) -> None:
    """Check that `optimal_label` makes of an observation what `optimal_action` does in the state."""

    def flat(tree):
        return jax.tree.map(joined, tree)

    observation, state = flat(s.lifetimes["observation"]), flat(s.lifetimes["state"])
    task = take(s.tasks, np.repeat(np.arange(num_tasks(s.tasks)), s.steps))
    if jax.eval_shape(jax.vmap(s.family.optimal_label), observation, task) is None:
        return
    label, action = (jax.jit(jax.vmap(f)) for f in (s.family.optimal_label, s.family.optimal_action))
    found, best = label(observation, task), action(state, task)
    require(best is not None, "an optimal_action that labels are of", None, "Define it, or drop optimal_label.")
    require(types_of(found) == types_of(best), f"labels of {types_of(best)}", types_of(found), "Cast them.")
    differ = np.asarray(found) != np.asarray(best)
    wrong = np.flatnonzero(differ.reshape(len(differ), -1).any(axis=1))
    require(
        not len(wrong),
        "optimal_label to be optimal_action",
        f"another at {observation[wrong[0]] if len(wrong) else None}",
        "Return None where the observation does not decide it.",
    )


def _source_observations(s: _Sample) -> None:
    """Check that what a privileged source is given has the stated space."""
    lifetimes, task = s.lifetimes, take(s.tasks, 0)
    space = s.family.source_observation_space(task)

    def flat(tree):
        return jax.tree.map(joined, tree)

    seen = np.asarray(jax.vmap(s.family.source_observation)(flat(lifetimes["state"]), flat(lifetimes["observation"])))
    if space is None:
        remedy = "State its source_observation_space."
        require(np.array_equal(seen, flat(lifetimes["observation"])), "the observation itself", "another", remedy)
        return
    source_view(s.family, privileged=True)
    check_space(space, seen, "source observations")


def _pictures(s: _Sample) -> None:
    trace, task = s.lifetimes["trace"], take(s.tasks, 0)
    require(trace.dtype == np.int32 and trace.ndim == 3, "a trace [k] int32", f"{trace.dtype}{trace.shape[2:]}", "")
    picture = json.loads(json.dumps(s.family.picture(task)))
    keys = {"grid": {"size"}, "pool": {"size", "goal", "radius"}, "arms": {"means"}, "none": {"kind"}}.get(
        picture.get("kind")
    )
    kinds = "a picture of kind 'grid' with a size, 'pool' with size, goal and radius, 'arms' with means, or 'none'"
    require(keys and keys <= picture.keys(), kinds, picture, "")
    if "size" in picture:
        inside = trace.shape[2] == 2 and trace.min() >= 0 and trace.max() < picture["size"]
        require(inside, f"a trace of two places inside {picture['size']}", f"{trace.min()}..{trace.max()}", "")
    words = s.family.describe(task)
    require(isinstance(words, str) and words, "a description in words", repr(words), "")


CHECKS = {
    "it is a frozen dataclass that its options rebuild": _declared,
    "tasks are batched params with the family's episode length": _tasks,
    "task ids are unique and equal exactly when the tasks are": _task_ids,
    "step_env keeps the shapes and dtypes of reset_env": _types,
    "observations are in the observation space": _spaces,
    "observe gives what reset_env and step_env return": observed,
    "starts of a task differ where start_varies says so": starts,
    "render shows the same, bit for bit, alone and in a batch": _renders,
    "reward_dtype holds every reward exactly": _rewards,
    "episodes end at episode_length, or before it by termination": _episodes,
    "the task is stored once, in its params": _no_copies,
    "the task decides what happens": _task_matters,
    "vmap over tasks equals a loop": _batches,
    "equal families and other tasks share one trace": _traces,
    "first and later steps share one trace": one_program,
    "splits are disjoint and fixed by the seed": _splits,
    "stated returns agree with simulated ones": random_returns,
    "optimal_action is an action": best_actions,
    "optimal_action earns optimal_return": optimal_actions,
    "optimal_label is optimal_action": _labels,
    "source observations are in their own space": _source_observations,
    "traces and pictures are plain data": _pictures,
}
