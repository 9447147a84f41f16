"""How generate's time falls with workers on one machine.

    python benchmarks/bench_workers.py --data FOLDER [--documents COUNT] [--processes COUNT ...] [--append]

Documents of FOLDER/cnndm/test.jsonl, a BART-base of random weights, beam 4, 32 new tokens, 2 documents a
shard, one thread each worker. Wall time from the first claim to the last shard, the start of the workers
and their loading of the model included, each number of processes in a fresh process. `ratio` is the time of
one process / this one's; its limit is the number of cores and what they share: memory bandwidth, clock.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from bench_decode import NEW_TOKENS, read_documents, write_model
from common import in_fresh_process, report, versions

from pipeline.distributed.world import limit_threads, quiet_libraries, use_large_pages

SHARD_ROWS = 2


def main() -> None:
    """Print the table; see the module's text."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="folder of cnndm and gpt2_bpe")
    parser.add_argument("--documents", type=int, default=72)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--append", action="store_true", help="add the table to RESULTS.md")
    parser.add_argument("--seconds", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    limit_threads(1)
    quiet_libraries()
    use_large_pages()
    if arguments.seconds:
        model, encoded, processes = arguments.seconds
        print(json.dumps(seconds(Path(model), Path(encoded), int(processes))))
        return
    with TemporaryDirectory() as folder:
        model = write_model(arguments.data, "base", Path(folder) / "model")
        documents = read_documents(arguments.data, model, arguments.documents)
        encoded = write_encoded(documents, Path(folder) / "encoded")
        times = {
            processes: in_fresh_process(
                *(__file__, "--data", ".", "--seconds", str(model), str(encoded), str(processes))
            )
            for processes in arguments.processes
        }
    lines = [
        versions("torch", "transformers"),
        "",
        f"BART-base, beam 4, fp32, {len(documents)} documents, {NEW_TOKENS} new tokens each, shards of "
        f"{SHARD_ROWS}:",
        "",
        "| processes | ratio of wall time |",
        "| --- | --- |",
    ]
    first = times[arguments.processes[0]]
    lines += [f"| {processes} | {first / wall:.2f} |" for processes, wall in times.items()]
    report("Decoding", [*lines, ""], is_kept=arguments.append)


def write_encoded(documents: list[list[int]], folder: Path) -> Path:
    """Write token ids as encode does."""
    import pyarrow as pa

    folder.mkdir()
    table = pa.table(
        {
            "id": [str(number) for number in range(len(documents))],
            "source_ids": pa.array(documents, pa.list_(pa.int32())),
            "source_tokens_lost": pa.array([0] * len(documents), pa.int32()),
        }
    )
    path = str(folder / "00000.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return folder


def seconds(model: Path, encoded: Path, processes: int) -> float:
    """Return the wall time of all shards."""
    from pipeline.preemption import StopFlag
    from pipeline.shards import Shards, work_through
    from stages.generate.config import GenerateConfig
    from stages.generate.run import ShardWork
    from stages.generate.sources import EncodedSources

    config = GenerateConfig(
        num_beams=4,
        min_length=NEW_TOKENS,
        max_length=NEW_TOKENS + 1,
        no_repeat_ngram_size=3,
        shard_rows=SHARD_ROWS,
        batch_size=SHARD_ROWS,
    )
    with TemporaryDirectory() as folder:
        claims = Path(folder) / "claims"
        claims.mkdir()
        work = ShardWork(config, model, encoded, Path(folder), threads=1)
        count = -(-len(EncodedSources(encoded)) // SHARD_ROWS)
        shards = Shards(work, count, Path(folder), claims)
        start = time.perf_counter()
        for _ in work_through(shards, processes, 1, StopFlag()):
            pass
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
