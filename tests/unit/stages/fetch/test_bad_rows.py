"""Hostile files: each bad row is an error with its place, or a row with its fault; none is lost."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import DataError
from stages.fetch import lines as lines_module
from stages.fetch import rows as rows_module
from stages.fetch import seen as seen_module
from stages.fetch.config import Columns, FileReading, OnBadRow
from stages.fetch.layout import expand
from stages.fetch.local_rows import found_rows
from stages.fetch.rows import checked_rows
from stages.schema import RawRow

LIMIT = 1000


def read(path: Path, on_bad_row: OnBadRow = "record", **settings: Any) -> list[RawRow]:
    files, columns = expand(path.parent, path.name, "files"), Columns()
    how = FileReading.model_validate({"max_line_bytes": LIMIT, **settings})
    return list(checked_rows(lambda: found_rows(files, columns, how), "train", columns, on_bad_row))


def good(name: str, **changed: object) -> bytes:
    row: dict[str, Any] = {"id": name, "document": f"d {name}", "summary": "s"}
    return json.dumps(row | changed).encode() + b"\n"


JSONL = [
    ("broken UTF-8", b'{"document": "caf\xe9", "summary": "s"}\n', "not UTF-8"),
    ("NUL byte", b'{"document": "a\0b", "summary": "s"}\n', "not valid JSON"),
    ("NUL escape", good("x", document="a\0b"), "NUL"),
    ("cut short", b'{"document": "a\n', "not valid JSON"),
    ("a list", b"[1, 2]\n", "expected a JSON object"),
    ("missing column", b'{"summary": "s"}\n', "no column 'document'"),
    ("wrong type", good("x", summary=["s"]), "holds list"),
    ("half a surrogate", b'{"document": "\\ud83d", "summary": "s"}\n', "surrogate"),
    ("half a surrogate in the id", good("\ud83d"), "surrogate"),
    ("an id that is none", good("x", id={"a": 1}), "expected an id"),
    ("a line over the limit", good("x", document="long " * LIMIT), "longer than 1000 bytes"),
    ("a number over all bounds", b'{"id": ' + b"9" * 900 * 5 + b"}\n", "longer than"),
]


@pytest.mark.parametrize(("line", "told"), [case[1:] for case in JSONL], ids=[c[0] for c in JSONL])
def test_a_bad_line_ends_it_or_is_recorded(line: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + good("a") + line + good("b").replace(b"\n", b"\r\n"))
    with pytest.raises(DataError) as caught:
        read(path, "fail")
    assert f"{path}:2: " in str(caught.value) and told in str(caught.value)
    assert "on_bad_row=record" in str(caught.value)
    first, bad, last = read(path)
    assert (first.id, first.document, last.id, last.origin) == ("a", "d a", "b", "train.jsonl:3")
    assert told in bad.fault and bad.origin == "train.jsonl:2"
    assert (bad.document, bad.summary) == ("", "")
    assert len({first.id, bad.id, last.id}) == 3
    bad.id.encode()  # can be written


def test_names_that_are_no_utf_8_are_written_in_escapes(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    path.write_bytes(b'{"\\ud800": 1}\n' + good("a"))
    bad, row = read(path)
    assert (bad.origin, row.origin) == (r"caf\udce9.jsonl:1", r"caf\udce9.jsonl:2")
    assert r"columns here: \ud800 " in bad.fault
    with pytest.raises(DataError, match=r"caf\\udce9.jsonl:1: ") as caught:
        read(path, "fail")
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("lines", "bad_at", "told"),
    [
        (b"a,d,s\nb,d\nc,d,s\n", 3, "number of fields"),
        (b"a,d,s\nb,d,s,more\nc,d,s\n", 3, "number of fields"),
        (b"a,d,s\nb,caf\xe9,s\nc,d,s\n", 3, "not UTF-8"),
        (b'a,d,s\nb,"two\nlin\xe9s",s\nc,d,s\n', 3, "not UTF-8"),
        (b"a,d,s\nb,a\0b,s\nc,d,s\n", 3, "NUL"),
        (b'a,d,s\nb,"quoted"out,s\nc,d,s\n', 3, "not valid CSV"),
        (b'a,d,s\nc,d,s\nb,"never closed,s\n', 4, "not valid CSV"),
        (b"a,d,s\nb," + b"x" * 2 * LIMIT + b",s\nc,d,s\n", 3, "longer than"),
        (b'a,d,s\nb,"d\n' + b"x" * 2 * LIMIT + b'",s\nc,d,s\n', 3, "longer than"),
        (b'a,d,s\nb,"d' + b"x" * 2 * LIMIT + b'\n",s\nc,d,s\n', 3, "longer than"),
        (b'a,d,s\nb,"' + b"x" * 900 + b"\n" + b"x" * 900 + b'",s\nc,d,s\n', 3, "field larger"),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_bad_csv_record_ends_it_or_is_recorded(
    lines: bytes, bad_at: int, told: str, end: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(b"\xef\xbb\xbf" + (b"id,document,summary\n" + lines).replace(b"\n", end))
    with pytest.raises(DataError) as caught:
        read(path, "fail")
    assert f"{path}:{bad_at}: " in str(caught.value) and told in str(caught.value)
    found = read(path)
    assert [row.id for row in found if not row.fault] == ["a", "c"]
    faults = [row for row in found if row.fault]
    assert told in faults[0].fault and faults[0].origin == f"train.csv:{bad_at}"
    assert len(faults) == 1


@pytest.mark.parametrize("limit", [12, 40])
def test_a_text_over_the_limit_ends_where_it_would_without_a_limit(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever quotes are astray before or in it: no row behind it is swallowed, and none is made of it."""
    monkeypatch.setattr(lines_module, "_BUFFER", 5)
    draw, path, over = random.Random(1), tmp_path / "train.csv", 0
    pieces = ['"', '""', '","', '5" p', "x,", "\nx", "\nq,i,s\n", '\nq,"a, b",s\n']
    pieces += ["xxxxxx,\n"] * 20 + ['"x', "xxxx,"] * 4
    for _ in range(100):
        text = "".join(draw.choices(pieces, k=60))
        path.write_text(f"i,d,s\n{text}", encoding="utf-8")
        limited, whole = (
            list(found_rows([path], Columns(), FileReading(max_line_bytes=most)))
            for most in (limit, 1 << 20)
        )
        assert [row.origin for row in limited] == [row.origin for row in whole]
        for row, same in zip(limited, whole, strict=True):
            if row != same:
                assert "field larger" in row.fault or "longer than" in row.fault
                place, other = (one.fault.partition("; lines ")[2] for one in (row, same))
                assert place == other or not same.fault
                over += 1
    assert over > 50


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (b'a,d,s\nb,"two,s\nc,d,s\nd,d,s\ne,"five",s\nf,d,s\n', "lines 3 to 6 are one record"),
        (b'a,d,s\nb,"two\nlines"\nf,d,s\n', "lines 3 to 4 are one record"),
        (b'a,d,s\nf,d,s\nb,"never\nclosed,s\n', "lines 4 to 5 are one record"),
        (b"a,d,s\nb,d\nf,d,s\n", ""),
    ],
)
def test_lines_that_a_quote_has_swallowed_are_named(
    lines: bytes, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(b"id,document,summary\n" + lines)
    found = read(path)
    (bad,) = (row for row in found if row.fault)
    assert [row.id for row in found if not row.fault] == ["a", "f"]
    assert (told in bad.fault) if told else ("lines" not in bad.fault)


UNQUOTED = [
    b'id\tdocument\tsummary\n1\t"Hello there\ts1\n2\tx y z\ts2\n3\tno quote here"\ts3\n4\td\ts\n',
    b'id\tdocument\tsummary\n1\t"Hello there\ts1\n2\tthere"\ts2\n4\td\ts\n',
    b'id\tsummary\tdocument\n1\ts\t"Hello there\n2\t"s"\tthere"\n3\ts\t"x"\n4\td\ts\n',
    b'document\tsummary\tid\n"Hello there\ts1\t1\nthere"\ts2\t2\nd\ts\t4\n',
]


@pytest.mark.parametrize("text", UNQUOTED)
def test_rows_that_quotes_have_swallowed_are_no_row(text: bytes, tmp_path: Path) -> None:
    """TSV often has no quoting: read with it, rows from an opening quote to a closing one become one."""
    path = tmp_path / "train.tsv"
    path.write_bytes(text)
    with pytest.raises(
        DataError, match=r"train\.tsv:2: .*quoting=none.*lines 2 to \d are one record"
    ):
        read(path, "fail")
    assert [row.id for row in read(path) if not row.fault][-1] == "4"
    rows = read(path, "fail", quoting="none")
    assert len(rows) == len(text.splitlines()) - 1
    assert any('"Hello there' in row.document for row in rows)


@pytest.mark.parametrize(
    "columns",
    [("id", "document", "summary"), ("document", "summary", "id"), ("summary", "document")],
)
@pytest.mark.parametrize("quoting", [None, "csv"])
def test_texts_of_several_lines_are_one_row_of_tsv(
    columns: tuple[str, ...], quoting: str | None, tmp_path: Path
) -> None:
    """As pandas and the csv module write them, wherever the column stands."""
    rows = [{"id": "1", "document": 'One "line"\n\nand\nothers', "summary": "a\nb"}] * 2
    path = tmp_path / "train.tsv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", extrasaction="ignore")
        writer.writeheader()
        writer.writerow(rows[0])
    (row,) = read(path, "fail", quoting=quoting)
    assert (row.document, row.summary) == (rows[0]["document"], rows[0]["summary"])


def test_tabs_in_quotes_may_be_said_to_be_right(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_bytes(b'document\tsummary\n"a\tb\nc"\ts\n')
    with pytest.raises(DataError, match=r"looks like several rows.*quoting=csv"):
        read(path, "fail")
    assert [row.document for row in read(path, "fail", quoting="csv")] == ["a\tb\nc"]


def test_a_quote_within_text_says_how_to_read_without_quoting(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_bytes(b'id\tdocument\tsummary\n1\t"Hello there" he said\ts1\n')
    with pytest.raises(DataError, match=r"not valid CSV.*fetch\.dataset\.quoting=none"):
        read(path, "fail")
    (row,) = read(path, "fail", quoting="none")
    assert row.document == '"Hello there" he said'


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"document,summary\n\nd,s\n\n")
    (tmp_path / "a.jsonl").write_bytes(b"\n" + good("a") + b"  \n")
    assert [row.origin for row in read(tmp_path / "a.csv")] == ["a.csv:3"]
    assert [row.origin for row in read(tmp_path / "a.jsonl")] == ["a.jsonl:2"]


@pytest.mark.parametrize("header", [b"caf\xe9,summary\n", b"document,summary,document\n"])
def test_a_bad_header_is_always_an_error(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(header + b"d,s,x\n")
    with pytest.raises(DataError, match="header"):
        read(path)


def test_types_that_differ_within_parquet(tmp_path: Path) -> None:
    """One column of another type, a null, text that is not UTF-8: Parquet itself checks none of it."""
    texts = pa.array([b"d a", b"caf\xe9", None, b"a\0b", b"d e"], pa.binary())
    table = pa.table(
        {"id": [1, 2, 3, 4, 5], "document": texts.view(pa.string()), "summary": ["s"] * 5}
    )
    path = tmp_path / "train.parquet"
    pq.write_table(table, path)
    with pytest.raises(DataError, match=r"train\.parquet:2: is not UTF-8"):
        read(path, "fail")
    found = read(path)
    assert [row.origin for row in found] == [f"train.parquet:{number}" for number in range(1, 6)]
    assert [row.document for row in found] == ["d a", "", "", "", "d e"]
    assert [bool(row.fault) for row in found] == [False, True, False, True, False]
    pq.write_table(pa.table({"document": [1, 2], "summary": ["s", "s"]}), path)
    assert ["holds int" in row.fault for row in read(path)] == [True, True]


PACKERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    (".gz", gzip.compress),
    (".zst", lambda data: bytes(pa.compress(data, codec="zstd", asbytes=True))),
]


@pytest.mark.parametrize("on_bad_row", ["fail", "record"])
@pytest.mark.parametrize(("suffix", "pack"), PACKERS, ids=[suffix for suffix, _ in PACKERS])
@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_a_file_cut_short_is_always_an_error(
    suffix: str, pack: Callable[[bytes], bytes], kept: float, on_bad_row: OnBadRow, tmp_path: Path
) -> None:
    packed = pack(b"".join(good(str(number)) for number in range(5000)))
    path = tmp_path / f"train.jsonl{suffix}"
    path.write_bytes(packed[: int(len(packed) * kept)])
    with pytest.raises(DataError, match="cut short or damaged") as caught:
        read(path, on_bad_row)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv.zst", "a.source", "a.src.txt.gz"])
def test_a_file_without_a_line_is_always_an_error(name: str, tmp_path: Path) -> None:
    """Packed nothing has bytes; a file whose every line is blank, or a header alone, is one of no rows."""
    path = tmp_path / name
    pack = dict(PACKERS).get(path.suffix, bytes)
    path.write_bytes(pack(b""))
    for other in (tmp_path / "a.target", tmp_path / "a.tgt.txt.gz"):
        other.write_bytes(gzip.compress(b"s\n") if other.suffix == ".gz" else b"s\n")
    with pytest.raises(DataError, match=f"{name}: is empty, without even a line"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=name):
        read(path)
    if path.suffix == ".jsonl":
        path.write_bytes(b"\n")
        assert read(path) == []
    (tmp_path / "h.csv").write_bytes(b"document,summary\n")
    assert read(tmp_path / "h.csv") == []


def test_a_checksum_of_gzip_is_checked(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(good("a") * 100))
    packed[-6] ^= 1
    (tmp_path / "train.jsonl.gz").write_bytes(packed)
    with pytest.raises(DataError, match="damaged"):
        read(tmp_path / "train.jsonl.gz")


def test_several_members_of_gzip_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(good("a")) + gzip.compress(good("b")))
    assert [row.id for row in read(tmp_path / "train.jsonl.gz")] == ["a", "b"]


@pytest.mark.parametrize("names", [("x.source", "x.target"), ("x.src.txt", "x.tgt.txt")])
def test_line_pairs_stay_aligned(names: tuple[str, str], tmp_path: Path) -> None:
    source, target = (tmp_path / name for name in names)
    source.write_bytes(b"\xef\xbb\xbfone\r\n\nbr\xf8ken\nfour\xe2\x80\xa8lines")
    target.write_bytes(b"1\r\n2\n3\n4\n")
    found = read(source)
    assert [(row.document, row.summary) for row in found] == [
        ("one", "1"),
        ("", "2"),
        ("", ""),
        ("four\u2028lines", "4"),
    ]
    assert [row.fault[:12] for row in found] == ["", "", "is not UTF-8", ""]
    target.write_bytes(b"1\n2\n3\n")
    with pytest.raises(DataError, match=rf"{names[0]}:4: has no partner, since {names[1]} ends"):
        read(source)
    target.unlink()
    with pytest.raises(DataError, match="its summaries are missing"):
        read(source)


def test_a_repeated_id_names_both_places_or_gets_one_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_bytes(good("a") + good("b") + good("a#2"))
    (tmp_path / "2.jsonl").write_bytes(good("c") + good("a") + good("a") + good("train-0000001"))
    (tmp_path / "3.jsonl").write_bytes(good("a", id=None, document="d") + good("train-0000007"))
    path = tmp_path / "*.jsonl"
    with pytest.raises(DataError, match=r"2\.jsonl:2: id 'a' was given before, in 1\.jsonl:1"):
        read(path, "fail")
    found = read(path)
    # The row without an id gets train-0000007, which the last one gives: that is a repetition too.
    assert [row.id for row in found] == [
        *("a", "b", "a#2", "c", "a#3", "a#4", "train-0000001", "train-0000007"),
        "train-0000007#2",
    ]
    assert ["given before" in row.fault for row in found] == [
        *[False] * 4,
        *[True] * 2,
        *[False] * 2,
        True,
    ]


def test_ids_with_equal_hashes_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only hashes are kept; with a poor one every id looks like another, and none is taken for it."""
    for module in (seen_module, rows_module):
        monkeypatch.setattr(module, "hash_of", lambda id_: len(id_) % 3)
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"".join(good(f"{number:02d}") for number in range(50)))
    assert [row.fault for row in read(path, "fail")] == [""] * 50
    path.write_bytes(path.read_bytes() + good("07"))
    with pytest.raises(DataError, match=r"'07' was given before, in train\.jsonl:8"):
        read(path, "fail")


def test_seen_is_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_module, "_FEW", 50)
    seen, known = seen_module.Seen(), set()
    for number in range(5000):
        id_ = str(number * number % 1999)
        assert seen.add(id_) == (id_ not in known)
        known.add(id_)


def test_an_id_that_was_seen_takes_a_few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 of each, and a set of the newest ones; ids kept whole would take over 100."""
    monkeypatch.setattr(seen_module, "_FEW", 1000)
    tracemalloc.start()
    try:
        seen, count = seen_module.Seen(), 20_000
        assert all(seen.add(f"an id of some length {number:09d}") for number in range(count))
        current, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert current < 8 * count + (1 << 19)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".jsonl.gz"])
def test_a_huge_line_takes_little_memory(suffix: str, tmp_path: Path) -> None:
    """A line of 50 MB with a limit of 1 MiB: a few buffers, not the line."""
    line = b'{"document": "' + b"x" * 50_000_000 + b'", "summary": "s"}\n'
    text = b"document,summary\n" + line if suffix == ".csv" else line
    path = tmp_path / f"train{suffix}"
    path.write_bytes(gzip.compress(text, 1) if suffix.endswith(".gz") else text)
    tracemalloc.start()
    try:
        (row,) = read(path, max_line_bytes=1 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "longer than 1048576 bytes" in row.fault
    assert peak < 8 << 20
