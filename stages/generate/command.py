"""`sumpipe summarize`: its options, its streams and its exit codes; torch comes once they are right."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import typer

from pipeline.distributed.world import limit_threads, thread_count, visible_gpus
from pipeline.errors import EXIT_FAILED, ConfigError
from pipeline.filter import as_filter
from stages.generate.chosen_model import choose_model
from stages.generate.documents import FIELD_FORMATS, Format, format_of, read_documents, sniff
from stages.generate.streams import STDIN, opened, published, size_of
from stages.generate.told import Tally, introduce, progress, say
from stages.tokens import Policy

_SHAPES = {
    "lines": "one document a line",
    "document": "one document",
    "jsonl": "one JSON object a line",
    "csv": "CSV with a header",
}

Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A run directory, or the folder of a BART model.")
]
File = Annotated[Path, typer.Argument(metavar="FILE", help="Documents; - or nothing for stdin.")]
InputFormat = Annotated[
    Literal["auto", "lines", "document", "jsonl", "csv"],
    typer.Option(
        "--input-format",
        help="lines: a document a line; document: all is one; auto: by suffix or first character.",
    ),
]
Field = Annotated[
    str | None,
    typer.Option(
        "--field",
        help="Field with the document (jsonl, csv); default document, article, text or source.",
    ),
]
OutputFormat = Annotated[
    Literal["auto", "text", "jsonl"],
    typer.Option("--output-format", help="auto: text for text, jsonl for jsonl and csv."),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="A file, which appears when it is whole; default stdout."),
]
NumBeams = Annotated[int | None, typer.Option("--num-beams", min=1, help="Beam width.")]
MinLength = Annotated[
    int | None, typer.Option("--min-length", min=0, help="Fewest tokens of a summary.")
]
MaxLength = Annotated[
    int | None, typer.Option("--max-length", min=2, help="Most tokens of a summary.")
]
LengthPenalty = Annotated[
    float | None, typer.Option("--length-penalty", help="Above 1 favours longer summaries.")
]
NoRepeat = Annotated[
    int | None,
    typer.Option("--no-repeat-ngram-size", min=0, help="No n-gram comes twice; 0: they may."),
]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16"] | None, typer.Option("--precision", help="Of the model.")
]
BatchTokens = Annotated[
    int,
    typer.Option("--batch-tokens", min=1, help="Tokens of documents that are decoded together."),
]
Processes = Annotated[
    int | None,
    typer.Option("--processes", min=1, help="Processes; default the GPUs there are, else 1."),
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda or cuda:N; default a GPU if there is one.")
]
Truncation = Annotated[
    Policy | None,
    typer.Option(
        "--truncation",
        help="Documents that are too long: what to keep, or fail them; default as the run did, else head.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but failures on stderr.")]


def add_summarize(app: typer.Typer) -> None:
    """Add the command to the project's command line."""

    @app.command("summarize")
    def summarize_command(
        model: Model,
        file: File = STDIN,
        input_format: InputFormat = "auto",
        field: Field = None,
        output: Output = None,
        output_format: OutputFormat = "auto",
        num_beams: NumBeams = None,
        min_length: MinLength = None,
        max_length: MaxLength = None,
        length_penalty: LengthPenalty = None,
        no_repeat_ngram_size: NoRepeat = None,
        precision: Precision = None,
        batch_tokens: BatchTokens = 16384,
        processes: Processes = None,
        device: Device = None,
        truncation: Truncation = None,
        quiet: Quiet = False,
    ) -> None:
        """Summarise documents: text, JSONL or CSV in, one summary a line or JSONL out."""
        options = {
            "num_beams": num_beams,
            "min_length": min_length,
            "max_length": max_length,
            "length_penalty": length_penalty,
            "no_repeat_ngram_size": no_repeat_ngram_size,
            "precision": precision,
        }
        given = {name: value for name, value in options.items() if value is not None}
        gpus = len(visible_gpus()) if device in {None, "cuda"} else 0
        count, threads = processes or gpus or 1, thread_count()
        limit_threads(threads)
        with as_filter():
            chosen = choose_model(model, given, truncation)
            with opened(file) as stream, published(output) as out:
                from stages.generate.summaries import Summarize, chosen_device, renderer, summarize

                place = chosen_device(device, count)
                if not quiet:
                    introduce(chosen, place)
                form, lines = _form(input_format, file, stream, field, quiet=quiet)
                documents = read_documents(lines, form, field)
                render = renderer(output_format, form)
                work = Summarize(chosen, batch_tokens, place, threads)
                size, tally = size_of(stream), Tally()
                read = stream.tell if size else lambda: 0
                done = summarize(work, documents, read, count, one_by_one=stream.isatty())
                with contextlib.closing(done), progress(size, quiet=quiet) as tell:
                    for portion in done:
                        out.write("".join(map(render, portion.predictions)).encode("utf-8"))
                        out.flush()
                        tally.add(portion.predictions)
                        tell(tally.documents, portion.bytes_read)
        tally.conclude(quiet=quiet)
        if tally.failed:
            raise typer.Exit(EXIT_FAILED)


def _form(
    asked: Literal["auto"] | Format, file: Path, stream: BinaryIO, field: str | None, *, quiet: bool
) -> tuple[Format, Iterator[bytes]]:
    """Settle how the input is read, and say so.

    Raises:
        ConfigError: If a field is wanted of an input without fields.
    """
    lines: Iterator[bytes] = iter(stream)
    name = "stdin" if file == STDIN else str(file)
    if stream.isatty():
        say("reads from this terminal; Ctrl-D ends")
    if asked != "auto":
        form: Format = asked
    elif (told := format_of(file)) is not None:
        form = told
    else:
        form, lines = sniff(lines)
    if field is not None and form not in FIELD_FORMATS:
        raise ConfigError(
            f"--field {field}: {name} is read as {form}, which has no fields; "
            "give --input-format jsonl or csv"
        )
    if not quiet:
        say(f"reads {name} as {form}: {_SHAPES[form]}")
    return form, lines
