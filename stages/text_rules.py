"""How text is cleaned: normalised, and changed by rules that a recipe names; the same for new documents.

A rule is a pure function of text. Its version is raised when its result changes for some text. It is applied
until the text stays as it is, so that it does nothing to what it has made; a text that still changes after
PASSES times nests deeper than people write, and is left as it was, with a mark.
"""

from __future__ import annotations

import difflib
import html
import re
from collections.abc import Callable, Iterable, Mapping
from html.entities import html5
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator

from pipeline.config import Config
from stages.normalize import UnicodeForm, normalize

PASSES = 8
NORMALISED = "normalised"
"""Stands for what is done to every text before the rules."""

Role = Literal["document", "summary"]


class TextRule(NamedTuple):
    """A rule in the table."""

    apply: Callable[[str], str]
    version: int
    applies_to: tuple[Role, ...]


class CleanText(NamedTuple):
    """A text as training sees it."""

    text: str
    changed_by: tuple[str, ...]
    """NORMALISED and the rules that changed it, in their order."""
    given_up: tuple[str, ...] = ()
    """Rules that would have changed it without end."""


def cnn_dateline(text: str) -> str:
    """Drop the agency, and the place before it, from the beginning: `LONDON, England (CNN) -- `, `(CNN)`.

    Origin: the stories of CNN/DailyMail (Hermann et al. 2015) have it; Hugging Face's 3.0.0 without a blank
    behind it. A place is up to eight words, and then a dash or a sentence must follow: `Cable News Network
    (CNN) said` stays.
    """
    return _CNN_DATELINE.sub("", text, count=1)


def space_period(text: str) -> str:
    """Join a period to the end of its line: `he said .` becomes `he said.`.

    Origin: `fix_missing_period` in the script that makes CNN/DailyMail (abisee/cnn-dailymail,
    make_datafiles.py) appends " ." to highlights without an end mark; TFDS does without the blank from
    3.1.0 on.
    """
    return _SPACE_PERIOD.sub(".", text)


def join_lines(text: str) -> str:
    """Put a text on one line.

    Origin: fairseq's files have a text a line, the sentences of a summary joined by a blank (fairseq issue
    1391). A model trained so writes no line breaks: score.sentences: newline would take its summary for one
    sentence.
    """
    return text.replace("\n", " ")


def gigaword_unk(text: str) -> str:
    """Write a word that is left out as `UNK`: also `<unk>` and `[UNK]`.

    Origin: UniLM's org_data has `<unk>` in train and dev and `UNK` in test; TFDS' and Hugging Face's
    gigaword 1.2.0 write UNK everywhere.
    """
    return _UNK.sub("UNK", text)


def gigaword_brackets(text: str) -> str:
    """Write brackets as such: `-lrb-` is `(`, `-rsb-` is `]`, `-lcb-` is `{`; blanks stay.

    Origin: Penn Treebank's tokens, which Gigaword has in lower case (Rush et al. 2015).
    """
    return _BRACKET.sub(lambda found: _BRACKETS[found[1].lower()], text)


def gigaword_digits(text: str) -> str:
    """Write each digit as `#`: `1,234.5` is `#,###.#`.

    Origin: Rush et al. 2015 did so to all of Gigaword. For texts of one's own that a model of it is to read.
    """
    return _DIGIT.sub("#", text)


def html_entities(text: str) -> str:
    """Decode entities that end in a semicolon, however often they were encoded: `&amp;gt;` is `>`.

    Origin: Reddit's API writes `&amp;`, `&lt;` and `&gt;`, its editor `&#x200B;`; Gigaword has some `&amp;`.
    Unlike in html.unescape, `&copy=1` of an address stays.
    """
    return _ENTITY.sub(_decoded, text)


def reddit_markdown(text: str) -> str:
    """Keep of Markdown what its reader sees: of links their text, of quotes, lists and emphasis the words.

    Origin: posts are written in Reddit's Markdown (CommonMark with `^superscript` and `>!spoiler!<`).
    Entities are decoded first. Numbers of lists are text; tables and backslashes stay as they are.
    """
    text = html_entities(text)
    for pattern, shown in _MARKDOWN:
        text = pattern.sub(shown, text)
    return text


def reddit_edits(text: str) -> str:
    """Drop lines that say what was added later: `EDIT: ...`, `Edit 2 - ...`, `[edit] ...`.

    Origin: a custom of Reddit. A line of nothing but the mark takes the next one with it. `Edit the file` and
    `Update: ...`, which goes on with the story, stay.
    """
    return _EDIT.sub("", text)


def reddit_tldr(text: str) -> str:
    """Drop the summary that a post gives of itself: from `TL;DR` to the end of its line.

    Origin: Reddit TIFU (Kim et al. 2019) and TLDR corpora (Voelske et al. 2017) take it for the reference, so
    one that is left in a document gives the answer away. Also `tldr:`, `tl; dr`, `Too long; didn't read`. It
    counts at the beginning of a line or sentence, or before a colon; a mention (`scroll down for the tldr`,
    `TL;DR at the bottom`) stays. With nothing behind it on its line, the next line goes, or the list there.
    """
    return _TLDR.sub("", text)


RULES: Mapping[str, TextRule] = {
    "cnn_dateline": TextRule(cnn_dateline, 1, ("document",)),
    "space_period": TextRule(space_period, 1, ("document", "summary")),
    "join_lines": TextRule(join_lines, 1, ("summary",)),
    "gigaword_unk": TextRule(gigaword_unk, 1, ("document", "summary")),
    "gigaword_brackets": TextRule(gigaword_brackets, 1, ("document", "summary")),
    "gigaword_digits": TextRule(gigaword_digits, 1, ("document", "summary")),
    "html_entities": TextRule(html_entities, 1, ("document", "summary")),
    "reddit_markdown": TextRule(reddit_markdown, 1, ("document", "summary")),
    "reddit_edits": TextRule(reddit_edits, 1, ("document", "summary")),
    "reddit_tldr": TextRule(reddit_tldr, 1, ("document",)),
}


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    for place, name in enumerate(names):
        if name not in RULES:
            near = difflib.get_close_matches(name, RULES, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"no rule {name!r}; {meant}known here: {', '.join(RULES)}")
        if name in names[:place]:
            raise ValueError(f"{name} is given twice; a second time changes nothing")
    return names


class CleaningRules(Config):
    """How text is cleaned."""

    unicode_form: UnicodeForm = "NFC"
    """Unicode normalisation form."""
    rules: Annotated[tuple[str, ...], AfterValidator(_known)] = ()
    """Rules that are applied one after the other to normalised text; see stages/text_rules.py."""


def rule_versions(names: Iterable[str]) -> dict[str, int]:
    """Return the version of each rule: part of the identity of what it has cleaned."""
    return {name: RULES[name].version for name in names}


def clean_text(text: str, role: Role, how: CleaningRules) -> CleanText:
    """Normalise a text and apply the rules for its role; what they change is normalised again."""
    changed_by, given_up = [], []
    raw, text = text, normalize(text, how.unicode_form)
    if text != raw:
        changed_by.append(NORMALISED)
    normalised = text
    for name in how.rules:
        if role not in RULES[name].applies_to:
            continue
        found = applied(RULES[name], text)
        if found is None:
            given_up.append(name)
        elif found != text:
            text = found
            changed_by.append(name)
    if text is not normalised:
        text = normalize(text, how.unicode_form)
    return CleanText(text, tuple(changed_by), tuple(given_up))


def applied(rule: TextRule, text: str) -> str | None:
    """Apply a rule until the text stays as it is; None if it does not after PASSES times."""
    for _ in range(PASSES):
        before, text = text, rule.apply(text)
        if text == before:
            return text
    return None


_CAPITALISED = r"[^\W\d_a-z][\w.'\u2019-]{0,30}"
_PLACE = rf"{_CAPITALISED}(?:,? (?:{_CAPITALISED}|and|de|del|la|of|the)){{0,7}}"
_CNN = r"\(CNN(?: [A-Z]\w{0,20}){0,3}\)"
_DASH = r" ?(?:--?|[\u2013\u2014]) ?"
_CNN_DATELINE = re.compile(
    rf"\A(?:{_CNN}(?:{_DASH}| ?)"
    rf"|(?!Cable News Network ){_PLACE} {_CNN}(?:{_DASH}| ?(?=[A-Z0-9\"'\u2018\u201c])))"
)

_SPACE_PERIOD = re.compile(r"(?<=[^\s.]) +\.$", re.MULTILINE)
"""Behind another period it is the end of an ellipsis, `. . .`."""

_UNK = re.compile(r"<unk>|\[unk\]", re.IGNORECASE)

_BRACKETS = {"lrb": "(", "rrb": ")", "lsb": "[", "rsb": "]", "lcb": "{", "rcb": "}"}
_BRACKET = re.compile(r"(?<!\S)-([lr][rsc]b)-(?!\S)", re.IGNORECASE)

_DIGIT = re.compile("[0-9]")

_ENTITY = re.compile(r"&(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]\w{1,31});")


def _decoded(entity: re.Match[str]) -> str:
    is_number = entity[1].startswith("#")
    return html.unescape(entity[0]) if is_number else html5.get(f"{entity[1]};", entity[0])


_MARKDOWN = tuple(
    (re.compile(pattern, re.MULTILINE), shown)
    for pattern, shown in (
        (r">!((?:(?!>!|!<).)*)!<", r"\1"),  # spoiler
        (r"^[*_-](?: ?[*_-]){2,}$", ""),  # rule across the page
        (r"^(?:> ?|#{1,6} +|[*+-] +)+", ""),  # quote, heading, list
        (r"!?\[([^\[\]\n]*)\]\((?:[^()\n]++|\([^()\n]*+\))*+\)", r"\1"),  # link, image
        (r"(?<![\w*\\])(\*{1,3})(?=[^\s*])([^*\n]*[^\s*])\1(?![\w*])", r"\2"),
        (r"(?<![^\s(\[\"'*~>])(_{1,3})(?=[^\s_])([^_\n]*[^\s_])\1(?!\w)", r"\2"),
        (r"(?<!\\)~~(?=[^\s~])([^~\n]*[^\s~])~~", r"\1"),
        (r"(?<!\w)`([^`\n]+)`(?!\w)", r"\1"),
        (r"(?<!\S)\^+\(([^()\n]*)\)", r"\1"),  # superscript, as are small asides; x^2 stays
        (r"(?<!\S)\^+(?=[^\W_])", ""),
    )
)
"""Every part stops at the next mark of its kind, so that no text takes more than one look at each letter."""

_REST = r"(?:[^\w\n]*(?:(?:\n[*+-] [^\n]*)+|\n[^\n]*)|[^\n]*)"
"""The rest of a line; of one that ends here, the list or the line that follows."""

_EDIT = re.compile(
    rf"""^[^\w\n]*(?:
    EDITS?\b
    | (?i:edit(?:s|ed)?)(?:
        (?:\ ?\#?\d{{1,3}}|\ (?:again|one|two|three|x\d))?\ ?(?:[:;*)\]/~\u2013\u2014-]|$)
        | \ ?\#?\d{{1,3}}\b
        | \ (?!(?:the|this|that|these|those|your|my|his|her|our|their|it|and|or|an?)\b)[^\n:.!?]{{1,30}}:
        | \ (?:to\ (?:add|clarify)|for\ (?:spelling|clarity|formatting|grammar))\b
    )){_REST}""",
    re.MULTILINE | re.VERBOSE,
)

_TLDR_MARK = r"(?:tl ?[;:,.'/|-]? ?dn?r|too long[;:,]? ?didn['\u2019]?t read)(?!\w)"
_POINTER = r"(?![^\w\n]*(?:(?:is|version|will be|can be found) )*(?:at|below|down|in|on)\b)"
_TLDR = re.compile(
    rf"(?:^[^\w\n]*{_TLDR_MARK}|(?<=[.!?:)\]\"'*]) {_TLDR_MARK}|(?<!\w){_TLDR_MARK}(?=[^\w\n]{{0,3}}:))"
    rf"{_POINTER}{_REST}",
    re.MULTILINE | re.IGNORECASE,
)
