"""Where rows come from: each kind of dataset as one function from a split to its rows."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.stage import Metrics, StageContext
from stages.fetch.catalogue import Choice, choose, files_in
from stages.fetch.config import (
    CatalogueDataset,
    Columns,
    Dataset,
    DemoDataset,
    FileReading,
    HubDataset,
    LocalDataset,
)
from stages.fetch.cut import Assign, by_document, by_ids, by_order, listed_ids
from stages.fetch.demo_corpus import demo_rows
from stages.fetch.hub import commit_of, hub_files, hub_rows
from stages.fetch.layout import ALL, local_files, passed_over
from stages.fetch.left_out import left_out_rows
from stages.fetch.local_rows import found_rows
from stages.fetch.notes import noted
from stages.fetch.rows import checked_rows, printable
from stages.schema import RawRow

_logger = logging.getLogger(__name__)
Rows = Callable[[str], Iterator[RawRow]]
"""Reads the rows of a split from their start."""


class Source(NamedTuple):
    """A dataset, ready to be read."""

    rows: Rows
    facts: Metrics
    """What set it is, and how it is cut: figures compare only where both are the same."""
    expected: Callable[[], dict[str, int]]
    """Rows of a split, where they are known; asked for once its files are there."""
    check_rows: bool
    """Whether another number is an error."""


def source_of(dataset: Dataset, context: StageContext) -> Source:
    """Prepare a dataset; files are found, and downloaded, when the first row is asked for."""
    match dataset:
        case DemoDataset():
            return _plain(_demo(dataset, context.seed), "demo", "as made")
        case LocalDataset():
            return _local(dataset, context)
        case HubDataset():
            name = " ".join(part for part in (dataset.path, dataset.name) if part)
            return _plain(_hub(dataset, context), name, "as given")
        case CatalogueDataset():
            return _from_catalogue(dataset, context)


def _plain(rows: Rows, name: str, split_choice: str) -> Source:
    return Source(rows, {"dataset": name, "split_choice": split_choice}, dict, check_rows=False)


def _demo(dataset: DemoDataset, seed: int) -> Rows:
    def rows(split: str) -> Iterator[RawRow]:
        count = getattr(dataset, f"{split}_rows")
        for number, row in enumerate(demo_rows(split, count, seed), 1):
            yield RawRow(row["id"], row["document"], row["summary"], f"demo {split}:{number}")

    return rows


def _local(dataset: LocalDataset, context: StageContext) -> Source:
    files, derive = local_files(dataset), dataset.derive

    def read(part: str, prefix: str) -> Iterator[RawRow]:
        return _read(files[part], prefix, dataset.columns, dataset)

    if derive is None:
        source = _plain(lambda split: read(split, split), "local", "as given")
    else:
        choice = (
            f"derived by document: valid {derive.valid:g}, test {derive.test:g}, seed {derive.seed}"
        )
        every, find = lambda: read(ALL, "row"), lambda: by_document(derive)
        source = _plain(_cut(every, find, context, lambda _: ""), "local", choice)
    return source._replace(facts=source.facts | _passed_over(dataset))


def _passed_over(dataset: LocalDataset) -> Metrics:
    """Name what lies beside the files and is not read, in the log and in the manifest."""
    names = [printable(os.path.relpath(path, dataset.path)) for path in passed_over(dataset)]
    if not names:
        return {}
    told = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if names[10:] else "")
    _logger.warning("%s: not read: %s", printable(str(dataset.path)), told)
    return {"files_not_read": told}


def _hub(dataset: HubDataset, context: StageContext) -> Rows:
    def rows(split: str) -> Iterator[RawRow]:
        commit = str(
            noted(
                context,
                "dataset_commit",
                lambda: commit_of("dataset", dataset.path, dataset.revision),
            )
        )
        cache = context.work / "download"
        return checked_rows(
            lambda: hub_rows(dataset, split, commit, cache),
            split,
            dataset.columns,
            dataset.on_bad_row,
        )

    return rows


def _from_catalogue(dataset: CatalogueDataset, context: StageContext) -> Source:
    choice = choose(dataset)
    entry, cut = choice
    found = functools.cache(lambda: files_in(_folder(dataset, choice, context), dataset, entry))

    def published(split: str) -> Iterator[RawRow]:
        return _read(found().files[split], split, found().columns, dataset)

    def every() -> Iterator[RawRow]:
        return _read(found().files[ALL], "row", found().columns, dataset)

    def is_member(row: RawRow) -> bool:
        return not entry.both_texts or bool(row.document.strip() and row.summary.strip())

    def assign() -> Assign:
        assert cut is not None, "only a set of one source is cut"
        if dataset.split_ids is None:
            return by_order(every(), cut, is_member)
        listed = listed_ids(dataset.split_ids)
        _tell_absent(listed, every(), context)
        return by_ids(listed, is_member)

    def why_left_out(row: RawRow) -> str:
        return "its id is in no list" if is_member(row) else "has no document or no summary"

    def expected() -> dict[str, int]:
        if cut:
            return dict(cut.rows or ())
        # Noted, since a restart with all rows must not ask for the files: they may have to be brought anew.
        layout = entry.layouts[int(noted(context, "layout", lambda: found().layout))]
        return dict(layout.rows or entry.rows or ())

    facts: Metrics = {
        "dataset": dataset.name,
        "split_choice": dataset.split or "published",
        "licence": entry.licence,
        "citation": entry.citation,
        "rouge_l": entry.evaluation.rouge_l,
    }
    return Source(
        _cut(every, assign, context, why_left_out) if cut else published,
        facts,
        expected,
        dataset.check_rows,
    )


def _folder(dataset: CatalogueDataset, choice: Choice, context: StageContext) -> Path:
    """Return where the files of a set are; those of the Hub are downloaded first."""
    if dataset.path is not None:
        return dataset.path
    hub = choice.entry.hub
    assert hub is not None, "choose() has seen to it"
    help_ = (
        f"Without the Hub: {choice.entry.get} Then give the folder with --set fetch.dataset.path=DIR. On a "
        "cluster run `sumpipe run ... --only fetch` on a node that reaches the Hub."
    )
    commit = noted(
        context,
        "dataset_commit",
        lambda: commit_of("dataset", hub.path, hub.revision, help_),
    )
    folder = context.work / "download" / "files"
    hub_files(hub, str(commit), folder, help_)
    return folder


def _read(
    files: Sequence[Path], prefix: str, columns: Columns, how: FileReading
) -> Iterator[RawRow]:
    return checked_rows(lambda: found_rows(files, columns, how), prefix, columns, how.on_bad_row)


def _tell_absent(listed: Iterable[str], rows: Iterable[RawRow], context: StageContext) -> None:
    """Say which listed ids the source has not, and count them."""
    absent = sorted(set(listed).difference(row.id for row in rows))
    noted(context, "listed_ids_not_found", lambda: len(absent))
    if absent:
        told = ", ".join(absent[:5]) + (", ..." if absent[5:] else "")
        _logger.warning(
            "fetch.dataset.split_ids: %d ids are not in the source: %s", len(absent), told
        )


def _cut(
    every: Callable[[], Iterator[RawRow]],
    find: Callable[[], Assign],
    context: StageContext,
    why_left_out: Callable[[RawRow], str],
) -> Rows:
    """Read one source once for each split, which takes its rows; those that none takes are noted."""
    assign = functools.cache(find)

    def rows(split: str) -> Iterator[RawRow]:
        left_out = 0
        with left_out_rows(context) as keep:
            for number, row in enumerate(every()):
                part = assign()(number, row)
                if part is None:
                    left_out += 1
                    keep(row, why_left_out(row))
                elif part == split:
                    yield row
        noted(context, "rows_left_out", lambda: left_out)

    return rows
