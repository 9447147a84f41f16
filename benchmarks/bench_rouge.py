"""ROUGE against rouge-score, which it equals bit by bit: on one core, by two processes, and in memory.

    python benchmarks/bench_rouge.py --data FOLDER [--pairs COUNT] [--rounds COUNT] [--append]

Pairs as many (11,490) and as long as those of CNN/DailyMail's test set, all distinct: outputs of 25 systems
and references of FOLDER/scoring_realsumm, in each about one word in twenty exchanged for another of the set.
All four types, precision, recall and F, with the stemmer, a sentence a line. One core: CPU time of
rouge-score's `score` and of ours on the same texts in memory, stems not yet known. Processes: wall time of
what `sumpipe score` does before it resamples, from files to files, with the other measures; all pairs less a
quarter of them, so that the start of processes, which takes as long for any number of pairs, does not count:
it needs two idle cores, and how much of them there was stands below it (CPU time / wall time). Each figure is
the median of rounds in which all variants take turns, each in a fresh process. `memory` is the largest
resident set of any process that took part.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from common import in_fresh_process, machine_scaling, report, versions

from pipeline.distributed.world import limit_threads
from stages.score.rouge import ROUGE_TYPES

EXCHANGED = 0.05
_IDLE = (0.95, 1.7)
"""Cores that one process, and two with their parent, have on a machine without other work."""
Pair = tuple[str, str]


def main() -> None:
    """Print the table; see the module's text."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="folder of scoring_realsumm")
    parser.add_argument("--pairs", type=int, default=11_490)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--append", action="store_true", help="add the table to RESULTS.md")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    limit_threads(1)
    if arguments.measure:
        folder, variant, processes = arguments.measure
        print(json.dumps(measure(Path(folder), variant, int(processes))))
        return
    found: dict[str, list[dict[str, float]]] = {}
    with TemporaryDirectory() as root:
        pairs = distinct_pairs(arguments.data, arguments.pairs)
        folders = {"whole": pairs, "quarter": pairs[: len(pairs) // 4]}
        for name, some in folders.items():
            write(Path(root) / name, some)
        variants = [("whole", "theirs", 1), ("whole", "ours", 1)]
        variants += [(name, "files", count) for name in folders for count in (1, 2)]
        for _ in range(arguments.rounds):
            for name, variant, count in variants:
                one = in_fresh_process(
                    *(__file__, "--data", ".", "--measure", f"{root}/{name}", variant, str(count))
                )
                found.setdefault(f"{variant} {name} {count}", []).append(one)
    seconds = {key: statistics.median(it["seconds"] for it in all_) for key, all_ in found.items()}
    memory = {key: max(it["mebibytes"] for it in all_) for key, all_ in found.items()}
    cores = {
        count: statistics.median(it["cores"] for it in found[f"files whole {count}"])
        for count in (1, 2)
    }
    one, two = (
        seconds[f"files whole {count}"] - seconds[f"files quarter {count}"] for count in (1, 2)
    )
    words = [
        statistics.mean(len(text.split()) for text in texts) for texts in zip(*pairs, strict=True)
    ]
    lines = [
        versions("rouge-score", "nltk"),
        "",
        f"{len(pairs):,} pairs of {words[0]:.0f} and {words[1]:.0f} words, medians of {arguments.rounds}:",
        "",
        "| question | figure |",
        "| --- | --- |",
        f"| one core, rouge-score / ours | {seconds['theirs whole 1'] / seconds['ours whole 1']:.1f} |",
        f"| ours from files to files, 1 process / 2 | {faster(one, two)} |",
        f"| the same of two loops that share nothing, on this machine | {machine_scaling():.2f} |",
        f"| cores that 1 process had, and 2 with their parent | {cores[1]:.2f}, {cores[2]:.2f} |",
        "| memory of one process, all pairs / a quarter of them | "
        f"{memory['files whole 1'] / memory['files quarter 1']:.2f} |",
        "| memory of the largest of 2 processes and their parent, likewise | "
        f"{memory['files whole 2'] / memory['files quarter 2']:.2f} |",
    ]
    report("ROUGE", [*lines, *load_note(cores[1], cores[2]), ""], is_kept=arguments.append)


def faster(one: float, two: float) -> str:
    """Return the ratio of two differences of times; noise makes them negative where pairs are few."""
    return (
        f"{one / two:.2f}" if min(one, two) > 0 else "not to be told: too few pairs, or other work"
    )


def load_note(one: float, two: float) -> list[str]:
    """Say whether the machine was busy with other work: then wall times say little of two processes.

    Args:
        one: Cores that a single process had.
        two: Those of two workers and their parent.
    """
    if one >= _IDLE[0] and two >= _IDLE[1]:
        return []
    return [
        "",
        "The machine had other work, or few pairs keep the start of processes in view: on idle cores one "
        f"process has {_IDLE[0]} of a core or more, two {_IDLE[1]}; 1 process / 2 says little here.",
    ]


def distinct_pairs(data: Path, count: int) -> list[Pair]:
    """Return as many pairs of a prediction and a reference, no two texts of a kind equal."""
    folder = data / "scoring_realsumm"
    references = [
        "\n".join(line.replace("<t>", "").split("</t>"))
        for line in (folder / "references.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    ]
    pairs = [
        (line.replace(" . ", " .\n"), reference)
        for path in sorted((folder / "summaries").iterdir())
        for line, reference in zip(
            path.read_text(encoding="utf-8").rstrip("\n").split("\n"), references, strict=True
        )
    ]
    draw = random.Random(1)
    draw.shuffle(pairs)
    vocabulary = sorted({word for pair in pairs for text in pair for word in text.split()})

    def changed(text: str) -> str:
        words = text.replace("\n", " \n ").split(" ")
        for place in draw.sample(range(len(words)), k=2 + int(EXCHANGED * len(words))):
            words[place] = draw.choice(vocabulary)
        return " ".join(words)

    found = [tuple(map(changed, pairs[number % len(pairs)])) for number in range(count)]
    for texts in zip(*found, strict=True):
        assert len(set(texts)) == count
    return found


def write(folder: Path, pairs: list[Pair]) -> None:
    """Write the files that `sumpipe score` reads."""
    folder.mkdir()
    for number, name in enumerate(("predictions", "references")):
        rows = [json.dumps({"text": pair[number]}) for pair in pairs]
        (folder / name).write_text("\n".join(rows), encoding="utf-8")


def measure(folder: Path, variant: str, processes: int) -> dict[str, float]:
    """Return time, s (CPU time on one core, else wall time), cores had, and peak memory, MiB."""
    if variant == "files":
        seconds, cores = from_files(folder, processes)
    else:
        seconds, cores = {"theirs": theirs, "ours": ours}[variant](read(folder)), 1.0
    usages = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return {
        "seconds": seconds,
        "cores": cores,
        "mebibytes": max(resource.getrusage(usage).ru_maxrss for usage in usages) / 1024,
    }


def cpu_seconds() -> float:
    """Return the CPU time, s, of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def read(folder: Path) -> list[Pair]:
    """Read the pairs that `write` wrote."""
    texts = [
        [json.loads(line)["text"] for line in (folder / name).read_text("utf-8").split("\n")]
        for name in ("predictions", "references")
    ]
    return list(zip(*texts, strict=True))


def theirs(pairs: list[Pair]) -> float:
    """Return rouge-score's CPU time, s."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGE_TYPES), use_stemmer=True)
    start = time.process_time()
    for prediction, reference in pairs:
        scorer.score(reference, prediction)
    return time.process_time() - start


def ours(pairs: list[Pair]) -> float:
    """Return our CPU time, s."""
    from stages.score.profiles import reader
    from stages.score.rouge import rouge

    read = reader("rouge-score", None, None)
    start = time.process_time()
    for prediction, reference in pairs:
        rouge(read.prediction(prediction), read.reference(reference))
    return time.process_time() - start


def from_files(folder: Path, processes: int) -> tuple[float, float]:
    """Return the wall time, s, from bare files to the files of each row's figures, and the cores had."""
    from stages.score.bare import paired
    from stages.score.config import LeadConfig
    from stages.score.profiles import reader
    from stages.score.scoring import Scorer, score_rows

    scorer = Scorer((reader("rouge-score", None, None),), (), LeadConfig())
    rows = paired(folder / "predictions", folder / "references")
    start, before = time.perf_counter(), cpu_seconds()
    with TemporaryDirectory() as out:
        score_rows(rows, scorer, Path(out), processes)
    seconds = time.perf_counter() - start
    return seconds, (cpu_seconds() - before) / seconds


if __name__ == "__main__":
    main()
