"""Run directories made by hand, for tests of what is told of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifact import RunDir
from pipeline.config import JSON
from pipeline.distributed.world import World
from pipeline.log import Progress
from pipeline.preemption import StopFlag
from pipeline.stage import Execution, Metrics, StageContext
from stages.clean.config import CleanConfig
from stages.encode.config import EncodeConfig
from stages.export.config import ExportConfig
from stages.fetch.config import FetchConfig
from stages.finetune.config import FinetuneConfig
from stages.generate.config import GenerateConfig
from stages.intervals import few_rows
from stages.schema import SPLITS
from stages.score.config import ScoreConfig

STAGES = ("fetch", "clean", "encode", "finetune", "export", "generate", "score")
ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
PARTS = ("precision", "recall", "fmeasure")
NASTY = "<b>&</b><script>alert('x')</script> {{ 7 * 7 }} \N{GRINNING FACE}"
DEMO = {
    "dataset": {"source": "demo", "train_rows": 9, "valid_rows": 2, "test_rows": 7},
    "model": {"source": "scratch"},
}
HUB = {
    "dataset": {"source": "hub", "path": "team/news", "name": "3.0.0", "revision": "abc"},
    "model": {"source": "hub", "path": "team/bart", "revision": "def"},
}
(ONE_ROW,) = few_rows(1)
"""What score warns of a single row."""
LABELS = {
    "model": "Model",
    "lead": "Lead (3 sentences)",
    "model_against_another_reference": "Model against another row's reference",
}


class Row(NamedTuple):
    """A row of the split that is summarised, with the F of each ROUGE type as a fraction."""

    document: str
    reference: str
    prediction: str
    f: float
    stop: str = "eos"
    tokens: int = 5


ROWS = tuple(
    Row(
        f"{NASTY} number {n} of the documents. " + "word " * 1000,
        f"reference <i>{n}</i>",
        f"guess & number {n} of the documents",
        n / 10,
    )
    for n in range(6)
)


def figure(mean: float) -> JSON:
    return {"mean": mean, "low": mean - 0.0111, "high": mean + 0.0122}


def profile(systems: dict[str, float], headline_l: str = "rougeLsum") -> JSON:
    """A profile's section; of F of ROUGE-1 by system, the other types are a little higher each."""
    return {
        "settings": {
            "algorithm": 1,
            "rules": {"tokenizer": "ascii", "stemmer": "porter-nltk", "postprocess": "none"},
            "scorer": "rouge-score 0.1.2",
            "tokenizer": "lower case, runs of a-z and 0-9",
            "stemmer": "Porter",
            "sentences": "newline",
            "postprocess": "none",
            "headline_l": headline_l,
            "interval": {"resamples": 1000, "seed": 1, "confidence": 0.95},
        },
        "systems": {
            system: {
                kind: {
                    "precision": figure(0.9),
                    "recall": figure(0.8),
                    "fmeasure": figure(f + 0.0123 * number),
                }
                for number, kind in enumerate(ROUGE_TYPES)
            }
            for system, f in systems.items()
        },
    }


def rouge_json(rows: int = len(ROWS), **changed: object) -> JSON:
    systems = {"model": 0.45678, "lead": 0.3, "model_against_another_reference": 0.03}
    return {
        "dataset": "demo",
        "split_choice": None,
        "split": "test",
        "rows": rows,
        "references_sha256": "0" * 64,
        "documents_sha256": "0" * 64,
        "decoding": {},
        "exact_match": 1 / 6,
        "profile": "rouge-score",
        "profiles": {"rouge-score": profile(systems)},
        "measures": {
            "model": {"density": figure(2.5), "novel_2gram": figure(0.25)},
            "lead": {"density": figure(50.0), "novel_2gram": figure(0.0)},
        },
        "systems": {system: {"label": label} for system, label in LABELS.items()},
        "warnings": [],
        **changed,
    }


def records(updates: Sequence[int] = range(10, 60, 10)) -> list[JSON]:
    """Records of a training, with a validation after the last of the updates."""
    trained: list[JSON] = [
        {
            "update": n,
            "loss": 9 / n,
            "nll": 8 / n,
            "smoothing": 0.1,
            "r3f/kl": 1 / n,
            "lr": 1e-3,
            "gradient_norm": 1.0,
            "target_tokens": 100,
            "row_digest": "abc",
            "seconds": 30.0,
            "tokens_per_second": 50.0,
        }
        for n in updates
    ]
    shares = {"embedding": 1.0, "residual": 0.996, "compute": 0.0771}
    trained[-1] |= {f"r3f/noise_survival_{place}": share for place, share in shares.items()}
    return [*trained, {"update": updates[-1], "valid/nll": 1.5, "valid/accuracy": 0.3}]


def lines(found: Sequence[JSON]) -> str:
    return "".join(json.dumps(record) + "\n" for record in found)


def settings(fetch: JSON, finetune: JSON) -> dict[str, JSON]:
    return {
        "fetch": FetchConfig.model_validate(fetch).identity(),
        "clean": CleanConfig().identity(),
        "encode": EncodeConfig().identity(),
        "finetune": FinetuneConfig.model_validate({"updates": 1000, **finetune}).identity(),
        "export": ExportConfig().identity(),
        "generate": GenerateConfig().identity(),
        "score": ScoreConfig().identity(),
    }


def metrics(rows: Sequence[Row]) -> dict[str, Metrics]:
    encode = {
        f"{role}_{what}_{split}": 1234 if split == "train" else 0
        for role in ("source", "target")
        for what in ("rows_truncated", "tokens_lost", "tokens")
        for split in SPLITS
    }
    count = len(rows)
    return {
        "fetch": {"rows_train": 9000, "rows_valid": 2, "rows_test": count + 1},
        "clean": {
            "rows_kept_train": 8990,
            "rows_kept_valid": 2,
            "rows_kept_test": count,
            "rows_duplicate_train": 10,
            "rows_empty_summary_test": 1,
        },
        "encode": encode,
        "finetune": {
            "valid_nll_nats_per_token": 1.5,
            "updates": 50,
            "epochs": 1.25,
            "warm_start_updates": 0,
            "parameters": 1234567,
        },
        "export": {"parameters": 1234567, "updates": "50"},
        "generate": {"predictions": count, "share_stopped_by_length": 0.5},
        "score": {"rows": count},
    }


def provenance(stage: str, gpus: Sequence[str] = ("H200, 570",)) -> JSON:
    return {
        "finished_utc": "2026-01-02T03:04:05+00:00",
        "git": {"commit": "c0ffee", "modified": True},
        "python": "3.11.7",
        "packages": {"torch": "2.13.0", "sumpipe": None},
        "host": "node-7",
        "system": "Linux",
        "cpu_count": 2,
        "gpus": list(gpus) if stage == "finetune" else [],
        "job": None,
        "launch": {
            "world_size": 4 if stage == "finetune" else 1,
            "processes": 4,
            "threads": 1,
            "ds_profile": "zero2.json",
            "seconds_wall": 12.34,
        },
    }


def new_run(
    root: Path,
    rows: Sequence[Row] = ROWS,
    *,
    fetch: JSON = DEMO,
    finetune: JSON | None = None,
    rouge: JSON | None = None,
    curve: Sequence[JSON] | None = None,
    name: str = "tiny",
    done: Sequence[str] = STAGES,
    report: JSON | None = None,
    gpus: Sequence[str] = ("H200, 570",),
    fetched: JSON | None = None,
    cleaned: JSON | None = None,
    trained: JSON | None = None,
    exported: str = "50",
    leaks: Sequence[tuple[str, str, int]] = (),
) -> RunDir:
    """Commit the stages `done`, small and made by hand, and a recipe of which the report reads little."""
    run_dir = RunDir(root)
    root.mkdir(parents=True)
    recipe = {"name": name, "seed": 17, "report": report or {}}
    run_dir.recipe.write_text(json.dumps(recipe), encoding="utf-8")
    found = metrics(rows)
    found["fetch"] |= fetched or {}
    found["clean"] |= cleaned or {}
    found["finetune"] |= trained or {}
    found["export"]["updates"] = exported
    made: dict[str, str] = {}
    warm = (finetune or {}).get("warm_start", {}).get("share", 0.0)
    found["finetune"]["warm_start_updates"] = round(1000 * warm)
    for stage, config in settings(fetch, finetune or {}).items():
        payload: JSON = {"stage": stage, "version": 1, "config": config, "inputs": dict(made)}
        if stage == "finetune":
            payload["seed"] = 17
        # Stored and read back, as in a real run: tuples become lists there.
        payload = json.loads(json.dumps(payload, default=str))
        if stage not in done:
            continue
        work = run_dir.open_partial(stage, payload)
        if stage == "score":
            rouge = rouge or rouge_json(len(rows))
        _write(stage, work, rows, rouge, curve or records(), leaks)
        artifact = run_dir.commit(stage, payload, found[stage], provenance(stage, gpus))
        made[stage] = artifact.manifest.fingerprint
    return run_dir


def begin(run_dir: RunDir, stage: str, finetune: JSON | None = None) -> Path:
    """Begin a stage that is not to be finished; returns its work directory."""
    config = settings(DEMO, finetune or {})[stage]
    payload: JSON = {"stage": stage, "version": 1, "config": config, "inputs": {}}
    return run_dir.open_partial(stage, json.loads(json.dumps(payload, default=str)))


def _write(
    stage: str,
    work: Path,
    rows: Sequence[Row],
    rouge: JSON | None,
    curve: Sequence[JSON],
    leaks: Sequence[tuple[str, str, int]],
) -> None:
    ids = [f"test-{number}" for number in range(len(rows))]
    if stage == "fetch":
        raw = [
            {"id": id_, "document": row.document, "summary": row.reference, "origin": "demo"}
            for id_, row in zip(ids, rows, strict=True)
        ]
        (work / "raw" / "test").mkdir(parents=True)
        (work / "raw" / "test" / "00000.jsonl").write_text(lines(raw), encoding="utf-8")
    elif stage == "clean":
        for split in SPLITS:
            _write_ledger(work / "ledger" / split, {b: n for a, b, n in leaks if a == split})
    elif stage == "encode":
        for split in SPLITS:
            _write_encoded(work / split, rows)
    elif stage == "finetune":
        (work / "metrics.jsonl").write_text(lines(curve), encoding="utf-8")
    elif stage == "generate":
        made = [
            {
                "id": id_,
                "prediction": row.prediction,
                "score": -1.0,
                "tokens": row.tokens,
                "stop": row.stop,
            }
            for id_, row in zip(ids, rows, strict=True)
        ]
        (work / "predictions.jsonl").write_text(lines(made), encoding="utf-8")
    elif stage == "score":
        (work / "rouge.json").write_text(json.dumps(rouge), encoding="utf-8")
        columns = {
            f"{kind}_{part}": [row.f for row in rows] for kind in ROUGE_TYPES for part in PARTS
        }
        assert rouge is not None
        keys = {
            "profile": [rouge["profile"]] * len(rows),
            "system": ["model"] * len(rows),
            "id": ids,
        }
        pq.write_table(pa.table({**keys, **columns}), work / "scores.parquet")
        measured = {"system": keys["system"], "id": ids, "density": [1.0] * len(rows)}
        pq.write_table(pa.table(measured), work / "measures.parquet")


def _write_ledger(folder: Path, leaks: Mapping[str, int]) -> None:
    """Write records of rows: like none, dropped though they are like one, and `leaks` of them kept."""
    folder.mkdir(parents=True)
    kept = [other for other, count in leaks.items() for _ in range(count)]
    table = {
        "outcome": ["kept"] + ["duplicate"] * len(leaks) + ["kept"] * len(kept),
        "leak_split": pa.array([None, *leaks, *kept], pa.string()),
    }
    pq.write_table(pa.table(table), folder / "00000.parquet")


def _write_encoded(folder: Path, rows: Sequence[Row]) -> None:
    """Write token ids of as many tokens as there are words; documents over 800 lose the rest."""
    folder.mkdir()
    words = np.array([len(row.document.split()) for row in rows])
    kept = np.minimum(words, 800)

    def ids(lengths: Sequence[int]) -> pa.ListArray:
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        values = np.zeros(offsets[-1], dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))

    table = pa.table(
        {
            "id": [f"test-{number}" for number in range(len(rows))],
            "source_ids": ids(kept),
            "target_ids": ids([len(row.reference.split()) for row in rows]),
            "source_tokens_lost": pa.array(words - kept, pa.int32()),
            "target_tokens_lost": pa.array([0] * len(rows), pa.int32()),
        }
    )
    with (
        pa.OSFile(str(folder / "00000.arrow"), "wb") as file,
        pa.ipc.new_file(file, table.schema) as to,
    ):
        to.write_table(table)


def report_context(run_dir: RunDir, name: str = "tiny") -> StageContext:
    """The context of the report stage of a run whose other stages are done."""
    inputs = {stage: run_dir.artifact(stage) for stage in STAGES}
    return StageContext(
        inputs={stage: artifact for stage, artifact in inputs.items() if artifact is not None},
        work=run_dir.open_partial("report", {"stage": "report"}),
        seed=17,
        world=World(),
        execution=Execution(1, 1, Path("zero2.json")),
        stop=StopFlag(),
        progress=Progress("report", None, console=False),
        guard=lambda: None,
        recipe_name=name,
    )


LAUNCHES = (
    (
        "2026-01-02T010000+0000-11",
        "2026-01-02T01:00:05+0000 INFO pipeline.log: finetune update 20/50  loss 1\n"
        "2026-01-02T01:00:09+0000 ERROR rank: rank 0 ends: Preempted: stopped by SIGTERM after update 23, "
        "which is committed\n",
    ),
    (
        "2026-01-02T020000+0000-12",
        "2026-01-02T02:00:01+0000 INFO stages.finetune.run: resumes after update 23\n"
        "2026-01-02T02:00:09+0000 INFO pipeline.log: finetune update 40/50  loss 1\n",
    ),
    (
        "2026-01-02T030000+0000-13",
        "2026-01-02T03:00:01+0000 INFO stages.finetune.run: resumes after update 30\n",
    ),
)
"""Logs of a training that was stopped once and killed once."""


def write_launches(run_dir: RunDir) -> None:
    for folder, text in LAUNCHES:
        log = run_dir.logs("finetune") / folder / "rank0000.log"
        log.parent.mkdir(parents=True)
        log.write_text(text, encoding="utf-8")
