"""Pure text normalisation."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

UnicodeForm = Literal["NFC", "NFKC"]

_BLANKS = re.compile(r"[^\S\n]{2,}|[^\S\n ]")  # all but one space, which most are
_LINE_BREAKS = re.compile(r"\r\n?|[\u2028\u2029\x85\x0b\x0c]")
_BLANK_LINES = re.compile(r" ?\n[ \n]*")
_FLAG = "\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f"
"""The black flag and the tags that make a region's of it, such as England's: the one use of tags."""
_UNSEEN = re.compile(
    rf"({_FLAG})"
    "|[\0-\t\x0b-\x1f\x7f-\x9f"  # controls
    "\ud800-\udfff"  # halves of surrogate pairs, which are no characters
    "\u00ad\u200b\u2060\ufeff"  # soft hyphen, zero-width space and no-break space: where lines may break
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # direction of writing, which the letters have too
    "\u2061-\u2064"  # invisible operators of formulas
    "\ufff9-\ufffb"  # where glosses begin and end
    "\U000e0001\U000e0020-\U000e007f]"  # tags elsewhere: text that nobody sees
)
"""Characters that go: a list and not the category Cf, which also has signs that are seen (Arabic U+0600 and
U+06DD, Syriac U+070F) and joiners without which Persian, Indic and Mongolian words, hieroglyphs and emoji are
wrong."""


def normalize(text: str, form: UnicodeForm) -> str:
    """Normalise Unicode and white space; line breaks stay, since ROUGE-Lsum reads them.

    Control characters other than line breaks and invisible format characters go (joiners that scripts need
    stay), runs of blanks become one space, runs of line breaks one newline, both ends are trimmed.
    """
    text = _BLANKS.sub(" ", _LINE_BREAKS.sub("\n", text))  # tabs are controls too: blanks first
    if not text.replace(
        "\n", ""
    ).isprintable():  # asked first, as most texts are: it is much faster
        text = _UNSEEN.sub(r"\1", text)
    text = _BLANKS.sub(" ", unicodedata.normalize(form, text))
    return _BLANK_LINES.sub("\n", text).strip()
