"""Which summaries are shown: the best, the worst, and some drawn at random."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.artifact import Artifact
from pipeline.errors import CorruptArtifact
from stages.report.scores import model_scores
from stages.schema import Prediction, RawRow, read_jsonl, read_shards

KINDS = ("best", "worst", "random")


class Example(NamedTuple):
    """A row of the scored split with what the model made of it."""

    kind: str
    """best, worst or random."""
    id: str
    document: str
    reference: str
    prediction: str
    stop: str
    """Why the summary ended."""
    scores: dict[str, float]
    """F by ROUGE type, a fraction; empty if it is not scored."""


def choose_examples(
    inputs: Mapping[str, Artifact], count: int, seed: int, profile: str, kinds: Sequence[str]
) -> tuple[Example, ...]:
    """Return up to `count` examples of each kind; without scores, only ones drawn at random.

    Args:
        inputs: The committed artifacts.
        count: Most of each kind.
        seed: Of the draw.
        profile: Whose scores they are ranked by, if there are any.
        kinds: The ROUGE types that they are ranked by.

    Raises:
        CorruptArtifact: If a chosen row is not where it came from.
    """
    if count == 0 or not {"fetch", "generate"} <= inputs.keys():
        return ()
    path = inputs["generate"].file("predictions.jsonl")
    ids = [one.id for one in read_jsonl(path, Prediction)]
    scores = model_scores(inputs["score"], profile, ids, kinds) if "score" in inputs else None
    ranks = None if scores is None else np.mean([scores[name] for name in scores], axis=0)
    chosen = choose(ranks, len(ids), count, seed)
    wanted = {ids[row] for _, row in chosen}
    texts = {one.id: one for one in read_jsonl(path, Prediction) if one.id in wanted}
    split = inputs["generate"].manifest.payload["config"]["split"]
    folder = inputs["fetch"].directory(f"raw/{split}")
    raw = {row.id: row for row in read_shards(folder, RawRow) if row.id in wanted}
    if missing := wanted - raw.keys():
        raise CorruptArtifact(
            f"{folder}: has no row {min(missing)!r}, which {path} summarises; "
            "make it again with --restart-from fetch"
        )
    return tuple(
        Example(
            kind,
            ids[row],
            raw[ids[row]].document,
            raw[ids[row]].summary,
            texts[ids[row]].prediction,
            texts[ids[row]].stop,
            {} if scores is None else {name: float(column[row]) for name, column in scores.items()},
        )
        for kind, row in chosen
    )


def choose(
    ranks: Sequence[float] | NDArray[np.float64] | None, rows: int, count: int, seed: int
) -> list[tuple[str, int]]:
    """Choose rows by kind; no row twice, equal ranks in row order, random ones in row order.

    Args:
        ranks: [rows] the higher the better; None to draw all at random.
        rows: How many there are.
        count: Most of each kind.
        seed: Of the draw.
    """
    best: list[int] = []
    worst: list[int] = []
    if ranks is not None:
        best = sorted(range(rows), key=lambda row: (-ranks[row], row))[:count]
        others = set(range(rows)) - set(best)
        worst = sorted(others, key=lambda row: (ranks[row], row))[:count]
    rest = sorted(set(range(rows)) - {*best, *worst})
    drawn = sorted(random.Random(seed).sample(rest, min(count, len(rest))))
    kinds = zip(KINDS, (best, worst, drawn), strict=True)
    return [(kind, row) for kind, found in kinds for row in found]
