"""What a reader should know before the figures: what was run, what is missing, what compares."""

from __future__ import annotations

import re

from pipeline.config import JSON
from stages.report.cost import training_cost
from stages.report.facts import Facts, published_l
from stages.report.outcome import is_stopped_early
from stages.report.wording import (
    ROUGE_LABELS,
    dataset_words,
    has_own_words,
    is_perl,
    is_r3f,
    listed,
    made_words,
    model_words,
    noise_words,
    published,
    roughly,
    several,
    updates_done,
    warm_start_words,
)

_PERL = (
    "Most papers use the Perl script ROUGE-1.5.5 (pyrouge, files2rouge), whose stemmer differs: its ROUGE-1 "
    "is typically about 0.3 higher (on XSum, for one system, 31.27 where rouge-score gives 30.94). A "
    "difference of that size from a paper says nothing."
)
_COMMIT = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{28}\b")
"""Shortened for people; the settings have it whole."""
_OTHER_WAY = (
    "Score with the profile rouge155 to compare with papers that used ROUGE-1.5.5: "
    "--set 'score.profiles=[rouge-score, rouge155]' --restart-from score."
)


def what_was_run(facts: Facts) -> str:
    """Tell the run in one paragraph; a stage that is not begun is not spoken of."""
    told = " ".join(filter(None, [_training(facts), _decoding(facts), _finished(facts)]))
    return _COMMIT.sub(r"\1", told)


def _training(facts: Facts) -> str:
    if not facts.settings("fetch"):
        return ""
    rows = facts.metric("clean", "rows_kept_train")
    parameters = facts.metric("finetune", "parameters") or facts.metric("export", "parameters")
    told = (
        f"Starting point: {model_words(facts)}"
        + (f"; {parameters:,} parameters" if parameters else "")
        + f". Data: {dataset_words(facts)}"
        + (f"; {several(rows, 'row')} to train on." if rows else ".")
    )
    config = facts.settings("finetune")
    if not config:
        return told
    r3f = config["r3f"]
    method = (
        f"with R3F (lambda {r3f['lambda']:g}, {noise_words(facts)})"
        if is_r3f(facts)
        else "without R3F"
    )
    devices = training_cost(facts).device_words
    on = f" on {devices}" if devices else ""
    made = f"{made_words(facts).capitalize()} for {_span(facts)}{warm_start_words(facts)}"
    return f"{told} {made}, {method}, in {config['precision']}{on}."


def _span(facts: Facts) -> str:
    done, epochs = updates_done(facts), facts.metric("finetune", "epochs")
    planned = facts.settings("finetune")["updates"]
    if "finetune" not in facts.inputs:
        return f"{done:,} of {planned:,} updates so far"
    early = f" of {planned:,}, stopped early" if is_stopped_early(facts) else ""
    seen = "" if epochs is None else f" ({roughly(epochs)} epochs)"
    return f"{done:,} updates{early}{seen}"


def _decoding(facts: Facts) -> str:
    config = facts.settings("generate")
    if not config:
        return ""
    beams = f"{config['num_beams']} beams" if config["num_beams"] > 1 else "greedy search"
    if facts.generated is None:
        return f"The {facts.split} split is to be summarised with {beams}."
    rows = several(facts.generated.tokens.size, "row")
    scored = f", and scored under the profile {facts.rouge['profile']}" if facts.rouge else ""
    return f"Summarised: {rows} of the {facts.split} split with {beams}{scored}."


def _finished(facts: Facts) -> str:
    if not facts.inputs:
        return ""
    times = [one.manifest.provenance.get("finished_utc", "") for one in facts.inputs.values()]
    return f"Last stage finished {max(times)[:16].replace('T', ' ')} UTC." if max(times) else ""


def missing(facts: Facts) -> list[str]:
    """Say what a whole report would have and this one has not; empty if nothing is missing."""
    return [*_unfinished(facts), *_unscored(facts), *_few(facts)]


def _unfinished(facts: Facts) -> list[str]:
    told = []
    if facts.undone:
        told.append(
            f"Not done yet: {listed(facts.undone)}. What they would tell is not on this page; "
            f"`sumpipe run RECIPE --run-dir {facts.run_dir}` goes on."
        )
    if facts.gone:
        told.append(
            f"Made, but no longer here: {listed(facts.gone)}. What they would tell is not on this page."
        )
    if facts.unreadable:
        told.append(
            f"{several(facts.unreadable, 'line')} of the training's logs that a kill has cut short "
            "told nothing: curves and cost are without them."
        )
    if "finetune" in facts.begun:
        of = facts.settings("finetune")["updates"]
        told.append(
            f"The training is not finished: records reach update {updates_done(facts):,} of {of:,}."
        )
    if "finetune" in facts.inputs and not any("valid/nll" in record for record in facts.curve):
        told.append("The training has no record of a validation.")
    return told


def _unscored(facts: Facts) -> list[str]:
    if not facts.rouge:
        return []
    told = []
    systems = facts.rouge["profiles"][facts.rouge["profile"]]["systems"]
    if len(systems) == 1:
        told.append("No baseline was scored, so nothing shows what the figures are worth.")
    if not facts.rouge.get("measures"):
        told.append("Nothing beside ROUGE was measured.")
    return told


def _few(facts: Facts) -> list[str]:
    told = []
    if facts.rouge and facts.rouge["rows"] == 1:
        told.append(
            "One row was scored: there are no intervals, and it says nothing of other rows."
        )
    if facts.generated is not None and facts.generated.empty and not facts.rouge:
        empty, count = facts.generated.empty, facts.generated.tokens.size
        told.append(f"Summaries without text: {empty:,} of {count:,}.")
    return told


def leak_words(facts: Facts) -> list[str]:
    """Say how many rows are like one of another split and were kept, and what of it; empty if none were.

    What touches the figures comes first. A row counts once, with the split that has what it is most like: it
    may be like a row of the third split too, which nothing tells.
    """
    found = sorted(facts.leaks.items(), key=lambda it: {*it[0]} != {"train", facts.split})
    return [
        f"{several(count, 'document')} of {split} {'is like one' if count == 1 else 'are like some'} of "
        f"{other} and stayed (clean.duplicates.on_leak report): {_harm({split, other}, facts.split)}."
        for (split, other), count in found
    ]


def _harm(splits: set[str], scored: str) -> str:
    seen = "may be of what training has seen"
    if splits == {"train", scored}:
        return f"the figures {seen}"
    if splits == {"valid", scored}:
        return "weights chosen by validation may suit these documents of those that are scored"
    if "train" not in splits:
        return "no figure here is of them"
    told = (
        f"the validation nll {seen}; so may the figures"
        if "valid" in splits
        else f"the figures {seen}"
    )
    return (
        f"{told} where such a document is like one of {scored} too (only the one that it is most like is "
        "counted)"
    )


def comparability(facts: Facts) -> list[str]:
    """Say with what the figures of the profiles compare, and with what not; for any reader."""
    profiles, headline = facts.rouge["profiles"], facts.rouge["profile"]
    names = [headline, *(name for name in profiles if name != headline)]
    told = []
    if len(names) > 1:
        told.append(f"Figures of different profiles ({listed(names)}) do not compare.")
    notes: dict[str, list[str]] = {}
    for name in names:
        for note in profile_notes(name, profiles[name]["settings"]):
            notes.setdefault(note, []).append(name)
    told += [
        note if those == names else f"{listed(those)}: {note}"
        for note, those in sorted(notes.items(), key=lambda it: it[1] == names)
    ]
    if facts.expected is None:
        return told
    if not any(published(facts, name) for name in names):
        told.append(
            f"A published result ({facts.expected.source}) is known and not shown: no profile that was "
            "scored compares with it."
        )
    else:
        told.append(
            "The published row is quoted, not measured here; with which program it was computed, this run "
            f"does not know.{_published_l(facts)}"
        )
        told += _not_as_published(facts)
    return told


def advice(facts: Facts) -> list[str]:
    """Say what the run's owner can do so that its figures compare with more."""
    profiles = facts.rouge["profiles"]
    told = []
    if not any(is_perl(name, one["settings"]) for name, one in profiles.items()):
        told.append(_OTHER_WAY)
    if facts.expected is None:
        told.append("No published result is given to compare with (report.expected in the recipe).")
    return told


def profile_notes(name: str, settings: JSON) -> list[str]:
    """Say what the figures of one profile compare with, by its words, stems and sentences."""
    told = []
    if is_perl(name, settings):
        told.append(
            "These figures compare with those of the Perl script ROUGE-1.5.5, which most papers use."
        )
    elif has_own_words(settings):
        told.append(
            "No figures of papers compare with these: words are told apart and stemmed neither as "
            "ROUGE-1.5.5 nor as rouge-score does."
        )
    else:
        told.append(_PERL)
    if settings.get("postprocess", "none") != "none":
        told.append(
            f"Predictions are changed before they are scored ({settings['postprocess']}): only figures made "
            "so compare."
        )
    told.append(
        f"ROUGE-Lsum compares only where sentences end in the same places (here: {settings['sentences']})."
    )
    return told


def _not_as_published(facts: Facts) -> list[str]:
    """Say where the rows that were scored are not those that a published figure is of."""
    told = []
    if facts.split != "test":
        told.append(
            f"These figures are of the {facts.split} split, published ones of the test split."
        )
    dataset = facts.settings("fetch").get("dataset", {})
    if dataset and dataset["source"] != "catalogue":
        told.append(
            f"The rows are of {dataset_words(facts)}: this run does not know whether the published row is "
            "of the same set."
        )
    elif dataset.get("split"):
        told.append(
            f"The set is cut as `{dataset['split']}`: figures of another cut do not compare."
        )
    if not facts.checks_rows:
        told.append(
            "How many rows the published set has was not asked for (fetch.dataset.check_rows false)."
        )
    fetched, scored = facts.metric("fetch", f"rows_{facts.split}"), facts.rouge["rows"]
    if fetched is not None and fetched != scored:
        told.append(
            f"{scored:,} of the {fetched:,} rows of the {facts.split} split were scored, published figures "
            "are of all."
        )
    return told


def _published_l(facts: Facts) -> str:
    kind = published_l(facts.expected)
    return f" Its ROUGE-L stands under {ROUGE_LABELS[kind]} here." if kind else ""
