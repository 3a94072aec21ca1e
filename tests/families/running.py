"""A run of a world from nothing to its report, with all that happened in it."""

import contextlib
import io
import pathlib
import types

from ad_jax import Run, load_experiment
from ad_jax.report import report
from ad_jax.report import results as report_input
from ad_jax.study import claims
from families import audit, audit_report, simulators
from families.recording import recorded

FOLDER = pathlib.Path(__file__).parent
WORLDS = {"early": "WayOut", "costs": "Errands", "floats": "Balance", "vector": "Courier"}


def known_of(family, tasks, actors) -> audit_report.Known:
    """Return what the family says of some tasks, of one run."""
    best, chance = family.optimal_return(tasks), family.random_return(tasks)

    def of_run(x):
        return None if x is None else x[None]

    return audit_report.Known(family.episode_length, actors, of_run(best), of_run(chance))


def ran(name: str, folder: pathlib.Path, scale: str) -> types.SimpleNamespace:
    """Return a run of a world from nothing to its report, and what happened in it."""
    e = load_experiment(str(FOLDER / f"{name}.py"), scale)
    run = Run(e, folder)
    run.collect()
    run.distill()
    return evaluated(name, run)


def evaluated(name: str, run: Run) -> types.SimpleNamespace:
    """Return the rest of a run of a world that is trained, and what happened in it."""
    e, folder = run.experiment, run.folder
    with recorded() as recording, contextlib.redirect_stdout(io.StringIO()) as told:
        run.evaluate()
    run.report()
    p, world = run.components, simulators.BY_NAME[WORLDS[name]](**e.env.options)
    ((key, tasks),) = p.split.held_out.items()
    (truth,) = audit.truth(world, recording, e, 1, p.reference.actors)
    results = report.load([folder])
    (s,) = report_input.gather(results)
    known = known_of(p.family, tasks, p.reference.actors)
    stats = report.statistics(results)["sets"][key]
    everything = locals()
    return types.SimpleNamespace(**everything)


def value_of(at):
    """Return a statistic of claims, by name."""
    return lambda name, *arguments: claims.quantity(name, "AD", *arguments).value({"AD": [at.s]})
