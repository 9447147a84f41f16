"""What the page is made of: copies, choices, scales, lengths, words."""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path

import numpy as np
import pytest

from stages.report.copies import WORDS, copied_pieces
from stages.report.curve import thinned, unfinished_curve
from stages.report.examples import KINDS, Example, choose
from stages.report.interruptions import Interruption, interruptions
from stages.report.lengths import edges_for, histogram
from stages.report.page import DOCUMENT_CHARS, shown
from stages.report.svg import Line, Span, line_chart, short, span_chart, ticks
from stages.report.wording import amount, duration, hours, listed, percent, roughly, several


def copied_words(text: str, other: str) -> list[bool]:
    """Brute force: a word is copied if some run of WORDS words around it stands in the other text."""
    found, known = text.split(), f" {' '.join(other.split())} "
    return [
        any(
            start >= 0
            and start + WORDS <= len(found)
            and f" {' '.join(found[start : start + WORDS])} " in known
            for start in range(place - WORDS + 1, place + 1)
        )
        for place in range(len(found))
    ]


def test_copies_are_those_of_brute_force() -> None:
    draw = random.Random(5)
    some = 0
    for _ in range(300):
        text, other = (" ".join(draw.choices("abc", k=draw.randrange(15))) for _ in range(2))
        pieces = copied_pieces(text, other)
        assert "".join(piece.text for piece in pieces) == text
        marked = [is_in for part, is_in in pieces for _ in part.split()]
        assert marked == copied_words(text, other)
        assert all(a.is_copied != b.is_copied for a, b in itertools.pairwise(pieces))
        some += any(marked) and not all(marked)
    assert some > 50


def test_copies_look_through_case_and_punctuation() -> None:
    pieces = copied_pieces("So: The CAT, sat!", "and the cat sat down")
    assert pieces == [("So: ", False), ("The CAT, sat", True), ("!", False)]
    assert copied_pieces("", "a b c") == []
    assert copied_pieces("a b c", "") == [("a b c", False)]


@pytest.mark.parametrize(
    ("text", "other", "copied"),
    [
        ("他说北京很大。", "北京很小", ["北京很"]),
        ("เขากินข้าวแล้ว", "ฉันกินข้าว", ["กินข้าว"]),
        ("यह किताब है", "वह किताब थी", []),  # one word, though its vowels are no letters
        ("यह नई किताब है", "वह नई, किताब है!", ["नई किताब है"]),
        ("Café au lait", "CAFE\u0301 AU LAIT", ["Café au lait"]),
        ("ทำได้", "ทำไป", ["ทำไ"]),
        ("กกก้ x", "กกก", ["กกก้"]),  # a mark is not torn from its letter
        ("がぎぐ", "か\u3099き\u3099く\u3099", ["がぎぐ"]),
        ("か\u3099き\u3099く\u3099", "がぎぐ", ["か\u3099き\u3099く\u3099"]),
    ],
    ids=[
        "Chinese",
        "Thai",
        "Hindi, one word",
        "Hindi",
        "decomposed",
        "Thai, in a word",
        "mark",
        "kana",
        "decomposed kana",
    ],
)
def test_copies_are_marked_in_every_script(text: str, other: str, copied: list[str]) -> None:
    pieces = copied_pieces(text, other)
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.text for piece in pieces if piece.is_copied] == copied


def test_the_best_and_the_worst_are_those_of_a_sort_and_no_row_comes_twice() -> None:
    ranks = np.random.default_rng(3).permutation(50).tolist()
    chosen = choose(ranks, 50, 4, seed=1)
    order = np.argsort(ranks)
    assert [row for kind, row in chosen if kind == "best"] == list(order[::-1][:4])
    assert [row for kind, row in chosen if kind == "worst"] == list(order[:4])
    assert len({row for _, row in chosen}) == 12
    assert chosen == choose(ranks, 50, 4, seed=1)
    drawn = {
        tuple(row for k, row in choose(ranks, 50, 4, seed=s) if k == "random") for s in range(9)
    }
    assert len(drawn) > 1


def test_equal_ranks_come_in_row_order() -> None:
    chosen = choose([0.5] * 9, 9, 2, seed=1)
    assert [row for kind, row in chosen if kind != "random"] == [0, 1, 2, 3]


@pytest.mark.parametrize("rows", range(8))
def test_few_rows_are_shown_once(rows: int) -> None:
    chosen = choose([0.1 * row for row in range(rows)], rows, 2, seed=1)
    assert len({row for _, row in chosen}) == len(chosen) == min(rows, 6)
    assert [kind for kind, _ in chosen] == sorted((k for k, _ in chosen), key=KINDS.index)


def test_without_scores_all_are_drawn() -> None:
    assert {kind for kind, _ in choose(None, 9, 3, seed=1)} == {"random"}


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0, 0), (3.2, 3.2), (-1, 7), (0, 3e-5), (1.9, 7.5), (0, 123456), (0, 1e-9)],
)
def test_ticks_are_round_and_hold_all_values(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert found[0] <= low + 1e-12 and found[-1] >= high - 1e-12
    steps = np.diff(found)
    assert np.allclose(steps, steps[0], rtol=1e-6)
    assert f"{steps[0]:.0e}"[0] in "125"


def test_values_are_short() -> None:
    values = (0.0, 0.5, 25.0, 1500.0, 80_000.0, 2_500_000.0, 3e-05)
    assert [short(value) for value in values] == ["0", "0.5", "25", "1500", "80k", "2.5M", "3e-05"]


def test_a_line_ends_where_its_values_are() -> None:
    svg = line_chart("words & signs", [Line("s1", [(0.0, 0.0), (100.0, 10.0)])], from_zero=True)
    assert 'd="M54.0 178.0L390.0 12.0"' in svg
    assert 'aria-label="words &amp; signs"' in svg
    one = line_chart("x", [Line("s1", [(10.0, 1.0)])])
    assert "<circle" in one, "no line goes through one point"


def test_a_span_has_its_mean_between_its_ends() -> None:
    svg = span_chart("all of them", [Span("<model>", "s1", 40.0, 41.0, 42.0)])
    assert 'aria-label="all of them"' in svg
    assert "&lt;model&gt;" in svg and ">41.00</text>" in svg
    scale = (344 - 4) / ticks(0.0, 42.0)[-1]
    left, middle, right = (f"{4 + scale * value:.1f}" for value in (40, 41, 42))
    assert f'd="M{left} 28H{right}"' in svg and f'cx="{middle}"' in svg
    for size in (46, 47, 90):
        name = re.findall(
            r'class="name".*?>(.*?)<', span_chart("x", [Span("n" * size, "s1", 1, 2, 3)])
        )[0]
        assert len(name) <= 46 and ("…" in name) == (size > 46)


def test_thinned_points_are_means_of_neighbours() -> None:
    points = [(float(n), float(n**2)) for n in range(1000)]
    found = thinned(points, 100)
    assert len(found) == 100
    assert found[3] == (34.5, np.mean([n**2 for n in range(30, 40)]))
    assert thinned(points[:7], 100) == points[:7] and thinned([], 100) == []


def test_histograms_count_every_text() -> None:
    lengths = np.random.default_rng(1).integers(1, 2000, 5000)
    edges = edges_for([lengths])
    found = histogram(lengths, edges)
    assert sum(found.shares) == pytest.approx(1.0)
    inside = ((lengths >= edges[3]) & (lengths < edges[4])).mean()
    assert found.shares[3] == pytest.approx(inside)
    assert found.shares[-1] == pytest.approx((lengths >= edges[-2]).mean()), (
        "longer ones are in the last"
    )


@pytest.mark.parametrize("lengths", [[], [0], [5], [0, 0, 9]])
def test_few_lengths_have_a_histogram(lengths: list[int]) -> None:
    counts = np.array(lengths, dtype=np.int64)
    found = histogram(counts, edges_for([counts]))
    assert sum(found.shares) == pytest.approx(1.0 if lengths else 0.0)


def test_interruptions_are_read_launch_by_launch(tmp_path: Path) -> None:
    stopped = (
        "2026-01-02T01:00:09+0000 ERROR rank: rank 0 ends: Preempted: stopped by {} after update 23"
    )
    for name, text in {
        "1-a": stopped.format("SIGTERM"),
        "2-b": "2026-01-02T02:00:01+0000 INFO stages.finetune.run: resumes after update 23\nno stamp",
        "3-c": "2026-01-02T03:00:01+0000 INFO stages.finetune.run: resumes after update 30\n",
        "4-d": "2026-01-02T04:00:01+0000 INFO x: finetune is done already\n",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "rank0000.log").write_text(text, encoding="utf-8")
    assert interruptions(tmp_path) == (
        Interruption(23, "SIGTERM", "2026-01-02T01:00:09+0000", "2026-01-02T02:00:01+0000"),
        Interruption(30, "", "2026-01-02T02:00:01+0000", "2026-01-02T03:00:01+0000"),
    )
    assert interruptions(tmp_path / "nowhere") == ()
    both = tmp_path / "5-one-port-for-two-launches-of-earlier" / "rank0000.log"
    both.parent.mkdir()
    both.write_text(
        "2025-12-31T23:00:00+0000 INFO stages.finetune.run: begins a training of 40 updates\n"
        "2026-01-02T00:00:00+0000 ERROR rank: rank 0 ends: Traceback (most recent call last):\n"
        "pipeline.errors.Preempted: stopped by SIGUSR2 after update 7, which is committed\n"
        "2026-01-02T02:00:07+0200 INFO stages.finetune.run: resumes after update 7\n",
        encoding="utf-8",
    )
    found = interruptions(tmp_path)
    assert [(one.update, one.reason) for one in found] == [
        (7, "SIGUSR2"),
        (23, "SIGTERM"),
        (30, ""),
    ]


def test_lines_that_are_no_records_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert unfinished_curve(path) == ([], 0)
    path.write_text('{"update": 20}\n[]\n{"update": 10}\n{"upd', encoding="utf-8")
    assert unfinished_curve(path) == ([{"update": 10}, {"update": 20}], 2)


def test_a_training_without_a_checkpoint_started_over(tmp_path: Path) -> None:
    stamp = "2026-01-02T0{}:00:01+0000"
    begins = f"{stamp} INFO stages.finetune.run: begins a training of 50 updates\n"
    aside = (
        f"{stamp} INFO stages.finetune.metrics_log: 3 records past update 0 are set aside in x\n"
    )
    failed = (
        f"{stamp} ERROR rank: rank 0 ends: Traceback (most recent call last):\na.b.DataError: bad\n"
    )
    resumes = f"{stamp} INFO stages.finetune.run: resumes after update 20\n"
    texts = (begins, begins + aside, begins + aside + failed, resumes)
    for number, text in enumerate(texts, 1):
        (tmp_path / str(number)).mkdir()
        log = tmp_path / str(number) / "rank0000.log"
        log.write_text(text.replace("{}", str(number)), encoding="utf-8")
    found = interruptions(tmp_path)
    assert [(one.update, one.error) for one in found] == [(0, ""), (0, ""), (20, "DataError: bad")]


def example(document: str, prediction: str = "") -> Example:
    return Example("best", "one", document, "reference", prediction, "eos", {"rouge1": 0.5})


def test_a_long_document_is_cut_at_a_blank_and_says_so() -> None:
    found = shown(example("word " * 2000))
    text = "".join(piece.text for piece in found.document)
    assert len(text) <= DOCUMENT_CHARS and text.endswith("word")
    assert found.cuts == {"document": f"the first {len(text):,} of 10,000 characters"}
    whole = shown(example("x" * DOCUMENT_CHARS))
    assert whole.cuts == {} and whole.document == [("x" * DOCUMENT_CHARS, False)]
    for text in ("x" * 5000, " " * 5000):
        told = shown(example(text)).cuts["document"]
        assert re.fullmatch("the first (4,000|3,999) of 5,000 characters", told)


def test_long_predictions_and_references_are_cut_too() -> None:
    long = "word " * 3000
    found = shown(Example("best", "one", "document", long, long, "eos", {}))
    assert found.cuts.keys() == {"prediction", "reference"}
    for pieces in (found.prediction, found.reference):
        assert sum(len(piece.text) for piece in pieces) <= DOCUMENT_CHARS


def test_interruptions_of_a_training_that_was_deleted_are_not_this_one_s(tmp_path: Path) -> None:
    run = "2026-01-02T0{}:00:01+0000 INFO stages.finetune.run: "
    for name, text in {
        "1-a": run.format(1) + "begins a training of 900 updates\n",
        "2-b": run.format(2) + "resumes after update 800\n",
        "3-c": run.format(3) + "begins a training of 50 updates\n",
        "4-d": run.format(4) + "resumes after update 30\n",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "rank0000.log").write_text(text, encoding="utf-8")
    assert [one.update for one in interruptions(tmp_path)] == [30]


def test_numbers_in_words() -> None:
    assert [hours(h) for h in (0.00123, 0.5, 12.345, 1163.4)] == ["0.0012", "0.50", "12.3", "1,163"]
    assert [roughly(n) for n in (0, 7500, 123_456, 999_499, 999_500, 12_345_678, 1.2e9)] == [
        "0",
        "7,500",
        "123,000",
        "999,000",
        "1 million",
        "12.3 million",
        "1.2 billion",
    ]
    assert (percent(0.123456), percent(1.0)) == ("12.35", "100.00")
    assert (amount(None), amount(1234567), amount("x")) == ("-", "1,234,567", "x")
    assert [duration(s) for s in (0.04, 59.9, 65, 7265)] == [
        "0.0 s",
        "59.9 s",
        "1 min 05 s",
        "2 h 01 min",
    ]
    assert (several(1, "row"), several(2000, "row")) == ("1 row", "2,000 rows")
    assert [listed(words) for words in ([], ["a"], ["a", "b", "c"])] == ["", "a", "a, b and c"]
