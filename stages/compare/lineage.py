"""What recipe a run's scores come from, read from what its stages committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.artifact import RunDir
from pipeline.config import JSON, diff

_SCORED = "score"


@dataclass(frozen=True, slots=True)
class Lineage:
    """The settings that made a run's summaries."""

    settings: JSON
    """Stage by stage, version and configuration, seeds left out; without score, whose profile says it."""
    seeds: frozenset[int]
    """Of its stages: one, but for runs that were put together."""
    gone: tuple[str, ...]
    """Stages that are not there any more as they were, so that their settings are not known."""

    @property
    def seed(self) -> int | None:
        """The seed, if there is one."""
        return next(iter(self.seeds)) if len(self.seeds) == 1 else None


def lineage(run_dir: RunDir) -> Lineage:
    """Follow a scored run's inputs back to the first stage, as far as their artifacts are still those."""
    settings: JSON = {}
    seeds: set[int] = set()
    gone: set[str] = set()
    waiting: dict[str, str | None] = {_SCORED: None}
    while waiting:
        stage, wanted = waiting.popitem()
        artifact = run_dir.artifact(stage)
        if artifact is None or wanted not in (None, artifact.manifest.fingerprint):
            gone.add(stage)
            continue
        payload = artifact.manifest.payload
        config = dict(payload.get("config", {}))
        seeds |= {
            seed for seed in (payload.get("seed"), config.pop("seed", None)) if seed is not None
        }
        if stage != _SCORED:
            settings[stage] = {"version": payload.get("version"), **config}
        for name, fingerprint in payload.get("inputs", {}).items():
            if name not in settings:
                waiting[name] = fingerprint
    return Lineage(settings, frozenset(seeds), tuple(sorted(gone)))


def settings_changed(first: Lineage | None, second: Lineage | None) -> tuple[str, ...]:
    """Say how the settings of two runs differ, seeds apart, as far as both are known."""
    if first is None or second is None:
        return ()
    known = first.settings.keys() & second.settings.keys()
    one, two = ({name: made.settings[name] for name in known} for made in (first, second))
    return tuple(diff(one, two))


def differ_only_in_seed(lineages: Sequence[Lineage | None]) -> bool:
    """Whether runs are of one recipe, each with a seed of its own, as far as all of that is known."""
    known = [one for one in lineages if one is not None and not one.gone and one.seed is not None]
    return (
        len(known) == len(lineages)
        and all(one.settings == known[0].settings for one in known)
        and len({one.seed for one in known}) == len(known)
    )
