"""What the report tells of: everything it reads from the run, gathered once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.artifact import Artifact
from pipeline.config import JSON
from pipeline.errors import CorruptArtifact
from pipeline.files import read_json
from pipeline.stage import StageContext
from stages.report.config import ExpectedConfig, ReportConfig
from stages.schema import Prediction, RawRow, read_jsonl


class ShownExample(NamedTuple):
    """A row of the scored split with what the model made of it."""

    id: str
    document: str
    reference: str
    prediction: str


@dataclass(frozen=True, slots=True)
class Facts:
    """A finished run as the report sees it."""

    name: str
    """The recipe's name."""
    inputs: Mapping[str, Artifact]
    rouge: JSON
    """Content of rouge.json: split, rows, profile, exact_match and means by system; fractions."""
    curve: list[dict[str, float | None]]
    """Records of finetune's metrics.jsonl, in update order."""
    examples: list[ShownExample]
    expected: ExpectedConfig | None
    """A published result."""

    def settings(self, stage: str) -> JSON:
        """Return what identifies a stage's work: the hashed part of its configuration."""
        config: JSON = self.inputs[stage].manifest.payload["config"]
        return config

    def metric(self, stage: str, name: str) -> Any:
        """Return a result of a stage, or None if it was not recorded."""
        return self.inputs[stage].manifest.metrics.get(name)


def gather(context: StageContext, config: ReportConfig) -> Facts:
    """Read what the report needs from the committed artifacts.

    Args:
        context: The stage's context.
        config: How many rows of the scored split to take along (fewer if it has fewer), and what
            to show beside the result.
    """
    rouge = read_json(context.inputs["score"].file("rouge.json"))
    return Facts(
        name=context.recipe_name,
        inputs=context.inputs,
        rouge=rouge,
        curve=_read_curve(context.inputs["finetune"].file("metrics.jsonl")),
        examples=_examples(context, rouge["split"], config.examples),
        expected=config.expected,
    )


def spread(rows: int, count: int) -> list[int]:
    """Return up to `count` row numbers, evenly spaced over `rows`: the middles of equal parts."""
    count = min(count, rows)
    return [(2 * part + 1) * rows // (2 * count) for part in range(count)]


def _read_curve(path: Path) -> list[dict[str, float | None]]:
    return sorted(_records(path), key=lambda record: record["update"] or 0)


def _records(path: Path) -> Iterator[dict[str, float | None]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record: dict[str, float | None] = json.loads(line)
            record["update"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise CorruptArtifact(
                f"{path}, line {number}: is no record of an update ({error!r}); "
                "make it again with --restart-from finetune"
            ) from error
        yield record


def _examples(context: StageContext, split: str, count: int) -> list[ShownExample]:
    """Take rows as the score stage compares them: raw document and reference."""
    path = context.inputs["generate"].file("predictions.jsonl")
    predictions = list(read_jsonl(path, Prediction))
    chosen = [predictions[row] for row in spread(len(predictions), count)]
    wanted = {prediction.id for prediction in chosen}
    source = context.inputs["fetch"].file(f"raw/{split}.jsonl")
    raw = {row.id: row for row in read_jsonl(source, RawRow) if row.id in wanted}
    if missing := wanted - raw.keys():
        raise CorruptArtifact(
            f"{source}: has no row {min(missing)!r}, which {path} summarises; "
            "make it again with --restart-from fetch"
        )
    return [
        ShownExample(one.id, raw[one.id].document, raw[one.id].summary, one.prediction)
        for one in chosen
    ]
