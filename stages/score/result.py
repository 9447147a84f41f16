"""The figures of a scored set, made from the per-example files: what rouge.json says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import JSON
from stages.intervals import CONFIDENCE, RESAMPLES, intervals
from stages.rouge_json import MODEL
from stages.score.doubts import doubts, few_values
from stages.score.identity import identity_of
from stages.score.profiles import Reader, settings
from stages.score.rouge import COLUMNS, PARTS, ROUGE_TYPES
from stages.score.scoring import MEASURED, SCORES
from stages.score.systems import RANDOM
from stages.score.tally import Tally

_BOUNDS = ("mean", "low", "high")


def figures(
    folder: Path,
    readers: tuple[Reader, ...],
    systems: Mapping[str, str],
    counts: Tally,
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
    rows = counts.references.texts
    interval = {"resamples": RESAMPLES, "seed": seed, "confidence": CONFIDENCE}
    profiles: JSON = {}
    for read in readers:
        found = _by_system(folder / SCORES, systems, [("profile", "=", read.profile.name)])
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
        system: intervals(columns, seed=seed, stop=stop)
        for system, columns in _by_system(folder / MEASURED, systems).items()
    }
    return {
        "references_sha256": identity_of(counts.reference_numbers),
        "documents_sha256": identity_of(counts.document_numbers) if counts.documents else None,
        "rows": rows,
        "exact_match": counts.exact / rows,
        "profile": readers[0].profile.name,
        "profiles": profiles,
        "measures": {
            system: {name: one._asdict() for name, one in found.items()}
            for system, found in measured.items()
            if found
        },
        "systems": {
            system: {
                "label": label,
                **(
                    {"texts_sha256": identity_of(counts.random_numbers)} if system == RANDOM else {}
                ),
            }
            for system, label in systems.items()
        },
        "warnings": [
            *doubts(counts, readers, is_l_lsum=is_l_lsum),
            *few_values(measured, rows),
        ],
    }


def _by_system(
    path: Path, systems: Iterable[str], filters: list[tuple[str, str, str]] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the columns of numbers of a file by system, NaN where a row has no value."""
    table = pq.read_table(path, filters=filters)
    names = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    parts = {system: table.filter(pc.equal(table["system"], system)) for system in systems}
    return {
        system: {name: part[name].to_numpy() for name in names} for system, part in parts.items()
    }


def _rouge(columns: dict[str, Any], seed: int, stop: Callable[[], None]) -> JSON:
    found = intervals({name: columns[name] for name in COLUMNS}, seed=seed, stop=stop)
    return {
        name: {
            part: {bound: getattr(found[f"{name}_{part}"], bound) for bound in _BOUNDS}
            for part in PARTS
        }
        for name in ROUGE_TYPES
    }
