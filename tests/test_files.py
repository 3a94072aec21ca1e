"""Plain data from outside: what is refused is named by its place, what was expected and what came."""

import json

import pytest
from msgspec import Struct

from ad_jax.errors import ConfigError, ReportError
from ad_jax.files import Finite, Whole, check, read_json, wrong


class Part(Struct, forbid_unknown_fields=True):
    name: str
    size: Whole = 0
    value: Finite | None = None

    def __post_init__(self):
        if self.name == "odd":
            raise ValueError(f".name: expected an even one, received {self.name!r}")


class Parcel(Struct):
    parts: list[Part]
    named: dict[str, Part] = {}
    table: list[list[int]] | int = 0


GOOD = {"name": "x", "size": 3}
REFUSED = {
    ": expected object, received 3": 3,
    ": expected a field 'parts', received an object with no field": {},
    ".parts[1]: expected a field 'name', received an object with 'size'": {"parts": [GOOD, {"size": 1}]},
    ".parts[0].size: expected int >= 0, received -1": {"parts": [GOOD | {"size": -1}]},
    ".parts[0].size: expected int, received True": {"parts": [GOOD | {"size": True}]},
    ".parts[0].size: expected int <= 9223372036854775807, received 1000": {"parts": [GOOD | {"size": 10**30}]},
    ".parts[0].value: expected a finite number, received nan": {"parts": [GOOD | {"value": float("nan")}]},
    ".parts[0].value: expected float or null, received 'x'": {"parts": [GOOD | {"value": "x"}]},
    ".parts[0]: expected no field 'extra', which is unknown": {"parts": [GOOD | {"extra": 1}]},
    ".parts[0].name: expected an even one, received 'odd'": {"parts": [{"name": "odd"}]},
    ".named.c.size: expected int, received '3'": {
        "parts": [],
        "named": {"a": GOOD, "b": GOOD, "c": {"name": "c", "size": "3"}, "d": {"name": "d", "size": "3"}},
    },
    ".named['a b'].name: expected an even one": {"parts": [], "named": {"a": GOOD, "a b": {"name": "odd"}}},
    ".table[1][0]: expected int, received 1.5": {"parts": [], "table": [[1], [1.5]]},
    ": expected names in UTF-8": {"parts": [], "\ud800": 1},
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_is_refused_is_named_by_its_place(said):
    assert wrong(REFUSED[said], Parcel).startswith(said)
    with pytest.raises(ReportError) as caught:
        check(REFUSED[said], Parcel, "x.json", ReportError)
    assert str(caught.value).startswith(f"x.json: {said.lstrip('.: ')}")


def test_what_is_sound_is_given_as_a_struct():
    found = check({"parts": [GOOD], "named": {"a": GOOD}, "other": 1}, Parcel, "x.json")
    assert found.parts == [Part("x", 3)]
    assert wrong({"parts": []}, Parcel) == ""


@pytest.mark.parametrize("name", ["x` - at `$.parts[0].name", "a\nb", "$[...]", "x" * 10**5])
def test_a_name_that_reads_like_a_place_misleads_nobody(name):
    said = wrong({"parts": [GOOD | {name: 1}], "named": {}}, Parcel)
    assert said.startswith(".parts[0]")
    assert len(said) < 300
    assert "\n" not in wrong(GOOD | {name: 1}, Part)


def test_a_file_of_another_form_is_named_with_the_remedy(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"parts": [{"name": 3}]}))
    with pytest.raises(ConfigError, match=r"damaged \(parts\[0\]\.name: expected str, received 3\); drop it"):
        read_json(path, Parcel, remedy="drop it")
    assert read_json(path) == {"parts": [{"name": 3}]}
