"""The learning curves of a run: of the model in its context, and of the algorithm beside it. Each is computed once.

In: an experiment with its components, and a run directory. Out: plain data for `results.json`, a file for each finished
part in the directory's `evaluation/`, so that a run that was killed does not compute a part again.
"""

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

from jax.sharding import Mesh

from ad_jax.checkpoint import lineage
from ad_jax.checkpoint.identity import canonical, changed
from ad_jax.envs.base import take
from ad_jax.errors import ConfigError
from ad_jax.experiment import Components, Experiment, name_of
from ad_jax.files import Json, JsonObject, read_json, write_json
from ad_jax.history import lifetimes
from ad_jax.policies import demonstrator
from ad_jax.policies.base import Mode, Policy
from ad_jax.policies.demonstrator import Prompt
from ad_jax.process import distributed, metrics
from ad_jax.process.metrics import log
from ad_jax.report.seal import FIELD, fits, seal
from ad_jax.run.origins import Origins
from ad_jax.sharding import own_mesh
from ad_jax.stage import collect, episodes, evaluate, rollout
from ad_jax.text import number, plain
from ad_jax.types import PyTree

SCHEMA = 2  # of a part; 1 did not say how long episodes were. Another one is computed anew
IN_LOOP_SEEDS = 2  # rollouts per task of the in-context evaluation during training


class Curves:
    """What an experiment's evaluation asks for, on a mesh, in a run directory."""

    def __init__(
        self,
        experiment: Experiment,
        components: Components,
        mesh: Mesh,
        folder: Path,
        log: metrics.MetricsLog,
        origins: Origins,
    ):
        self.experiment, self.components, self.mesh, self.folder, self.log = experiment, components, mesh, folder, log
        self.origins = origins

    def part(self, name: str, asked: JsonObject, compute: Callable[[], Json]) -> tuple[Json, float]:
        """`compute()` and its seconds, now or before an interruption, where all that it follows from is the same.

        Args:
            name: of the part; its file is `evaluation/<name>.json`.
            asked: what it is of beside the experiment: the checkpoint with its fingerprint, if any, and the tasks.
            compute: gives the part's value, plain data.
        """
        path = self.folder / "evaluation" / f"{name}.json"
        key = self._key(asked)
        behavior = self._behavior("checkpoint" in asked)
        saved = distributed.on_first(lambda: _read_part(path))
        if saved is not None and not changed(saved["key"], key):
            told = lineage.behaves_otherwise(saved["behavior"], behavior, self._named())
            if told is None:
                return saved["value"], saved["seconds"]
            log(f"evaluate {told} from when {path.name} was computed: it is computed anew")
        started, value = time.monotonic(), compute()
        seconds = time.monotonic() - started
        data = {"key": key, "behavior": behavior, "seconds": seconds, "value": value}
        distributed.on_first(lambda: write_json(path, seal(data)))
        return value, seconds

    def _key(self, asked: JsonObject) -> JsonObject:
        """Everything that decides a part and is compared to the letter."""
        data = canonical(self.experiment.to_json())
        of = ("env", "seed", "tasks", "evaluate")
        of += ("model",) if "checkpoint" in asked else ("source", "collect", "reference")
        model = {"model_options": dataclasses.asdict(self.components.model_config)} if "checkpoint" in asked else {}
        key = {"schema": SCHEMA, **{name: data[name] for name in of}, **model, **asked}
        return json.loads(json.dumps(canonical(key)))  # as it will be read

    def _behavior(self, of_model: bool) -> JsonObject:
        """How what is evaluated behaves: the family, and the model or the algorithm beside it."""
        if of_model:
            return {"family": self.origins.family, "model": self.origins.model}
        sourced = self.experiment.evaluate.source_seeds
        return {"family": self.origins.family, "source": self.origins.reference if sourced else None}

    def _named(self) -> JsonObject:
        """Return the experiment, its source being what is evaluated beside the model: the reference, if any."""
        data = self.experiment.to_json()
        return data if data["reference"] is None else data | {"source": data["reference"]["source"]}

    def in_context(self, data: JsonObject, tasks: PyTree, policy: Policy, params: PyTree, mode: Mode) -> JsonObject:
        """Every episode of `policy` on a held-out set, as plain data; `mode` is what these actions are called."""
        c, family = self.experiment.evaluate, self.components.family
        name, ids = data["name"], [task["id"] for task in data["tasks"]]
        prompt = None
        if c.prompt is not None:
            prompt = Prompt(demonstrator.noise_for(family, tasks, c.prompt, self.experiment.seed), c.prompt_episodes)
        played = c.episodes + (prompt.episodes if prompt else 0)
        at_once = min(played, c.episodes_per_dispatch) * family.episode_length
        runner = rollout.make_evaluator(policy, family, self.mesh, played, at_once, prompt)
        total = played * family.episode_length
        bar = metrics.Progress(
            "evaluate",
            total,
            f"steps of {name}, {mode}",
            0,
            self.experiment.logging.progress_seconds,
            len(ids) * c.seeds,
        )
        curve = evaluate.evaluate(
            runner,
            params,
            tasks,
            ids,
            c.seeds,
            played,
            family,
            self.mesh,
            self.experiment.seed,
            functools.partial(_show, bar),
        )
        shown = {}
        if prompt:
            curve, seen = episodes.after_prompt(curve, prompt)
            shown = {"prompt": {"share": c.prompt, **seen}}
        self.log.forget_after(f"evaluate/{name}/{mode}", 0)
        for episode, value in enumerate(curve.returns.mean((0, 1))):
            self.log.write(f"evaluate/{name}/{mode}", episode + 1, {"return": value})
        return {
            "returns": plain(curve.returns),
            "steps": lifetimes.common(curve.steps) or curve.steps.tolist(),
            "paths": episodes.paths_as_data(curve, data["tasks"], mode),
            "env_steps": curve.env_steps,
            **shown,
        }

    def of_source(self, tasks: PyTree, ids: list[str]) -> JsonObject | None:
        e, p = self.experiment, self.components
        if not e.evaluate.source_seeds:
            return None
        name = name_of((e.reference or e).source)
        role = "source" if e.reference is None and p.method.feed != "tasks" else "reference"  # which made no histories
        asked = e.reference or e.collect
        mine = slice(distributed.index(), None, distributed.count())  # each process has its own tasks
        tasks, mine_ids = take(tasks, mine), ids[mine]
        total = len(mine_ids) * e.evaluate.source_seeds
        chunk = min(asked.chunk_learners, max(total, 1))
        collector = collect.Collector(p.family, p.reference, asked.episodes, own_mesh(self.mesh), chunk)
        steps = collector.steps * p.reference.actors
        bar = metrics.Progress("evaluate", total, f"learners of {name}", 0, e.logging.progress_seconds, steps)

        def final_return(returns):
            return float(returns[..., -max(1, returns.shape[-1] // 10) :].mean())

        def show(done, returns):
            return bar.update(done, **{"return": final_return(returns)})

        def curve():
            return collect.learning_curve(collector, tasks, mine_ids, e.evaluate.source_seeds, e.seed, show)

        parts = distributed.everywhere(lambda: _by_task(curve(), len(mine_ids), p.reference.actors))
        by_task = [parts[i % len(parts)][i // len(parts)] for i in range(len(ids))]  # they dealt the tasks out
        found = lifetimes.as_data(by_task, collector.steps)
        at_its_end = final_return(lifetimes.curves(found, p.family.episode_length))
        counts = {len(returns) for of_task in by_task for actors in of_task for returns, _ in actors}
        episodes = f"{min(counts)}{f' to {max(counts)}' if len(counts) > 1 else ''} episodes"
        log(
            f"evaluate {name} itself, the {role}, on the same tasks: {episodes}, return at the end {number(at_its_end)}"
        )
        return {"name": name, "role": role, **found}

    def in_loop(self, policy: Policy) -> Callable[[PyTree], float]:
        """In-context return on training tasks, for choosing a checkpoint: the held-out tasks must not choose it."""
        e, family = self.experiment, self.components.family
        count = min(16, e.tasks.trained)
        tasks = take(self.components.split.train, slice(count))
        ids = family.task_ids(tasks)
        played = e.method.evaluate_episodes
        runner = rollout.make_evaluator(policy, family, self.mesh, played, played * family.episode_length)

        def mean_return(params):
            curve = evaluate.evaluate(runner, params, tasks, ids, IN_LOOP_SEEDS, played, family, self.mesh, e.seed)
            return float(curve.returns.mean())

        return mean_return


def _read_part(path: Path) -> JsonObject | None:
    """Return the part that was computed before; None where there is none, or one that is old or damaged."""
    if not path.exists():
        return None
    try:
        saved = read_json(path)
    except ConfigError:
        saved = {FIELD: None}
    if fits(saved):
        return saved if saved.keys() >= {"key", "behavior", "seconds", "value"} else None
    if FIELD in saved:
        log(f"warning  {path} was changed or damaged since it was written: it is computed anew")
    return None


def _show(bar: metrics.Progress, done: int, total: int, value: float) -> None:
    """Progress of a rollout; the first dispatch compiles, and is not part of the rate."""
    bar.total = total
    if bar.done == 0 and done < bar.total:
        bar.done = done
        bar.note(f"compiled, and ran the first {done} of {bar.total} {bar.unit}")
    else:
        bar.update(done, **{"return": value})


def _by_task(found: lifetimes.Episodes, tasks: int, actors: int) -> list[Json]:
    """`[N][S][actors]` of (returns, steps), lists of numbers, of streams in that order."""
    streams = [(r.tolist(), s.tolist()) for r, s in zip(found.returns, found.steps, strict=True)]
    by_task = [streams[i : i + actors] for i in range(0, len(streams), actors)]
    seeds = len(by_task) // max(tasks, 1)
    return [by_task[i * seeds : (i + 1) * seeds] for i in range(tasks)]
