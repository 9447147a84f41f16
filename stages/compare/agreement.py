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
_MADE_OF_DOCUMENTS = ("lead", "oracle")
_SHOWN = 3
_ADVICE = "score both by the same profile, on the same rows of the same data"


def profile_settings(scored: Scored, profile: str) -> JSON:
    """Return what the figures of a profile depend on.

    How intervals were drawn is no part of it, nor nltk's version: the data that it brings has a sha256.

    Raises:
        DataError: If these scores are not of this profile.
    """
    profiles = scored.rouge["profiles"]
    if profile not in profiles:
        raise DataError(
            f"{scored.name}: has no scores by profile {profile!r}, only by {', '.join(profiles)}; choose "
            f"another --profile, or add {profile} to score.profiles and score it again"
        )
    settings: JSON = profiles[profile]["settings"]
    return {name: value for name, value in settings.items() if name not in ("interval", "nltk")}


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
                for line in diff(profile_settings(first, profile), profile_settings(other, profile))
            ),
            *_bertscore(first, other),
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
        f"{len(ids):,} only in the {place} ({', '.join(ids[:_SHOWN])}{', ...' * (len(ids) > _SHOWN)})"
        for ids, place in ((gone, "first"), (new, "second"))
        if ids
    ]
    return [f"ids: {'; '.join(told)}"]


def _references(first: Scored, other: Scored, *, same_rows: bool) -> list[str]:
    one, two = (scored.rouge["references_sha256"] for scored in (first, other))
    if one == two or not same_rows:  # other rows have other references
        return []
    return [f"references: the texts differ (sha256 {one[:12]} -> {two[:12]})"]


def documents_differ(first: Scored, other: Scored) -> str:
    """Say that documents differ, empty if they do not, or if one of both had none."""
    one, two = (scored.rouge["documents_sha256"] for scored in (first, other))
    if one is None or two is None or one == two:
        return ""
    return f"documents: the texts differ (sha256 {one[:12]} -> {two[:12]})"


def _system(first: Scored, other: Scored, system: str, *, is_same_order: bool) -> list[str]:
    """Say whether a baseline is another one by the same name."""
    reasons = [
        f"system {system}: {line}"
        for line in diff(first.rouge["systems"][system], other.rouge["systems"][system])
    ]
    if system in _MADE_OF_DOCUMENTS and (differ := documents_differ(first, other)):
        reasons.append(f"{differ}, of which {system} is made")
    headlines = [scored.rouge["profile"] for scored in (first, other)]
    if system == "oracle" and headlines[0] != headlines[1]:
        reasons.append(f"oracle: chosen by profile {headlines[0]} -> {headlines[1]}")
    if system == "model_against_another_reference" and not is_same_order:
        reasons.append("order of the rows: another row's reference is that of the next one")
    return reasons


def _bertscore(first: Scored, other: Scored) -> list[str]:
    one, two = first.rouge.get("bertscore"), other.rouge.get("bertscore")
    if one is None or two is None:  # then it is not compared
        return []
    return [f"bertscore: {line}" for line in diff(one, two)]
