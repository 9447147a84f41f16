"""What the report tells of: everything it reads from the run, gathered once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifact import Artifact, RunDir
from pipeline.config import JSON
from pipeline.errors import CorruptArtifact
from stages.report.config import CardConfig, ExpectedConfig, ReportConfig, read_recipe
from stages.report.curve import Curve, committed_curve, unfinished_curve
from stages.report.examples import Example, choose_examples
from stages.report.interruptions import Interruption, interruptions
from stages.report.lengths import Generated, Lengths, encoded_lengths, generated_lengths
from stages.rouge_json import read_rouge
from stages.schema import SPLITS

STAGES = ("fetch", "clean", "encode", "finetune", "export", "generate", "score")
"""What the report reads, in order."""
_KINDS_OF_L = ("rougeL", "rougeLsum")


@dataclass(frozen=True, slots=True)
class Facts:
    """A run as the report sees it; what was not made yet is empty."""

    name: str
    """The recipe's name."""
    inputs: Mapping[str, Artifact]
    """Committed artifacts by stage."""
    begun: Mapping[str, JSON] = field(default_factory=dict)
    """What was hashed of stages that were begun and not committed."""
    rouge: JSON = field(default_factory=dict)
    """Content of rouge.json."""
    curve: Curve = ()
    """Records of finetune's metrics.jsonl, in update order."""
    repeated: Curve = ()
    """Records that were set aside, since their updates were done again after an interruption."""
    unreadable: int = 0
    """Lines of those logs that are no records."""
    interruptions: tuple[Interruption, ...] = ()
    lengths: Mapping[str, Mapping[str, Lengths]] = field(default_factory=dict)
    """Tokens of `source` and `target` by split."""
    generated: Generated | None = None
    leaks: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """How many documents of a split stayed though they are like one of another, by both splits; the copy's
    first."""
    examples: tuple[Example, ...] = ()
    expected: ExpectedConfig | None = None
    """A published result."""
    card: CardConfig = field(default_factory=CardConfig)
    """What the model's publisher says of it."""
    checks_rows: bool = True
    """Whether fetch refused other numbers of rows than the catalogue's."""
    run_dir: str = "DIR"
    """Where the run is, for commands."""

    def settings(self, stage: str) -> JSON:
        """Return what identifies a stage's work: the hashed part of its configuration; empty if not begun."""
        if stage in self.inputs:
            payload = self.inputs[stage].manifest.payload
        else:
            payload = self.begun.get(stage, {"config": {}})
        config: JSON = payload["config"]
        return config

    def metric(self, stage: str, name: str) -> Any:
        """Return a result of a stage, or None if it was not recorded."""
        artifact = self.inputs.get(stage)
        return None if artifact is None else artifact.manifest.metrics.get(name)

    def launch(self, stage: str) -> JSON:
        """Return how a stage's last launch was carried out; empty if it is not committed."""
        artifact = self.inputs.get(stage)
        launch: JSON = artifact.manifest.provenance.get("launch", {}) if artifact else {}
        return launch

    @property
    def split(self) -> str:
        """The split that is summarised and scored."""
        return str(self.rouge.get("split") or self.settings("generate").get("split", "test"))

    @property
    def headline_types(self) -> tuple[str, ...]:
        """The ROUGE types that stand for a scored run: 1, 2, and what is published of its set as ROUGE-L.

        That is the one that `expected` has, else the one that the catalogue names, else the one that the
        profile's users publish.
        """
        profile = self.rouge["profiles"][self.rouge["profile"]]["settings"]["headline_l"]
        known = self.metric("fetch", "rouge_l") or profile
        return ("rouge1", "rouge2", published_l(self.expected) or known)

    @property
    def undone(self) -> list[str]:
        """Stages that are yet to be done, in order."""
        return [stage for stage in STAGES if stage not in {*self.inputs, *self.gone}]

    @property
    def gone(self) -> list[str]:
        """Stages whose artifact was deleted, in order: one that is there was made of it, directly or not."""
        done = [number for number, stage in enumerate(STAGES) if stage in self.inputs]
        earlier = STAGES[: max(done, default=0)]
        return [stage for stage in earlier if stage not in {*self.inputs, *self.begun}]


def published_l(expected: ExpectedConfig | None) -> str | None:
    """Return which of the two a published result calls ROUGE-L; None if it has none, or both."""
    found = [one for one in _KINDS_OF_L if getattr(expected, one, None) is not None]
    return found[0] if len(found) == 1 else None


def gather(
    name: str, seed: int, run_dir: RunDir, inputs: Mapping[str, Artifact], config: ReportConfig
) -> Facts:
    """Read what the report needs of a run; what is missing stays empty.

    Args:
        name: The recipe's name.
        seed: Of the examples drawn at random.
        run_dir: Where logs and unfinished work are.
        inputs: The committed artifacts to tell of.
        config: How many examples of each kind to take, and what to show beside the result.

    Raises:
        CorruptArtifact: If what is committed cannot be read.
        DataError: If another version scored it.
    """
    begun = {
        stage: payload
        for stage in STAGES
        if stage not in inputs and (payload := run_dir.partial_payload(stage)) is not None
    }
    (curve, torn), (repeated, torn_aside) = _curves(run_dir, inputs)
    score = inputs.get("score")
    facts = Facts(
        name=name,
        inputs=inputs,
        begun=begun,
        rouge=read_rouge(score.file("rouge.json")) if score else {},
        curve=curve,
        repeated=repeated,
        unreadable=torn + torn_aside,
        interruptions=_interruptions(run_dir, inputs),
        lengths={split: encoded_lengths(inputs["encode"].directory(split)) for split in SPLITS}
        if "encode" in inputs
        else {},
        generated=generated_lengths(inputs["generate"].file("predictions.jsonl"))
        if "generate" in inputs
        else None,
        leaks=_leaks(inputs),
        expected=config.expected,
        card=config.card,
        checks_rows=read_recipe(run_dir.recipe).fetch.dataset.check_rows,
        run_dir=str(run_dir.root),
    )
    if not score:
        return replace(facts, examples=choose_examples(inputs, config.examples, seed, "", ()))
    kinds, profile = facts.headline_types, facts.rouge["profile"]
    return replace(facts, examples=choose_examples(inputs, config.examples, seed, profile, kinds))


def _leaks(inputs: Mapping[str, Artifact]) -> dict[tuple[str, str], int]:
    """Count them in clean's ledger, by what became of each row."""
    found: Counter[tuple[str, str]] = Counter()
    clean = inputs.get("clean")
    if clean is None:
        return found
    for name in clean.manifest.files:
        if name.startswith("ledger/"):
            split = name.split("/")[1]
            for other in _kept_leaks(clean.file(name)).to_pylist():
                found[split, other["values"]] += other["counts"]
    return found


def _kept_leaks(ledger: Path) -> pa.StructArray:
    """Count the rows that were kept by the split of what they are like: `values` and `counts`."""
    try:
        kept = pq.read_table(ledger, columns=["leak_split"], filters=[("outcome", "=", "kept")])
    except (pa.ArrowException, OSError) as error:
        raise CorruptArtifact(
            f"{ledger}: cannot be read ({error}); make it again with --restart-from clean"
        ) from error
    return kept["leak_split"].drop_null().value_counts()


def _interruptions(run_dir: RunDir, inputs: Mapping[str, Artifact]) -> tuple[Interruption, ...]:
    """Return those of this training; none past its end, which logs from before `begins` was said may tell."""
    found = interruptions(run_dir.logs("finetune"))
    if "finetune" not in inputs:
        return found
    done = inputs["finetune"].manifest.metrics.get("updates")
    return tuple(one for one in found if done is None or one.update <= int(done))


def _curves(
    run_dir: RunDir, inputs: Mapping[str, Artifact]
) -> tuple[tuple[Curve, int], tuple[Curve, int]]:
    """Return the training's records and those set aside, also of one that is not finished.

    Each with the number of lines that are no records.
    """
    if "finetune" in inputs:
        folder: Path = inputs["finetune"].path
        curve = committed_curve(inputs["finetune"].file("metrics.jsonl")), 0
    else:
        folder = run_dir.partial("finetune")
        curve = unfinished_curve(folder / "metrics.jsonl")
    return curve, unfinished_curve(folder / "metrics.set_aside.jsonl")
