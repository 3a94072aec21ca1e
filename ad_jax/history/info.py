"""A collection of learning histories in a few lines: what it is of, how far it is, what its source earned."""

import json

from ad_jax.files import JsonObject
from ad_jax.history import ledger as format_
from ad_jax.history.access import connect, place
from ad_jax.history.manifest import MANIFEST
from ad_jax.history.store import Url, returns_in
from ad_jax.text import some
from ad_jax.types import Box, Discrete

UNRECORDED = "not recorded: an earlier version of ad_jax wrote some chunks"


def info(url: Url) -> str:
    """Return a description of a collection in a few lines, finished or not; array data is not read.

    Raises:
        HistoryError: if there is no collection, or its manifest is damaged. Other damage is counted in the text.
    """
    store = connect(url)
    manifest = format_.read_manifest(store)
    entries, problems = format_.scan(store, manifest)
    tasks = {task_id for entry in entries.values() for task_id in entry.task_ids}
    rows = sum(entry.end - entry.first for entry in entries.values())
    size = sum(sum(entry.stored_bytes.values()) for entry in entries.values())
    per_step = f", {size / (rows * manifest.steps):.3g} bytes per step" if rows else ""
    provenance = dict(manifest.provenance)
    statistics = provenance.pop("statistics") if isinstance(provenance.get("statistics"), dict) else {}
    observation, dtype = manifest.fields["observation"]
    lines = [
        ("family", f"{format_.word(manifest.family.get('name'))} {json.dumps(manifest.family.get('options', {}))}"),
        (
            "source",
            f"{format_.word(manifest.source.get('name'))} {json.dumps(manifest.source.get('config', {}))}, "
            f"actors: {json.dumps(manifest.source.get('actors'))}",
        ),
        ("histories", f"{rows} of {manifest.histories} x {manifest.steps} steps; episodes: {manifest.episode_length}"),
        ("observation", f"{list(observation[1:])} {dtype.name}; actions: {_actions(manifest.spec.action)}"),
        *([("stored, too", "next_observation, before any reset")] if manifest.next_observation else []),
        *([("stored, too", "preferences, what the source held of each action")] if manifest.preferences else []),
        *([("stored, too", f"{manifest.features} features, of the source's last layer")] if manifest.features else []),
        ("reward dtype", manifest.reward_dtype),
        ("tasks", str(len(tasks))),
        ("chunks", f"{len(entries)} of {manifest.chunks} finished, {manifest.chunk_histories} histories each"),
        ("on disk", f"{size:,} bytes of arrays{per_step}"),
        *(returns.lines() if (returns := returns_in(entries)) else [("at the end", UNRECORDED if entries else "-")]),
        *((f"  {format_.word(name)}", json.dumps(value)) for name, value in statistics.items()),
        *_imported(provenance),
        *((format_.word(name), json.dumps(value)) for name, value in provenance.items()),
    ]
    if problems:
        lines.append(("PROBLEMS", f"{len(problems)}, the first: {problems[0]}"))
    return "\n".join([f"learning histories at {place(store)}", *(f"  {name:<14}{value}" for name, value in lines)])


def _imported(provenance: JsonObject) -> list[tuple[str, str]]:
    """Take out of a provenance what is known of histories that were collected elsewhere, a line each."""
    known, files = provenance.pop("imported", None), provenance.pop("files", None)
    held = known if isinstance(known, dict) else {}
    told = {name: "; ".join(map(str, x)) if isinstance(x, list) else str(x) for name, x in held.items() if x != []}
    shown = [(name.replace("_", " ")[:13], text) for name, text in told.items()]
    if isinstance(files, dict) and files:
        shown.append(("files", f"{len(files)}: {some(sorted(files), 4)}; sha256 of each in {MANIFEST}"))
    return [(name, value if value.isprintable() else json.dumps(value)) for name, value in shown]


def _actions(action: Discrete | Box) -> str:
    """How many actions there are, or of what shape and between which bounds."""
    if isinstance(action, Discrete):
        return str(action.n)
    low, high = (" ".join(f"{x:g}" for x in bound.reshape(-1)) for bound in action.bounds)
    return f"{list(action.shape)} float32 from {low} to {high}"
