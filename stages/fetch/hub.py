"""Fetch from the Hugging Face Hub, at a pinned revision; the only network access of the pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import datasets
from datasets.exceptions import DatasetsError
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from pipeline.errors import DataError
from stages.fetch.config import HubDataset, HubModel
from stages.fetch.rows import checked_rows
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
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise DataError(
            f"dataset {dataset.path}, split {name}: {error}. {_NETWORK_HELP}"
        ) from error
    found = ((f"{split}:{number}", values) for number, values in enumerate(rows))
    yield from checked_rows(found, dataset.path, split, dataset.columns)


def hub_model(model: HubModel, target: Path) -> None:
    """Download a model and its tokenizer into `target`.

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
