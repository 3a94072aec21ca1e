"""What a plug-in does, in a few numbers, so that one that was edited is named and not taken for the one before.

In: a task family, a source, a model or a policy as built. Out: plain data, from a short lifetime under fixed keys: what
happens at each of the first steps, and sums over all of them. `identity.difference` compares two of these, with a
tolerance, because another device rounds otherwise. They do not depend on the experiment's seed, tasks, batch or mesh.
What fails here in a plug-in's own code is a `ConfigError`.
"""

import contextlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.envs.base import TaskFamily, advance, num_tasks, spec_of, take
from ad_jax.errors import user_code
from ad_jax.files import JsonObject
from ad_jax.keys import a_key, named_key
from ad_jax.models.base import Model
from ad_jax.policies.base import Policy
from ad_jax.sources.base import Source
from ad_jax.types import Discrete, PyTree, Spec, Steps

FORMAT = 1  # of this data; others are not compared
FORMAT_OF_POLICY = 2  # of a policy's, which holds its actions; 1 held logits of those that were models
ROWS = 16  # lifetimes of a family
SHOWN = 4, 24  # lifetimes, and steps of each, that are kept step by step
WHOLE, REAL = 256, 48  # steps of a lifetime: observations that are floats may belong to dynamics that amplify rounding
SOURCE_TASKS, SOURCE_STEPS = 4, 512
MODEL_STEPS, LARGEST = 8, 5_000_000  # parameters: larger models are not looked at
# These run once: compiling is what they cost.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@user_code("a look at how the task family behaves")
def of_family(family: TaskFamily) -> JsonObject:
    """Return what happens in a family's worlds: under random, held and constant actions, and under optimal ones."""
    tasks = _tasks(family)
    whole = spec_of(family).values is not None
    steps = WHOLE if whole else REAL
    drawn, optimal = np.random.default_rng(0), _has_optimal(family, tasks)
    stated = family.action_spec
    actions = stated.sample(drawn, (ROWS, steps))
    actions[2::4] = np.repeat(actions[2::4, ::8], 8, axis=1)[:, :steps]  # held for 8 steps
    if isinstance(stated, Discrete):
        actions[3::4] = (np.arange(len(actions[3::4])) % stated.n)[:, None]
    else:
        actions[3::4] = actions[3::4, :1]
    pictures = type(family).render is not TaskFamily.render

    def lifetime(row, task, actions):
        key = jax.random.fold_in(named_key(0, "behavior"), row)
        start = family.reset_env(jax.random.fold_in(key, 2**31), task)

        def step(carry, x):
            (observation, state), (time, action) = carry, x
            if optimal:
                action = jnp.where(row % 4 == 1, jnp.asarray(family.optimal_action(state, task), action.dtype), action)
            happened = {"observation": _number(observation), "trace": _number(family.trace(state, action))}
            key_step = jax.random.fold_in(key, time)
            after, state, outcome = advance(family, key_step, state, action, task)
            flags = {name: jnp.asarray(getattr(outcome, name), jnp.float32) for name in ("terminated", "truncated")}
            seen = observation if pictures else None
            return (after, state), ({"reward": outcome.reward, **flags, **happened}, seen)

        lived: PyTree = jax.lax.scan(step, start, (jnp.arange(steps, dtype=jnp.int32), actions))[1]
        happened, seen = lived
        shown = jax.vmap(lambda o: _number(family.render(o)))(seen[:2]) if pictures else jnp.zeros(0)
        return happened, shown

    rows = np.arange(ROWS)
    happened, shown = jax.jit(jax.vmap(lifetime), compiler_options=QUICK)(rows, tasks, actions)
    numbers = {"tasks": [_number_of_task(take(tasks, row)) for row in rows], "pictures": np.ravel(shown).tolist()}
    return _recorded(happened, numbers)


@user_code("a look at how the source behaves")
def of_source(source: Source, family: TaskFamily) -> JsonObject:
    """Return what the first updates of a source's learners do, and what they know after them."""
    tasks = take(_tasks(family), slice(SOURCE_TASKS))
    pixels = spec_of(family).pixels or type(family).render is not TaskFamily.render
    updates = 1 if pixels else -(-SOURCE_STEPS // (source.steps_per_update * source.actors))

    def lifetime(row, task):
        key = jax.random.fold_in(named_key(0, "behavior of a source"), row)
        state = source.init(jax.random.fold_in(key, 2**31), task)

        def update(state, index):
            state, t = source.update(jax.random.fold_in(key, index), state, task)
            return state, {"action": _in_one(t.action, t.reward.ndim), "reward": t.reward.astype(jnp.float32)}

        state, happened = jax.lax.scan(update, state, jnp.arange(updates, dtype=jnp.int32))
        # The first actor's stream is shown; all of them are in the sums of what was learned.
        return {name: x.reshape(-1, x.shape[-1])[:, 0] for name, x in happened.items()}, _learned(state)

    happened, learned = jax.jit(jax.vmap(lifetime), compiler_options=QUICK)(np.arange(SOURCE_TASKS), tasks)
    return _recorded(happened, {name: np.asarray(x).ravel().tolist() for name, x in learned.items()})


@user_code("a look at how the model behaves")
def of_model(model: Model, spec: Spec) -> JsonObject | None:
    """Return a model's logits for a short stream, with parameters that are filled in; None where the model is large."""
    shapes = jax.eval_shape(model.init, a_key(0))
    if sum(x.size for x in jax.tree.leaves(shapes)) > LARGEST:
        return None

    # No first parameters of its own, of which many start at zero and hide what comes before them. Gains stay near one.
    def filled(x):
        return (0.5 * (x.ndim < 2) + 0.3 * np.cos(np.arange(x.size))).reshape(x.shape).astype(x.dtype)

    params = jax.tree.map(filled, shapes)
    steps = _stream(spec, 1, min(MODEL_STEPS, model.max_segment or MODEL_STEPS))
    logits = jax.jit(model.apply, compiler_options=QUICK)(params, steps)
    return _recorded({}, {"logits": np.ravel(logits)[:64].tolist()})


@user_code("a look at how the policy behaves")
def of_policy(policy: Policy, spec: Spec) -> JsonObject:
    """Return what a policy without parameters does in a few short streams."""
    lifetimes, length = SHOWN
    time_first = jax.tree.map(lambda x: x.swapaxes(0, 1), _stream(spec, lifetimes, length))
    keys = jax.random.split(named_key(0, "behavior of a policy"), (length, lifetimes))

    def act(carry, x):
        steps, keys = x
        action, carry = policy.act({}, carry, steps, keys)
        return carry, action

    def roll(time_first, keys):
        return jax.lax.scan(act, policy.init(lifetimes), (time_first, keys))[1]

    actions = jax.jit(roll, compiler_options=QUICK)(time_first, keys)
    return _recorded({"action": _in_one(actions.swapaxes(0, 1), 2)}, {}) | {"format": FORMAT_OF_POLICY}


def _stream(spec: Spec, batch: int, length: int) -> Steps:
    """Return steps `[batch, length]` drawn at random, in host memory."""
    drawn, shape = np.random.default_rng(0), (batch, length, *spec.shape)
    most = 256 if spec.pixels else 0 if spec.values is None else min(spec.values)
    observation = drawn.integers(0, most, shape) if most else drawn.normal(size=shape)
    return Steps(
        observation=observation.astype(spec.compute_dtype),
        prev_action=spec.action.sample(drawn, (batch, length)),
        prev_reward=drawn.normal(size=(batch, length)).astype(np.float32),
        prev_done=drawn.integers(0, 2, (batch, length)) > 0,
        extra={name: drawn.normal(size=(batch, length, *shape)).astype(np.float32) for name, shape in spec.extra},
    )


def _in_one(action: PyTree, lead: int) -> jax.Array:
    """Return a number for each action `[..., *A]`, after `lead` axes; a Discrete action is its own."""
    flat = action.reshape(*action.shape[:lead], -1).astype(jnp.float32)
    of_components = jnp.arange(1, flat.shape[-1] + 1, dtype=jnp.float32)  # told apart; one is itself
    return jnp.sum(flat * of_components.reshape(*(1,) * lead, -1), axis=-1)


def _recorded(happened: Mapping[str, PyTree], sums: Mapping[str, PyTree]) -> JsonObject:
    """Plain data: of `happened`, arrays `[lifetimes, T]`, the first steps and the sums over time; and other sums."""
    lifetimes, steps = SHOWN
    happened = {name: np.asarray(x, np.float64) for name, x in happened.items()}
    late = {name: np.arange(1, x.shape[1] + 1) / x.shape[1] for name, x in happened.items()}
    totals = {name: x.sum(1).tolist() for name, x in happened.items()}
    totals |= {f"{name}, weighted by time": (x * late[name]).sum(1).tolist() for name, x in happened.items()}
    return {
        "format": FORMAT,
        "platform": _platform(),
        "shown": {name: [[_short(y) for y in row] for row in x[:lifetimes, :steps]] for name, x in happened.items()},
        "sums": {name: [_short(y) for y in x] for name, x in (totals | dict(sums)).items()},
    }


def _platform() -> str:
    """Return what rounding depends on: the kind of device, its model, and the precision of products that is set."""
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return f"{jax.default_backend()} {jax.devices()[0].device_kind} {precision}"


def _short(x: float) -> float | int | str:
    """Seven digits, whole numbers as such, and what is no finite number as text, which JSON can hold."""
    if not np.isfinite(x):
        return str(float(x))
    rounded = float(f"{x:.7g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 2**53 else rounded


def _number(x: PyTree) -> jax.Array:
    """Return a number that tells one array from another, `[]` float32."""
    flat = jnp.asarray(x).astype(jnp.float32).reshape(-1)
    return (flat * jnp.asarray(_weights(flat.size))).sum()


def _weights(size: int) -> np.ndarray:
    """Of the same magnitude, and no two alike: the first is 1."""
    return (1 + np.arange(size) * 0.6180339887 % 1).astype(np.float32)


def _number_of_task(task: PyTree) -> float:
    """Return the same of the leaves of one task, in host memory."""

    def plain(x):
        return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    leaves = [np.ravel(plain(jnp.asarray(leaf))).astype(np.float64) for leaf in jax.tree.leaves(task)]
    flat = np.concatenate(leaves) if leaves else np.zeros(0)
    return float((flat * _weights(flat.size)).sum())


def _learned(tree: PyTree) -> JsonObject:
    """Of all numbers in a tree that are floats: their sum, and the sum of their sizes."""
    leaves = [x.astype(jnp.float32) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]

    def total(xs: PyTree) -> PyTree:
        return sum((x.sum() for x in xs), jnp.float32(0))

    return {"what is learned": total(leaves), "the size of what is learned": total([jnp.abs(x) for x in leaves])}


def _tasks(family: TaskFamily) -> PyTree:
    """`ROWS` tasks, whatever the experiment's split is.

    A family may draw none, or not so many: then those of a small split of its own, or its default task, are repeated.
    """
    giving: tuple[Callable[[], PyTree], ...] = (
        lambda: family.sample_tasks(named_key(0, "tasks for a look at behavior"), ROWS),
        lambda: family.split(0, ROWS // 2, ROWS // 2).train,
    )
    for give in giving:
        with contextlib.suppress(Exception):  # nothing that a run needs: what it does need is asked for elsewhere
            if found := num_tasks(tasks := give()):
                return tasks if found == ROWS else take(tasks, np.arange(ROWS) % found)
    return jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], ROWS, axis=0), family.default_params)


def _has_optimal(family: TaskFamily, tasks: PyTree) -> bool:
    """Whether the family knows its optimal actions. Nothing is computed."""
    state = jax.eval_shape(lambda key, task: family.reset_env(key, task)[1], a_key(0), take(tasks, 0))
    try:
        return jax.eval_shape(family.optimal_action, state, take(tasks, 0)) is not None
    except NotImplementedError:  # as good as None
        return False
