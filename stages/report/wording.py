"""Facts of a run in words: the same ones on the page, in the model card and on the console."""

from __future__ import annotations

from pipeline.config import JSON
from stages.report.facts import Facts

ROUGE_LABELS = {
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
}
_SYSTEMS = {
    "model": "Fine-tuned model",
    "random_training_summary": "Random training summary",
    "model_against_another_reference": "Model against another row's reference",
}


_PLACES = {
    "embedding": "at the embedding's LayerNorm",
    "residual": "at the first layer",
    "compute": "as its first matrix product sees them",
}


def percent(fraction: float) -> str:
    """Return a fraction times 100 with two decimals, as ROUGE is published."""
    return f"{100 * fraction:.2f}"


def amount(value: object) -> str:
    """Return a count with thousands separated; a dash for what was not recorded."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else str(value)


def system_label(system: str, profile: JSON) -> str:
    """Return what a scored system is called for people."""
    if system == "lead":
        return f"Lead ({profile['lead']})"
    return _SYSTEMS.get(system, system.replace("_", " "))


def profile_words(profile: JSON) -> str:
    """Return how the scores were computed, in one line; another profile gives other figures."""
    stemmer = "Porter stemmer" if profile["stemmer"] else "no stemmer"
    return (
        f"{profile['scorer']}, {stemmer}, ROUGE-Lsum sentences by {profile['sentences']!r}, "
        f"references: {profile['references']}"
    )


def dataset_words(facts: Facts) -> str:
    """Return which rows the run used."""
    dataset = facts.settings("fetch")["dataset"]
    if dataset["source"] == "demo":
        return "built-in demo corpus (synthetic)"
    if dataset["source"] == "local":
        return f"local files ({', '.join(dataset['path'])})"
    named = " ".join(str(part) for part in (dataset["path"], dataset["name"]) if part)
    return f"{named} at revision {dataset['revision']}"


def model_words(facts: Facts) -> str:
    """Return which model the fine-tuning started from."""
    model = facts.settings("fetch")["model"]
    if model["source"] == "scratch":
        layers = model["layers"]
        return f"new BART ({layers} + {layers} layers, width {model['d_model']}), not pretrained"
    if model["source"] == "local":
        return f"BART-type model from a local directory ({', '.join(model['path'])})"
    return f"{model['path']} at revision {model['revision']}"


def is_r3f(facts: Facts) -> bool:
    """Whether the training had the R3F term; its settings may turn it off."""
    r3f = facts.settings("finetune")["r3f"]
    return bool(r3f["lambda"] > 0)


def survival_words(facts: Facts) -> str:
    """Say how much of the noise was left at the end, at three places; empty if it was not measured."""
    for record in reversed(facts.curve):
        shares = [record.get(f"r3f/noise_survival_{place}") for place in _PLACES]
        if None not in shares:
            told = (
                f"{100 * (share or 0):.0f} % {words}"
                for share, words in zip(shares, _PLACES.values(), strict=True)
            )
            return f"Entries that the noise still changes: {', '.join(told)}."
    return ""


def warm_start_updates(facts: Facts) -> int:
    """Return how many updates went to the warm start."""
    return int(facts.metric("finetune", "warm_start_updates") or 0)


def title(facts: Facts) -> str:
    """Return the recipe's name on one line."""
    return " ".join(facts.name.split())
