"""The formats of dataset files, told from their names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["jsonl", "csv", "tsv", "parquet", "pairs"]

_KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".source": "pairs",
    ".src.txt": "pairs",
}
_CODECS = {".gz": "gzip", ".zst": "zstd"}
_OTHER_CODECS = (".bz2", ".xz", ".lzma", ".lz4", ".br", ".zip", ".7z", ".gzip", ".zstd")
_PARTNERS = {".source": ".target", ".src.txt": ".tgt.txt"}

KNOWN = f"{', '.join(_KINDS)}, all but .parquet also with {' or '.join(_CODECS)}"
"""For messages."""


class Format(NamedTuple):
    """What a file's name says."""

    stem: str
    """The name without its suffixes."""
    suffix: str
    """The suffixes, such as `.jsonl.gz`."""
    kind: Kind
    codec: str | None
    """Compression by Arrow's name; None for a plain file."""


def format_of(path: Path) -> Format | None:
    """Return what a file's name says, None for an unknown one; the second file of a pair is unknown."""
    codec = _CODECS.get(path.suffix)
    name = path.name.removesuffix(path.suffix) if codec else path.name
    for suffix, kind in _KINDS.items():
        if name.endswith(suffix) and name != suffix and not (codec and kind == "parquet"):
            whole = suffix + (path.suffix if codec else "")
            return Format(name.removesuffix(suffix), whole, kind, codec)
    return None


def is_nearly_known(path: Path) -> bool:
    """Whether a file's name is of a known format but for upper case or how it is compressed."""
    lower = path.with_name(path.name.lower())
    packed = lower.suffix in (*_CODECS, *_OTHER_CODECS)
    bare = lower.with_name(lower.name.removesuffix(lower.suffix)) if packed else lower
    return format_of(path) is None and format_of(bare) is not None


def partner(path: Path) -> Path | None:
    """Return the file with the summaries of a line pair's documents; None for other formats."""
    found = format_of(path)
    if found is None or found.kind != "pairs":
        return None
    suffix = found.suffix
    for own, other in _PARTNERS.items():
        suffix = suffix.replace(own, other)
    return path.with_name(found.stem + suffix)


def with_partners(paths: Iterable[Path]) -> list[Path]:
    """Return the files and, behind each, its partner."""
    return [file for path in paths for file in (path, partner(path)) if file is not None]
