"""`sumpipe trace`: one row's way through a run, from raw text to score, as the artifacts have it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from pipeline.artifact import Artifact, RunDir, require_run_dir
from pipeline.cli import AsJson
from pipeline.config import JSON
from pipeline.errors import DataError
from pipeline.files import read_json
from stages.schema import SPLITS, Prediction, read_jsonl, shard_files

_SHOWN_CHARACTERS = 160
_TRUNCATED = ("source", "target")


def add_trace(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("trace")
    def trace_command(
        run_dir: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")],
        row: Annotated[str, typer.Argument(metavar="ID", help="A row's id.")],
        as_json: AsJson = False,
    ) -> None:
        """Show one row's way from raw text to score."""
        found = trace(require_run_dir(run_dir), row)
        if as_json:
            print(json.dumps(found, indent=2, ensure_ascii=False))
            return
        for way in found:
            print(f"{way.pop('split')}: {row}")
            for stage, facts in way.items():
                print(f"  {stage:9} {_text(facts)}")


def trace(run_dir: RunDir, id_: str) -> list[JSON]:
    """Follow a row through the stages that are done.

    Args:
        run_dir: The run.
        id_: The row's id.

    Returns:
        For each split that has such a row: the split, and by stage what became of the row there. None says
        that the stage is done and has no such row, as where it was left out before. A row that fetch left
        out, because it is no part of the set, has split `none`.

    Raises:
        DataError: If no split has the row and fetch left none such out, or nothing is fetched yet.
    """
    fetched = run_dir.artifact("fetch")
    if fetched is None:
        raise DataError(f"{run_dir.root}: fetch is not done yet, so there is nothing to trace")
    found = []
    for split in SPLITS:
        raw = _raw(fetched, split, id_)
        if raw is None:
            continue
        way: JSON = {"split": split, "fetch": raw}
        for stage, look in _LOOKS.items():
            artifact = run_dir.artifact(stage)
            if artifact is not None and _has_split(artifact, split, run_dir):
                way[stage] = look(artifact, split, id_)
        found.append(way)
    found = found or _left_out(fetched, id_)
    if not found:
        raise DataError(
            f"{run_dir.root}: no split has a row {id_!r}; the ids are those of the dataset, or split and row "
            f"number (train-0000012; row-0000012 of one source) where it has none: see {fetched.path / 'raw'}"
        )
    return found


def _has_split(artifact: Artifact, split: str, run_dir: RunDir) -> bool:
    """Whether a stage deals with a split: what is generated and scored is one of them."""
    if artifact.manifest.stage not in ("generate", "score"):
        return True
    generated = run_dir.artifact("generate")
    return generated is not None and generated.manifest.payload["config"]["split"] == split


def _raw(artifact: Artifact, split: str, id_: str) -> JSON | None:
    for path in shard_files(artifact.directory(f"raw/{split}")):
        for row in _with_id(path, id_):
            return {
                "origin": row["origin"],
                "fault": row.get("fault", ""),
                "document": row["document"],
                "summary": row["summary"],
            }
    return None


def _left_out(artifact: Artifact, id_: str) -> list[JSON]:
    import pyarrow.parquet as pq

    name = "left_out.parquet"
    if name not in artifact.manifest.files:
        return []
    rows = pq.read_table(artifact.file(name), filters=[("id", "=", id_)]).to_pylist()
    return [
        {"split": "none", "fetch": {"origin": row["origin"], "left_out": row["reason"]}}
        for row in rows
    ]


def _with_id(path: Path, id_: str) -> Iterator[JSON]:
    """Yield the records of a file of rows that have this id; most lines are only searched for it."""
    spelled = json.dumps(id_, ensure_ascii=False)
    with path.open(encoding="utf-8") as file:
        for line in file:
            if spelled in line:
                record: JSON = json.loads(line)
                if record["id"] == id_:
                    yield record


def _cleaned(artifact: Artifact, split: str, id_: str) -> JSON | None:
    import pyarrow.parquet as pq

    folder = artifact.directory(f"ledger/{split}")
    found: list[JSON] = pq.read_table(folder, filters=[("id", "=", id_)]).to_pylist()
    return {k: v for k, v in found[0].items() if v not in (None, "")} if found else None


def _encoded(artifact: Artifact, split: str, id_: str) -> JSON | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    for path in sorted(artifact.directory(split).glob("*.arrow")):
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        for row in table.filter(pc.equal(table["id"], id_)).to_pylist():
            return {
                **{f"{role}_tokens": len(row[f"{role}_ids"]) for role in _TRUNCATED},
                **{f"{role}_tokens_lost": row[f"{role}_tokens_lost"] for role in _TRUNCATED},
            }
    return None


def _generated(artifact: Artifact, _split: str, id_: str) -> JSON | None:
    for one in read_jsonl(artifact.file("predictions.jsonl"), Prediction):
        if one.id == id_:
            found = {"prediction": one.prediction, "score": one.score, "tokens": one.tokens}
            return {**found, "stop": one.stop}
    return None


def _scored(artifact: Artifact, _split: str, id_: str) -> JSON | None:
    import pyarrow.parquet as pq

    headline = read_json(artifact.file("rouge.json"))["profile"]
    wanted = (("id", id_), ("system", "model"), ("profile", headline))
    filters = [(column, "=", value) for column, value in wanted]
    found = pq.read_table(artifact.file("scores.parquet"), filters=filters).to_pylist()
    if not found:
        return None
    figures = {k: v for k, v in found[0].items() if k.endswith("_fmeasure")}
    return {"profile": headline, **figures}


_LOOKS: dict[str, Callable[[Artifact, str, str], JSON | None]] = {
    "clean": _cleaned,
    "encode": _encoded,
    "generate": _generated,
    "score": _scored,
}


def _text(facts: JSON | None) -> str:
    if facts is None:
        return "no such row: it was left out before"
    parts = []
    for name, value in facts.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        if len(shown) > _SHOWN_CHARACTERS:
            shown = f"{shown[:_SHOWN_CHARACTERS]}... ({len(shown):,} characters)"
        if isinstance(value, str) and name in ("document", "summary", "prediction"):
            shown = f"\n            {name}: {json.dumps(shown, ensure_ascii=False)}"
            parts.append(shown)
        elif value != "":
            parts.append(f"{name.replace('_', ' ')} {shown}")
    return ", ".join(parts).replace(", \n", "\n")
