"""Scores on disk, as the score stage and `sumpipe score --out` leave them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifact import Artifact, RunDir
from stages.schema import Prediction, write_jsonl

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
PARTS = ("precision", "recall", "fmeasure")
SETTINGS = {
    "algorithm": 1,
    "rules": {"tokenizer": "ascii", "stemmer": "porter-nltk", "postprocess": "none"},
    "scorer": "ours",
    "tokenizer": "runs of a-z",
    "stemmer": "Porter",
    "sentences": "newline",
    "headline_l": "rougeLsum",
    "interval": {"resamples": 1000, "seed": 1, "confidence": 0.95},
}
FIGURES = {
    type_: {part: {"mean": 0.3, "low": 0.2, "high": 0.4} for part in PARTS} for type_ in ROUGE_TYPES
}
Values = Sequence[float | None]
Systems = Mapping[str, Mapping[str, Values]]
"""Figures by system and metric, row by row; ROUGE types that are not given are as rouge1."""


def names(count: int) -> list[str]:
    return [f"row-{number}" for number in range(count)]


def write_scores(
    folder: Path,
    systems: Systems,
    /,
    *,
    ids: Sequence[str] | None = None,
    profiles: Mapping[str, Any] | None = None,
    **told: Any,
) -> Path:
    """Write rouge.json, scores.parquet and measures.parquet; precision and recall are half and all of F."""
    rows = len(next(iter(systems.values()))["rouge1"])
    ids = names(rows) if ids is None else ids
    scores, measured = [], []
    for name, metrics in systems.items():
        figures: dict[str, Any] = {}
        for type_ in ROUGE_TYPES:
            values = metrics.get(type_, metrics["rouge1"])
            for part, share in zip(PARTS, (0.5, 1, 1), strict=True):
                figures[f"{type_}_{part}"] = [
                    share * value for value in values if value is not None
                ]
        for profile in profiles or {"rouge-score": SETTINGS}:
            scores.append(pa.table({"profile": [profile] * rows, "system": [name] * rows,
                                    "id": ids, **figures}))  # fmt: skip
        others = {metric: values for metric, values in metrics.items() if metric not in ROUGE_TYPES}
        columns = {metric: pa.array(values, pa.float64()) for metric, values in others.items()}
        measured.append(pa.table({"system": [name] * rows, "id": ids, **columns}))
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.concat_tables(scores), folder / "scores.parquet")
    pq.write_table(
        pa.concat_tables(measured, promote_options="default"), folder / "measures.parquet"
    )
    rouge = {
        "dataset": "cnn_dailymail",
        "split": "test",
        "rows": rows,
        "references_sha256": "ab" * 32,
        "documents_sha256": "ba" * 32,
        "profile": next(iter(profiles or {"rouge-score": None})),
        "profiles": {
            name: {"settings": settings, "systems": {"model": FIGURES}}
            for name, settings in (profiles or {"rouge-score": SETTINGS}).items()
        },
        "systems": {name: {"label": name} for name in systems},
        "exact_match": 0.0,
        "measures": {},
        "warnings": [],
        **told,
    }
    (folder / "rouge.json").write_text(json.dumps(rouge), encoding="utf-8")
    return folder


def write_run(
    root: Path,
    systems: Systems,
    *,
    seed: int = 1,
    settings: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
    **told: Any,
) -> Path:
    """Write a run that was scored: fetch -> finetune -> generate -> score.

    Args:
        root: The run directory.
        systems: See `Systems`.
        seed: Of the run; fetch hashes it within its configuration, as for a new model.
        settings: Of finetune.
        texts: Predictions by id.
        told: Further fields of rouge.json.
    """
    root.mkdir(parents=True)
    (root / "recipe.yaml").write_text("name: any\n", encoding="utf-8")
    run_dir = RunDir(root)
    made: dict[str, Artifact] = {}

    def commit(stage: str, config: Any, inputs: Sequence[str], **extra: Any) -> None:
        payload = {"stage": stage, "version": 1, "config": config, **extra}
        payload["inputs"] = {name: made[name].manifest.fingerprint for name in inputs}
        work = run_dir.open_partial(stage, payload)
        if stage == "generate":
            rows = [Prediction(id_, text, -1.0, 4, "eos") for id_, text in (texts or {}).items()]
            write_jsonl(work / "predictions.jsonl", rows)
        if stage == "score":
            write_scores(work, systems, **told)
        made[stage] = run_dir.commit(stage, payload, {}, {})

    commit("fetch", {"dataset": "any", "seed": seed}, [])
    commit("finetune", dict(settings or {"lr": 1e-5}), ["fetch"], seed=seed)
    commit("generate", {"split": "test", "num_beams": 4}, ["finetune"])
    commit("score", {"profiles": ["rouge-score"]}, ["fetch", "generate"], seed=seed)
    return root
