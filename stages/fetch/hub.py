"""Fetch from the Hugging Face Hub, at a pinned revision; the only network access of the pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from pipeline.errors import DataError
from stages.fetch.config import HubDataset, HubModel
from stages.schema import RawRow

_MODEL_FILES = ("*.json", "*.safetensors", "merges.txt", "vocab.txt", "*.model")
_NETWORK_HELP = (
    "Check the name, the revision and the network; on a cluster run `sumpipe run ... --only fetch` on a "
    "node that reaches the Hub, or use source: local."
)


def hub_rows(dataset: HubDataset, split: str, cache: Path) -> Iterator[RawRow]:
    """Read one split of a Hub dataset.

    Args:
        dataset: Repository, revision and column names.
        split: train, valid or test.
        cache: Where the download is kept until the stage is done.

    Raises:
        DataError: If it cannot be reached or has no such configuration, split or column.
    """
    name: str = getattr(dataset.splits, split)
    try:
        rows = datasets.load_dataset(
            dataset.path,
            dataset.name,
            split=name,
            revision=dataset.revision,
            cache_dir=str(cache),
        )
    except (OSError, ValueError, RuntimeError) as error:  # what datasets raises for all of these
        raise DataError(
            f"dataset {dataset.path}, split {name}: {error}. {_NETWORK_HELP}"
        ) from error
    columns = dataset.columns
    missing = [c for c in (columns.document, columns.summary) if c not in rows.column_names]
    if missing:
        raise DataError(
            f"dataset {dataset.path}: has no column {missing[0]!r}; it has "
            f"{', '.join(rows.column_names)}. Map yours with --set fetch.dataset.columns..."
        )
    for number, values in enumerate(rows):
        yield _row(values, columns.document, columns.summary, columns.id, split, number)


def _row(
    values: dict[str, Any], document: str, summary: str, id_column: str, split: str, number: int
) -> RawRow:
    given = values.get(id_column)
    made = f"{split}-{number:07d}" if given is None else str(given)
    return RawRow(made, values[document] or "", values[summary] or "", f"{split}:{number}")


def hub_model(model: HubModel, target: Path) -> str:
    """Download a model and its tokenizer into `target`; returns the commit it came from.

    Interrupted downloads continue; files are checked by the Hub's checksums.

    Raises:
        DataError: If it cannot be reached.
    """
    try:
        folder = snapshot_download(
            model.path,
            revision=model.revision,
            local_dir=target,
            allow_patterns=list(_MODEL_FILES),
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise DataError(f"model {model.path}: {error}. {_NETWORK_HELP}") from error
    if not list(Path(folder).glob("*.safetensors")):
        raise DataError(f"model {model.path} at {model.revision}: has no safetensors weights")
    return model.revision
