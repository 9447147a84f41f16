"""Which files make up which split."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import DataError
from stages.fetch.config import LocalDataset
from stages.fetch.formats import KNOWN, format_of, is_nearly_known, partner, with_partners
from stages.fetch.refusals import input_errors
from stages.schema import SPLITS

ALL = "all"
"""The one source of a set that is yet to be cut."""
Files = dict[str, list[Path]]
"""The files of each split, in order; or those of ALL."""

_PART = re.compile(r"(.*?)(\d+)-of-(\d+)(?!\d)(?:-[0-9a-f]{8,}(?:-[0-9a-f]+)*)?(.*)")
"""A prefix, the number, how many there are, and what follows but for a checksum, which differs by part."""
_NAMES = {"train": ("train",), "valid": ("valid", "validation", "val", "dev"), "test": ("test",)}


def local_files(dataset: LocalDataset) -> Files:
    """Return the files of a local dataset.

    Raises:
        DataError: If there are none, or it is not clear which.
    """
    if dataset.derive is not None:
        return {ALL: expand(dataset.path.parent, str(dataset.path), "fetch.dataset.path")}
    if dataset.files is None:
        return split_files(dataset.path)
    patterns = {split: getattr(dataset.files, split) for split in SPLITS}
    files = {
        split: expand(dataset.path, pattern, f"fetch.dataset.files.{split}")
        for split, pattern in patterns.items()
    }
    return _disjoint(files, "fetch.dataset.files")


def split_files(folder: Path) -> Files:
    """Return the files of the splits in a folder, found by their names.

    A split is one file (train.jsonl), numbered ones (train-00000-of-00003.parquet) or a folder of parts
    (train/, or train.parquet/ as Spark and Dask write it); `validation`, `val` and `dev` are names of valid.

    Raises:
        DataError: If the folder or a split is missing or cannot be read, a split is there twice, or a file is
            that of two splits.
    """
    with input_errors(folder, "fetch.dataset.path"):
        is_folder = folder.is_dir()
    if not is_folder:
        raise DataError(
            f"fetch.dataset.path: {folder} is not a folder; give one with train, valid and test files "
            f"({KNOWN}), say in fetch.dataset.files where they are, or cut one source with "
            "fetch.dataset.derive"
        )
    return _disjoint({split: _named(folder, split) for split in SPLITS}, "fetch.dataset.path")


def _named(folder: Path, split: str) -> list[Path]:
    field = "fetch.dataset.path"
    with input_errors(folder, field):
        formats = {path: format_of(path) for path in sorted(folder.iterdir())}
    stems = {path: of_path.stem for path, of_path in formats.items() if of_path}
    candidates: list[list[Path]] = []
    for name in _NAMES[split]:
        _refuse_unreadable(
            [path for path in formats if re.match(rf"{name}[-_.]", path.name)], field
        )
        numbered = re.compile(rf"{name}[-_.]\d.*")
        candidates += [[path] for path, stem in stems.items() if stem == name]
        candidates.append([path for path, stem in stems.items() if numbered.fullmatch(stem)])
        if (folder / name).is_dir():
            candidates.append([folder / name])
    found = [paths for paths in candidates if paths]
    if len(found) != 1:
        what = f"{len(found)} files" if found else "no file"
        raise DataError(
            f"{folder}: has {what} for the {split} split; expected one of "
            f"{', '.join(_NAMES[split])} in one of the formats {KNOWN}, or say in fetch.dataset.files "
            "where it is"
        )
    files = [file for path in found[0] for file in expand(folder, path.name, field)]
    _check_parts(files, field)
    return _checked(files)


def expand(folder: Path, name: str, field: str) -> list[Path]:
    """Return the files that the name of a file or folder, or a glob, stands for, in the order of their names.

    Args:
        folder: Where names and globs start that are not absolute.
        name: Of a folder the files of known formats are taken, but hidden ones, such as macOS' `._a.jsonl`,
            and none of folders below: see `passed_over`.
        field: The setting, for messages.

    Raises:
        DataError: If there are none; or one cannot be read, has an unknown or another format, or lacks its
            partner; or, but for the name of one file, if one of numbered parts is not there, or there twice.
    """
    path = folder / name
    with input_errors(path, field):
        if path.is_dir():
            files = [file for file in path.iterdir() if not file.name.startswith(".")]
            _refuse_unreadable(files, field)
            found = [file for file in files if format_of(file) and _is_file(file)]
            if not found:
                raise DataError(f"{field}: {path} has no file of a known format ({KNOWN})")
        elif _is_file(path):
            found = [path]
        else:
            found = _globbed(folder, name, field)
            if not found:
                raise DataError(
                    f"{field}: {path} is neither a file, nor a folder, nor a glob of some"
                )
    unknown = [file for file in found if format_of(file) is None]
    if unknown:
        raise DataError(
            f"{field}: the format of {unknown[0]} is not known from its name; known: {KNOWN}"
        )
    if found != [path]:  # the name of one part says that it alone is meant
        _check_parts(found, field)
    return _checked(sorted(found))


def passed_over(dataset: LocalDataset) -> list[Path]:
    """Return what is not read of the folders that are read whole: files of other formats, folders below."""
    used = set(with_partners(itertools.chain(*local_files(dataset).values())))
    if dataset.files is not None:
        named = {dataset.path / getattr(dataset.files, split) for split in SPLITS}
    else:
        named = {dataset.path}
        named |= {path.parent for path in used} if dataset.derive is None else set()
    folders = {folder for folder in named if folder.is_dir()}
    seen = {path for folder in folders for path in folder.iterdir()}
    return sorted(path for path in seen - used - folders if not path.name.startswith("."))


def _refuse_unreadable(paths: Iterable[Path], field: str) -> None:
    """Refuse files that hold rows by their names, in a form that we do not read: they would be left out."""
    for path in paths:
        if is_nearly_known(path):
            raise DataError(
                f"{field}: {path} is not read, by its name; known: {KNOWN}, all in lower case. Unpack, pack "
                "again or rename it; or take it out"
            )


class _Part(NamedTuple):
    """What the name of a numbered file says."""

    folder: Path
    prefix: str
    total: str
    kind: str
    number: int


def _part(path: Path) -> _Part | None:
    known = format_of(path)
    found = _PART.fullmatch(known.stem) if known else None
    return _Part(path.parent, found[1], found[3], found[4], int(found[2])) if found else None


def _check_parts(paths: Iterable[Path], field: str) -> None:
    """Refuse parts `..-00001-of-00003..` if one of their kind is not in their folder, or one comes twice."""
    parts = [(path, part) for path in sorted(paths) if (part := _part(path))]
    once: dict[_Part, Path] = {}
    for path, part in parts:
        tagless = re.sub(r"^-\w+", "", part.kind)  # under another tag may be the same rows
        one = once.setdefault(part._replace(kind=tagless), path)
        if one != path:
            raise DataError(
                f"{field}: {one} and {path.name}: part {part.number} of {int(part.total)} is there twice, "
                "so that its rows would be; take one out, name the other in fetch.dataset.files, or, if both "
                "are wanted, rename one"
            )
    wanted = {part._replace(number=0) for _, part in parts}
    beside = (path for folder in {part.folder for part in wanted} for path in folder.iterdir())
    present = {part for path in beside if (part := _part(path))}
    for part in sorted(wanted):
        count, tail = int(part.total), f"{part.kind}*" if part.kind else ""
        first = 1 if part._replace(number=count) in present else 0
        numbers = range(first, count + first)
        lost = list(
            itertools.islice((n for n in numbers if part._replace(number=n) not in present), 6)
        )
        if lost:
            told = ", ".join(map(str, lost[:5])) + (" and others" if lost[5:] else "")
            raise DataError(
                f"{field}: {part.folder}: of the {count} parts {part.prefix}*-of-{part.total}*{tail} these "
                f"are not there: {told} (from {first}). Bring them, or give those that are there names "
                f"without -of-{part.total}"
            )


def _is_file(path: Path) -> bool:
    if path.is_symlink() and not path.exists():
        raise DataError(
            f"{path}: is a link to {path.readlink()}, which is not there; bring that, or mend or remove "
            "the link"
        )
    return path.is_file()


def _globbed(folder: Path, pattern: str, field: str) -> list[Path]:
    is_absolute = Path(pattern).is_absolute()
    top, below = (Path("/"), pattern.lstrip("/")) if is_absolute else (folder, pattern)
    try:
        matches = list(top.glob(below))
    except ValueError as error:
        raise DataError(
            f"{field}: {pattern!r} is no glob ({error}); ** stands for folders and for itself between "
            "slashes, as in **/*.jsonl"
        ) from error
    shown = [
        path for path in matches if not _is_hidden(path if is_absolute else path.relative_to(top))
    ]
    named = [path for path in shown if (_is_file(path) if format_of(path) else path.is_file())]
    partners = {partner(path) for path in named}
    return [path for path in named if path not in partners]


def _is_hidden(path: Path) -> bool:
    """Whether a file, or its folder below where the glob started, is hidden: the Hub keeps notes there."""
    parts = path.parts[-1:] if path.is_absolute() else path.parts
    return any(part.startswith(".") and part != ".." for part in parts)


def _checked(paths: list[Path]) -> list[Path]:
    """Refuse files that are probably the same rows twice, and those without their partners."""
    known = [(path, found) for path in paths if (found := format_of(path))]
    first: dict[tuple[Path, str], Path] = {}
    for path, found in known:
        one = first.setdefault((path.parent, found.stem), path)
        other = one if one != path else known[0][0] if found.kind != known[0][1].kind else None
        if other is not None:
            raise DataError(
                f"{other} and {path}: files of one split in two formats may be the same rows twice; take "
                "one out, or write all in one format"
            )
    for path in paths:
        other = partner(path)
        if other is not None and not _is_file(other):
            raise DataError(f"{path}: its summaries are missing; expected {other.name} beside it")
    return paths


def _disjoint(files: Files, field: str) -> Files:
    owner: dict[tuple[int, int], tuple[str, Path]] = {}
    for split, paths in files.items():
        for path in paths:
            info = path.stat()
            other, one = owner.setdefault((info.st_dev, info.st_ino), (split, path))
            if other != split:
                linked = f", as {one}," if one != path else ""
                raise DataError(
                    f"{field}: {path}{linked} belongs to {other} and to {split}; a row may be in one"
                )
    return files


def matching(folder: Path, layouts: Sequence[dict[str, str]], help_: str) -> tuple[int, Files]:
    """Return which of several layouts a folder has, and its files.

    Args:
        folder: A folder; or a file, which is the whole of a layout of one source.
        layouts: Globs by split, or by ALL.
        help_: What to do if it has none.

    Raises:
        DataError: If it has none, or cannot be read.
    """
    field = "fetch.dataset.path"
    with input_errors(folder, field):
        is_file, is_folder = folder.is_file(), folder.is_dir()
        whole = [number for number, layout in enumerate(layouts) if set(layout) == {ALL}]
        if is_file and whole:
            named = (n for n in whole if Path(folder.name).match(Path(layouts[n][ALL]).name))
            number = next(named, whole[0])
            return number, {ALL: expand(folder.parent, folder.name, field)}
        for number, layout in enumerate(layouts):
            if all(_globbed(folder, pattern, field) for pattern in layout.values()):
                found = {split: expand(folder, glob, field) for split, glob in layout.items()}
                return number, _disjoint(found, field)
    what = "has none of the layouts" if is_folder else "is not there, or has not the layout"
    expected = "; or ".join(", ".join(_sorted_globs(layout)) for layout in layouts)
    raise DataError(f"fetch.dataset.path: {folder} {what} of this set: {expected}. {help_}")


def _sorted_globs(layout: dict[str, str]) -> Iterable[str]:
    return (layout[split] for split in (*SPLITS, ALL) if split in layout)
