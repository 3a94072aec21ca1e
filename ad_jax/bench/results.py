"""A results file that grows as it is measured: what is finished is on the disk, whatever happens after it."""

import os
import time
from pathlib import Path

from ad_jax.bench.rows import SCHEMA
from ad_jax.files import Json, JsonObject, write_json
from ad_jax.process import provenance


class Results:
    """What one command measures, from its start on.

    Args:
        out: the file.
        kind: of results.
        into: the list that holds what is measured.
        said: more of what was asked for, before what was found.
    """

    def __init__(self, out: Path, kind: str, into: str = "rows", **said: Json):
        self.out, self.into = out, into
        self.data: JsonObject = {
            "kind": kind,
            "schema": SCHEMA,
            **said,
            "seconds": 0.0,
            "load": list(os.getloadavg()),
            "provenance": provenance.collect(),
            into: [],
        }
        self.started = time.perf_counter()

    def add(self, found: JsonObject) -> None:
        """Take what was measured, and write all of it."""
        self.data[self.into].append(found)
        self.data["seconds"] = time.perf_counter() - self.started
        write_json(self.out, self.data, indent=1)
