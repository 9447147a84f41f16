"""From text to a model's token ids, the same for training and for new documents."""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, TypeAlias

from pydantic import Field

from pipeline.config import Config, Number
from pipeline.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

    AnyTokenizer: TypeAlias = PreTrainedTokenizerBase | Tokenizer

Policy = Literal["head", "head_tail", "sentences", "fail"]

_SENTENCE_END = re.compile(
    r"(?=\n)|(?<=[.!?])[\"'\u2019\u201d)\]]*+(?=\s+[\"'\u2018\u201c(\[]*+[A-Z0-9])"
)


class TruncationRules(Config):
    """What is kept of a text that has more tokens than are allowed; what is lost is counted."""

    truncation: Policy = "head"
    """What to do with longer text: keep its `head`; its head and its tail (`head_tail`); the leading
    `sentences` that fit whole, and of a first one that does not, its head; or `fail`. A sentence ends at a
    line break, and after . ! or ? (and closing quotes) before a blank and a capital or digit."""
    head_share: Annotated[Number, Field(gt=0, lt=1)] = 0.75
    """The head's share of what head_tail keeps, rounded down to tokens. Ours, not tuned: Sun et al. 2019, who
    named the policy, keep 128 of 510 tokens for classification; news stand in the head."""


class Tokens(NamedTuple):
    """A text for a model."""

    ids: list[int]
    """<s> ... </s>."""
    lost: int
    """How many there would be more."""


def light(tokenizer: AnyTokenizer) -> Tokenizer:
    """Return the part of a tokenizer that makes ids of text: the same, as transformers calls nothing else.

    A worker that is given it need not import transformers, and torch with it: seconds of CPU time.

    Raises:
        DataError: If it has none.
    """
    from tokenizers import Tokenizer  # not above: the settings there are read by `plan` too

    if not isinstance(tokenizer, Tokenizer):
        if not tokenizer.is_fast:
            raise DataError(
                f"{tokenizer.name_or_path}: its tokenizer, a {type(tokenizer).__name__}, is slow; give a "
                "model with a fast one (tokenizer.json), as BART's is"
            )
        tokenizer = tokenizer.backend_tokenizer
    tokenizer.no_truncation()  # a tokenizer.json may ask for both; transformers' call undoes it too
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # that is, as letters; a pickled one has forgotten it
    return tokenizer


def token_ids(tokenizer: AnyTokenizer, texts: list[str]) -> list[list[int]]:
    """Tokenise; a text that holds the letters `</s>` keeps them as letters, not as the end token."""
    return [found.ids for found in light(tokenizer).encode_batch_fast(texts)]


def tokenize(
    tokenizer: AnyTokenizer, texts: list[str], limit: int, rules: TruncationRules
) -> list[Tokens]:
    """Tokenise texts and cut them to `limit` ids, <s> and </s> included.

    With `fail` they are cut as with `head`: the caller knows what it fails by.
    """
    found = []
    for text, ids in zip(texts, token_ids(tokenizer, texts) if texts else [], strict=True):
        if len(ids) <= limit:
            found.append(Tokens(ids, 0))
            continue
        ends = functools.partial(sentence_ends, tokenizer, text)
        head, tail = kept(limit, rules, ends)
        found.append(Tokens([*ids[:head], *ids[-tail:]], len(ids) - head - tail))
    return found


def kept(limit: int, rules: TruncationRules, ends: Callable[[], list[int]]) -> tuple[int, int]:
    """Return how many ids of a text that is too long are kept at its beginning and at its end.

    Args:
        limit: Ids that are allowed, at least 3.
        rules: Which are kept.
        ends: Gives how many ids there are up to the end of each sentence, <s> included, ascending.
    """
    if rules.truncation == "head_tail":
        head = 1 + int((limit - 2) * rules.head_share)
        return head, limit - head
    if rules.truncation == "sentences":
        whole = ends()
        fitting = bisect.bisect_right(whole, limit - 1)
        return (whole[fitting - 1] if fitting else limit - 1), 1
    return limit - 1, 1


def sentence_ends(tokenizer: AnyTokenizer, text: str) -> list[int]:
    """Return how many ids there are up to the end of each sentence but the last, <s> included.

    Line breaks before the first word end none.
    """
    token_ends = [end for _, end in light(tokenizer).encode(text).offsets[1:-1]]
    begin = len(text) - len(text.lstrip())
    ends = (place.end() for place in _SENTENCE_END.finditer(text))
    return [1 + bisect.bisect_right(token_ends, end) for end in ends if end > begin]
