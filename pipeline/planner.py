"""What would run, and why: a pure look at the recipe and at what is committed; writes nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pipeline.artifact import Artifact, RunDir
from pipeline.cache import Cache, content_of, lineage_of
from pipeline.config import JSON, diff, fingerprint, load_yaml, validate
from pipeline.errors import ConfigError, CorruptArtifact, DataError
from pipeline.files import read_json
from pipeline.stage import HashFile, Recipe, Stage

ASKED = "asked for anew"
INPUT_STALE = "stale input "
UNCOMPARED = "done; not compared with its source"


class Action(StrEnum):
    """What is to be done with a stage."""

    SKIP = "SKIP"
    RUN = "RUN"
    RESUME = "RESUME"
    STALE = "STALE"
    BLOCKED = "BLOCKED"


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done with one stage, why, and what its output would be identified by."""

    stage: Stage
    action: Action
    reason: str
    payload: JSON

    @property
    def is_to_do(self) -> bool:
        """Whether a run would carry the stage out."""
        return self.action in (Action.RUN, Action.RESUME)

    @property
    def fingerprint(self) -> str:
        """The fingerprint that the finished stage will carry."""
        return fingerprint(self.payload)


def select(stages: Sequence[Stage], first: str | None, last: str | None) -> tuple[Stage, ...]:
    """Return the stages from `first` to `last`, both included.

    Raises:
        ConfigError: For an unknown name or an empty range.
    """
    names = [stage.name for stage in stages]
    for name in (first, last):
        if name is not None and name not in names:
            raise ConfigError(f"unknown stage {name!r}; the stages are {', '.join(names)}")
    start = names.index(first) if first else 0
    end = names.index(last) if last else len(names) - 1
    if start > end:
        raise ConfigError(f"nothing to do: {first} comes after {last}")
    return tuple(stages[start : end + 1])


def plan(
    stages: Sequence[Stage],
    recipe: Recipe,
    run_dir: RunDir,
    hash_file: HashFile,
    selected: Sequence[Stage] | None = None,
    redo: Sequence[str] = (),
    cache: Cache | None = None,
) -> list[Decision]:
    """Decide for each selected stage, in order.

    One that is not selected is told of only if it is STALE: the recipe is that of the whole run directory,
    and its work must not stand beside a recipe that it was not made with.

    Args:
        stages: The whole graph in an order that respects inputs.
        recipe: The resolved recipe.
        run_dir: Where the stages are, or will be.
        hash_file: Hashes outside files named by the recipe.
        selected: The stages in question; all if None.
        redo: Stages to be treated as if nothing of them existed.
        cache: Where other runs' artifacts may be.
    """
    wanted = {stage.name for stage in (stages if selected is None else selected)}
    decisions: dict[str, Decision] = {}
    for stage in stages:
        inputs = {name: decisions[name].fingerprint for name in stage.inputs}
        is_asked = stage.name in redo
        try:
            payload = stage.payload(recipe, inputs, hash_file)
        except DataError as error:
            artifact = None if is_asked else run_dir.artifact(stage.name)
            if artifact is None or not run_dir.recipe.is_file():
                raise
            old, new = _payloads_of_settings(stage, recipe, inputs, artifact, run_dir)
            if old == new:
                reason, action = f"{UNCOMPARED}, which is gone ({error})", Action.SKIP
                new = artifact.manifest.payload
            else:
                reason = f"{_changes(stage, old, new, decisions)} (its source is gone: {error})"
                action = Action.STALE
            decisions[stage.name] = Decision(stage, action, reason, new)
            continue
        action, reason = _state(stage, payload, run_dir, decisions, absent=is_asked)
        decisions[stage.name] = Decision(stage, action, reason, payload)
    _spare_unneeded(stages, decisions, wanted)
    for stage in stages:
        _check_inputs(stage, decisions, wanted)
        if cache is not None:
            _look_into_cache(stage, decisions, run_dir, cache)
    return [
        item for name, item in decisions.items() if name in wanted or item.action is Action.STALE
    ]


def current_inputs(
    stage: Stage, decisions: Sequence[Decision], run_dir: RunDir
) -> dict[str, Artifact]:
    """Return the stage's inputs that are committed and would be used as they are."""
    done = {item.stage.name: item for item in decisions if item.action is Action.SKIP}
    found = {name: run_dir.artifact(name) for name in stage.inputs if name in done}
    return {
        name: artifact
        for name, artifact in found.items()
        if artifact is not None and artifact.manifest.fingerprint == done[name].fingerprint
    }


def _state(
    stage: Stage, payload: JSON, run_dir: RunDir, upstream: dict[str, Decision], *, absent: bool
) -> tuple[Action, str]:
    if absent:
        return Action.RUN, ASKED
    artifact = run_dir.artifact(stage.name)
    if artifact is not None:
        if artifact.manifest.fingerprint == fingerprint(payload):
            return Action.SKIP, "done"
        return Action.STALE, _changes(stage, artifact.manifest.payload, payload, upstream)
    partial = run_dir.partial_payload(stage.name)
    if partial is None:
        return Action.RUN, "not done yet"
    if fingerprint(partial) != fingerprint(payload):
        changes = _changes(stage, partial, payload, upstream)
        return Action.STALE, f"partial work from other settings: {changes}"
    return Action.RESUME, _progress(run_dir, stage)


def _payloads_of_settings(
    stage: Stage, recipe: Recipe, inputs: JSON, artifact: Artifact, run_dir: RunDir
) -> tuple[JSON, JSON]:
    """Return what a finished stage was made with and what is asked for, outside files by path, not content.

    The former's settings are those of recipe.yaml: it is written only if nothing finished stands against it.
    """

    def settings(given: Recipe) -> JSON:
        plain = json.dumps(stage.config(given).identity(), default=str)
        return {"config": json.loads(plain), "seed": given.seed}

    recorded = validate(type(recipe), load_yaml(run_dir.recipe), str(run_dir.recipe))
    committed = artifact.manifest.payload
    asked = {**committed, "version": stage.version, "inputs": inputs}
    return {**committed, **settings(recorded)}, {**asked, **settings(recipe)}


def _changes(stage: Stage, old: JSON, new: JSON, upstream: dict[str, Decision]) -> str:
    """Say what differs, an input by its own reason, so that the root cause is seen everywhere."""
    lines = []
    for line in diff(old, new):
        if line.startswith("inputs."):
            name = line.removeprefix("inputs.").split()[0]
            source = upstream.get(name)
            is_stale = source is not None and source.action is Action.STALE
            lines.append(source.reason if source and is_stale else f"input {name} is made anew")
        elif line.startswith("config."):
            lines.append(f"{stage.name}.{line.removeprefix('config.')}")
        else:
            lines.append(line)
    return "; ".join(dict.fromkeys(lines))


def _progress(run_dir: RunDir, stage: Stage) -> str:
    path = run_dir.progress(stage.name)
    if not path.is_file():
        return "partial work found"
    try:
        state = read_json(path)
        return f"partial work found ({state['unit']} {state['done']}/{state['total']})"
    except (CorruptArtifact, KeyError, TypeError):  # only a display
        return f"partial work found ({path} is unreadable)"


def _spare_unneeded(
    stages: Sequence[Stage], decisions: dict[str, Decision], wanted: set[str]
) -> None:
    """Skip a missing stage whose every wanted reader is done: a deleted intermediate is not rebuilt."""
    for stage in reversed(stages):
        decision = decisions[stage.name]
        readers = [
            other.name for other in stages if stage.name in other.inputs and other.name in wanted
        ]
        if decision.action is not Action.RUN or not readers or decision.reason == ASKED:
            continue
        if all(decisions[name].action is Action.SKIP for name in readers):
            reason = "not there, and nothing that is left to do reads it"
            decisions[stage.name] = Decision(stage, Action.SKIP, reason, decision.payload)


def _look_into_cache(
    stage: Stage, decisions: dict[str, Decision], run_dir: RunDir, cache: Cache
) -> None:
    decision = decisions[stage.name]
    if stage.cached and decision.is_to_do:
        payloads = {name: item.payload for name, item in decisions.items()}
        done = {
            name: run_dir.artifact(name)
            for name, item in decisions.items()
            if item.action is Action.SKIP
        }
        contents = {name: content_of(artifact) for name, artifact in done.items() if artifact}
        lineage = lineage_of(stage.name, payloads, contents)
        told = cache.explain(stage.name, lineage, decision.fingerprint)
        reason = f"{decision.reason}; {told}"
        decisions[stage.name] = dataclasses.replace(decision, reason=reason)


def _check_inputs(stage: Stage, decisions: dict[str, Decision], wanted: set[str]) -> None:
    """Turn a stage that cannot start into STALE or BLOCKED."""
    decision = decisions[stage.name]
    if decision.action is Action.SKIP or stage.name not in wanted:
        return
    for name in stage.inputs:
        upstream = decisions[name].action
        if upstream is Action.STALE and decision.action is not Action.STALE:
            reason = f"{INPUT_STALE}{name}: {decisions[name].reason}"
            decisions[stage.name] = Decision(stage, Action.BLOCKED, reason, decision.payload)
            return
        if upstream is not Action.SKIP and name not in wanted:
            reason = f"needs {name}, which is not done"
            decisions[stage.name] = Decision(stage, Action.BLOCKED, reason, decision.payload)
            return
