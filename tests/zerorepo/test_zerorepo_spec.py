"""Specifications in their three forms, and every way in which one can be wrong."""

import json
import keyword
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold_shared import BadInput
from zerorepo.generation.spec import Spec, package_name, read_spec, spec_of
from zerorepo.validate import judged_path

DATA = {"repository_name": "HttpEasy", "repository_purpose": "Send HTTP requests  for people.", "scope": "No servers."}
FULL = {
    "meta": {"project_types": ["LIBRARY"], "project_notes": "none", "primary_language": "python"},
    "background_and_overview": [{"id": "BG-001", "title": "Why", "description": "Others are hard.", "evidence": []}],
    "non_functional_requirements": [{"id": "NFR-001", "title": "Speed", "description": "Answers in a second."}],
    "functional_requirements": [
        {"id": "FT-001", "name": "Requests", "description": "All of them.", "evidence": [], "children": [
            {"id": "FT-001-001", "name": "Get", "description": "Fetches a page.", "children": []},
            {"id": "FT-001-002", "name": "Sessions", "description": "Keep state.", "children": [
                {"id": "FT-001-002-001", "name": "Cookies", "description": "Keeps cookies."}]}]},
        {"id": "FT-002", "name": "Hooks", "description": "Calls back.", "children": []},
    ],
    "repository_name": "http-easy",
    "repository_purpose": "Send HTTP requests for people.",
}  # fmt: skip
KIT = """# Feature Specification: Photo Albums

**Feature Branch**: `001-photo-albums`
**Created**: 2025-09-18
**Status**: Draft
**Input**: User description: "Organise photos in albums by date"

## User Scenarios & Testing *(mandatory)*

### User Story 1 - Make an album (Priority: P1)

A person makes an album and drops photos in.

**Acceptance Scenarios**:

1. **Given** no album, **When** one is made, **Then** it is empty

### Edge Cases

- What happens when a photo has no date?

## Requirements *(mandatory)*

### Functional Requirements

- **FR-001**: System MUST group photos by date
- **FR-002**: System MUST let users *reorder*
  albums by dragging

### Key Entities

- **Album**: holds photos

## Success Criteria

- **SC-001**: A thousand photos in a second
"""
README = """---
layout: post
---
<!-- a comment
# not a title
-->
[![build](x.svg)](y)

Table Kit: tables for people
============================

Reads, filters and writes **tables** in [many formats](http://x).
It needs no server.

A second paragraph.

- [Install](#install)

## Features

* reads `csv` files
* [x] joins two tables
  on a key
1. sorts rows

```
- not a requirement
# not a heading
```

| a | b |
|---|---|

## Scope
Only what fits in memory.

### Non-goals
- a database

## Installation
- pip install it
"""


def of(text: str | bytes | dict, name: str) -> Spec:
    data = json.dumps(text) if isinstance(text, dict) else text
    return spec_of(data.encode() if isinstance(data, str) else data, name)


# ------------------------------------------------------------ the forms


def test_the_reference_s_form():
    assert of(DATA, "s.json") == Spec("httpeasy", "Send HTTP requests for people.", "No servers.")
    assert of({key: DATA[key] for key in ("repository_name", "repository_purpose")}, "s.json").scope == ""


def test_the_successor_s_form():
    found = of(FULL, "feature_spec.json")
    assert found.name == "http_easy" and found.purpose == FULL["repository_purpose"]
    assert found.requirements == ("Get: Fetches a page.", "Cookies: Keeps cookies.", "Hooks: Calls back.")
    assert found.scope == "Why: Others are hard. Must hold throughout: Speed: Answers in a second."


def test_a_readme():
    found = of(README, "README.md")
    assert found.name == "table_kit"
    assert found.purpose == "Reads, filters and writes tables in many formats. It needs no server. A second paragraph."
    assert found.requirements == ("reads csv files", "joins two tables on a key", "sorts rows")
    assert found.scope == "Only what fits in memory. Out of scope: a database"


def test_spec_kit():
    found = of(KIT, "spec.md")
    assert found.name == "photo_albums" and found.purpose == "Organise photos in albums by date"
    assert found.requirements == ("Make an album", "System MUST group photos by date", "System MUST let users reorder albums by dragging")  # fmt: skip


def test_the_form_is_told_by_suffix_and_else_by_content(tmp_path):
    for name in ("s", "s.spec"):
        (tmp_path / name).write_text(json.dumps(DATA))
        assert read_spec(tmp_path / name).name == "httpeasy"
        (tmp_path / name).write_text(KIT)
        assert read_spec(tmp_path / name).name == "photo_albums"
    (tmp_path / "tiny-kit.md").write_text("Counts words in texts.\n")
    assert read_spec(tmp_path / "tiny-kit.md") == Spec("tiny_kit", "Counts words in texts.")


def test_marks_of_editors_change_nothing_in_markdown():
    plain = of(README, "a.md")
    assert of(b"\xef\xbb\xbf" + README.encode(), "a.md") == plain
    assert of(README.replace("\n", "\r\n"), "a.md") == plain
    assert of(README.replace("\n", "\r"), "a.md") == plain


# ------------------------------------------------------------ what is wrong, and where


def at(text: str, mark: str) -> str:
    """line:column of a mark, counted by hand."""
    before = text[: text.index(mark)]
    return f"{before.count(chr(10)) + 1}:{len(before) - (before.rfind(chr(10)) + 1) + 1}"


PRETTY = json.dumps(FULL, indent=1)
ONE = '{\n  "repository_name": "x y",\n  "repository_purpose": "send it far"\n}'


@pytest.mark.parametrize(
    ("text", "mark", "told"),
    [
        (ONE.replace("send it far", ""), '""', "repository_purpose: empty"),
        (ONE.replace("send it far", " \\n "), '" \\n "', "repository_purpose: empty"),
        (ONE.replace("send it far", "sends"), '"sends"', "expected a sentence"),
        (ONE.replace('"send it far"', "7"), "7", "repository_purpose: expected text"),
        (ONE.replace('"send it far"', "null"), "null", "repository_purpose: expected text"),
        (ONE.replace("x y", "日本"), '"日本"', "repository_name: '日本': expected Latin letters"),
        (ONE.replace("x y", "a\\u0007b"), '"a\\u', "cannot be printed"),
        (ONE.replace("x y", "\\ud800 b"), '"\\ud800', "cannot be printed"),
        (ONE.replace("_name", "_nam"), '"repository_nam"', "repository_nam: unknown; expected one of repository_name"),
        (ONE.replace('"repository_name"', '"repository_purpose"'), '"repository_purpose": "send', "stands twice"),
        (ONE.replace('"x y",', '"x y"'), '"repository_purpose"', "expected a comma"),
        (ONE.replace('"x y"', "NaN"), "NaN", "not JSON: expected a value"),
        (ONE.replace('"x y"', "'x y'"), "'x y'", "not JSON"),
        (ONE.replace("x y", "x\ty"), "\ty", "invalid control character"),
        (ONE + "]", "]", "something stands after"),
        (ONE.replace("}", ",}"), "}", "a key in double quotes"),
        (ONE[:-1].rstrip(), "", "expected a comma or a closing brace"),
        ("[1]", "[", "expected an object"),
        (ONE.replace('"repository_purpose"', '"scope"'), "{", "repository_purpose: missing"),
        (PRETTY.replace('"Hooks"', "[]"), '[],\n   "description": "Calls', "functional_requirements.1.name: expected text"),
        (PRETTY.replace('"FT-001-001"', '"x", "extra": 1'), '"extra"', "functional_requirements.0.children.0.extra: unknown"),
        (PRETTY.replace('"python"', '"rust"'), '"rust"', "meta.primary_language: rust"),
        (PRETTY.replace('"title": "Why",', ""), '{\n   "id": "BG', "background_and_overview.0.title: missing"),
        ("x", "x", "not JSON"),
        ("", "", "not JSON: expected a value, the file ends"),
    ],
)  # fmt: skip
def test_json_that_is_wrong_is_told_with_its_line(text, mark, told):
    with pytest.raises(BadInput) as error:
        of(text, "s.json")
    where = at(text, mark) if mark else at(text + "\0", "\0")
    assert str(error.value).startswith(f"s.json:{where}: ") and told in str(error.value)
    assert "\n" not in str(error.value)


def test_json_nested_without_end_is_told_where_it_goes_too_deep():
    with pytest.raises(BadInput, match=rf"^s.json:1:{5 * 65 + 1}: nested more than 64 levels deep$"):
        of("{" + '"a":{' * 50_000, "s.json")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\xef\xbb\xbf" + ONE.encode(), "s.json:1:1: begins with a byte order mark"),
        (ONE.replace("\n", "\r\n").encode(), "s.json:1:2: a carriage return"),
        (ONE.encode().replace(b"x y", b"x \xff"), "s.json:2:25: expected UTF-8"),
        (ONE.replace("x y", "é y").encode("latin-1"), "s.json:2:23: expected UTF-8"),
        (ONE.encode("utf-16"), "s.json:1:1: expected UTF-8"),
    ],
)
def test_bytes_that_json_may_not_have(data, told):
    with pytest.raises(BadInput) as error:
        of(data, "s.json")
    assert str(error.value).startswith(told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# Kit\n\n\nWords.\n", "s.md:4:1: purpose, the first paragraphs: 'Words.'"),
        ("# Kit\n\n- one thing\n", "s.md:1:1: purpose, the first paragraphs: ''"),
        ("", "s.md:1:1: purpose"),
        ("\n\n# 日本\n\nsome words here\n", "s.md:3:1: title: expected a heading with Latin letters"),
        (KIT.replace("Photo Albums", "[FEATURE NAME]"), "s.md:1:1: title: [FEATURE NAME] is the template's placeholder"),
        (KIT.replace("Organise photos in albums by date", "$ARGUMENTS"), "s.md:3:1: purpose: $ARGUMENTS is the template"),
        ("# Kit\n\nwords \udcff here\n", "s.md:3:7: expected UTF-8"),
    ],
)  # fmt: skip
def test_markdown_that_is_wrong_is_told_with_its_line(text, told):
    with pytest.raises(BadInput) as error:
        of(text.encode("utf-8", "surrogateescape"), "s.md")
    assert str(error.value).startswith(told)


def test_text_of_stdin_needs_a_title():
    with pytest.raises(BadInput, match="<stdin>:1:1: title"):
        of("Counts words in texts.\n", "<stdin>")


def test_no_file(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        read_spec(tmp_path / "none.md")


# ------------------------------------------------------------ properties

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(json_values, st.sampled_from([None, 1, 3]))
@settings(max_examples=150)
def test_the_reader_reads_what_json_reads(value, indent):
    from zerorepo.generation.spec import _Located

    text = json.dumps(value, indent=indent, ensure_ascii=False)
    found = _Located(text)
    assert found.value == value and type(found.value) is type(value)
    for pointer, begin in found.values.items():
        inner = value
        for step in pointer:
            inner = inner[step]
        assert json.JSONDecoder().raw_decode(text, begin)[0] == inner
    for pointer, begin in found.keys.items():
        assert json.JSONDecoder().raw_decode(text, begin)[0] == pointer[-1]


@given(st.text(st.characters(codec="utf-8"), max_size=300), st.sampled_from(["a.json", "a.md", "a"]))
@settings(max_examples=300)
def test_any_text_is_a_spec_or_one_line_with_a_place(text, name):
    try:
        found = spec_of(text.encode(), name)
    except BadInput as error:
        assert re.match(rf"{re.escape(name)}:\d+:\d+: ", str(error)) and len(str(error).splitlines()) == 1
    else:
        assert found.name.isidentifier() and len(re.findall(r"\w+", found.purpose)) > 1


@given(st.text(max_size=80))
@settings(max_examples=300)
def test_a_package_name_can_be_imported_and_is_free(title):
    found = package_name(title)
    if not found:
        assert not re.search(r"[A-Za-z0-9]", title)
        return
    assert re.fullmatch(r"[a-z][a-z0-9_]*", found) and len(found) < 60
    assert not keyword.iskeyword(found) and found not in sys.stdlib_module_names
    assert judged_path(found, True) is None and package_name(found) == found


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("MLKit-Py", "mlkit_py"), ("Café Society", "cafe_society"), ("3D plots", "lib_3d_plots"), ("json", "json_project"),
        ("Class", "class_project"), ("tests", "tests_project"), ("CON", "con_project"), ("match", "match_project"),
        ("a title that goes on and on and on and on and on", "a_title_that_goes_on_and_on_and_on_and"), ("日本", ""), ("__x__", "x"),
    ],
)  # fmt: skip
def test_package_names(title, name):
    assert package_name(title) == name


def test_paths_and_texts_are_alike(tmp_path):
    Path(tmp_path / "s.json").write_text(json.dumps(DATA))
    assert read_spec(str(tmp_path / "s.json")) == of(DATA, "s.json")


def test_a_number_of_any_length_is_no_text():
    for digits, told in (("9" * 5000, "a number of more digits"), ("1e999", "repository_purpose: expected text")):
        with pytest.raises(BadInput, match=f"1:52: {told}"):
            spec_of(f'{{"repository_name": "a kit", "repository_purpose": {digits}}}'.encode(), "spec.json")
