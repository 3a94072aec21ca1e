"""What a run says of where its results come from, in histories, checkpoints and evaluations; each looked at once.

In: an experiment with its components. Out: plain data. Every process has to ask for the same, in the same order.
"""

import dataclasses
import functools
import hashlib
import json

from ad_jax.checkpoint import checkpoint
from ad_jax.checkpoint.fingerprint import fingerprint
from ad_jax.experiment import Components, Experiment, name_of, plugins
from ad_jax.files import Json, JsonObject
from ad_jax.process import distributed
from ad_jax.run import behavior
from ad_jax.types import PyTree


class Origins:
    """How the plug-ins of an experiment behave, and what its checkpoints say."""

    def __init__(self, experiment: Experiment, components: Components):
        self.experiment, self.components = experiment, components

    @functools.cached_property
    def family(self) -> Json:
        """How the task family behaves; None where nobody can simulate it."""
        if not self.components.family.simulated:
            return None
        return distributed.on_first(lambda: behavior.of_family(self.components.family))

    @functools.cached_property
    def source(self) -> Json:
        """How the source of the histories does; None where the family cannot be simulated."""
        if not self.components.family.simulated:
            return None
        return distributed.on_first(lambda: behavior.of_source(self.components.source, self.components.family))

    @functools.cached_property
    def reference(self) -> Json:
        """How the algorithm does that the model is compared with."""
        if self.components.reference is self.components.source:
            return self.source
        return distributed.on_first(lambda: behavior.of_source(self.components.reference, self.components.family))

    @functools.cached_property
    def model(self) -> Json:
        """How the model does, or the policy in its place; None where it is large."""
        p = self.components
        if p.model is None:
            return distributed.on_first(lambda: behavior.of_policy(p.policy(), p.seen_spec))
        return distributed.on_first(lambda: behavior.of_model(p.model, p.seen_spec))

    @property
    def of_histories(self) -> JsonObject:
        """What made the histories."""
        return {"family": self.family, "source": self.source}

    @property
    def of_evaluation(self) -> JsonObject:
        """What made results."""
        sourced = {"source": self.reference} if self.experiment.evaluate.source_seeds else {}
        return {"family": self.family, "model": self.model, **sourced}

    def of_run(self) -> JsonObject:
        """Return what every checkpoint says of the run that it belongs to."""
        e, p = self.experiment, self.components
        source = {} if p.method.feed == "tasks" else {"source": self.source}
        return {
            "spec": p.seen_spec.to_json(),  # what an `Agent` is fed
            "model": {"name": name_of(e.model), "options": dataclasses.asdict(p.model_config)},
            "method": plugins.said(p.method),
            "seed": e.seed,
            "experiment": e.to_json(),
            "behavior": {"family": self.family, "model": self.model, **source},
        }

    def of_training(self, params: PyTree, train_task_ids: list[str], reward_unit: float) -> JsonObject:
        """Return what it says beside that.

        Args:
            params: of the model, or their shapes.
            train_task_ids: ids of the tasks that are learned from, in any order.
            reward_unit: what rewards are divided by.
        """
        return {
            "architecture": checkpoint.architecture_of(params),
            "reward_unit": reward_unit,
            "train_task_ids": sorted(set(train_task_ids)),
        }


def digest_of(params: PyTree) -> str:
    """Sixteen hex digits of the bits of parameters, wherever they lie."""
    return hashlib.sha256(json.dumps(fingerprint(params), sort_keys=True).encode()).hexdigest()[:16]
