"""The rules of cleaning: tables of cases, what they must leave alone, real documents, and their cost."""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import diff, validate
from pipeline.errors import ConfigError
from stages.clean.config import CleanConfig, identity
from stages.normalize import normalize
from stages.text_rules import (
    NORMALISED,
    PASSES,
    RULES,
    CleaningRules,
    Role,
    TextRule,
    applied,
    clean_text,
)

CASES = {
    "cnn_dateline": [
        ("(CNN)A man was found.", "A man was found."),
        ("(CNN) -- A man was found.", "A man was found."),
        ("(CNN)eBay said no.", "eBay said no."),
        ("LONDON, England (CNN) -- A man was found.", "A man was found."),
        ("Chao Hu, Anhui, China (CNN)Six years ago", "Six years ago"),
        ("Port-au-Prince, Haiti (CNN)\u201cNo,\u201d he said.", "\u201cNo,\u201d he said."),
        ("Saint-Denis-les-Bains, France (CNN) \u2014 It rained.", "It rained."),
        ("St. Louis (CNN) Police said", "Police said"),
        ("(CNN Student News) -- March 9, 2015", "March 9, 2015"),
        ("(CNN)(CNN) -- Twice.", "Twice."),
    ],
    "space_period": [
        ("He went home .", "He went home."),
        ("He went home .\nShe stayed .", "He went home.\nShe stayed."),
        ('He said "no" .', 'He said "no".'),
    ],
    "join_lines": [("One.\nTwo.\nThree.", "One. Two. Three.")],
    "gigaword_unk": [
        ("the <unk> of <unk>-born UNK", "the UNK of UNK-born UNK"),
        ("[UNK] and [unk] and <UNK>", "UNK and UNK and UNK"),
    ],
    "gigaword_brackets": [
        ("shares -lrb- ## percent -rrb- fell", "shares ( ## percent ) fell"),
        ("-LSB- sic -RSB-", "[ sic ]"),
        ("-lcb- a -rcb-", "{ a }"),
    ],
    "gigaword_digits": [("in 1998 , 1,234.5 of a3", "in #### , #,###.# of a#")],
    "html_entities": [
        ("Q&amp;A", "Q&A"),
        ("a &lt; b &gt; c", "a < b > c"),
        ("a &amp;amp;lt; b", "a < b"),
        ("it&#39;s &#x2019; &eacute; &quot;", "it's \u2019 \u00e9 \""),
        ("one&amp;#x200B;\ntwo", "one\ntwo"),
        ("one&nbsp;&nbsp;two", "one two"),
    ],
    "reddit_markdown": [
        ("see [this post](https://x.org/a_(b)_c) now", "see this post now"),
        ("![a cat](cat.png)", "a cat"),
        ("_[Click here](steam://friends)_", "Click here"),
        ("**bold**, *soft*, ***both*** and ~~gone~~", "bold, soft, both and gone"),
        ("__bold__ and _soft_", "bold and soft"),
        ("**a *nested* word**", "a nested word"),
        ("run `ls -l` first", "run ls -l first"),
        ("> he said\n>> she said\n&gt; they said", "he said\nshe said\nthey said"),
        ("# Title\n### Part", "Title\nPart"),
        ("* one\n- two\n+ three\n1. first", "one\ntwo\nthree\n1. first"),
        ("above\n---\nbelow\n* * *\nend", "above\nbelow\nend"),
        ("^this ^is ^(very small)", "this is very small"),
        ("he is >!the killer!< indeed", "he is the killer indeed"),
        ("salt &amp; pepper", "salt & pepper"),
    ],
    "reddit_edits": [
        ("Story.\nEDIT: thanks all!", "Story."),
        ("Edit: typo\nStory.\nEdit 2: more\nEnd.", "Story.\nEnd."),
        ("Story.\n**Edit:** wow", "Story."),
        ("Story.\n[edit] wow", "Story."),
        ("Story.\n(Edit-a misspelling)", "Story."),
        ("Story.\nEDIT thank you all", "Story."),
        ("Story.\nEDIT\nwow\nMore story.", "Story.\nMore story."),
        ("Story.\nEdit next morning: wow", "Story."),
        ("Story.\nEdited to add paragraphs", "Story."),
    ],
    "reddit_tldr": [
        ("Story.\nTL;DR: I fell.", "Story."),
        ("Story. TL;DR: I fell.", "Story."),
        ("Story. TLDR I fell.", "Story."),
        ("TL;DR I fell.\nStory.", "Story."),
        ("Story.\ntl; dr - I fell.\nThe end.", "Story.\nThe end."),
        ("Story.\n**TL;DR:** I fell.", "Story."),
        ("Story.\nTL:DR\nI fell.\nThe end.", "Story.\nThe end."),
        ("Story.\nTL;DR:\n* I fell.\n* It hurt.\nThe end.", "Story.\nThe end."),
        ("A long story, tl;dr: I fell.", "A long story,"),
        ("Story.\nToo long; didn't read: I fell.", "Story."),
        ("Story.\nEdit: TL/DR I fell.", "Story.\nEdit:"),
        ("tl;dr: I fell.", ""),
    ],
}

LEFT_ALONE = {
    "cnn_dateline": [
        "Cable News Network (CNN) Chief Executive Jo Doe said no.",
        "The network (CNN) said no.",
        "He was seen on television (CNN) -- twice.",
        "Police said. London (CNN)A man",
        "(BBC)A man was found.",
    ],
    "space_period": ["wait . . .", "He paid .5 percent .\u00bb", "a . b", "said."],
    "join_lines": ["One line."],
    "gigaword_unk": ["chunk of UNKNOWN <unknown>", "unk"],
    "gigaword_brackets": ["x-lrb-y", "-lrb", "lrb -xrb-"],
    "gigaword_digits": ["## percent", "x\u00b2 \u2460"],
    "html_entities": ["AT&T; &copy=1 &nosuch; &;", "&#99999999;", "a & b"],
    "reddit_markdown": [
        "2 * 3 * 4 and snake_case_name and x^2",
        "f**k that s**t",
        "\u00af\\_(\u30c4)_/\u00af",
        "\u0ca0_\u0ca0 and -_- and ^_^",
        "It`s what I`m asking",
        "well-known - a dash",
        "[not a link] (really)",
        "#1 of the list",
        "i -> j",
    ],
    "reddit_edits": [
        "Edit the file, then save: it works.",
        "I had to edit: a lot",
        "Editing took hours.",
        "* Edit Scripts in Browser",
        "Update: she came back.",
    ],
    "reddit_tldr": [
        "Do not scroll down for the tldr of it.",
        "This is the place for the best TL;DRs that there are.",
        "TL;DR at the bottom.",
        "TLDR version is below. Story.",
        "Sorry, no tl;dr",
        "The title drove him mad.",
    ],
}

DATA = os.environ.get("SUMPIPE_TEST_DATA")
real = pytest.mark.skipif(
    DATA is None, reason="SUMPIPE_TEST_DATA names no folder of real documents"
)


def rows(folder: str, most: int = 10**6) -> list[dict[str, str]]:
    assert DATA is not None
    lines = (Path(DATA) / folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:most]]


def with_rules(*names: str) -> CleaningRules:
    return CleaningRules(rules=names)


def cleaned(text: str, *names: str, role: Role = "document") -> str:
    return clean_text(text, role, with_rules(*names)).text


def role_of(name: str) -> Role:
    return RULES[name].applies_to[0]


def test_every_rule_has_cases_an_origin_and_a_name() -> None:
    assert set(CASES) == set(LEFT_ALONE) == set(RULES)
    for name, rule in RULES.items():
        assert getattr(rule.apply, "__name__", "") == name
        assert "Origin: " in (rule.apply.__doc__ or "")
        assert rule.version >= 1


@pytest.mark.parametrize(
    ("name", "text", "expected"), [(name, *case) for name in CASES for case in CASES[name]]
)
def test_cases(name: str, text: str, expected: str) -> None:
    found = clean_text(text, role_of(name), with_rules(name))
    assert (found.text, set(found.changed_by) - {NORMALISED}) == (expected, {name})


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name in LEFT_ALONE for text in LEFT_ALONE[name]]
)
def test_what_only_looks_like_it_stays(name: str, text: str) -> None:
    assert clean_text(text, role_of(name), with_rules(name)) == (text, (), ())


def test_a_rule_keeps_to_its_texts() -> None:
    text = "(CNN)One.\nTL;DR: two."
    rules = ("cnn_dateline", "join_lines", "reddit_tldr")
    assert clean_text(text, "document", with_rules(*rules))[:2] == (
        "One.",
        ("cnn_dateline", "reddit_tldr"),
    )
    assert clean_text(text, "summary", with_rules(*rules))[:2] == (
        "(CNN)One. TL;DR: two.",
        ("join_lines",),
    )


def test_rules_are_applied_in_their_order() -> None:
    text = "Story.\n**TL;DR:**\n- I fell.\n- It hurt.\nEnd."
    assert cleaned(text, "reddit_tldr", "reddit_markdown") == "Story.\nEnd."
    assert cleaned(text, "reddit_markdown", "reddit_tldr") == "Story.\nIt hurt.\nEnd."


def test_without_rules_a_text_is_normalised_alone() -> None:
    text = "(CNN)A  cafe\u0301 .\r\n\r\nEDIT: &amp;"
    assert clean_text(text, "document", CleaningRules()) == (
        normalize(text, "NFC"),
        (NORMALISED,),
        (),
    )
    form = CleaningRules(unicode_form="NFKC", rules=("html_entities",))
    assert clean_text("&#xFB01;re", "document", form).text == "fire"


MARKS = {
    "cnn_dateline": ["(CNN)", "(CNN Money)", "London", ", ", " -- ", " ", "A", "b"],
    "space_period": [" ", ".", "\n", "a", '"'],
    "join_lines": ["\n", " ", "a"],
    "gigaword_unk": ["<unk>", "[unk]", "<un", "k>", "UNK", " ", "[", "]"],
    "gigaword_brackets": ["-lrb-", "-rsb-", "-", "lrb", " ", "\n"],
    "gigaword_digits": ["1", "#", ",", " ", "a"],
    "html_entities": ["&", "amp;", "amp", ";", "#38;", "#x26;", "lt;", "#", "39", "a", "&amp;"],
    "reddit_markdown": [
        *("*", "**", "_", "~~", "`", "[", "](", ")", "](u)", "(", "!", "^", "\\", ">!", "!<"),
        *("\n", " ", "> ", "# ", "- ", "a", "&gt;", "&amp;"),
    ],
    "reddit_edits": ["edit", "EDIT", "Edit 2", ":", "\n", " ", "- ", "a", "**", "[", "]"],
    "reddit_tldr": ["TL;DR", "tldr", "tl", "dr", ";", ":", ". ", "\n", " ", "- ", "a", "at", "**"],
}


@settings(max_examples=800, deadline=None)
@given(st.data())
def test_a_second_pass_changes_nothing(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(MARKS)))
    text = "".join(data.draw(st.lists(st.sampled_from(MARKS[name]), max_size=14)))
    once = applied(RULES[name], text)
    if once is None:  # given up, see below
        return
    assert applied(RULES[name], once) == once


def test_what_nests_too_deep_is_left_as_it_was() -> None:
    deep = PASSES + 1
    text = "[" * deep + "a" + "](u)" * deep
    assert applied(RULES["reddit_markdown"], text) is None
    found = clean_text(f"{text}&amp;", "document", with_rules("reddit_markdown", "html_entities"))
    assert found == (f"{text}&", ("html_entities",), ("reddit_markdown",))
    assert applied(RULES["reddit_markdown"], "[" * 5 + "a" + "](u)" * 5) == "a"
    forever = TextRule(lambda value: value + "a", 1, ("document",))
    assert applied(forever, "b") is None


HOSTILE = (
    *(
        " ",
        ".",
        " .",
        "*",
        "*a ",
        "a* ",
        "_a ",
        "*_`~[",
        "[",
        "[](",
        "[](x)",
        "[](a(x)",
        "![a](b c",
    ),
    *(">", ">!", "`", "~", "^(", "&", "&amp;", "&#38;", "(CNN)", "A (CNN)", "A ", "-lrb", "<unk>"),
    *(
        "tldr",
        " TL;DR ",
        "tldr:",
        ". tl",
        "edit ",
        "EDIT\n",
        "edit:",
        "- a\n",
        "TL;DR\n- a\n",
        '"',
        "a",
    ),
)


def seconds(name: str, text: str) -> float:
    start = time.process_time()
    applied(RULES[name], text)
    return time.process_time() - start


@pytest.mark.parametrize("name", RULES)
def test_a_megabyte_takes_a_moment(name: str) -> None:
    """Measured: at most 0.3 s. For what expressions could stumble over a tenth of it is enough.

    One that looks at letters again and again, such as ` +\\.$` at 100,000 blanks, takes seconds for that.
    """
    ordinary = "She said (twice) that it's *fine*, at 3.5 & 4: see the_file.\n" * 17_000
    assert len(ordinary) > 1_000_000
    assert seconds(name, ordinary) < 2
    for mark in HOSTILE:
        assert seconds(name, mark * (100_000 // len(mark)) + "x") < 1, mark


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (
            ["cnn_datelin"],
            "no rule 'cnn_datelin'; did you mean cnn_dateline? known here: cnn_dateline",
        ),
        (["x"], "no rule 'x'; known here: cnn_dateline"),
        (["join_lines", "join_lines"], "join_lines is given twice"),
        ("join_lines", "tuple"),
    ],
)
def test_a_mistake_in_the_recipe_is_a_message(rules: object, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)) as caught:
        validate(CleanConfig, {"rules": rules}, "recipe.yaml")
    assert "rules" in str(caught.value)


def test_a_rule_s_version_is_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    def hashed(*rules: str) -> dict[str, object]:
        return identity(CleanConfig(rules=rules), 1, lambda _: "")

    before = hashed("reddit_edits", "reddit_tldr")
    raised = RULES["reddit_tldr"]._replace(version=2)
    monkeypatch.setitem(RULES, "reddit_tldr", raised)  # type: ignore[arg-type]
    assert diff(before, hashed("reddit_edits", "reddit_tldr")) == [
        "rule_versions.reddit_tldr 1 -> 2"
    ]
    assert diff(hashed("reddit_edits"), hashed("reddit_edits")) == []
    (order,) = diff(hashed("reddit_edits", "join_lines"), hashed("join_lines", "reddit_edits"))
    assert order.startswith("rules [")


@real
def test_datelines_of_real_stories() -> None:
    """Against the position of the first `(CNN)`, which stands in almost every story."""
    changed = 0
    for row in rows("cnndm"):
        text = normalize(row["document"], "NFC")
        found = cleaned(text, "cnn_dateline")
        place = text.find("(CNN)")
        if 0 <= place < 40:
            assert found == text[place + 5 :].strip(), text[:80]
            changed += 1
        else:
            assert found == text
    assert changed > 700


@real
def test_gigaword_by_its_tokens() -> None:
    forms = {"-lrb-": "(", "-rrb-": ")", "<unk>": "UNK"}
    pairs = [(row[role], role) for row in rows("gigaword1k") for role in ("document", "summary")]
    changed = 0
    for text, role in pairs:
        expected = " ".join(forms.get(token, token) for token in text.split())
        kind: Role = "document" if role == "document" else "summary"
        assert cleaned(text, "gigaword_unk", "gigaword_brackets", role=kind) == expected
        changed += expected != text
    assert changed > 50


def planted(post: str, summary: str, chance: random.Random) -> Iterator[str]:
    """Posts with their summary put in, in forms that people write."""
    mark = chance.choice(["TL;DR", "TLDR", "tl;dr", "tldr", "Tl; dr", "TL DR", "TL,DR", "tl:dr"])
    yield f"{post}\n{mark}: {summary}"
    yield f"{post}\n\n**{mark}** {summary}"
    yield f"{mark} - {summary}\n{post}"
    yield f"{post}\n{mark}\n{summary}"
    if re.search(r"\w", post.split("\n")[-1]):  # else the mark begins its line
        yield f"{post} {mark}: {summary}"


@real
@pytest.mark.parametrize("folder", ["reddit_tifu_long", "reddit_tldr"])
def test_a_planted_summary_is_taken_out_and_nothing_else(folder: str) -> None:
    chance = random.Random(1)
    for row in rows(folder, 150):
        post = cleaned(row["document"], "reddit_tldr")
        summary = " ".join(row["summary"].split()).lstrip(":-. ")
        if re.match(r"(at|in|on|below|down|is|version)\b", summary, re.IGNORECASE):
            continue  # reads like a pointer to a TL;DR elsewhere
        for text in planted(post, summary, chance):
            assert cleaned(text, "reddit_tldr") == post


@real
def test_planted_marks_are_taken_out_of_real_posts() -> None:
    chance, compared = random.Random(1), 0
    forms = ("**{}**", "*{}*", "_{}_", "[{}](https://x.org/?a=1&amp;b=2)", "~~{}~~", "`{}`", "^{}")
    for row in rows("reddit_tldr", 300):
        post = cleaned(row["document"], "reddit_markdown")
        if re.search(r"[*_~`^\[\]\\]", post):
            continue  # a mark of its own may pair with a planted one
        words = re.split(r"( |\n)", post)
        for place in chance.sample(range(len(words)), len(words) // 10):
            if words[place].isalpha():
                words[place] = chance.choice(forms).format(words[place])
        assert cleaned("".join(words), "reddit_markdown") == post
        compared += 1
    assert compared > 150


@real
@pytest.mark.parametrize("folder", ["cnndm", "gigaword1k", "reddit_tifu_long", "reddit_tldr"])
def test_cleaning_twice_is_cleaning_once(folder: str) -> None:
    rules = (*[name for name in RULES if name.startswith("reddit")], "cnn_dateline", "space_period")
    how = CleaningRules(rules=rules)
    for row in rows(folder, 200):
        once = clean_text(row["document"], "document", how).text
        assert clean_text(once, "document", how) == (once, (), ())


@real
def test_edits_are_few_and_begin_their_lines() -> None:
    changed = 0
    for row in rows("reddit_tldr", 2000):
        text = normalize(row["document"], "NFC")
        found = cleaned(text, "reddit_edits")
        changed += found != text
        if found != text:
            lines = iter(text.split("\n"))  # what is left are whole lines, in order
            assert all(line in lines for line in found.split("\n") if line)
            assert re.search(r"(?im)^\W*edit", text)
    assert 10 < changed < 50
