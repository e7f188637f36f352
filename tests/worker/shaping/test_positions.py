"""Positions: on which line of a TOML file each table and key stands."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtplite.worker.shaping.positions import positions
from tests.exhaustive import examples

AWKWARD = """\
# [not.a.table]
top = 1
[default] # a comment with = and [
connection_limit = 10
"quoted.key" = '# no comment'
site.'with dots'.x = 0x10 # dotted

[ "relay" . "smtp.example.com" ]
text = \"\"\"
[inside]
key = "\\\\" \\"\"\"\"
literal = '''
]]]'''''
when = 1979-05-27 07:32:00Z
action = [
  { SetConfig = { name = "max_message_rate", value = "1/min" } }, # first
  "Suspend",
]

[[default.automation]]
regex = "a"
[[default.automation]]
regex = [ "b",
          'c' ]
[default.automation.trigger]
Threshold = "2/hr"
"""


def test_every_kind_of_key_has_its_line() -> None:
    found = positions(AWKWARD)
    lines = AWKWARD.splitlines()
    expected = {
        ("top",): 2,
        ("default",): 3,
        ("default", "connection_limit"): 4,
        ("default", "quoted.key"): 5,
        ("default", "site", "with dots", "x"): 6,
        ("relay", "smtp.example.com"): 8,
        ("relay", "smtp.example.com", "text"): 9,
        ("relay", "smtp.example.com", "literal"): 12,
        ("relay", "smtp.example.com", "when"): 14,
        ("relay", "smtp.example.com", "action"): 15,
        ("relay", "smtp.example.com", "action", 0, "SetConfig", "value"): 16,
        ("relay", "smtp.example.com", "action", 1): 17,
        ("default", "automation", 0): 20,
        ("default", "automation", 0, "regex"): 21,
        ("default", "automation", 1, "regex", 1): 24,
        ("default", "automation", 1, "trigger", "Threshold"): 26,
    }
    assert {path: found.get(path) for path in expected} == expected
    assert "inside" in lines[9], "what is in a string is no table"
    assert not any("inside" in path for path in found)


def paths_of(value: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return {path} | {inner for key, item in items for inner in paths_of(item, (*path, key))}


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_all_that_tomllib_finds_has_a_line_and_nothing_else(ends: str) -> None:
    text = AWKWARD.replace("\n", ends)
    assert set(positions(text)) == paths_of(tomllib.loads(text)) - {()}


names = st.one_of(st.sampled_from(["a", "b-1", "automation"]), st.text(max_size=4))
scalars = st.one_of(
    st.booleans(), st.integers(-99, 99), st.text(max_size=6), st.sampled_from(["# [x]", "a = 1", "'", '"', "}", "]"])
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)


def rendered(value: object, draw: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{quoted(key, draw)} = {rendered(item, draw)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        gap: str = draw(st.sampled_from(["", "\n", " # comment ]\n"]))
        return "[" + gap + f",{gap or ' '}".join(rendered(item, draw) for item in value) + gap + "]"
    if isinstance(value, str):
        return quoted(value, draw)
    return str(json.dumps(value))


def quoted(text: str, draw: Any) -> str:
    if text.isascii() and text.isalnum() and bool(draw(st.booleans())):
        return f"'{text}'"
    escaped = "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in text)
    return f'"{escaped}"'


@examples(100)
@given(st.dictionaries(names, st.dictionaries(names, values, max_size=4), max_size=4), st.data())
def test_any_file_has_each_key_on_the_line_where_it_is_written(tables: dict[str, Any], data: Any) -> None:
    text = ""
    expected: dict[tuple[str | int, ...], int] = {}
    for table, keys in tables.items():
        text += f"[{quoted(table, data.draw)}]\n"
        expected[table,] = text.count("\n")
        for key, value in keys.items():
            expected[table, key] = text.count("\n") + 1
            text += f"{quoted(key, data.draw)} = {rendered(value, data.draw)}\n"
    assert tomllib.loads(text) == tables
    found = positions(text)
    assert {path: found.get(path) for path in expected} == expected
    assert set(found) == paths_of(tables) - {()}
