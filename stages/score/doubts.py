"""What makes a ROUGE figure mean less than it seems: counted portion by portion, told in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from stages.intervals import FEW_ROWS
from stages.score.config import Splitter
from stages.score.profiles import Reader
from stages.score.sentences import document_sentences, split_sentences
from stages.score.tokenizers import letters

SIDES = ("references", "predictions")
_SHARE = 0.05
"""Of letters or texts, from which it is told."""
_LONG = 80
"""Words of a sentence that are too many: of Reddit posts 59 % have such a line, 2 % such a sentence."""


def tally(side: str, texts: Sequence[str]) -> Counter[str]:
    """Count in some texts of one side what `doubts` looks at."""
    counts = Counter({f"{side}": len(texts)})
    for text in texts:
        found, dropped = letters(text, "ascii")
        counts[f"{side}: letters"] += found
        counts[f"{side}: letters dropped"] += dropped
        counts[f"{side}: empty"] += not text.strip()
        is_one_line = "\n" not in text.strip()
        counts[f"{side}: run on"] += is_one_line and len(split_sentences(text, "simple")) > 1
    return counts


def tally_document(document: str, splitter: Splitter) -> Counter[str]:
    """Count a document, and whether what stands for its sentences cannot all be sentences."""
    longest = max((len(one.split()) for one in document_sentences(document, splitter)), default=0)
    return Counter({"documents": 1, "documents: unsplit": longest > _LONG})


def doubts(counts: Counter[str], readers: Sequence[Reader], *, is_l_lsum: bool) -> list[str]:
    """Say what a reader of the figures has to know.

    Args:
        counts: The sum of all that `tally` and `tally_document` gave, and `failed`: predictions that could
            not be made.
        readers: The profiles in use, the headline first.
        is_l_lsum: Whether the model's rougeL and rougeLsum are equal in every row.
    """
    told = [*_few(counts["references"]), *_unsplit(counts, readers[0].splitter)]
    for side in SIDES:
        if empty := counts[f"{side}: empty"]:
            told.append(f"{empty:,} of {counts[side]:,} {side} are empty and score 0")
        told += _dropped(side, counts, readers)
        told += _run_on(side, counts, readers, is_l_lsum=is_l_lsum)
    if failed := counts["failed"]:
        told.append(
            f"{failed:,} of the empty predictions are rows that generate could not summarise"
        )
    return told


def _few(rows: int) -> list[str]:
    if rows == 1:
        return ["one row: there is no interval, its bounds are the figure itself"]
    if rows < FEW_ROWS:
        return [
            f"{rows} rows are few: 95 % intervals of fewer than {FEW_ROWS} cover less often than that"
        ]
    return []


def _unsplit(counts: Counter[str], splitter: Splitter) -> list[str]:
    unsplit, documents = counts["documents: unsplit"], counts["documents"]
    if unsplit <= _SHARE * documents:
        return []
    way_out = "" if splitter == "punkt" else "; split them by punkt (score.sentences, --sentences)"
    return [
        f"{unsplit:,} of {documents:,} documents have a sentence of more than {_LONG} words as "
        f"{splitter} splits them, so that lead and oracle copy more than sentences{way_out}"
    ]


def _dropped(side: str, counts: Counter[str], readers: Sequence[Reader]) -> list[str]:
    share = counts[f"{side}: letters dropped"] / max(counts[f"{side}: letters"], 1)
    blind = [one.profile.name for one in readers if one.profile.tokenizer == "ascii"]
    if share <= _SHARE or not blind:
        return []
    is_read = any(one.profile.tokenizer == "unicode" for one in readers)
    way_out = "the profile unicode keeps them" if is_read else "score with the profile unicode too"
    return [
        f"{100 * share:.0f} % of the letters of the {side} are not a-z, and the tokenizer of "
        f"{', '.join(blind)} drops them; {way_out}"
    ]


def _run_on(
    side: str, counts: Counter[str], readers: Sequence[Reader], *, is_l_lsum: bool
) -> list[str]:
    run_on, texts = counts[f"{side}: run on"], counts[side]
    if readers[0].splitter != "newline" or run_on <= _SHARE * texts:
        return []
    equal = ", so that rougeLsum equals rougeL" if is_l_lsum else ", which lowers rougeLsum"
    return [
        f"{run_on:,} of {texts:,} {side} have several sentences in one line{equal}: sentences are split at "
        "line breaks only; split them by punkt (score.sentences, --sentences) if figures to compare with did"
    ]
