"""JSON files of one form, byte for byte, that carry their own checksum."""

import hashlib
import json
import reprlib

from ad_jax.errors import HistoryError
from ad_jax.files import Json, JsonObject


def canonical(content: Json) -> bytes:
    """Return the one JSON text of plain data. Raises ValueError for NaN and infinity."""
    return json.dumps(content, sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"


def checksum(content: JsonObject) -> str:
    """SHA-256 of the canonical JSON text of `content`."""
    return "sha256:" + hashlib.sha256(canonical(content)).hexdigest()


def seal(content: JsonObject) -> bytes:
    """Return the bytes of a JSON file that carries its own checksum."""
    return canonical({"checksum": checksum(content), "content": content})


def unseal(raw: bytes, name: str, remedy: str) -> JsonObject:
    """Inverse of `seal`.

    Raises:
        HistoryError: naming the file and `remedy`, unless `raw` is to the byte what `seal` wrote.
    """
    try:
        data = json.loads(raw)
        content, found = data["content"], data["checksum"]
        expected = checksum(content)
        intact = isinstance(content, dict) and raw == seal(content)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise HistoryError(
            f"{name} is damaged: {len(raw)} bytes that are not its JSON ({error!r}). {remedy}"
        ) from error
    if not intact:
        raise HistoryError(
            f"{name} is damaged: its checksum says {reprlib.repr(found)}, its text has {expected}. {remedy}"
        )
    return content
