"""What a run has taken: time, devices, tokens, memory, as far as it was recorded."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

from stages.report.facts import Facts
from stages.report.tables import NO_CELL, Table
from stages.report.wording import amount, duration, hours, roughly

_GIB = 1 << 30
_CPU = "cpu"


class Cost(NamedTuple):
    """The price of the training, over all of its launches."""

    seconds: float
    """In updates; validation and checkpoints are not counted."""
    repeated_seconds: float
    """Spent on updates that an interruption made vain; not in `seconds`."""
    tokens: int
    """Source and target tokens, padding and passes not counted; about, from rounded rates and times."""
    target_tokens: int
    devices: tuple[int, ...]
    """How many at a time, in the order of the launches; empty if no record has it and no launch has ended."""
    device_hours: float | None
    """Hours of all devices together, those of each launch for its updates, vain ones included."""
    device: str | None
    """What rank 0 trained on: the GPU's name, or cpu; None of a training that is not committed."""
    peak_memory_bytes: int | None
    """Of the device that held most; None where it was not recorded."""

    @property
    def is_gpu(self) -> bool:
        """Whether the training is known to have been on GPUs."""
        return self.device not in (None, _CPU)

    @property
    def counts(self) -> str:
        """How many devices at a time, in words: `64, then 8`; empty if not known."""
        return ", then ".join(f"{count:,}" for count in self.devices)

    @property
    def device_words(self) -> str:
        """How many devices of which kind, such as `64, then 8 x NVIDIA H200`; empty if not known."""
        if not self.devices:
            return ""
        if self.is_gpu:
            return f"{self.counts} x {self.device}"
        kind = "process" if self.device is None else "CPU process"
        return f"{self.counts} {kind}{'es' if self.devices[-1] > 1 else ''}"


def training_cost(facts: Facts) -> Cost:
    """Add up what the records of the training say."""
    memory = facts.metric("finetune", "peak_memory_bytes")
    last = facts.launch("finetune").get("world_size")
    timed = [one for one in (*facts.curve, *facts.repeated) if one.get("seconds")]
    shared = [(one["seconds"], one.get("devices", last)) for one in timed]
    counts = [one.get("devices", last) for one in facts.curve if one.get("seconds")] or [last]
    return Cost(
        seconds=_total(facts.curve, "seconds"),
        repeated_seconds=_total(facts.repeated, "seconds"),
        tokens=round(
            sum(
                record["seconds"] * record["tokens_per_second"]
                for record in facts.curve
                if record.get("seconds") and record.get("tokens_per_second")
            )
        ),
        target_tokens=round(_total(facts.curve, "target_tokens")),
        devices=tuple(count for count, _ in itertools.groupby(counts) if count is not None),
        device_hours=None
        if not shared or any(count is None for _, count in shared)
        else sum(seconds * count for seconds, count in shared) / 3600,
        device=_device(facts),
        peak_memory_bytes=None if memory is None else int(memory),
    )


def _device(facts: Facts) -> str | None:
    finetune = facts.inputs.get("finetune")
    if finetune is None:
        return None
    if (recorded := facts.metric("finetune", "device")) is not None:
        return str(recorded)
    # Of a run from before it was recorded: what nvidia-smi said of the machine.
    gpus = finetune.manifest.provenance.get("gpus")
    return gpus[0].partition(",")[0] if gpus else _CPU


def _total(records: Iterable[dict[str, Any]], name: str) -> float:
    return sum(record.get(name) or 0 for record in records)


def cost_list(facts: Facts) -> list[tuple[str, str]]:
    """Return the price of the training in words; nothing if it has not begun."""
    if not facts.curve:
        return []
    cost = training_cost(facts)
    is_done = "finetune" in facts.inputs
    unit = "GPU hours" if cost.is_gpu else "Process hours (no GPU)" if is_done else "Device hours"
    told = [
        (
            unit,
            "not known before the training is committed"
            if cost.device_hours is None
            else hours(cost.device_hours),
        ),
        ("Time in updates", duration(cost.seconds)),
        ("Tokens", f"about {roughly(cost.tokens)}, {cost.target_tokens:,} of them targets"),
        ("Devices", _devices(facts, cost)),
        ("Peak memory", _memory(cost)),
    ]
    if profile := facts.launch("finetune").get("ds_profile"):
        told.append(("Sharding profile", f"{profile}, of the last launch"))
    if cost.repeated_seconds:
        told.insert(2, ("Lost to interruptions", duration(cost.repeated_seconds)))
    return told


def _devices(facts: Facts, cost: Cost) -> str:
    told = cost.device_words or "not known yet"
    is_assumed = cost.devices and any(
        "devices" not in one for one in facts.curve if one.get("seconds")
    )
    return (
        f"{told} (earlier launches are taken for the same)"
        if is_assumed and facts.interruptions
        else told
    )


def _memory(cost: Cost) -> str:
    if cost.peak_memory_bytes is None:
        return "not recorded"
    where = "of the GPU that held most" if cost.is_gpu else "of host memory, the largest process"
    return f"{cost.peak_memory_bytes / _GIB:,.2f} GiB {where}, since its last start"


def stage_table(facts: Facts) -> Table:
    """Return what each stage's last launch took."""
    rows = []
    for stage, artifact in facts.inputs.items():
        launch, seconds = facts.launch(stage), facts.launch(stage).get("seconds_wall")
        size = sum(file.bytes for file in artifact.manifest.files.values())
        rows.append(
            (
                stage,
                NO_CELL if seconds is None else duration(seconds),
                *(amount(launch.get(name)) for name in ("world_size", "processes", "threads")),
                f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB",
            )
        )
    return Table(("Stage", "Last launch", "Ranks", "Processes", "Threads", "On disk"), rows)
