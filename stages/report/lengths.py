"""How long texts are, in tokens, and what was cut off."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import CorruptArtifact
from stages.schema import Prediction, read_jsonl

Counts = NDArray[np.int64]
ROLES = ("source", "target")


class Lengths(NamedTuple):
    """Tokens of N texts, special tokens included."""

    kept: Counts
    """[N]"""
    lost: Counts
    """[N] cut off."""

    @property
    def whole(self) -> Counts:
        """[N] before anything was cut off."""
        return self.kept + self.lost


class Generated(NamedTuple):
    """What the model wrote."""

    tokens: Counts
    """[N] of each summary, the end of sequence included."""
    stops: Counter[str]
    """Why summaries ended: eos, length, empty, failed."""
    empty: int
    """Summaries without text."""


def encoded_lengths(folder: Path) -> dict[str, Lengths]:
    """Return the lengths of a split that encode has written, by role; the ids themselves are not read.

    Raises:
        CorruptArtifact: If a file cannot be read.
    """
    try:
        files = [
            pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            for path in sorted(folder.glob("*.arrow"))
        ]
        table = pa.concat_tables(files)
        return {
            role: Lengths(
                _array(pc.list_value_length(table[f"{role}_ids"])),
                _array(table[f"{role}_tokens_lost"]),
            )
            for role in ROLES
        }
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise CorruptArtifact(
            f"{folder}: an .arrow file cannot be read ({error}); make it again with --restart-from encode"
        ) from error


def _array(column: pa.ChunkedArray) -> Counts:
    return np.asarray(column.to_numpy(), dtype=np.int64)


def generated_lengths(path: Path) -> Generated:
    """Return the lengths of the predictions."""
    tokens, stops, empty = [], Counter[str](), 0
    for one in read_jsonl(path, Prediction):
        tokens.append(one.tokens)
        stops[one.stop.partition(":")[0]] += 1
        empty += not one.prediction.strip()
    return Generated(np.array(tokens, dtype=np.int64), stops, empty)


class Histogram(NamedTuple):
    """Shares of texts by length."""

    edges: list[float]
    """Bins are [edge, next edge); the last one has whatever is longer too."""
    shares: list[float]
    """One a bin, together 1."""


def edges_for(lengths: list[Counts], bins: int = 32) -> list[float]:
    """Return edges of equal bins, whole tokens wide, from 0 or the shortest to where 99 % of each set end."""
    found = [one for one in lengths if one.size]
    longest = max((float(np.quantile(one, 0.99)) for one in found), default=1.0) + 1
    shortest = min((float(one.min()) for one in found), default=0.0)
    begin = shortest if shortest > longest / 2 else 0.0
    width = max(1, int(np.ceil((longest - begin) / bins)))
    count = int(np.ceil((longest - begin) / width))
    return [begin + width * number for number in range(count + 1)]


def histogram(lengths: Counts, edges: list[float]) -> Histogram:
    """Count lengths into bins."""
    inside = np.minimum(lengths, edges[-1] - 0.5)
    counts, _ = np.histogram(inside, bins=edges)
    return Histogram(edges, (counts / max(lengths.size, 1)).tolist())
