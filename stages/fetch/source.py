"""Where rows come from: each kind of dataset as one function from a split to its rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.stage import Metrics, StageContext
from stages.fetch.catalogue import Choice, choose, expected_rows, files_in
from stages.fetch.config import (
    CatalogueDataset,
    Columns,
    Dataset,
    DemoDataset,
    HubDataset,
    LocalDataset,
    Reading,
)
from stages.fetch.cut import Assign, by_document, by_ids, by_order
from stages.fetch.demo_corpus import demo_rows
from stages.fetch.hub import commit_of, hub_files, hub_rows
from stages.fetch.layout import ALL, local_files
from stages.fetch.local_rows import found_rows
from stages.fetch.notes import noted
from stages.fetch.rows import checked_rows
from stages.schema import RawRow

Rows = Callable[[str], Iterator[RawRow]]
"""Reads the rows of a split from their start."""


class Source(NamedTuple):
    """A dataset, ready to be read."""

    rows: Rows
    facts: Metrics
    """What set it is, and how it is cut: figures compare only where both are the same."""
    expected: dict[str, int]
    """Rows of a split, where they are known."""
    check_rows: bool
    """Whether another number is an error."""


def source_of(dataset: Dataset, context: StageContext) -> Source:
    """Prepare a dataset; files are found, and downloaded, when the first row is asked for."""
    match dataset:
        case DemoDataset():
            return _plain(_demo(dataset, context.seed), "demo", "as made")
        case LocalDataset():
            derive = dataset.derive
            choice = (
                f"derived by document: valid {derive.valid:g}, test {derive.test:g}, seed {derive.seed}"
                if derive
                else "as given"
            )
            return _plain(_local(dataset, context), "local", choice)
        case HubDataset():
            name = " ".join(part for part in (dataset.path, dataset.name) if part)
            return _plain(_hub(dataset, context), name, "as given")
        case CatalogueDataset():
            return _from_catalogue(dataset, context)


def _plain(rows: Rows, name: str, split_choice: str) -> Source:
    return Source(rows, {"dataset": name, "split_choice": split_choice}, {}, check_rows=False)


def _demo(dataset: DemoDataset, seed: int) -> Rows:
    def rows(split: str) -> Iterator[RawRow]:
        count = getattr(dataset, f"{split}_rows")
        for number, row in enumerate(demo_rows(split, count, seed)):
            yield RawRow(row["id"], row["document"], row["summary"], f"demo {split}:{number}")

    return rows


def _local(dataset: LocalDataset, context: StageContext) -> Rows:
    files = local_files(dataset)
    derive = dataset.derive
    if derive is None:
        return lambda split: _read(files[split], split, dataset.columns, dataset)
    every = functools.partial(_read, files[ALL], "row", dataset.columns, dataset)
    return _cut(every, lambda: by_document(derive), context)


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
        files, columns = found()
        return _read(files[split], split, columns, dataset)

    def every() -> Iterator[RawRow]:
        files, columns = found()
        return _read(files[ALL], "row", columns, dataset)

    def is_member(row: RawRow) -> bool:
        return not entry.both_texts or bool(row.document.strip() and row.summary.strip())

    def assign() -> Assign:
        assert cut is not None, "only a set of one source is cut"
        if dataset.split_ids is not None:
            return by_ids(dataset.split_ids, is_member)
        return by_order(every(), cut, is_member)

    expected = expected_rows(dataset, choice)
    facts: Metrics = {
        "dataset": dataset.name,
        "split_choice": dataset.split or "published",
        "licence": entry.licence,
        "citation": entry.citation,
        "rouge_l": entry.evaluation.rouge_l,
    }
    return Source(
        _cut(every, assign, context) if cut else published,
        facts,
        dict(expected) if expected else {},
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


def _read(files: Sequence[Path], prefix: str, columns: Columns, how: Reading) -> Iterator[RawRow]:
    return checked_rows(
        lambda: found_rows(files, columns, how.max_line_bytes), prefix, columns, how.on_bad_row
    )


def _cut(
    every: Callable[[], Iterator[RawRow]], find: Callable[[], Assign], context: StageContext
) -> Rows:
    """Read one source once for each split, which takes its rows; those that none takes are counted."""
    assign = functools.cache(find)

    def rows(split: str) -> Iterator[RawRow]:
        left_out = 0
        for number, row in enumerate(every()):
            part = assign()(number, row)
            left_out += part is None
            if part == split:
                yield row
        noted(context, "rows_left_out", lambda: left_out)

    return rows
