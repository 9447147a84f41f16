"""From text to a model's token ids, the same for training and for new documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Tokenise; a text that holds the letters `</s>` keeps them as letters, not as the end token."""
    encoded = tokenizer(texts, verbose=False, split_special_tokens=True)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def truncate(ids: list[int], limit: int) -> tuple[list[int], int]:
    """Cut `<s> ... </s>` to `limit` ids, the end token kept; returns the ids and how many are lost."""
    if len(ids) <= limit:
        return ids, 0
    return [*ids[: limit - 1], ids[-1]], len(ids) - limit
