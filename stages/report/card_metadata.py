"""What the Hugging Face Hub reads of a model card: its front matter."""

from __future__ import annotations

from huggingface_hub import EvalResult, ModelCardData

from pipeline.config import JSON
from stages.report.facts import Facts
from stages.report.wording import ROUGE_LABELS, dataset_words, is_r3f, title


def card_metadata(facts: Facts) -> ModelCardData:
    """Return the front matter; a licence is not part of it, since the run knows none."""
    settings = facts.settings("fetch")
    dataset, model = settings["dataset"], settings["model"]
    is_hub = dataset["source"] == "hub"
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="summarization",
        tags=["summarization", "bart", *(["r3f"] if is_r3f(facts) else []), "deepspeed"],
        base_model=model["path"] if model["source"] == "hub" else None,
        datasets=[dataset["path"]] if is_hub else None,
        metrics=["rouge"],
        model_name=title(facts),
        eval_results=_eval_results(facts, dataset if is_hub else {}),
    )


def _eval_results(facts: Facts, hub: JSON) -> list[EvalResult]:
    """One result a ROUGE type; `hub` is the dataset's section, empty if it is not from the Hub."""
    split, profile = facts.rouge["split"], facts.rouge["profile"]
    source = facts.settings("fetch")["dataset"]["source"]
    return [
        EvalResult(
            task_type="summarization",
            dataset_type=hub.get("path", source),
            dataset_name=hub.get("path") or dataset_words(facts),
            dataset_config=hub.get("name"),
            dataset_split=hub.get("splits", {}).get(split, split),
            dataset_revision=hub.get("revision"),
            metric_type="rouge",
            metric_name=label,
            metric_value=round(100 * facts.rouge["systems"]["model"][name]["fmeasure"], 2),
            metric_args={"use_stemmer": profile["stemmer"], "sentences": profile["sentences"]},
        )
        for name, label in ROUGE_LABELS.items()
    ]
