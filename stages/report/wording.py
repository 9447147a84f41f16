"""Facts of a run in words: the same ones on the page, in the model card and on the console."""

from __future__ import annotations

from pipeline.config import JSON
from stages.report.config import ExpectedConfig
from stages.report.facts import Facts

ROUGE_LABELS = {
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
}
PERL_PROFILES = ("rouge155", "gigaword-unilm")
"""Profiles whose figures are those of ROUGE-1.5.5, which most papers use."""
_PLACES = {
    "embedding": "at the embedding's LayerNorm",
    "residual": "at the first layer",
    "compute": "as its first matrix product sees them",
}


def percent(fraction: float) -> str:
    """Return a fraction times 100 with two decimals, as ROUGE is published."""
    return f"{100 * fraction:.2f}"


def interval(figure: JSON, scale: float) -> str:
    """Return the ends of a figure's interval."""
    return f"{scale * figure['low']:.2f} to {scale * figure['high']:.2f}"


def amount(value: object) -> str:
    """Return a count with thousands separated; a dash for what was not recorded."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else str(value)


def duration(seconds: float) -> str:
    """Return a time for people: 12.3 s, 4 min 05 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60:,} h {minutes % 60:02} min"


def roughly(value: float) -> str:
    """Return a large number to three digits: 7,530, 12.3 million, 1.2 billion."""
    rounded = float(f"{value:.3g}")
    size, unit = next(
        (found for found in ((1e9, " billion"), (1e6, " million")) if rounded >= found[0]), (1, "")
    )
    return f"{rounded / size:,g}{unit}"


def hours(value: float) -> str:
    """Return hours with thousands separated, never as a power of ten."""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 4
    return f"{value:,.{decimals}f}"


def several(count: int, thing: str) -> str:
    """Return a count with its noun, in the plural where it is not one."""
    plural = f"{thing}es" if thing.endswith("s") else f"{thing}s"
    return f"{count:,} {thing if count == 1 else plural}"


def listed(words: list[str]) -> str:
    """Return words as people list them: a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def system_label(facts: Facts, system: str) -> str:
    """Return what a scored system is called for people."""
    return str(facts.rouge["systems"].get(system, {}).get("label", system.replace("_", " ")))


def is_perl(name: str, settings: JSON) -> bool:
    """Whether a profile stems as ROUGE-1.5.5 does, and so gives figures like most papers'."""
    return name in PERL_PROFILES or "wordnet_sha256" in settings


def perl_beside(facts: Facts) -> str | None:
    """Return the profile whose figures compare with most papers', if the headline is another."""
    profiles, headline = facts.rouge["profiles"], facts.rouge["profile"]
    perl = [name for name, one in profiles.items() if is_perl(name, one["settings"])]
    return None if not perl or headline in perl else perl[0]


def has_own_words(settings: JSON) -> bool:
    """Whether a profile tells words apart, or stems them, as no paper does."""
    return bool(settings["stemmer"] == "none" or settings["tokenizer"].startswith("NFKC"))


def published(facts: Facts, name: str | None = None) -> ExpectedConfig | None:
    """Return the published result if it may stand beside figures of a profile.

    That is so for ROUGE-1.5.5's, and for the headline, or the others in place of one that no paper has.

    Args:
        facts: A run that is scored.
        name: The profile; None for what tiles and charts show.
    """
    profiles, headline = facts.rouge["profiles"], facts.rouge["profile"]
    name = name or perl_beside(facts) or headline
    settings = profiles[name]["settings"]
    is_next = name == headline or has_own_words(profiles[headline]["settings"])
    may = is_perl(name, settings) or (is_next and not has_own_words(settings))
    return facts.expected if may else None


def profile_words(settings: JSON) -> str:
    """Return how the scores of a profile were computed, in one line; another profile gives other figures."""
    told = [
        settings["scorer"],
        f"words: {settings['tokenizer']}",
        f"stemming: {settings['stemmer']}",
        f"ROUGE-Lsum sentences: {settings['sentences']}",
    ]
    if settings.get("document_sentences"):
        told.append(f"sentences of documents (lead, oracle): {settings['document_sentences']}")
    if settings.get("postprocess", "none") != "none":
        told.append(f"predictions: {settings['postprocess']}")
    return "; ".join(told)


def dataset_words(facts: Facts) -> str:
    """Return which rows the run used."""
    dataset = facts.settings("fetch")["dataset"]
    if dataset["source"] == "demo":
        return "built-in demo corpus (synthetic)"
    if dataset["source"] == "local":
        return _local_files(dataset["path"])
    if dataset["source"] == "catalogue":
        place = dataset["path"]
        where = (
            _local_files(place)
            if isinstance(place, dict)
            else f"{place} at revision {revision(facts, 'dataset')}"
        )
        return f"{dataset['name']}, split {dataset['split'] or 'as published'}, from {where}"
    named = " ".join(str(part) for part in (dataset["path"], dataset["name"]) if part)
    return f"{named} at revision {revision(facts, 'dataset')}"


def _local_files(checksums: JSON) -> str:
    return f"local files ({several(len(checksums), 'file')})"


def revision(facts: Facts, what: str) -> str | None:
    """Return the commit that fetch found of the Hub's `dataset` or `model`, else the revision asked for."""
    asked: str | None = facts.settings("fetch")[what].get("revision")
    return facts.metric("fetch", f"{what}_commit") or asked


def model_words(facts: Facts) -> str:
    """Return which model the fine-tuning started from."""
    model = facts.settings("fetch")["model"]
    if model["source"] == "scratch":
        layers = model["layers"]
        return f"new BART ({layers} + {layers} layers, width {model['d_model']}), not pretrained"
    if model["source"] == "local":
        return f"BART-type model from a local directory ({several(len(model['path']), 'file')})"
    return f"{model['path']} at revision {revision(facts, 'model')}"


def made_words(facts: Facts) -> str:
    """Return what the training did to the model that it started from."""
    is_new = facts.settings("fetch")["model"]["source"] == "scratch"
    return "trained from random weights" if is_new else "fine-tuned"


def is_r3f(facts: Facts) -> bool:
    """Whether the training had the R3F term; its settings may turn it off."""
    r3f = facts.settings("finetune")["r3f"]
    return bool(r3f["lambda"] > 0)


def noise_words(facts: Facts) -> str:
    """Return which noise R3F adds."""
    r3f = facts.settings("finetune")["r3f"]
    if r3f["noise"] == "none":
        return "no noise: the passes differ in their dropout alone"
    return f"{r3f['noise']} noise of sigma {r3f['sigma']:g}"


def kl_unit(facts: Facts) -> str:
    """Return of what the R3F term is recorded: its reduction divides by tokens or by sentences."""
    per = "target token" if facts.settings("finetune")["r3f"]["reduction"] == "token" else "summary"
    return f"nats per {per}, before lambda"


def dropout_words(facts: Facts) -> str:
    """Return how training values are measured: with dropout, if there is any."""
    config = facts.settings("finetune")
    has = any(config[name] > 0 for name in ("dropout", "attention_dropout", "activation_dropout"))
    return "with dropout" if has else "without dropout"


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
    """Return how many updates go to the warm start, also of a training that is not finished."""
    counted = facts.metric("finetune", "warm_start_updates")
    if counted is None:
        finetune = facts.settings("finetune")
        counted = round(finetune["warm_start"]["share"] * finetune["updates"]) if finetune else 0
    return int(counted)


def warm_start_words(facts: Facts) -> str:
    """Return how many of the updates were a warm start, to follow their number; empty for none."""
    count = min(warm_start_updates(facts), updates_done(facts))
    return f", the first {count:,} a warm start on masked documents" if count else ""


def updates_done(facts: Facts) -> int:
    """Return how many updates were done, as far as records tell of a training that is not finished."""
    done = facts.metric("finetune", "updates")
    recorded = int(facts.curve[-1]["update"]) if facts.curve else 0
    return recorded if done is None else int(done)


def title(facts: Facts) -> str:
    """Return the recipe's name on one line."""
    return " ".join(facts.name.split())
