"""What the hardware can do, measured: arithmetic (`peak.py`), memory, random-policy steps, empty dispatches."""

import statistics
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from ad_jax import envs
from ad_jax.bench import peak as peaks
from ad_jax.bench.rows import Row, rate
from ad_jax.bench.sizes import Sizes
from ad_jax.bench.timing import Work, measure
from ad_jax.envs.base import TaskFamily, advance, reset, take
from ad_jax.keys import a_key
from ad_jax.sources.base import Source
from ad_jax.types import PyTree, Transition

SMALL = ((5120, 64, 192), (5120, 64, 256), (5120, 256, 64))  # the products of a small model's blocks, 64 x 80 positions


def triad(elements: int, loops: int = 4) -> Work:
    """Return `a += s * b` on float32 arrays far larger than any cache. Amount: bytes, two arrays read, one written."""

    def run(a, b):
        return jax.lax.fori_loop(0, loops, lambda _, a: a + jnp.float32(1e-6) * b, a)

    jitted = jax.jit(run, donate_argnums=0)
    held, b = [jnp.ones((elements,), jnp.float32)], jnp.ones((elements,), jnp.float32)

    def call():
        held[0] = jitted(held[0], b)
        return held[0]

    return Work(call, 3.0 * 4 * elements * loops)


def random_policy(family: TaskFamily, tasks: PyTree, lanes: int, rounds: int, steps: int) -> Work:
    """`lanes` lifetimes of uniformly random actions through the same `advance`, `rounds` x `steps` steps each.

    Random numbers are drawn as a source draws them, for `steps` steps at once. Nothing is recorded but the return.
    Amount: environment steps.
    """

    def lifetime(key, task):
        _, state = reset(family, key, task)

        def step(carry, random):
            state, total = carry
            action, key = random
            _, state, outcome = advance(family, key, state, action, task)
            return (state, total + outcome.reward), None

        def several(carry, index):
            key_action, key_env = jax.random.split(jax.random.fold_in(key, index))
            actions = jax.random.randint(key_action, (steps,), 0, family.num_actions, jnp.int32)
            return jax.lax.scan(step, carry, (actions, jax.random.split(key_env, steps)))

        return jax.lax.scan(several, (state, jnp.float32(0)), jnp.arange(rounds, dtype=jnp.int32))[0][1]

    count = len(jax.tree.leaves(tasks)[0])
    keys, rows = jax.random.split(a_key(0), lanes), take(tasks, jnp.arange(lanes, dtype=jnp.int32) % count)
    run = jax.jit(jax.vmap(lifetime))
    return Work(lambda: run(keys, rows), float(lanes * rounds * steps))


def random_source(family: TaskFamily, steps: int) -> Source:
    """Return the random policy as a source, `steps` steps an update, so that it is recorded as learners are."""

    def update(key, state, task):
        key_action, key_env = jax.random.split(key)
        actions = jax.random.randint(key_action, (steps,), 0, family.num_actions, jnp.int32)

        def step(carry, random):
            state, observation = carry
            action, key = random
            ahead, state, outcome = advance(family, key, state, action, task)
            transition = Transition(observation, action, outcome.reward, outcome.terminated, outcome.truncated)
            return (state, ahead), transition

        state, stream = jax.lax.scan(step, state, (actions, jax.random.split(key_env, steps)))
        return state, jax.tree.map(lambda x: x[:, None], stream)

    return Source(lambda key, task: reset(family, key, task)[::-1], update, steps_per_update=steps, actors=1)


def dispatch(times: int) -> Work:
    """Return a program that does nothing, called from Python. Amount: calls."""
    nothing = jax.jit(lambda x: x + 1)

    def call():
        x = jnp.int32(0)
        for _ in range(times):
            x = nothing(x)
        return x

    return Work(call, float(times))


def rows(sizes: Sizes) -> Iterator[Row]:
    """Every limit; those of one group are timed in turn."""
    for dtype in ("float32", "bfloat16"):
        yield from arithmetic(sizes, dtype)
    family = envs.make("dark_room", {})
    others = {
        "limits/memory, triad": ("bytes/s", triad(sizes.triad)),
        f"limits/random policy, dark_room {sizes.lanes}": (
            "env steps/s",
            random_policy(family, family.all_tasks(), sizes.lanes, max(1, sizes.env_steps // (20 * sizes.lanes)), 20),
        ),
        "limits/empty dispatch": ("calls/s", dispatch(200)),
    }
    seconds = measure({name: work for name, (_, work) in others.items()}, sizes.rounds, sizes.budget)
    for name, (unit, work) in others.items():
        each = statistics.median(seconds[name]) / work.amount
        facts = {"microseconds_each": 1e6 * each} if unit == "calls/s" else {}
        yield rate(name, unit, work.amount, seconds[name], "itself", work.amount, seconds[name], **facts)


def arithmetic(sizes: Sizes, dtype: str) -> Iterator[Row]:
    """Return the rows of a dtype's peak, of all that could have been it, and of small products as shares of it."""
    key, name = f"limits/peak {dtype}", jnp.dtype(dtype)
    works = {one: make() for one, make in peaks.candidates(sizes.matmul, 4 * sizes.small_flops, name).items()}
    chosen = peaks.fastest(sizes.matmul, 4 * sizes.small_flops, name)
    for m, k, n in SMALL if not sizes.tiny else SMALL[:1]:
        works[f"limits/matmul {dtype} {m}x{k}x{n}"] = peaks.matmul(m, k, n, name, flops=sizes.small_flops)
    seconds = measure(works, sizes.rounds, sizes.budget)
    limit, took = works[chosen].amount, seconds[chosen]
    (vectors, bits), cores = peaks.vectors(), peaks.cores()
    facts = {"cores": float(cores), "vector_bits": float(bits)} if jax.default_backend() == "cpu" else {}
    on = f", {cores} cores with {vectors}" if facts else ""
    yield rate(key, "FLOP/s", limit, took, f"{chosen.removeprefix('limits/')}{on}", limit, took, **facts)
    for other, work in works.items():
        if dtype in other:  # others are rows of their own dtype
            yield rate(other, "FLOP/s", work.amount, seconds[other], key, limit, took)
