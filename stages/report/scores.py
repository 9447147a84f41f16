"""The model's scores row by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.artifact import Artifact
from pipeline.errors import CorruptArtifact


def model_scores(
    score: Artifact, profile: str, ids: list[str], kinds: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Return the model's F by ROUGE type under a profile, row by row.

    Raises:
        CorruptArtifact: If scores.parquet cannot be read, or its rows are not those of `ids`, in order.
    """
    path = score.file("scores.parquet")
    columns = [f"{name}_fmeasure" for name in kinds]
    wanted = [("profile", "=", profile), ("system", "=", "model")]
    try:
        table = pq.read_table(path, columns=["id", *columns], filters=wanted)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise CorruptArtifact(
            f"{path}: cannot be read ({error}); make it again with --restart-from score"
        ) from error
    if table["id"].to_pylist() != ids:
        raise CorruptArtifact(
            f"{path}: its rows are not those of the predictions; "
            "make it again with --restart-from score"
        )
    return {
        name: np.asarray(table[column].to_numpy(), dtype=np.float64)
        for name, column in zip(kinds, columns, strict=True)
    }
