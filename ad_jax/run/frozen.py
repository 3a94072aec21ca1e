"""A trained model as it lies in a run directory: for an agent to act with, or for a method to learn from."""

from pathlib import Path
from typing import NamedTuple

import jax

from ad_jax import models
from ad_jax.checkpoint import checkpoint, lineage
from ad_jax.errors import CheckpointError, ConfigError, unknown
from ad_jax.experiment.config import plugin_from
from ad_jax.files import JsonObject
from ad_jax.history import reward_unit
from ad_jax.keys import a_key
from ad_jax.methods import modern
from ad_jax.methods.base import MethodConfig
from ad_jax.methods.distillation import Distillation
from ad_jax.methods.teacher import Teacher
from ad_jax.models.base import Model
from ad_jax.models.together import view
from ad_jax.run import behavior
from ad_jax.types import PyTree, Spec


class Frozen(NamedTuple):
    """What a checkpoint holds of a model."""

    model: Model  # it is given rewards as they are
    params: PyTree
    spec: Spec  # of what it sees and does
    method: MethodConfig  # that it was trained by
    meta: JsonObject


def load(path: str | Path, which: str = "last", env: str | None = None) -> Frozen:
    """Read the trained model of a run directory or checkpoint folder.

    Args:
        path: of either.
        which: `"last"` or `"best"`, of the checkpoints that were kept.
        env: the family that is meant, by its name in the mixture that was trained; None where there is one.

    Raises:
        AdJaxError: if the method's code cannot be loaded, or `env` is missing, unknown, or not asked for.
        CheckpointError: if there is no readable checkpoint, or the model's code does something else since.
    """
    fitted = None if env is None else Path(path) / "members" / env  # a family that was held out has its own
    if fitted is not None and (fitted / "checkpoints").is_dir():
        path, env = fitted, None
    _, state, meta = checkpoint.load(Path(path), which)
    params, meta = chosen(state["params"], meta, env)
    spec = Spec.from_json(meta["spec"])
    config = models.make(meta["model"]["name"], meta["model"]["options"])
    said = meta.get("method") or modern(meta.get("experiment", {})).get("method")  # earlier versions: not bound
    method = Distillation() if said is None else plugin_from("method", said, "method")
    model = method.model(config, spec)
    checkpoint.check_architecture(meta, checkpoint.architecture_of(jax.eval_shape(model.init, a_key(0))), path)
    found, here = meta.get("behavior"), {"model": behavior.of_model(model, spec)}
    if told := lineage.behaves_otherwise(found, here, meta.get("experiment", {}), ("model",)):
        raise CheckpointError(
            f"{told} from when the checkpoint in {path} was trained. Train it anew there: ad-jax distill ... --redo"
        )
    model = reward_unit.applied(model, meta.get("reward_unit", reward_unit.NONE))
    return Frozen(model, params, spec, method, meta)


def chosen(params: PyTree, meta: JsonObject, env: str | None) -> tuple[PyTree, JsonObject]:
    """Return the parameters of one family and what the checkpoint says of it, of what a checkpoint holds.

    Args:
        params: all of them.
        meta: what it says.
        env: a member of the mixture that was trained; None where it was trained on one family.

    Raises:
        ConfigError: if there are several and none is named or another one (near matches are listed), or one is named
            where there is one.
    """
    members = meta.get("members")
    if members is None and env is None:
        return params, meta
    if members is None:
        raise ConfigError(f"env={env!r} names a member of a mixture, and this was trained on one family. Leave it out")
    if env is None:
        raise ConfigError(f"this is one model of several families: say of which, env=NAME, of {', '.join(members)}")
    if env not in members:
        raise unknown("member of the mixture", env, members)
    return (view(params, env, tuple(meta["own"])) if params else params), members[env]


def teacher(method: MethodConfig) -> Teacher | None:
    """Return the frozen model that a method learns from; None where it names none.

    Raises:
        ConfigError: if there is nothing where it should be; also as `load`.
    """
    if (folder := method.taught_by()) is None:
        return None
    check_taught(method)
    found = load(folder)
    ids = frozenset(found.meta["train_task_ids"])
    return Teacher(folder, found.model, found.params, found.spec, found.meta.get("reward_unit", reward_unit.NONE), ids)


def check_taught(method: MethodConfig) -> None:
    """Raise ConfigError where a method learns from a frozen model and names no directory of one."""
    folder = method.taught_by()
    if folder is not None and (not folder or not Path(folder).is_dir()):
        raise ConfigError(
            f"method.teacher must be the run directory of a trained model; got {folder!r}"
            f"{', which is no directory' if folder else ''}. `ad-jax run` makes one, and prints where"
        )
