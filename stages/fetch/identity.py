"""What identifies fetched material: contents of local files, revisions of remote ones; never paths."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import JSON
from pipeline.errors import DataError
from pipeline.stage import HashFile
from stages.fetch.catalogue import catalogue_identity, choose, files_in
from stages.fetch.config import (
    CatalogueDataset,
    DemoDataset,
    FetchConfig,
    LocalDataset,
    LocalModel,
    ScratchModel,
)
from stages.fetch.formats import format_of, with_partners
from stages.fetch.layout import Files, local_files
from stages.fetch.refusals import input_errors


def bpe_files(folder: Path) -> tuple[Path, Path]:
    """Return encoder.json and vocab.bpe of a GPT-2 BPE folder.

    Raises:
        DataError: If one of them is missing.
    """
    files = (folder / "encoder.json", folder / "vocab.bpe")
    for file in files:
        if not file.is_file():
            raise DataError(f"fetch.model.bpe: {file} is missing")
    return files


def model_files(folder: Path) -> list[Path]:
    """Return the files of a Hugging Face model directory.

    Raises:
        DataError: If it holds no config.json or no safetensors weights.
    """
    for pattern in ("config.json", "*.safetensors"):
        if not list(folder.glob(pattern)):
            raise DataError(
                f"fetch.model.path: {folder} has no {pattern}; expected a model directory"
            )
    return sorted(path for path in folder.iterdir() if path.is_file())


def identity(config: FetchConfig, seed: int, hash_file: HashFile) -> JSON:
    """Return what is hashed for fetch: the settings, paths replaced by contents, the seed if used."""

    def hashed(file: Path) -> str:
        with input_errors(file):
            return hash_file(file)

    dataset, model = _dataset_identity(config, hashed), config.model.identity()
    if isinstance(config.model, LocalModel):
        files_here = model_files(config.model.path)
        model["path"] = {path.name: hashed(path) for path in files_here}
    if isinstance(config.model, ScratchModel) and config.model.bpe is not None:
        model["bpe"] = {path.name: hashed(path) for path in bpe_files(config.model.bpe)}
    is_random = isinstance(config.dataset, DemoDataset) or isinstance(config.model, ScratchModel)
    return {"dataset": dataset, "model": model, **({"seed": seed} if is_random else {})}


def _dataset_identity(config: FetchConfig, hash_file: HashFile) -> JSON:
    dataset = config.dataset
    if isinstance(dataset, LocalDataset):
        files = local_files(dataset)
        return {**dataset.identity(), "files": None, "path": _contents(files, hash_file)}
    if not isinstance(dataset, CatalogueDataset):
        return dataset.identity()
    choice = choose(dataset)
    payload = catalogue_identity(dataset, choice)
    if dataset.path is not None:
        files = files_in(dataset.path, dataset, choice.entry).files
        payload["path"] = _contents(files, hash_file)
    if dataset.split_ids is not None:
        if not dataset.split_ids.is_file():
            raise DataError(f"fetch.dataset.split_ids: {dataset.split_ids} is not a file")
        payload["split_ids"] = hash_file(dataset.split_ids)
    return payload


def _contents(files: Files, hash_file: HashFile) -> JSON:
    """Return checksums by split, place and format (`train.2.jsonl.gz`): names of files say nothing else."""
    contents = {}
    for split, paths in files.items():
        for number, path in enumerate(paths, 1):
            stem = split if len(paths) == 1 else f"{split}.{number}"
            found = format_of(path)
            for file in with_partners([path]):
                suffix = file.name.removeprefix(found.stem) if found else file.suffix
                contents[stem + suffix] = hash_file(file)
    return contents
