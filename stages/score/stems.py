"""Named ways to reduce a word to its stem; words of up to three characters stay as they are."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import nltk.data
from nltk.stem.porter import PorterStemmer

from pipeline.errors import DataError
from stages.score.nltk_data import whole_archive

Stemmer = Literal["none", "porter-nltk", "porter-wordnet"]

STEMMER_WORDS = {
    "none": "none",
    "porter-nltk": "Porter with nltk's extensions, words of more than 3 characters",
    "porter-wordnet": "WordNet's exceptions, else the original Porter, words of more than 3 characters",
}
"""What each does, for people."""

_KNOWN = {
    "adj.exc": (1000, "worst bad"),
    "adv.exc": (5, "best well"),
    "noun.exc": (1000, "geese goose"),
    "verb.exc": (1000, "went go"),
}
"""Fewest entries of a list, and one that it has; WordNet 3.0 has 1,490, 7, 2,054 and 2,401."""
EXCEPTION_LISTS = tuple(_KNOWN)
"""WordNet's files of irregular forms, in the order in which the first entry of a word wins."""
_FIELD = "score.profiles"
_WAYS = (
    "run `apt-get install wordnet-base`, or `python -m nltk.downloader wordnet` where there is a network, or "
    f"name a folder that holds {', '.join(EXCEPTION_LISTS)} (score.wordnet, --wordnet)"
)
_CORPUS = "corpora/wordnet"
_DEBIAN = Path("/usr/share/wordnet")

_CACHED_WORDS = 1 << 17
_SHORT = 3


@functools.cache
def stemmer(name: Stemmer, wordnet: Path | None) -> Callable[[str], str]:
    """Return a function from a lower-case word to its stem, which remembers words.

    `porter-wordnet` is that of ROUGE-1.5.5's `-m`: a word that WordNet lists as irregular is replaced by its
    base form, and any other is stemmed. The Perl script ships the lists of WordNet 2.0; those of 3.0 serve as
    well (11,334 pairs of XSum: figures within 0.01).

    Args:
        name: Which one.
        wordnet: Folder with WordNet's exception lists; None to look in the usual places.

    Raises:
        DataError: If the lists are needed and not found, with the way to get them.
    """
    if name == "none":
        return str
    mode = PorterStemmer.NLTK_EXTENSIONS
    exceptions: dict[str, str] = {}
    if name == "porter-wordnet":
        mode = PorterStemmer.ORIGINAL_ALGORITHM
        exceptions = _exceptions(exception_lists(wordnet))
    porter = PorterStemmer(mode)

    @functools.lru_cache(maxsize=_CACHED_WORDS)
    def stem(word: str) -> str:
        if len(word) <= _SHORT:
            return word
        known = exceptions.get(word)
        return str(porter.stem(word)) if known is None else known

    return stem


def _exceptions(lists: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in "\n".join(lists).splitlines():
        irregular, _, base = line.partition(" ")
        if base:
            found.setdefault(irregular, base.split()[0])
    return found


@functools.cache
def exception_lists(wordnet: Path | None) -> list[str]:
    """Return the text of EXCEPTION_LISTS: of the folder given, nltk's `wordnet` corpus, or Debian's package.

    Raises:
        DataError: If they are not there, or not all of them, or hold something else.
    """
    if wordnet is not None:
        missing = [name for name in EXCEPTION_LISTS if not (wordnet / name).is_file()]
        if missing:
            raise DataError(
                f"score.wordnet: {wordnet} has no {missing[0]}: name the folder (--wordnet) that holds "
                f"{', '.join(EXCEPTION_LISTS)}"
            )
        return list(_of_folder(wordnet))
    for lists in (_of_nltk(), _of_folder(_DEBIAN)):
        try:
            return list(lists)
        except (LookupError, FileNotFoundError):
            continue
    raise DataError(f"{_FIELD}: WordNet's exception lists are missing: {_WAYS}")


def _of_nltk() -> Iterator[str]:
    for name in EXCEPTION_LISTS:
        with whole_archive(_CORPUS, _FIELD):
            found = nltk.data.find(f"{_CORPUS}/{name}")
            with found.open() as file:
                content = file.read()
        yield _checked(name, content, str(found))


def _of_folder(folder: Path) -> Iterator[str]:
    for name in EXCEPTION_LISTS:
        yield _checked(name, (folder / name).read_bytes(), str(folder / name))


def _checked(name: str, content: bytes, place: str) -> str:
    """Return the text of a list; an empty or a foreign one would quietly give other figures."""
    fewest, known = _KNOWN[name]
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{_FIELD}: {place} is not UTF-8 text, so not WordNet's {name}: {_WAYS}"
        ) from error
    lines = text.splitlines()
    entries = sum(" " in line for line in lines)
    if entries < fewest or not any(f"{line} ".startswith(f"{known} ") for line in lines):
        raise DataError(
            f"{_FIELD}: {place} is not WordNet's {name}, which has {fewest:,} entries or more, `{known}` "
            f"among them; this has {entries:,}: {_WAYS}"
        )
    return text


def exceptions_sha256(wordnet: Path | None) -> str:
    """Return the sha256 (hex) of the exception lists in use: figures of other lists are not the same."""
    return hashlib.sha256("".join(exception_lists(wordnet)).encode("utf-8")).hexdigest()
