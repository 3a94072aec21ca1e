"""Where the pieces of studies are kept: histories, models and curves, each made once for all arms that share it.

A piece is named by what determines it: the options of an experiment that differ from the defaults, as far as they
matter to it. Several processes can be at work in one place; each takes pieces that no other is at.
"""

import contextlib
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from ad_jax.checkpoint import lineage
from ad_jax.checkpoint.identity import canonical
from ad_jax.errors import AdJaxError
from ad_jax.experiment import Experiment, Mixture, build
from ad_jax.files import Json, JsonObject, read_json, write_json
from ad_jax.process import locks
from ad_jax.run.mixture import MemberRun, MixtureRun
from ad_jax.run.origins import Origins
from ad_jax.run.pipeline import Run
from ad_jax.study.keys import changes, collected_by, digest, key, mixed_key, taught_from, trained_by


class Workshop:
    """Where the pieces lie, and how each is made."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._families: JsonObject = {}  # how each behaves now, by name and options
        self._before = dict(_named_before(self.folder))

    def curve(self, e: Experiment) -> Path:
        """Return the run directory of an evaluation."""
        return self._place("curves", key(e))

    def model(self, e: Experiment, of: tuple[Mixture, str] | None = None) -> Path:
        """Return the run directory of a trained model; `of` is the mixture that it is a member of."""
        return self._place("models", key(trained_by(e)) if of is None else mixed_key(of[0]))

    def histories(self, e: Experiment) -> Path:
        """Where a collection is."""
        return self._place("histories", key(collected_by(e)))

    def _place(self, kind: str, name: str) -> Path:
        return self.folder / kind / self._before.get((kind, name), name)

    def done(self, e: Experiment) -> bool:
        """Whether the evaluation is there, in full."""
        return (self.curve(e) / "results.json").exists()

    def check(self, e: Experiment, behavior: Json) -> None:
        """Raise AdJaxError where the task family was edited since that piece, which behaved so, was made."""
        kind = json.dumps(changes(e.env), sort_keys=True)
        if kind not in self._families:
            self._families[kind] = Origins(e, build(e)).family
        if told := lineage.behaves_otherwise(behavior, {"family": self._families[kind]}, e.to_json(), ("family",)):
            raise AdJaxError(f"{told} from when {self.curve(e)} was made. Use another directory (--dir)")

    def make(self, e: Experiment, teacher: Experiment | None = None, of: tuple[Mixture, str] | None = None) -> bool:
        """Collect, train and evaluate what is missing; False where another process is at a piece of it.

        Args:
            e: what is evaluated.
            teacher: whose model the method learns from, where it learns from one; it is trained first.
            of: the mixture whose model is evaluated, and which of its members is; it is trained first.
        """
        if of is not None:
            return self._make_member(e, *of)
        if teacher is not None and not self._train(teacher, self.model(teacher)):
            return False
        with _lock(self.curve(e)) as mine:
            placed = e if teacher is None else taught_from(e, str(self.model(teacher)))
            if not mine or (build(e).trained and not self._train(placed, self.model(e))):
                return False
            Run(placed, self.curve(e), str(self.histories(e)), trained=self.model(e)).evaluate()
        return True

    def _make_member(self, e: Experiment, mixture: Mixture, name: str) -> bool:
        """Make a curve of a member of a mixture; False where another process is at a piece of it."""
        folder = self.model(e, (mixture, name))
        with _lock(self.curve(e)) as mine:
            if not mine or not self._train_mixture(mixture, folder):
                return False
            trained = None if mixture.members[name].held_out else folder
            if trained is None:  # its own layers lie in its own directory
                Run(e, self.curve(e), str(self.histories(e)), trained=folder / "members" / name).evaluate()
                return True
            MemberRun(e, self.curve(e), str(self.histories(e)), trained, name).evaluate()
        return True

    def _train_mixture(self, mixture: Mixture, folder: Path) -> bool:
        """Make the model of a mixture; False where another process is at it or at histories of it."""
        if (folder / "trained.json").exists():
            return True
        places = {name: self.histories(mixture.member(name)) for name in mixture.members}
        with contextlib.ExitStack() as held:
            if not all(held.enter_context(_lock(place)) for place in (folder, *places.values())):
                return False
            run = MixtureRun(mixture, folder, {name: str(place) for name, place in places.items()})
            run.collect()
            run.distill()
            write_json(folder / "trained.json", read_json(folder / "environment.json"), indent=1)
        return True

    def _train(self, e: Experiment, folder: Path) -> bool:
        """Make the model of `e` in its folder; False where another process is at it or at its histories."""
        if (folder / "trained.json").exists():
            return True
        with _lock(folder) as mine:
            if not mine:
                return False
            run = Run(trained_by(e), folder, str(self.histories(e)))
            with _lock(self.histories(e)) as mine_too:
                if not mine_too:
                    return False
                run.collect()
            run.distill()
            # Opening a run directory anew says what code opened it; this says what code trained.
            write_json(folder / "trained.json", read_json(folder / "environment.json"), indent=1)
        return True


def _named_before(folder: Path) -> Iterator[tuple[tuple[str, str], str]]:
    """Names of pieces whose keys an earlier version made, of options as they were written, by kind and key of today."""
    for file in (*folder.glob("curves/*/config.json"), *folder.glob("models/*/config.json")):
        with contextlib.suppress(AdJaxError, OSError):
            data = read_json(file)
            if "options" in data["env"]:
                e = Experiment.from_json(data)
                yield (file.parents[1].name, key(e)), file.parent.name
                written = {name: canonical(data[name]) for name in ("env", "source")}
                collected = changes(collected_by(e))
                yield ("histories", digest(collected)), digest(collected | written)


def _lock(piece: Path) -> AbstractContextManager[bool]:
    """Whether a piece is ours to make, within."""
    return locks.taken(piece.with_suffix(".lock"))
