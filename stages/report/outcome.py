"""How a training ended, and which of its weights the figures are of."""

from __future__ import annotations

from stages.report.curve import points
from stages.report.facts import Facts
from stages.report.wording import listed, several, updates_done


def is_stopped_early(facts: Facts) -> bool:
    """Whether a finished training ended before the last of its updates."""
    return bool(facts.metric("finetune", "stopped_early"))


def weights_words(facts: Facts) -> str:
    """Return which weights were exported, and so scored; empty if none were yet."""
    found = facts.metric("export", "updates")
    if found is None:
        return ""
    updates = [f"{int(update):,}" for update in str(found).split()]
    kind = facts.settings("finetune")["selection"]["weights"]
    if kind == "average" and len(updates) > 1:
        return f"the average of those after updates {listed(updates)}"
    which = "best by validation nll" if kind == "best" else "last"
    return f"the {which}, after update {updates[0]}"


def weights_in_short(facts: Facts) -> str:
    """Return the same for a small place: `best, update 600`."""
    kind = facts.settings("finetune")["selection"]["weights"]
    update = str(facts.metric("export", "updates")).split()[0]
    return f"{kind if kind == 'best' else 'last'} weights, update {int(update):,}"


def weights_nll(facts: Facts) -> float | None:
    """Return the validation nll of the exported weights, nats per token; None if it was not measured."""
    recorded: float | None = facts.metric("finetune", "chosen_nll_nats_per_token")
    updates = str(facts.metric("export", "updates") or "").split()
    if recorded is None and len(updates) == 1:  # of a run from before it was recorded
        measured = dict(points(facts.curve, "valid/nll"))
        return measured.get(int(updates[0]))
    return recorded


def outcome(facts: Facts) -> list[str]:
    """Tell what is particular of a training's end, and which weights were taken; a sentence each."""
    if "finetune" not in facts.inputs:
        return list(left_out(facts))
    told = []
    config = facts.settings("finetune")
    if is_stopped_early(facts):
        told.append(
            f"Stopped early, after {updates_done(facts):,} of {config['updates']:,} updates: "
            f"{several(config['selection']['patience'], 'candidate')} in a row brought no better "
            "validation nll (finetune.selection.patience)."
        )
    told += left_out(facts)
    if words := weights_words(facts):
        nll = weights_nll(facts)
        measured = (
            f"validation nll {nll:.4f} nats per token" if nll is not None else _unmeasured(facts)
        )
        told.append(f"Weights exported and scored: {words}; {measured}.")
    return told


def _unmeasured(facts: Facts) -> str:
    is_average = facts.settings("finetune")["selection"]["weights"] == "average"
    return "their own validation nll was not " + ("measured" if is_average else "recorded")


def left_out(facts: Facts) -> list[str]:
    """Tell of updates that were not applied, as far as records go."""
    recorded = facts.curve[-1].get("skipped") if facts.curve else None
    skipped = facts.metric("finetune", "skipped_updates") or recorded
    overflowed = facts.metric("finetune", "overflowed_updates")
    told = []
    if skipped:
        told.append(
            f"Skipped, as their loss or gradient was not finite: {several(skipped, 'update')}."
        )
    if overflowed:
        told.append(
            f"Dropped by loss scaling, as they overflowed fp16: {several(overflowed, 'update')}."
        )
    return told
