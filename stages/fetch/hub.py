"""Fetch from the Hugging Face Hub, at a commit; the only network access of the pipeline."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import datasets
from huggingface_hub import HfApi, snapshot_download

from pipeline.errors import DataError
from pipeline.files import sha256_file
from stages.fetch.catalogue import HubFiles
from stages.fetch.config import HubDataset, HubModel
from stages.fetch.local_rows import Found
from stages.hub_calls import tried

_MODEL_FILES = ("*.json", "*.safetensors", "merges.txt", "vocab.txt", "*.model")
_COMMIT = re.compile("[0-9a-f]{40}")
_NETWORK_HELP = (
    "Check the name, the revision and the network; on a cluster run `sumpipe run ... --only fetch` on a "
    "node that reaches the Hub, or use source: local."
)

Kind = Literal["dataset", "model"]
_logger = logging.getLogger(__name__)


def commit_of(kind: Kind, repository: str, revision: str, help_: str = _NETWORK_HELP) -> str:
    """Return the commit that a revision stands for; a branch or tag is warned of.

    Raises:
        DataError: If the Hub does not know it, or cannot be reached; ends with `help_`.
    """

    def ask() -> str:
        found = HfApi().repo_info(repository, repo_type=kind, revision=revision, timeout=10)
        return found.sha or revision

    commit = tried(f"{kind} {repository} at {revision}", ask, help_)
    if not _COMMIT.fullmatch(revision):
        _logger.warning(
            "%s %s: %s is not a commit and may come to mean another one; taken is %s. Write that into the "
            "recipe to have the same again",
            *(kind, repository, revision, commit),
        )
    return commit


def hub_rows(dataset: HubDataset, split: str, commit: str, cache: Path) -> Iterator[Found]:
    """Read one split of a Hub dataset, whose files are found by `datasets`; it compares their sizes alone.

    Args:
        dataset: Repository and names of the splits.
        split: train, valid or test.
        commit: What is read of it.
        cache: Where the download is kept until the stage is done.

    Raises:
        DataError: If it cannot be reached or has no such configuration or split.
    """
    name: str = getattr(dataset.splits, split)

    def load() -> datasets.Dataset:
        return datasets.load_dataset(
            dataset.path, dataset.name, split=name, revision=commit, cache_dir=str(cache)
        )

    rows = tried(f"dataset {dataset.path}, split {name}", load, _NETWORK_HELP)
    for number, values in enumerate(rows, 1):
        yield Found(dataset.path, f"{split}:{number}", values)


def hub_files(hub: HubFiles, commit: str, target: Path, help_: str) -> None:
    """Download files of a dataset into `target`; those that are there whole stay.

    Interrupted downloads continue; large files are compared with the Hub's checksums, all those that the
    catalogue has one for with that.

    Args:
        hub: Repository and files.
        commit: What is read of it.
        target: A folder of ours.
        help_: What to do where the Hub cannot be had.

    Raises:
        DataError: If it cannot be reached, has not the files, or has others.
    """
    what = f"dataset {hub.path} at {commit}"
    patterns = list(hub.files)
    _download("dataset", hub.path, commit, target, patterns, help_)
    missing = [name for name in (*patterns, *hub.sha256) if not list(target.glob(name))]
    if missing:
        raise DataError(f"{what}: has no file {' or '.join(missing)}. {help_}")
    _check(target, hub.sha256, what)
    if hub.unzip:
        for path in sorted(target.rglob("*.zip")):
            _unzip(path, target)


def _download(
    kind: Kind, repository: str, commit: str, target: Path, patterns: list[str], help_: str
) -> None:
    """Bring the files, and compare those that the Hub has a checksum of: its client compares sizes alone."""
    what = f"{kind} {repository} at {commit}"

    def bring() -> dict[str, str]:
        snapshot_download(
            repository,
            repo_type=kind,
            revision=commit,
            local_dir=target,
            allow_patterns=patterns,
        )
        ask = HfApi().dataset_info if kind == "dataset" else HfApi().model_info
        info = ask(repository, revision=commit, timeout=10, files_metadata=True)
        return {file.rfilename: file.lfs.sha256 for file in info.siblings or () if file.lfs}

    sums = tried(what, bring, help_)
    here = {name: sum_ for name, sum_ in sums.items() if (target / name).is_file()}
    _check(target, here, what)


def _check(folder: Path, sums: Mapping[str, str], what: str) -> None:
    for name, expected in sums.items():
        found = sha256_file(folder / name)
        if found != expected:
            (folder / name).unlink()
            raise DataError(
                f"{what}: sha256 of {name} is {found[:12]}, {expected[:12]} is expected; the file was "
                "removed: run the same command again, and if it stays so, the file was replaced on the Hub"
            )


def _unzip(path: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(target)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: is not a whole .zip file ({error})") from error


def hub_model(model: HubModel, commit: str, target: Path) -> None:
    """Download a model and its tokenizer into `target`.

    Interrupted downloads continue; large files are compared with the Hub's checksums.

    Raises:
        DataError: If it cannot be reached, has no safetensors weights, or a file came damaged.
    """
    _download("model", model.path, commit, target, list(_MODEL_FILES), _NETWORK_HELP)
    if not list(target.glob("*.safetensors")):
        raise DataError(f"model {model.path} at {commit}: has no safetensors weights")
