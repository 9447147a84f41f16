"""Pure text normalisation."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

UnicodeForm = Literal["NFC", "NFKC"]

_BLANKS = re.compile(r"[^\S\n]+")
_LINE_BREAKS = re.compile(r"\r\n?|[\u2028\u2029\x85\x0b\x0c]")
_BLANK_LINES = re.compile(r" ?\n[ \n]*")


def normalize(text: str, form: UnicodeForm) -> str:
    """Normalise Unicode and white space; line breaks stay, since ROUGE-Lsum reads them.

    Control and format characters other than line breaks go (joiners that scripts need stay), runs of
    blanks become one space, runs of line breaks one newline, both ends are trimmed.
    """
    text = _BLANKS.sub(" ", _LINE_BREAKS.sub("\n", text))  # tabs are controls too: blanks first
    text = "".join(char for char in text if char == "\n" or not _is_control(char))
    text = _BLANKS.sub(" ", unicodedata.normalize(form, text))
    return _BLANK_LINES.sub("\n", text).strip()


def _is_control(char: str) -> bool:
    is_joiner = char in "\u200c\u200d"  # Persian, Indic scripts and emoji are wrong without them
    return not is_joiner and unicodedata.category(char) in {"Cc", "Cf", "Cs"}
