"""What a scored run, or a folder that `sumpipe score --out` wrote, has of its scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.artifact import Artifact, RunDir
from pipeline.config import JSON
from pipeline.errors import ConfigError, CorruptArtifact, DataError
from stages.compare.comparison import ROUGE_TYPES, Part
from stages.names import require_text
from stages.rouge_json import MODEL, read_rouge
from stages.schema import Prediction, read_jsonl

ROUGE = "rouge.json"
SCORES = "scores.parquet"
MEASURES = "measures.parquet"

Columns = dict[str, NDArray[np.float64]]
"""Figures by metric, row by row, NaN where a row has none."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores as they lie on disk."""

    name: str
    """As the user gave it."""
    files: Mapping[str, Path]
    """ROUGE, SCORES and MEASURES."""
    rouge: JSON
    run_dir: RunDir | None
    """None for a bare folder of scores."""


def read_scored(path: Path) -> Scored:
    """Find the scores in a run directory or in a folder of scores.

    Raises:
        ConfigError: If it is neither, or its name is not UTF-8.
        DataError: If the run is not scored yet, or was by another version.
        CorruptArtifact: If a file was altered or is missing.
    """
    require_text(path)
    run_dir = RunDir(path.resolve())
    if run_dir.recipe.is_file():
        artifact = run_dir.artifact("score")
        if artifact is None:
            raise DataError(
                f"{path}: is not scored yet; `sumpipe run RECIPE --run-dir {path} --to score` does it, "
                f"and `sumpipe status {path}` says what is done"
            )
        return _scored(path, _committed(artifact), run_dir)
    if not (path / ROUGE).is_file():
        raise ConfigError(
            f"{path}: is neither a run directory (it has no recipe.yaml) nor a folder that `sumpipe score "
            f"--out` wrote (it has no {ROUGE})"
        )
    return _scored(path, {name: path / name for name in (ROUGE, SCORES, MEASURES)}, None)


def _committed(artifact: Artifact) -> dict[str, Path]:
    missing = {ROUGE, SCORES, MEASURES} - artifact.manifest.files.keys()
    if missing:
        raise DataError(
            f"{artifact.path}: was scored by another version, which wrote no {min(missing)}; score it "
            "again with --restart-from score"
        )
    return {name: artifact.file(name) for name in (ROUGE, SCORES, MEASURES)}


def _scored(path: Path, files: Mapping[str, Path], run_dir: RunDir | None) -> Scored:
    return Scored(str(path), files, read_rouge(files[ROUGE]), run_dir)


def figures_of(scored: Scored, profile: str, system: str, part: Part) -> tuple[list[str], Columns]:
    """Return the ids of the rows, and by metric the figure of each row (NaN for none), ROUGE first.

    Raises:
        CorruptArtifact: If a file cannot be read, or does not have the rows that rouge.json counts.
    """
    of_system = ("system", "=", system)
    columns = {name: f"{name}_{part}" for name in ROUGE_TYPES}
    table = _read(
        scored.files[SCORES], ["id", *columns.values()], [("profile", "=", profile), of_system]
    )
    ids: list[str] = table["id"].to_pylist()
    expected = scored.rouge["rows"]
    if len(ids) != expected or len({*ids}) != expected:
        raise CorruptArtifact(
            f"{scored.files[SCORES]}: has {len(ids)} rows with {len({*ids})} ids of {system} under "
            f"{profile}, where {ROUGE} counts {expected}; score it again"
        )
    found = {name: table[column].to_numpy() for name, column in columns.items()}
    for name, values in found.items():
        if np.isnan(values).any():
            raise CorruptArtifact(f"{scored.files[SCORES]}: has no {name} in some rows of {system}")
    measured = _read(scored.files[MEASURES], None, [of_system])
    if measured.num_rows == 0:  # a system that has no summaries of its own
        return ids, found
    if measured["id"].to_pylist() != ids:
        raise CorruptArtifact(
            f"{scored.files[MEASURES]}: does not have the rows of {SCORES}; score it again"
        )
    names = [field.name for field in measured.schema if pa.types.is_floating(field.type)]
    measures = {name: measured[name].to_numpy() for name in names}
    return ids, found | {name: v for name, v in measures.items() if not np.isnan(v).all()}


def _read(path: Path, columns: list[str] | None, filters: list[tuple[str, str, str]]) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns, filters=filters)
    except FileNotFoundError as error:
        raise CorruptArtifact(f"{path}: is missing; score it again") from error
    except (pa.ArrowException, OSError, KeyError) as error:
        raise CorruptArtifact(f"{path}: cannot be read ({error}); score it again") from error


def predictions_of(scored: Scored, system: str, ids: Collection[str]) -> dict[str, str]:
    """Return the summaries of rows by id: those of a run's model, which alone are kept as text."""
    scores, generated = (
        scored.run_dir.artifact(stage) if scored.run_dir else None
        for stage in ("score", "generate")
    )
    if system != MODEL or not ids or scores is None or generated is None:
        return {}
    if scores.manifest.payload["inputs"]["generate"] != generated.manifest.fingerprint:
        return {}  # made anew since it was scored
    rows = read_jsonl(generated.file("predictions.jsonl"), Prediction)
    return {row.id: row.prediction for row in rows if row.id in ids}
