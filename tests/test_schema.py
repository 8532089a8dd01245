"""JSON is read strictly, and each refusal is one line that gives the place and the value."""

import json

import pytest

from aurevoir.errors import AurevoirError
from aurevoir.schema import (
    LONGEST,
    MalformedError,
    array,
    mapping,
    nullable,
    number,
    one_of,
    parse_object,
    record,
    refusing,
    require_version,
    text,
    whole,
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": 1, "a": 2}', "the name 'a' is repeated"),
        (b'{"a": ' + b"1" * 5000 + b"}", "is not JSON"),
        (b'{"a": "\xff"}', "is not JSON"),
        (b"\xff\xfe{\0}\0", "is not JSON"),
        (b"", "is not JSON"),
        (b"[]", "is a list, not a JSON object"),
        (b" " * (LONGEST + 1), "and at most 33,554,432 are read"),
    ],
)
def test_what_is_no_strict_json_is_refused(data, message):
    with pytest.raises(MalformedError, match=message):
        parse_object(data)


def test_a_byte_order_mark_is_read():
    assert parse_object(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


SCHEMA = record(
    {
        "m": whole(1),
        "scale": number(0, above=0),
        "kind": one_of(("a", "b")),
        "names": array(text(5), 1, 3),
        "by": mapping(number(0), "threshold"),
    },
    {"maybe": nullable(whole())},
)
GOOD = {"m": 3, "scale": 0.5, "kind": "a", "names": ["x", "\udc80"], "by": {"t": 1}, "maybe": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"m": 0}, "m 0 is not an integer from 1 to 2147483647"),
        ({"m": True}, "m True is not an integer"),
        ({"m": 3.0}, "m 3.0 is not an integer"),
        ({"m": 2**31}, "m 2147483648 is not an integer"),
        ({"scale": 0}, "scale 0 is not a number from 0 above 0"),
        ({"scale": float("nan")}, "scale nan is not a number"),
        ({"scale": float("inf")}, "scale inf is not a number"),
        ({"scale": 10**400}, "scale 1000.*is not a number"),
        ({"scale": "1"}, "scale '1' is not a number"),
        ({"kind": "c"}, "kind 'c' is not one of a, b"),
        ({"kind": ["a"]}, r"kind \['a'\] is not one of a, b"),
        ({"names": []}, r"names \[\] is not an array of 1 to 3 values"),
        ({"names": ["x", "toolong"]}, r"names\[1\] 'toolong' is not text"),
        ({"names": ["\ud800"]}, r"names\[0\] '\\ud800' is not text"),
        ({"by": {"conv\x1b[0m": -1}}, r"threshold -1 of 'conv\\x1b\[0m' is not a number from 0"),
        ({"by": [1]}, r"by \[1\] is not an object"),
        ({"maybe": "x"}, "maybe 'x' is not an integer from 0 to 2147483647, or null"),
        ({"more": 1}, "'more' is not known to this version"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(changes, message):
    SCHEMA(GOOD, "")
    with pytest.raises(AurevoirError, match=message) as refused, refusing("f.json", "mend it"):
        SCHEMA(GOOD | changes, "")
    assert str(refused.value).startswith("f.json has wrong fields (")
    assert str(refused.value).endswith("; mend it")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_missing_field_is_named():
    with pytest.raises(MalformedError, match=r"has wrong fields \(kind is missing\)"):
        SCHEMA({name: value for name, value in GOOD.items() if name != "kind"}, "")


def test_newer_versions_are_told_from_strange_ones():
    assert require_version("aurevoir-x/2", ("aurevoir-x/3", "aurevoir-x/2")) == "aurevoir-x/2"
    with pytest.raises(MalformedError, match="'aurevoir-x/4', written by a newer version of aurevoir; upgrade"):
        require_version("aurevoir-x/4", ("aurevoir-x/3",))
    for strange in ("aurevoir-x/1", "other/9", "aurevoir-x/4 ", 4, None, ["aurevoir-x/4"], json.loads("{}")):
        with pytest.raises(MalformedError, match="is of schema .*, this version reads 'aurevoir-x/3'$"):
            require_version(strange, ("aurevoir-x/3",))
