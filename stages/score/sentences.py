"""Named ways to split text into sentences; never one in place of another without saying so."""

from __future__ import annotations

import functools
import hashlib
import re
from typing import Literal

import nltk.data
from nltk.tokenize import sent_tokenize

from pipeline.errors import DataError
from stages.score.config import Splitter
from stages.score.nltk_data import whole_archive

_PUNKT_FILES = ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt")
_PUNKT = "tokenizers/punkt_tab"
_FIELD = "score.sentences"
_NO_PUNKT = (
    f"{_FIELD}: punkt needs nltk data: run `python -m nltk.downloader punkt_tab` where there is a "
    "network, and set NLTK_DATA to its folder; or choose another (--sentences)"
)
_SIMPLE_END = re.compile(r"([.!?][\"')\]]*)\s+(?=[\"'(\[]*[A-Z0-9])")


def split_sentences(text: str, splitter: Splitter) -> list[str]:
    """Return the sentences of a text; a line break ends one whatever the splitter.

    newline:  one a line
    simple:   after `.`, `!` or `?` (and closing quotes) before a capital or a digit; no abbreviations
    punkt:    nltk's trained English splitter, as Hugging Face's run_summarization.py has it

    Raises:
        DataError: If punkt's data is not installed, or damaged, with the command that installs it.
    """
    if splitter == "simple":
        text = _SIMPLE_END.sub(r"\1\n", text)
    elif splitter == "punkt":
        try:
            with whole_archive(_PUNKT, _FIELD):
                text = "\n".join(sent_tokenize(text))
        except LookupError as error:
            raise DataError(_NO_PUNKT) from error
    return [part.strip() for part in text.split("\n") if part.strip()]


DOCUMENT_WORDS = {
    "newline": "a line each, those of a document in one line by simple",
    "simple": "simple",
    "punkt": "punkt",
}
"""How sentences of documents are found, for people."""


# Lead, oracle and what is said of them follow each other on one document.
@functools.lru_cache(maxsize=1)
def document_sentences(document: str, splitter: Splitter) -> tuple[str, ...]:
    """Return the sentences of a document; one without line breaks is not taken for a single sentence."""
    is_one_line = splitter == "newline" and "\n" not in document.strip()
    return tuple(split_sentences(document, "simple" if is_one_line else splitter))


def lead(document: str, unit: Literal["sentences", "words"], count: int, splitter: Splitter) -> str:
    """Return the first sentences (one a line) or words of a document."""
    if unit == "words":
        return " ".join(document.split()[:count])
    return "\n".join(document_sentences(document, splitter)[:count])


def punkt_sha256() -> str:
    """Return the sha256 (hex) of punkt's English data in use: figures of other data are not the same.

    Raises:
        DataError: If it is not installed, or damaged.
    """
    digest = hashlib.sha256()
    for name in _PUNKT_FILES:
        try:
            with (
                whole_archive(_PUNKT, _FIELD),
                nltk.data.find(f"{_PUNKT}/english/{name}").open() as file,
            ):
                digest.update(file.read())
        except LookupError as error:
            raise DataError(_NO_PUNKT) from error
    return digest.hexdigest()
