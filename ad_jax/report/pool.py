"""Which runs a report may average: those of one experiment that differ in their training seed alone.

In: validated runs, each with the words that say where it stands. Out: nothing, or the error that names what differs.
"""

from collections.abc import Sequence

import numpy as np

from ad_jax.checkpoint.identity import NO_NUMBER, changed, difference
from ad_jax.errors import ReportError
from ad_jax.files import Json, JsonObject


def check_alike(runs: Sequence[tuple[str, JsonObject]]) -> None:
    """Raise ReportError for runs that share a seed, or differ in more than it; `runs` are (where, run)."""
    seen: dict[int, str] = {}
    for where, run in runs:
        if run["seed"] in seen:
            raise ReportError(
                f"{where}.seed: expected a training seed per run, received {run['seed']} again, "
                f"which {seen[run['seed']]} has"
            )
        seen[run["seed"]] = where
    first_where, first = runs[0][0], _form(runs[0][1])
    played: dict[str, tuple[str, Json]] = {}  # the first of each kind: a run of an early version has none
    for where, run in runs:
        for kind, now in (run.get("behavior") or {}).items():
            known_where, known = played.setdefault(kind, (where, now))
            found = difference(known, now)
            if found is not None and found.sure:
                raise ReportError(
                    f"{where}: expected a {kind} that behaves as in {known_where}: {found.told}. One of the two was "
                    "made before the code was edited; evaluate it again"
                )
    for where, run in runs[1:]:
        if others := changed(runs[0][1]["config"], run["config"], ("seed", *NO_NUMBER)):
            raise ReportError(
                f"{where}: config: expected that of {first_where}, apart from its seed; it differs in "
                f"{', '.join(others[:6])}. Runs are averaged: report each experiment by itself"
            )
        form = _form(run)
        for name in first | form:
            if first.get(name) != form.get(name):
                raise ReportError(
                    f"{where}: {name}: expected {first.get(name)} as in {first_where}, received "
                    f"{form.get(name)}; runs are averaged, so evaluate them alike"
                )


def _form(run: JsonObject) -> JsonObject:
    """Return what must agree between runs that are averaged, by name."""
    form: JsonObject = {"episode_length": run["episode_length"], "sets": [one["name"] for one in run["sets"]]}
    if run["checkpoint"].get("which") == "last":  # the best may be that of another update
        form["checkpoint.step"] = run["checkpoint"].get("step")
    for one in run["sets"]:
        for mode, values in one["returns"].items():
            form[f"{one['name']}.returns.{mode} shape"] = np.shape(values)
        if (source := one["source"]) is not None:
            form[f"{one['name']}.source.name"] = source["name"]
            form[f"{one['name']}.source.role"] = role_of(source)
            form[f"{one['name']}.source.actors"] = source["actors"]
            form[f"{one['name']}.source.life"] = source["life"]
            # Not the episodes: where they end early, lifetimes of as many steps differ in how many they hold.
            form[f"{one['name']}.source.returns shape"] = (len(source["returns"]), len(source["returns"][0]))
    return form


def role_of(source: JsonObject) -> str:
    """Whether the learner that is compared with made the histories. Results of before there were others do not say."""
    return source.get("role", "source")
