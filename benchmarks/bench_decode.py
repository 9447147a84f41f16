"""Our beam search against Hugging Face's `generate` and CTranslate2.

    python benchmarks/bench_decode.py --data FOLDER [--models NAME ...] [--beams COUNT ...]
        [--dtypes TYPE ...] [--documents COUNT] [--rounds COUNT] [--trained MODEL] [--slots COUNT]
        [--memory] [--profile] [--append]

Documents of FOLDER/cnndm/test.jsonl cut to the model's positions; no_repeat_ngram_size 3. Models:

- base, large: a BART of random weights with GPT-2's BPE, which never ends a summary: 32 tokens each, all
  documents in one batch;
- `--trained MODEL`: a model that ends its summaries itself, with its own tokenizer; `--slots` documents are
  decoded together: Hugging Face takes the next batch when all are done, ours a document when one is.

Every side decodes the same documents in one process and one thread, in turn; the time is CPU time on a CPU
and wall time on a GPU, the median of the rounds after one that is dropped. `ratio` is Hugging Face's time in
the same type / this side's: more is better. `equal` counts documents with the tokens of Hugging Face in
the the same type: in 16 bits near-ties may fall otherwise. int8 is compared with fp32.

`--memory`: the peak above the weights of 16 documents of 1,024 tokens with beam 6, in fresh processes.
`--profile`: where our time goes, by operation.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from common import in_fresh_process, now, peak_mib, report, versions

from pipeline.distributed.world import limit_threads, quiet_libraries, use_large_pages

VOCABULARY = 50_262
"""GPT-2's BPE with the special tokens; BART's has three more, which CTranslate2 would want as tokens."""
NEW_TOKENS = 32
ENGINES = ("huggingface", "sumpipe")
CT2_TYPES = {"fp32": "float32", "int8": "int8"}

ON_CPU = {"models": ["base"], "beams": [1, 4, 6], "dtypes": ["fp32", "bf16"], "documents": 4}
ON_GPU = {"models": ["large"], "beams": [4], "dtypes": ["bf16"], "documents": 64}
"""What is measured unless the command says otherwise."""

Tokens = list[list[int]]


class Side(NamedTuple):
    """One way to decode."""

    engine: str
    dtype: str

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.engine} {self.dtype}"


def main() -> None:
    """Print the tables; see the module's text."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="folder of cnndm and gpt2_bpe")
    parser.add_argument("--models", nargs="*", choices=["base", "large"])
    parser.add_argument("--beams", nargs="+", type=int)
    parser.add_argument("--dtypes", nargs="+")
    parser.add_argument("--documents", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trained", type=Path, help="a model that ends its summaries itself")
    parser.add_argument("--slots", type=int, default=32, help="with --trained")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--append", action="store_true", help="add the tables to RESULTS.md")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    limit_threads(1)
    quiet_libraries()
    use_large_pages()
    import torch

    torch.set_num_threads(1)
    usual = ON_GPU if torch.cuda.is_available() else ON_CPU
    for name, value in usual.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.peak:
        print(json.dumps(peak(*arguments.peak)))
        return
    lines = [versions("torch", "transformers", *(["ctranslate2"] if has_ct2() else [])), ""]
    with TemporaryDirectory() as folder:
        for model in arguments.models:
            place = write_model(arguments.data, model, Path(folder) / model)
            documents = read_documents(arguments.data, place, arguments.documents)
            for beams in arguments.beams:
                lines += table(place, model, documents, beams, arguments)
            if arguments.memory:
                lines += memory_table(place, model)
        if arguments.trained:
            documents = read_documents(arguments.data, arguments.trained, arguments.documents)
            lines += trained_table(arguments.trained, documents, arguments)
    report("Decoding", lines, is_kept=arguments.append)


def has_ct2() -> bool:
    """Whether CTranslate2 is installed."""
    return find_spec("ctranslate2") is not None


def write_model(data: Path, name: str, folder: Path) -> Path:
    """Write a BART of random weights with GPT-2's BPE."""
    from stages.fetch.config import ScratchModel
    from stages.fetch.scratch import gpt2_bpe, new_model

    sizes = {
        "base": {"d_model": 768, "layers": 6, "heads": 12, "ffn": 3072},
        "large": {"d_model": 1024, "layers": 12, "heads": 16, "ffn": 4096},
    }
    gpt2_bpe(data / "gpt2_bpe", folder)
    new_model(ScratchModel(source="scratch", **sizes[name]), VOCABULARY, 1).save_pretrained(folder)
    return folder


def read_documents(data: Path, folder: Path, count: int) -> Tokens:
    """Return the token ids of the first documents of the test split."""
    from transformers import AutoTokenizer

    with (data / "cnndm" / "test.jsonl").open(encoding="utf-8") as file:
        texts = [json.loads(line)["document"] for _, line in zip(range(count), file, strict=False)]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    most = config["max_position_embeddings"]
    ids: Tokens = tokenizer(texts, truncation=True, max_length=most)["input_ids"]
    return ids


def search_config(beams: int, dtype: str, **settings: Any) -> Any:
    """Return the settings of a search over a model that never ends."""
    from stages.generate.config import SearchConfig

    plain = {"min_length": NEW_TOKENS, "max_length": NEW_TOKENS + 1, "no_repeat_ngram_size": 3}
    return SearchConfig(num_beams=beams, precision=dtype, **{**plain, **settings})


def decoder(side: Side, folder: Path, config: Any, slots: int) -> Callable[[Tokens], Tokens]:
    """Load a model and return what decodes documents with it."""
    if side.engine == "CTranslate2":
        return ct2_decoder(side.dtype, folder, config, slots)
    import torch
    from transformers import BartForConditionalGeneration

    from stages.generate import decoding, huggingface
    from stages.generate.engine import search_of

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    bart = BartForConditionalGeneration.from_pretrained(folder, dtype=dtypes[side.dtype]).eval()
    bart = bart.to("cuda" if torch.cuda.is_available() else "cpu")
    if side.engine == "huggingface":
        return lambda documents: in_order(huggingface.decode(bart, documents, config, slots))
    model, search = decoding.BartModel(bart), search_of(config, bart.config)
    return lambda documents: in_order(decoding.decode(model, documents, search, slots))


def in_order(found: Iterator[tuple[int, Sequence[Any]]]) -> Tokens:
    """Return the best sequence of each document."""
    return [best.token_ids for _, (best, *_) in sorted(found, key=lambda one: one[0])]


def ct2_decoder(dtype: str, folder: Path, config: Any, slots: int) -> Callable[[Tokens], Tokens]:
    """Convert a model and return what decodes with it; a bf16 product is refused by most CPUs."""
    import ctranslate2
    from transformers import AutoTokenizer

    with TemporaryDirectory() as place:
        copied = shutil.copytree(folder, Path(place) / "model")
        path = copied / "config.json"
        # Its converter asks for what transformers 5 no longer writes.
        of_bart = {"normalize_before": False, "normalize_embedding": True}
        path.write_text(json.dumps({**json.loads(path.read_text()), **of_bart}), encoding="utf-8")
        target = str(Path(place) / "converted")
        ctranslate2.converters.TransformersConverter(str(copied)).convert(target)
        translator = ctranslate2.Translator(
            target, compute_type=CT2_TYPES[dtype], inter_threads=1, intra_threads=1
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def decode(documents: Tokens) -> Tokens:
        results = translator.translate_batch(
            [tokenizer.convert_ids_to_tokens(ids) for ids in documents],
            target_prefix=[[tokenizer.bos_token]] * len(documents),
            beam_size=config.num_beams,
            length_penalty=config.length_penalty,
            no_repeat_ngram_size=config.no_repeat_ngram_size,
            min_decoding_length=max(config.min_length - 2, 0),
            max_decoding_length=config.max_length - 2,
            max_batch_size=slots,
            max_input_length=1024,
        )
        return [tokenizer.convert_tokens_to_ids(result.hypotheses[0]) for result in results]

    return decode


def sides(dtypes: Sequence[str]) -> list[Side]:
    """Return who takes part."""
    own = [Side(engine, dtype) for dtype in dtypes for engine in ENGINES]
    return own + ([Side("CTranslate2", dtype) for dtype in CT2_TYPES] if has_ct2() else [])


def rows_of(
    folder: Path, documents: Tokens, config: Callable[[str], Any], slots: int, arguments: Any
) -> list[str]:
    """Return a row of the table for each side."""
    taking_part = sides(arguments.dtypes)
    decoders = {
        side: decoder(side, folder, config(side.dtype if side.dtype != "int8" else "fp32"), slots)
        for side in taking_part
    }
    times: dict[Side, list[float]] = {side: [] for side in taking_part}
    found: dict[Side, Tokens] = {}
    for round_ in range(arguments.rounds + 1):
        for side, decode in decoders.items():
            start = now()
            found[side] = decode(documents)
            if round_:
                times[side].append(now() - start)
            print(f"{side.name}: {now() - start:.2f}", file=sys.stderr, flush=True)
    lines = []
    for side in taking_part:
        peer = Side("huggingface", side.dtype if side.dtype in arguments.dtypes else "fp32")
        if peer not in found:  # int8 and CTranslate2's fp32 where fp32 takes no part
            peer = taking_part[0]
        ratio = statistics.median(times[peer]) / statistics.median(times[side])
        equal = sum(a == b for a, b in zip(found[peer], found[side], strict=True))
        tokens = sum(map(len, found[side])) / len(documents)
        speed = on_gpu(len(documents) / statistics.median(times[side]))
        cells = (side.name, f"{ratio:.2f}", f"{equal} of {len(documents)}", f"{tokens:.1f}", speed)
        lines.append(" | ".join(cells))
    return lines


def on_gpu(documents_a_second: float) -> str:
    """Return a cell that means something on a GPU only."""
    import torch

    return f"{documents_a_second:,.1f}" if torch.cuda.is_available() else "-"


def table(folder: Path, model: str, documents: Tokens, beams: int, arguments: Any) -> list[str]:
    """Return the lines of one table over a model of random weights."""
    if arguments.profile:
        return profile(folder, model, documents, beams, arguments)
    rows = rows_of(
        folder, documents, lambda dtype: search_config(beams, dtype), len(documents), arguments
    )
    lengths = [len(ids) for ids in documents]
    return [
        f"BART-{model}, beam {beams}, {len(documents)} documents of {min(lengths)} to {max(lengths)} tokens, "
        f"{NEW_TOKENS} new tokens each, median of {arguments.rounds} rounds:",
        "",
        "| side | ratio | equal | tokens | documents a second |",
        "| --- | --- | --- | --- | --- |",
        *(f"| {row} |" for row in rows),
        "",
    ]


def trained_table(folder: Path, documents: Tokens, arguments: Any) -> list[str]:
    """Return the lines of the table over a model that ends its summaries itself."""
    settings = {"min_length": 0, "max_length": 142}
    lines = [
        f"A trained model, {len(documents)} documents, {arguments.slots} slots, median of "
        f"{arguments.rounds} rounds:",
        "",
        "| beam | side | ratio | equal | tokens | documents a second |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for beams in arguments.beams:
        rows = rows_of(
            folder,
            documents,
            lambda dtype, beams=beams: search_config(beams, dtype, **settings),
            arguments.slots,
            arguments,
        )
        lines += [f"| {beams} | {row} |" for row in rows]
    return [*lines, ""]


def peak(engine: str, dtype: str, folder: str) -> float:
    """Return the peak above the weights in MiB of 16 documents of 1,024 tokens with beam 6."""
    import random

    rng = random.Random(1)
    documents = [[0, *(rng.randrange(4, 50_000) for _ in range(1022)), 2] for _ in range(16)]
    decode = decoder(Side(engine, dtype), Path(folder), search_config(6, dtype), len(documents))
    decode([documents[0][:8]])  # what a first call allocates for good
    return peak_mib(lambda: decode(documents))


def memory_table(folder: Path, model: str) -> list[str]:
    """Return the lines of the table of peak memory."""
    lines = [
        f"BART-{model}, beam 6, 16 documents of 1,024 tokens, {NEW_TOKENS} new tokens: peak memory above "
        "the weights",
        "",
        "| side | peak | of Hugging Face's |",
        "| --- | --- | --- |",
    ]
    for dtype in ("fp32", "bf16"):
        peaks = {
            engine: in_fresh_process(__file__, "--data", ".", "--peak", engine, dtype, str(folder))
            for engine in ENGINES
        }
        for engine, mib in peaks.items():
            share = mib / peaks["huggingface"]
            lines.append(f"| {engine} {dtype} | {mib:,.0f} MiB | {share:.2f} |")
    return [*lines, ""]


def profile(folder: Path, model: str, documents: Tokens, beams: int, arguments: Any) -> list[str]:
    """Return where the time of our decoding goes, by operation."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    lines = []
    for dtype in arguments.dtypes:
        decode = decoder(
            Side("sumpipe", dtype), folder, search_config(beams, dtype), len(documents)
        )
        decode(documents)
        with profiled(activities=[ProfilerActivity.CPU]) as found:
            decode(documents)
        events = found.key_averages()
        total = sum(event.self_cpu_time_total for event in events)
        top = sorted(events, key=lambda event: -event.self_cpu_time_total)[:14]
        lines += [f"BART-{model} {dtype}, beam {beams}: share of CPU time by operation", ""]
        lines += [
            f"- {event.key}: {100 * event.self_cpu_time_total / total:.1f} % in {event.count} calls"
            for event in top
        ]
        lines.append("")
    return lines


if __name__ == "__main__":
    main()
