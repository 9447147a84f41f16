"""BERTScore by the reference package, from a model folder: offline, and safe for empty texts."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError

from pipeline.config import JSON, canonical_json
from pipeline.errors import ConfigError
from pipeline.files import sha256_file
from stages.score.wording import several

_PAIRS_AT_ONCE = 256
"""The package keeps every embedding of a call: about 130 MB for these, at 1,024 numbers a token."""
_TOKENS_OF_UNKNOWN = 512
_NOT_GIVEN = 1_000_000
"""Tokenizers saved without a limit say 1e30."""
_MODEL = "score.bertscore.model"
_SHOWN = 300
_TEXT_FILES = (
    "config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "*.model",
)
_INSTALL = (
    "score.bertscore needs the package bert-score: `pip install -e '.[bertscore]'`, or leave it out"
)

_logger = logging.getLogger(__name__)


class BertScore(NamedTuple):
    """Figures of one pair, as the package gives them: cosine similarities, not rescaled."""

    precision: float
    recall: float
    fmeasure: float


_NOTHING = BertScore(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Embedder:
    """What turns texts into vectors."""

    folder: Path
    """Of the model; as it was named, links and all."""
    layer: int
    batch_size: int
    limit: int
    """Most tokens of a text; what is behind them is not seen."""
    model: Any
    tokenizer: Any


def load_embedder(
    folder: Path, layer: int | None, batch_size: int = 64, device: str = "cpu"
) -> Embedder:
    """Load the model whose layer `layer` (from 1) gives the embeddings.

    Args:
        folder: A Hugging Face model with its tokenizer.
        layer: None for the package's own choice, where it knows a model of the folder's name.
        batch_size: Texts embedded at once; changes last digits, as padding does.
        device: As torch names it.

    Raises:
        ConfigError: If the package is missing, the folder holds no such model, or the layer is not known.
    """
    try:
        from bert_score.utils import (
            get_model,
            model2layers,
        )
    except ImportError as error:
        raise ConfigError(_INSTALL) from error
    from transformers import AutoConfig, AutoTokenizer

    folder = folder.absolute()  # not what a link leads to: bert-score goes by the name
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{_MODEL}: {folder} has no config.json; expected the folder of a model")
    try:
        config = AutoConfig.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        _require_fit(folder, config, tokenizer)
        chosen = _chosen_layer(folder, config, layer, model2layers)
        model = get_model(str(folder), chosen).to(device)
    except (
        *(OSError, ValueError, RuntimeError, SafetensorError),
        *(
            AssertionError,
            AttributeError,
            KeyError,
            TypeError,
        ),  # of files with other things in them
    ) as error:
        reason = " ".join(str(error).split())[:_SHOWN] or type(error).__name__
        raise ConfigError(
            f"{_MODEL}: {folder} cannot be loaded ({reason}); are all its files whole? Expected is an "
            "encoder such as roberta-large"
        ) from error
    if tokenizer.model_max_length > _NOT_GIVEN:
        # RoBERTa and its like have two positions more than they can use.
        positions = getattr(config, "max_position_embeddings", _TOKENS_OF_UNKNOWN + 2)
        tokenizer.model_max_length = positions - 2
    limit = tokenizer.model_max_length
    return Embedder(folder, chosen, batch_size, limit, model, tokenizer)


def _require_fit(folder: Path, config: Any, tokenizer: Any) -> None:
    if "t5" in str(folder) and "t5" not in config.model_type:
        raise ConfigError(
            f"{_MODEL}: {folder} has `t5` in its path, by which bert-score takes it for a T5 model; "
            "move or link it elsewhere"
        )
    if None in (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id):
        raise ConfigError(
            f"{_MODEL}: the tokenizer in {folder} lacks a pad, cls or sep token; choose an encoder such "
            "as roberta-large"
        )


def _chosen_layer(folder: Path, config: Any, layer: int | None, known: Mapping[str, int]) -> int:
    named = {found for name, found in known.items() if name.split("/")[-1] == folder.name}
    most = config.num_hidden_layers
    if layer is None and not named:
        problem = f"bert-score knows no layer for a model named {folder.name}"
    elif layer is not None and not 1 <= layer <= most:
        problem = f"{layer} is no layer of {folder.name}"
    else:
        return layer if layer is not None else min(named)
    raise ConfigError(f"score.bertscore.layer: {problem}; give one from 1 to {most}")


def settings(embedder: Embedder) -> JSON:
    """Return what the figures depend on, for rouge.json."""
    return {
        "scorer": f"bert-score {version('bert-score')}",
        "transformers": version("transformers"),
        "model": embedder.folder.name,
        "model_sha256": _model_sha256(embedder.folder),
        "layer": embedder.layer,
        "idf": False,
        "rescaled_with_baseline": False,
        "tokens_seen": embedder.limit,
    }


def _model_sha256(folder: Path) -> str:
    """Return the sha256 (hex) of the names and contents of a model's files, whatever its folder is called."""
    weights = [*folder.glob("*.safetensors")] or [*folder.glob("*.bin")]  # as transformers prefers
    others = [path for kind in _TEXT_FILES for path in folder.glob(kind)]
    files = {path.name: sha256_file(path) for path in {*weights, *others}}
    return hashlib.sha256(canonical_json(files).encode("utf-8")).hexdigest()


def bert_scores(embedder: Embedder, pairs: Iterable[tuple[str, str]]) -> Iterator[BertScore]:
    """Yield the BERTScore of each (prediction, reference).

    Formula: each token is matched with the most similar one of the other text; the mean over the tokens of
    the prediction is the precision, over those of the reference the recall; F is their harmonic mean.
    The tokens at both ends ([CLS], [SEP]) may be matched, but do not count in the means.

    Source: Zhang et al. (2020); computed by bert-score 0.3.13 without idf weights and without rescaling.
    Deviation: a pair with an empty text gets 0, as bert-score means it to; under transformers 5 it fails.
    """
    rest, cut = iter(pairs), 0
    while portion := list(itertools.islice(rest, _PAIRS_AT_ONCE)):
        cut += sum(_tokens(embedder, text) > embedder.limit for pair in portion for text in pair)
        full = [pair for pair in portion if all(text.strip() for text in pair)]
        scored = iter(_scored(embedder, full))
        for pair in portion:
            yield next(scored) if all(text.strip() for text in pair) else _NOTHING
    if cut:
        _logger.warning(
            "BERTScore: the ends of %s did not count: %s sees no more than %d tokens",
            several(cut, "text"), embedder.folder.name, embedder.limit,
        )  # fmt: skip


def _tokens(embedder: Embedder, text: str) -> int:
    return len(embedder.tokenizer(text, verbose=False)["input_ids"])


def _scored(embedder: Embedder, pairs: list[tuple[str, str]]) -> Iterator[BertScore]:
    from bert_score.utils import (
        bert_cos_score_idf,
    )

    if not pairs:
        return
    tokenizer = embedder.tokenizer
    weights = defaultdict(lambda: 1.0, {tokenizer.sep_token_id: 0.0, tokenizer.cls_token_id: 0.0})
    predictions, references = ([*texts] for texts in zip(*pairs, strict=True))
    figures = bert_cos_score_idf(
        embedder.model,
        references,
        predictions,
        tokenizer,
        weights,
        batch_size=embedder.batch_size,
        device=next(embedder.model.parameters()).device,
    )
    for precision, recall, fmeasure in figures.tolist():
        yield BertScore(precision, recall, fmeasure)
