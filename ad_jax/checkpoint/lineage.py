"""Whether what a stage reads is what this run, or the one that was named, made: by what it says of itself.

In: the plain data of a checkpoint or a manifest, and of the run that would use it. Out: nothing, or the error that
names what differs and what to do. What earlier versions did not say cannot be compared, and is used.
"""

from collections.abc import Mapping
from pathlib import Path

import jax

from ad_jax.checkpoint.identity import NOT_OF_TRAINING, changed, difference
from ad_jax.errors import CheckpointError, OtherCheckpointError, differences
from ad_jax.files import Json, JsonObject
from ad_jax.process.metrics import log
from ad_jax.types import PyTree

# Options of a model that change neither what its parameters mean nor how it was trained.
EVALUATION_ONLY = ("exact_context", "remat", "attention")
ANEW = "Use another directory (--dir), or make anew here what no longer fits (--redo)"
TRAIN_ANEW = "Use another directory (--dir), or train anew here: ad-jax distill ... --redo"
PLUGINS = {"family": ("task family", "env"), "source": ("source", "source"), "model": ("model", "model")}


def architecture_of(params: PyTree) -> dict[str, list[int]]:
    """Shape of every parameter by its dotted path: what two checkpoints must share to be exchangeable."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): list(leaf.shape) for path, leaf in leaves}


def check_architecture(meta: JsonObject, expected: dict[str, list[int]], folder: str | Path) -> None:
    """Raise CheckpointError if a checkpoint's parameters are not the expected ones; names what differs."""
    changed = differences(meta["architecture"], expected)
    if changed:
        raise CheckpointError(
            f"the checkpoint in {folder} is of another architecture; {len(changed)} parameters differ: "
            f"{', '.join(changed[:3])}. Use the model it was trained with, or another directory"
        )


def check_own(found: Mapping[str, Json], mine: Mapping[str, Json], where: object) -> None:
    """Raise OtherCheckpointError unless a checkpoint is of this very run.

    Args:
        found: metadata of the checkpoint.
        mine: the metadata that this run writes.
        where: the folder that holds the checkpoint, for the error.
    """
    was, now = found.get("experiment"), mine.get("experiment")
    odd = changed(was, now, NOT_OF_TRAINING) if was is not None and now is not None else []
    named = {where.removeprefix("model.") for where in odd}
    if odd := odd + [option for option in _options(found, mine) if option.removeprefix("model.") not in named]:
        raise OtherCheckpointError(
            f"the checkpoint in {where} is another run's: it differs in {', '.join(odd[:6])}. Delete it if it was "
            "copied there by mistake, or use another directory (--dir); to train anew here: ad-jax distill ... --redo"
        )
    if found.get("histories", mine.get("histories")) != mine.get("histories", found.get("histories")):
        raise OtherCheckpointError(
            f"the checkpoint in {where} was trained on other histories than those that are there now. {TRAIN_ANEW}"
        )
    if told := behaves_otherwise(found.get("behavior"), mine.get("behavior"), now or {}):
        raise OtherCheckpointError(f"{told} from when the checkpoint in {where} was trained. {TRAIN_ANEW}")


def check_trained(found: Mapping[str, Json], mine: Mapping[str, Json], where: object) -> None:
    """Raise CheckpointError unless a checkpoint of another run, which was named, is of the model that is evaluated."""
    there, here = found["model"]["name"], mine["model"]["name"]
    odd = [f"model ({there!r} there, {here!r} here)"] if there != here else _options(found, mine, EVALUATION_ONLY)
    if odd := odd or [f"spec.{what}" for what in changed(found["spec"], mine["spec"])]:
        raise CheckpointError(
            f"the model trained in {where} is another than this experiment's: it differs in {', '.join(odd[:6])}. Set "
            "these options as it was trained with"
        )
    worlds = [{"env": data.get("experiment", {}).get("env")} for data in (found, mine)]
    kinds = ("model",) if changed(*worlds) else ("family", "model")
    if told := behaves_otherwise(found.get("behavior"), mine.get("behavior"), mine["experiment"], kinds):
        raise CheckpointError(
            f"{told} from when the checkpoint in {where} was trained. Train it anew there: ad-jax distill ... --redo"
        )


def behaves_otherwise(
    there: Json, here: Json, experiment: Mapping[str, Json], kinds: tuple[str, ...] = tuple(PLUGINS)
) -> str | None:
    """Which plug-in behaves otherwise than it did, and how, in words; None where none does, or nobody knows.

    What another device, or another precision of its products, may be the reason for is only said, as a warning.
    """
    for kind in kinds:
        found = difference((there or {}).get(kind), (here or {}).get(kind))
        if found is None:
            continue
        what, field = PLUGINS[kind]
        name = experiment.get(field, {}).get("name", "")
        if found.sure:
            return f"{what} {name} behaves differently ({found.told})"
        log(f"warning  {what} {name} behaves differently on this device than where this was made: {found.told}")
    return None


def _options(found: Mapping[str, Json], mine: Mapping[str, Json], apart: tuple[str, ...] = ()) -> list[str]:
    """Options of the model in which two checkpoints differ."""
    there, here = ({"model": data.get("model", {}).get("options", {})} for data in (found, mine))
    return changed(there, here, [f"model.{name}" for name in apart])
