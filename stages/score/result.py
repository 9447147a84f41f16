"""The figures of a scored set, made from the per-example files: what rouge.json says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline.config import JSON
from stages.intervals import CONFIDENCE, RESAMPLES, intervals
from stages.score.config import MODEL
from stages.score.doubts import doubts
from stages.score.identity import identities
from stages.score.profiles import Reader, settings
from stages.score.rouge import COLUMNS, PARTS, ROUGE_TYPES
from stages.score.scoring import MEASURED, SCORES

_BOUNDS = ("mean", "low", "high")


def figures(
    folder: Path,
    readers: tuple[Reader, ...],
    systems: Mapping[str, str],
    counts: Counter[str],
    seed: int,
    stop: Callable[[], None] = lambda: None,
) -> JSON:
    """Return the part of rouge.json that is computed: identities, means, intervals, warnings; fractions.

    Args:
        folder: Has scores.parquet and measures.parquet.
        readers: One a profile, the headline first.
        systems: Labels by name, in the order of tables.
        counts: Of `score_rows`.
        seed: Of the bootstrap.
        stop: Called every second or so; may raise to stop.
    """
    interval = {"resamples": RESAMPLES, "seed": seed, "confidence": CONFIDENCE}
    profiles: JSON = {}
    for read in readers:
        of_profile = [("profile", "=", read.profile.name)]
        found = {
            system: _columns(folder / SCORES, [*of_profile, ("system", "=", system)])
            for system in systems
        }
        profiles[read.profile.name] = {
            "settings": {
                **settings(read),
                "interval": {"method": "percentile bootstrap", **interval},
            },
            "systems": {name: _rouge(columns, seed, stop) for name, columns in found.items()},
        }
        if read is readers[0]:
            l_, lsum = (found[MODEL][f"{name}_fmeasure"] for name in ("rougeL", "rougeLsum"))
            is_l_lsum = bool(np.array_equal(l_, lsum))
    measured = {
        system: {
            name: one._asdict()
            for name, one in intervals(
                _columns(folder / MEASURED, [("system", "=", system)]), seed=seed, stop=stop
            ).items()
        }
        for system in systems
    }
    return {
        **identities(counts),
        "rows": counts["references"],
        "exact_match": counts["exact"] / counts["references"],
        "profile": readers[0].profile.name,
        "profiles": profiles,
        "measures": {system: found for system, found in measured.items() if found},
        "systems": {system: {"label": label} for system, label in systems.items()},
        "warnings": doubts(counts, readers, is_l_lsum=is_l_lsum),
    }


def _columns(path: Path, filters: list[tuple[str, str, str]]) -> dict[str, Any]:
    """Return the columns of numbers of a file, NaN where a row has no value."""
    table = pq.read_table(path, filters=filters)
    names = [field.name for field in table.schema if str(field.type) == "double"]
    return {name: table[name].to_numpy() for name in names}


def _rouge(columns: dict[str, Any], seed: int, stop: Callable[[], None]) -> JSON:
    found = intervals({name: columns[name] for name in COLUMNS}, seed=seed, stop=stop)
    return {
        name: {
            part: {bound: getattr(found[f"{name}_{part}"], bound) for bound in _BOUNDS}
            for part in PARTS
        }
        for name in ROUGE_TYPES
    }
