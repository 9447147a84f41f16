"""The model card: README.md, metadata before the text."""

from __future__ import annotations

from stages.report.card_metadata import card_metadata
from stages.report.facts import Facts
from stages.report.tables import Table, rouge_table
from stages.report.usage import usage_code
from stages.report.wording import (
    amount,
    dataset_words,
    is_r3f,
    model_words,
    percent,
    profile_words,
    title,
    warm_start_updates,
)


def model_card(facts: Facts) -> str:
    """Return the card; what the run does not know, such as a licence, is said to be not stated."""
    sections = [
        f"# {title(facts)}",
        _intro(facts),
        f"## Data\n\n{_data(facts)}",
        f"## Training\n\n{_training(facts)}",
        f"## Results\n\n{_results(facts)}",
        f"## Use\n\n{_use(facts)}",
        f"## Limits\n\n{_limits(facts)}",
    ]
    return f"---\n{card_metadata(facts).to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"


def _intro(facts: Facts) -> str:
    method = "with R3F (arXiv 2008.03156)" if is_r3f(facts) else "without R3F"
    parameters = amount(facts.metric("export", "parameters"))
    return (
        f"A BART summarization model with {parameters} parameters, fine-tuned by sumpipe "
        f"{method}.\n\n"
        f"- Started from: {model_words(facts)}\n- Licence: not stated\n- Language: not stated"
    )


def _data(facts: Facts) -> str:
    rows = [
        f"{amount(facts.metric('clean', f'rows_kept_{split}'))} {split}"
        for split in ("train", "valid", "test")
    ]
    encode = facts.settings("encode")
    longer = "is cut" if encode["truncation"] == "head" else "was refused"
    return (
        f"Dataset: {dataset_words(facts)}. Rows used: {', '.join(rows)}. "
        f"What is longer than {encode['max_source_tokens']} tokens (sources) or "
        f"{encode['max_target_tokens']} (targets), special tokens included, {longer}."
    )


def _training(facts: Facts) -> str:
    config = facts.settings("finetune")
    optimizer, batch, r3f = config["optimizer"], config["batch"], config["r3f"]
    launch = facts.inputs["finetune"].manifest.provenance.get("launch", {})
    warm_start = warm_start_updates(facts)
    named = {
        "Updates": f"{config['updates']} ({facts.metric('finetune', 'epochs')} epochs)"
        + (f", the first {warm_start} a warm start on masked documents" if warm_start else ""),
        "Update": f"{batch['lanes']} micro-batches of up to {batch['lane_tokens']} padded tokens",
        "Optimizer": f"AdamW, peak learning rate {optimizer['lr']:g}, betas {optimizer['betas']}, "
        f"eps {optimizer['eps']:g}, weight decay {optimizer['weight_decay']:g}, "
        f"gradient norm clipped at {optimizer['clip_norm']:g} (0: not clipped)",
        "Schedule": f"{config['schedule']['warmup_updates']} updates of linear warm-up, then "
        f"polynomial decay to 0 with power {config['schedule']['power']:g}",
        "Dropout": f"{config['dropout']:g}, attention {config['attention_dropout']:g}, "
        f"activation {config['activation_dropout']:g}",
        "Label smoothing": f"{config['loss']['label_smoothing']:g} ({config['loss']['smoothing']})",
        "R3F": f"noise {r3f['noise']}, sigma {r3f['sigma']:g}, lambda {r3f['lambda']:g}, "
        f"reduction {r3f['reduction']}",
        "Precision": config["precision"],
        "Seed": str(facts.inputs["finetune"].manifest.payload.get("seed", "not stated")),
        "Processes": f"{launch.get('world_size', 'not known')}, "
        f"DeepSpeed profile {launch.get('ds_profile', 'not known')}",
        "Validation nll": f"{facts.metric('finetune', 'valid_nll_nats_per_token'):.4f} nats per token",
    }
    return "\n".join(f"- {name}: {value}" for name, value in named.items())


def _results(facts: Facts) -> str:
    rouge = facts.rouge
    return (
        f"Mean F x 100 over {amount(rouge['rows'])} rows of the {rouge['split']} split.\n\n"
        f"{_markdown(rouge_table(facts))}\n\n"
        f"Exact match: {percent(rouge['exact_match'])} %. "
        f"Scoring: {profile_words(rouge['profile'])}."
    )


def _markdown(table: Table) -> str:
    rule = ["---", *["---:"] * (len(table.header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (table.header, rule, *table.rows))


def _use(facts: Facts) -> str:
    form = facts.settings("clean")["unicode_form"]
    code = usage_code(facts.settings("generate"), facts.settings("encode")["max_source_tokens"])
    return (
        f"The decoding settings are those of the results above. Documents were normalised first "
        f"(Unicode {form}, runs of blanks as one).\n\n```python\n{code}```"
    )


def _limits(facts: Facts) -> str:
    limits = [
        "Measured by ROUGE against one reference a row only: whether summaries are faithful to "
        "their documents, or biased, was not examined.",
        f"Trained and measured on documents of at most {facts.settings('encode')['max_source_tokens']} "
        "tokens; the code above reads only the head of a longer one.",
        f"{percent(facts.metric('generate', 'share_stopped_by_length'))} % of the summaries were "
        "ended by the length limit.",
        "The figures are those of one training run with one seed.",
    ]
    if facts.settings("fetch")["dataset"]["source"] == "demo":
        limits.insert(0, "The data are synthetic: the figures say nothing of real text.")
    return "\n".join(f"- {limit}" for limit in limits)
