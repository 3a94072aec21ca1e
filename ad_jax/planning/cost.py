"""What a run costs, counted from its experiment: nothing is compiled, run or read from disk.

Exact: environment steps, bytes of histories, parameters, optimiser state and caches. FLOP are those of the model's
products, not of a program. Memory of activations is an estimate; the formulas stand at the functions, and tests hold
them to what collecting, training and the compiler give. Everything is for one device.

Letters: B batch, L segment, W window, n tokens a step, D width, M the MLP's width, K heads, S keys in sight of a token.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ad_jax.envs.base import num_tasks
from ad_jax.experiment import Experiment, Parts
from ad_jax.history.replay import Config as ReplayConfig
from ad_jax.history.replay import Replay
from ad_jax.history.streaming import AHEAD
from ad_jax.models.attention import Band
from ad_jax.models.tokens import tokens_per_step
from ad_jax.models.transformer import Transformer
from ad_jax.stage.collect import life_updates
from ad_jax.text import si
from ad_jax.types import Spec

FLOAT = 4  # bytes of a float32, and of an int32
# What a process on a CPU takes before any work, and while it compiles: measured on x86-64 with jax 0.10.2.
IDLE, COMPILING, SMALL_PROGRAMS = 400_000_000, 400_000_000, 130_000_000


@dataclasses.dataclass(frozen=True)
class Cost:
    """What `count` gives. None: not known, because the backbone is not our transformer.

    Where a method is fed tasks there are no histories, and an update's batch is what it did itself.
    """

    histories: int
    env_steps: int  # of collecting
    disk_bytes: int  # of all steps before compression; without tasks, ledger and metadata
    chunk_bytes: int  # of one chunk of them
    resident_bytes: int  # on the device after thinning; at most that where episodes can end early
    parameters: int
    state_bytes: int  # parameters, optimiser state and gradients
    batch_bytes: int  # windows as the model sees them
    method: str  # that trains the model
    trial_steps: int  # environment steps that the method takes itself
    accumulate: int  # parts of a batch
    activation_bytes: int | None  # of one part, estimated
    updates: int
    update_flops: float | None
    rollouts: int  # side by side, of the largest held-out set
    rollout_steps: int  # of all sets and modes, prompts included; at most, where episodes end early
    source_steps: int  # of the curves of what learns beside the model on the held-out tasks
    source_role: str  # what that is: the source, or the experiment's reference
    cache_bytes: int
    refill_bytes: int | None  # working memory of a context that is encoded anew, estimated; 0 for a ring

    @property
    def training_bytes(self) -> int | None:
        """Memory of training: histories, state, batch, activations."""
        if self.activation_bytes is None:
            return None
        return self.resident_bytes + self.state_bytes + self.batch_bytes + self.activation_bytes

    @property
    def process_bytes(self) -> dict[str, int | None]:
        """Peak of a stage's whole process where devices are CPUs, estimated: Python and JAX idle, and what it adds.

        Collecting holds a chunk on the device twice and hands two to the writer. Distilling first gathers the
        residents beside one chunk and copies them to the device, then compiles, then trains.
        """
        training = None if self.training_bytes is None else self.training_bytes - self.resident_bytes
        gathering = self.chunk_bytes + 2 * self.resident_bytes
        distilling = self.resident_bytes + max(COMPILING, SMALL_PROGRAMS + (training or 0))
        evaluating = SMALL_PROGRAMS + self.cache_bytes + (self.refill_bytes or 0)
        return {
            "collect": None if self.trial_steps else IDLE + SMALL_PROGRAMS + 4 * self.chunk_bytes,
            "distill": None if training is None else IDLE + max(gathering, distilling),
            "evaluate": None if self.refill_bytes is None else IDLE + evaluating,
        }

    def lines(self) -> list[str]:
        """For people: a line each of collecting, distilling and evaluating."""
        memory = [
            f"{si(self.state_bytes, 'B')} parameters, optimizer and gradients",
            f"{si(self.batch_bytes, 'B')} batch",
        ]
        if self.activation_bytes is not None:
            part = f" of one of {self.accumulate} parts" if self.accumulate > 1 else ""
            memory.append(f"about {estimate(self.activation_bytes)} activations{part}")
            memory.append(f"with the histories about {estimate(self.training_bytes)}")
        flops = "FLOP not counted for this backbone"
        if self.update_flops is not None:
            flops = f"{si(self.update_flops, 'FLOP')} an update, {si(self.updates * self.update_flops, 'FLOP')} in all"
        refill = f", about {estimate(self.refill_bytes)} more to refill it" if self.refill_bytes else ""
        source = f" and {self.source_steps:,} of the {self.source_role}'s own curves" if self.source_steps else ""
        collect = (
            f"{self.env_steps:,} environment steps in {self.histories:,} histories; "
            f"{si(self.disk_bytes, 'B')} on disk before compression, {si(self.resident_bytes, 'B')} on the device"
        )
        if self.trial_steps:
            collect = f"nothing; {self.method} takes {self.trial_steps:,} environment steps in {self.updates:,} updates"
        training = [
            f"collect  {collect}",
            f"distill  {self.parameters:,} parameters; {flops}; {'; '.join(memory)}",
        ]
        whole = "; on a CPU the whole process about {}, {} of it Python and JAX idle"
        process = {
            stage: "" if value is None else whole.format(estimate(value), si(IDLE, "B"))
            for stage, value in self.process_bytes.items()
        }
        training = [line + process[line.split()[0]] for line in training]
        if not self.parameters:
            training = ["collect  nothing: the model is not trained", "distill  nothing"]
        return [
            *training,
            f"evaluate {self.rollout_steps:,} environment steps{source}; {self.rollouts:,} rollouts side by side, "
            f"cache {si(self.cache_bytes, 'B')}{refill}{process['evaluate']}",
        ]

    def table_row(self, name: str) -> str:
        """The experiment's line in the table of experiments/README.md."""
        flops = "unknown"
        if self.update_flops is not None:
            flops = f"{si(self.update_flops, 'FLOP')} / {si(self.updates * self.update_flops, 'FLOP')}"
        cells = (
            name,
            f"{self.env_steps / 1e6:,.1f} M",
            f"{si(self.disk_bytes, 'B')} / {si(self.resident_bytes, 'B')}",
            f"{self.parameters:,}",
            flops,
            estimate(self.training_bytes),
            si(self.cache_bytes, "B") + (f" + {estimate(self.refill_bytes)}" if self.refill_bytes else ""),
        )
        return f"| {' | '.join(cells)} |"

    def paper_line(self) -> str:
        """What an experiment's docstring says of its scale `paper`."""
        if self.update_flops is None:
            return f"Paper    {self.parameters:,} parameters"
        total = si(self.updates * self.update_flops, "FLOP")
        return f"Paper    training takes about {estimate(self.training_bytes)} and {total} ({self.updates:,} updates)"


def estimate(value: float | None) -> str:
    """Bytes that are not exact."""
    return "unknown" if value is None else si(value, "B", 2)


def count(experiment: Experiment, parts: Parts) -> Cost:
    """The cost of an experiment whose plug-ins are `parts`."""
    e, p, method = experiment, parts, parts.method
    steps, actors = life_updates(p.source, p.family, e.collect.episodes) * p.source.steps_per_update, p.source.actors
    learned = e.tasks.trained if method.feed == "histories" else 0  # tasks whose histories are collected
    each = e.collect.seeds * actors
    histories = learned * each
    beside = life_updates(p.reference, p.family, (e.reference or e.collect).episodes)
    beside *= p.reference.steps_per_update * p.reference.actors
    params = p.params
    optimiser = jax.eval_shape(method.optimizer().init, params)
    accumulate = method.parts
    gradients = tree_bytes(params) * (1 if accumulate == 1 else 2)  # of a part, and the sum so far
    held_out = [num_tasks(tasks) for tasks in p.split.held_out.values()]
    rollouts, episode = max(held_out) * e.evaluate.seeds, p.family.episode_length
    modes = 2 if e.evaluate.greedy else 1
    played = e.evaluate.episodes + (0 if e.evaluate.prompt is None else e.evaluate.prompt_episodes)
    context = p.policy().init if p.model is None else p.model.init_cache
    cache = tree_bytes(jax.eval_shape(lambda: context(rollouts)))
    known, config = isinstance(p.model_config, Transformer), p.model_config
    rows, segment = e.replay.batch // accumulate, e.replay.segment
    stored = step_bytes(p.spec, p.family.reward_dtype, e.collect.next_observation)
    refilled = known and config.positions == "absolute"
    return Cost(
        histories=histories,
        env_steps=histories * steps,
        disk_bytes=histories * steps * stored,
        chunk_bytes=min(histories, e.collect.chunk_learners * actors) * steps * stored,
        resident_bytes=resident_bytes(e, p),
        parameters=sum(math.prod(x.shape) for x in jax.tree.leaves(params)),
        state_bytes=tree_bytes((params, optimiser)) + gradients,
        batch_bytes=method.batch_bytes(p.family, p.spec, e.replay),
        method=method.title,
        trial_steps=method.env_steps(p.family) * method.updates,
        accumulate=accumulate,
        activation_bytes=activation_bytes(config, p.seen_spec, rows, segment) if known else None,
        updates=method.updates,
        update_flops=train_flops(params, config, p.seen_spec, e.replay.batch, segment) if known else None,
        rollouts=rollouts,
        rollout_steps=modes * sum(held_out) * e.evaluate.seeds * played * episode,
        source_steps=sum(held_out) * e.evaluate.source_seeds * beside,
        source_role="source" if e.reference is None and method.feed != "tasks" else "reference",
        cache_bytes=cache,
        refill_bytes=(cache + encoding_bytes(config, p.seen_spec, rollouts) if refilled else 0) if known else None,
    )


def versions(e: Experiment, p: Parts) -> int:
    """How many histories are trained on, each thinned version counted."""
    learned = e.tasks.trained if p.method.feed == "histories" else 0
    return learned * e.replay.kept_of(e.collect.seeds * p.source.actors) * e.replay.phases


def replay_shapes(e: Experiment, p: Parts) -> Replay:
    """Shapes of the experiment's histories on the devices, where all episodes have full length."""
    steps = life_updates(p.source, p.family, e.collect.episodes) * p.source.steps_per_update
    one = p.method.columns(p.family, p.spec)
    return resident(one, versions(e, p), steps, p.family.episode_length, e.replay)


def resident_bytes(e: Experiment, p: Parts) -> int:
    """Bytes of the histories on the devices; where they take turns, with the parts that are on their way."""
    turns, shapes = e.replay.rotation, tree_bytes(replay_shapes(e, p))
    if turns is None or turns.resident >= versions(e, p):
        return shapes
    return shapes + (1 + AHEAD) * shapes // turns.parts


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays, or shapes, of a tree."""
    return sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


def step_bytes(spec: Spec, reward_dtype: Any, next_observation: bool) -> int:
    """Bytes of a stored step: one or two observations, action, reward, and two bools."""
    observations = (1 + next_observation) * spec.size * spec.observation_dtype.itemsize
    action = spec.action.size * spec.action_dtype.itemsize
    return observations + action + np.dtype(reward_dtype).itemsize + 2


def resident(one: Mapping[str, Any], rows: int, steps: int, episode: int, config: ReplayConfig) -> Replay:
    """Shapes of the `replay.Replay` of `rows` thinned histories whose episodes all have full length.

    Rows of 1 + T' steps, T' those of the kept episodes of the longest phase; the shapes of one step are `one`, by name.
    Rows are padded to a multiple of the groups.
    """
    length = np.minimum(episode, steps - np.arange(-(-steps // episode)) * episode)  # of each episode
    offsets = [config.keep_every - 1 - i * config.keep_every // config.phases for i in range(config.phases)]
    index = np.arange(len(length))
    tail = index >= config.first_step(steps) // episode
    kept = max(int(length[tail & (index % config.keep_every == offset)].sum()) for offset in offsets)
    at_once = rows if config.rotation is None else min(rows, config.rotation.resident)
    groups, each = config.groups, -(-at_once // config.groups)
    stored = lambda dtype, *shape: jax.ShapeDtypeStruct((groups, each, 1 + kept, *shape), np.dtype(dtype))
    number = lambda *shape: jax.ShapeDtypeStruct((groups, *shape), np.dtype(np.int32))
    return Replay(
        {name: stored(x.dtype, *x.shape) for name, x in one.items()},
        length=number(each),
        history=number(each),
        count=number(),
        group=number(),
    )


class PictureLayer(NamedTuple):
    """One convolution of the model's pixel encoder."""

    multiplied: int  # multiply-adds of one picture
    size: int  # numbers that come out
    pooled: int  # of them, after pooling


def picture_layers(config: Transformer, seen: Spec) -> list[PictureLayer]:
    """The convolutions of `models.tokens.PixelEncoder`; none where observations are no pixels."""
    if not seen.pixels:
        return []
    layers, (height, width, inputs) = [], seen.shape
    for outputs in config.pixel_channels:
        height, width = -(-height // config.pixel_stride), -(-width // config.pixel_stride)
        size = height * width * outputs
        if config.pixel_pool:
            height, width = -(-height // 2), -(-width // 2)
        layers.append(PictureLayer(size * config.pixel_kernel**2 * inputs, size, height * width * outputs))
        inputs = outputs
    return layers


def matmul_params(params: Any) -> tuple[int, int]:
    """Weights that multiply every token (matrices of the blocks) and every position (the head).

    Not counted: embedding tables (a lookup), the 1 x D reward map, norms, biases.
    """
    per_token = per_position = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if math.prod(leaf.shape[:-1]) > 1 and name.startswith("block_"):
            per_token += math.prod(leaf.shape)
        elif len(leaf.shape) > 1 and name.startswith("head"):
            per_position += math.prod(leaf.shape)
    return per_token, per_position


def train_flops(params: Any, config: Transformer, seen: Spec, batch: int, segment: int) -> float:
    """FLOP of one update, by the model and not by the program.

        6 P tokens + 6 H positions + 12 S D layers tokens + (6 C - 2 C1) pictures

    tokens = batch x segment x n, positions = batch x segment, P and H from `matmul_params`, D the width, S the keys in
    sight, n x min(segment, W). 6 is 2 for a multiply-add, forward and twice backward; 12 the same for the two products
    of attention. Pixels only: a picture a position, C its multiply-adds in the convolutions and the two dense maps
    after them, C1 those of the first convolution, which needs no gradient of its input. The causal mask does not halve
    S, so a program that skips masked work is credited with it. Norms, activations, softmax, embeddings and the
    optimiser count nothing.
    """
    n = tokens_per_step(config.layout)
    per_token, per_position = matmul_params(params)
    positions, sight = batch * segment, n * min(segment, config.window)
    attention = 12 * sight * config.width * config.layers
    picture = 0
    if layers := picture_layers(config, seen):
        dense = config.pixel_width * (layers[-1].pooled + config.width)
        picture = 6 * (sum(layer.multiplied for layer in layers) + dense) - 2 * layers[0].multiplied
    return float(positions * (n * (6 * per_token + attention) + 6 * per_position + picture))


def activation_bytes(config: Transformer, seen: Spec, rows: int, segment: int) -> int:
    """Bytes that a backward pass over `rows x segment` steps needs beside parameters and gradients; an estimate.

        tokens [(layers + 1) (4 D 4 + (5 D + 2 M + K S) c + masks) + 2 D 4] + pictures 4 (I + sum(p X + Y) + p max X)

    Kept by a layer: the residual stream and its norm, twice; q, k, v, what attention gives, and its sum; the MLP's
    inside before and after the activation; attention weights of the pairs that the blocks of `attention.Band` meet,
    S a token on average; a byte for each value that dropout may drop. Once more for the gradients of the layer that is
    being differentiated. c: bytes of the compute dtype. A picture keeps its input I, and of each convolution what comes
    out, the norm of that, and where there is pooling what that compares, X each (p = 2 or 3), and the pooled Y; and the
    same of the largest as gradients.
    """
    n, c = (
        tokens_per_step(config.layout),
        np.dtype("float16" if config.compute_dtype == "bfloat16" else "float32").itemsize,
    )
    sight = sum(pairs(config, segment)) / segment / n
    masks = (2 * config.width if config.dropout else 0) + (config.heads * sight if config.attention_dropout else 0)
    layer = 16 * config.width + c * (5 * config.width + 2 * config.mlp_width + config.heads * sight) + masks
    token = (config.layers + 1) * layer + 2 * config.width * FLOAT
    layers, picture = picture_layers(config, seen), 0
    if layers:
        p = 3 if config.pixel_pool else 2
        kept = sum(p * layer.size + layer.pooled for layer in layers)
        picture = FLOAT * (seen.size + kept + p * max(layer.size for layer in layers))
    return round(rows * segment * (n * token + picture))


def encoding_bytes(config: Transformer, seen: Spec, rows: int) -> int:
    """Working memory of encoding `rows` windows without a backward pass; an estimate.

    The largest of what a layer makes: the MLP's inside, the scores of the largest part of attention, the pictures of a
    convolution. Beside it the residual stream and its norm, and q, k and v.
    """
    n = tokens_per_step(config.layout)
    tokens = rows * config.window * n
    inside, scores = tokens * config.mlp_width, rows * config.heads * max(pairs(config, config.window))
    picture = rows * config.window * max((layer.size for layer in picture_layers(config, seen)), default=0)
    return FLOAT * (max(inside, scores, picture) + 5 * tokens * config.width)


def pairs(config: Transformer, segment: int) -> list[int]:
    """Query-key pairs of one head over a segment, in each of the parts in which `attention.Band` meets them."""
    n = tokens_per_step(config.layout)
    block = n * min(segment, config.window)
    band = Band(block, n, -(-segment // config.window))
    return [band.blocks * (q.stop - q.start) * (k.stop - k.start) for q, k in band.spans]
