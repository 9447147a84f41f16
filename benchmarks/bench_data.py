"""clean and encode against `datasets.map` with the same functions, and how they grow.

    python benchmarks/bench_data.py --data FOLDER [--documents COUNT] [--rounds COUNT] [--append]

Documents of FOLDER/cnndm, repeated with new ids up to COUNT (100,000), as fetch leaves them, and GPT-2's BPE.
Wall time of both stages, the start of workers, the comparison of near duplicates and the ledger included. The
peer does not compare: it maps our functions of one row, and of one batch of texts, with as many processes.
Each figure is the median of rounds in which all variants take turns, each in a fresh process; no round begins
after --minutes (60). `memory` is the largest resident set of any process that took part, with all documents
and, in the first round, with a quarter of them. The times themselves are told as they come.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import in_fresh_process, machine_scaling, report, versions

from pipeline.distributed.world import World, limit_threads, quiet_libraries

LIMITS = {"max_source_tokens": 1024, "max_target_tokens": 142}
VARIANTS = ("ours 1", "ours 2", "datasets 2")
"""Who, and with how many processes."""


def main() -> None:
    """Print the table; see the module's text."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="folder of cnndm and gpt2_bpe")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3, help="1 or more")
    parser.add_argument("--minutes", type=float, default=60, help="after which no round begins")
    parser.add_argument("--append", action="store_true", help="add the table to RESULTS.md")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    limit_threads(1)
    quiet_libraries()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure[0], Path(arguments.measure[1]))))
        return
    found: dict[str, list[dict[str, float]]] = {}
    start = time.monotonic()
    with TemporaryDirectory() as folder:
        whole, quarter = Path(folder) / "whole", Path(folder) / "quarter"
        write_run(arguments.data, arguments.documents, whole)
        write_run(arguments.data, arguments.documents // 4, quarter)
        for number in range(arguments.rounds):
            if number and time.monotonic() - start > 60 * arguments.minutes:
                break
            turns = [(variant, variant, whole) for variant in VARIANTS]
            if number == 0:
                turns.append(("ours 2 quarter", "ours 2", quarter))
            for name, variant, run in turns:
                one = in_fresh_process(__file__, "--data", ".", "--measure", variant, str(run))
                found.setdefault(name, []).append(one)
                told = f"{one['seconds']:.1f} s, {one['mebibytes']:.0f} MiB"
                print(f"round {number + 1}, {name}: {told}", file=sys.stderr)
    seconds = {
        name: statistics.median(one["seconds"] for one in all_) for name, all_ in found.items()
    }
    memory = {name: max(one["mebibytes"] for one in all_) for name, all_ in found.items()}
    lines = [
        versions("datasets", "tokenizers", "rensa"),
        "",
        f"{arguments.documents:,} documents, medians of {len(found[VARIANTS[0]])}:",
        "",
        "| question | figure |",
        "| --- | --- |",
        "| clean + encode, datasets.map / ours, 2 processes each | "
        f"{seconds['datasets 2'] / seconds['ours 2']:.2f} |",
        f"| ours, 1 process / 2 | {seconds['ours 1'] / seconds['ours 2']:.2f} |",
        f"| the same of two loops that share nothing, on this machine | {machine_scaling():.2f} |",
        f"| memory, all documents / a quarter of them | {memory['ours 2'] / memory['ours 2 quarter']:.2f} |",
        f"| memory, ours / datasets.map | {memory['ours 2'] / memory['datasets 2']:.2f} |",
    ]
    report("Data", [*lines, ""], is_kept=arguments.append)


def write_run(data: Path, documents: int, root: Path) -> None:
    """Leave what fetch leaves: rows and a tokenizer."""
    from transformers import BartConfig

    from pipeline.artifact import RunDir
    from stages.fetch.scratch import gpt2_bpe
    from stages.schema import SPLITS, RawRow, write_shards

    given = []
    for split in SPLITS:
        text = (data / "cnndm" / f"{split}.jsonl").read_text(encoding="utf-8")
        given += [json.loads(line) for line in text.splitlines()]
    run_dir = RunDir(root)
    work = run_dir.open_partial("fetch", {"stage": "fetch"})
    for split, count in (("train", documents), ("valid", 100), ("test", 100)):
        rows = (
            RawRow(
                f"{split}-{number}",
                given[number % len(given)]["document"],
                given[number % len(given)]["summary"],
                f"{split}:{number}",
            )
            for number in range(count)
        )
        write_shards(work / "raw" / split, rows)
    (work / "model").mkdir()
    gpt2_bpe(data / "gpt2_bpe", work / "model")
    BartConfig().save_pretrained(work / "model")
    run_dir.commit("fetch", {"stage": "fetch"}, {}, {})


def measure(variant: str, root: Path) -> dict[str, float]:
    """Return wall time, s, and peak resident memory, MiB, of one variant."""
    who, processes = variant.split()
    start = time.perf_counter()
    with TemporaryDirectory(dir=root.parent) as folder:
        (ours if who == "ours" else theirs)(root, int(processes), Path(folder))
    seconds = time.perf_counter() - start
    usages = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(usage).ru_maxrss for usage in usages)
    return {"seconds": seconds, "mebibytes": peak / 1024}


def ours(root: Path, processes: int, folder: Path) -> None:
    """Run both stages."""
    from pipeline.artifact import RunDir
    from pipeline.log import Progress
    from pipeline.preemption import StopFlag
    from pipeline.stage import Execution, StageContext
    from stages.clean.config import CleanConfig
    from stages.clean.run import run as clean
    from stages.encode.config import EncodeConfig
    from stages.encode.run import run as encode

    run_dir = RunDir(folder)
    fetched = RunDir(root).artifact("fetch")
    assert fetched is not None
    inputs = {"fetch": fetched}
    stages: list[tuple[str, Any, Any]] = [
        ("clean", clean, CleanConfig()),
        ("encode", encode, EncodeConfig(**LIMITS)),
    ]
    for name, function, config in stages:
        payload = {"stage": name}
        context = StageContext(
            inputs=inputs,
            work=run_dir.open_partial(name, payload),
            seed=1,
            world=World(),
            execution=Execution(processes, 1, Path("none.json")),
            stop=StopFlag(),
            progress=Progress(name, None, console=False),
            guard=lambda: None,
        )
        inputs = {**inputs, name: run_dir.commit(name, payload, function(config, context), {})}


def theirs(root: Path, processes: int, folder: Path) -> None:
    """Map the same functions over the same files."""
    import datasets

    from stages.clean.cleaned import CleanedRows
    from stages.clean.config import CleanConfig
    from stages.clean.filters import KEPT
    from stages.encode.config import EncodeConfig
    from stages.encode.rows import encoded as encode_rows
    from stages.encode.run import tokenizer_of
    from stages.schema import SPLITS, Example, RawRow

    files = {split: str(root / "fetch" / "raw" / split / "*.jsonl") for split in SPLITS}
    rows = datasets.load_dataset("json", data_files=files, cache_dir=str(folder / "cache"))
    cleaner = CleanedRows(folder, CleanConfig(), ())
    tokenizer, frame = tokenizer_of(root / "fetch" / "model")
    config = EncodeConfig(**LIMITS)

    def clean(row: dict[str, Any]) -> dict[str, Any]:
        return cleaner.record(RawRow(**row))

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        fields = zip(batch["id"], batch["document"], batch["summary"], strict=True)
        found: dict[str, list[Any]] = encode_rows(
            tokenizer, frame, [Example(*values) for values in fields], config
        ).to_pydict()
        return found

    cleaned = rows.map(clean, num_proc=processes)
    kept = cleaned.filter(lambda row: row["outcome"] == KEPT, num_proc=processes)
    names = kept["train"].column_names
    encoded = kept.map(encode, batched=True, num_proc=processes, remove_columns=names)
    encoded.save_to_disk(str(folder / "encoded"), num_proc=processes)


if __name__ == "__main__":
    main()
