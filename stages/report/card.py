"""The model card: README.md, metadata before the text."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config import JSON
from stages.report.card_metadata import card_metadata
from stages.report.cost import training_cost
from stages.report.facts import Facts
from stages.report.outcome import is_stopped_early, left_out, weights_nll, weights_words
from stages.report.story import comparability, leak_words
from stages.report.tables import Table, bertscore_words, measures_table, rouge_table
from stages.report.usage import usage_code
from stages.report.wording import (
    amount,
    dataset_words,
    hours,
    is_r3f,
    made_words,
    model_words,
    noise_words,
    percent,
    profile_words,
    roughly,
    several,
    title,
    updates_done,
    warm_start_words,
)

_UNKNOWN = "unknown"
_BART = (
    "Lewis et al.: BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, "
    "Translation, and Comprehension, ACL 2020 (arXiv 1910.13461)"
)
_R3F = (
    "Aghajanyan, Shrivastava, Gupta, Goyal, Zettlemoyer, Gupta: Better Fine-Tuning by Reducing "
    "Representational Collapse, ICLR 2021 (arXiv 2008.03156)"
)


def model_card(facts: Facts) -> str:
    """Return the card; what neither the run nor `report.card` knows is said to be unknown."""
    sections = [
        f"# {title(facts)}",
        _intro(facts),
        f"## Data\n\n{_data(facts)}",
        f"## Training\n\n{_training(facts)}",
        f"## Results\n\n{_results(facts)}",
        f"## Use\n\n{_use(facts)}",
        f"## Limits\n\n{_limits(facts)}",
        f"## Citation\n\n{_citation(facts)}",
    ]
    return f"---\n{card_metadata(facts).to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"


def _intro(facts: Facts) -> str:
    method = "with R3F (arXiv 2008.03156)" if is_r3f(facts) else "without R3F"
    parameters = amount(facts.metric("export", "parameters"))
    return (
        f"A BART summarization model with {parameters} parameters, {made_words(facts)} by sumpipe "
        f"{method}.\n\n"
        f"- Started from: {model_words(facts)}\n- Licence: {facts.card.licence or _UNKNOWN}\n"
        f"- Language: {facts.card.language or _UNKNOWN}"
    )


def _data(facts: Facts) -> str:
    rows = [
        f"{amount(facts.metric('clean', f'rows_kept_{split}'))} {split}"
        for split in dict.fromkeys(("train", "valid", facts.split))
    ]
    encode = facts.settings("encode")
    longer = "was refused" if encode["truncation"] == "fail" else f"is cut ({encode['truncation']})"
    return (
        f"Dataset: {dataset_words(facts)}. Rows used: {', '.join(rows)}. "
        f"What is longer than {encode['max_source_tokens']} tokens (sources) or "
        f"{encode['max_target_tokens']} (targets), special tokens included, {longer}.\n\n"
        f"- Licence of the data: {_plain(facts.metric('fetch', 'licence') or _UNKNOWN)}\n"
        f"- Citation of the data: {_plain(facts.metric('fetch', 'citation') or _UNKNOWN)}"
    )


def _training(facts: Facts) -> str:
    config = facts.settings("finetune")
    optimizer, batch, r3f = config["optimizer"], config["batch"], config["r3f"]
    launch = facts.launch("finetune")
    done = updates_done(facts)
    nll = facts.metric("finetune", "valid_nll_nats_per_token")
    planned = f" of {config['updates']}, stopped early" if is_stopped_early(facts) else ""
    chosen = weights_nll(facts)
    longer = facts.metric("finetune", "rows_over_lane_tokens")
    decay = config["schedule"]["decay"]
    if decay == "polynomial":
        decay = f"polynomial decay to 0 with power {config['schedule']['power']:g}"
    else:
        decay = f"{decay} decay to 0"
    named = {
        "Updates": f"{done}{planned} ({roughly(facts.metric('finetune', 'epochs'))} epochs)"
        f"{warm_start_words(facts)}",
        "Update": f"{batch['lanes']} micro-batches of up to {batch['lane_tokens']} padded tokens"
        + (f"; {several(longer, 'longer row')} alone in theirs" if longer else ""),
        "Optimizer": f"AdamW, peak learning rate {optimizer['lr']:g}, betas {optimizer['betas']}, "
        f"eps {optimizer['eps']:g}, weight decay {optimizer['weight_decay']:g}, "
        f"gradient norm clipped at {optimizer['clip_norm']:g} (0: not clipped)",
        "Schedule": f"{config['schedule']['warmup_updates']} updates of linear warm-up, then {decay}",
        "Dropout": f"{config['dropout']:g}, attention {config['attention_dropout']:g}, "
        f"activation {config['activation_dropout']:g}",
        "Label smoothing": f"{config['loss']['label_smoothing']:g} ({config['loss']['smoothing']})",
        "R3F": f"{noise_words(facts)}; lambda {r3f['lambda']:g}, reduction {r3f['reduction']}"
        if is_r3f(facts)
        else "off (lambda 0)",
        "Precision": config["precision"],
        "Weights": weights_words(facts)
        + (f", validation nll {chosen:.4f} nats per token" if chosen is not None else ""),
        "Seed": str(facts.inputs["finetune"].manifest.payload.get("seed", _UNKNOWN)),
        "Processes": f"{training_cost(facts).counts or 'not known'}; DeepSpeed profile of the last launch "
        f"{launch.get('ds_profile', 'not known')}",
        "Validation nll after the last update": f"{nll:.4f} nats per token",
        "Hardware": _hardware(facts),
        "Made by": _made_by(facts),
    }
    lines = [*(f"{name}: {value}" for name, value in named.items()), *left_out(facts)]
    return "\n".join(f"- {line}" for line in lines)


def _hardware(facts: Facts) -> str:
    cost = training_cost(facts)
    spent = cost.device_hours
    unit = "GPU hours" if cost.is_gpu else "process hours"
    took = "hours not recorded" if spent is None else f"{hours(spent)} {unit} in updates"
    return f"{cost.device_words or f'an unknown number of {cost.device}'}, {took}"


def _made_by(facts: Facts) -> str:
    provenance = facts.inputs["finetune"].manifest.provenance
    git, packages = provenance.get("git") or {}, provenance.get("packages") or {}
    changed = " with changes" if git.get("modified") else ""
    commit = f", commit {git['commit']}{changed}" if git.get("commit") else ""
    named = (f"{name} {packages[name]}" for name in ("torch", "deepspeed") if packages.get(name))
    ours = f"sumpipe {packages.get('sumpipe') or _UNKNOWN}{commit}"
    return ", ".join([ours, *named])


def _results(facts: Facts) -> str:
    rouge = facts.rouge
    interval = rouge["profiles"][rouge["profile"]]["settings"]["interval"]
    brackets = (
        f"; in brackets the {100 * interval['confidence']:g} % interval of {interval['resamples']:,} "
        "bootstrap samples of the rows"
    )
    parts = [
        f"Mean F x 100 over {several(rouge['rows'], 'row')} of the {rouge['split']} split, against raw "
        f"references{brackets if rouge['rows'] > 1 else ''}. Exact match: "
        f"{percent(rouge['exact_match'])} %.",
        *(
            f"Profile `{name}` ({_plain(profile_words(profile['settings']))}):\n\n"
            f"{_markdown(rouge_table(facts, name, with_intervals=True))}"
            for name, profile in rouge["profiles"].items()
        ),
        *map(_plain, comparability(facts)),
        *([f"Beyond ROUGE:\n\n{_markdown(measures_table(facts))}"] if rouge["measures"] else []),
        *filter(None, [_plain(bertscore_words(facts))]),
    ]
    return "\n\n".join(parts)


def _markdown(table: Table) -> str:
    rule = ["---", *["---:"] * (len(table.header) - 1)]
    rows = [[_cell(text) for text in row] for row in (table.header, rule, *table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(text: str) -> str:
    value, _, beside = text.partition("\n")
    return _plain(f"{value} ({beside})" if beside else value)


def _plain(text: object) -> str:
    """Return a text of others on one line, and so that it is neither a tag nor another cell."""
    line = " ".join(str(text).split())
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _use(facts: Facts) -> str:
    generate, encode, clean = map(facts.settings, ("generate", "encode", "clean"))
    differs = list(_differences(generate, encode, clean))
    told = f" Where it differs from the run: {'; '.join(differs)}." if differs else ""
    return (
        "The folder's `generation_config.json` has the rules that made the results above "
        f"({generate['num_beams']} beams, {generate['min_length']} to {generate['max_length']} tokens), and "
        "transformers goes by them.\n\n"
        f"```python\n{usage_code(encode['max_source_tokens'])}```\n\n"
        f"The run's documents were normalised before (Unicode {clean['unicode_form']}, runs of blanks as "
        f"one); this code takes them as they are.{told}\n\n"
        "`sumpipe summarize DIR FILE` summarises the documents of a file: in every point as the run did "
        "where DIR is its directory, by the same decoding rules where DIR is the model's folder."
    )


def _differences(generate: JSON, encode: JSON, clean: JSON) -> Iterator[str]:
    """Say where plain transformers code does something else than the run."""
    if clean["rules"]:
        yield f"documents were also cleaned by {', '.join(clean['rules'])}"
    if encode["truncation"] != "head":
        yield f"long documents were cut otherwise (`{encode['truncation']}`, not their head kept)"
    if generate["profile"] != "huggingface":
        yield f"beams were ranked by the rules of {generate['profile']}"


def _limits(facts: Facts) -> str:
    has_intervals = facts.rouge["rows"] > 1
    limits = [
        "Measured against one reference a row only: whether summaries are faithful to their documents, or "
        "biased, was not examined.",
        f"Trained and measured on documents of at most {facts.settings('encode')['max_source_tokens']} "
        "tokens; the code above reads only the head of a longer one.",
        f"{percent(facts.metric('generate', 'share_stopped_by_length'))} % of the summaries were "
        "ended by the length limit.",
        "The figures are those of one training run with one seed"
        + ("; the intervals tell of other rows, not of other seeds." if has_intervals else "."),
        *facts.rouge["warnings"],
        *leak_words(facts),
    ]
    if facts.settings("fetch")["dataset"]["source"] == "demo":
        limits.insert(0, "The data are synthetic: the figures say nothing of real text.")
    return "\n".join(f"- {limit}" for limit in limits)


def _citation(facts: Facts) -> str:
    data = facts.metric("fetch", "citation")
    cited = [*([_R3F] if is_r3f(facts) else []), _BART, *([_plain(data)] if data else [])]
    return "\n".join(f"- {work}" for work in cited)
