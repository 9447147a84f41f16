"""Named ways to split text into sentences; never one in place of another without saying so."""

from __future__ import annotations

import re
from typing import Literal

from nltk.tokenize import sent_tokenize

from pipeline.errors import DataError

Splitter = Literal["newline", "simple", "punkt"]

_SIMPLE_END = re.compile(r"([.!?][\"')\]]*)\s+(?=[\"'(\[]*[A-Z0-9])")


def split_sentences(text: str, splitter: Splitter) -> list[str]:
    """Return the sentences of a text.

    newline:  one a line
    simple:   after `.`, `!` or `?` (and closing quotes) before a capital or a digit; no abbreviations
    punkt:    nltk's trained English splitter

    Raises:
        DataError: If punkt's data is not installed, with the command that installs it.
    """
    if splitter == "newline":
        parts = text.split("\n")
    elif splitter == "simple":
        parts = _SIMPLE_END.sub(r"\1\n", text).split("\n")
    else:
        try:
            parts = sent_tokenize(text)
        except LookupError as error:
            raise DataError(
                "score.sentences: punkt needs nltk data: run `python -m nltk.downloader punkt_tab` where "
                "there is a network, and set NLTK_DATA to its folder"
            ) from error
    return [part.strip() for part in parts if part.strip()]


def lead(document: str, unit: Literal["sentences", "words"], count: int, splitter: Splitter) -> str:
    """Return the first sentences (one a line) or words of a document."""
    if unit == "words":
        return " ".join(document.split()[:count])
    is_one_line = splitter == "newline" and "\n" not in document
    return "\n".join(split_sentences(document, "simple" if is_one_line else splitter)[:count])
