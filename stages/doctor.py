"""`sumpipe doctor`: what this project's recipes need beside a machine: room, rows, a model, nltk's data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import cast

from pipeline.artifact import RunDir
from pipeline.distributed.storage import tree_bytes
from pipeline.distributed.world import is_offline
from pipeline.doctor.command import doctor_command
from pipeline.doctor.examination import OwnCheck, OwnChecks, Subject
from pipeline.doctor.finding import Finding, failure, ok
from pipeline.doctor.room import judge_room, room_at
from pipeline.errors import ConfigError, DataError
from pipeline.planner import Action, Decision, current_inputs, plan
from pipeline.runner import HashCache
from pipeline.stage import ForecastContext, Stage, forecaster
from stages.fetch.config import FetchConfig
from stages.fetch.needs import hub_needs, local_needs
from stages.graph import STAGES
from stages.recipe import SummarizationRecipe

_HUB_SECONDS = 5.0
_OFFLINE = "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE"
_FETCH_ELSEWHERE = (
    "run `sumpipe run RECIPE --run-dir DIR --only fetch` where the Hub can be reached, same DIR"
)

Ask = Callable[[str, str, str], object]
"""Asks the Hub for a repository (`model` or `dataset`, its name, its revision); raises if it is not there."""


def scoring_data(subject: Subject) -> Iterator[Finding]:
    """Read a text as scoring will, by each profile: some need nltk's data or WordNet's lists."""
    recipe = cast(SummarizationRecipe | None, subject.recipe)
    if recipe is None:
        return
    from stages.score.profiles import reader  # nltk, which takes a second

    score = recipe.score
    for profile in score.profiles:
        try:
            reader(profile, score.sentences, score.wordnet)
        except DataError as error:
            _, text, fix = str(error).split(": ", 2)  # FIELD: what is missing: how to get it
            yield failure("scoring data", text, fix)
            return
    yield ok("scoring data", f"there is what score.profiles need: {', '.join(score.profiles)}")


def checks_of_run(subject: Subject) -> dict[str, OwnCheck]:
    """Return the checks of what a run of the recipe needs; they share one look at the state of the run."""
    look = functools.cache(lambda: _decisions(subject))
    return {
        "run": lambda _: run_state(subject, look()),
        "material": lambda _: material(subject, look()),
        "room": lambda _: room(subject, look()),
    }


def run_state(subject: Subject, decisions: Sequence[Decision]) -> Iterator[Finding]:
    """Judge what keeps a run from being begun or continued with these tasks."""
    if subject.recipe is None:
        return
    blocked = [item for item in decisions if item.action in (Action.STALE, Action.BLOCKED)]
    for decision in blocked[:1]:  # what is wrong with the others follows from it
        text = f"{decision.stage.name} is {decision.action.value}: {decision.reason}"
        yield failure("run", text, "see `sumpipe plan`; the recipe, or --restart-from, settles it")
    left = [item.stage for item in decisions if item.is_to_do] if decisions else STAGES
    faults = [*filter(None, (_refusal(stage, subject) for stage in left))]
    yield from faults
    if not blocked and not faults:
        count = subject.execution.processes
        yield ok("run", f"{len(left)} stage(s) to do; {count} process(es) can share the work")


def _refusal(stage: Stage, subject: Subject) -> Finding | None:
    assert subject.recipe is not None, "there is nothing to refuse"
    try:
        if stage.check is not None:
            stage.check(stage.config(subject.recipe), subject.execution)
    except (ConfigError, DataError) as error:
        text, _, fix = str(error).partition(": ")
        return failure("run", f"{stage.name}: {text}", fix)
    return None


def material(subject: Subject, decisions: Sequence[Decision]) -> Iterator[Finding]:
    """Judge the rows and the model."""
    if subject.recipe is None:
        return
    fetch = cast(SummarizationRecipe, subject.recipe).fetch
    is_done = any(item.stage.name == "fetch" and item.action is Action.SKIP for item in decisions)
    damage = _damage(subject) if is_done else []
    yield from judge_material(fetch, damage, is_done, is_offline(), ask_hub)


def room(subject: Subject, decisions: Sequence[Decision]) -> Iterator[Finding]:
    """Judge the room for checkpoints."""
    if subject.run_dir is not None:
        yield judge_room(room_at(subject.run_dir), bytes_to_come(subject, decisions))


def _damage(subject: Subject) -> list[str]:
    assert subject.run_dir is not None, "fetch is done in it"
    artifact = RunDir(subject.run_dir).artifact("fetch")
    return [] if artifact is None else artifact.faults(deep=False)


def judge_material(
    fetch: FetchConfig, damage: Sequence[str], is_done: bool, is_offline: bool, ask: Ask
) -> Iterator[Finding]:
    """Judge what fetch needs.

    Args:
        fetch: The recipe's section.
        damage: Faults of the committed artifact.
        is_done: Whether there is one that is current.
        is_offline: Whether the Hub is not to be asked.
        ask: Asks it.
    """
    if is_done:
        if damage:
            yield failure("material", damage[0], "make it again with --restart-from fetch")
        else:
            yield ok("material", "fetch is done: rows and model are in the run directory")
        return
    try:
        wanted = hub_needs(fetch)
    except (DataError, ConfigError) as error:  # the catalogue
        yield failure("material", str(error), "see stages/fetch/catalogue.yaml")
        return
    try:
        local_needs(fetch)
    except DataError as error:
        yield failure("material", str(error), "make those files readable on this host")
    else:
        if not wanted:
            yield ok("material", "no network is needed: rows and model are local, or made")
    for kind, name, revision in wanted:
        what = f"{kind} {name} at {revision}"
        if is_offline:
            text = f"{what} is not in the run directory, and {_OFFLINE} forbids to fetch it"
            yield failure("material", text, _FETCH_ELSEWHERE)
            continue
        try:
            ask(kind, name, revision)
        except Exception as error:  # noqa: BLE001 - the client's errors have no base of their own
            reason = str(error).strip().partition("\n")[0]
            text = f"{what}: the Hub does not give it ({type(error).__name__}: {reason})"
            yield failure("material", text, f"check name and revision, or {_FETCH_ELSEWHERE}")
        else:
            yield ok("material", f"{what}: the Hub has it")


def ask_hub(kind: str, name: str, revision: str) -> object:
    """Ask for a repository; a few hundred bytes."""
    from huggingface_hub import HfApi

    return HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=_HUB_SECONDS)


def bytes_to_come(subject: Subject, decisions: Sequence[Decision]) -> int | None:
    """Return the bytes of checkpoints that are not written yet; None if that is not known."""
    if subject.recipe is None or subject.run_dir is None:
        return None
    place = RunDir(subject.run_dir)
    stage = next(stage for stage in STAGES if stage.name == "finetune")
    if any(item.stage is stage and item.action is Action.SKIP for item in decisions):
        return 0
    assert stage.forecast is not None, "fine-tuning has a forecast"
    settings = subject.recipe.model_dump(mode="json", by_alias=True)
    inputs = current_inputs(stage, decisions, place)
    context = ForecastContext(inputs, settings, subject.recipe.seed, subject.execution)
    finetune = cast(SummarizationRecipe, subject.recipe).finetune
    details = forecaster(stage.forecast)(finetune, context).details
    total: int | None = details.get("checkpoints_bytes_with_one_partial")
    return None if total is None else max(total - tree_bytes(place.partial(stage.name)), 0)


def _decisions(subject: Subject) -> list[Decision]:
    if subject.recipe is None or subject.run_dir is None:
        return []
    place = RunDir(subject.run_dir)
    try:
        return plan(STAGES, subject.recipe, place, HashCache(place.hash_cache))
    except DataError:  # a local source that is not there, which `judge_material` tells
        return []


OWN = OwnChecks(
    everywhere={"scoring data": scoring_data},
    once=checks_of_run,
)
add_doctor = doctor_command(SummarizationRecipe, OWN)
