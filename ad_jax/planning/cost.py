"""What a run costs, counted from its experiment: nothing is compiled, run or read from disk.

Exact: environment steps, bytes of histories, parameters, optimizer state and caches. Tests hold them to what
collecting, training and the compiler give. What is known of our transformer alone, and its formulas, stands in
`transformer`. Everything is for one device.
"""

import dataclasses
import math

import jax

from ad_jax.envs.base import num_tasks
from ad_jax.experiment import Components, Experiment
from ad_jax.history.manifest import step_fields
from ad_jax.models.transformer import Transformer
from ad_jax.planning.residents import resident_bytes, tree_bytes
from ad_jax.planning.transformer import activation_bytes, encoding_bytes, train_flops
from ad_jax.stage.collect import lifetime_updates
from ad_jax.text import si

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
    resident_bytes: int  # on the device after subsampling; at most that where episodes can end early
    parameters: int
    state_bytes: int  # parameters, optimizer state and gradients
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
        flops = "FLOP not counted for this backbone or method"
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
        """Return the experiment's line in the table of experiments/README.md."""
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
        """Return what an experiment's docstring says of its scale `paper`."""
        if self.update_flops is None:
            return f"Paper    {self.parameters:,} parameters"
        total = si(self.updates * self.update_flops, "FLOP")
        return f"Paper    training takes about {estimate(self.training_bytes)} and {total} ({self.updates:,} updates)"


def estimate(value: float | None) -> str:
    """Bytes that are not exact."""
    return "unknown" if value is None else si(value, "B", 2)


def count(experiment: Experiment, components: Components) -> Cost:
    """Return the cost of an experiment whose plug-ins are `components`."""
    e, p, method = experiment, components, components.method
    steps, actors = (
        lifetime_updates(p.source, p.family, e.collect.episodes) * p.source.steps_per_update,
        p.source.actors,
    )
    learned = e.tasks.trained if method.feed == "histories" else 0  # tasks whose histories are collected
    each = e.collect.seeds * actors
    histories = learned * each
    beside = lifetime_updates(p.reference, p.family, (e.reference or e.collect).episodes)
    beside *= p.reference.steps_per_update * p.reference.actors
    params = p.params
    optimizer = jax.eval_shape(method.make_optimizer().init, params)
    accumulate = method.parts
    gradients = tree_bytes(params) * (1 if accumulate == 1 else 2)  # of a part, and the sum so far
    held_out = [num_tasks(tasks) for tasks in p.evaluated.values()]
    rollouts, episode = max(held_out) * e.evaluate.seeds, p.family.episode_length
    modes = 2 if e.evaluate.greedy else 1
    played = e.evaluate.episodes + (0 if e.evaluate.prompt is None else e.evaluate.prompt_episodes)
    context = p.policy().init if p.model is None else p.model.init_cache
    cache = tree_bytes(jax.eval_shape(lambda: context(rollouts)))
    known, config = isinstance(p.model_config, Transformer) and getattr(p.model, "parts", None) is None, p.model_config
    windows = known and method.feed == "histories"  # what else is learned from has other sizes than `replay`'s
    rows, segment = e.replay.batch // accumulate, e.replay.segment
    told = (e.collect.next_observation, bool(e.collect.preferences), e.collect.features or 0)
    fields = step_fields(p.spec, p.family.reward_dtype, *told)
    stored = sum(math.prod(shape) * dtype.itemsize for shape, dtype in fields.values())  # bytes of a step
    refilled = known and config.positions == "absolute"
    return Cost(
        histories=histories,
        env_steps=histories * steps,
        disk_bytes=histories * steps * stored,
        chunk_bytes=min(histories, e.collect.chunk_learners * actors) * steps * stored,
        resident_bytes=resident_bytes(e, p),
        parameters=sum(math.prod(x.shape) for x in jax.tree.leaves(params)),
        state_bytes=tree_bytes((params, optimizer)) + gradients + method.state_bytes_beside(p.seen_spec),
        batch_bytes=method.batch_bytes(p.family, p.spec, e.replay),
        method=method.title,
        trial_steps=method.env_steps(p.family) * method.updates,
        accumulate=accumulate,
        activation_bytes=activation_bytes(config, p.seen_spec, rows, segment) if windows else None,
        updates=method.updates,
        update_flops=train_flops(params, config, p.seen_spec, e.replay.batch, segment) if windows else None,
        rollouts=rollouts,
        rollout_steps=modes * sum(held_out) * e.evaluate.seeds * played * episode,
        source_steps=sum(held_out) * e.evaluate.source_seeds * beside,
        source_role="source" if e.reference is None and method.feed != "tasks" else "reference",
        cache_bytes=cache,
        refill_bytes=(cache + encoding_bytes(config, p.seen_spec, rollouts) if refilled else 0) if known else None,
    )
