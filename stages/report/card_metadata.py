"""What the Hugging Face Hub reads of a model card: its front matter."""

from __future__ import annotations

from huggingface_hub import EvalResult, ModelCardData

from pipeline.config import JSON
from stages.report.facts import Facts
from stages.report.wording import ROUGE_LABELS, dataset_words, is_r3f, revision, title


def card_metadata(facts: Facts) -> ModelCardData:
    """Return the front matter; licence and language are those of `report.card`, else unknown to it too.

    The figures are in `model-index`, F x 100, with the ends of their intervals as arguments of the metric.
    The newer `.eval_results/` files (EvalResultEntry, huggingface_hub 2.x) have room for one figure of a task
    that the dataset's owner has registered, and for neither split nor interval: they are not written.
    """
    settings = facts.settings("fetch")
    dataset, model = settings["dataset"], settings["model"]
    repository = _repository(dataset)
    return ModelCardData(
        language=facts.card.language,
        license=facts.card.licence
        or "unknown",  # which the Hub has a name for, unlike for languages
        library_name="transformers",
        pipeline_tag="summarization",
        tags=["summarization", "bart", *(["r3f"] if is_r3f(facts) else []), "deepspeed"],
        base_model=model["path"] if model["source"] == "hub" else None,
        datasets=[repository] if repository else None,
        metrics=["rouge"],
        model_name=title(facts),
        eval_results=_eval_results(facts, dataset),
    )


def _repository(dataset: JSON) -> str | None:
    """Return the Hub's dataset, None for files and what is made."""
    is_hub = dataset["source"] in ("hub", "catalogue") and isinstance(dataset["path"], str)
    return str(dataset["path"]) if is_hub else None


def _eval_results(facts: Facts, dataset: JSON) -> list[EvalResult]:
    """One result a ROUGE type, of the headline profile."""
    rouge, is_hub = facts.rouge, dataset["source"] == "hub"
    name, split = rouge["profile"], rouge["split"]
    profile = rouge["profiles"][name]
    said = {key: profile["settings"][key] for key in ("stemmer", "sentences")}
    choice = rouge["split_choice"]
    confidence = {"confidence": profile["settings"]["interval"]["confidence"]}
    named = {"hub": dataset.get("path"), "catalogue": dataset.get("name")}
    return [
        EvalResult(
            task_type="summarization",
            dataset_type=_repository(dataset) or dataset["source"],
            dataset_name=named.get(dataset["source"]) or dataset_words(facts),
            dataset_config=dataset["name"] if is_hub else None,
            dataset_split=dataset["splits"][split] if is_hub else split,
            dataset_revision=revision(facts, "dataset"),
            dataset_args={"split_choice": choice} if choice else None,
            metric_type="rouge",
            metric_name=label,
            metric_value=_points(figure["mean"]),
            metric_args={
                "profile": name,
                **said,
                **(confidence | _bounds(figure) if rouge["rows"] > 1 else {}),  # one row has none
            },
        )
        for rouge_type, label in ROUGE_LABELS.items()
        for figure in [profile["systems"]["model"][rouge_type]["fmeasure"]]
    ]


def _bounds(figure: JSON) -> JSON:
    return {end: _points(figure[end]) for end in ("low", "high")}


def _points(fraction: float) -> float:
    return round(100 * fraction, 2)
