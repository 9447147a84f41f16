"""What scoring needs on a machine, looked for before anything is done."""

from __future__ import annotations

from pipeline.stage import Execution
from stages.score.config import ScoreConfig


def check_needs(config: ScoreConfig, _execution: Execution) -> None:
    """Raise if data of a profile or of the splitter is missing: at the start, not after days of training.

    Raises:
        DataError: If WordNet's lists or nltk's punkt_tab are needed and not found, with the way to get them.
        ConfigError: If BERTScore's model cannot be used, or lists are given that no profile reads.
    """
    # nltk takes a second to import, torch several: not for `plan`.
    from stages.score.profiles import readers_of

    readers_of(config.profiles, config.sentences, config.wordnet)
    if config.bertscore is not None:
        from stages.score.bertscore import load_embedder

        load_embedder(config.bertscore.model, config.bertscore.layer)
