"""A new small BART with a byte-level BPE: for demos, tests and languages without a pretrained model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration, BartTokenizer

from stages.fetch.config import ScratchModel
from stages.fetch.identity import bpe_files

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
"""BART's special tokens, at BART's ids 0 to 3; <mask> is the last id."""


def train_bpe(texts: Iterable[str], vocab_size: int, folder: Path) -> BartTokenizer:
    """Train a byte-level BPE with BART's special tokens and save it as a BART tokenizer."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        texts,
        vocab_size=vocab_size - 1,  # <mask> comes on top
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    state = json.loads(trained.to_str())["model"]
    return _save(state["vocab"], [tuple(pair) for pair in state["merges"]], folder)


def gpt2_bpe(bpe: Path, folder: Path) -> BartTokenizer:
    """Save a BART tokenizer made of GPT-2's BPE files.

    Ids are GPT-2's shifted by the four special tokens. Deviation: facebook/bart orders them by fairseq's
    dict.txt instead, so weights of that model do not fit this vocabulary.
    """
    encoder_file, merges_file = bpe_files(bpe)
    encoder = json.loads(encoder_file.read_text(encoding="utf-8"))
    vocab = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    for token, index in encoder.items():
        vocab.setdefault(token, index + len(SPECIAL_TOKENS))
    lines = merges_file.read_text(encoding="utf-8").splitlines()
    pairs = [line.split() for line in lines if line and not line.startswith("#version")]
    return _save(vocab, [(left, right) for left, right in pairs], folder)


def _save(vocab: dict[str, int], merges: list[tuple[str, str]], folder: Path) -> BartTokenizer:
    vocab = {**vocab, "<mask>": max(vocab.values()) + 1}
    tokenizer = BartTokenizer(vocab=vocab, merges=merges)
    tokenizer.save_pretrained(folder)
    return tokenizer


def sinusoids(positions: int, width: int) -> Tensor:
    """Return the table of Vaswani et al. 2017 (section 3.5), sines first; float32 [positions, width]."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(positions)[:, None] * rates[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


def new_model(config: ScratchModel, vocab_size: int, seed: int) -> BartForConditionalGeneration:
    """Return a BART with random weights drawn from `seed`.

    `init_std` defaults to 1/sqrt(d_model): at Hugging Face's 0.02 a small model trained from scratch
    writes one summary for every document.
    """
    spread = config.init_std or config.d_model**-0.5
    settings = BartConfig(
        vocab_size=vocab_size,
        d_model=config.d_model,
        encoder_layers=config.layers,
        decoder_layers=config.layers,
        encoder_attention_heads=config.heads,
        decoder_attention_heads=config.heads,
        encoder_ffn_dim=config.ffn,
        decoder_ffn_dim=config.ffn,
        max_position_embeddings=config.max_positions,
        init_std=spread,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
    )
    torch.manual_seed(seed)
    model = BartForConditionalGeneration(settings)
    if config.sinusoid_positions:
        for side in (model.model.encoder, model.model.decoder):
            table = side.embed_positions.weight  # its first rows are BART's offset of 2
            with torch.no_grad():
                table.copy_(
                    sinusoids(*table.shape) * spread * 2**0.5
                )  # a root mean square of `spread`
    return model
