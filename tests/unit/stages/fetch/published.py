"""Each set in its exact published layout, in small: what tests of the catalogue read."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.schema import SPLITS

SIZES = {"train": 6, "valid": 3, "test": 2}
Texts = dict[str, list[tuple[str, str]]]


def texts() -> Texts:
    return {
        split: [
            (f"{split} text {number}\n.", f"short {number} .\nmore .") for number in range(count)
        ]
        for split, count in SIZES.items()
    }


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def cnn_dailymail(folder: Path, rows: Texts) -> None:
    """abisee/cnn_dailymail at 96df5e6: a folder a version, training in three files."""
    for split, name in zip(SPLITS, ("train", "validation", "test"), strict=True):
        table = [
            {"article": document, "highlights": summary, "id": f"{split}{number:040x}"}
            for number, (document, summary) in enumerate(rows[split])
        ]
        parts = 3 if split == "train" else 1
        for part in range(parts):
            size = len(table) // parts
            end = f"{part:05d}-of-{parts:05d}.parquet"
            parquet(folder / "3.0.0" / f"{name}-{end}", table[part * size : (part + 1) * size])
    parquet(folder / "1.0.0" / "train-00000-of-00001.parquet", [{"article": "old"}])


def gigaword(folder: Path, rows: Texts) -> None:
    """UniLM's ggw_data: org_data beside data cut for BERT."""
    for split, name in zip(SPLITS, ("train", "dev", "test"), strict=True):
        for column, end in enumerate(("src", "tgt")):
            lines = [pair[column].replace("\n", " ") + "\n" for pair in rows[split]]
            for place in ("org_data", "unilm_tokenized"):
                path = folder / "ggw_data" / place / f"{name}.{end}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(lines), encoding="utf-8")


def xsum(folder: Path, rows: Texts) -> None:
    for split, name in zip(SPLITS, ("train", "validation", "test"), strict=True):
        table = [
            {"document": document, "summary": summary, "id": f"{split}{number}"}
            for number, (document, summary) in enumerate(rows[split])
        ]
        parquet(folder / "default" / f"xsum-{name}.parquet", table)


def samsum(folder: Path, rows: Texts) -> None:
    folder.mkdir(parents=True)
    for split, name in zip(SPLITS, ("train", "validation", "test"), strict=True):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "dialogue", "summary"])
            for number, (document, summary) in enumerate(rows[split]):
                writer.writerow([f"{split}{number}", document.replace("\n", "\r\n"), summary])


def gigaword_parquet(folder: Path, rows: Texts) -> None:
    """Harvard/gigaword, branch refs/convert/parquet: a folder a split, no ids."""
    for split, name in zip(SPLITS, ("train", "validation", "test"), strict=True):
        parts = 2 if split == "train" else 1
        for part in range(parts):
            size = len(rows[split]) // parts
            here = rows[split][part * size : (part + 1) * size]
            table = [{"document": document, "summary": summary} for document, summary in here]
            parquet(folder / "default" / name / f"{part:04d}.parquet", table)


WRITERS: dict[str, Callable[[Path, Texts], None]] = {
    "cnn_dailymail": cnn_dailymail,
    "gigaword": gigaword,
    "gigaword:parquet": gigaword_parquet,
    "xsum": xsum,
    "samsum": samsum,
}
"""By the name of the set, and of the layout where there are several."""


def post(number: int, **changed: Any) -> dict[str, Any]:
    """A post with all keys of the original file (tensorflow/datasets, reddit_tifu.py at 0056b63)."""
    return {
        "title_tokenized": ["tifu"],
        "permalink": f"/r/tifu/{number}",
        "title": "TIFU",
        "url": "https://example.org",
        "num_comments": 1.0,
        "tldr": f"short {number}",
        "created_utc": 1.0,
        "trimmed_title_tokenized": ["tifu"],
        "ups": 3.0,
        "selftext_html": "<p>",
        "score": 3.0,
        "upvote_ratio": 0.9,
        "tldr_tokenized": ["short"],
        "selftext": f"text {number} TL;DR short {number}",
        "trimmed_title": "t",
        "selftext_without_tldr_tokenized": ["text"],
        "id": f"p{number}",
        "selftext_without_tldr": f"text {number}",
    } | changed


POSTS = [post(number, **({"tldr": None} if number % 3 == 1 else {})) for number in range(100)]
POSTS[9]["selftext_without_tldr"] = " \n"
WHOLE = [number for number in range(100) if number % 3 != 1 and number != 9]
"""Posts with a text and a TL;DR: 66."""


def reddit_tifu(folder: Path) -> Path:
    """The original file of Reddit TIFU, as the Hub has it."""
    text = "".join(json.dumps(one) + "\n" for one in POSTS)
    path = folder / "data" / "tifu_all_tokenized_and_filtered.json.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(text.encode()))
    return path


def reddit_tifu_parquet(folder: Path) -> Path:
    """ctr4si/reddit_tifu, branch refs/convert/parquet: two configurations, no ids, of `long` whole posts."""
    columns = ("ups", "num_comments", "upvote_ratio", "score", "title", "tldr")
    for name, numbers in (("long", WHOLE), ("short", range(100))):
        table = [
            {key: POSTS[number][key] for key in columns}
            | {"documents": POSTS[number]["selftext_without_tldr"]}
            for number in numbers
        ]
        for part in range(2):
            here = table[part * len(table) // 2 : (part + 1) * len(table) // 2]
            parquet(folder / name / "train" / f"{part:04d}.parquet", here)
    return folder
