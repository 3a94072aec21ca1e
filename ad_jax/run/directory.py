"""Whose directory a run's is, and its JSON files: written whole or not at all, and named when damaged."""

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path

from ad_jax.checkpoint.identity import of_training
from ad_jax.errors import AdJaxError, ConfigError, differences
from ad_jax.experiment import Experiment, Mixture
from ad_jax.experiment.mixture import SHARED, from_json
from ad_jax.files import JsonObject, read_json, write_json
from ad_jax.registry import under_first_names
from ad_jax.text import significant


def identity(experiment: Experiment | Mixture) -> JsonObject:
    """Return what a run directory is held to: all that shapes the trained model.

    Not the mesh (the same to rounding), not logging, and not how the model is evaluated, so that a trained model can
    be evaluated again for longer. A field that is None says nothing, so that those that came later leave the
    directories of before theirs. Of a mixture that is the same of each member.
    """
    if isinstance(experiment, Experiment):
        return of_training(experiment.to_json())
    data, envs = experiment.to_json(), {}
    for name, member in data.pop("envs").items():
        own = of_training(experiment.member(name).to_json())
        envs[name] = member | {"experiment": {field: own[field] for field in own if field not in (*SHARED, "name")}}
    return of_training(data) | {"envs": envs}


def digest(experiment: Experiment | Mixture) -> str:
    """Ten hex digits of the identity: the same command finds the same directory."""
    held = under_first_names(identity(experiment))
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()[:10]


def default(experiment: Experiment | Mixture) -> Path:
    """Return where a run lies that was given no directory: `runs/<name>/<digest>`.

    A directory of the same experiment that an earlier version called otherwise is found, and used.
    """
    folder = Path("runs") / experiment.name
    if not (own := folder / digest(experiment)).exists():
        for other in sorted(folder.glob("*/config.json")):
            with contextlib.suppress(AdJaxError, OSError):
                if not differences(identity(from_json(read_json(other))), identity(experiment)):
                    return other.parent
    return own


def check(folder: Path, experiment: Experiment | Mixture) -> bool:
    """Whether `folder` is this experiment's run directory already; touches nothing.

    A mixture may have more members that are held out than it had: the trunk is not trained on them.

    Raises:
        ConfigError: if it holds another experiment, or something that is no run.
    """
    path = folder / "config.json"
    if path.exists():
        found = from_json(read_json(path))
        if changed := differences(identity(found), identity(_without(experiment, _added(found, experiment)))):
            raise ConfigError(
                f"{folder} holds a run of another experiment; it differs in {', '.join(changed[:6])}. Use "
                "another directory (--dir), or delete that one"
            )
        return True

    # What a claim that was killed leaves.
    def ours(name):
        return name in ("config.tmp", "lock") or (name.startswith(".config.json.") and name.endswith(".tmp"))

    if folder.exists() and not all(ours(file.name) for file in folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and holds no run (no config.json); use another directory (--dir)")
    return False


def claim(folder: Path, experiment: Experiment | Mixture) -> None:
    """Make `folder` this experiment's run directory; raises as `check`."""
    known = check(folder, experiment)
    if not known or _added(from_json(read_json(folder / "config.json")), experiment):
        write_json(folder / "config.json", experiment.to_json(), indent=1)


def _added(found: Experiment | Mixture, experiment: Experiment | Mixture) -> list[str]:
    """Names of the held-out members of a mixture that it did not have when it was `found`."""
    if not (isinstance(found, Mixture) and isinstance(experiment, Mixture)):
        return []
    return [name for name, one in experiment.members.items() if one.held_out and name not in found.members]


def _without(experiment: Experiment | Mixture, names: list[str]) -> Experiment | Mixture:
    if not names or isinstance(experiment, Experiment):
        return experiment
    rest = tuple(one for name, one in experiment.members.items() if name not in names)
    return dataclasses.replace(experiment, envs=rest)


def record(folder: Path, stage: str, facts: dict[str, float], worked: bool) -> None:
    """Write a stage's facts to `stages.json`. Where it found nothing to do, those of when it did stay."""
    known = _stages_in(folder)
    if stage not in known or worked:
        known[stage] = {name: significant(float(value), 3) for name, value in facts.items()}
    write_json(folder / "stages.json", known, indent=1)


def forget(folder: Path, stage: str) -> None:
    """Drop the facts of a stage that begins from nothing: what it made before is gone."""
    known = _stages_in(folder)
    if known.pop(stage, None) is not None:
        write_json(folder / "stages.json", known, indent=1)


def stages(folder: Path, trained: Path) -> JsonObject:
    """Return the facts of every stage; those of collecting and training are of the directory that trained."""
    return {
        stage: facts
        for where, names in ((folder, ("collect",)), (trained, ("collect", "distill")), (folder, ("evaluate",)))
        for stage, facts in _stages_in(where).items()
        if stage in names
    }


def _stages_in(folder: Path) -> JsonObject:
    path = folder / "stages.json"
    return read_json(path) if path.exists() else {}
