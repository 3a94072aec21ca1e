"""Files and paths of this machine: written whole or not at all, read within bounds, refused where they would be lost.

Orbax 0.12 takes a run directory's own name for a pattern where it gathers what it has written (`[32,32]` is then one
character), and a name that ends in ":" for the beginning of a URL. It says that all went well, and nothing can be read.
TensorStore takes a backslash for a slash, and writes elsewhere.
"""

import bisect
import contextlib
import copy
import json
import math
import os
import platform
import re
import reprlib
import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from ad_jax.errors import AdJaxError, ConfigError, cannot_write

T = TypeVar("T")
Json = Any  # plain data: what JSON can hold. What it holds is checked where it is read
JsonObject = dict[str, Json]
Kind = Any  # a type, or what stands for one in an annotation
Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
Whole = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
REFUSED = (msgspec.ValidationError, UnicodeEncodeError)  # the latter for a name that is no text in UTF-8

LONGEST = 255  # bytes of a name, on every common file system
# What Orbax and TensorStore read in a path that is not there.
LOST = {"[": "a pattern", "*": "a pattern", "?": "a pattern", "\\": "a slash"}
DEEPEST = 100  # lists and objects inside each other; ours have about ten, and Python gives up near a thousand
DIGITS = 19  # of an integer: more than 64 bits hold overflow wherever they meet a float or an array


def write_whole(path: Path, content: bytes) -> None:
    """Write beside the file, then rename: a reader never sees half a file.

    Raises:
        ConfigError: if it cannot be written; what was there before still is.
    """
    fresh = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        _remove_left_behind(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink()  # on a full disk it would hold the room that others could use


def _remove_left_behind(path: Path) -> None:
    """Remove what processes of this machine that were killed while they wrote `path` have left beside it."""
    before = f".{path.name}.{platform.node()}."
    for old in path.parent.iterdir():
        pid = old.name.removeprefix(before).removesuffix(".tmp")
        if old.name == f"{before}{pid}.tmp" and pid.isdecimal():
            try:
                os.kill(int(pid), 0)
            except (ProcessLookupError, OverflowError):
                old.unlink(missing_ok=True)
            except OSError:
                continue  # it is somebody else's, and at work


def write_json(path: Path, data: Json, indent: int | None = None) -> None:
    """Write data as JSON, whole or not at all.

    Raises:
        ConfigError: if it cannot be written; what was there before still is.
    """
    write_whole(path, json.dumps(data, indent=indent).encode())


def read_json(
    path: Path,
    kind: Kind = JsonObject,
    error: type[AdJaxError] = ConfigError,
    remedy: str = "restore it, or delete the run directory",
) -> JsonObject:
    """Return the object in a file, which must be of a `kind`, as for `wrong`.

    Raises:
        AdJaxError: of class `error`, with the remedy, if it cannot be read, is damaged, or of another form.
    """
    try:
        data = parse(path.read_text("utf-8"))
    except (OSError, ValueError) as found:
        raise error(f"{path} is damaged ({found}); {remedy}") from found
    if problem := wrong(data, kind):
        raise error(f"{path} is damaged ({problem.lstrip(' .:')}); {remedy}")
    return data


def parse(text: str | bytes) -> Json:
    """Return the data of a JSON text.

    Raises:
        ValueError: for what is no JSON, is nested too deeply, or holds an integer of more than 19 digits.
    """
    try:
        data = json.loads(text, parse_int=_integer)
    except RecursionError as error:
        raise ValueError(f"nested more than {DEEPEST} deep") from error
    level = [data]
    for _ in range(DEEPEST + 1):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, dict | list)]
        if not level:
            return data
    raise ValueError(f"nested more than {DEEPEST} deep")


def check(data: Json, kind: type[T], where: str, error: type[AdJaxError] = ConfigError) -> T:
    """Return plain data as the struct `kind`, or whatever else `wrong` takes; `where` says what the data is.

    Raises:
        AdJaxError: of class `error`, e.g. "results.json: runs[0].sets[1].name: expected str, received 3".
    """
    try:
        return msgspec.convert(data, kind)
    except REFUSED as found:
        raise error(f"{where}: {_told(found, data, kind).lstrip(' .:')}") from found


def wrong(data: Json, kind: Kind) -> str:
    """Say where and why plain data is not of a `kind`: ".size: expected int, received 'x'"; nothing where it is.

    Args:
        data: dictionaries, lists, text and numbers, e.g. as read from a file.
        kind: a `msgspec.Struct` or a type that holds some, with `msgspec.Meta` for bounds. Nothing is converted, but
            int to float. What a struct's `__post_init__` refuses with a ValueError begins with the place inside it,
            as here.
    """
    try:
        msgspec.convert(data, kind)
    except REFUSED as found:
        return _told(found, data, kind)
    return ""


def _told(found: Exception, data: Json, kind: Kind) -> str:
    """Return the place of a refusal and its sentence, with the value that was refused, which msgspec leaves out."""
    if isinstance(found, UnicodeEncodeError):
        return f": expected names in UTF-8, received {reprlib.repr(found.object)}"
    text = str(found.__cause__ or re.sub(r" - at (`key` in )?`[^`]*`$", "", str(found)))
    place, value = "", data
    with contextlib.suppress(LookupError, AttributeError):  # a name in the message that reads like a place
        for step in re.findall(r"\.\w+|\[\w+\]|\[\.\.\.\]", str(found)[len(text) :]):
            name = _key(found, data, kind, value) if step == "[...]" else step.strip(".[]")
            place += (f".{name}" if name.isidentifier() else f"[{reprlib.repr(name)}]") if step == "[...]" else step
            value = value[int(name)] if isinstance(value, list | tuple) else value[name]
        if " - at `key` in" in str(found):
            value = _key(found, data, kind, value)
    if found.__cause__:  # a sentence of ours
        return place + text
    if missing := re.fullmatch("Object missing required field `(.*)`", text):
        names = reprlib.repr(list(value))[1:-1] or "no field"
        return f"{place}: expected a field {missing[1]!r}, received an object with {names}"
    if unknown := re.fullmatch("Object contains unknown field `(.*)`", text, re.DOTALL):
        return f"{place}: expected no field {reprlib.repr(unknown[1])}, which is unknown"
    expected = text.partition(", got ")[0].removeprefix("Expected ").replace("`", "").replace(" | ", " or ")
    expected = expected.replace("of length >= ", "of at least ").replace("of length <= ", "of at most ")
    if isinstance(value, float) and not math.isfinite(value):
        expected = "a finite number"
    return f"{place}: expected {expected}, received {reprlib.repr(value)}"


def _key(found: Exception, data: Json, kind: Kind, mapping: JsonObject) -> str:
    """Which entry of a mapping inside `data` was refused: the last of the fewest that are refused alike."""
    items = list(mapping.items())

    def refused(count: int) -> bool:
        try:
            msgspec.convert(copy.deepcopy(data, {id(mapping): dict(items[:count])}), kind)
        except msgspec.ValidationError as error:
            return str(error) == str(found)
        return False

    return items[bisect.bisect_left(range(1, len(items)), True, key=refused)][0]


def _inside(outer: Kind) -> Kind:
    return outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ()


def _integer(digits: str) -> int:
    if len(digits.removeprefix("-")) > DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def local(path: str | os.PathLike, option: str = "") -> Path:
    """Return a path on this machine, with `~` expanded.

    Args:
        path: on this machine; may begin with `~`.
        option: what was set, for the message, e.g. `--out`.

    Raises:
        ConfigError: for a URL, a name that is too long, or one that is no text.
    """
    text, what = os.fspath(path), option or "the path"
    if re.match(r"[a-z][a-z0-9+.-]+:/", text):
        raise ConfigError(
            f"{what} is a directory on this machine; got {text}. Only histories can be elsewhere: --histories gs://..."
        )
    text = os.path.expanduser(text)
    check_names(text, what)
    return Path(text)


def check_names(text: str, what: str) -> None:
    """Raise ConfigError for a path with a name that no file system takes."""
    try:
        longest = max(map(len, text.encode().split(b"/")))
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what} is no text in UTF-8; got {text!r}. Use another name") from error
    if longest > LONGEST or "\0" in text:
        received = "a zero character" if "\0" in text else f"one of {longest} bytes"
        raise ConfigError(f"{what} expects names of at most {LONGEST} bytes; got {received}. Use a shorter name")


def check_checkpoints(folder: Path) -> None:
    """Raise ConfigError if checkpoints that are written in `folder`, an absolute path, could not be read again."""
    found = {character: meant for character, meant in LOST.items() if character in str(folder)}
    if colon := next((part for part in folder.parts if part.endswith(":")), ""):
        found[colon] = "a URL"
    if found:
        shown = ", ".join(f"{character!r} as {meant}" for character, meant in found.items())
        raise ConfigError(
            f"checkpoints in {folder} could not be read again: the libraries that write them read {shown}. Use "
            "another directory (--dir), or rename that one"
        )


def check_histories(path: str) -> None:
    """Raise ConfigError if histories in `path` would go elsewhere; a URL is another matter."""
    if "://" in path:
        return
    check_names(path, "the histories' directory")
    if "\\" in path:
        raise ConfigError(
            f"histories in {path} would go elsewhere: TensorStore reads '\\' as a slash. Use another directory "
            "(--dir, or --histories)"
        )
