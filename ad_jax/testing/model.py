"""The contract of a backbone: causal, the same function by segment and by cache, at any distance from the start."""

import dataclasses
import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.keys import a_key
from ad_jax.models import heads
from ad_jax.models.base import Cache, Model, Params, has_parameters
from ad_jax.models.branches import of_rows
from ad_jax.testing.base import promised, require, run_checks
from ad_jax.types import Discrete, PyTree, Spec, Steps

Decode = Callable[[Params, Cache, Steps], tuple[jax.Array, Cache]]

ROWS = 2  # streams side by side in every check


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the checks work on."""

    model: Model
    spec: Spec
    params: PyTree
    episode_length: int
    tolerance: float
    apply: Callable[..., jax.Array]  # jitted
    decode: Decode  # jitted, and it may be traced once

    @functools.cached_property
    def firsts(self) -> list[int]:
        """The first step of the context of each of `_moments`."""
        moments = _moments(self.model.window)
        done = random_done(1, moments[-1] + 1, self.episode_length)[0]
        return [self.model.context_start(done[: t + 1]) for t in moments]

    @functools.cached_property
    def length(self) -> int:
        """Of most segments, as one length is one program: each context fits, and more than a window where it may."""
        window, longest = self.model.window, max(t + 1 - x for t, x in zip(_moments(self.model.window), self.firsts))
        return longest if self.model.max_segment is not None else max(longest, 3 * window + 1)


def check_model(model: Model, spec: Spec, *, episode_length: int, tolerance: float = 1e-4) -> list[str]:
    """Run every check of the backbone contract on `model` with fresh parameters.

    Args:
        model: the backbone, built for `spec`; a small window keeps this quick.
        spec: its observations and actions.
        episode_length: steps between the episode boundaries of the random streams it is tried on.
        tolerance: most that a decoded logit may differ from an applied one; about 5e-2 for bfloat16.

    Returns:
        The names of the checks, all passed.

    Raises:
        ContractError: for the first check that fails.
    """
    params = jax.jit(model.init)(a_key(0))
    chex.clear_trace_counter()  # it takes the function of another call of ours for this one

    @chex.assert_max_traces(n=1)
    def counted(params, cache, steps):
        return model.decode(params, cache, steps)

    apply, decode = jax.jit(model.apply), jax.jit(counted)
    sample = Sample(model, spec, params, episode_length, tolerance, apply, decode)
    checks = {
        "apply gives outputs [B, L, head.size] in float32": _shapes,
        "an output does not see the future": _causal,
        "cache leaves are finite and lead with the batch": _cache,
        "decode is compiled once": _retrace,
        "decode equals apply from the first step to five windows": _decode,
        "apply on a long segment equals decode": _long_segment,
        "streams that go on in many ways decode as each alone": _branches,
        "rows of a batch do not affect one another": _rows,
        "a key makes training mode, reproducibly": _training,
    }
    return run_checks(f"model {type(params).__name__}", checks, sample)


def random_steps(spec: Spec, batch: int, length: int, episode_length: int, seed: int = 0) -> Steps:
    """Return a random stream `[B, L]` with episode boundaries every `episode_length` steps, as NumPy arrays."""
    rng = np.random.default_rng(seed)
    if spec.pixels:
        observation = rng.integers(0, 256, (batch, length, *spec.shape), np.uint8)
    elif spec.values is None:
        observation = rng.normal(size=(batch, length, *spec.shape)).astype(np.float32)
    else:
        flat = rng.integers(0, spec.values, (batch, length, spec.size))
        observation = flat.reshape(batch, length, *spec.shape).astype(np.int32)
    action = spec.action.sample(rng, (batch, length))
    action[:, 0] = spec.action.none
    done = random_done(batch, length, episode_length)
    reward = rng.random((batch, length), np.float32) * (np.arange(length) > 0)
    extra = {name: rng.normal(size=(batch, length, *shape)).astype(np.float32) for name, shape in spec.extra}
    return Steps(
        observation=observation, prev_action=action, prev_reward=reward.astype(np.float32), prev_done=done, extra=extra
    )


def random_done(batch: int, length: int, episode_length: int) -> np.ndarray:
    """Return where the streams of `random_steps` begin an episode anew, `[B, L]` bool."""
    time = np.arange(length)
    return np.tile((time % episode_length == 0) & (time > 0), (batch, 1))


def decode_all(model: Model, params: PyTree, steps: Steps, decode: Decode | None = None) -> np.ndarray:
    """Return outputs `[B, L, head.size]` of a stream, one decoded step at a time."""
    decode, cache, logits = decode or jax.jit(model.decode), model.init_cache(len(steps.prev_done)), []
    for t in range(steps.prev_done.shape[1]):
        out, cache = decode(params, cache, jax.tree.map(lambda x: x[:, t], steps))  # noqa: B023
        logits.append(np.asarray(out))
    return np.stack(logits, axis=1)


def _moments(window: int) -> list[int]:
    """Return the steps at which a decoded output is held against an applied one."""
    last = 5 * window + 1
    return sorted({0, 1, max(window - 2, 0), window - 1, window, window + 1, 2 * window, 3 * window + 1, last})


def _stream(s: Sample, length: int, seed: int = 0) -> Steps:
    return random_steps(s.spec, ROWS, length, s.episode_length, seed)


def _shapes(s: Sample) -> None:
    length = s.model.window
    outputs = jax.eval_shape(s.model.apply, s.params, _stream(s, length))
    if s.model.head is None:
        discrete = isinstance(s.spec.action, Discrete)
        require(discrete, f"a head for {s.spec.action}", None, "Give the Model its head.")
    expected = (ROWS, length, s.spec.num_actions if s.model.head is None else s.model.head.size)
    with promised(f"float32 outputs {expected}", "As many a step as the head takes: a logit per action; cast them."):
        chex.assert_shape(outputs, expected)
        chex.assert_type(outputs, jnp.float32)
    one = jax.eval_shape(lambda x: heads.of(s.model, x).greedy(x), outputs)
    found, stated = (one.shape[2:], one.dtype), (s.spec.action.shape, s.spec.action.compute_dtype)
    require(found == stated, f"a head of {s.spec.action}", s.model.head, "Give the Model the spec's own head.")


def _causal(s: Sample) -> None:
    steps = _stream(s, s.model.window)
    middle = s.model.window // 2
    if not has_parameters(s.model):  # written rather than trained: it may count, and has no gradient
        _causal_by_change(s, _stream(s, s.length), _stream(s, s.length, seed=1), middle)
        return

    outputs = jax.eval_shape(s.model.apply, s.params, steps).shape[-1]
    weights = jnp.asarray(np.random.default_rng(0).normal(size=outputs).astype(np.float32))

    def logits_at_middle(reward):
        return s.model.apply(s.params, steps.replace(prev_reward=reward))[0, middle] @ weights

    slope = np.abs(jax.jit(jax.grad(logits_at_middle))(jnp.asarray(steps.prev_reward)))[0]  # [L]
    later = (
        f"step {middle}'s logits feel step {middle + 1 + int(np.argmax(slope[middle + 1 :]))}"
        if middle + 1 < len(slope)
        else ""
    )
    require(not slope[middle + 1 :].any(), "no gradient from later steps", later, "Mask the attention causally.")
    # But for the first of the context: before a lifetime's first step there was no reward.
    first = s.model.context_start(steps.prev_done[0, : middle + 1])
    require(
        slope[first + 1 : middle + 1].all(),
        "a gradient from each step up to now",
        np.flatnonzero(slope == 0).tolist(),
        "Every step of the window must reach the logits.",
    )


def _causal_by_change(s: Sample, steps: Steps, others: Steps, middle: int) -> None:
    cut = jax.tree.map(lambda x, y: np.concatenate([x[:, : middle + 1], y[:, middle + 1 :]], axis=1), steps, others)
    same = np.array_equal(s.apply(s.params, steps)[:, : middle + 1], s.apply(s.params, cut)[:, : middle + 1])
    require(same, "the same logits when only later steps change", "others", "Carry what is known forward in time.")


def _cache(s: Sample) -> None:
    cache = s.model.init_cache(ROWS)
    with promised(f"scalars or [{ROWS}, ...]", "Put the batch first."):
        chex.assert_tree_shape_prefix([leaf for leaf in jax.tree.leaves(cache) if leaf.ndim], (ROWS,))
    with promised("finite numbers", "0 * NaN is NaN."):
        chex.assert_tree_all_finite(cache)


def _decode(s: Sample) -> None:
    window, moments = s.model.window, _moments(s.model.window)
    steps = _stream(s, moments[-1] + 1)
    decoded = decode_all(s.model, s.params, steps, s.decode)
    # What comes after step t cannot matter.
    padded = jax.tree.map(lambda x: np.pad(x, [(0, 0), (0, s.length), *[(0, 0)] * (x.ndim - 2)]), steps)
    for t, first in zip(moments, s.firsts):
        cut = jax.tree.map(lambda x: x[:, first : first + s.length], padded)  # noqa: B023
        error = np.abs(decoded[:, t] - np.asarray(s.apply(s.params, cut))[:, t - first]).max()
        require(
            error <= s.tolerance,
            f"|decode - apply| <= {s.tolerance} at every step",
            f"{error:.2e} at step {t} of window {window}",
            "The cache must hold exactly what apply attends to.",
        )


def _long_segment(s: Sample) -> None:
    if s.model.max_segment is not None:
        return
    steps = _stream(s, s.length)
    decoded = decode_all(s.model, s.params, steps, s.decode)
    error = np.abs(np.asarray(s.apply(s.params, steps)) - decoded).max()
    require(error <= s.tolerance, f"|decode - apply| <= {s.tolerance}", f"{error:.2e}", "Slide the window by one step.")
    if s.model.unroll is None:
        return
    cache, middle, unroll = s.model.init_cache(ROWS), s.length // 2, jax.jit(s.model.unroll)
    for part in (slice(middle), slice(middle, 2 * middle)):  # of one length, as each length is a program
        outputs, cache = unroll(s.params, cache, jax.tree.map(lambda x: x[:, part], steps))  # noqa: B023
        error = np.abs(np.asarray(outputs) - decoded[:, part]).max()
        require(error <= s.tolerance, f"|unroll - decode| <= {s.tolerance}", f"{error:.2e}", "Start from the cache.")


def _branches(s: Sample) -> None:
    """Ways of a few steps, which go on from one another, against the streams that they stand for."""
    own, planned, drawn = s.model.branches, 4, np.random.default_rng(0)
    # Where each way has a cache of its own, one stream's ways are the rows of the program that is there.
    streams, ways = (1, ROWS) if own is None else (ROWS, 3)
    branches = of_rows(s.decode) if own is None else own._replace(decode=jax.jit(own.decode))
    for first in (1, s.model.window + 2):
        past, cache = _stream(s, first), s.model.init_cache(ROWS)
        for t in range(first):
            _, cache = s.decode(s.params, cache, jax.tree.map(lambda x: x[:, t], past))  # noqa: B023
        cache = jax.tree.map(lambda x: x[:streams] if x.ndim else x, cache)
        ahead = random_steps(s.spec, streams * ways, first + planned, s.episode_length, seed=2)
        ahead = jax.tree.map(lambda x: x.reshape(streams, ways, *x.shape[1:]), ahead)
        lived = jax.tree.map(lambda x: np.repeat(x[:streams, None], ways, axis=1), past)
        grown, outputs = branches.start(cache, ways, planned), None
        for t in range(first, first + planned):
            rows = drawn.integers(0, ways, (streams, ways)).astype(np.int32)
            grown = branches.take(grown, jnp.asarray(rows))
            outputs, grown = branches.decode(s.params, grown, jax.tree.map(lambda x: x[:, :, t], ahead))  # noqa: B023
            lived = jax.tree.map(
                lambda x, y: np.concatenate([x[np.arange(streams)[:, None], rows], y[:, :, t : t + 1]], axis=2),  # noqa: B023
                lived,
                ahead,
            )
        flat = jax.tree.map(lambda x: x.reshape(-1, ROWS, *x.shape[2:]), lived)
        alone = [decode_all(s.model, s.params, jax.tree.map(lambda x: x[i], flat), s.decode)[:, -1]  # noqa: B023
                 for i in range(streams * ways // ROWS)]  # fmt: skip
        error = np.abs(np.asarray(outputs).reshape(np.concatenate(alone).shape) - np.concatenate(alone)).max()
        require(
            error <= s.tolerance,
            f"|branches - decode| <= {s.tolerance} after {first} steps",
            f"{error:.2e}",
            "A way sees its stream's past and its own plan, and take moves all that is a way's own.",
        )


def _rows(s: Sample) -> None:
    steps, other = _stream(s, s.length), _stream(s, s.length, seed=1)
    mixed = jax.tree.map(lambda x, y: np.stack([x[0], y[1]]), steps, other)
    error = np.abs(np.asarray(s.apply(s.params, steps) - s.apply(s.params, mixed)))[0].max()
    require(error <= 1e-5, "row 0 unchanged when row 1 changes", f"{error:.2e}", "Nothing may mix rows.")


def _retrace(s: Sample) -> None:
    steps, cache = jax.tree.map(lambda x: x[:, 0], _stream(s, 1)), s.model.init_cache(ROWS)
    with promised("1 trace", "The cache must come out with the shapes and dtypes it had."):
        for _ in range(3):
            _, cache = s.decode(s.params, cache, steps)


def _training(s: Sample) -> None:
    steps, apply = _stream(s, s.length), s.apply
    same = np.array_equal(apply(s.params, steps, a_key(1)), apply(s.params, steps, a_key(1)))
    require(same, "the same logits for the same key", "different ones", "Draw everything from the key.")
    require(np.array_equal(apply(s.params, steps), apply(s.params, steps)), "no randomness without a key", "some", "")
