"""What published evaluations change in predictions, never in references, before they score them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Postprocess = Literal["none", "pegasus", "gigaword-unilm"]

POSTPROCESS_WORDS = {
    "none": "none",
    "pegasus": "<n> is a line break",
    "gigaword-unilm": "( ) [ ] { } become -lrb- -rrb- -lsb- -rsb- -lcb- -rcb-, & < > become "
    "&amp; &lt; &gt;, [UNK] becomes UNK, `n ' t` becomes `n't`, a line break a blank; then each 1 becomes #",
}
"""What each does to predictions, for people."""

_PTB_NAMES = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "&": "&amp;", "<": "&lt;", ">": "&gt;", "[UNK]": "UNK",
}  # fmt: skip


def _gigaword(text: str) -> str:
    """Bring a prediction into the words of Gigaword's references, as UniLM and ProphetNet do.

    Source: microsoft/unilm `src/gigaword/eval.py` at 0e31c7c0, `fix_tokenization(...).replace('1', '#')`. Its
    other rules move or join punctuation (quotes, dashes, numbers), which changes no word that ROUGE sees, and
    are left out. So is the one of initials: it takes capitals only, which predictions for Gigaword, a set in
    lower case, do not have; with them it would double letters (`U . N .` becomes `U.N. N .`).
    """
    before = text.split()
    after: list[str] = []
    place = 0
    while place < len(before):
        if before[place : place + 2] == ["'", "t"] and after and after[-1].endswith("n"):
            after[-1] = after[-1][:-1]
            after.append("n't")
            place += 2
        else:
            after.append(_PTB_NAMES.get(before[place], before[place]))
            place += 1
    return " ".join(after).replace("1", "#")


def _pegasus(text: str) -> str:
    """Undo what PEGASUS writes for a line break (google-research/pegasus, `_NEWLINE_SYMBOL`)."""
    return text.replace("<n>", "\n")


POSTPROCESSES: dict[Postprocess, Callable[[str], str]] = {
    "none": str,
    "pegasus": _pegasus,
    "gigaword-unilm": _gigaword,
}
