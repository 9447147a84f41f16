"""Reading documents: what comes out of bytes, good and bad, and how much is read ahead."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import DataError
from stages.generate.documents import Document, Format, format_of, read_documents, sniff


def read(content: bytes, form: Format, field: str | None = None) -> list[Document]:
    return list(read_documents(iter(io.BytesIO(content)), form, field))


def endless(line: bytes) -> Iterator[bytes]:
    """An input that never ends; whoever reads all of it hangs."""
    for number in itertools.count():
        yield line.replace(b"#", str(number).encode())


def test_a_line_is_a_document_and_a_blank_one_is_empty() -> None:
    found = read("eins\n\n zwei \r\ndrei ü".encode(), "lines")
    assert [one.text for one in found] == ["eins", "", " zwei ", "drei ü"]
    assert [one.id for one in found] == ["1", "2", "3", "4"]


def test_only_line_feeds_end_a_line() -> None:
    text = "a\u2028b\x0bc\x85d\re"
    assert [one.text for one in read(text.encode(), "lines")] == [text]


@pytest.mark.parametrize("form", ["lines", "document", "jsonl", "csv"])
def test_nothing_holds_no_document(form: Format) -> None:
    assert read(b"", form) == []


def test_a_whole_input_is_a_document() -> None:
    assert read(b"\xef\xbb\xbfone\r\ntwo\n", "document") == [Document("1", "one\ntwo\n")]


@pytest.mark.parametrize(
    ("content", "form", "text"),
    [
        (b"\xef\xbb\xbfone\n", "lines", "one"),
        (b'\xef\xbb\xbf{"text": "one"}\n', "jsonl", "one"),
        (b"\xef\xbb\xbftext\none\n", "csv", "one"),
    ],
)
def test_a_byte_order_mark_is_no_text(content: bytes, form: Format, text: str) -> None:
    assert [one.text for one in read(content, form)] == [text]


def test_a_line_that_is_no_utf8_fails_alone() -> None:
    found = read(b"good\ncaf\xe9 au lait\nbetter\n", "lines")
    assert [one.text for one in found] == ["good", "", "better"]
    assert [bool(one.failure) for one in found] == [False, True, False]
    assert found[1].failure == "line 2: byte 0xe9 at offset 3 is not UTF-8"


def test_json_documents_are_found_by_their_usual_names() -> None:
    rows: list[dict[str, object]] = [
        {"id": "x", "document": "d", "text": "other"},
        {"id": 7, "article": "a"},
        {"source": "s", "id": None},
    ]
    content = "\n\n".join(map(json.dumps, rows)).encode()
    assert read(content, "jsonl") == [Document("x", "d"), Document("7", "a"), Document("5", "s")]
    assert [one.text for one in read(content, "jsonl", "text")] == ["other", "", ""]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{bad", "line 2: is not JSON ("),
        (b"[1]", "line 2: expected a JSON object, found a list"),
        (b'{"body": "x"}', "line 2: has no document, article, text or source"),
        (b'{"text": 3}', "line 2: text: expected a text, found a number"),
        (b'{"text": null}', "line 2: text: expected a text, found null"),
        (b'{"text": "x", "id": []}', "line 2: id: expected a text or a number, found a list"),
        (b'{"text": "x", "id": true}', "line 2: id: expected a text or a number, found a boolean"),
        (b'{"text": "\\ud800"}', "line 2: holds half a surrogate pair, \\ud800"),
        (b'{"text": "x", "id": "\\udc80"}', "line 2: holds half a surrogate pair, \\udc80"),
        (b'{"text": "\xff"}', "line 2: byte 0xff at offset 10 is not UTF-8"),
        (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "line 2: cannot be read ("),
        (b'{"text": ' + b"[" * 100_000, "line 2: cannot be read ("),
    ],
    ids=lambda value: value[:24].decode(errors="replace") if isinstance(value, bytes) else "",
)
def test_a_bad_object_fails_alone(line: bytes, reason: str) -> None:
    before, bad, after = read(b'{"text": "a"}\n' + line + b'\n{"text": "b"}\n', "jsonl")
    assert (before, after) == (Document("1", "a"), Document("3", "b"))
    assert bad.failure.startswith(reason) and not bad.text
    bad.id.encode()  # can be written


def test_csv_records_may_have_several_lines() -> None:
    found = read(b'id,text\r\n1,"two\r\nlines, ""quoted"""\r\n\r\n,plain\r\n', "csv")
    assert found == [Document("1", 'two\r\nlines, "quoted"'), Document("2", "plain")]


def test_a_bad_csv_record_fails_alone() -> None:
    content = b'text,n\na,1\n\xc3\xbc\xff,2\nb\nc,"x"y\nd,3\n"open,4\n'
    found = read(content, "csv")
    assert [one.text for one in found] == ["a", "", "", "", "d", ""]
    assert [one.id for one in found] == ["1", "2", "3", "4", "5", "6"]
    assert [one.failure.partition(" (")[0] for one in found] == [
        "",
        "line 3: byte 0xff at offset 2 is not UTF-8",
        "line 4: has 1 fields, the header 2",
        "line 5: is not valid CSV",
        "",
        "line 7: is not valid CSV",
    ]


def test_a_long_csv_field_is_read() -> None:
    assert [len(one.text) for one in read(b"text\n" + b"x" * 1_000_000, "csv")] == [1_000_000]


@pytest.mark.parametrize("field", [None, "body"])
def test_a_csv_without_the_column_names_what_it_has(field: str | None) -> None:
    with pytest.raises(DataError, match=r"it has a, b: name one with --field"):
        read(b"a,b\n1,2\n", "csv", field)


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (b'{"text": 1}', "jsonl"),
        (b'\n  \n\xef\xbb\xbf {"a"', "jsonl"),
        (b'\xef\xbb\xbf{"a"', "jsonl"),
        (b"plain {", "lines"),
        (b"\n\n", "lines"),
        (b"", "lines"),
    ],
)
def test_the_first_character_tells_the_format_and_no_line_is_lost(
    content: bytes, form: Format
) -> None:
    found, lines = sniff(iter(io.BytesIO(content)))
    assert (found, b"".join(lines)) == (form, content)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.jsonl", "jsonl"),
        ("a.JSON", "jsonl"),
        ("a.csv", "csv"),
        ("a.txt", "lines"),
        ("a", None),
        ("-", None),
    ],
)
def test_the_suffix_tells_the_format(name: str, form: Format | None) -> None:
    assert format_of(Path(name)) == form


def test_a_json_list_is_refused_with_the_way_out() -> None:
    with pytest.raises(DataError, match="jq -c"):
        list(read_documents(io.BytesIO(b' [{"text": "a"}]\n'), "jsonl", None))


@pytest.mark.parametrize(
    ("line", "form"), [(b"#\n", "lines"), (b'{"text": "#"}\n', "jsonl"), (b"text\n", "csv")]
)
def test_documents_come_before_the_input_ends(line: bytes, form: Format) -> None:
    documents = read_documents(endless(line), form, None)
    assert len([one for one in itertools.islice(documents, 3) if not one.failure]) == 3
