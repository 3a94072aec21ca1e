"""A checksum inside a file of plain data: what was changed by hand, or flipped on the disk, is not taken for a result.

In: an object that JSON can hold. Out: the same with a field `seal`, over everything else in it, or the word that it
does not fit. It guards against damage and slips, not against somebody who computes it anew.
"""

import hashlib
import json
from collections.abc import Mapping

from ad_jax.files import Json, JsonObject

FIELD = "seal"


def seal(data: Mapping[str, Json]) -> JsonObject:
    """Return the data with the seal that fits it; one that it had is replaced."""
    rest = _rest(data)
    return rest | {FIELD: _digest(rest)}


def fits(data: Mapping[str, Json]) -> bool:
    """Whether the data is what was sealed. False where there is no seal."""
    return data.get(FIELD) == _digest(_rest(data))


def _rest(data: Mapping[str, Json]) -> JsonObject:
    return {name: value for name, value in data.items() if name != FIELD}


def _digest(rest: Mapping[str, Json]) -> str:
    """Of the canonical text: it does not depend on the order of names, on spaces, or on tuples being lists."""
    text = json.dumps(json.loads(json.dumps(rest)), sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:32]}"
