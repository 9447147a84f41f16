"""The profiles: ROUGE-1.5.5's published figures, py-rouge as an oracle, and what each row is."""

from __future__ import annotations

import importlib
import os
import re
import sys
import types
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import nltk.data
import pytest
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from pipeline.errors import ConfigError, DataError
from pipeline.stage import Execution
from stages.score import profiles
from stages.score.config import BertScoreConfig, ProfileName, ScoreConfig
from stages.score.needs import check_needs
from stages.score.profiles import PROFILES, reader, settings
from stages.score.rouge import ROUGE_TYPES, rouge
from stages.score.sentences import punkt_sha256
from stages.score.stems import EXCEPTION_LISTS, exception_lists

PARTS = {"f-score": "fmeasure", "precision": "precision", "recall": "recall"}
SYSTEMS = ("convs2s", "topic-convs2s", "lead")


def wordnet() -> None:
    try:
        exception_lists(None)
    except DataError:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip("no exception lists of WordNet here (Debian: wordnet-base)")


def folder() -> Path:
    data = os.environ.get("SUMPIPE_TEST_DATA")
    if data is None:
        pytest.skip("SUMPIPE_TEST_DATA is not set: no outputs with published figures")
    return Path(data) / "scoring_xsum_preds"


def pairs(system: str) -> list[tuple[str, str]]:
    names = (f"{system}-test-output.txt", "gold-test-sentences.txt")
    texts = (
        (folder() / name).read_text(encoding="utf-8").rstrip("\n").split("\n") for name in names
    )
    return list(zip(*texts, strict=True))


def published(system: str) -> dict[str, list[float]]:
    """Figures x 100 of ROUGE-1, 2 and L by part, as the Perl script printed them."""
    text = (folder() / f"{system}-test-output.rouge").read_text(encoding="utf-8")
    found = re.findall(r"(\S+) >> ROUGE\(1/2/3/L/SU4\): ([\d.]+)/([\d.]+)/[\d.]+/([\d.]+)/", text)
    return {PARTS[part]: [float(figure) for figure in figures] for part, *figures in found}


def means(system: str, profile: str) -> dict[str, list[float]]:
    read = reader(profile, None, None)
    found = [rouge(read.prediction(one), read.reference(other)) for one, other in pairs(system)]
    return {
        part: [
            100 * fmean(getattr(scores[name], part) for scores in found)
            for name in ("rouge1", "rouge2", PROFILES[profile].headline_l)
        ]
        for part in PARTS.values()
    }


@pytest.mark.parametrize(
    "system", ["convs2s", *(pytest.param(name, marks=pytest.mark.slow) for name in SYSTEMS[1:])]
)
def test_rouge155_gives_the_published_figures(system: str) -> None:
    wordnet()
    expected, found = published(system), means(system, "rouge155")
    assert expected.keys() == set(PARTS.values())
    for part, figures in expected.items():
        assert found[part] == pytest.approx(figures, abs=0.02), part


def test_the_profiles_differ_by_a_third_of_a_point_on_xsum() -> None:
    """What the page and the README state."""
    found = means("convs2s", "rouge-score")["fmeasure"][0]
    assert published("convs2s")["fmeasure"][0] - found == pytest.approx(0.33, abs=0.005)


def py_rouge(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import py-rouge 1.1 (of the extra `test`), which wants a module that setuptools has given up."""

    def resource_filename(module: str, name: str) -> str:
        return str(Path(str(sys.modules[module].__file__)).with_name(name))

    stand_in = types.ModuleType("pkg_resources")
    monkeypatch.setattr(stand_in, "resource_filename", resource_filename, raising=False)
    monkeypatch.setitem(sys.modules, "pkg_resources", stand_in)
    monkeypatch.setattr(nltk.data, "path", [str(folder().parent / "nltk_data")])
    return importlib.import_module("rouge").Rouge(
        metrics=["rouge-n", "rouge-l"],
        max_n=2,
        limit_length=False,
        stemming=True,
        ensure_compatibility=True,
        apply_avg=False,
    )


def test_rouge155_is_py_rouge_s_pair_by_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its irregular words are of another WordNet: a pair in some hundred may differ by one."""
    wordnet()
    peer, read = py_rouge(monkeypatch), reader("rouge155", None, None)
    names = {"rouge-1": "rouge1", "rouge-2": "rouge2", "rouge-l": "rougeLsum"}
    sample = pairs("convs2s")[::40]
    equal = 0
    for prediction, reference in sample:
        expected = peer.get_scores([prediction], [reference])
        found = rouge(read.prediction(prediction), read.reference(reference))
        equal += all(
            found[name] == pytest.approx([expected[key][0][part][0] for part in "prf"], abs=1e-9)
            for key, name in names.items()
        )
    assert len(sample) > 250
    assert equal / len(sample) > 0.99


class Stemming(Tokenizer):
    """rouge155's words by hand: the lists read anew, Porter's original for the rest."""

    def __init__(self) -> None:
        self._porter = PorterStemmer(PorterStemmer.ORIGINAL_ALGORITHM)
        lines = [line.split() for text in exception_lists(None) for line in text.split("\n")]
        self._base = {words[0]: words[1] for words in reversed(lines) if words[1:]}

    def tokenize(self, text: str) -> list[str]:
        words = re.sub("[^a-z0-9]+", " ", text.lower()).split()
        return [
            self._base.get(word) or self._porter.stem(word) if word[3:] else word for word in words
        ]


def test_rouge155_of_several_sentences_is_rouge_score_s_of_its_words() -> None:
    """Outputs for CNN/DailyMail, about four sentences each: Lsum is the union over them."""
    wordnet()
    texts = folder().parent / "scoring_realsumm"
    references = (texts / "references.txt").read_text(encoding="utf-8").splitlines()
    outputs = min((texts / "summaries").iterdir()).read_text(encoding="utf-8").splitlines()
    peer = RougeScorer([*ROUGE_TYPES], tokenizer=Stemming())
    read, differ = reader("rouge155", None, None), 0
    for output, marked in zip(outputs, references, strict=True):
        prediction = output.replace(" . ", " .\n")
        reference = marked.replace("<t>", "").replace("</t>", "\n")
        expected = peer.score(reference, prediction)
        found = rouge(read.prediction(prediction), read.reference(reference))
        assert {name: tuple(figures) for name, figures in expected.items()} == found
        differ += found["rougeL"] != found["rougeLsum"]
    assert differ > 80, "of 100 pairs, so that the union matters"


# By hand, irregular words of more than three letters replaced. Predicted are [goose saw mouse] and [the cat
# ran]. Of [the mouse ran] the first has `mouse`, the second `the ran`: all 3 words. Of [a cat saw goose] the
# first has `saw` or `goose`, the second `cat`: 2 words. So 5 of 6 predicted, and 5 of 7 wanted.
def test_rouge155_lsum_by_hand() -> None:
    wordnet()
    read = reader("rouge155", None, None)
    prediction, reference = "geese saw mice\nthe cat ran", "the mice ran\na cat saw geese"
    assert read.reference(reference).words == ["the", "mouse", "ran", "a", "cat", "saw", "goose"]
    found = rouge(read.prediction(prediction), read.reference(reference))["rougeLsum"]
    assert found == pytest.approx((5 / 6, 5 / 7, 10 / 13))


def test_the_recipe_names_the_rows_of_the_table() -> None:
    assert get_args(ProfileName) == tuple(PROFILES)
    assert all(name == profile.name for name, profile in PROFILES.items())


@pytest.mark.parametrize("name", PROFILES)
def test_settings_say_what_figures_depend_on(name: str) -> None:
    if PROFILES[name].stemmer == "porter-wordnet":
        wordnet()
    said = settings(reader(name, None, None))
    assert said["sentences"] == "newline" and said["headline_l"] in ROUGE_TYPES
    assert ("wordnet_sha256" in said) == (PROFILES[name].stemmer == "porter-wordnet")
    assert said["rules"]["tokenizer"] == PROFILES[name].tokenizer and said["algorithm"] == 1
    changed = {"sentences": "simple", "document_sentences": "simple"}
    assert settings(reader(name, "simple", None)) == {**said, **changed}
    assert "in one line by simple" in said["document_sentences"]
    is_stemmed = PROFILES[name].stemmer != "none"
    assert said.get("nltk") == (version("nltk") if is_stemmed else None)


def test_the_scorer_is_ours_and_says_what_it_equals(monkeypatch: pytest.MonkeyPatch) -> None:
    wordnet()
    asked: list[str] = []
    monkeypatch.setattr(profiles, "version", lambda name: asked.append(name) or "9")
    said = {name: settings(reader(name, None, None))["scorer"] for name in PROFILES}
    assert {*asked} == {"nltk"}, "the package rouge-score takes no part in the figures"
    equal = {
        name for name, scorer in said.items() if "equal bit by bit to rouge-score 0.1.2" in scorer
    }
    assert equal == {"rouge-score", "pegasus"} and said["unicode"] == "sumpipe"


def test_punkt_is_recorded_by_version_and_contents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk.data, "path", [str(folder().parent / "nltk_data")])
    said = settings(reader("unicode", "punkt", None))
    assert (said["punkt_sha256"], said["nltk"]) == (punkt_sha256(), version("nltk"))


def test_no_two_profiles_have_the_same_settings() -> None:
    wordnet()
    told = [str(settings(reader(name, None, None))) for name in PROFILES]
    assert len(set(told)) == len(told)


def words(profile: ProfileName, prediction: str) -> list[str]:
    return reader(profile, None, None).prediction(prediction).words


def test_predictions_are_changed_as_published_and_references_are_not() -> None:
    wordnet()
    text = "don ' t (<n>) 1 & ( [UNK] )"
    assert words("rouge-score", text) == ["don", "t", "n", "1", "unk"]
    assert words("pegasus", text) == ["don", "t", "1", "unk"]
    assert words("gigaword-unilm", text) == [*["do", "n", "t"], "n", "amp", "lrb", "unk", "rrb"]
    for profile in ("pegasus", "gigaword-unilm"):
        reference = reader(profile, None, None).reference(text)
        assert reference.words == ["don", "t", "n", "1", "unk"]


def test_a_missing_list_is_found_before_anything_is_scored(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path} has no {EXCEPTION_LISTS[0]}")):
        reader("rouge155", None, tmp_path)


def test_what_a_recipe_needs_is_asked_for_at_the_start(tmp_path: Path) -> None:
    execution = Execution(processes=1, threads=1, ds_profile=tmp_path)
    check_needs(ScoreConfig(profiles=("rouge-score", "unicode")), execution)
    with pytest.raises(ConfigError, match="no profile among rouge-score, unicode reads it"):
        check_needs(ScoreConfig(profiles=("rouge-score", "unicode"), wordnet=tmp_path), execution)
    with pytest.raises(DataError, match=r"score\.wordnet"):
        check_needs(ScoreConfig(profiles=("rouge-score", "rouge155"), wordnet=tmp_path), execution)
    missing = BertScoreConfig(model=tmp_path / "none")
    with pytest.raises(ConfigError, match=r"score\.bertscore"):
        check_needs(ScoreConfig(bertscore=missing), execution)
