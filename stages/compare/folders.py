"""Make a comparison of run directories, or folders of scores, as they lie on disk."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Container, Sequence
from pathlib import Path

from pipeline.config import JSON
from pipeline.errors import ConfigError
from stages.compare.agreement import (
    left_out,
    profile_settings,
    require_comparable,
    require_system,
)
from stages.compare.comparison import Comparison, Part, System
from stages.compare.lineage import differ_only_in_seed, lineage
from stages.compare.notes import (
    few_notes,
    left_out_notes,
    pair_notes,
    row_notes,
    score_notes,
    seed_notes,
    version_notes,
)
from stages.compare.paired import Entrant, figures, method, pairs
from stages.compare.scored import (
    ROUGE,
    Columns,
    Scored,
    figures_of,
    predictions_of,
    read_scored,
)
from stages.compare.spread import spreads
from stages.rouge_json import MODEL


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
        seed: Of the draws of differences, and of permutations; a system's own interval is that of its scores.

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
    gone = left_out(scored)
    entrants = _entrants(entries, found, {*itertools.chain.from_iterable(gone.values())})
    _require_metric(moved_by, entrants)
    is_seeds = differ_only_in_seed([one.made for one in entrants])
    shows_seeds = is_seeds if as_seeds is None else as_seeds
    shown = [
        _system(entrant, one.rouge["profiles"][name]["settings"]["interval"]["seed"])
        for (one, _), entrant in zip(entries, entrants, strict=True)
    ]
    compared = () if shows_seeds else pairs(entrants, moved_by, seed)
    notes = (
        seed_notes(entrants, is_seeds=is_seeds) if shows_seeds else pair_notes(compared, entrants)
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
        notes=(
            *row_notes(entrants),
            *few_notes(shown, compared),
            *left_out_notes(gone),
            *version_notes(scored, name),
            *notes,
            *score_notes(scored),
        ),
    )


def _entrants(
    entries: Sequence[tuple[Scored, str]],
    found: Sequence[tuple[list[str], Columns]],
    gone: Container[str],
) -> list[Entrant]:
    """Return who takes part: named by folder, or by system where all are of one."""
    is_one = len({id(one) for one, _ in entries}) == 1
    return [
        Entrant(
            system if is_one else one.name,
            ids,
            {metric: values for metric, values in columns.items() if metric not in gone},
            lineage(one.run_dir) if one.run_dir else None,
            functools.partial(predictions_of, one, system),
        )
        for (one, system), (ids, columns) in zip(entries, found, strict=True)
    ]


def _require_metric(name: str, entrants: Sequence[Entrant]) -> None:
    shared = [one for one in entrants[0].columns if all(one in it.columns for it in entrants)]
    if name not in shared:
        raise ConfigError(
            f"--by {name}: is no metric of all these scores; choose among {', '.join(shared)}"
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
