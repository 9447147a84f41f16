"""Make a comparison of run directories, or folders of scores, as they lie on disk."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import JSON
from pipeline.errors import ConfigError
from stages.compare.agreement import (
    OF_DOCUMENTS,
    documents_differ,
    profile_settings,
    require_comparable,
    require_system,
)
from stages.compare.comparison import Comparison, Pair, Part, System
from stages.compare.lineage import differ_only_in_seed, lineage, settings_changed
from stages.compare.paired import Entrant, figures, method, pairs
from stages.compare.scored import MODEL, ROUGE, Scored, figures_of, predictions_of, read_scored
from stages.compare.spread import spreads
from stages.intervals import FEW_ROWS


def compare_folders(
    paths: Sequence[Path],
    *,
    systems: Sequence[str] = (),
    profile: str | None = None,
    part: Part = "fmeasure",
    moved_by: str = "rouge1",
    as_seeds: bool | None = None,
    seed: int = 1,
) -> Comparison:
    """Compare one system of several runs, or several systems of one run.

    Args:
        paths: Run directories, or folders that `sumpipe score --out` wrote; the first is compared with.
        systems: Which system of each run, the model by default; two or more are compared within one run.
        profile: Of ROUGE; None for the first run's headline.
        part: Precision, recall or F of ROUGE.
        moved_by: The metric by which rows are said to have moved.
        as_seeds: Show the spread over runs in place of pairs; None where the runs differ in their seed only.
        seed: Of bootstrap and permutations.

    Raises:
        ConfigError: If there are not two things to compare, or a folder has no scores.
        DataError: If a run is not scored yet, or scores are not of the same rows, references and profile.
        CorruptArtifact: If files are damaged.
    """
    _require_two(paths, systems)
    if as_seeds and len(paths) == 1:
        raise ConfigError(f"--seeds: {paths[0]} is one run; give the runs of all seeds")
    scored = [read_scored(path) for path in paths]
    _require_different(scored)
    chosen = systems or (MODEL,)
    entries = [(one, system) for one in scored for system in chosen]
    name = profile or scored[0].rouge["profile"]
    for one, system in entries:
        require_system(one, system)
        profile_settings(one, name)
    found = [figures_of(one, name, system, part) for one, system in entries]
    require_comparable([one for one, _ in entries], [ids for ids, _ in found], name, chosen[0])
    known = [one for one in scored if one.rouge["documents_sha256"] is not None]
    changed = next(filter(None, (documents_differ(known[0], one) for one in known)), "")
    if changed:
        found = [
            (ids, {metric: v for metric, v in columns.items() if metric not in OF_DOCUMENTS})
            for ids, columns in found
        ]
    entrants = [
        Entrant(
            one.name if len(scored) > 1 else system,
            *row_figures,
            lineage(one.run_dir) if one.run_dir else None,
            functools.partial(predictions_of, one, system),
        )
        for (one, system), row_figures in zip(entries, found, strict=True)
    ]
    shared = [name for name in entrants[0].columns if all(name in one.columns for one in entrants)]
    if moved_by not in shared:
        raise ConfigError(
            f"--by {moved_by}: is no metric of all these scores; choose among {', '.join(shared)}"
        )
    is_seeds = differ_only_in_seed([one.made for one in entrants])
    shows_seeds = is_seeds if as_seeds is None else as_seeds
    shown = [_system(one, seed) for one in entrants]
    compared = () if shows_seeds else pairs(entrants, moved_by, seed)
    notes = (
        _seed_notes(entrants, is_seeds=is_seeds) if shows_seeds else _pair_notes(compared, entrants)
    )
    return Comparison(
        profile=name,
        settings=profile_settings(scored[0], name),
        dataset=_dataset(scored[0].rouge.get("dataset")),
        split=scored[0].rouge.get("split"),
        rows=scored[0].rouge["rows"],
        part=part,
        systems=tuple(shown),
        pairs=compared,
        moved_by=moved_by,
        spreads=spreads(shown) if shows_seeds else (),
        method=method(seed),
        notes=(*_notes(entrants), *_data_notes(scored, name, changed), *notes),
    )


def _require_two(paths: Sequence[Path], systems: Sequence[str]) -> None:
    twice = [name for name in systems if systems.count(name) > 1]
    if twice:
        raise ConfigError(f"--system: {twice[0]} is given twice; name different systems")
    if len(paths) > 1 and len(systems) > 1:
        raise ConfigError(
            f"--system: got {len(systems)} systems of {len(paths)} runs; name one system of several runs, "
            "or several of one run"
        )
    if len(paths) == 1 and len(systems) < 2:
        raise ConfigError(
            f"{paths[0]}: is one run; give another to compare it with, or two of its systems, such as "
            "--system lead --system model"
        )


def _require_different(scored: Sequence[Scored]) -> None:
    seen: dict[Path, str] = {}
    for one in scored:
        place = one.files[ROUGE].resolve()
        if place in seen:
            raise ConfigError(
                f"{one.name}: is given twice (as {seen[place]} before); a run does not differ from itself"
            )
        seen[place] = one.name


def _dataset(told: str | JSON | None) -> str:
    if isinstance(told, dict):  # two bare files
        return str(told.get("references", "files"))
    return told or "unnamed"


def _system(entrant: Entrant, seed: int) -> System:
    made = entrant.made
    return System(entrant.name, made.seed if made else None, figures(entrant.columns, seed))


def _notes(entrants: Sequence[Entrant]) -> list[str]:
    rows = len(entrants[0].ids)
    gone = {one.name: one.made.gone for one in entrants if one.made is not None and one.made.gone}
    return [
        *["One row: neither an interval nor a test is possible."] * (rows == 1),
        *[
            f"{rows} rows are few: 95 % intervals of fewer than {FEW_ROWS} cover less often than that."
        ]
        * (1 < rows < FEW_ROWS),
        *(
            f"{name}: the settings of {', '.join(stages)} are not known, as what was scored is not there."
            for name, stages in gone.items()
        ),
    ]


def _data_notes(scored: Sequence[Scored], profile: str, changed: str) -> list[str]:
    versions = {
        str(one.rouge["profiles"][profile]["settings"].get("nltk", "none")): one for one in scored
    }
    notes = [
        f"{changed}, so {', '.join(OF_DOCUMENTS)} are left out; ROUGE does not read them."
    ] * bool(changed)
    if len(versions) > 1:
        told = ", ".join(f"{version} ({one.name})" for version, one in versions.items())
        notes.append(f"Stems and sentences are of several versions of nltk: {told}.")
    return notes


def _pair_notes(compared: Sequence[Pair], entrants: Sequence[Entrant]) -> list[str]:
    notes = []
    for pair, second in zip(compared, entrants[1:], strict=True):
        shown = {one.metric for one in pair.differences}
        metrics = dict.fromkeys([*entrants[0].columns, *second.columns])
        missing = [metric for metric in metrics if metric not in shown]
        if missing:
            notes.append(
                f"{', '.join(missing)}: not compared, as no row has a value in both {pair.first} and "
                f"{pair.second}."
            )
    if any(None in (row.first_text, row.second_text) for pair in compared for row in pair.moved):
        notes.append("Some texts are not shown: those of a run's model alone are kept.")
    return notes


def _seed_notes(entrants: Sequence[Entrant], *, is_seeds: bool) -> list[str]:
    told = (
        "These runs differ in their seed only: their spread is shown, no tests (--pairs gives those)."
        if is_seeds
        else "These runs are taken for seeds of one recipe, as asked for."
    )
    first, *others = entrants
    changed = dict.fromkeys(
        line for other in others for line in settings_changed(first.made, other.made)
    )
    return [
        told,
        *(f"But they differ in more: {line}." for line in changed),
        "max is chosen by the very scores that are shown, and grows with the number of runs; the median does "
        "neither. Papers report both, as best and median of n runs.",
    ]
