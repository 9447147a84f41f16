"""Lines of text files, plain or compressed, each in bounded memory."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from pipeline.errors import DataError, storage_error
from stages.fetch.refusals import input_errors

_BUFFER = 1 << 20
_BOM = b"\xef\xbb\xbf"
_NOT_BESIDE_QUOTES = re.compile(rb'(?<=[^"])[^"]+(?=[^"])')


class Line(NamedTuple):
    """A line with its end."""

    text: str
    fault: str = ""
    """Why it cannot be used. Of a line over the limit the text is then its first and last characters, double
    quotes and what stands beside them, from which the reader of CSV knows where the record ends."""


def text_lines(path: Path, codec: str | None, max_bytes: int) -> Iterator[Line]:
    r"""Read lines of UTF-8; they end with `\n` alone, and a byte order mark is passed over.

    Args:
        path: The file.
        codec: Its compression by Arrow's name, None for a plain file.
        max_bytes: Bytes that a line may have; of a longer one no more is kept.

    Raises:
        DataError: If the file cannot be opened, or not read to its end, as when it was cut short; or has no
            line.
    """
    try:
        with input_errors(path), contextlib.ExitStack() as stack:
            file = _opened(path, codec, stack)
            for number in itertools.count(1):
                line = file.readline(max_bytes + 1)
                if not line:
                    if number == 1:
                        raise DataError(
                            f"{path}: is empty, without even a line; bring it again or leave it out"
                        )
                    return
                bare = line.removeprefix(_BOM) if number == 1 else line
                if len(line) <= max_bytes:
                    yield _decoded(bare)
                    continue
                kept = _NOT_BESIDE_QUOTES.sub(b"", bare)
                while line and not line.endswith(b"\n"):
                    line = file.readline(_BUFFER)
                    if len(kept) <= max_bytes:
                        kept += _NOT_BESIDE_QUOTES.sub(b"", line)
                fault = (
                    f"is longer than {max_bytes} bytes, the limit of fetch.dataset.max_line_bytes"
                )
                yield Line(kept.decode("latin-1"), fault)
    except (OSError, pa.ArrowInvalid) as error:
        if isinstance(error, OSError) and storage_error(error):
            raise
        cut_short = "; it was cut short or damaged: bring it again" if codec else ""
        raise DataError(f"{path}: cannot be read to its end ({error}){cut_short}") from error


def _opened(path: Path, codec: str | None, stack: contextlib.ExitStack) -> io.BufferedReader:
    if codec is None:
        return stack.enter_context(io.BufferedReader(path.open("rb", buffering=0), _BUFFER))
    packed = stack.enter_context(pa.OSFile(str(path)))
    stream = stack.enter_context(pa.CompressedInputStream(packed, codec))
    return stack.enter_context(io.BufferedReader(stream, _BUFFER))


def _decoded(line: bytes) -> Line:
    try:
        return Line(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        fault = f"is not UTF-8 ({error.reason} at byte {error.start + 1})"
        return Line(line.decode("utf-8", "replace"), fault)
