"""What the report tells of: everything it reads from the run, gathered once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.artifact import Artifact, RunDir
from pipeline.config import JSON, load_yaml
from pipeline.files import read_json
from stages.report.config import CardConfig, ExpectedConfig, ReportConfig
from stages.report.curve import Curve, committed_curve, unfinished_curve
from stages.report.examples import Example, choose_examples
from stages.report.interruptions import Interruption, interruptions
from stages.report.lengths import Generated, Lengths, encoded_lengths, generated_lengths
from stages.rouge_json import read_rouge
from stages.schema import SPLITS

STAGES = ("fetch", "clean", "encode", "finetune", "export", "generate", "score")
"""What the report reads, in order."""
_KINDS_OF_L = ("rougeL", "rougeLsum")
_DUPLICATES = "duplicates.json"


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
    """How many documents of a split are like one of another, by both splits, the copy's first."""
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
        checks_rows=_checks_rows(run_dir),
        run_dir=str(run_dir.root),
    )
    if not score:
        return replace(facts, examples=choose_examples(inputs, config.examples, seed, "", ()))
    kinds, profile = facts.headline_types, facts.rouge["profile"]
    return replace(facts, examples=choose_examples(inputs, config.examples, seed, profile, kinds))


def _leaks(inputs: Mapping[str, Artifact]) -> dict[tuple[str, str], int]:
    """Read what clean counted of each pair of splits; runs from before it did have no such file."""
    clean = inputs.get("clean")
    if clean is None or _DUPLICATES not in clean.manifest.files:
        return {}
    found: JSON = read_json(clean.file(_DUPLICATES))
    return {
        (one["split"], one["in"]): one["equal"] + one["near"]
        for one in found["found"]
        if one["split"] != one["in"]
    }


def _checks_rows(run_dir: RunDir) -> bool:
    """Read it from the recipe: what only lets fetch pass is not hashed."""
    dataset = load_yaml(run_dir.recipe).get("fetch", {}).get("dataset", {})
    return bool(dataset.get("check_rows", True))


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
