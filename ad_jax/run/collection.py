"""What an experiment's histories say of themselves, and whether a collection is the one that an experiment asks for."""

import contextlib
import dataclasses

import numpy as np
from msgspec import structs

from ad_jax.checkpoint import lineage
from ad_jax.checkpoint.identity import canonical
from ad_jax.envs.base import TaskSplit, take
from ad_jax.envs.leaves import task_leaves, tasks_of
from ad_jax.errors import ConfigError, HistoryError, OtherHistoriesError, differences
from ad_jax.experiment import Components, Experiment, name_of
from ad_jax.files import JsonObject
from ad_jax.history import store as history_store
from ad_jax.history.columns import STORED
from ad_jax.history.foreign import IMPORTED
from ad_jax.history.manifest import Leaf
from ad_jax.process import provenance
from ad_jax.process.metrics import log
from ad_jax.stage import collect

Manifest = history_store.Manifest
# Of the provenance, what a collection that was begun keeps: how its plug-ins behave, in its own numbers, which rounding
# may have made others; and the version of the package, because what that collects is looked at instead.
KEPT = ("behavior", "ad_jax")
OTHERS = "Name another collection, or leave --histories out"  # where they were named: those are never made anew


def make_manifest(e: Experiment, p: Components, behavior: JsonObject) -> Manifest:
    """Return the manifest of the collection that `e` asks for.

    Args:
        e: the experiment.
        p: the components of `e`.
        behavior: of its family and its source.
    """
    leaves = {
        name: Leaf(shape=list(np.shape(leaf)[1:]), dtype=str(np.asarray(leaf).dtype))
        for name, leaf in task_leaves(p.split.train).items()
    }
    if empty := [name for name, leaf in leaves.items() if 0 in leaf["shape"]]:
        raise ConfigError(f"{p.family.name}: task leaf {empty[0]} has no elements, and cannot be stored. Leave it out")
    return Manifest(
        **origin(e, p),
        spec=p.spec,
        task_leaves=leaves,
        reward_dtype=str(p.family.reward_dtype),
        histories=e.tasks.trained * e.collect.seeds * p.source.actors,
        steps=collect.lifetime_updates(p.source, p.family, e.collect.episodes) * p.source.steps_per_update,
        episode_length=p.family.episode_length,
        chunk_histories=e.collect.chunk_learners * p.source.actors,
        next_observation=e.collect.next_observation,
        preferences=bool(e.collect.preferences),
        features=e.collect.features or 0,
        provenance={
            "seed": e.seed,
            "tasks": dataclasses.asdict(e.tasks),
            "split": p.split.kind,
            "ad_jax": provenance.version(),
            "behavior": behavior,
        },
    )


def origin(e: Experiment, p: Components) -> dict[str, JsonObject]:
    """Family and source of the experiment's histories, as a manifest holds them."""
    return {
        "family": {"name": name_of(e.env), "options": p.family.options},
        "source": {"name": name_of(e.source), "config": dataclasses.asdict(p.source_config), "actors": p.source.actors},
    }


def there(url: str) -> JsonObject | None:
    """Return the manifest of the collection at a place, as plain data; None where there is none."""
    found = history_store.manifest_at(url)
    return None if found is None else found.to_json()


def continued(manifest: Manifest, found: JsonObject | None, e: Experiment, url: str, given: bool = False) -> Manifest:
    """Return the manifest to collect with where the collection `found` was begun: the same, to rounding.

    Args:
        manifest: the one that the experiment asks for.
        found: manifest of the collection that was begun, as plain data; None where there is none.
        e: the experiment.
        url: of the collection, for the error.
        given: whether the caller named the collection.

    Raises:
        OtherHistoriesError: if family or source behave otherwise than when that was begun.
    """
    if found is None:
        return manifest
    held, ours = found["provenance"].get("behavior"), manifest.to_json()
    # Other options are named by themselves: only plug-ins with the same ones are asked how they behave.
    kinds = tuple(kind for kind in ("family", "source") if canonical(found.get(kind)) == canonical(ours[kind]))
    if told := lineage.behaves_otherwise(held, manifest.provenance["behavior"], e.to_json(), kinds):
        remedy = OTHERS if given else lineage.ANEW
        raise OtherHistoriesError(f"{told} from when the histories in {url} were collected. {remedy}")
    known = {name: value for name, value in found["provenance"].items() if name in KEPT and value is not None}
    rest = {name: value for name, value in manifest.provenance.items() if name not in KEPT}
    # As it was written: the ledger repeats the checksum of that, and options may have other names by now.
    return structs.replace(manifest, **{kind: found[kind] for kind in kinds}, provenance=rest | known)


def differing(found: JsonObject, ours: Manifest) -> list[str]:
    """Where the manifest of a collection, as it was read, differs from ours: dotted names with both values."""
    return differences(canonical(found), canonical(ours.to_json()))


def check_histories(
    manifest: Manifest, e: Experiment, p: Components, behavior: JsonObject, url: str, given: bool
) -> None:
    """Raise HistoryError unless a collection can be learned from by the experiment.

    Args:
        manifest: of the collection.
        e: the experiment.
        p: the components of `e`.
        behavior: of the experiment's family and source.
        url: of the collection, for errors.
        given: whether the caller named it. Then it may be of another seed, other tasks, and of another size; else it
            must be the one that the experiment would collect.
    """
    check_world(manifest, e, p, url, given)
    for name in STORED:
        if name in p.method.needs and not getattr(manifest, name):
            raise HistoryError(
                f"the histories in {url} hold no {name}, which the method learns from: collect others, with "
                f"collect.{name}=true"
            )
    ours = continued(make_manifest(e, p, behavior), manifest.to_json(), e, url, given)
    if given:
        return
    if odd := differing(manifest.to_json(), ours):
        raise OtherHistoriesError(
            f"the histories in {url} are not this run's: they differ in {', '.join(odd[:4])}. Name them with "
            f"--histories to learn from them all the same. {lineage.ANEW}"
        )


def check_world(manifest: Manifest, e: Experiment, p: Components, url: str, given: bool) -> None:
    """Raise HistoryError unless a collection is of the experiment's world. Compiles nothing; arguments as above."""
    elsewhere = manifest.source.get("name") == IMPORTED
    for field, expected in canonical(origin(e, p)).items():
        found = canonical(getattr(manifest, field))
        if elsewhere and (field == "source" or not p.family.simulated):
            continue  # the experiment's source made none of them, and is what the model is compared with
        if found != expected:
            raise HistoryError(
                f"these histories are of {field} {found}; the experiment's is {expected}. Collect them anew in another "
                f"directory, or set {'env' if field == 'family' else field} to match"
            )
    mine = make_manifest(e, p, {})
    names = ("spec", "task_leaves", "reward_dtype", "episode_length") if p.family.simulated else ("spec",)
    held, asked = ({name: data[name] for name in names} for data in (manifest.to_json(), mine.to_json()))
    if odd := differences(canonical(held), canonical(asked)):
        raise OtherHistoriesError(
            f"the histories in {url} were collected before task family {name_of(e.env)} was changed: they differ in "
            f"{', '.join(odd[:4])}. {OTHERS if given else lineage.ANEW}"
        )


def unseen_split(url: str, e: Experiment, p: Components) -> TaskSplit | None:
    """Return the split around imported histories: their tasks to train on, and held-out ones that are not among them.

    Args:
        url: of the collection.
        e: the experiment, which says how many are held out and in which order they are drawn.
        p: the components of `e`.

    Returns:
        None where the histories were collected here, or cannot be simulated: the experiment's own split holds.

    Raises:
        HistoryError: if the collection is of another world, or not finished.
        ConfigError: if it has every task there is.
    """
    found = history_store.manifest_at(url)
    if found is None or found.source.get("name") != IMPORTED:
        return None
    check_world(found, e, p, url, given=True)
    if not p.family.simulated:
        return None
    store = history_store.open_store(url)
    first = {task: row for row, task in reversed([*enumerate(store.task_ids)])}
    leaves = store.fields(store.chunks, [f"task/{name}" for name in found.task_leaves])
    rows = np.array(sorted(first.values()))
    train = tasks_of(p.family, {name.removeprefix("task/"): leaf[rows] for name, leaf in leaves.items()})
    table = p.family.all_tasks()
    others = next(iter(p.split.held_out.values())) if table is None else table
    ids = p.family.task_ids(others)
    left = np.array([row for row, task in enumerate(ids) if task not in first], int)
    left = np.random.default_rng(e.tasks.split_seed).permutation(left)[: e.tasks.held_out]
    if not len(left):
        raise ConfigError(
            f"the histories in {url} are of all {len(ids)} tasks of {p.family.name} that could be held out. Import "
            "those of fewer tasks"
        )
    log(f"tasks    {len(rows)} in the imported histories are trained on, {len(left)} others are held out")
    return TaskSplit(train, {"held_out": take(others, np.sort(left))}, p.split.kind)


def facts_if_complete(url: str, e: Experiment, p: Components, behavior: JsonObject) -> dict[str, float] | None:
    """Facts of given histories that are complete; None of others, which the writer resumes or refuses."""
    there = history_store.manifest_at(url)
    if there is not None and (there.source.get("name") == IMPORTED or not p.family.simulated):
        check_histories(there, e, p, behavior, url, given=True)
        history_store.open_store(url)  # whole, or refused: nobody here collects what is missing
    with contextlib.suppress(HistoryError):
        found = history_store.open_store(url)
        check_histories(found.manifest, e, p, behavior, url, given=True)
        log(f"collect  nothing to do: {url} is complete")
        return source_final_return(found)
    return None


def source_final_return(store: history_store.HistoryStore) -> dict[str, float]:
    """Say what the source of a collection came to; the facts of it that are known."""
    if store.returns is None:
        return {}
    log("collect  source " + "; ".join(f"{what}: {how_much}" for what, how_much in store.returns.lines()))
    return store.returns.facts()
