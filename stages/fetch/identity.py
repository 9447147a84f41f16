"""What identifies fetched material: contents of local files, revisions of remote ones; never paths."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import JSON
from pipeline.errors import DataError
from pipeline.stage import HashFile
from stages.fetch.config import DemoDataset, FetchConfig, LocalDataset, LocalModel, ScratchModel
from stages.schema import SPLITS

SUFFIXES = (".jsonl", ".csv", ".parquet")


def split_files(folder: Path) -> dict[str, Path]:
    """Return the one file of each split in a dataset folder.

    Raises:
        DataError: If the folder or a split is missing, or a split has two files.
    """
    if not folder.is_dir():
        raise DataError(
            f"fetch.dataset.path: {folder} is not a folder; give one with train, valid and test files "
            f"({', '.join(SUFFIXES)})"
        )
    files = {}
    for split in SPLITS:
        found = [folder / f"{split}{suffix}" for suffix in SUFFIXES]
        found = [path for path in found if path.is_file()]
        if len(found) != 1:
            what = f"{len(found)} files" if found else "no file"
            raise DataError(
                f"{folder}: has {what} for the {split} split; expected one of "
                f"{', '.join(split + suffix for suffix in SUFFIXES)}"
            )
        files[split] = found[0]
    return files


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
    dataset, model = config.dataset.identity(), config.model.identity()
    if isinstance(config.dataset, LocalDataset):
        files = split_files(config.dataset.path)
        dataset["path"] = {path.name: hash_file(path) for path in files.values()}
    if isinstance(config.model, LocalModel):
        files_here = model_files(config.model.path)
        model["path"] = {path.name: hash_file(path) for path in files_here}
    if isinstance(config.model, ScratchModel) and config.model.bpe is not None:
        model["bpe"] = {path.name: hash_file(path) for path in bpe_files(config.model.bpe)}
    is_random = isinstance(config.dataset, DemoDataset) or isinstance(config.model, ScratchModel)
    return {"dataset": dataset, "model": model, **({"seed": seed} if is_random else {})}
