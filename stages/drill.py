"""`sumpipe drill`: what this project's stages are put through, and what has to come out of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.artifact import Artifact, RunDir
from pipeline.config import JSON
from pipeline.drill.command import drill_command
from pipeline.drill.rehearsal import Act, Comparison, Disturbance, Exercise, Rehearsal
from stages.finetune.metrics_log import without_clock
from stages.graph import STAGES
from stages.recipe import SummarizationRecipe

CHECKPOINT_EVERY = 4
UPDATES = 6 * CHECKPOINT_EVERY
TOLERANCE = {"fp32": 2e-5, "bf16": 1e-3, "fp16": 1e-3}
"""By which losses may differ with another number of ranks or on GPUs, nats per target token, by precision."""

_CHECKPOINTS = "finetune.partial/checkpoints"
_LOSSES = ("loss", "nll", "smoothing", "r3f/kl", "valid/nll")
_TIMED_FILES = ("metrics.jsonl", "index.html", "README.md")
"""Files that hold times."""
_SET_ASIDE = "metrics.set_aside.jsonl"
"""Records of updates that were done again; an undisturbed run has none."""


def small(ranks: int) -> list[str]:
    """Return the overrides that make any recipe one of a minute, on the built-in corpus; nothing is fetched.

    What a recipe says of precision, loss, R3F, optimizer, decoding rules and scores stays.
    """
    return [
        "fetch.dataset={source: demo, train_rows: 240, valid_rows: 24, test_rows: 48}",
        "fetch.model={source: scratch, vocab_size: 600, d_model: 64, layers: 2, heads: 4, ffn: 128, "
        "max_positions: 256}",
        "encode={max_source_tokens: 256, max_target_tokens: 64}",
        f"finetune.updates={UPDATES}",
        "finetune.schedule.warmup_updates=5",
        f"finetune.batch.lanes={max(ranks, 2)}",
        "finetune.batch.lane_tokens=700",
        "finetune.compile=false",  # what is compiled depends on the shapes that a process has seen
        "finetune.selection={}",
        f"finetune.validate_every={2 * CHECKPOINT_EVERY}",
        f"finetune.checkpoint_every={CHECKPOINT_EVERY}",
        "finetune.keep_checkpoints=2",
        "finetune.log_every=1",
        "finetune.same_dropout_every=0",
        "finetune.tensorboard=false",
        "generate.min_length=0",
        "generate.max_length=24",
        "generate.shard_rows=4",
        "generate.batch_size=4",
        "report.expected=null",
    ]


def _committed(checkpoint: int) -> str:
    """Return the place of the first checkpoint, or a later one."""
    return f"{_CHECKPOINTS}/update_{checkpoint * CHECKPOINT_EVERY:08d}"


def _stopped(stage: str, moment: str | None = None) -> Exercise:
    return Exercise(stage, stage, (Disturbance(f"stop in {stage}", Act.STOP, moment),))


EXERCISES = (
    Exercise(
        "finetune",
        "finetune",
        (
            # First, so that a cluster has the time to prepare it.
            Disturbance(
                "SIGKILL inside a checkpoint",
                Act.KILL_ALL,
                f"{_committed(2)}.partial/*",
                over=_committed(2),
                may_lose=CHECKPOINT_EVERY,
            ),
            Disturbance("stop in training", Act.STOP, _committed(2)),
            Disturbance(
                "SIGKILL of a rank", Act.KILL_RANK, _committed(3), may_lose=CHECKPOINT_EVERY
            ),
        ),
    ),
    Exercise(
        "finetune_other_ranks",
        "finetune",
        (
            Disturbance(
                "stop in training, then fewer ranks", Act.STOP, _committed(1), then_fewer=True
            ),
            Disturbance("stop in training, then all ranks again", Act.STOP, _committed(2)),
        ),
    ),
    _stopped("generate", "generate.partial/shards-*/?????.jsonl"),
    *map(_stopped, ("fetch", "clean", "encode", "export", "score", "report")),
)
"""The longest first, since a cluster does them side by side."""


def compare(stage: str, made: Artifact, wanted: Artifact, same_ranks: bool) -> Comparison:
    """Compare a stage that was disturbed with one that was not.

    There have to be the same files, byte for byte, but for those that hold times; training metrics agree
    value by value, but for times. Of a training with another number of ranks on the way, or on a GPU, whose
    attention adds in no fixed order, losses are compared, within TOLERANCE, and the digests of the rows that
    the updates had. All other stages have the undisturbed run's inputs, and the same bytes on GPUs too.
    """
    counted, is_on_gpu = 0, stage == "finetune" and "cpu" not in {_device(made), _device(wanted)}
    is_exact = same_ranks and not is_on_gpu
    there, expected = made.manifest.files.keys() - {_SET_ASIDE}, wanted.manifest.files.keys()
    faults = [f"{name} is missing" for name in sorted(expected - there)]
    faults += [f"{name} should not be there" for name in sorted(there - expected)]
    if faults:
        return Comparison(f"{len(expected)} files by name", faults)
    if is_exact:
        files = {n: f for n, f in wanted.manifest.files.items() if n not in _TIMED_FILES}
        counted = len(files)
        faults += [name for name, file in files.items() if made.manifest.files.get(name) != file]
    what = [f"{counted} files byte for byte"] if counted else []
    if stage == "finetune":
        mine, other = (
            list(_records(artifact.file("metrics.jsonl"))) for artifact in (made, wanted)
        )
        tolerance = 0.0 if is_exact else TOLERANCE[_precision(wanted)]
        faults += metric_faults(mine, other, tolerance)
        bits = "bit for bit" if is_exact else f"within {tolerance:g}"
        why = " (a GPU's sums have no fixed order)" if is_on_gpu else ""
        what.append(f"losses of {len(other)} records {bits}{why}, and their samples,")
    return Comparison(" and ".join(what) + " as undisturbed", faults)


def metric_faults(made: list[JSON], wanted: list[JSON], tolerance: float) -> list[str]:
    """Say how the records of a training differ from those of another; the first difference only.

    Args:
        made: Records in the order of the file.
        wanted: The other's.
        tolerance: Largest difference of losses; 0 for all values, bit for bit.
    """
    made, wanted = without_clock(made), without_clock(wanted)
    updates = [record["update"] for record in made]
    if updates != [record["update"] for record in wanted]:
        return [f"metrics.jsonl has the records {updates}"]
    for mine, other in zip(made, wanted, strict=True):
        for name in sorted({*mine, *other}):
            if not _agree(name, mine.get(name), other.get(name), tolerance):
                found = f"{mine.get(name)!r}, not {other.get(name)!r}"
                return [f"{name} of update {mine['update']} is {found}"]
    return []


def _agree(name: str, mine: object, other: object, tolerance: float) -> bool:
    if tolerance == 0 or not (isinstance(mine, float) and isinstance(other, float)):
        return mine == other
    return name not in _LOSSES or abs(mine - other) <= tolerance


def _device(artifact: Artifact) -> object:
    return artifact.manifest.metrics["device"]


def _precision(artifact: Artifact) -> str:
    precision: str = artifact.manifest.payload["config"]["precision"]
    return precision


def _records(path: Path) -> Iterator[JSON]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def redone(run_dir: RunDir, stage: str) -> int | None:
    """Return the updates whose records were set aside so far, because they were done again."""
    if stage != "finetune":
        return None
    found = [
        file
        for folder in (run_dir.partial(stage), run_dir.committed(stage))
        if (file := folder / _SET_ASIDE).is_file()
    ]
    return sum("loss" in record for file in found for record in _records(file))


add_drill = drill_command(
    STAGES,
    SummarizationRecipe,
    Rehearsal(
        "demo",
        small,
        EXERCISES,
        compare,
        redone,
        (sys.executable, "-m", "stages"),
        needed="finetune",
    ),
)
