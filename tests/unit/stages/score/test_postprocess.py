"""Gigaword's post-processing, by hand and by its rules."""

from __future__ import annotations

import pytest

from stages.score.postprocess import POSTPROCESS_WORDS, POSTPROCESSES
from stages.score.tokenizers import TOKENIZERS

gigaword = POSTPROCESSES["gigaword-unilm"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("u.s. stocks ( nasdaq ) rise", "u.s. stocks -lrb- nasdaq -rrb- rise"),
        ("at & t [UNK] < >", "at &amp; t UNK &lt; &gt;"),
        ("it doesn ' t add up", "it does n't add up"),
        ("men ' s final", "men ' s final"),  # only `t` after an n makes a word
        ("11 of 2001", "## of 200#"),
        ("  two\nlines ", "two lines"),
        ("' t", "' t"),
        ("", ""),
    ],
)
def test_gigaword_by_hand(text: str, expected: str) -> None:
    assert gigaword(text) == expected


def test_a_headline_of_the_corpus_stays_as_it_is() -> None:
    """Gigaword's own form: lower case, digits as #, brackets named."""
    text = "oil rises ##.# percent -lrb- update -rrb- : do n't panic"
    assert gigaword(text) == text


def test_rules_that_are_left_out_change_no_word() -> None:
    """UniLM's script joins what stands in blanks here; ROUGE's words are the same."""
    for apart, joined in (
        ("3 , 000", "3,000"),
        ("well - known", "well-known"),
        ("u . n .", "u.n."),
    ):
        assert TOKENIZERS["ascii"](apart) == TOKENIZERS["ascii"](joined)


def test_that_it_is_done_to_predictions_is_left_to_those_who_tell_it() -> None:
    assert POSTPROCESS_WORDS.keys() == POSTPROCESSES.keys()
    assert not any("prediction" in told for told in POSTPROCESS_WORDS.values())
