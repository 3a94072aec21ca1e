"""What an experiment's histories say of themselves, and whether a collection is the one that an experiment asks for."""

import dataclasses
from typing import Any

import numpy as np

from ad_jax import collect, history_store, provenance
from ad_jax.errors import HistoryError
from ad_jax.experiment import Experiment, Parts
from ad_jax.identity import canonical


def make_manifest(e: Experiment, p: Parts, learners: collect.Learners) -> history_store.Manifest:
    """The manifest of the collection that `e` asks for."""
    leaves = {
        name: {"shape": list(np.shape(leaf)[1:]), "dtype": str(np.asarray(leaf).dtype)}
        for name, leaf in collect.task_leaves(p.split.train).items()
    }
    return history_store.Manifest(
        **origin(e, p),
        spec=p.spec,
        task_leaves=leaves,
        reward_dtype=str(p.family.reward_dtype),
        histories=e.tasks.trained * e.collect.seeds * p.source.actors,
        steps=learners.steps,
        episode_length=p.family.episode_length,
        chunk_histories=learners.chunk * p.source.actors,
        provenance={
            "seed": e.seed,
            "tasks": dataclasses.asdict(e.tasks),
            "split": p.split.kind,
            "ad_jax": provenance.version(),
        },
    )


def origin(e: Experiment, p: Parts) -> dict[str, dict[str, Any]]:
    """Family and source of the experiment's histories, as a manifest holds them."""
    return {
        "family": {"name": e.env.name, "options": p.family.options},
        "source": {"name": e.source.name, "config": dataclasses.asdict(p.source_config), "actors": p.source.actors},
    }


def check_histories(manifest: history_store.Manifest, e: Experiment, p: Parts) -> None:
    """Raises HistoryError if the collection is of another family or source than the experiment's."""
    for field, expected in canonical(origin(e, p)).items():
        found = canonical(getattr(manifest, field))
        if found != expected:
            raise HistoryError(
                f"these histories are of {field} {found}; the experiment's is {expected}. Collect them anew in another "
                f"directory, or set {'env' if field == 'family' else field} to match"
            )
