"""Named ways to score: the rows of one table. Figures of different profiles do not compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pipeline.config import JSON
from pipeline.errors import ConfigError
from stages.score.config import Splitter
from stages.score.postprocess import POSTPROCESS_WORDS, POSTPROCESSES, Postprocess
from stages.score.rouge import Words, counted
from stages.score.sentences import DOCUMENT_WORDS, punkt_sha256, split_sentences
from stages.score.stems import STEMMER_WORDS, Stemmer, exceptions_sha256, stemmer
from stages.score.tokenizers import TOKENIZER_WORDS, TOKENIZERS, Tokenizer


@dataclass(frozen=True, slots=True)
class Profile:
    """How text becomes words, and what is called ROUGE-L."""

    name: str
    tokenizer: Tokenizer
    stemmer: Stemmer
    sentences: Splitter
    """Where neither the recipe nor the command line says otherwise."""
    postprocess: Postprocess
    headline_l: Literal["rougeL", "rougeLsum"]
    """Which of the two its users publish as ROUGE-L."""
    scorer: str
    """What computes the figures, and what they are equal to."""
    published_estimate: str
    """What its users publish; ours is always the mean over all rows."""
    source: str


ALGORITHM = 1
"""Of rouge.py; another number where it gives other figures for the same words."""
_AS_GOOGLE = "sumpipe, equal bit by bit to rouge-score 0.1.2"
_AS_PERL = "sumpipe, equal to ROUGE-1.5.5 to 0.02 of a point on 11,334 rows"
_PERL = (
    "mean of 1,000 bootstrap samples, which differs from our mean by chance: by about 0.004 of a point at "
    "11,490 rows, by more where rows are few"
)
_MEDIAN = (
    "median of 1,000 bootstrap samples (BootstrapAggregator), which differs from our mean by chance: by "
    "about 0.005 of a point at 11,490 rows, by more where rows are few"
)

PROFILES = {
    one.name: one
    for one in (
        Profile(
            "rouge-score",
            tokenizer="ascii",
            stemmer="porter-nltk",
            sentences="newline",
            postprocess="none",
            headline_l="rougeLsum",
            scorer=_AS_GOOGLE,
            published_estimate=_MEDIAN,
            source="google-research rouge-score 0.1.2, use_stemmer=True",
        ),
        Profile(
            "rouge155",
            tokenizer="ascii",
            stemmer="porter-wordnet",
            sentences="newline",
            postprocess="none",
            headline_l="rougeLsum",
            scorer=_AS_PERL,
            published_estimate=_PERL,
            source="ROUGE-1.5.5.pl -c 95 -r 1000 -n 2 -a -m; what is left of a difference is the script's "
            "rounding, its draws and its version of WordNet",
        ),
        Profile(
            "pegasus",
            tokenizer="ascii",
            stemmer="porter-nltk",
            sentences="newline",
            postprocess="pegasus",
            headline_l="rougeL",
            scorer=_AS_GOOGLE,
            published_estimate=_MEDIAN,
            source="google-research/pegasus pegasus/eval/text_eval.py at 13fcf2b1; its ROUGE-L is rougeLsum "
            "for CNN/DailyMail and rougeL for all other sets",
        ),
        Profile(
            "gigaword-unilm",
            tokenizer="ascii",
            stemmer="porter-wordnet",
            sentences="newline",
            postprocess="gigaword-unilm",
            headline_l="rougeLsum",
            scorer=_AS_PERL,
            published_estimate=_PERL,
            source="microsoft/unilm src/gigaword/eval.py at 0e31c7c0, also ProphetNet's, with ROUGE-1.5.5; "
            "it leaves out empty references, which count as 0 here",
        ),
        Profile(
            "unicode",
            tokenizer="unicode",
            stemmer="none",
            sentences="newline",
            postprocess="none",
            headline_l="rougeLsum",
            scorer="sumpipe",
            published_estimate="none is established",
            source="ours, for any script; no stemmer, as the language is not known",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Reader:
    """Turns texts into words under a profile; picklable, and cheap to make again."""

    profile: Profile
    splitter: Splitter
    wordnet: Path | None

    def reference(self, text: str) -> Words:
        """Read a reference, which is never changed."""
        return counted([self._words(line) for line in split_sentences(text, self.splitter)])

    def processed(self, prediction: str) -> str:
        """Return a prediction as it is scored: post-processed as the profile does."""
        return POSTPROCESSES[self.profile.postprocess](prediction)

    def prediction(self, text: str) -> Words:
        """Read a prediction."""
        return self.reference(self.processed(text))

    def _words(self, line: str) -> list[str]:
        stem: Callable[[str], str] = stemmer(self.profile.stemmer, self.wordnet)
        return list(map(stem, TOKENIZERS[self.profile.tokenizer](line)))


def reader(name: str, sentences: Splitter | None, wordnet: Path | None) -> Reader:
    """Return what reads texts under a profile, once everything that it needs is found.

    Args:
        name: One of PROFILES.
        sentences: In place of the profile's splitter.
        wordnet: Folder of WordNet's exception lists; None to look in the usual places.

    Raises:
        DataError: If data of the stemmer or the splitter is missing, with the way to get it.
    """
    profile = PROFILES[name]
    found = Reader(profile, sentences or profile.sentences, wordnet)
    found.reference("Everything that is needed is there. A sentence tells.")
    return found


def readers_of(
    names: Sequence[str], sentences: Splitter | None, wordnet: Path | None
) -> tuple[Reader, ...]:
    """Return a `reader` for each profile.

    Raises:
        ConfigError: If a folder of WordNet's lists is given, and no profile reads them.
        DataError: See `reader`.
    """
    takers = [name for name, one in PROFILES.items() if one.stemmer == "porter-wordnet"]
    if wordnet is not None and not {*takers} & {*names}:
        raise ConfigError(
            f"score.wordnet (--wordnet) {wordnet}: no profile among {', '.join(names)} reads it; leave it "
            f"out, or add one that does: {', '.join(takers)}"
        )
    return tuple(reader(name, sentences, wordnet) for name in names)


def settings(read: Reader) -> JSON:
    """Return what the figures of a profile depend on, for rouge.json.

    `compare` wants algorithm, rules, sentences and the sha256 of data equal; nltk's version is told, as what
    it brings in data has a sha256; the rest is for people.
    """
    profile = read.profile
    told = {
        "algorithm": ALGORITHM,
        "rules": {
            "tokenizer": profile.tokenizer,
            "stemmer": profile.stemmer,
            "postprocess": profile.postprocess,
        },
        "scorer": profile.scorer,
        "tokenizer": TOKENIZER_WORDS[profile.tokenizer],
        "stemmer": STEMMER_WORDS[profile.stemmer],
        "sentences": read.splitter,
        "document_sentences": DOCUMENT_WORDS[read.splitter],
        "postprocess": POSTPROCESS_WORDS[profile.postprocess],
        "references": "raw text",
        "headline_l": profile.headline_l,
        "estimate": "mean over all rows",
        "published_estimate": profile.published_estimate,
        "source": profile.source,
    }
    if profile.stemmer != "none" or read.splitter == "punkt":
        told["nltk"] = version("nltk")
    if read.splitter == "punkt":
        told["punkt_sha256"] = punkt_sha256()
    if profile.stemmer == "porter-wordnet":
        told["wordnet_sha256"] = exceptions_sha256(read.wordnet)
    return told
