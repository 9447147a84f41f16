"""Whether scores may be compared at all: one profile, one split, the same rows and references."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config import JSON, diff
from pipeline.errors import DataError
from stages.compare.scored import Scored

OF_DOCUMENTS = (
    *("novel_1gram", "novel_2gram", "novel_3gram", "novel_4gram"),
    *("coverage", "density", "compression"),
)
"""Metrics that read documents; ROUGE does not."""
OF_BERTSCORE = ("bertscore_precision", "bertscore_recall", "bertscore_f")
OF_PREDICTIONS = ("length_ratio", *OF_DOCUMENTS, "repetition", *OF_BERTSCORE)
"""Metrics of predictions as the headline profile post-processes them."""
_COMPARED = ("algorithm", "rules", "sentences", "punkt_sha256", "wordnet_sha256")
"""Settings of a profile that have to be equal; its others are words for people, or do not change figures."""
_BERTSCORE_WORDS = ("model", "transformers")
"""Settings of BERTScore that are told: the model's files have a sha256, whatever their folder is called."""
_MADE_OF_DOCUMENTS = ("lead", "oracle")
_DRAWN = "random_training_summary"
_SHOWN = 3
_ADVICE = "score both by the same profile, on the same rows of the same data"


def profile_settings(scored: Scored, profile: str) -> JSON:
    """Return what the figures of a profile depend on, and what people are told of it; without the draws.

    Raises:
        DataError: If these scores are not of this profile, or by a version that did not say its rules.
    """
    profiles = scored.rouge["profiles"]
    if profile not in profiles:
        raise DataError(
            f"{scored.name}: has no scores by profile {profile!r}, only by {', '.join(profiles)}; choose "
            f"another --profile, or add {profile} to score.profiles and score it again"
        )
    settings: JSON = profiles[profile]["settings"]
    if "rules" not in settings:
        raise DataError(
            f"{scored.name}: profile {profile}: was scored by another version, which did not say its rules; "
            "score it again"
        )
    return {name: value for name, value in settings.items() if name not in ("interval", "nltk")}


def _compared(scored: Scored, profile: str) -> JSON:
    settings = profile_settings(scored, profile)
    return {name: settings[name] for name in _COMPARED if name in settings}


def require_system(scored: Scored, system: str) -> None:
    """Raise DataError if a system was not scored."""
    systems = scored.rouge["systems"]
    if system not in systems:
        raise DataError(
            f"{scored.name}: has no system {system!r}; choose a --system among {', '.join(systems)}"
        )


def require_comparable(
    scored: Sequence[Scored], ids: Sequence[Sequence[str]], profile: str, system: str
) -> None:
    """Raise unless all scores are of the same references and rows, by the same profile; in any order.

    Args:
        scored: The first is what the others are held against.
        ids: Of the rows of each.
        profile: Its name.
        system: What is compared, where there are several runs; a baseline has to be the same one.

    Raises:
        DataError: With all that differs, and how.
    """
    first, *others = scored
    for other, other_ids in zip(others, ids[1:], strict=True):
        reasons = [
            *_split(first, other),
            *_rows(ids[0], other_ids),
            *_references(first, other, same_rows={*ids[0]} == {*other_ids}),
            *(
                f"profile {profile}: {line}"
                for line in diff(_compared(first, profile), _compared(other, profile))
            ),
            *_system(first, other, system, is_same_order=[*ids[0]] == [*other_ids]),
        ]
        if reasons:
            lines = [f"{other.name} cannot be compared with {first.name}:", *reasons, _ADVICE]
            raise DataError("\n  ".join(lines))


def _split(first: Scored, other: Scored) -> list[str]:
    one, two = first.rouge.get("split"), other.rouge.get("split")
    if one is None or two is None or one == two:  # bare files are of no split
        return []
    return [f"split: {one} -> {two}"]


def _rows(first: Sequence[str], other: Sequence[str]) -> list[str]:
    gone, new = sorted({*first} - {*other}), sorted({*other} - {*first})
    if not gone and not new:
        return []
    told = [
        f"{len(ids):,} only in the {place} ({_shown(ids)})"
        for ids, place in ((gone, "first"), (new, "second"))
        if ids
    ]
    return [f"ids: {'; '.join(told)}"]


def _shown(ids: Sequence[str]) -> str:
    return ", ".join([*ids[:_SHOWN], "..."] if len(ids) > _SHOWN else ids)


def _references(first: Scored, other: Scored, *, same_rows: bool) -> list[str]:
    one, two = (scored.rouge["references_sha256"] for scored in (first, other))
    if one == two or not same_rows:  # other rows have other references
        return []
    return [f"references: the texts differ (sha256 {one[:12]} -> {two[:12]})"]


def _documents_differ(first: Scored, other: Scored) -> str:
    """Say that documents differ, empty if they do not, or if one of both had none."""
    one, two = (scored.rouge["documents_sha256"] for scored in (first, other))
    if one is None or two is None or one == two:
        return ""
    return f"documents: the texts differ (sha256 {one[:12]} -> {two[:12]})"


def left_out(scored: Sequence[Scored]) -> dict[str, tuple[str, ...]]:
    """Return the metrics that are not comparable though ROUGE is, by the reason in words."""
    found: dict[str, tuple[str, ...]] = {}
    with_documents = [one for one in scored if one.rouge["documents_sha256"] is not None]
    differ = [_documents_differ(with_documents[0], other) for other in with_documents[1:]]
    if reason := next(filter(None, differ), ""):
        found[reason] = OF_DOCUMENTS
    with_bertscore = [one.rouge["bertscore"] for one in scored if one.rouge.get("bertscore")]
    changes = [diff(_bertscore(with_bertscore[0]), _bertscore(one)) for one in with_bertscore[1:]]
    if lines := next(filter(None, changes), []):
        found[f"BERTScore: {'; '.join(lines)}"] = OF_BERTSCORE
    first, *others = [_postprocess(one) for one in scored]
    for other in others:
        if other != first:
            reason = (
                f"What is measured is post-processed by the headline profile ({first} -> {other})"
            )
            found[reason] = OF_PREDICTIONS
            break
    return found


def _postprocess(scored: Scored) -> str:
    headline = profile_settings(scored, scored.rouge["profile"])
    return str(headline["rules"]["postprocess"])


def _bertscore(settings: JSON) -> JSON:
    return {name: value for name, value in settings.items() if name not in _BERTSCORE_WORDS}


def _system(first: Scored, other: Scored, system: str, *, is_same_order: bool) -> list[str]:
    """Say whether a baseline is another one by the same name."""
    reasons = [
        f"system {system}: {line}"
        for line in diff(first.rouge["systems"][system], other.rouge["systems"][system])
    ]
    says = "texts_sha256" in first.rouge["systems"][system]
    if system == _DRAWN and not says and other is not first:
        reasons.append(
            f"system {system}: scored by another version, which did not say what was drawn"
        )
    if system in _MADE_OF_DOCUMENTS and (differ := _documents_differ(first, other)):
        reasons.append(f"{differ}, of which {system} is made")
    headlines = [scored.rouge["profile"] for scored in (first, other)]
    if system == "oracle" and headlines[0] != headlines[1]:
        reasons.append(f"oracle: chosen by profile {headlines[0]} -> {headlines[1]}")
    if system == "model_against_another_reference" and not is_same_order:
        reasons.append("order of the rows: another row's reference is that of the next one")
    return reasons
