"""Stems: whose rules, and where WordNet's irregular words are found."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import nltk.data
import pytest
from nltk.stem.porter import PorterStemmer

from pipeline.errors import DataError
from stages.score import stems
from stages.score.stems import EXCEPTION_LISTS, exceptions_sha256, stemmer

MANY = "".join(f"irregular{number} regular\n" for number in range(1000))
LISTS = {
    "adj.exc": "worse bad\nworst bad\nbetter good well\n" + MANY,
    "adv.exc": "best well\nbetter well\nfarther far\nhardest hard\nharder hard\n",
    "noun.exc": "geese goose\nmice mouse\n" + MANY,
    "verb.exc": "went go\nworse not_this_one\n\n" + MANY,
}


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    folder = tmp_path / "wordnet"
    folder.mkdir()
    for name, text in LISTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> None:
    stems.stemmer.cache_clear()
    stems.exception_lists.cache_clear()


def test_irregular_words_are_replaced_and_others_stemmed(wordnet: Path) -> None:
    stem = stemmer("porter-wordnet", wordnet)
    # The first entry of a word wins, and of that the first base form, which is not stemmed again.
    assert [stem(word) for word in ("better", "worse", "geese", "went")] == [
        *("good", "bad", "goose", "go"),
    ]
    assert stem("ponies") == PorterStemmer(PorterStemmer.ORIGINAL_ALGORITHM).stem("ponies")


def test_words_of_three_characters_stay(wordnet: Path) -> None:
    for name in ("none", "porter-nltk", "porter-wordnet"):
        assert stemmer(name, wordnet)("was") == "was"


def test_nltk_s_extensions_are_rouge_score_s_and_no_part_of_the_original(wordnet: Path) -> None:
    # "dying" is in nltk's list of irregular forms; Porter's paper has none.
    assert stemmer("porter-nltk", None)("dying") == "die"
    assert stemmer("porter-wordnet", wordnet)("dying") == "dy"
    assert stemmer("none", None)("dying") == "dying"


def test_lists_are_looked_for_in_nltk_s_corpus_then_in_debian_s_folder(
    wordnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    monkeypatch.setattr(stems, "_DEBIAN", wordnet)
    assert stemmer("porter-wordnet", None)("geese") == "goose"
    corpora = tmp_path / "nltk_data" / "corpora"
    corpora.mkdir(parents=True)
    with zipfile.ZipFile(corpora / "wordnet.zip", "w") as packed:  # as the downloader leaves it
        for name in EXCEPTION_LISTS:
            packed.writestr(f"wordnet/{name}", "geese gander\n" + LISTS[name])
    stems.stemmer.cache_clear()
    stems.exception_lists.cache_clear()
    assert stemmer("porter-wordnet", None)("geese") == "gander"
    assert exceptions_sha256(None) != exceptions_sha256(wordnet)


@pytest.mark.parametrize("share", [0, 0.5, 0.9])
def test_an_archive_that_came_in_part_is_named(
    wordnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(stems, "_DEBIAN", wordnet)  # what is there is not passed over in silence
    archive = tmp_path / "corpora" / "wordnet.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as packed:
        for name in EXCEPTION_LISTS:
            packed.writestr(f"wordnet/{name}", LISTS[name])
    content = archive.read_bytes()
    archive.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError) as caught:
        stemmer("porter-wordnet", None)
    field, what, way = str(caught.value).split(": ", 2)  # as `doctor` reads it
    assert (field, what) == ("score.profiles", f"{archive} is not a whole .zip file")
    assert way.startswith("delete it and download it again (`python -m nltk.downloader wordnet`")


def test_a_damaged_list_in_an_archive_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    archive = tmp_path / "corpora" / "wordnet.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("wordnet/adj.exc", LISTS["adj.exc"])
    content = bytearray(archive.read_bytes())
    content[60:70] = bytes(10)
    archive.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{archive} is not a whole .zip file")):
        stemmer("porter-wordnet", None)


def test_without_lists_the_error_names_the_ways_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(stems, "_DEBIAN", tmp_path)
    with pytest.raises(DataError, match="apt-get install wordnet-base") as caught:
        stemmer("porter-wordnet", None)
    for way in ("nltk.downloader wordnet", "--wordnet", "score.wordnet"):
        assert way in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_lacks_a_list_is_refused(wordnet: Path) -> None:
    (wordnet / "noun.exc").unlink()
    with pytest.raises(DataError, match=r"has no noun\.exc"):
        stemmer("porter-wordnet", wordnet)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not WordNet's noun.exc, which has 1,000 entries or more, `geese goose` among"),
        (b"geese goose\nmice mouse\n", "this has 2: run `apt-get install wordnet-base`"),
        (MANY.encode(), "this has 1,000"),
        (b"caf\xe9s caf\xe9\n", "is not UTF-8 text, so not WordNet's noun.exc"),
    ],
    ids=["empty", "cut", "foreign", "latin-1"],
)  # fmt: skip
def test_lists_of_something_else_are_refused(wordnet: Path, content: bytes, said: str) -> None:
    (wordnet / "noun.exc").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(said)) as caught:
        stemmer("porter-wordnet", wordnet)
    field, what, way = str(caught.value).split(": ", 2)  # as `doctor` reads it
    assert (field, way[:7]) == ("score.profiles", "run `ap") and str(wordnet / "noun.exc") in what
